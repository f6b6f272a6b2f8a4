//! Links: connections that come and go, dials of members, seeds and the dead, and what the store remembered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use starling_model::{MemberState, NodeName, RecordKind};

use super::{Phase, SWEEP_INTERVAL, Swim, Synced};
use crate::action::{
    Action, Alarm, CloseReason, ConnectionChange, DialReason, DialTarget, DownReason, Event, Restored, Seed,
};
use crate::documents::SignedDocument;
use crate::limits::{
    ADDRESS_BOOK_MAX, DIALS_MAX, LINKS_MAX, MEMBERS_MAX, SEEDS_MAX, WAITING_BYTES_MAX, WAITING_ROOM_MAX,
};
use crate::peers::{Link, Rovers};
use crate::rejoin::{self, Attempts};
use crate::replica::{Item, Source, Via, credential_hash};
use crate::snapshot;
use crate::stats::Drop;
use crate::timers::Timer;
use crate::trust::SignedRevocation;
use crate::wire::{self, Message};

/// Of the waiting room, this much is left to peers while the snapshot is read.
const RESTORE_SHARE: usize = WAITING_ROOM_MAX / 2;
/// The same in bytes of documents.
const RESTORE_BYTES: usize = WAITING_BYTES_MAX / 2;
/// Snapshot items that are kept for reading: all members with some records each.
const RESTORE_MAX: usize = MEMBERS_MAX * 8;
/// Links and seeds are looked at again at least this often.
const LINKS_INTERVAL: Duration = Duration::from_secs(5);
/// A link that we dialled and that nothing needs is closed after this long: what it was dialled for may come again.
const LINK_SPARE_TIME: Duration = Duration::from_secs(20);
/// A node with that many links hears of newcomers fast enough, so it may wait for its view to settle.
const SETTLED_LINKS_MIN: usize = 8;
/// How long a newcomer is wanted before it is dialled by a node with that many links.
const VIEW_SETTLE: Duration = Duration::from_millis(100);
/// After its first link a node waits this long for its first comparison before it dials others.
const FIRST_SYNC_HOLD: Duration = Duration::from_millis(500);

/// From whom a random link is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Among {
    All,
    Unlinked,
}

impl Swim {
    pub(super) fn connection(&mut self, peer: &NodeName, change: ConnectionChange, now: Instant) {
        match change {
            ConnectionChange::Up { address } => self.link_up(peer, address, now),
            ConnectionChange::Rtt(rtt) => {
                if let Some(link) = self.links.get_mut(peer) {
                    link.rtt = Some(rtt);
                }
            }
            ConnectionChange::Down { reason } => self.link_down(peer, reason, now),
            ConnectionChange::DialFailed { reason } => {
                let (min, max) = (self.config.dial_backoff_min, self.config.dial_backoff_max);
                if let Some(attempts) = self.dials.get_mut(peer) {
                    attempts.failed(min, max, &mut self.rng, now);
                }
                if self.view.rovers.iter().any(|rover| rover == peer) {
                    self.view.rovers.retain(|rover| rover != peer);
                    self.view.stale = true;
                }
                self.widen_waiting(peer, reason, now);
                self.asked_waiting(peer, Err(reason), now);
                self.timers.set_earlier(Timer::Links, now + min);
            }
        }
    }

    fn link_up(&mut self, peer: &NodeName, address: SocketAddr, now: Instant) {
        if self.phase == Phase::Out {
            return self.act(Action::Close { peer: peer.clone(), why: CloseReason::Evicted });
        }
        if self.links.is_up(peer) {
            // Replaced by a new connection: the streams of the old one are gone.
            self.drop_exchanges(peer, now);
        }
        let dialled = self.is_dialling(peer, address, now);
        self.links.insert(peer.clone(), Link { address, since: now, rtt: None, dialled, used: now });
        self.view.stale = true;
        if let Some(old) = self.view.rovers.arrived(peer) {
            self.refresh_view();
            if !self.needs_link(&old) {
                self.close_link(&old, CloseReason::Evicted, now);
            }
        }
        self.bound_pool(peer, now);
        if let Some(attempts) = self.dials.get_mut(peer) {
            attempts.succeeded(now);
        }
        if let Some(member) = self.members.get_mut(peer) {
            member.observe(address);
            member.contact_mut().missed = 0;
        }
        if self.phase == Phase::Joined {
            self.ping_waiting(peer, now);
            self.asked_waiting(peer, Ok(()), now);
            if let Some(own) = self.own_life.clone().filter(|_| dialled) {
                // Whoever we dial may not have heard of us.
                self.send(peer, &[Message::Life(own)]);
            }
            if self.compares_at_first(peer) {
                self.first_sync(peer, now);
            }
            if self.view.wanted.len() > self.links.len() {
                self.timers.set_earlier(Timer::Links, now + self.config.forward_window);
            }
        }
    }

