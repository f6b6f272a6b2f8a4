//! Who is in which state: lives, doubts, deaths, leaves. Only the member itself clears a doubt, and nobody is dead here
//! without our own failed probes.

use std::time::Instant;

use rand::RngExt as _;
use starling_model::{Life, MemberState, NodeName};

use super::Swim;
use crate::action::{Alarm, Change, CloseReason, Event, Step};
use crate::announced::Announced;
use crate::broadcasts::{Class, Subject};
use crate::config::{Eviction, HealthRule};
use crate::isolation::Guard;
use crate::limits::{ADDRESS_BOOK_MAX, FORWARD_TO_ALL_MAX, MEMBERS_MAX};
use crate::members::{Claim, Member, is_present, supersedes};
use crate::probe::{Probe, Purpose};
use crate::replica::{Source, Via};
use crate::snapshot;
use crate::stats::Drop;
use crate::suspicion::Suspicion;
use crate::timers::Timer;
use crate::wire::{Accusation, Alive, HashedLife, Leave, Message, SignedLife, Want};

/// Two agents under one name change places at most this often.
const SWITCH_PAUSE: std::time::Duration = std::time::Duration::from_secs(60);

/// Own ladders in a row whose helpers are silent, that do not count yet.
const INCONCLUSIVE_MAX: u32 = 1;
/// Of our protocol periods, what a ladder takes until it has failed, and some time to act on that.
const LADDER_PERIODS: f64 = 1.25;

impl Swim {
    /// A verified `alive` of another member.
    pub(super) fn apply_alive(&mut self, alive: &Alive, word: HashedLife, source: &Source, now: Instant) {
        let name = alive.name.clone();
        let Some(member) = self.members.get_mut(&name) else {
            if self.members.len() >= MEMBERS_MAX {
                self.alarm(Alarm::TableFull, now);
                return self.stats.drop(Drop::TableFull);
            }
            return self.admit_member(&name, alive.life, &word, source, now);
        };
        let new = Claim { life: alive.life, state: MemberState::Alive };
        if new.life == member.life() && member.proof != word.proof {
            return self.forked(&name, alive, word, source, now);
        }
        if !supersedes(new, member.claim()) {
            self.stats.drop(Drop::Stale);
            return self.answer_stale(&name, source);
        }
        let announced = self.hold_life(&word);
        let Some(member) = self.members.get_mut(&name) else { return };
        let (suspicion, before) = (member.take_suspicion(), (member.state, member.life()));
        member.set_life(alive.life);
        member.announce(word.proof, announced);
        if member.contact().leave.is_some() {
            member.contact_mut().leave = None;
        }
        if let Some(suspicion) = &suspicion {
            self.stats.suspicion_ended(now.saturating_duration_since(suspicion.start));
            suspicion.proven.iter().for_each(|accuser| self.accusers.refuted(accuser, now));
        }
        self.testify_life(&name, new.life, before, suspicion, now);
        self.settle_alive(&name, source, now);
    }

    fn admit_member(&mut self, name: &NodeName, life: Life, word: &HashedLife, source: &Source, now: Instant) {
        let announced = self.hold_life(word);
        let mut member = Member::new(name, life, word.proof, announced, now);
        let restored = self.restored.remove(name).filter(|_| source.via == Via::Snapshot);
        if let Some((_, Some(address))) = restored {
            member.observe(address);
        }
        if let Some(link) = self.links.get(name) {
            member.observe(link.address);
        }
        member.state = MemberState::Joining;
        // One name is one piece of memory, here and with the credentials that came before.
        let held = self.credentials.name(name).unwrap_or(name).clone();
        self.members.insert(held, member);
        match restored {
            Some((MemberState::Dead, _)) => {
                self.transition(name, MemberState::Dead, now);
                self.calls.insert(name.clone(), now);
            }
            // A saved leave follows as a statement of its own.
            Some((MemberState::Alive | MemberState::Suspect | MemberState::Joining | MemberState::Left, _)) | None => {
                self.settle_alive(name, source, now);
            }
        }
    }

