//! Comparisons on streams: with each new peer once, then at intervals, and when an ack shows another root.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use starling_model::{MemberState, NodeName, RecordKind};

use super::{Phase, Swim, Synced};
use crate::action::ExchangeId;
use crate::anti_entropy::{Exchange, Holding, Listing, Purpose, compare_member};
use crate::by_name::Marks;
use crate::digest::Mask;
use crate::limits::{
    BUCKETS, DIGEST_ITEMS_MAX, EXCHANGE_TIME_MAX, EXCHANGES_MAX, OUTBOUND_SYNCS_MAX, PLAIN_DIGEST_MAX, WANT_ITEMS_MAX,
};
use crate::members::{Member, is_present};
use crate::records;
use crate::stats::Drop;
use crate::timers::Timer;
use crate::wire::{self, Accusation, MemberDigest, Message, Want};

pub(super) type Key = (NodeName, ExchangeId);

/// The side with the greater name waits this long for the other to begin the first comparison.
const FIRST_SYNC_GRACE: Duration = Duration::from_secs(1);
/// Shortest time between two comparisons that acks advise.
pub(super) const ADVICE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Gossip ticks in which a change reaches nearly everybody: roots that differ for less are no reason to compare. Shorter than
/// a probe's period, so that two acks in a row can tell.
const SETTLE_TICKS: u32 = 4;
/// After "busy": again after this long, give or take half.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// What acks advise: peers whose members or records are not ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Advice {
    /// Since when each ack shows another root than ours.
    differs_since: Option<Instant>,
    /// Our root as the last ack found it, and since when.
    pub(super) root: u64,
    still_since: Option<Instant>,
    /// When the last advised comparison began.
    compared: Option<Instant>,
    /// How long the next one waits after it: short while comparisons are worth it, doubled by each that was not.
    pub(super) pause: Duration,
}

impl Default for Advice {
    fn default() -> Self {
        Self { differs_since: None, root: 0, still_since: None, compared: None, pause: ADVICE_PAUSE_MIN }
    }
}

impl Swim {
    /// Does a new link begin with a comparison? In a large mesh only with whom we may have missed something: two
    /// members that hold each other alive find out by the roots of their acks.
    pub(super) fn compares_at_first(&self, peer: &NodeName) -> bool {
        let known = self.members.get(peer).is_some_and(|member| member.state == MemberState::Alive);
        !known || self.synced == Synced::No || self.size() <= self.config.full_view_members_max
    }

    /// One comparison, begun by the side that joins, else by the one with the smaller name, or by the other if that
    /// does not happen.
    pub(super) fn first_sync(&mut self, peer: &NodeName, now: Instant) {
        let first = match self.synced {
            Synced::No => true,
            Synced::Judging | Synced::Yes => self.me.name < *peer && self.members.get(peer).is_some(),
        };
        if !first {
            self.first_due.insert(peer.clone());
        }
        self.plan_sync(peer, if first { now } else { now + FIRST_SYNC_GRACE });
    }

    /// True while any stream with this peer is open.
    pub(super) fn exchanges_with(&self, peer: &NodeName) -> bool {
        let from = (peer.clone(), ExchangeId(0));
        self.exchanges.range(from..).next().is_some_and(|((name, _), _)| name == peer)
    }

    fn plan_sync(&mut self, peer: &NodeName, at: Instant) {
        let due = self.sync_due.entry(peer.clone()).or_insert(at);
        *due = at.min(*due);
        self.timers.set_earlier(Timer::AntiEntropy, at);
    }

    /// An ack showed another root than ours, and so did all acks of the last [`SETTLE_TICKS`], in which ours stood still:
    /// what gossip was to bring has not come. The two compare, the sooner after the last comparison the more that one was
    /// worth. While changes keep coming, roots differ always and say little: once per quarter of the interval will do.
    pub(super) fn advise_sync(&mut self, peer: &NodeName, now: Instant) {
        let root = self.roots().state;
        if self.advice.root != root {
            // What an earlier comparison was worth says nothing about what we hold now.
            self.advice = Advice { root, still_since: Some(now), pause: ADVICE_PAUSE_MIN, ..self.advice };
        }
        let since = *self.advice.differs_since.get_or_insert(now);
        let still = self.advice.still_since.map_or(since, |still| still.max(since));
        let settling = now.saturating_duration_since(still) < self.config.gossip_interval * SETTLE_TICKS;
        let soon = self.advice.compared.is_some_and(|at| now < at + self.advice.pause);
        let overdue = now >= self.advice.compared.unwrap_or(since) + self.longest_pause();
        if !overdue && (settling || soon || self.is_busy()) {
            return;
        }
        self.advice.compared = Some(now);
        self.stats.syncs_advised += 1;
        self.plan_sync(peer, now);
    }