    /// Was it we who dialled the connection that came up?
    fn is_dialling(&self, peer: &NodeName, address: SocketAddr, now: Instant) -> bool {
        let as_seed = |(seed, attempts): (&Seed, &Attempts)| {
            // A seed in words may be anybody.
            attempts.is_in_flight(now) && seed.0.parse::<SocketAddr>().is_ok_and(|named| named == address)
        };
        self.dials.get(peer).is_some_and(|attempts| attempts.is_in_flight(now)) || self.seeds.iter().any(as_seed)
    }

    /// Beyond the pool's limit the link goes that nothing has needed for the longest time.
    fn bound_pool(&mut self, newest: &NodeName, now: Instant) {
        if self.links.len() <= LINKS_MAX {
            return;
        }
        let mut links: Vec<_> = self.links.iter().map(|(peer, link)| (link.used, peer)).collect();
        links.sort_unstable();
        // Whether a link is needed takes longer to find out than the order in which they were.
        let oldest = links.into_iter().map(|(_, peer)| peer).find(|peer| *peer != newest && !self.needs_link(peer));
        if let Some(peer) = oldest.cloned() {
            self.close_link(&peer, CloseReason::Evicted, now);
        }
    }

    /// Does the view or anything in flight need the link with this peer?
    fn needs_link(&self, peer: &NodeName) -> bool {
        let doubted = |name| self.members.get(name).is_some_and(|member| member.suspicion().is_some());
        self.view.wanted.contains(peer)
            || self.view.rovers.iter().any(|rover| rover == peer)
            || self.is_probed(peer)
            || self.relays.values().any(|relay| relay.target == *peer || relay.origin == *peer)
            || self.exchanges_with(peer)
            || self.is_asked(peer)
            || doubted(peer)
    }

    /// Closes links that we dialled for something that is over. Links of others are theirs to close.
    pub(super) fn sweep_links(&mut self, now: Instant) {
        if self.phase != Phase::Joined || self.size() <= self.config.full_view_members_max {
            return;
        }
        if now.saturating_duration_since(self.links.swept.unwrap_or(self.started)) < LINKS_INTERVAL {
            return;
        }
        self.links.swept = Some(now);
        self.refresh_view();
        let peers: Vec<NodeName> = self.links.names().cloned().collect();
        for peer in peers {
            // Who is no member yet, or held dead, has other things to settle first.
            let needed = !self.members.is_present(&peer) || self.needs_link(&peer);
            let Some(link) = self.links.get_mut(&peer) else { continue };
            if needed {
                link.used = now;
            } else if link.dialled && now.saturating_duration_since(link.used) >= LINK_SPARE_TIME {
                self.close_link(&peer, CloseReason::Evicted, now);
            }
        }
        let view = &self.view;
        self.dials.retain(|name, attempts| attempts.is_worth_keeping(now) || view.wanted.contains(name));
    }

    fn link_down(&mut self, peer: &NodeName, reason: DownReason, now: Instant) {
        // The end of a connection that we replaced says nothing about the new one.
        let replaced = self.closing.remove(peer);
        let lived = self.links.get(peer).map(|link| now.saturating_duration_since(link.since));
        let Some(lived) = lived.filter(|_| !(replaced && reason == DownReason::Local)) else { return };
        self.links.remove(peer);
        self.view.stale = true;
        self.part(peer, reason == DownReason::Evicted);
        self.drop_exchanges(peer, now);
        if self.phase == Phase::Joined && self.members.is_present(peer) {
            // Nothing by itself: a fresh connection tells. At once, since the peer may be a new process.
            let backoff = (self.config.dial_backoff_min, self.config.dial_backoff_max);
            let attempts = self.dials.entry(peer.clone()).or_insert_with(|| Attempts::from(now));
            attempts.ended(lived, backoff, &mut self.rng, now);
            if reason == DownReason::Reset && attempts.is_due(now) {
                self.dial_member(peer, DialReason::Link, now);
            }
            self.timers.set_earlier(Timer::Links, now);
        } else if self.members.alive() == 0 {
            // A seed that is full let us in and out again: that dial is over, too.
            self.seeds.keys().cloned().collect::<Vec<_>>().iter().for_each(|seed| self.seed_failed(seed, now));
        }
    }