    /// The newest word of a member is that it lives.
    fn settle_alive(&mut self, name: &NodeName, source: &Source, now: Instant) {
        self.timers.cancel(&Timer::Suspicion(name.clone()));
        self.timers.cancel(&Timer::Verification(name.clone()));
        let subject = Subject::Doubt(name.clone());
        self.broadcasts.remove(&subject);
        self.told_dead.remove(name);
        self.calls.remove(name);
        self.isolation.forget(name);
        self.transition(name, MemberState::Alive, now);
        if self.retells(name, source)
            && let Some(signed) = self.members.get(name).map(|member| member.announced().signed())
        {
            let knows = source.from.as_ref();
            let life = Subject::Life(name.clone());
            self.spread(life.clone(), Class::Life, &Message::Life(signed), knows, now);
            if knows == Some(name) && self.size() <= FORWARD_TO_ALL_MAX {
                // Two hearings save one copy: half of ours make up for what of its own is lost.
                self.broadcasts.told_by_owner(&life, self.config.copies(self.size()));
            }
        }
        self.isolation_relieved(now);
        self.judge_pending(name, now);
    }

    /// One life, two statements: a cloned identity. All nodes choose alike.
    fn forked(&mut self, name: &NodeName, alive: &Alive, word: HashedLife, source: &Source, now: Instant) {
        let Some(member) = self.members.get_mut(name) else { return };
        let Some(held) = member.announced().alive() else { return };
        let wins = (alive.credential, alive.tag, word.proof) < (held.credential, held.tag, member.proof);
        let switched = member.contact().switched;
        let settled = switched.is_some_and(|at| now.saturating_duration_since(at) < SWITCH_PAUSE);
        let cloned = alive.tag != held.tag;
        if wins && !settled {
            member.contact_mut().switched = Some(now);
            member.announce(word.proof, Announced::new(&word.signed));
            let knows = source.from.as_ref();
            self.spread(Subject::Life(name.clone()), Class::Life, &Message::Life(word.signed), knows, now);
            self.persist_member(name);
            self.emit_member(name);
        } else {
            self.stats.drop(Drop::Stale);
        }
        if cloned {
            self.alarm(Alarm::DuplicateIdentity { name: name.clone(), quiet: false }, now);
        }
    }

    /// The sender is behind: it gets the newer word, unless it was told already.
    fn answer_stale(&mut self, name: &NodeName, source: &Source) {
        let Some(from) = &source.from else { return };
        if source.via != Via::Gossip || self.broadcasts.was_told(&Subject::Life(name.clone()), from) {
            return;
        }
        let Some(member) = self.members.get(name) else { return };
        let newest = member.newest();
        self.send(&from.clone(), &[Message::Life(newest)]);
    }

    /// A verified `leave` of another member.
    pub(super) fn apply_leave(&mut self, leave: &Leave, signed: SignedLife, source: &Source, now: Instant) {
        let name = leave.name.clone();
        let Some(member) = self.members.get_mut(&name) else {
            return self.stats.drop(Drop::UnknownSubject);
        };
        if !supersedes(Claim { life: leave.life, state: MemberState::Left }, member.claim()) {
            return self.stats.drop(Drop::Stale);
        }
        member.set_life(leave.life);
        let contact = member.contact_mut();
        contact.leave = Some(Announced::new(&signed));
        contact.suspicion = None;
        self.timers.cancel(&Timer::Suspicion(name.clone()));
        self.timers.cancel(&Timer::Verification(name.clone()));
        self.drop_records(&name);
        self.persist(|| Change::ForgetOwner(name.clone()));
        self.broadcasts.forget(&name);
        if self.retells(&name, source) {
            let knows = source.from.as_ref();
            self.spread(Subject::Life(name.clone()), Class::Life, &Message::Life(signed), knows, now);
        }
        self.transition(&name, MemberState::Left, now);
    }