    /// Much was told: one comparison finds what did not come. Where all are linked with all, the first ones did.
    pub(super) fn compare_after_burst(&mut self, now: Instant) {
        let soon = self.advice.compared.is_some_and(|at| now < at + ADVICE_PAUSE_MIN);
        if soon || self.size() <= self.config.full_view_members_max {
            return;
        }
        if let Some(peer) = self.random_link() {
            self.advice.compared = Some(now);
            self.plan_sync(&peer, now);
        }
    }

    /// An ack showed our root.
    pub(super) fn in_step(&mut self) {
        self.advice.differs_since = None;
    }

    /// Two members that stay apart compare on advice this often at most.
    fn longest_pause(&self) -> Duration {
        self.config.anti_entropy_among(self.size()) / 4
    }

    /// A comparison of ours is over.
    pub(super) fn learn_from(&mut self, useful: bool) {
        let pause = if useful { ADVICE_PAUSE_MIN } else { self.advice.pause * 2 };
        self.advice.pause = pause.clamp(ADVICE_PAUSE_MIN, self.longest_pause().max(ADVICE_PAUSE_MIN));
    }

    /// Begins what is due, and at the interval compares with one random peer.
    pub(super) fn anti_entropy_tick(&mut self, now: Instant) {
        if self.phase != Phase::Joined {
            return;
        }
        let due: Vec<NodeName> =
            self.sync_due.iter().filter(|(_, at)| **at <= now).map(|(peer, _)| peer.clone()).collect();
        for peer in due {
            if self.first_due.remove(&peer) && !self.compares_at_first(&peer) {
                // It told us who it is while we waited for it to begin.
                self.sync_due.remove(&peer);
                continue;
            }
            let ours = |(key, exchange): &(&Key, &Exchange)| {
                !key.1.is_inbound() && matches!(exchange.purpose, Purpose::Sync(_))
            };
            if self.exchanges.iter().filter(ours).count() >= OUTBOUND_SYNCS_MAX {
                self.sync_due.insert(peer, now + BUSY_PAUSE / 4);
                continue;
            }
            self.sync_due.remove(&peer);
            if self.links.is_up(&peer) {
                self.start_sync(&peer, now);
            }
        }
        self.schedule_sync(now);
    }

    fn schedule_sync(&mut self, now: Instant) {
        let next = self.sync_due.values().min().copied();
        let interval = self.config.anti_entropy_among(self.size()).mul_f64(self.rng.random_range(0.75..1.25));
        if self.sync_due.is_empty() {
            // The regular one: a random alive peer after a jittered interval.
            if let Some(peer) = self.random_link() {
                self.sync_due.insert(peer, now + interval);
            }
            return self.timers.set(Timer::AntiEntropy, now + interval);
        }
        self.timers.set(Timer::AntiEntropy, next.unwrap_or(now + interval));
    }

    /// A connected peer that is alive.
    fn random_link(&mut self) -> Option<NodeName> {
        let alive = |peer: &&NodeName| self.members.get(peer).is_some_and(|member| member.state == MemberState::Alive);
        let peers: Vec<&NodeName> = self.links.names().filter(alive).collect();
        if peers.is_empty() {
            return None;
        }
        peers.get(self.rng.random_range(0..peers.len())).map(|peer| (*peer).clone())
    }

    fn start_sync(&mut self, peer: &NodeName, now: Instant) {
        if self.exchanges.len() >= EXCHANGES_MAX {
            return self.stats.drop(Drop::Busy);
        }
        self.stats.syncs_started += 1;
        let id = self.open_exchange(peer, Purpose::Sync(Listing::default()), now);
        let mut messages = vec![Message::SyncOpen { roots: self.roots() }];
        let theirs = self.members.get(peer).and_then(|member| member.contact().roots).map(|roots| roots.documents);
        if self.members.len() + self.records.len() < PLAIN_DIGEST_MAX {
            messages.extend(self.hashes_for(theirs));
            messages.extend(self.listing(Mask::ALL));
        } else {
            messages.push(Message::Buckets(self.sums.buckets().to_vec()));
        }
        self.send_sync(peer, id, &messages, false);
    }