    /// Another agent answers under our name, and it was here first: we close everything and say no more.
    pub(super) fn stay_out(&mut self, now: Instant) {
        self.quiet = true;
        self.phase = Phase::Out;
        self.stop_probing();
        self.timers.clear();
        let peers: Vec<NodeName> = self.links.names().cloned().collect();
        peers.iter().for_each(|peer| self.close_link(peer, CloseReason::Evicted, now));
        self.timers.set(Timer::Sweep, now + SWEEP_INTERVAL);
        self.alarm(Alarm::NameTaken { name: self.me.name.clone() }, now);
    }

    /// Of a member with which we dealt for a while we keep no more than of all others.
    fn part(&mut self, peer: &NodeName, in_peace: bool) {
        if let Some(member) = self.members.get_mut(peer).filter(|member| in_peace && member.state == MemberState::Alive)
        {
            member.part();
        }
    }

    pub(super) fn close_link(&mut self, peer: &NodeName, why: CloseReason, now: Instant) {
        if self.links.remove(peer) {
            self.view.stale = true;
            self.closing.insert(peer.clone());
            self.part(peer, why == CloseReason::Evicted);
            self.drop_exchanges(peer, now);
            self.act(Action::Close { peer: peer.clone(), why });
        }
    }

    /// Dials one member, unless that is under way or it is connected.
    pub(super) fn dial_member(&mut self, name: &NodeName, why: DialReason, now: Instant) {
        let addresses = match self.members.get(name) {
            Some(member) => member.addresses(),
            None => self.book.get(name).cloned().unwrap_or_default(),
        };
        if addresses.is_empty() || self.links.is_up(name) || self.phase != Phase::Joined {
            return;
        }
        let attempts = self.dials.entry(name.clone()).or_insert_with(|| Attempts::from(now));
        if attempts.is_in_flight(now) {
            return;
        }
        attempts.begin(now);
        self.act(Action::Dial { target: DialTarget::Member(name.clone()), addresses, why });
    }

    /// Brings the view in line with members and links that came or went.
    pub(super) fn refresh_view(&mut self) {
        if !std::mem::take(&mut self.view.stale) {
            return;
        }
        let (members, view) = (&self.members, &mut self.view);
        let present = || members.iter().filter(|(_, member)| member.is_present()).map(|(name, _)| name);
        if view.rings.has_hole() {
            view.rings.fill(present());
        }
        if members.present() < self.config.full_view_members_max {
            view.rovers = Rovers::default();
            view.wanted = present().cloned().collect();
        } else {
            let mut wanted = view.rings.neighbours();
            view.rovers.retain(|name| members.is_present(name) && !wanted.contains(name));
            view.rovers.trim(Rovers::share(self.config.links, wanted.len()));
            wanted.extend(view.rovers.iter().cloned());
            // Links that others chose count as much, as far as their number is sane.
            let room = (self.config.links + self.config.links / 4).saturating_sub(wanted.len());
            let theirs = self.links.iter().filter(|(name, link)| !link.dialled && members.is_present(name));
            let theirs = theirs.map(|(name, _)| name).filter(|name| !wanted.contains(*name)).take(room);
            let theirs: Vec<NodeName> = theirs.cloned().collect();
            wanted.extend(theirs);
            view.wanted = wanted;
        }
        self.ring.update(&self.view.wanted, &mut self.rng);
    }

    /// Chooses as many random links as are ours to choose: first of those that are up and needed no longer.
    fn choose_rovers(&mut self) {
        if self.members.present() < self.config.full_view_members_max {
            return;
        }
        let ring = self.view.rings.neighbours().len();
        for _ in self.view.rovers.len()..Rovers::share(self.config.links, ring) {
            // Linked already or not: were a spare link preferred, everybody would keep the seed that let it in.
            let Some(name) = self.random_rover(Among::All) else { return };
            self.view.rovers.choose(name);
            self.view.stale = true;
            self.refresh_view();
        }
    }

    fn may_rove(&self, name: &NodeName) -> bool {
        let alive = self.members.get(name).is_some_and(|member| member.state == MemberState::Alive);
        alive && !self.view.wanted.contains(name)
    }