    /// A doubt or a "dead" about somebody, said by `from`.
    pub(super) fn on_accusation(&mut self, from: &NodeName, said: &Accusation, via: Via, now: Instant) {
        if said.subject == self.me.name {
            return self.accused(from, said, now);
        }
        let subject = said.subject.clone();
        let Some(member) = self.members.get(&subject) else {
            return self.await_proof(from, said, via, now);
        };
        if said.life < member.life() {
            self.stats.drop(Drop::Stale);
            let source = Source { from: Some(from.clone()), via };
            return self.answer_stale(&subject, &source);
        }
        if said.life > member.life() || said.proof != member.proof {
            // A life that we cannot prove yet: the sender must show it.
            return self.await_proof(from, said, via, now);
        }
        match member.state {
            MemberState::Joining | MemberState::Dead | MemberState::Left => {
                self.broadcasts.heard(&Subject::Doubt(subject), from);
            }
            MemberState::Alive | MemberState::Suspect => self.doubt(from, said, via, now),
        }
    }

    /// An accusation of what we cannot prove: it waits, and the sender is asked for the record that proves it.
    fn await_proof(&mut self, from: &NodeName, said: &Accusation, via: Via, now: Instant) {
        self.stats.drop(Drop::UnknownSubject);
        if self.pending.hold(from, said, via, now) {
            self.fetch(from, vec![Want::Member(said.subject.clone())], now);
        }
    }

    /// A life is proved: what was said against it counts.
    fn judge_pending(&mut self, name: &NodeName, now: Instant) {
        let Some(member) = self.members.get(name) else { return };
        for held in self.pending.take(name, member.life(), member.proof) {
            self.on_accusation(&held.from, &held.said, held.via, now);
        }
    }

    /// An accusation of the very life that we hold.
    fn doubt(&mut self, from: &NodeName, said: &Accusation, via: Via, now: Instant) {
        let subject = said.subject.clone();
        let known_accuser = said.accuser == self.me.name || self.members.get(&said.accuser).is_some();
        let running = self.members.get(&subject).and_then(Member::suspicion);
        let repeated = running.is_some_and(|suspicion| suspicion.accusers.contains(&said.accuser));
        let from_self = said.accuser == self.me.name;
        if !known_accuser {
            return self.stats.drop(Drop::UnknownSubject);
        }
        if said.state == MemberState::Dead && *from == said.accuser {
            self.witnessed(&subject, from, now);
        }
        if !repeated && !from_self && self.config.eviction == Eviction::OwnVerdict {
            let window = self.window().min;
            if !self.accusers.admit(&said.accuser, self.size(), window, now) {
                self.stats.accusations_over_cap += 1;
                self.stats.drop(Drop::AccuserCap);
                if via == Via::Sync {
                    // The two sides of a healed split hold each other dead: no sign of illness.
                    return;
                }
                self.alarm(Alarm::AccuserOverCap { accuser: said.accuser.clone() }, now);
                // The accuser is the likelier patient.
                let present = self.members.is_present(&said.accuser) && !self.is_probed(&said.accuser);
                if present && self.accusers.looks_at(&said.accuser, now) {
                    self.probe(&said.accuser.clone(), Purpose::Verify, now);
                }
                return;
            }
        }
        if repeated {
            self.broadcasts.heard(&Subject::Doubt(subject.clone()), from);
        } else {
            self.suspect(&subject, &said.accuser, Some(from), now);
        }
        if *from == said.accuser
            && via == Via::Gossip
            && let Some(suspicion) = self.members.get_mut(&subject).and_then(Member::suspicion_mut)
        {
            suspicion.prove(from);
        }
        // Through anti-entropy a "dead" is only a doubt, so that the accused can answer.
        if said.state == MemberState::Dead && via == Via::Gossip {
            self.called_dead(&subject, from, said, now);
        }
    }

    /// A live peer's own verdict, above its cap of accusations too: it moves nothing but our own verdict, if that is held.
    fn witnessed(&mut self, name: &NodeName, peer: &NodeName, now: Instant) {
        if self.isolation.witness(name, peer) && self.isolation.is_isolated() {
            self.timers.set_earlier(Timer::Suspicion(name.clone()), now);
        }
    }

