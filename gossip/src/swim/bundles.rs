//! Trust bundles, as far as the machine carries them: everybody's documents root holds the bundle in force, who takes a new
//! one tells all its links, each comparison of operators' words begins with the bundles of both sides, and who lacks the
//! other's bundle asks for what leads to it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_model::NodeName;

use super::sync::Key;
use super::{Phase, Swim};
use crate::action::{Event, ExchangeId};
use crate::anti_entropy::Purpose;
use crate::bundles::{BundleCommand, BundleEvent, BundleHead};
use crate::hash;
use crate::limits::{UPDATES_ASKED_MAX, UPDATES_BYTES_MAX, UPDATES_REQUEST_BYTES_MAX};
use crate::stats::Drop;
use crate::wire::Message;

/// A peer's bundles are looked at this often at most.
const HEAD_PAUSE: Duration = Duration::from_secs(1);
/// One that we did not take is looked at again after this long: it may win when more is known.
const SAME_HEAD_PAUSE: Duration = Duration::from_secs(10);
/// A peer is answered this often at most: half of [`HEAD_PAUSE`], so that who asks as often as we do is never refused.
const ANSWER_PAUSE: Duration = Duration::from_millis(500);

/// The bundle in force, and what was said about others.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    head: Option<BundleHead>,
    /// The bundles that peers told last and that are not ours.
    differing: BTreeMap<NodeName, (BundleHead, Instant)>,
    /// When peers were answered last.
    answered: BTreeMap<NodeName, Instant>,
}

impl Bundles {
    /// What the bundle adds to the documents root.
    pub(super) fn root(&self) -> u64 {
        self.head.map_or(0, |head| hash::head(&[b"bundle", &head.hash]))
    }

    /// What peers are told of the bundle.
    pub(super) fn message(&self) -> Option<Message> {
        self.head.map(Message::Bundle)
    }

    /// The link with this peer is gone.
    pub(super) fn forget(&mut self, peer: &NodeName) {
        self.differing.remove(peer);
        self.answered.remove(peer);
    }

    /// Is this news about the peer, or long enough ago?
    fn looks_at(&mut self, peer: &NodeName, head: BundleHead, now: Instant) -> bool {
        let told = self.differing.get(peer);
        let soon = told.is_some_and(|(told, at)| {
            now.saturating_duration_since(*at) < if *told == head { SAME_HEAD_PAUSE } else { HEAD_PAUSE }
        });
        let full = told.is_none() && self.differing.len() >= UPDATES_ASKED_MAX;
        if !soon && !full {
            self.differing.insert(peer.clone(), (head, now));
        }
        !soon && !full
    }
}

impl Swim {
    pub(super) fn bundle_command(&mut self, command: BundleCommand, now: Instant) {
        match command {
            BundleCommand::InForce(head) => self.bundle_in_force(head, now),
            BundleCommand::Ask { peer, request } => {
                if request.len() > UPDATES_REQUEST_BYTES_MAX {
                    return self.stats.drop(Drop::OwnTooLarge);
                }
                if !self.fetch_message(&peer, Message::WantUpdates(request), now) {
                    // No stream could be had: what the peer tells next is looked at again.
                    self.operators.bundles.differing.remove(&peer);
                }
            }
            BundleCommand::Answer { peer, exchange, updates } => {
                let fits = updates.len() <= UPDATES_BYTES_MAX && self.links.is_up(&peer);
                let answer = if fits { vec![Message::Updates(updates)] } else { Vec::new() };
                self.send_sync(&peer, exchange, &answer, true);
            }
        }
    }

    fn bundle_in_force(&mut self, head: BundleHead, now: Instant) {
        let before = self.operators.root();
        if self.operators.bundles.head.replace(head) == Some(head) {
            return;
        }
        self.operators.bundles.differing.clear();
        if self.phase != Phase::Joined {
            return;
        }
        self.root_moved(before, now);
        self.trust_changed(now);
        let word: Vec<Message> = self.operators.bundles.message().into_iter().collect();
        for peer in self.listeners(now).iter() {
            self.send(peer, &word);
        }
    }

    /// A peer told which bundle it uses.
    pub(super) fn on_bundle(&mut self, from: &NodeName, head: BundleHead, now: Instant) {
        let ours = self.operators.bundles.head;
        if ours.is_none_or(|ours| ours == head) {
            self.operators.bundles.differing.remove(from);
            return self.stats.drop(Drop::Duplicate);
        }
        if !self.operators.bundles.looks_at(from, head, now) {
            return self.stats.drop(Drop::Busy);
        }
        self.emit(Event::Bundle(BundleEvent::Differs { peer: from.clone(), head }));
    }

    /// A peer asks for updates; true when the holder of the chain answers on this stream.
    pub(super) fn on_want_updates(&mut self, from: &NodeName, id: ExchangeId, request: Bytes, now: Instant) -> bool {
        let answered = &mut self.operators.bundles.answered;
        let soon = answered.get(from).is_some_and(|at| now.saturating_duration_since(*at) < ANSWER_PAUSE);
        if soon || (answered.len() >= UPDATES_ASKED_MAX && !answered.contains_key(from)) {
            self.stats.drop(Drop::Busy);
            return false;
        }
        answered.insert(from.clone(), now);
        self.emit(Event::Bundle(BundleEvent::Asked { peer: from.clone(), exchange: id, request }));
        true
    }

    /// Updates on a stream on which we asked this peer for something, while its bundle is another one than ours.
    pub(super) fn on_updates(&mut self, key: &Key, updates: Bytes) {
        let asked = self.exchanges.get(key).is_some_and(|exchange| matches!(exchange.purpose, Purpose::Fetch));
        if !asked || !self.operators.bundles.differing.contains_key(&key.0) {
            return self.stats.drop(Drop::StrayFrame);
        }
        self.exchanges.remove(key);
        self.emit(Event::Bundle(BundleEvent::Updates { peer: key.0.clone(), updates }));
    }
}