    /// Any member beyond the view; evenly, as far as those that may be drawn lie evenly among all.
    fn random_rover(&mut self, among: Among) -> Option<NodeName> {
        let from = self.rng.random_range(0..self.members.len().max(1));
        let names = || self.members.iter().map(|(name, _)| name);
        let mut after = names().skip(from).chain(names().take(from));
        after.find(|name| self.may_rove(name) && (among == Among::All || !self.links.is_up(name))).cloned()
    }

    /// The oldest random link goes as soon as a new one is there.
    pub(super) fn rotate(&mut self, now: Instant) {
        if self.phase != Phase::Joined {
            return;
        }
        let wait = self.config.link_rotation.mul_f64(self.rng.random_range(0.75..1.25));
        self.timers.set(Timer::Rotate, now + wait);
        self.refresh_view();
        if self.members.present() < self.config.full_view_members_max || self.view.rovers.is_replacing() {
            return;
        }
        if self.view.rovers.len() > 0
            && let Some(name) = self.random_rover(Among::Unlinked)
        {
            self.view.rovers.replace(name.clone());
            self.view.stale = true;
            self.dial_member(&name, DialReason::Link, now);
            self.refresh_view();
        }
    }

    /// Dials what the view lacks, and seeds while we are alone.
    pub(super) fn update_links(&mut self, now: Instant) {
        if self.phase != Phase::Joined {
            return;
        }
        self.refresh_view();
        self.choose_rovers();
        let mut next = now + LINKS_INTERVAL;
        if let Some(until) = self.held_for_first_sync(now) {
            self.dial_lonely(&mut next, now);
            return self.timers.set_earlier(Timer::Links, next.min(until));
        }
        let mut in_flight = self.dials.values().filter(|attempts| attempts.is_in_flight(now)).count();
        let missing: Vec<NodeName> = self.view.wanted.iter().filter(|name| !self.links.is_up(name)).cloned().collect();
        for name in missing {
            // One of the two dials at once; the other only if that does not happen.
            let grace = if self.me.name < name { Duration::ZERO } else { self.config.dial_grace };
            let attempts = self.dials.entry(name.clone()).or_insert_with(|| Attempts::from(now + grace));
            if attempts.is_due(now) && in_flight < DIALS_MAX {
                in_flight += 1;
                self.dial_member(&name, DialReason::Link, now);
            }
            if let Some(attempts) = self.dials.get(&name) {
                next = next.min(attempts.next());
            }
        }
        self.dial_lonely(&mut next, now);
        self.timers.set_earlier(Timer::Links, next.max(now + self.config.forward_window));
    }

    /// While a large mesh forms, who is a neighbour changes with each newcomer; who has links already lets it settle.
    pub(super) fn settling(&self) -> Duration {
        if self.links.len() >= SETTLED_LINKS_MIN { VIEW_SETTLE } else { Duration::ZERO }
    }

    fn dial_lonely(&mut self, next: &mut Instant, now: Instant) {
        if rejoin::is_lonely(self.members.alive(), self.high_water) {
            *next = (*next).min(self.dial_seeds(now)).min(self.dial_book(now));
        }
    }

    /// Who joins first hears who is there, and then dials: until then it would dial whomever it hears of first.
    fn held_for_first_sync(&self, now: Instant) -> Option<Instant> {
        let first = self.links.iter().map(|(_, link)| link.since).min().filter(|_| self.synced != Synced::Yes)?;
        Some(first + FIRST_SYNC_HOLD).filter(|until| *until > now)
    }

    fn dial_seeds(&mut self, now: Instant) -> Instant {
        let mut next = now + LINKS_INTERVAL;
        let mut due = Vec::new();
        for (seed, attempts) in &mut self.seeds {
            if attempts.is_due(now) && due.len() < DIALS_MAX {
                attempts.begin(now);
                due.push(seed.clone());
            }
            next = next.min(attempts.next());
        }
        for seed in due {
            let (target, addresses) = (DialTarget::Seed(seed), Vec::new());
            self.act(Action::Dial { target, addresses, why: DialReason::Join });
        }
        next
    }

