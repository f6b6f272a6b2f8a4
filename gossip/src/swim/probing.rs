//! Probes: the round, their paths, relays for others, verdicts (SWIM 3.1; Lifeguard, IV-A).

use std::time::{Duration, Instant};

use rand::RngExt as _;
use starling_model::{MemberState, NodeName};

use super::{Phase, Swim};
use crate::action::{CloseReason, DialReason, DownReason, PathResult, Reach, Roots, Step};
use crate::anti_entropy;
use crate::config::{Buddy, Eviction, HealthRule, Rounds};
use crate::forward;
use crate::limits::{EXCHANGES_MAX, PROBES_MAX, RELAY_TIME_MAX, RELAYS_MAX};
use crate::members::Member;
use crate::probe::{Probe, Purpose, Relay};
use crate::stats::Drop;
use crate::timers::Timer;
use crate::wire::Message;

/// Acks that one connection may owe in a row, while others reach the member, before it is replaced.
const MISSED_MAX: u32 = 2;

impl Swim {
    /// The next round: one probe in flight, the next tick follows its verdict.
    pub(super) fn probe_tick(&mut self, now: Instant) {
        if self.phase != Phase::Joined {
            return;
        }
        self.refresh_view();
        let period = self.period();
        self.timers.set(Timer::ProbeTick, now + period);
        // Whoever is being verified is skipped: that probe answers for both.
        for _ in 0..self.view.wanted.len() {
            let Some(target) = self.ring.next(&mut self.rng) else { return };
            if self.members.is_present(&target) && !self.is_probed(&target) {
                return self.probe(&target, Purpose::Round, now);
            }
        }
    }

    pub(super) fn is_probed(&self, target: &NodeName) -> bool {
        self.probes.values().any(|probe| probe.target == *target)
    }

    /// Begins one probe ladder.
    pub(super) fn probe(&mut self, target: &NodeName, purpose: Purpose, now: Instant) {
        let Some(member) = self.members.get(target) else { return };
        if self.probes.len() >= PROBES_MAX {
            return self.stats.drop(Drop::Busy);
        }
        let (life, wait) = (member.life(), self.direct_wait(member));
        let nonce = self.nonce();
        let linked = self.links.is_up(target);
        let verdict_at = now + self.period();
        let probe = Probe {
            target: target.clone(),
            life,
            purpose,
            began: now,
            pinged: None,
            widened: false,
            stream: PathResult::Unused,
            dial: if linked { PathResult::Unused } else { PathResult::Silent },
            verdict_at,
            asked: Default::default(),
            nacks: Default::default(),
        };
        self.probes.insert(nonce, probe);
        self.timers.set(Timer::ProbeDirect(nonce), now + wait);
        self.timers.set(Timer::ProbeVerdict(nonce), verdict_at);
        if linked {
            self.ping(nonce, now);
        } else {
            self.dial_member(target, DialReason::Probe, now);
        }
    }

    pub(super) fn nonce(&mut self) -> u64 {
        loop {
            let nonce = self.rng.random();
            let taken = self.probes.contains_key(&nonce) || self.relays.contains_key(&nonce);
            if !taken && !self.pings.contains_key(&nonce) {
                return nonce;
            }
        }
    }

    /// The direct ping of a probe, with the suspicion first if there is one.
    fn ping(&mut self, nonce: u64, now: Instant) {
        let Some(probe) = self.probes.get_mut(&nonce) else { return };
        probe.pinged.get_or_insert(now);
        let target = probe.target.clone();
        let mut messages: Vec<Message> = self.buddy(&target, Buddy::Pings).into_iter().collect();
        messages.push(Message::Ping { nonce });
        self.send(&target, &messages);
    }

