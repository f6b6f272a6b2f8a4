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
use crate::timers::Timer;
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
    /// What linked peers told last of theirs, once it was another one than ours.
    told: BTreeMap<NodeName, Told>,
    /// When peers were answered last.
    answered: BTreeMap<NodeName, Instant>,
}

/// What a peer told of its bundle.
#[derive(Debug)]
struct Told {
    head: BundleHead,
    /// Which one was looked at, under the bundle that is in force.
    seen: Option<BundleHead>,
    /// When. Kept when another bundle comes into force: a peer is never asked more often than it answers.
    looked: Option<Instant>,
}

impl Told {
    /// When it is looked at.
    fn due(&self, now: Instant) -> Instant {
        let pause = if self.seen == Some(self.head) { SAME_HEAD_PAUSE } else { HEAD_PAUSE };
        self.looked.map_or(now, |at| at + pause)
    }
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
        self.told.remove(peer);
        self.answered.remove(peer);
    }

    /// Did this peer tell another bundle than ours, and nothing else since?
    fn differs(&self, peer: &NodeName) -> bool {
        self.told.get(peer).is_some_and(|told| Some(told.head) != self.head)
    }

    /// Another bundle is in force: what was looked at under the former one is looked at again when it is told again.
    fn in_force(&mut self, head: BundleHead) -> Option<BundleHead> {
        self.told.values_mut().for_each(|told| told.seen = None);
        self.head.replace(head)
    }

    /// Writes down what this peer told, if there is room.
    fn hear(&mut self, peer: &NodeName, head: BundleHead, now: Instant) {
        if self.told.len() >= UPDATES_ASKED_MAX && !self.told.contains_key(peer) {
            let ours = self.head;
            self.told.retain(|_, told| Some(told.head) != ours || told.due(now) > now);
        }
        if let Some(told) = self.told.get_mut(peer) {
            told.head = head;
        } else if self.told.len() < UPDATES_ASKED_MAX {
            self.told.insert(peer.clone(), Told { head, seen: None, looked: None });
        }
    }

    /// True when what this peer told last is looked at now.
    fn looks_at(&mut self, peer: &NodeName, now: Instant) -> bool {
        match self.told.get_mut(peer) {
            Some(told) if told.due(now) <= now => {
                (told.seen, told.looked) = (Some(told.head), Some(now));
                true
            }
            _ => false,
        }
    }

    /// Words that came too soon after others and were not looked at yet: whose, and when it is time.
    fn waiting(&self, now: Instant) -> impl Iterator<Item = (&NodeName, Instant)> {
        let waits = |told: &Told| Some(told.head) != self.head && told.seen != Some(told.head);
        self.told.iter().filter(move |(_, told)| waits(told)).map(move |(peer, told)| (peer, told.due(now)))
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
                    self.operators.bundles.told.remove(&peer);
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
        if self.operators.bundles.in_force(head) == Some(head) {
            return;
        }
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
            if let Some(told) = self.operators.bundles.told.get_mut(from) {
                told.head = head;
            }
            return self.stats.drop(Drop::Duplicate);
        }
        self.operators.bundles.hear(from, head, now);
        if !self.operators.bundles.looks_at(from, now) {
            self.stats.drop(Drop::Busy);
            return self.look_later(now);
        }
        self.emit(Event::Bundle(BundleEvent::Differs { peer: from.clone(), head }));
    }

    /// What came too soon after another word is looked at when the pause ends: its peer does not tell it again.
    fn look_later(&mut self, now: Instant) {
        if let Some(at) = self.operators.bundles.waiting(now).map(|(_, at)| at).min() {
            self.timers.set_earlier(Timer::Bundles, at);
        }
    }

    /// A word that waited is due.
    pub(super) fn on_bundles_due(&mut self, now: Instant) {
        let bundles = &mut self.operators.bundles;
        let due: Vec<NodeName> =
            bundles.waiting(now).filter(|(_, at)| *at <= now).map(|(peer, _)| peer.clone()).collect();
        for peer in due {
            if let Some(head) = self.operators.bundles.told.get(&peer).map(|told| told.head)
                && self.operators.bundles.looks_at(&peer, now)
            {
                self.emit(Event::Bundle(BundleEvent::Differs { peer, head }));
            }
        }
        self.look_later(now);
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
        if !asked || !self.operators.bundles.differs(&key.0) {
            return self.stats.drop(Drop::StrayFrame);
        }
        self.exchanges.remove(key);
        self.emit(Event::Bundle(BundleEvent::Updates { peer: key.0.clone(), updates }));
    }
}