    /// Somebody calls a doubted member dead: our own failed ladder is all that is still needed.
    fn called_dead(&mut self, name: &NodeName, from: &NodeName, said: &Accusation, now: Instant) {
        let Some(suspicion) = self.members.get_mut(name).and_then(Member::suspicion_mut) else { return };
        let (first, own_failed) = (!suspicion.called_dead, suspicion.own_failure.is_some());
        suspicion.called_dead = true;
        if first {
            let word = self.word(&said.accuser, Some(from));
            self.testify(name, said.life, Step::CalledDead { by: said.accuser.clone(), word });
        }
        if own_failed || self.config.eviction == Eviction::AnyVerdict {
            self.declare_dead(name, now);
        } else {
            self.verify_member(name, now);
        }
    }

    /// Starts a suspicion or confirms a running one, and tells others if that is news.
    fn suspect(&mut self, name: &NodeName, accuser: &NodeName, knows: Option<&NodeName>, now: Instant) {
        let window = self.window();
        let Some(member) = self.members.get_mut(name) else { return };
        let (life, proof) = (member.life(), member.proof);
        let fresh = match member.suspicion_mut() {
            Some(suspicion) => {
                if !suspicion.confirm(accuser) {
                    return;
                }
                false
            }
            None => {
                member.contact_mut().suspicion = Some(Suspicion::new(life, accuser.clone(), window, now));
                true
            }
        };
        let deadline = member.suspicion().map_or(now, Suspicion::deadline).max(now);
        self.timers.set(Timer::Suspicion(name.clone()), deadline);
        let (by, word) = (accuser.clone(), self.word(accuser, knows));
        let step = match fresh {
            true => Step::Suspected { by, word, until: deadline },
            false => Step::Confirmed { by, word, until: deadline },
        };
        self.testify(name, life, step);
        let accusation =
            Accusation { state: MemberState::Suspect, subject: name.clone(), life, proof, accuser: accuser.clone() };
        let message = Message::Accusation(accusation);
        let subject = Subject::Doubt(name.clone());
        if fresh {
            self.spread(subject, Class::Doubt, &message, knows, now);
        } else {
            self.mention(subject, Class::Doubt, &message, knows, now);
        }
        if fresh {
            self.broadcasts.remove(&Subject::Life(name.clone()));
            self.transition(name, MemberState::Suspect, now);
        }
        if fresh && *accuser != self.me.name {
            self.plan_verification(name, now);
        }
    }

    /// As late as it can be, since a refutation may come first, and so early that the ladder has failed when the shortest
    /// window ends; at a random time within a quarter of that window, so that a whole mesh does not turn to one member at
    /// once.
    fn plan_verification(&mut self, name: &NodeName, now: Instant) {
        if self.config.eviction == Eviction::AnyVerdict {
            return;
        }
        let window = self.window().min;
        let last = window.saturating_sub(self.period().mul_f64(LADDER_PERIODS));
        let wait = last.saturating_sub((window / 4).mul_f64(self.rng.random_range(0.0..1.0)));
        self.timers.set(Timer::Verification(name.clone()), now + wait);
    }

    /// Probes a doubted member, unless that is under way or done.
    pub(super) fn verify_member(&mut self, name: &NodeName, now: Instant) {
        let open = self.members.get(name).and_then(Member::suspicion);
        let open = open.is_some_and(|suspicion| suspicion.own_failure.is_none());
        if open && !self.is_probed(name) {
            self.probe(name, Purpose::Verify, now);
        }
    }

    /// A failed ladder says that the member is silent only if some relay told that it, too, heard nothing. Where all that
    /// we asked are silent, it may as well be us, starved or cut off: then only several ladders in a row count.
    fn is_conclusive(&mut self, probe: &Probe) -> bool {
        let trusting = self.config.eviction == Eviction::AnyVerdict || self.config.health_rule == HealthRule::Off;
        if trusting || probe.asked.is_empty() || !probe.nacks.is_empty() {
            return true;
        }
        let suspicion = self.members.get_mut(&probe.target).and_then(Member::suspicion_mut);
        suspicion.is_none_or(|suspicion| {
            suspicion.inconclusive += 1;
            suspicion.inconclusive > INCONCLUSIVE_MAX
        })
    }