    /// The direct wait is over: all other paths at once.
    pub(super) fn probe_widen(&mut self, nonce: u64, now: Instant) {
        let Some(probe) = self.probes.get(&nonce) else { return };
        let (target, verdict_at) = (probe.target.clone(), probe.verdict_at);
        if probe.widened {
            return;
        }
        let ask = match probe.purpose {
            Purpose::Round => self.config.indirect_probes,
            Purpose::Verify if self.is_in_doubt_of_itself(&target) => self.config.indirect_probes,
            Purpose::Verify => self.config.indirect_probes.min(VERIFY_HELPERS),
        };
        let helps = |name: &&NodeName| {
            **name != target && self.members.get(name).is_some_and(|member| member.state == MemberState::Alive)
        };
        let mut helpers: Vec<NodeName> = self.links.names().filter(helps).cloned().collect();
        forward::draw(&mut helpers, ask, &mut self.rng);
        let left = verdict_at.saturating_duration_since(now);
        let wait_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        for helper in &helpers {
            self.send(helper, &[Message::PingReq { nonce, target: target.clone(), wait_ms }]);
        }
        if let Some(probe) = self.probes.get_mut(&nonce) {
            probe.widened = true;
            probe.asked = helpers.into_iter().collect();
        }
        if self.links.is_up(&target) && self.exchanges.len() < EXCHANGES_MAX {
            let id = self.open_exchange(&target, anti_entropy::Purpose::Ping, now);
            let mut messages: Vec<Message> = self.buddy(&target, Buddy::Pings).into_iter().collect();
            messages.push(Message::Ping { nonce });
            self.send_sync(&target, id, &messages, true);
            if let Some(probe) = self.probes.get_mut(&nonce) {
                probe.stream = PathResult::Silent;
            }
        }
    }

    /// Did a ladder of ours for this member fail while its helpers were silent too?
    fn is_in_doubt_of_itself(&self, target: &NodeName) -> bool {
        let suspicion = self.members.get(target).and_then(Member::suspicion);
        suspicion.is_some_and(|suspicion| suspicion.inconclusive > 0)
    }

    /// The period is over and nobody answered.
    pub(super) fn probe_verdict(&mut self, nonce: u64, now: Instant) {
        let Some(probe) = self.probes.remove(&nonce) else { return };
        self.timers.cancel(&Timer::ProbeDirect(nonce));
        self.stats.probes_failed += 1;
        // Verifications come in bursts when somebody dies; only the round measures ourselves.
        if probe.purpose == Purpose::Round {
            self.health.probe_failed(probe.asked.len(), probe.nacks.len());
            self.isolation.unanswered();
        }
        if probe.asked.is_empty() {
            // Nobody to tell a silent member from a silent connection.
            self.owe_ack(&probe.target, nonce, now);
        }
        let step = Step::ProbeFailed(probe.trail(self.health.score()));
        self.testify(&probe.target, probe.life, step);
        self.own_verdict(&probe, now);
    }

    /// A connection did not answer. It can look alive for its whole idle time, so one that owes too much gives way to a
    /// fresh one. Not so while nobody else hears the member either: it stands still, and goes on with what it has.
    fn owe_ack(&mut self, peer: &NodeName, nonce: u64, now: Instant) {
        let linked = self.links.is_up(peer);
        let Some(member) = self.members.get_mut(peer) else { return };
        let contact = member.contact_mut();
        contact.missed = if linked { contact.missed + 1 } else { 0 };
        contact.owed = linked.then_some(nonce);
        if contact.missed >= MISSED_MAX {
            contact.missed = 0;
            self.close_link(peer, CloseReason::Stale, now);
            self.dial_member(peer, DialReason::Probe, now);
        }
    }

    /// Some path answered: the probe is over.
    fn probe_acked(&mut self, nonce: u64, path: Reach, now: Instant) {
        let Some(probe) = self.probes.remove(&nonce) else { return };
        self.timers.cancel(&Timer::ProbeDirect(nonce));
        self.timers.cancel(&Timer::ProbeVerdict(nonce));
        self.health.probe_acked();
        self.isolation.answered();
        if probe.widened {
            self.stats.probes_acked_indirectly += 1;
        } else {
            self.stats.probes_acked += 1;
        }
        if probe.purpose == Purpose::Round && self.config.rounds == Rounds::Plain {
            self.timers.set(Timer::ProbeTick, now.max(probe.began + self.config.probe_interval));
        }
        let again = now + (self.window().min / 2).max(self.period());
        if probe.pinged.is_some() && matches!(path, Reach::Relay(_)) {
            self.owe_ack(&probe.target, nonce, now);
        }
        let Some(member) = self.members.get_mut(&probe.target) else { return };
        if let (Some(pinged), false) = (probe.pinged, probe.widened) {
            let rtt = now.saturating_duration_since(pinged);
            member.contact_mut().rtt.observe(rtt);
            self.stats.probe_rtt.observe(rtt);
        }
        let own = self.config.eviction == Eviction::OwnVerdict;
        if let Some(suspicion) = member.suspicion_mut().filter(|_| own) {
            // It lives, but only its own word clears it: go on looking until that comes.
            suspicion.own_failure = None;
            self.timers.set(Timer::Verification(probe.target.clone()), again);
            self.testify_answer(&probe.target, path);
        }
    }