    /// Digests of everything in these buckets.
    fn listing(&self, mask: Mask) -> Vec<Message> {
        let mut members: Vec<MemberDigest> = self
            .members
            .iter()
            .filter(|(_, member)| member.state != MemberState::Joining && mask.has(member.bucket()))
            .map(|(name, member)| member.digest(name))
            .collect();
        members.extend(self.own_digest().filter(|_| mask.holds(&self.me.name)));
        let records: Vec<_> = self
            .records
            .iter()
            .filter(|(owner, ..)| mask.holds(owner))
            .map(|(owner, kind, shard, held)| records::digest(owner, kind, shard, held))
            .collect();
        let mut messages: Vec<Message> =
            members.chunks(DIGEST_ITEMS_MAX).map(|chunk| Message::Members(chunk.to_vec())).collect();
        messages.extend(records.chunks(DIGEST_ITEMS_MAX).map(|chunk| Message::Records(chunk.to_vec())));
        messages.push(Message::DigestEnd { buckets: mask.0 });
        messages
    }

    fn own_digest(&self) -> Option<MemberDigest> {
        let own = self.own_life.as_ref()?;
        Some(MemberDigest {
            name: self.me.name.clone(),
            life: self.life,
            state: MemberState::Alive,
            proof: own.hash(),
            credential: crate::hash::short(&self.credential),
        })
    }

    fn listing_of(&mut self, key: &Key) -> Option<&mut Listing> {
        match self.exchanges.get_mut(key).map(|exchange| &mut exchange.purpose) {
            Some(Purpose::Sync(listing)) => Some(listing),
            Some(Purpose::Ping | Purpose::Fetch | Purpose::Leave) | None => None,
        }
    }

    pub(super) fn on_listing(&mut self, key: &Key, add: impl FnOnce(&mut Listing) -> bool) {
        match self.listing_of(key).map(add) {
            Some(true) => {}
            Some(false) => {
                self.exchanges.remove(key);
                self.stats.drop(Drop::StrayFrame);
            }
            None => self.stats.drop(Drop::StrayFrame),
        }
    }

    /// Bucket sums: list what differs.
    pub(super) fn on_buckets(&mut self, key: &Key, sums: &[u64]) {
        let listed = self.exchanges.get_mut(key).is_none_or(|exchange| std::mem::replace(&mut exchange.listed, true));
        if listed || self.listing_of(key).is_none() || !key.1.is_inbound() {
            return self.stats.drop(Drop::StrayFrame);
        }
        let mask = Mask::differing(self.sums.buckets(), sums);
        let theirs = self.listing_of(key).and_then(|listing| listing.root);
        let mut messages = self.hashes_for(theirs);
        messages.extend(self.listing(mask));
        self.send_sync(&key.0, key.1, &messages, false);
    }