    /// Names whose tombstones are gone: their last addresses are the last resort.
    fn dial_book(&mut self, now: Instant) -> Instant {
        let known = |name: &&NodeName| self.members.get(name).is_none() && !self.links.is_up(name);
        let names: Vec<NodeName> = self.book.keys().filter(known).take(DIALS_MAX).cloned().collect();
        let mut next = now + LINKS_INTERVAL;
        for name in names {
            let attempts = self.dials.entry(name.clone()).or_insert_with(|| Attempts::from(now));
            if attempts.is_due(now) {
                self.dial_member(&name, DialReason::Heal, now);
            }
            if let Some(attempts) = self.dials.get(&name) {
                next = next.min(attempts.next());
            }
        }
        next
    }

    pub(super) fn seed_failed(&mut self, seed: &Seed, now: Instant) {
        let (min, max) = (self.config.dial_backoff_min, self.config.dial_backoff_max);
        if let Some(attempts) = self.seeds.get_mut(seed).filter(|attempts| attempts.is_in_flight(now)) {
            attempts.failed(min, max, &mut self.rng, now);
            let at = attempts.next();
            self.timers.set_earlier(Timer::Links, at);
        }
    }

    /// Begins: seeds and whoever the snapshot knew.
    pub(super) fn join(&mut self, seeds: Vec<Seed>, now: Instant) {
        match self.phase {
            Phase::Idle => {}
            Phase::Joined => {
                // More seeds for a running node.
                for seed in seeds.into_iter().take(SEEDS_MAX.saturating_sub(self.seeds.len())) {
                    self.seeds.entry(seed).or_insert_with(|| Attempts::from(now));
                }
                return self.timers.set_earlier(Timer::Links, now);
            }
            Phase::Out | Phase::Leaving | Phase::Left => return,
        }
        self.phase = Phase::Joined;
        for seed in seeds.into_iter().take(SEEDS_MAX) {
            self.seeds.insert(seed, Attempts::from(now));
        }
        self.announce();
        self.write_own(now);
        let peers: Vec<NodeName> = self.links.names().cloned().collect();
        for peer in peers {
            self.first_sync(&peer, now);
        }
        // Starts are spread, so that a mesh that starts at once does not probe in step.
        let jitter = self.config.probe_interval.mul_f64(self.rng.random_range(0.0..1.0));
        self.timers.set(Timer::ProbeTick, now + jitter);
        self.timers.set(Timer::Heal, now + self.config.heal_interval);
        self.timers.set(Timer::Rotate, now + self.config.link_rotation.mul_f64(self.rng.random_range(0.5..1.0)));
        self.timers.set_earlier(Timer::AntiEntropy, now + self.config.anti_entropy_interval);
        self.timers.set(Timer::Links, now);
        let nobody = self.seeds.is_empty() && self.members.len() == 0 && self.restoring.is_empty();
        if nobody && self.room.is_empty() && self.links.len() == 0 {
            self.synced = Synced::Judging;
        }
    }

    /// Calls one dead member now and then: a partition heals when any two of its sides meet.
    pub(super) fn heal_tick(&mut self, now: Instant) {
        if self.phase != Phase::Joined {
            return;
        }
        let tick = self.config.heal_interval.mul_f64(self.rng.random_range(0.75..1.25));
        self.timers.set(Timer::Heal, now + tick);
        if !self.rng.random_bool(rejoin::call_chance(self.size())) {
            return;
        }
        let due: Vec<NodeName> =
            self.calls.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        if due.is_empty() {
            return;
        }
        let Some(name) = due.get(self.rng.random_range(0..due.len())).cloned() else { return };
        let dead_for = match self.members.get(&name) {
            Some(member) if member.state == MemberState::Dead => now.saturating_duration_since(member.since),
            Some(_) | None => {
                self.calls.remove(&name);
                return;
            }
        };
        self.calls.insert(name.clone(), now + rejoin::call_pause(dead_for, self.config.heal_interval));
        if self.links.is_up(&name) {
            // Connected, and still held dead: comparing lets it answer.
            self.first_sync(&name, now);
        } else {
            self.dial_member(&name, DialReason::Heal, now);
        }
    }

    /// What the store remembered; nothing of it counts before it was verified again.
    pub(super) fn restore(&mut self, items: Vec<Restored>, now: Instant) {
        // Credentials first, then lives, then records: each needs the one before.
        let mut items = items;
        items.sort_by_key(|item| match item {
            Restored::AddressBook { .. } => 0,
            Restored::Revocation { .. } => 1,
            Restored::Document { .. } => 2,
            Restored::Credential { .. } => 3,
            Restored::Member { .. } => 4,
            Restored::Record { .. } => 5,
        });
        for item in items {
            if self.restoring.len() >= RESTORE_MAX {
                self.stats.drop(Drop::TableFull);
                continue;
            }
            self.restoring.push_back(item);
        }
        self.pump_restore(now);
    }

