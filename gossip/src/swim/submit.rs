//! What is submitted here: judged whole, kept whole, and only then told; or refused with all its problems at once.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use starling_model::{Batch, DocumentKey, DocumentVersion};

use super::documents::{Origin, operator_claim};
use super::{Phase, Swim};
use crate::action::{
    Action, Event, OperatorClaim, SignedClaim, SubmitId, SubmitProblem, SubmitRefused, Submitted, Ticket, Verdict, Void,
};
use crate::documents::{SignedDocument, Unfit};
use crate::limits::{SUBMISSIONS_MAX, WAITING_TIME_MAX};
use crate::trust::SignedRevocation;

/// One thing that was handed in.
#[derive(Clone, Debug)]
enum Piece {
    Document(SignedDocument),
    Revocation(SignedRevocation),
}

/// A submission that waits for verdicts.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    /// What of it could be read, by its place.
    pieces: Vec<(usize, Piece)>,
    problems: Vec<SubmitProblem>,
    /// Verdicts that are missing.
    waiting: BTreeSet<usize>,
    since: Instant,
}

impl Piece {
    fn key(&self) -> Option<DocumentKey> {
        match self {
            Self::Document(document) => Some(document.key().clone()),
            Self::Revocation(_) => None,
        }
    }

    fn claim(&self) -> SignedClaim {
        match self {
            Self::Document(document) => {
                operator_claim(OperatorClaim::Document, document.version.signer, &document.envelope)
            }
            Self::Revocation(revocation) => {
                operator_claim(OperatorClaim::Revocation, revocation.said.signer, &revocation.envelope)
            }
        }
    }
}

impl Swim {
    /// Documents of one `apply`.
    pub(super) fn submit_documents(&mut self, submit: SubmitId, documents: &[Bytes], now: Instant) {
        let (mut pieces, mut problems) = (Vec::new(), Vec::new());
        for (index, envelope) in documents.iter().enumerate() {
            match SignedDocument::read(envelope) {
                Ok(document) => pieces.push((index, Piece::Document(document))),
                Err(invalid) => problems.push(SubmitProblem { index, key: None, why: SubmitRefused::Invalid(invalid) }),
            }
        }
        problems.extend(strays(&pieces, documents.len()));
        self.begin_submission(submit, pieces, problems, now);
    }

    /// A revocation that was handed in here.
    pub(super) fn submit_revocation(&mut self, submit: SubmitId, revocation: &Bytes, now: Instant) {
        match SignedRevocation::read(revocation) {
            Ok(revocation) => self.begin_submission(submit, vec![(0, Piece::Revocation(revocation))], Vec::new(), now),
            Err(invalid) => {
                let problem = SubmitProblem { index: 0, key: None, why: SubmitRefused::Invalid(invalid) };
                self.begin_submission(submit, Vec::new(), vec![problem], now);
            }
        }
    }

    fn begin_submission(
        &mut self,
        submit: SubmitId,
        pieces: Vec<(usize, Piece)>,
        mut problems: Vec<SubmitProblem>,
        now: Instant,
    ) {
        let ready = self.phase == Phase::Joined && self.operators.documents.is_settled();
        let full = self.operators.submissions.len() >= SUBMISSIONS_MAX;
        if full || !ready || self.operators.submissions.contains_key(&submit) {
            let why = if full { SubmitRefused::Full } else { SubmitRefused::Unjudged };
            problems.extend(pieces.iter().map(|(index, piece)| SubmitProblem {
                index: *index,
                key: piece.key(),
                why: why.clone(),
            }));
            return self.refuse_submission(submit, problems);
        }
        let waiting = pieces.iter().map(|(index, _)| *index).collect();
        for (index, piece) in &pieces {
            let ticket = self.ticket();
            self.operators.judging.insert(ticket, (submit, *index));
            self.act(Action::Verify { ticket, claim: piece.claim() });
        }
        self.operators.submissions.insert(submit, Submission { pieces, problems, waiting, since: now });
        self.conclude(submit, now);
    }

    /// A verdict on something submitted; false when the ticket is none of these.
    pub(super) fn submission_judged(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) -> bool {
        let Some((submit, index)) = self.operators.judging.remove(&ticket) else { return false };
        if let Some(submission) = self.operators.submissions.get_mut(&submit) {
            submission.waiting.remove(&index);
            let void = match verdict {
                Verdict::Valid => None,
                Verdict::Void(void) => Some(void),
                Verdict::Refused | Verdict::Credential { .. } => Some(Void::BadSignature),
            };
            if let Some(void) = void {
                submission.blame(index, SubmitRefused::Void(void));
            }
            self.conclude(submit, now);
        }
        true
    }

