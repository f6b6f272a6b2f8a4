//! What the driver does about trust: bundles and certificates that come, from peers, operators and whoever was asked, and
//! the moment in which they are in force.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::{BundleCommand, BundleEvent, Command, Swim};
use starling_identity::chain::{Fork, Merged, Question, UpdateRefused};
use starling_identity::{CertificateList, TrustView};
use starling_model::NodeName;
use starling_transport::quic::{DialError, DialTag};
use tracing::{info, warn};

use super::bundles::Heard;
use super::catching_up::Answered;
use super::{World, rulings};
use crate::store::Durability;

/// How long a bundle waits for its lists. Without them a node is taken for an outsider whose new certificate is in one, and
/// what others said under the old root counts for nothing; a root that is to go must not stay for want of them.
const LISTS_PATIENCE: Duration = Duration::from_secs(10);

impl World {
    /// A peer has another trust bundle, asks for ours, or brings updates.
    pub(super) fn bundle_event(&mut self, swim: &mut Swim, event: BundleEvent, now: Instant) {
        if let BundleEvent::Updates { peer, .. } = &event
            && let Some((_, address)) = self.context.net.peers().into_iter().find(|(name, _)| name == peer)
        {
            self.catching_up.told_by(address);
        }
        let heard = self.trust.hears(event);
        self.heard(swim, heard, now);
    }

    fn heard(&mut self, swim: &mut Swim, heard: Heard, now: Instant) {
        match heard {
            Heard::Nothing => {}
            Heard::Say(command) => swim.handle_command(Command::Bundle(command), now),
            Heard::Judged(whom, Ok(merged)) => {
                self.bundle_merged(swim, &format!("brought by {whom}"), &merged, now);
            }
            Heard::Judged(whom, Err(refused)) => {
                let code = refused.code();
                if self.trust.may_warn(now) {
                    warn!(peer = %whom, %refused, %code, "updates of the trust bundle are refused");
                }
            }
            Heard::Certificates => {
                self.trust_moved(swim, "with its lists", now);
            }
        }
    }

    /// An operator hands in an update.
    pub(super) fn bundle_handed_in(
        &mut self,
        swim: &mut Swim,
        file: &Bytes,
        now: Instant,
    ) -> Result<(Merged, Durability), UpdateRefused> {
        let merged = self.trust.take(file)?;
        let durability = self.bundle_merged(swim, "handed in here", &merged, now);
        Ok((merged, durability))
    }

    /// An operator hands in a list.
    pub(super) fn list_handed_in(&mut self, swim: &mut Swim, list: CertificateList, now: Instant) {
        self.trust.take_list(list);
        self.trust_moved(swim, "with its lists", now);
    }

    /// The answer to a question of ours.
    pub(super) fn trust_answered(&mut self, swim: &mut Swim, answered: &Answered, now: Instant) {
        let before = (self.trust.head(), self.trust.lacking().len());
        let mut moved = false;
        if let Ok(answer) = &answered.answer {
            if matches!(answered.question, Question::Updates(_)) {
                self.catching_up.told_by(answered.by);
            }
            let heard = self.trust.answered(&answered.question, answer, answered.by);
            moved = matches!(heard, Heard::Certificates);
            self.heard(swim, heard, now);
        }
        moved |= before != (self.trust.head(), self.trust.lacking().len());
        self.catching_up.answered(answered.turn, moved, now);
    }

    /// Updates were judged.
    fn bundle_merged(&mut self, swim: &mut Swim, whence: &str, merged: &Merged, now: Instant) -> Durability {
        match merged {
            Merged::Known | Merged::Extended => {}
            Merged::Kept(fork) if self.trust.may_warn(now) => self.tell_fork(fork),
            Merged::Kept(_) => {}
            Merged::Switched(fork) => self.tell_fork(fork),
        }
        self.trust_moved(swim, whence, now)
    }

