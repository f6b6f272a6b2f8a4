//! Frames out: forwarding at first receipt, gossip ticks, and what rides on probes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use starling_model::{MemberState, NodeName};

use super::{Phase, Swim};
use crate::action::{Action, ExchangeId};
use crate::broadcasts::{Broadcasts, Class, Parcel, ROOM, Reach, Subject, pack};
use crate::config::Buddy;
use crate::forward;
use crate::limits::FORWARD_TO_ALL_MAX;
use crate::peers::Listeners;
use crate::stats::Drop;
use crate::timers::Timer;
use crate::wire::{self, Accusation, Envelope, Message, RecordDigest};

/// Membership news of others is told at least this often, so that nobody in a small mesh misses it.
const NARROW_COPIES_MIN: u32 = 8;
/// So many updates at a time, and now and then one of them dies out before everybody has it.
const BURST_UPDATES: usize = 16;
/// More updates than this at a time are more than single changes.
pub(super) const BUSY_UPDATES: usize = 64;
/// While much is told at once, of each update only so many copies: the few whom none reaches learn it by a comparison,
/// which costs them a tenth of what the other copies would cost everybody (push, then pull: Demers et al. 1987, 1.4).
const BUSY_COPIES: u32 = 4;
/// While much is told at once, first receipts wait this many windows for each other.
const BUSY_WINDOWS: u32 = 4;

impl Swim {
    /// Queues news for everybody, to leave within one window.
    pub(super) fn spread(
        &mut self,
        subject: Subject,
        class: Class,
        message: &Message,
        knows: Option<&NodeName>,
        now: Instant,
    ) {
        self.mention(subject, class, message, knows, now);
        let windows = if self.is_busy() { BUSY_WINDOWS } else { 1 };
        self.timers.set_earlier(Timer::Forward, self.pace.due(self.config.forward_window * windows, now));
    }

    /// Queues news that can wait for the next tick, or for the next packet that leaves anyway.
    pub(super) fn mention(
        &mut self,
        subject: Subject,
        class: Class,
        message: &Message,
        knows: Option<&NodeName>,
        now: Instant,
    ) {
        let announcement = self.announcement(class, &subject);
        let Some(parcel) = self.parcel(class, &subject, announcement.as_ref().unwrap_or(message)) else {
            return self.stats.drop(Drop::OwnTooLarge);
        };
        self.broadcasts.push(subject, class, parcel, knows);
        self.burst = self.burst.max(self.broadcasts.len());
        self.timers.set_earlier(Timer::Gossip, now + self.config.gossip_interval);
    }

    /// So much is being told in a large mesh that comparisons finish it cheaper: all start, or a large part fails.
    pub(super) fn is_busy(&self) -> bool {
        self.size() > FORWARD_TO_ALL_MAX && self.broadcasts.len() > BUSY_UPDATES
    }

    /// While much is told at once, others' lives and records are announced, and who lacks one asks for it: an
    /// announcement takes a quarter of a life's bytes, and most who hear it hold the life (lazy push).
    fn announcement(&self, class: Class, subject: &Subject) -> Option<Message> {
        if !self.is_busy() {
            return None;
        }
        match (class, subject) {
            (Class::Life, Subject::Life(name)) => {
                let member = self.members.get(name).filter(|member| member.state != MemberState::Joining)?;
                Some(Message::Members(vec![member.digest(name)]))
            }
            (Class::Record, Subject::Record(owner, kind, shard)) => {
                let version = self.records.get(owner, *kind, *shard)?.version;
                Some(Message::Have(RecordDigest { owner: owner.clone(), kind: *kind, shard: *shard, version }))
            }
            (
                Class::Own | Class::Revocation | Class::Doubt | Class::Life | Class::Document | Class::Record,
                Subject::Life(_)
                | Subject::Doubt(_)
                | Subject::Record(..)
                | Subject::Document(_)
                | Subject::Revocation(_),
            ) => None,
        }
    }

    /// What does not fit a datagram goes by stream from its owner; others only say that they have it.
    fn parcel(&self, class: Class, subject: &Subject, message: &Message) -> Option<Parcel> {
        let bytes = wire::message(message).ok()?;
        if bytes.len() <= ROOM {
            return Some(Parcel::Datagram(bytes));
        }
        match subject {
            Subject::Record(owner, kind, shard) if class != Class::Own => {
                let version = self.records.get(owner, *kind, *shard)?.version;
                let have = RecordDigest { owner: owner.clone(), kind: *kind, shard: *shard, version };
                wire::message(&Message::Have(have)).ok().map(Parcel::Datagram)
            }
            Subject::Record(..)
            | Subject::Life(_)
            | Subject::Doubt(_)
            | Subject::Document(_)
            | Subject::Revocation(_) => Some(Parcel::Stream(bytes)),
        }
    }

    /// Connected peers that shall hear news: all but those that left and those dead for long.
    pub(super) fn listeners(&mut self, now: Instant) -> Arc<[NodeName]> {
        if let Some(known) = self.links.listeners(now) {
            return Arc::clone(known);
        }
        let mut until: Option<Instant> = None;
        let mut listens = |name: &&NodeName| match self.members.get(name) {
            None => true,
            Some(member) => match member.state {
                MemberState::Joining | MemberState::Alive | MemberState::Suspect => true,
                MemberState::Dead => {
                    let end = member.since + self.config.gossip_to_dead;
                    let still = now < end;
                    until = until.into_iter().chain(still.then_some(end)).min();
                    still
                }
                MemberState::Left => false,
            },
        };
        let names: Arc<[NodeName]> = self.links.names().filter(&mut listens).cloned().collect();
        self.links.set_listeners(Listeners { names: Arc::clone(&names), until });
        names
    }