    /// All paths of one of our own ladders failed.
    pub(super) fn own_verdict(&mut self, probe: &Probe, now: Instant) {
        let me = self.me.name.clone();
        let Some(member) = self.members.get(&probe.target) else { return };
        if member.life() != probe.life || !member.is_present() {
            return;
        }
        let joins = member.suspicion().is_none_or(|suspicion| !suspicion.accusers.contains(&me));
        if joins {
            self.suspect(&probe.target, &me, None, now);
        }
        if !self.is_conclusive(probe) {
            let at = now + self.period();
            return self.timers.set(Timer::Verification(probe.target.clone()), at);
        }
        let over = match self.members.get_mut(&probe.target).and_then(Member::suspicion_mut) {
            Some(suspicion) => {
                suspicion.own_failure = Some(now);
                suspicion.expired || suspicion.called_dead || suspicion.deadline() <= now
            }
            None => false,
        };
        if over {
            self.declare_dead(&probe.target, now);
        }
    }

    /// A suspicion's time is over.
    pub(super) fn suspicion_over(&mut self, name: &NodeName, now: Instant) {
        let any = self.config.eviction == Eviction::AnyVerdict;
        let Some(suspicion) = self.members.get_mut(name).and_then(Member::suspicion_mut) else { return };
        if suspicion.deadline() > now {
            let at = suspicion.deadline();
            return self.timers.set(Timer::Suspicion(name.clone()), at);
        }
        suspicion.expired = true;
        if any || suspicion.own_failure.is_some() {
            self.declare_dead(name, now);
        } else {
            self.verify_member(name, now);
        }
    }

    fn declare_dead(&mut self, name: &NodeName, now: Instant) {
        let window = self.window();
        let Some(member) = self.members.get(name) else { return };
        let (life, proof, peers) = (member.life(), member.proof, self.members.present());
        if self.config.eviction == Eviction::OwnVerdict {
            let was = self.isolation.is_isolated();
            // Bad health slows our own probing, and deaths then come one by one: the guard looks back as much further.
            let judged = self.isolation.judge(name, peers, window.max * self.health.factor(), now);
            if let Some(at) = self.isolation.ends().filter(|_| !was) {
                self.timers.set(Timer::Isolation, at);
                self.emit(Event::Isolation(true));
            }
            if judged == Guard::Hold {
                // Asked again after another window; meanwhile its routes stay.
                let doubt = self.members.get_mut(name).and_then(Member::suspicion_mut);
                let told = doubt.map(|doubt| (doubt.min(), std::mem::replace(&mut doubt.held, true)));
                let (wait, told) = told.unwrap_or((window.min, true));
                self.timers.set(Timer::Suspicion(name.clone()), now + wait);
                if !told {
                    self.testify(name, life, Step::Held);
                    // Our peers may doubt themselves as well: without our word all would wait for each other.
                    self.say_dead(name, life, proof, now);
                }
                return;
            }
        }
        let ended = self.members.get_mut(name).and_then(|member| {
            member.contact_mut().missed = 0;
            member.take_suspicion()
        });
        if let Some(Suspicion { accusers, start, own_failure, .. }) = ended {
            let lasted = now.saturating_duration_since(start);
            self.stats.suspicion_ended(lasted);
            self.testify(name, life, Step::Failed { accusers, lasted, own_failure });
        }
        self.timers.cancel(&Timer::Suspicion(name.clone()));
        self.timers.cancel(&Timer::Verification(name.clone()));
        // Calls to the dead dial: a silent connection would stand in their way for its whole idle time.
        self.close_link(name, CloseReason::Stale, now);
        self.calls.insert(name.clone(), now + self.config.heal_interval);
        self.say_dead(name, life, proof, now);
        self.transition(name, MemberState::Dead, now);
    }

    fn say_dead(&mut self, name: &NodeName, life: Life, proof: u64, now: Instant) {
        let (state, accuser) = (MemberState::Dead, self.me.name.clone());
        let accusation = Accusation { state, subject: name.clone(), life, proof, accuser };
        self.spread(Subject::Doubt(name.clone()), Class::Doubt, &Message::Accusation(accusation), None, now);
    }