    /// The chain or its lists may be others than before: a bundle that is new is in force from the next handshake on, once
    /// its lists are there.
    fn trust_moved(&mut self, swim: &mut Swim, whence: &str, now: Instant) -> Durability {
        let identity = &self.context.identity;
        // A root's signature that a known update got counts in forks, and changes nothing that is in force.
        let other = self.trust.head().hash != self.in_force;
        let complete = self.trust.lacking().is_empty();
        if other && !complete && !self.catching_up.waited(LISTS_PATIENCE, now) {
            self.context.net.set_trust_answers(self.trust.answers());
            return self.store_trust();
        }
        self.catching_up.has_lists();
        self.trust.keep_own(&identity.node.issuing_key_hash());
        if other {
            self.trust.settle();
        }
        let view = self.trust.view();
        // What peers say ever again must not set all workers to judge their connections anew.
        if other || !Arc::ptr_eq(view.certificates(), identity.current.trust().certificates()) {
            self.believe(swim, view, other, whence, now);
        }
        self.context.net.set_trust_answers(self.trust.answers());
        self.store_trust()
    }

    /// This is in force from the next handshake on; `other` where it is another bundle, not only more lists.
    fn believe(&mut self, swim: &mut Swim, view: TrustView, other: bool, whence: &str, now: Instant) {
        let identity = &self.context.identity;
        let sequence = view.bundle().sequence;
        if other {
            let lacking = self.trust.lacking().len();
            info!(sequence, lacking, "another trust bundle is in force, {whence}: what was judged is judged again");
            self.news.record(rulings::of_bundle(&self.me(), view.bundle(), whence));
        }
        if identity.believe(view, &self.context.own) {
            let root = starling_model::mesh::hex(&identity.node.root_short());
            info!(sequence, root, "this node shows another certificate of its key");
        }
        if other {
            let closed = self.context.net.sweep();
            if closed > 0 {
                info!(closed, "connections whose peers showed what leads to no root any more are closed");
            }
            let head = self.trust.head();
            self.in_force = head.hash;
            swim.handle_command(Command::Bundle(BundleCommand::InForce(head)), now);
        }
    }

    /// A write that failed before is tried again with each word about bundles.
    fn store_trust(&mut self) -> Durability {
        tokio::task::block_in_place(|| self.trust.flush())
    }

    /// Asks somebody, when we lack something or are refused.
    pub(super) fn catch_up(&mut self, swim: &mut Swim, now: Instant) {
        if self.trust.head().hash != self.in_force && self.catching_up.waited(LISTS_PATIENCE, now) {
            self.trust_moved(swim, "without its lists", now);
        }
        let lacks_lists = !self.trust.lacking().is_empty();
        while let Some(turn) = self.catching_up.due(lacks_lists, now) {
            let peers: Vec<_> = self.context.net.peers().into_iter().map(|(_, address)| address).collect();
            self.catching_up.ask(turn, &self.context, &self.trust, peers, now);
        }
    }

    /// A dial that failed because one of two certificates is believed no more says that one of the two missed something.
    pub(super) fn note_refusal(
        &mut self,
        swim: &Swim,
        tag: &DialTag,
        expected: Option<&NodeName>,
        reason: &DialError,
        now: Instant,
    ) {
        let distrusts = match reason {
            DialError::PeerCertificate(refusal) => refusal.reason == "not-chained",
            DialError::OurCertificate(_) => true,
            DialError::Timeout
            | DialError::Unreachable(_)
            | DialError::OtherProtocol
            | DialError::OtherMesh(_)
            | DialError::NoCommonVersion { .. }
            | DialError::OurOwnName(_)
            | DialError::Handshake(_)
            | DialError::Closed(_)
            | DialError::NotDialled(_) => false,
        };
        if !distrusts {
            return;
        }
        let mut addresses = expected.map(|expected| swim.addresses_of(expected)).unwrap_or_default();
        addresses.extend(self.seeds.of(tag).map(|seed| self.catching_up.addresses_of(&seed)).unwrap_or_default());
        self.catching_up.refused(addresses, now);
    }

    fn tell_fork(&self, fork: &Fork) {
        warn!(%fork, code = %fork.code(), "two operators signed updates of the trust bundle side by side");
        self.news.record(rulings::of_fork(&self.me(), fork));
    }
}