    /// First receipt: state and our own words to all connected peers while they are few, membership of others to as many
    /// as a tick has targets.
    pub(super) fn flush(&mut self, now: Instant) {
        self.pace.flushed(now);
        let listeners = self.listeners(now);
        let mut few: Vec<&NodeName> = listeners.iter().collect();
        forward::draw(&mut few, self.config.gossip_targets, &mut self.rng);
        if self.broadcasts.has_wide_news() {
            for target in forward::first_targets(listeners.iter().collect(), self.size(), &mut self.rng) {
                let parcels = self.broadcasts.news(target, Reach::Wide);
                self.deliver(target, parcels);
            }
        }
        for target in few {
            let parcels = self.broadcasts.news(target, Reach::Narrow);
            self.deliver(target, parcels);
        }
        self.broadcasts.flushed();
        // A long queue is looked through at the next tick.
        if !self.is_busy() {
            self.retire(&listeners);
        }
        if self.broadcasts.len() > 0 {
            self.timers.set_earlier(Timer::Gossip, now + self.config.gossip_interval);
        }
    }

    /// Repeats what is still worth repeating.
    pub(super) fn gossip_tick(&mut self, now: Instant) {
        let listeners = self.listeners(now);
        let mut targets = self.retire(&listeners);
        if self.broadcasts.len() <= self.burst / 4 {
            if self.burst >= BURST_UPDATES {
                self.compare_after_burst(now);
            }
            self.burst = 0;
        }
        forward::draw(&mut targets, self.config.gossip_targets, &mut self.rng);
        for target in targets {
            let parcels = self.broadcasts.pick(target, Broadcasts::flush_room());
            self.deliver(target, parcels);
        }
        if self.broadcasts.len() > 0 {
            self.timers.set(Timer::Gossip, now + self.config.gossip_interval);
        }
    }

    /// Drops what was told often enough; returns who still has something to hear.
    fn retire<'a>(&mut self, listeners: &'a [NodeName]) -> Vec<&'a NodeName> {
        let members = self.size();
        let most = if self.is_busy() { BUSY_COPIES } else { u32::MAX };
        let copies = self.config.copies(members);
        self.broadcasts.retire(listeners, |reach| match reach {
            Reach::Wide => (members > FORWARD_TO_ALL_MAX).then_some(copies.min(most)),
            Reach::Narrow => Some(copies.max(NARROW_COPIES_MIN).min(most)),
        })
    }

    fn deliver(&mut self, target: &NodeName, parcels: Vec<Parcel>) {
        let mut messages = Vec::new();
        for parcel in parcels {
            match parcel {
                Parcel::Datagram(message) => messages.push(message),
                Parcel::Stream(message) => self.push_on_stream(target, &message),
            }
        }
        for body in pack(messages) {
            self.send_datagram(target, &body);
        }
    }

    /// One message alone on a stream, without a dialogue.
    fn push_on_stream(&mut self, to: &NodeName, message: &Bytes) {
        self.next_exchange += 1;
        let exchange = ExchangeId(self.next_exchange);
        let frame = wire::frame(Envelope::Sync, &self.mesh, std::slice::from_ref(message));
        self.stats.sent_sync_bytes += frame.len() as u64;
        self.act(Action::SendSync { to: to.clone(), exchange, frame, last: true });
    }

    pub(super) fn send_datagram(&mut self, to: &NodeName, body: &[Bytes]) {
        let payload = wire::frame(Envelope::Datagram, &self.mesh, body);
        self.send_payload(to, payload);
    }

    fn send_payload(&mut self, to: &NodeName, payload: Bytes) {
        self.stats.sent_datagrams += 1;
        self.stats.sent_datagram_bytes += payload.len() as u64;
        self.act(Action::SendDatagram { to: to.clone(), payload });
    }

    /// Sends these messages in one datagram now, with what else the peer should hear while there is room.
    pub(super) fn send(&mut self, to: &NodeName, messages: &[Message]) {
        self.writer.begin(&self.mesh);
        for message in messages {
            if self.writer.put(message).is_err() {
                self.stats.drop(Drop::OwnTooLarge);
            }
        }
        if self.phase == Phase::Joined {
            for parcel in self.broadcasts.pick(to, self.writer.room()) {
                if let Parcel::Datagram(bytes) = parcel {
                    self.writer.append(&bytes);
                }
            }
        }
        let payload = self.writer.finish();
        self.send_payload(to, payload);
    }

    /// What we hold against a peer, to be said first on `occasion` (Lifeguard, IV-C).
    pub(super) fn buddy(&self, peer: &NodeName, occasion: Buddy) -> Option<Message> {
        if self.config.buddy < occasion {
            return None;
        }
        let member = self.members.get(peer)?;
        let state = match member.state {
            MemberState::Suspect | MemberState::Dead => member.state,
            MemberState::Joining | MemberState::Alive | MemberState::Left => return None,
        };
        let first = member.suspicion().and_then(|suspicion| suspicion.accusers.first());
        let accuser = first.unwrap_or(&self.me.name).clone();
        Some(Message::Accusation(Accusation {
            state,
            subject: peer.clone(),
            life: member.life(),
            proof: member.proof,
            accuser,
        }))
    }
}