    /// Enters a state: counters, sums, store, event, view. The one place where a member's state changes.
    fn transition(&mut self, name: &NodeName, to: MemberState, now: Instant) {
        if let Some(from) = self.members.set_state(name, to, now) {
            *self.stats.state_changes.entry((from, to)).or_default() += 1;
        }
        self.high_water = self.high_water.max(self.members.alive());
        self.sum_owner(name);
        let near = self.view.presence(name, is_present(to));
        // Beyond the full view, whoever is no neighbour and has no link changes nothing in it.
        self.view.stale |=
            near || self.members.present() <= self.config.full_view_members_max || self.links.is_up(name);
        self.links.state_changed(name);
        self.timers.set_earlier(Timer::Links, now + self.settling());
        self.persist_member(name);
        self.emit_member(name);
    }

    fn persist_member(&mut self, name: &NodeName) {
        if self.storeless {
            return;
        }
        let Some(member) = self.members.get(name) else { return };
        match snapshot::write_member(member) {
            Ok(bytes) => self.persist(|| Change::Member { name: name.clone(), bytes }),
            Err(_) => self.stats.drop(Drop::BadSnapshot),
        }
    }

    fn emit_member(&mut self, name: &NodeName) {
        if let Some(view) = self.members.get(name).map(|member| self.view_of(name, member)) {
            self.emit(Event::Member(Box::new(view)));
        }
    }

    /// Somebody lives: we are not cut off, or no longer.
    fn isolation_relieved(&mut self, now: Instant) {
        if self.isolation.is_isolated() && self.isolation.end(false) {
            self.timers.cancel(&Timer::Isolation);
            self.emit(Event::Isolation(false));
            self.timers.set_earlier(Timer::Links, now);
        }
    }

    /// The hold ran out: what is silent now is dead.
    pub(super) fn isolation_over(&mut self, now: Instant) {
        if !self.isolation.end(true) {
            return;
        }
        self.emit(Event::Isolation(false));
        let doubted: Vec<NodeName> = self
            .members
            .iter()
            .filter(|(_, member)| member.suspicion().is_some_and(|one| one.expired && one.own_failure.is_some()))
            .map(|(name, _)| name.clone())
            .collect();
        for name in doubted {
            self.declare_dead(&name, now);
        }
    }

    /// Tombstones: dead for a day, left for an hour, at most twice as many as are present; the oldest go first.
    pub(super) fn sweep_tombstones(&mut self, now: Instant) {
        if self.members.len() == self.members.present() {
            return;
        }
        let mut stones: Vec<(Instant, MemberState, NodeName)> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_present())
            .map(|(name, member)| (member.since, member.state, name.clone()))
            .collect();
        let spare = stones.len().saturating_sub((2 * self.size()).max(TOMBSTONES_MIN));
        stones.sort();
        for (at, (since, state, name)) in stones.into_iter().enumerate() {
            let retention =
                if state == MemberState::Left { self.config.left_retention } else { self.config.dead_retention };
            if at < spare || now.saturating_duration_since(since) >= retention {
                self.forget_member(&name, state);
            }
        }
    }

    fn forget_member(&mut self, name: &NodeName, state: MemberState) {
        let Some(member) = self.members.remove(name) else { return };
        self.links.state_changed(name);
        self.sums.replace(member.bucket(), member.summed, 0);
        self.drop_records(name);
        self.credentials.forget(name);
        self.broadcasts.forget(name);
        self.accusers.forget(name);
        self.isolation.forget(name);
        self.quota.forget(name);
        self.sync_quota.forget(name);
        self.calls.remove(name);
        self.dials.remove(name);
        self.persist(|| Change::ForgetOwner(name.clone()));
        self.emit(Event::MemberForgotten(name.clone()));
        self.view.stale |= self.view.presence(name, false);
        // Who left is not called again; who died may come back where it was.
        if state != MemberState::Left && self.book.len() < ADDRESS_BOOK_MAX {
            let addresses = member.addresses();
            if let Ok(bytes) = snapshot::write_addresses(&addresses) {
                self.persist(|| Change::AddressBook { name: name.clone(), bytes });
            }
            self.book.insert(name.clone(), addresses);
        }
    }
}

/// Tombstones that even the smallest mesh keeps: a rolling restart of a few nodes is remembered whole.
const TOMBSTONES_MIN: usize = 16;
