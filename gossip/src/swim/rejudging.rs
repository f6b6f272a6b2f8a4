//! Trust changed: everything that was judged by the former bundle is judged again, a step at a time.
//!
//! A document whose signer is in no bundle any more, or has lost the role, leaves with all its force, and what it had
//! replaced counts again (security.md, 10). A member whose certificates end at no root of the bundle loses its records.
//! Revocations stay: a removed key undoes none of them (security.md, 9).
//!
//! The removal of a key takes effect after the comparisons that are open, because they may bring what was signed anew.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use starling_model::{Digest, NodeName};

use super::documents::{operator_claim, reason};
use super::{Phase, Swim};
use crate::action::{Action, DocumentsEvent, Event, OperatorClaim, Ticket, Verdict};
use crate::anti_entropy::Purpose;
use crate::broadcasts::Subject;
use crate::documents::SignedDocument;
use crate::limits::{REJUDGED_PER_STEP, WAITING_TIME_MAX};
use crate::timers::Timer;

/// Time between two steps, and between two looks at open comparisons.
const STEP: Duration = Duration::from_millis(100);
/// Open comparisons put it off for this long at most: as one follows another, they would put it off for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// One thing to be judged again.
#[derive(Clone, Debug)]
enum Word {
    Document(Digest),
    Owner(NodeName),
}

/// What is judged again.
#[derive(Debug, Default)]
pub(super) struct Rejudging {
    /// Verdicts on questions up to this one are by a former bundle.
    since: Option<Ticket>,
    /// When it begins in any case.
    latest: Option<Instant>,
    queue: VecDeque<Word>,
    asked: BTreeMap<Ticket, (Digest, Instant)>,
}

impl Rejudging {
    /// True for a question that was asked before trust changed.
    pub(super) fn predates(&self, ticket: Ticket) -> bool {
        self.since.is_some_and(|since| ticket <= since)
    }
}

impl Swim {
    /// The bundle in force is another one.
    pub(super) fn trust_changed(&mut self, now: Instant) {
        let documents = self.operators.documents.all_hashes().map(Word::Document);
        let owners = self.members.iter().map(|(name, _)| Word::Owner(name.clone()));
        let queue = documents.chain(owners).collect();
        self.operators.rejudging = Rejudging {
            since: Some(Ticket(self.next_ticket)),
            latest: Some(now + PATIENCE),
            queue,
            asked: BTreeMap::new(),
        };
        // What counted for nothing may count now, and who differed may agree.
        self.operators.refused.clear();
        self.operators.compared.clear();
        self.timers.set(Timer::Rejudging, now);
    }

    /// The next step.
    pub(super) fn rejudge(&mut self, now: Instant) {
        if self.phase == Phase::Left {
            return;
        }
        let open = self.exchanges.values().any(|one| matches!(one.purpose, Purpose::Sync(_)) && !one.closed);
        let waits = open && self.operators.rejudging.latest.is_some_and(|latest| now < latest);
        if !waits {
            self.operators.rejudging.latest = None;
            self.ask_unanswered(now);
            for _ in 0..REJUDGED_PER_STEP {
                let Some(word) = self.operators.rejudging.queue.pop_front() else { break };
                match word {
                    Word::Document(hash) => self.ask_again(hash, now),
                    Word::Owner(name) => self.judge_credentials_anew(&name, now),
                }
            }
        }
        let rejudging = &self.operators.rejudging;
        if !rejudging.queue.is_empty() || !rejudging.asked.is_empty() {
            self.timers.set(Timer::Rejudging, now + STEP);
        }
    }

    fn ask_again(&mut self, hash: Digest, now: Instant) {
        let Some(document) = self.operators.documents.get(&hash) else { return };
        let claim = operator_claim(OperatorClaim::Document, document.version.signer, &document.envelope);
        let ticket = self.ticket();
        self.operators.rejudging.asked.insert(ticket, (hash, now));
        self.act(Action::Verify { ticket, claim });
    }

    /// Verdicts that did not come are asked for once more.
    fn ask_unanswered(&mut self, now: Instant) {
        let rejudging = &mut self.operators.rejudging;
        let late = |since: &Instant| now.saturating_duration_since(*since) > WAITING_TIME_MAX;
        let lost = rejudging.asked.values().filter(|(_, since)| late(since)).map(|(hash, _)| Word::Document(*hash));
        rejudging.queue.extend(lost);
        rejudging.asked.retain(|_, (_, since)| !late(since));
    }

    /// A verdict on something that is held; false when the ticket is none of these.
    pub(super) fn rejudged(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) -> bool {
        let Some((hash, _)) = self.operators.rejudging.asked.remove(&ticket) else { return false };
        if verdict == Verdict::Valid {
            return true;
        }
        self.stats.drop(reason(verdict));
        let before = self.operators.root();
        let Some((document, was_used, changes)) = self.operators.documents.void(&hash) else { return true };
        self.root_moved(before, now);
        self.operators.refuse(hash.0, now);
        self.broadcasts.remove(&Subject::Document(hash.0));
        let ended = changes.ended.clone();
        self.tell_changes(changes);
        self.tell_voided(&document, was_used);
        ended.iter().for_each(|document| self.tell_voided(document, true));
        true
    }

    /// Is any credential of this member held?
    #[cfg(test)]
    pub(super) fn knows_credentials_of(&self, name: &NodeName) -> bool {
        self.credentials.knows(name)
    }

    fn tell_voided(&mut self, document: &SignedDocument, was_used: bool) {
        if self.operators.documents.is_settled() {
            let document = document.view();
            self.emit(Event::Documents(DocumentsEvent::Voided { document, was_used }));
        }
    }
}