    /// The listing is complete: send what they lack, ask for what we lack.
    pub(super) fn on_digest_end(&mut self, key: &Key, buckets: [u8; BUCKETS / 8]) {
        let closed = self.exchanges.get(key).is_none_or(|exchange| exchange.closed);
        let Some(listing) = self.listing_of(key).filter(|_| !closed).map(std::mem::take) else {
            return self.stats.drop(Drop::StrayFrame);
        };
        let mut bytes = 0;
        let mut messages =
            listing.words.as_ref().map_or_else(Vec::new, |words| self.word_differences(words, &mut bytes));
        messages.extend(self.differences(&listing, Mask(buckets), bytes));
        messages.push(Message::Done);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.closed = true;
            // Whoever begins lists everything, or documents alone.
            exchange.partial |= key.1.is_inbound() && Mask(buckets) == Mask::NONE;
        }
        self.send_sync(&key.0, key.1, &messages, true);
    }

    fn differences(&self, listing: &Listing, mask: Mask, mut bytes: usize) -> Vec<Message> {
        let (mut sends, mut wants) = (Vec::new(), Vec::new());
        let mut compare = |name: &NodeName, ours: Option<Holding>, theirs: Option<&MemberDigest>| {
            let difference = compare_member(ours, theirs.map(Holding::listed));
            if difference.want {
                wants.push(Want::Member(name.clone()));
            }
            if difference.send && bytes < EXCHANGE_BYTES_MAX {
                let known = theirs.map(|theirs| theirs.credential);
                let entry = self.member_entry(name, known);
                bytes += entry.iter().map(wire::expected_len).sum::<usize>();
                sends.extend(entry);
            }
        };
        let me = &self.me.name;
        let holding = |member: &Member| Some(member.holding()).filter(|ours| ours.claim.state != MemberState::Joining);
        let (mut seen, mut own) = (Marks::default(), None);
        for theirs in &listing.members {
            match self.members.place(&theirs.name) {
                Some((place, member)) => {
                    seen.mark(place);
                    if mask.has(member.bucket()) {
                        compare(&theirs.name, holding(member), Some(theirs));
                    }
                }
                None if theirs.name == *me => own = Some(theirs),
                None if mask.holds(&theirs.name) => compare(&theirs.name, None, Some(theirs)),
                None => {}
            }
        }
        if mask.holds(me) {
            compare(me, self.own_digest().as_ref().map(Holding::listed), own);
        }
        for (name, member) in self.members.unmarked(&seen).filter(|(_, member)| mask.has(member.bucket())) {
            compare(name, holding(member), None);
        }
        for (owner, kind, shard, held) in self.records.iter().filter(|(owner, ..)| mask.holds(owner)) {
            match listing.records.get(&(owner.clone(), kind, shard)) {
                Some(theirs) if *theirs > held.version => wants.push(Want::Record(owner.clone(), kind, shard)),
                Some(theirs) if *theirs == held.version => {}
                Some(_) | None => {
                    if bytes < EXCHANGE_BYTES_MAX && self.tells_records_of(owner) {
                        bytes += held.bytes.len();
                        sends.push(Message::Record(held.bytes.clone()));
                    }
                }
            }
        }
        let owners: BTreeSet<&NodeName> = listing.records.keys().map(|(owner, ..)| owner).collect();
        let states = listing.members.iter().filter(|theirs| owners.contains(&theirs.name));
        let listed_states: BTreeMap<&NodeName, MemberState> =
            states.map(|theirs| (&theirs.name, theirs.state)).collect();
        for (owner, kind, shard) in listing.records.keys() {
            let held = self.records.get(owner, *kind, *shard).is_some();
            let gone = self.members.get(owner).is_some_and(|member| member.state == MemberState::Left);
            let stone = listed_states.get(owner).is_none_or(|state| !is_present(*state));
            let ours = *owner == self.me.name;
            if !held && !gone && (!stone || ours) && mask.holds(owner) {
                wants.push(Want::Record(owner.clone(), *kind, *shard));
            }
        }
        sends.extend(wants.chunks(WANT_ITEMS_MAX).map(|chunk| Message::Want(chunk.to_vec())));
        sends
    }

    /// Records of tombstones stay here.
    fn tells_records_of(&self, owner: &NodeName) -> bool {
        *owner == self.me.name || self.members.is_present(owner)
    }

    /// Credential, life and doubt of one member, for who does not know its credential already.
    fn member_entry(&self, name: &NodeName, known_credential: Option<u64>) -> Vec<Message> {
        let mut entry = Vec::with_capacity(3);
        let (hash, life) = if *name == self.me.name {
            (self.credential, self.own_life.clone())
        } else {
            let Some(member) = self.members.get(name) else { return entry };
            (member.announced().credential(), Some(member.announced().signed()))
        };
        if known_credential != Some(crate::hash::short(&hash))
            && let Some(credential) = self.credentials.get(name, &hash)
        {
            entry.push(Message::Credential { owner: name.clone(), bytes: credential.bytes.clone() });
        }
        entry.extend(life.map(Message::Life));
        let Some(member) = self.members.get(name) else { return entry };
        match member.state {
            MemberState::Joining | MemberState::Alive => {}
            MemberState::Left => entry.extend(member.contact().leave.iter().map(|leave| Message::Life(leave.signed()))),
            MemberState::Suspect | MemberState::Dead => {
                let first = member.suspicion().and_then(|suspicion| suspicion.accusers.first());
                entry.push(Message::Accusation(Accusation {
                    state: member.state,
                    subject: name.clone(),
                    life: member.life(),
                    proof: member.proof,
                    accuser: first.unwrap_or(&self.me.name).clone(),
                }));
            }
        }
        entry
    }

    /// What was asked for, as far as we hold it and the exchange has not `given` enough.
    pub(super) fn wanted(&self, list: &[Want], given: &mut usize) -> Vec<Message> {
        let mut messages = Vec::new();
        for want in list {
            if *given >= EXCHANGE_BYTES_MAX {
                break;
            }
            let at = messages.len();
            match want {
                Want::Member(name) => messages.extend(self.member_entry(name, None)),
                Want::Record(owner, kind, shard) => {
                    messages
                        .extend(self.records.get(owner, *kind, *shard).map(|held| Message::Record(held.bytes.clone())));
                }
                Want::Credential(owner, hash) => messages.extend(
                    self.credentials
                        .get(owner, hash)
                        .map(|held| Message::Credential { owner: owner.clone(), bytes: held.bytes.clone() }),
                ),
            }
            *given += messages.iter().skip(at).map(wire::expected_len).sum::<usize>();
        }
        messages
    }

    /// The comparer asks: only the lister answers, and only while its half is open.
    pub(super) fn on_want(&mut self, key: &Key, list: &[Want]) {
        let open = self.exchanges.get(key).is_some_and(|exchange| !exchange.closed);
        if !open || self.listing_of(key).is_none() {
            return self.stats.drop(Drop::StrayFrame);
        }
        let mut given = self.exchanges.get(key).map_or(0, |exchange| exchange.given);
        let messages = self.wanted(list, &mut given);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.given = given;
        }
        self.send_sync(&key.0, key.1, &messages, false);
    }

    /// The other side is done: so is the exchange, once we have said the same.
    pub(super) fn on_done(&mut self, key: &Key, now: Instant) {
        let Some(exchange) = self.exchanges.remove(key) else { return };
        match exchange.purpose {
            Purpose::Ping | Purpose::Fetch | Purpose::Leave => {}
            Purpose::Sync(_) => {
                if !exchange.closed {
                    self.send_sync(&key.0, key.1, &[Message::Done], true);
                }
                if !exchange.partial {
                    if !key.1.is_inbound() {
                        self.learn_from(exchange.useful);
                    }
                    self.synced_with(&key.0, now);
                }
            }
        }
    }

    fn synced_with(&mut self, peer: &NodeName, now: Instant) {
        self.sync_due.remove(peer);
        self.first_due.remove(peer);
        if self.synced == Synced::No {
            self.synced = Synced::Judging;
            self.timers.set_earlier(Timer::Links, now);
            if self.size() > self.config.full_view_members_max {
                // What the other seeds would list is the same; the roots of their acks tell what is not.
                self.sync_due.clear();
                self.first_due.clear();
            }
        }
        if self.sync_due.is_empty() {
            self.schedule_sync(now);
        }
    }

    /// The peer has too many comparisons open.
    pub(super) fn on_busy(&mut self, key: &Key, now: Instant) {
        if self.exchanges.remove(key).is_some() {
            // Our half, too, or the stream stays until a deadline, one of few.
            self.send_sync(&key.0, key.1, &[], true);
            let pause = BUSY_PAUSE.mul_f64(self.rng.random_range(0.5..1.5));
            self.plan_sync(&key.0.clone(), now + pause);
        }
    }

    /// The link is gone, and with it all streams.
    pub(super) fn drop_exchanges(&mut self, peer: &NodeName, now: Instant) {
        self.exchanges.retain(|(name, _), _| name != peer);
        self.sync_due.remove(peer);
        self.first_due.remove(peer);
        self.operators.bundles.forget(peer);
        self.fetches_lost(peer, now);
        let gone: Vec<Key> = self.leave_open.iter().filter(|(name, _)| name == peer).cloned().collect();
        for key in gone {
            self.leave_open.remove(&key);
            self.leave_progress(now);
        }
    }

    /// Streams that take too long are forgotten; an unfinished comparison is begun again.
    pub(super) fn sweep_exchanges(&mut self, now: Instant) {
        let late = |exchange: &Exchange| now.saturating_duration_since(exchange.since) >= EXCHANGE_TIME_MAX;
        let gone: Vec<(Key, bool)> = self
            .exchanges
            .iter()
            .filter(|(_, exchange)| late(exchange))
            .map(|(key, exchange)| (key.clone(), matches!(exchange.purpose, Purpose::Sync(_))))
            .collect();
        for (key, sync) in gone {
            self.exchanges.remove(&key);
            if sync && !key.1.is_inbound() && self.links.is_up(&key.0) {
                self.plan_sync(&key.0.clone(), now + BUSY_PAUSE);
            }
        }
    }

    /// True for the kinds of record that a starting owner always writes again.
    pub(super) fn is_rewritten(kind: RecordKind) -> bool {
        match kind {
            RecordKind::Services | RecordKind::Health => true,
            RecordKind::Status | RecordKind::Unknown(_) => false,
        }
    }
}

/// State that one side sends on one exchange, however often it is asked; the rest follows with the next. The transport's
/// queue holds as much.
pub(super) const EXCHANGE_BYTES_MAX: usize = 16 << 20;