    /// Feeds the snapshot to the waiting room as room becomes free.
    pub(super) fn pump_restore(&mut self, now: Instant) {
        while self.room.len() < RESTORE_SHARE && self.room.bytes() < RESTORE_BYTES {
            let Some(item) = self.restoring.pop_front() else { return };
            self.restore_one(item, now);
        }
    }

    /// True while operators' words of the store wait for their verdicts.
    pub(super) fn restores_words(&self) -> bool {
        // They come before all that is not an address.
        let next = self.restoring.front();
        let more = next.is_some_and(|item| match item {
            Restored::AddressBook { .. } | Restored::Document { .. } | Restored::Revocation { .. } => true,
            Restored::Credential { .. } | Restored::Member { .. } | Restored::Record { .. } => false,
        });
        more || self.room.restoring() > 0
    }

    fn restore_one(&mut self, item: Restored, now: Instant) {
        let source = Source { from: None, via: Via::Snapshot };
        match item {
            Restored::AddressBook { name, bytes } => match snapshot::read_addresses(&bytes) {
                Ok(addresses) if self.book.len() < ADDRESS_BOOK_MAX => {
                    self.book.insert(name, addresses);
                }
                Ok(_) | Err(_) => self.stats.drop(Drop::BadSnapshot),
            },
            Restored::Credential { owner, bytes } => {
                let hash = credential_hash(&bytes);
                self.offer(Item::Credential { owner, hash, bytes }, source, now);
            }
            Restored::Document { bytes } => match SignedDocument::read(&bytes) {
                Ok(document) => self.offer(Item::Document(Box::new(document)), source, now),
                Err(_) => self.stats.drop(Drop::BadSnapshot),
            },
            Restored::Revocation { bytes } => match SignedRevocation::read(&bytes) {
                Ok(revocation) => self.offer(Item::Revocation(Box::new(revocation)), source, now),
                Err(_) => self.stats.drop(Drop::BadSnapshot),
            },
            Restored::Member { name, bytes } => self.restore_member(&name, &bytes, &source, now),
            Restored::Record { owner, kind, shard: _, bytes } => match wire::read_record(&bytes) {
                Ok(parts) if parts.head.owner == owner => {
                    if owner == self.me.name {
                        self.restore_own(kind, &parts, bytes, source, now);
                    } else {
                        self.offer(Item::Record { parts: Box::new(parts), bytes }, source, now);
                    }
                }
                Ok(_) | Err(_) => self.stats.drop(Drop::BadSnapshot),
            },
        }
    }

    /// Our own records of the life before: they tell which kinds peers hold, and which epochs are used up.
    fn restore_own(
        &mut self,
        kind: RecordKind,
        parts: &wire::RecordParts,
        bytes: bytes::Bytes,
        source: Source,
        now: Instant,
    ) {
        if Self::is_rewritten(kind) && !self.own.was_put(kind) {
            self.outlived.insert(kind);
        }
        if parts.head.version.epoch >= self.life.epoch {
            self.offer(Item::Record { parts: Box::new(parts.clone()), bytes }, source, now);
        }
    }

    fn restore_member(&mut self, name: &NodeName, bytes: &[u8], source: &Source, now: Instant) {
        let Ok(saved) = snapshot::read_member(bytes) else {
            return self.stats.drop(Drop::BadSnapshot);
        };
        if self.restored.len() < MEMBERS_MAX {
            self.restored.insert(name.clone(), (saved.state, saved.observed));
        }
        let statements = std::iter::once(saved.alive).chain(saved.leave);
        for signed in statements {
            match wire::read_life(&signed.body) {
                Ok(claim) if claim.name() == name => {
                    self.offer(Item::Life { proof: signed.hash(), claim, signed }, source.clone(), now);
                }
                Ok(_) | Err(_) => self.stats.drop(Drop::BadSnapshot),
            }
        }
    }

    /// Emits readiness when there turned out to be nobody to ask.
    pub(super) fn emit_ready(&mut self) {
        let members = self.size();
        self.emit(Event::Synced { members });
    }
}