    /// Ends a submission once all verdicts are in.
    fn conclude(&mut self, submit: SubmitId, now: Instant) {
        let judged = self.operators.submissions.get(&submit).is_some_and(|submission| submission.waiting.is_empty());
        if !judged {
            return;
        }
        let Some(submission) = self.operators.submissions.remove(&submit) else { return };
        let mut problems = submission.problems;
        for (index, piece) in &submission.pieces {
            // One problem of each is enough, and a void one says nothing of generations.
            if !problems.iter().any(|problem| problem.index == *index) {
                let why = self.outdated(piece);
                problems.extend(why.map(|why| SubmitProblem { index: *index, key: piece.key(), why }));
            }
        }
        if !problems.is_empty() {
            return self.refuse_submission(submit, problems);
        }
        let mut versions = Vec::new();
        for (index, piece) in submission.pieces {
            let key = piece.key();
            let version = match &piece {
                Piece::Document(document) => Some(document.version),
                Piece::Revocation(_) => None,
            };
            let result = match piece {
                Piece::Document(document) => self.hold_document(document, Origin::Submitted, now),
                Piece::Revocation(revocation) => self.hold_revocation(revocation, Origin::Submitted, now),
            };
            match result {
                // A repeated `apply` of the very same bytes succeeds.
                Ok(()) | Err(Unfit::Held) => versions.extend(version),
                Err(Unfit::Stale | Unfit::Full) => {
                    problems.push(SubmitProblem { index, key, why: SubmitRefused::Full });
                }
            }
        }
        if !problems.is_empty() {
            return self.refuse_submission(submit, problems);
        }
        self.emit(Event::Submitted { submit, outcome: Submitted::Accepted { versions } });
    }

    /// What is known that stands against it.
    fn outdated(&self, piece: &Piece) -> Option<SubmitRefused> {
        match piece {
            Piece::Document(document) => {
                let held = self.operators.documents.newest(document.key());
                let rival = |held: &DocumentVersion| held.hash != document.version.hash;
                match held.filter(rival) {
                    Some(held) if held.generation > document.version.generation => Some(SubmitRefused::Stale { held }),
                    Some(held) if held.generation == document.version.generation => {
                        Some(SubmitRefused::Conflict { held })
                    }
                    Some(_) | None => match self.operators.documents.admits(document) {
                        Ok(()) | Err(Unfit::Held) => None,
                        Err(Unfit::Stale | Unfit::Full) => Some(SubmitRefused::Full),
                    },
                }
            }
            Piece::Revocation(revocation) => match self.operators.trust.admits(revocation) {
                Ok(()) | Err(Unfit::Held) => None,
                Err(Unfit::Full) => Some(SubmitRefused::Full),
                Err(Unfit::Stale) => {
                    let held = self.operators.trust.number(&revocation.said.node).unwrap_or_default();
                    Some(SubmitRefused::Superseded { held })
                }
            },
        }
    }

    fn refuse_submission(&mut self, submit: SubmitId, mut problems: Vec<SubmitProblem>) {
        problems.sort_by_key(|problem| problem.index);
        self.emit(Event::Submitted { submit, outcome: Submitted::Refused { problems } });
    }

    /// Verdicts that do not come, and submissions of who is leaving.
    pub(super) fn sweep_submissions(&mut self, now: Instant) {
        let leaving = self.phase != Phase::Joined;
        let late =
            |submission: &Submission| leaving || now.saturating_duration_since(submission.since) > WAITING_TIME_MAX;
        let gone: Vec<SubmitId> = self
            .operators
            .submissions
            .iter()
            .filter(|(_, submission)| late(submission))
            .map(|(submit, _)| *submit)
            .collect();
        for submit in gone {
            self.operators.judging.retain(|_, (of, _)| *of != submit);
            let Some(mut submission) = self.operators.submissions.remove(&submit) else { continue };
            for index in std::mem::take(&mut submission.waiting) {
                submission.blame(index, SubmitRefused::Unjudged);
            }
            self.refuse_submission(submit, submission.problems);
        }
    }
}

impl Submission {
    fn blame(&mut self, index: usize, why: SubmitRefused) {
        let key = self.pieces.iter().find(|(at, _)| *at == index).and_then(|(_, piece)| piece.key());
        self.problems.push(SubmitProblem { index, key, why });
    }
}

/// More than one document must be one whole batch: every document of it once, and nothing besides.
fn strays(pieces: &[(usize, Piece)], handed_in: usize) -> Vec<SubmitProblem> {
    let stray = |index: usize, key| SubmitProblem { index, key, why: SubmitRefused::NotOneBatch };
    if handed_in == 0 {
        return vec![stray(0, None)];
    }
    let batch_of = |piece: &Piece| match piece {
        Piece::Document(document) => document.head.batch,
        Piece::Revocation(_) => None,
    };
    let first: Option<Batch> = pieces.first().and_then(|(_, piece)| batch_of(piece));
    let mut keys = BTreeSet::new();
    let fits = |piece: &Piece, fresh: bool| match batch_of(piece) {
        None => handed_in == 1,
        batch => fresh && batch == first && batch.is_some_and(|batch| usize::from(batch.count.get()) == handed_in),
    };
    pieces
        .iter()
        .filter_map(|(index, piece)| {
            let fresh = keys.insert(piece.key());
            (!fits(piece, fresh)).then(|| stray(*index, piece.key()))
        })
        .collect()
}