    /// An answer to one of our nonces: of a probe, or of a ping made for somebody else.
    pub(super) fn on_ack(&mut self, from: &NodeName, nonce: u64, roots: Roots, path: Reach, now: Instant) {
        if let Some(relay) = self.relays.get(&nonce).filter(|relay| relay.target == *from) {
            let (origin, origin_nonce) = (relay.origin.clone(), relay.origin_nonce);
            self.relays.remove(&nonce);
            self.timers.cancel(&Timer::RelayNack(nonce));
            self.timers.cancel(&Timer::RelayEnd(nonce));
            self.seen(from, roots, now);
            return self.send(&origin, &[Message::RelayedAck { nonce: origin_nonce }]);
        }
        if self.asked_acked(from, nonce, now) {
            return self.seen(from, roots, now);
        }
        if self.members.get(from).is_some_and(|member| member.contact().owed == Some(nonce)) {
            // Late, and after a relay's word, but the connection works.
            return self.seen(from, roots, now);
        }
        if self.probes.get(&nonce).is_none_or(|probe| probe.target != *from) {
            return self.stats.drop(Drop::UnaskedAnswer);
        }
        self.seen(from, roots, now);
        self.probe_acked(nonce, path, now);
    }

    /// A peer proved itself on a path of our own.
    fn seen(&mut self, from: &NodeName, roots: Roots, now: Instant) {
        if self.note_roots(from, roots).is_none() {
            return;
        }
        let Some(member) = self.members.get_mut(from) else { return };
        let contact = member.contact_mut();
        contact.last_seen = Some(now);
        (contact.missed, contact.owed) = (0, None);
        let alive = member.state == MemberState::Alive;
        match (alive, roots.state == self.roots().state) {
            (true, true) => self.in_step(),
            (true, false) => self.advise_sync(from, now),
            (false, _) => {}
        }
        if alive && roots.documents != self.operators.root() {
            self.advise_agreement(from, now);
        }
    }

    pub(super) fn on_relayed_ack(&mut self, from: &NodeName, nonce: u64, now: Instant) {
        if self.probes.get(&nonce).is_none_or(|probe| !probe.asked.contains(from)) {
            return self.stats.drop(Drop::UnaskedAnswer);
        }
        self.probe_acked(nonce, Reach::Relay(from.clone()), now);
    }

    pub(super) fn on_nack(&mut self, from: &NodeName, nonce: u64) {
        match self.probes.get_mut(&nonce).filter(|probe| probe.asked.contains(from)) {
            Some(probe) => {
                probe.nacks.insert(from.clone());
            }
            None => self.stats.drop(Drop::UnaskedAnswer),
        }
    }

    pub(super) fn ack(&self, nonce: u64) -> Message {
        Message::Ack { nonce, roots: self.roots(), health: self.health.score() }
    }

    pub(super) fn answer_ping(&mut self, from: &NodeName, nonce: u64, now: Instant) {
        let mut messages = Vec::with_capacity(2);
        // A member that we hold dead and that speaks is told so, but not at every ping.
        let told = self.told_dead.get(from).is_some_and(|at| now.saturating_duration_since(*at) < TELL_DEAD_PAUSE);
        if !told && let Some(doubt) = self.buddy(from, Buddy::PingsAndAnswers) {
            self.told_dead.insert(from.clone(), now);
            messages.push(doubt);
        }
        messages.push(self.ack(nonce));
        self.send(from, &messages);
    }

