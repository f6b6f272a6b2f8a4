//! What we say about ourselves: our life and its refutations, our records, our leave. Everything is signed by the
//! driver, so each word takes a round through [`Action::Sign`].

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use starling_model::{BootEpoch, HealthRecord, Life, NodeName, RecordKind, RecordVersion, ServicesRecord};

use super::{PROTOCOL, Phase, Swim};
use crate::action::{
    Action, Alarm, Change, ClaimKind, CloseReason, Event, ExchangeId, OwnRecord, Signature, Statement, Step, Ticket,
};
use crate::anti_entropy::Purpose;
use crate::broadcasts::{Class, Subject};
use crate::limits::{OWN_WRITES_BURST, OWNER_WRITES_PER_SECOND, WAITING_ROOM_MAX};
use crate::own::Rewrite;
use crate::stats::Drop;
use crate::timers::Timer;
use crate::wire::{self, Accusation, Alive, Leave, Message, RecordHead, SignedLife, Want};

/// A word that waits for its signature.
#[derive(Clone, Debug)]
pub(super) enum Signing {
    Alive { life: Life, body: Bytes },
    Leave { body: Bytes },
    Record { head: RecordHead, body: Bytes },
}

/// Members that hear a leave on a stream and confirm it: enough that one of them lives.
const LEAVE_STREAMS_MIN: usize = 4;
/// How long after the start the driver may take to put its records, before those of an older life are withdrawn.
const OUTLIVED_GRACE: std::time::Duration = std::time::Duration::from_secs(3);

impl Swim {
    fn sign(&mut self, kind: ClaimKind, body: Bytes, signing: Signing) {
        if self.signing.len() >= WAITING_ROOM_MAX {
            return self.stats.drop(Drop::WaitingFull);
        }
        let ticket = self.ticket();
        self.signing.insert(ticket, signing);
        self.act(Action::Sign { ticket, statement: Statement { kind, body } });
    }

    /// A signature came: the word goes out.
    pub(super) fn signed(&mut self, ticket: Ticket, signature: Signature, now: Instant) {
        match self.signing.remove(&ticket) {
            Some(Signing::Alive { life, body }) => self.alive_signed(life, body, signature, now),
            Some(Signing::Leave { body }) => self.leave_signed(body, signature, now),
            Some(Signing::Record { head, body }) => self.record_signed(head, &body, signature, now),
            None => self.stats.drop(Drop::UnaskedAnswer),
        }
    }

    /// Says that we live, in our present life.
    pub(super) fn announce(&mut self) {
        if self.quiet || self.phase != Phase::Joined {
            return;
        }
        let alive = Alive {
            name: self.me.name.clone(),
            life: self.life,
            credential: self.credential,
            tag: self.me.instance_tag,
            protocol: PROTOCOL,
            features: 0,
            region: self.me.region.clone(),
            release: self.me.release.clone(),
            addresses: self.me.addresses.clone(),
        };
        let body = alive.to_bytes();
        self.sign(ClaimKind::Life, body.clone(), Signing::Alive { life: self.life, body });
    }

    fn alive_signed(&mut self, life: Life, body: Bytes, signature: Signature, now: Instant) {
        // Raised again meanwhile: the newer word is being signed.
        if life != self.life || self.phase != Phase::Joined || self.quiet {
            return;
        }
        let signed = SignedLife { body, signature: signature.0 };
        self.own_life = Some(signed.clone());
        let me = self.me.name.clone();
        self.sum_owner(&me);
        self.spread(Subject::Life(me), Class::Own, &Message::Life(signed), None, now);
    }

