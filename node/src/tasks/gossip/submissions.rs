//! What operators signed and somebody handed in here: from the asker to the machine, and its fate back, with what it is
//! worth on disk.

use std::collections::BTreeMap;

use bytes::Bytes;
use starling_gossip::{Command, SubmitId, Submitted};
use tokio::sync::oneshot;

use super::persist::Flushed;
use crate::store::Durability;

/// What an operator signed, as signed forms with their signatures.
#[derive(Clone, Debug)]
pub enum Submission {
    /// Documents of one `apply`.
    Documents(Vec<Bytes>),
    /// A revocation of a node.
    Revocation(Bytes),
}

/// The fate of a submission.
#[derive(Clone, Debug)]
pub struct SubmissionFate {
    /// Taken or refused.
    pub outcome: Submitted,
    /// What was taken survives a crash, or not (ST0716).
    pub durability: Durability,
}

/// Those that wait for their fate. Bounded by the machine, which answers each, and by the queue of commands.
#[derive(Debug, Default)]
pub(super) struct Submissions {
    last: u64,
    waiting: BTreeMap<SubmitId, (Submission, oneshot::Sender<SubmissionFate>)>,
}

impl Submissions {
    /// The command that hands it to the machine.
    pub(super) fn begin(&mut self, what: Submission, reply: oneshot::Sender<SubmissionFate>) -> Command {
        self.last += 1;
        let submit = SubmitId(self.last);
        let command = match what.clone() {
            Submission::Documents(documents) => Command::SubmitDocuments { submit, documents },
            Submission::Revocation(revocation) => Command::SubmitRevocation { submit, revocation },
        };
        self.waiting.insert(submit, (what, reply));
        command
    }

    /// What was handed in, while its fate is open.
    pub(super) fn what(&self, submit: SubmitId) -> Option<&Submission> {
        self.waiting.get(&submit).map(|(what, _)| what)
    }

    /// Tells the asker; `flushed` is what became of this turn's writes.
    pub(super) fn end(&mut self, submit: SubmitId, outcome: Submitted, flushed: Flushed) {
        if let Some((what, reply)) = self.waiting.remove(&submit) {
            let durability = match what {
                Submission::Documents(_) => flushed.store,
                Submission::Revocation(_) => flushed.revocations,
            };
            // Who asked may have gone.
            let _ = reply.send(SubmissionFate { outcome, durability });
        }
    }
}
