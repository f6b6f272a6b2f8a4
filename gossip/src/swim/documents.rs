//! Documents and revocations: what was submitted here, what peers have, and what follows from either.

use std::time::Instant;

use bytes::Bytes;

use super::Swim;
use crate::action::{Event, SubmitId, SubmitProblem, SubmitRefused, Submitted};

impl Swim {
    /// Documents of one `apply`.
    pub(super) fn submit_documents(&mut self, submit: SubmitId, documents: &[Bytes], _now: Instant) {
        let problem = |(index, _)| SubmitProblem { index, key: None, why: SubmitRefused::Unjudged };
        let problems = documents.iter().enumerate().map(problem).collect();
        self.emit(Event::Submitted { submit, outcome: Submitted::Refused { problems } });
    }

    /// A revocation that was handed in here.
    pub(super) fn submit_revocation(&mut self, submit: SubmitId, _revocation: &Bytes, _now: Instant) {
        let problems = vec![SubmitProblem { index: 0, key: None, why: SubmitRefused::Unjudged }];
        self.emit(Event::Submitted { submit, outcome: Submitted::Refused { problems } });
    }
}