    /// Somebody doubts us. Only our very life can be refuted; a life that we do not know must be shown.
    pub(super) fn accused(&mut self, from: &NodeName, said: &Accusation, now: Instant) {
        if self.phase != Phase::Joined || self.quiet {
            return;
        }
        let ours = self.own_life.as_ref().is_some_and(|own| own.hash() == said.proof);
        if said.life == self.life && ours {
            self.stats.refutations += 1;
            self.health.blamed();
            self.raise_life();
            let (me, life, word) = (self.me.name.clone(), self.life, self.word(&said.accuser, Some(from)));
            self.testify(&me, life, Step::Answered { by: said.accuser.clone(), word });
            return;
        }
        if said.life < self.life || (said.life == self.life && self.own_life.is_none()) {
            // Answered already, or the answer is being signed: say it again to who has not heard it.
            let me = Subject::Life(self.me.name.clone());
            let heard = self.broadcasts.was_told(&me, from);
            if let Some(own) = self.own_life.clone().filter(|_| !heard && said.life < self.life) {
                self.send(from, &[Message::Life(own)]);
            }
            return self.stats.drop(Drop::Stale);
        }
        let me = self.me.name.clone();
        self.fetch(from, vec![Want::Member(me)], now);
    }

    fn raise_life(&mut self) {
        let Some(next) = self.life.next() else { return };
        let epoch_rose = next.epoch != self.life.epoch;
        self.life = next;
        if epoch_rose {
            self.epoch_rose();
        }
        self.announce();
    }

    /// Our own earlier self is remembered with this epoch: begin a later one.
    pub(super) fn raise_epoch(&mut self, seen: BootEpoch, now: Instant) {
        let top = self.life.epoch.max(seen);
        let Some(epoch) = top.0.checked_add(1) else { return };
        self.life = Life::first(BootEpoch(epoch));
        self.epoch_rose();
        self.announce();
        self.write_own(now);
    }

    fn epoch_rose(&mut self) {
        let epoch = self.life.epoch;
        self.persist(|| Change::Epoch(epoch));
        self.own.restart_versions();
        self.own_dirty.extend(self.own.all());
    }

    /// A verified `alive` under our own name that we did not write in this life: an older life of ours, or a clone.
    /// The first of each tag is outbid; one that answers to that is alive. Then who has just started stays out, and who
    /// was here outbids it once more; among two that were here the one that is answered again stays silent.
    pub(super) fn met_ourselves(&mut self, other: &Alive, now: Instant) {
        if other.tag == self.me.instance_tag || other.life < self.life {
            return;
        }
        let new = now.saturating_duration_since(self.started) < NEWCOMER_TIME;
        let crowd = self.rivals.len() >= RIVALS_MAX && !self.rivals.contains_key(&other.tag);
        let times = if crowd { None } else { Some(self.rivals.entry(other.tag).or_default()) };
        let times = times.map(|times| {
            *times = times.saturating_add(1);
            *times
        });
        match times {
            Some(1) => return self.raise_epoch(other.life.epoch, now),
            Some(2) if !new => return self.raise_epoch(other.life.epoch, now),
            Some(_) if new => return self.stay_out(now),
            Some(_) | None => {}
        }
        self.quiet = true;
        self.alarm(Alarm::DuplicateIdentity { name: self.me.name.clone(), quiet: true }, now);
    }

    /// We left in a life that is not below ours: begin a later one.
    pub(super) fn met_own_leave(&mut self, leave: &Leave, now: Instant) {
        if leave.life >= self.life && self.phase == Phase::Joined && !self.quiet {
            self.raise_epoch(leave.life.epoch, now);
        }
    }

    /// Is a record under our own name worth a verdict?
    pub(super) fn admit_own_record(&mut self, parts: &wire::RecordParts, _bytes: &[u8]) -> Result<(), Drop> {
        let head = &parts.head;
        if head.version.epoch < self.life.epoch {
            // Peers hold records of an older life: what we do not put again must be withdrawn.
            if Self::is_rewritten(head.kind) && !self.own.was_put(head.kind) {
                self.outlived.insert(head.kind);
            }
            return Err(Drop::Stale);
        }
        let held = self.records.get(&head.owner, head.kind, head.shard).map(|held| held.version);
        if head.version.epoch == self.life.epoch && held.is_some_and(|held| head.version <= held) {
            return Err(Drop::Duplicate);
        }
        Ok(())
    }