    /// Somebody cannot reach `target`: try for it.
    pub(super) fn on_ping_req(&mut self, from: &NodeName, nonce: u64, target: &NodeName, wait_ms: u32, now: Instant) {
        if *target == self.me.name || self.relays.len() >= RELAYS_MAX || self.phase != Phase::Joined {
            return self.stats.drop(Drop::Busy);
        }
        let wait = Duration::from_millis(wait_ms.into()).min(RELAY_TIME_MAX);
        let own = self.nonce();
        let up = self.links.is_up(target);
        let known = self.members.get(target).is_some();
        let relay = Relay { origin: from.clone(), origin_nonce: nonce, target: target.clone(), pinged: up };
        self.relays.insert(own, relay);
        if self.config.health_rule != HealthRule::Off {
            self.timers.set(Timer::RelayNack(own), now + wait.mul_f64(NACK_AT));
        }
        self.timers.set(Timer::RelayEnd(own), now + wait * 2);
        if up {
            self.relay_ping(own, target);
        } else if known {
            self.dial_member(target, DialReason::Probe, now);
        }
    }

    fn relay_ping(&mut self, nonce: u64, target: &NodeName) {
        let mut messages: Vec<Message> = self.buddy(target, Buddy::Pings).into_iter().collect();
        messages.push(Message::Ping { nonce });
        self.send(target, &messages);
    }

    /// No ack so far: say that at least we are there. A later ack is still passed on.
    pub(super) fn relay_nack(&mut self, nonce: u64, _now: Instant) {
        if let Some(relay) = self.relays.get(&nonce) {
            let (origin, nonce) = (relay.origin.clone(), relay.origin_nonce);
            self.send(&origin, &[Message::Nack { nonce }]);
        }
    }

    /// A link came up: the pings that waited for it.
    pub(super) fn ping_waiting(&mut self, peer: &NodeName, now: Instant) {
        let waits = |probe: &Probe| probe.target == *peer && probe.pinged.is_none();
        let probes: Vec<u64> = self.probes.iter().filter(|(_, probe)| waits(probe)).map(|(nonce, _)| *nonce).collect();
        for nonce in probes {
            self.ping(nonce, now);
        }
        let mut relays = Vec::new();
        for (nonce, relay) in self.relays.iter_mut().filter(|(_, relay)| relay.target == *peer && !relay.pinged) {
            relay.pinged = true;
            relays.push(*nonce);
        }
        for nonce in relays {
            self.relay_ping(nonce, peer);
        }
    }

    /// A dial failed: probes that waited for it need not wait for their direct deadline.
    pub(super) fn widen_waiting(&mut self, peer: &NodeName, reason: DownReason, now: Instant) {
        let waits = |probe: &Probe| probe.target == *peer && probe.pinged.is_none() && !probe.widened;
        let probes: Vec<u64> = self.probes.iter().filter(|(_, probe)| waits(probe)).map(|(nonce, _)| *nonce).collect();
        for nonce in probes {
            if let Some(probe) = self.probes.get_mut(&nonce) {
                probe.dial = PathResult::Broken(reason);
            }
            self.timers.cancel(&Timer::ProbeDirect(nonce));
            self.probe_widen(nonce, now);
        }
    }

    /// The driver's send queues fill up: what we send leaves late, and acks of others seem late to us.
    pub(super) fn report_send_queue(&mut self, percent: u8, now: Instant) {
        let blamed = self.queue_blamed.is_some_and(|at| now.saturating_duration_since(at) < self.config.probe_interval);
        if percent > 50 && !blamed {
            self.queue_blamed = Some(now);
            self.health.blamed();
        }
    }

    /// Ends all probing: we leave.
    pub(super) fn stop_probing(&mut self) {
        for nonce in std::mem::take(&mut self.probes).into_keys() {
            self.timers.cancel(&Timer::ProbeDirect(nonce));
            self.timers.cancel(&Timer::ProbeVerdict(nonce));
        }
        self.timers.cancel(&Timer::ProbeTick);
        self.stop_pings();
    }
}

/// Helpers of a verification. All members verify, each from a place of its own: one helper saves each from a broken edge,
/// and more would only repeat what the others do.
const VERIFY_HELPERS: usize = 1;
/// A relay nacks at this share of the time it was given (Lifeguard, IV-A).
const NACK_AT: f64 = 0.8;
/// A member held dead is told so at most this often.
const TELL_DEAD_PAUSE: Duration = Duration::from_millis(500);
