//! Answers the membership machine's questions about signatures: it knows no keys, this file does.
//!
//! Signing is one Ed25519 operation (about 20 us) and is answered within the turn. Judging may be thousands of
//! certificate chains after a join, so it runs on a thread of its own with a bounded queue; answers come back as inputs
//! of a later turn.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use starling_gossip::{ClaimKind, OperatorClaim, Signature, SignedClaim, Statement, Ticket, Verdict, Void};
use starling_identity::{
    CurrentIdentity, NodeIdentity, OperatorRefused, OperatorStatement, SignatureKind, UnixTime, verify_credential,
    verify_ed25519, verify_operator,
};
use tokio::sync::mpsc;
use tracing::debug;

use crate::telemetry::time::unix_seconds;

/// Questions that may wait: as many as the machine keeps in its own waiting room.
pub const QUESTIONS_MAX: usize = 4_096;

/// The wall clock as identity wants it: the one place where the agent reads it for certificates.
#[must_use]
pub fn wall_clock() -> UnixTime {
    UnixTime(unix_seconds())
}

fn signature_kind(kind: ClaimKind) -> SignatureKind {
    match kind {
        ClaimKind::Life => SignatureKind::Life,
        ClaimKind::Record => SignatureKind::Record,
    }
}

/// Signs one of our own statements.
#[must_use]
pub fn sign(identity: &NodeIdentity, statement: &Statement) -> Signature {
    Signature(identity.sign(signature_kind(statement.kind), &statement.body))
}

/// Judges one claim under the trust in use now.
#[must_use]
pub fn judge(claim: &SignedClaim, current: &CurrentIdentity, now: UnixTime) -> Verdict {
    let trust = current.trust();
    match claim {
        SignedClaim::Credential { owner, bytes } => match verify_credential(bytes, owner, &trust, now) {
            Ok(verified) => Verdict::Credential { record_key: verified.record_key, epoch: verified.epoch },
            Err(refused) => {
                debug!(member = %owner, error = %refused, "credential refused");
                Verdict::Refused
            }
        },
        SignedClaim::Owned { owner, record_key, kind, body, signature } => {
            let mesh = &trust.bundle().mesh_id;
            if verify_ed25519(signature_kind(*kind), mesh, record_key, body, signature) {
                Verdict::Valid
            } else {
                debug!(member = %owner, "signature refused");
                Verdict::Refused
            }
        }
        SignedClaim::Operator { kind, signer, body, signature } => {
            match verify_operator(operator_statement(*kind), *signer, body, signature, trust.bundle()) {
                Ok(_) => Verdict::Valid,
                Err(refused) => {
                    debug!(key_id = %signer, error = %refused, "operator's statement refused");
                    Verdict::Void(void(&refused))
                }
            }
        }
    }
}

fn operator_statement(kind: OperatorClaim) -> OperatorStatement {
    match kind {
        OperatorClaim::Document => OperatorStatement::Document,
        OperatorClaim::Revocation => OperatorStatement::Revocation,
    }
}

fn void(refused: &OperatorRefused) -> Void {
    match refused {
        OperatorRefused::UnknownKey(_) => Void::UnknownKey,
        OperatorRefused::Role { .. } => Void::Role,
        OperatorRefused::BadSignature(_) => Void::BadSignature,
    }
}

/// The judging thread's entrance. It ends when this is dropped.
#[derive(Debug)]
pub struct Judge {
    questions: SyncSender<(Ticket, SignedClaim)>,
    dropped: u64,
}

impl Judge {
    /// Starts the thread. Verdicts arrive on the receiver.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(current: CurrentIdentity) -> std::io::Result<(Self, mpsc::Receiver<(Ticket, Verdict)>)> {
        let (questions, inbox) = sync_channel(QUESTIONS_MAX);
        let (answers, verdicts) = mpsc::channel(QUESTIONS_MAX);
        thread::Builder::new().name("starling-judge".to_owned()).spawn(move || run(&inbox, &answers, &current))?;
        Ok((Self { questions, dropped: 0 }, verdicts))
    }

    /// Puts one question; a full queue drops it and counts (the machine's own limit keeps that from happening).
    pub fn ask(&mut self, ticket: Ticket, claim: SignedClaim) {
        if self.questions.try_send((ticket, claim)).is_err() {
            self.dropped += 1;
        }
    }

    /// Questions dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn run(inbox: &Receiver<(Ticket, SignedClaim)>, answers: &mpsc::Sender<(Ticket, Verdict)>, current: &CurrentIdentity) {
    while let Ok((ticket, claim)) = inbox.recv() {
        // A chain that makes a parser panic must not end the judge: refused, and the next one.
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(&claim, current, wall_clock())));
        if answers.blocking_send((ticket, judged.unwrap_or(Verdict::Refused))).is_err() {
            return;
        }
    }
}

/// The identity that signs, shared by tasks.
pub type Signer = Arc<NodeIdentity>;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use starling_model::NodeName;

    use super::*;

    #[test]
    fn one_question_more_than_may_wait_is_dropped_and_counted() {
        // A judge whose thread never comes to it.
        let (questions, _inbox) = sync_channel(QUESTIONS_MAX);
        let mut judge = Judge { questions, dropped: 0 };
        let claim = SignedClaim::Credential { owner: NodeName::new("vm-1").unwrap(), bytes: Bytes::new() };
        let last = QUESTIONS_MAX as u64;
        (0..last).for_each(|n| judge.ask(Ticket(n), claim.clone()));
        assert_eq!(judge.dropped(), 0);
        judge.ask(Ticket(last), claim);
        assert_eq!(judge.dropped(), 1);
    }
}