    /// A verified record of ours that we did not write in this life.
    pub(super) fn met_own_record(&mut self, head: &RecordHead, now: Instant) {
        let held = self.records.get(&head.owner, head.kind, head.shard).map(|held| held.version);
        let known = held.is_some_and(|held| head.version <= held);
        if head.version.epoch < self.life.epoch || known || self.quiet {
            return;
        }
        if Self::is_rewritten(head.kind) && !self.own.was_put(head.kind) {
            self.outlived.insert(head.kind);
        }
        // A record shows no instance tag: a clone's must not draw us into a race of epochs.
        let raced = self.outbid_record.is_some_and(|at| now.saturating_duration_since(at) < OUTBID_PAUSE);
        if !raced {
            self.outbid_record = Some(now);
            self.raise_epoch(head.version.epoch, now);
        }
    }

    /// Records of an older life that nobody replaced: withdrawn by an empty next version.
    pub(super) fn replace_outlived(&mut self, now: Instant) {
        if self.phase != Phase::Joined || now.saturating_duration_since(self.started) < OUTLIVED_GRACE {
            return;
        }
        for kind in std::mem::take(&mut self.outlived) {
            let empty = match kind {
                RecordKind::Services => OwnRecord::Services(ServicesRecord::default()),
                RecordKind::Health => OwnRecord::Health(HealthRecord::default()),
                RecordKind::Status | RecordKind::Unknown(_) => continue,
            };
            if !self.own.was_put(kind) {
                self.put(empty, now);
            }
        }
    }

    /// Announces one of our records from now on.
    pub(super) fn put(&mut self, record: OwnRecord, now: Instant) {
        let Rewrite { kind, shards, complete } = match record {
            OwnRecord::Services(record) => self.own.put_services(record),
            OwnRecord::Health(record) => self.own.put_health(record),
            OwnRecord::Status(record) => self.own.put_status(record),
        };
        if !complete {
            self.stats.drop(Drop::OwnTooLarge);
            self.alarm(Alarm::OwnRecordTooLarge, now);
        }
        self.own_dirty.extend(shards.into_iter().map(|shard| (kind, shard)));
        self.write_own(now);
    }

    /// Writes changed shards as fast as our rate allows; the last value wins.
    pub(super) fn write_own(&mut self, now: Instant) {
        if self.quiet || self.phase == Phase::Left {
            return;
        }
        while let Some((kind, shard)) = self.own_dirty.first().copied() {
            if !self.own_rate.take(OWNER_WRITES_PER_SECOND, OWN_WRITES_BURST, now) {
                self.timers.set(Timer::OwnRecords, now + self.own_rate.wait(OWNER_WRITES_PER_SECOND));
                return;
            }
            self.own_dirty.remove(&(kind, shard));
            let Some((schema, payload)) = self.own.payload(kind, shard) else {
                self.stats.drop(Drop::OwnTooLarge);
                continue;
            };
            let version = RecordVersion { epoch: self.life.epoch, version: self.own.next_version(kind, shard) };
            let head = RecordHead {
                owner: self.me.name.clone(),
                kind,
                shard,
                version,
                schema,
                ttl_s: RECORD_TTL_S,
                statement: self.credential,
            };
            match head.to_bytes(&payload) {
                Ok(body) => self.sign(ClaimKind::Record, body.clone(), Signing::Record { head, body }),
                Err(_) => self.stats.drop(Drop::OwnTooLarge),
            }
        }
    }

    fn record_signed(&mut self, head: RecordHead, body: &Bytes, signature: Signature, now: Instant) {
        if head.version.epoch != self.life.epoch || !self.records.is_newer(&head) || self.quiet {
            return;
        }
        let bytes = Bytes::from([&body[..], &signature.0[..]].concat());
        let Ok(parts) = wire::read_record(&bytes) else {
            return self.stats.drop(Drop::OwnTooLarge);
        };
        self.hold_record(&parts, bytes.clone(), true);
        let subject = Subject::Record(head.owner, head.kind, head.shard);
        self.spread(subject, Class::Own, &Message::Record(bytes), None, now);
    }

    pub(super) fn set_addresses(&mut self, addresses: Vec<SocketAddr>, _now: Instant) {
        if self.me.addresses == addresses {
            return;
        }
        self.me.addresses = addresses;
        // Attributes are fixed per life, so new ones need a new life.
        if self.phase == Phase::Joined && (self.own_life.is_some() || !self.signing.is_empty()) {
            self.raise_life();
        }
    }

    /// Leaves for good.
    pub(super) fn leave(&mut self, now: Instant) {
        match self.phase {
            Phase::Idle | Phase::Joined | Phase::Out => {}
            Phase::Leaving | Phase::Left => return,
        }
        let announced = self.own_life.is_some() && !self.quiet;
        self.phase = Phase::Leaving;
        self.sweep_submissions(now);
        self.stop_probing();
        self.timers.cancel(&Timer::Links);
        self.timers.cancel(&Timer::Heal);
        self.timers.set(Timer::Leave, now + self.config.leave_timeout);
        if !announced {
            return self.leave_finished(now);
        }
        let leave = Leave { name: self.me.name.clone(), life: self.life, credential: self.credential };
        let body = leave.to_bytes();
        self.sign(ClaimKind::Life, body.clone(), Signing::Leave { body });
    }

    /// The signed leave goes on streams to some, who confirm it, and by gossip to all.
    fn leave_signed(&mut self, body: Bytes, signature: Signature, now: Instant) {
        if self.phase != Phase::Leaving {
            return;
        }
        let message = Message::Life(SignedLife { body, signature: signature.0 });
        let mut targets: Vec<NodeName> =
            self.links.names().filter(|peer| self.members.is_present(peer)).cloned().collect();
        let digits = self.config.copies(self.size()) / self.config.retransmit_mult.max(1);
        let count = LEAVE_STREAMS_MIN.max(2 * usize::try_from(digits).unwrap_or(usize::MAX));
        crate::forward::draw(&mut targets, count, &mut self.rng);
        for target in targets {
            let id = self.open_exchange(&target, Purpose::Leave, now);
            self.leave_open.insert((target.clone(), id));
            self.send_sync(&target, id, std::slice::from_ref(&message), true);
        }
        let me = self.me.name.clone();
        self.spread(Subject::Life(me), Class::Own, &message, None, now);
        self.flush(now);
        self.leave_progress(now);
    }

    pub(super) fn on_leave_ack(&mut self, key: &(NodeName, ExchangeId), now: Instant) {
        self.exchanges.remove(key);
        if self.leave_open.remove(key) {
            self.leave_acknowledged += 1;
            self.leave_progress(now);
        } else {
            self.stats.drop(Drop::UnaskedAnswer);
        }
    }

    pub(super) fn leave_progress(&mut self, now: Instant) {
        if self.phase == Phase::Leaving && self.leave_open.is_empty() {
            self.leave_finished(now);
        }
    }

    /// Confirmed by all that were asked, or its time is over.
    pub(super) fn leave_finished(&mut self, _now: Instant) {
        if self.phase != Phase::Leaving {
            return;
        }
        self.phase = Phase::Left;
        self.timers.clear();
        let peers: Vec<NodeName> = self.links.names().cloned().collect();
        for peer in peers {
            self.act(Action::Close { peer, why: CloseReason::Leaving });
        }
        self.emit(Event::LeaveFinished { acknowledged: self.leave_acknowledged });
    }
}

/// No expiry of its own: a record lives as long as its owner's membership.
const RECORD_TTL_S: u32 = 0;
/// Records of a later epoch under our own name are outbid at most this often.
const OUTBID_PAUSE: std::time::Duration = std::time::Duration::from_secs(60);
/// Who started less than this ago and finds its name answering was not here first.
const NEWCOMER_TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// Foreign instance tags under our own name that we outbid at all.
const RIVALS_MAX: usize = 8;
