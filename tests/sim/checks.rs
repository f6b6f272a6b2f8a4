//! What must hold in every run, looked at after every turn of every agent, and what happened, so that a run in which
//! nothing happened is not taken for a proof.
//!
//! Each checker is a function of plain values with a test that makes it fire. A breach never stops a run: it is written
//! down with its time, and the scenario fails at its end.

mod announced;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use starling_gossip::limits::{
    ACTIONS_MAX, DATAGRAM_BYTES_MAX, OWNER_BYTES_MAX, STATE_BYTES_MAX, SYNC_FRAME_BYTES_MAX, WAITING_ROOM_MAX,
};
use starling_gossip::{DownReason, Event, MemberView, Stats};
use starling_model::{HealthRecord, Life, MemberState, MeshId, NodeName, ServicesRecord, StatusRecord};

use announced::Announced;

use crate::clock::SimTime;
use crate::cluster::{Host, HostId, Sim};
use crate::lifeguard::traffic::Traffic;
use crate::names::{ByName, Lives, NameId, Names};
use crate::network::Network;
use crate::operators::{self, Batches, Words};
use crate::turn::Process;

/// Breaches and lines that are kept; a broken run would otherwise fill memory.
const BREACHES_MAX: usize = 50;
const LINES_MAX: usize = 20_000;
/// Turns at one and the same time after which a machine is stuck.
const TURNS_IN_A_ROW_MAX: u32 = 5_000;
/// Deadlines in the past or at this very moment, in one moment, after which a machine is busy.
const BUSY_MAX: u32 = 50;
/// Actions of one turn beside those that the queue bounds.
const ACTIONS_PER_TURN_MAX: usize = 2 * ACTIONS_MAX;
/// Updates that may wait to be told, for each member: life, accusation, credential, and records in their shards.
const BROADCASTS_PER_MEMBER_MAX: usize = 16;
/// The label by which a scenario numbers versions of a services record.
pub const VERSION_LABEL: &str = "version";

/// What one agent was told since its start.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Members as last told; [`Sim::held`] reads it by name.
    pub(crate) members: ByName<Held>,
    /// How many of these are held for alive.
    pub(crate) alive: usize,
    /// Services as last told.
    pub services: BTreeMap<NodeName, ServicesRecord>,
    /// Readiness as last told.
    pub health: BTreeMap<NodeName, HealthRecord>,
    /// Conditions as last told.
    pub status: BTreeMap<NodeName, StatusRecord>,
    /// What it was told of operators' words.
    pub words: Words,
    /// Alarms so far.
    pub alarms: Vec<String>,
    /// True while the agent takes itself for cut off.
    pub isolated: bool,
}

/// A member as one agent was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) state: MemberState,
    pub(crate) life: Life,
    /// Failed probes of the agent when it last was told that this member is alive.
    failures_while_alive: u32,
}

impl View {
    /// States and lives of the members that it was told of.
    pub fn members(&self) -> impl Iterator<Item = (MemberState, Life)> {
        self.members.values().map(|(_, held)| (held.state, held.life))
    }

    fn set_member(&mut self, id: NameId, held: Option<Held>) {
        let alive = |held: Option<&Held>| usize::from(held.is_some_and(|held| held.state == MemberState::Alive));
        self.alive = self.alive + alive(held.as_ref()) - alive(self.members.get(id));
        self.members.set(id, held);
    }
}

/// A member became dead in somebody's view.
#[derive(Clone, Debug)]
pub struct Death {
    /// When.
    pub at: SimTime,
    /// In whose view.
    pub observer: HostId,
    /// Who.
    pub subject: NodeName,
    /// True when an agent of that name ran at that moment and had not been told to leave.
    pub running: bool,
    /// True when packets could pass between the two in both directions.
    pub reachable: bool,
}

/// What happened; a scenario asserts those that it is about.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Dials asked for.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Handshakes that were completed.
    pub handshakes: u64,
    /// Most handshakes of one host in one second, dialled and accepted.
    pub handshakes_peak: u64,
    /// Stateless resets sent.
    pub resets: u64,
    /// Ends of connections that noticed that large packets vanish.
    pub black_holes_found: u64,
    /// Dials of another mesh that were refused.
    pub foreign_refused: u64,
    /// Sends without a connection.
    pub unsent: u64,
    /// Packets that found a paused process's buffer full.
    pub overflowed: u64,
    /// Claims with a signature or credential that does not hold.
    pub forgeries_refused: u64,
    /// Messages of an unknown kind that a newer release added.
    pub news_sent: u64,
    /// Datagrams and frames that a liar damaged.
    pub damaged: u64,
    /// Input refused as a whole, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Ends of connections and failed dials as told to machines.
    pub downs: BTreeMap<DownReason, u64>,
    /// Datagrams and their bytes.
    pub datagrams: (u64, u64),
    /// Stream frames and their bytes.
    pub frames: (u64, u64),
    /// Turns of machines.
    pub turns: u64,
    /// Members suspected in somebody's view.
    pub suspicions: u64,
    /// Suspicions that ended in a higher life.
    pub refuted: u64,
    /// Times that an agent took itself for cut off.
    pub isolations: u64,
}

/// When, to whom and in what surroundings something is told.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) at: SimTime,
    pub(crate) observer: HostId,
    pub(crate) hosts: &'a [Host],
    pub(crate) names: &'a Names,
    pub(crate) network: &'a Network,
}

/// Watches a run.
#[derive(Debug, Default)]
pub struct Checker {
    /// What did not hold.
    pub breaches: Vec<String>,
    /// The story of the run.
    pub lines: Vec<(SimTime, String)>,
    /// What happened.
    pub counts: Counts,
    /// Who died in whose view.
    pub deaths: Vec<Death>,
    /// What was applied together.
    pub batches: Batches,
    /// For each member, when the first failed probe of it began; a scenario that asks clears it first.
    pub first_failed_probes: BTreeMap<NodeName, SimTime>,
    /// What is sent for what, where an experiment asks for it.
    pub(crate) traffic: Option<Traffic>,
    /// Of each host the second of its last handshake, and how many it had in that.
    handshaking: BTreeMap<HostId, (u64, u64)>,
    lives: Lives,
    announced: Announced,
}

/// Lives and, within a life, states only rise; nobody comes back without a higher life.
#[must_use]
pub fn illegal_move(old: Option<(MemberState, Life)>, new: (MemberState, Life)) -> Option<&'static str> {
    let (old_state, old_life) = old?;
    let (state, life) = new;
    if life < old_life {
        return Some("the life fell");
    }
    if life > old_life || state >= old_state {
        return None;
    }
    match old_state {
        MemberState::Left => Some("left, and back without a higher life"),
        MemberState::Dead => Some("dead, and back without a higher life"),
        MemberState::Suspect => Some("suspicion ended without a higher life"),
        MemberState::Alive | MemberState::Joining => Some("alive, then unverified within one life"),
    }
}

/// The number that a scenario gave to a services record; zero without one.
#[must_use]
pub fn version_of(record: &ServicesRecord) -> u64 {
    let numbers = record.instances.iter().filter_map(|instance| instance.labels.get(VERSION_LABEL)?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// Sizes of what one machine holds and sends, against their bounds.
#[must_use]
pub fn over_bounds(waiting: usize, actions: usize, broadcasts: usize, members: usize) -> Option<&'static str> {
    if waiting > WAITING_ROOM_MAX {
        Some("the waiting room is over its limit")
    } else if actions > ACTIONS_PER_TURN_MAX {
        Some("one turn asks for too much")
    } else if broadcasts > BROADCASTS_PER_MEMBER_MAX * (members + 1) {
        Some("the broadcast queue is longer than there are subjects")
    } else {
        None
    }
}

/// Bytes of state that one machine holds for others, against the quotas.
#[must_use]
pub fn over_quota(stats: &Stats) -> Option<&'static str> {
    if stats.state_bytes > STATE_BYTES_MAX {
        Some("it holds more state than is allowed")
    } else if stats.largest_owner_bytes > OWNER_BYTES_MAX {
        Some("one owner takes more than its share")
    } else {
        None
    }
}

/// A machine that asks for a turn at once, and was given many already.
#[must_use]
pub fn spins(at: SimTime, deadline: SimTime, turns_in_a_row: u32) -> bool {
    deadline <= at && turns_in_a_row == BUSY_MAX
}

/// Sizes of packets against what the transport carries.
#[must_use]
pub fn oversized(len: usize, is_datagram: bool) -> bool {
    len > if is_datagram { DATAGRAM_BYTES_MAX } else { SYNC_FRAME_BYTES_MAX }
}

/// A running agent that is itself and not leaving is alive in its own eyes.
#[must_use]
pub fn self_denial(state: MemberState, leaving: bool) -> bool {
    match state {
        MemberState::Alive | MemberState::Joining => false,
        MemberState::Left => !leaving,
        MemberState::Suspect | MemberState::Dead => true,
    }
}

/// No death without an own failed probe ladder, here since the member was last known to be alive.
#[must_use]
pub fn unproven_death(failures_while_alive: u64, failures: u64) -> bool {
    failures <= failures_while_alive
}

/// What an agent says of one member, and how many of its own probes have failed so far.
#[derive(Clone, Copy)]
struct Told<'a> {
    id: NameId,
    name: &'a NodeName,
    state: MemberState,
    life: Life,
    failures: u32,
}

impl Checker {
    /// Writes a line of the story.
    pub fn note(&mut self, at: SimTime, line: String) {
        self.tell(at, || line);
    }

    /// The same for what is told by the million: the line is not made once the story is full.
    fn tell(&mut self, at: SimTime, line: impl FnOnce() -> String) {
        if self.lines.len() < LINES_MAX {
            self.lines.push((at, line()));
        }
    }

    /// Writes down a breach.
    pub fn breach(&mut self, at: SimTime, what: &str) {
        if self.breaches.len() < BREACHES_MAX {
            self.breaches.push(format!("at {at}: {what}"));
        }
    }

    pub(crate) fn sent(&mut self, at: SimTime, from: &NodeName, len: usize, is_datagram: bool) {
        let (number, sum) = if is_datagram { &mut self.counts.datagrams } else { &mut self.counts.frames };
        *number += 1;
        *sum += len as u64;
        if oversized(len, is_datagram) {
            self.breach(at, &format!("{from} sends {len} bytes at once"));
        }
    }

    /// Two hosts have a connection.
    pub(crate) fn handshake(&mut self, at: SimTime, ends: [HostId; 2]) {
        self.counts.handshakes += 1;
        let second = at.elapsed().as_secs();
        for host in ends {
            let (last, count) = self.handshaking.entry(host).or_default();
            *count = if *last == second { *count + 1 } else { 1 };
            *last = second;
            self.counts.handshakes_peak = self.counts.handshakes_peak.max(*count);
        }
    }

    pub(crate) fn busy(&mut self, at: SimTime, host: &Host, process: &Process, deadline: SimTime) {
        if spins(at, deadline, process.turns_in_a_row()) {
            self.breach(at, &format!("{} asks for a turn again and again at once", host.name));
        }
    }

    pub(crate) fn after_turn(&mut self, at: SimTime, host: &Host, process: &Process, actions: usize) {
        self.counts.turns += 1;
        let stats = process.swim.stats();
        let members = process.view.members.len();
        if let Some(what) = over_bounds(stats.queue_waiting, actions, stats.queue_broadcasts, members) {
            self.breach(at, &format!("{}: {what}", host.name));
        }
        if let Some(what) = over_quota(stats) {
            self.breach(at, &format!("{}: {what}", host.name));
        }
        if process.turns_in_a_row() == TURNS_IN_A_ROW_MAX {
            self.breach(at, &format!("{}: {TURNS_IN_A_ROW_MAX} turns at one time", host.name));
        }
        let (state, life) = process.swim.standing();
        if self_denial(state, host.leaving) {
            self.breach(at, &format!("{} holds itself for {state}", host.name));
        }
        self.lives.had(host.name_id, &host.mesh, life);
        self.announced.says(host, state, life);
    }

    /// An agent was told something.
    pub(crate) fn told(&mut self, scene: &Scene<'_>, process: &mut Process, event: Event) {
        let Scene { at, observer, hosts, names, .. } = *scene;
        let host = &hosts[observer.0];
        match event {
            Event::Member(member) => {
                let Some(id) = names.id(&member.name) else {
                    return self.breach(at, &format!("{}: told of {}, whom nobody is", host.name, member.name));
                };
                self.attributes(at, host, id, &member);
                let failures = process.swim.stats().probes_failed;
                let failures = u32::try_from(failures).unwrap_or(u32::MAX);
                let told = Told { id, name: &member.name, state: member.state, life: member.life, failures };
                if self.member(at, host, &mut process.view, &told) {
                    self.died(scene, process, &told);
                }
            }
            Event::MemberForgotten(name) => {
                self.tell(at, || format!("{}: {name} is forgotten", host.name));
                if let Some(id) = names.id(&name) {
                    process.view.set_member(id, None);
                }
            }
            Event::Services { owner, record } => self.services(at, host, &mut process.view, owner, record),
            Event::Health { owner, record } => {
                process.view.health.insert(owner, record);
            }
            Event::Status { owner, record } => {
                process.view.status.insert(owner, record);
            }
            Event::OwnerDropped(owner) => {
                process.view.services.remove(&owner);
                process.view.health.remove(&owner);
                process.view.status.remove(&owner);
            }
            Event::Synced { members } => self.note(at, format!("{}: ready, knows {members}", host.name)),
            Event::Isolation(on) => {
                process.view.isolated = on;
                self.counts.isolations += u64::from(on);
                self.note(at, format!("{}: isolation {on}", host.name));
            }
            // What it explains is judged by what it led to.
            Event::Evidence(_) | Event::Pong { .. } | Event::Bundle(_) => {}
            Event::Alarm(alarm) => {
                self.note(at, format!("{}: alarm {alarm:?}", host.name));
                process.view.alarms.push(format!("{alarm:?}"));
            }
            Event::Documents(event) => {
                self.tell(at, || format!("{}: {}", host.name, operators::line(&event)));
                if let Some(what) = process.view.words.told(&event, &self.batches) {
                    self.breach(at, &format!("{}: {what}", host.name));
                }
            }
            Event::Revoked(view) => {
                self.note(at, format!("{}: {} is revoked", host.name, view.revocation.node));
                process.view.words.revoked.insert(view.revocation.node, view.revocation.number);
            }
            Event::Submitted { submit, outcome } => {
                self.tell(at, || format!("{}: submission {}: {outcome:?}", host.name, submit.0));
                process.view.words.outcomes.insert(submit, outcome);
            }
            Event::LeaveFinished { acknowledged } => {
                self.note(at, format!("{}: leave done, {acknowledged} confirmed it", host.name));
            }
        }
    }

    /// Whom the snapshot knew as dead did not die now; anybody else needs a reason.
    fn died(&mut self, scene: &Scene<'_>, process: &Process, told: &Told<'_>) {
        let Scene { at, observer, hosts, names, network } = *scene;
        let host = &hosts[observer.0];
        let mut death = Death { at, observer, subject: told.name.clone(), running: false, reachable: false };
        for id in names.hosts(told.id).iter().filter(|id| hosts[id.0].mesh == host.mesh) {
            let other = &hosts[id.0];
            death.running |= other.is_running() && !other.leaving;
            death.reachable |= network.passes(observer, *id) && network.passes(*id, observer);
        }
        let before = process.view.members.get(told.id).map_or(0, |held| held.failures_while_alive);
        if unproven_death(u64::from(before), u64::from(told.failures)) {
            self.breach(at, &format!("{} buries {} without a failed probe of its own", host.name, told.name));
        }
        self.deaths.push(death);
    }

    /// Checks and keeps one view of one member; true when a member that was known died by it.
    fn member(&mut self, at: SimTime, observer: &Host, view: &mut View, told: &Told<'_>) -> bool {
        let Told { id, name, state, life, failures } = *told;
        let held = view.members.get(id).copied();
        let old = held.map(|held| (held.state, held.life));
        if let Some(what) = illegal_move(old, (state, life)) {
            let (was, before) = old.unwrap_or((state, life));
            self.breach(at, &format!("{}: {name} {was} {before} -> {state} {life}: {what}", observer.name));
        }
        let highest = self.lives.highest(id, &observer.mesh).unwrap_or_default();
        if life > highest {
            let line = format!("{}: {name} in life {life}, its own highest is {highest}", observer.name);
            self.breach(at, &line);
        }
        let entered = old.is_none_or(|(was, _)| was != state);
        if entered {
            self.tell(at, || format!("{}: {name} is {state} in life {life}", observer.name));
            self.counts.suspicions += u64::from(state == MemberState::Suspect);
        }
        if old.is_some_and(|(was, before)| was == MemberState::Suspect && before < life) {
            self.counts.refuted += u64::from(state == MemberState::Alive);
        }
        let failures_while_alive = match state {
            MemberState::Alive => failures,
            MemberState::Joining | MemberState::Suspect | MemberState::Dead | MemberState::Left => {
                held.map_or(0, |held| held.failures_while_alive)
            }
        };
        view.set_member(id, Some(Held { state, life, failures_while_alive }));
        entered && state == MemberState::Dead && held.is_some()
    }

    /// Checks what is told of a member against what it said of itself.
    fn attributes(&mut self, at: SimTime, observer: &Host, id: NameId, told: &MemberView) {
        if let Some(what) = self.announced.foreign(id, &observer.mesh, told) {
            let (name, state, life) = (&told.name, told.state, told.life);
            let line =
                format!("{}: {name} {state} {life} {:?} {}: {what}", observer.name, told.addresses, told.release);
            self.breach(at, &line);
        }
    }

    /// Checks and keeps one services record: what an owner withdrew never comes back.
    fn services(&mut self, at: SimTime, observer: &Host, view: &mut View, owner: NodeName, record: ServicesRecord) {
        let held = view.services.get(&owner).map_or(0, version_of);
        let new = version_of(&record);
        if new < held && !record.instances.is_empty() {
            self.breach(at, &format!("{}: services of {owner} fell from version {held} to {new}", observer.name));
        }
        view.services.insert(owner, record);
    }

    /// Deaths of agents that ran; a scenario says how many it forgives.
    #[must_use]
    pub fn false_deaths(&self) -> Vec<&Death> {
        self.deaths.iter().filter(|death| death.running).collect()
    }

    /// When `subject` first died in each observer's view since `after`.
    #[must_use]
    pub fn deaths_of(&self, subject: &NodeName, after: SimTime) -> BTreeMap<HostId, Duration> {
        let mut first = BTreeMap::new();
        for death in self.deaths.iter().filter(|death| death.subject == *subject && death.at >= after) {
            first.entry(death.observer).or_insert_with(|| death.at.since(after));
        }
        first
    }
}

/// Every running agent of a mesh sees every running agent alive in its present life and holds all of its records, and
/// holds nobody else alive; the first difference otherwise.
///
/// # Errors
/// The first difference.
pub fn converged(sim: &Sim) -> Result<(), String> {
    let standing = |id: HostId| Some((id, sim.swim(id)?.standing().1));
    let running: Vec<(HostId, Life)> =
        sim.host_ids().filter(|id| sim.host(*id).is_running()).filter_map(standing).collect();
    alike(sim, &running)?;
    let begin = sim.apart.get();
    for (place, (observer, _)) in running.iter().enumerate().cycle().skip(begin).take(running.len()) {
        sim.apart.set(place);
        let (host, Some(view)) = (sim.host(*observer), sim.view(*observer)) else { continue };
        for (subject, life) in running.iter().filter(|(subject, _)| sim.host(*subject).mesh == host.mesh) {
            let other = sim.host(*subject);
            let held = view.members.get(other.name_id).map(|held| (held.state, held.life));
            if observer != subject && held != Some((MemberState::Alive, *life)) {
                return Err(format!("{} holds {} for {held:?}, it is alive in life {life}", host.name, other.name));
            }
            records_agree(sim, *subject, view).map_err(|what| format!("{} of {}: {what}", host.name, other.name))?;
        }
        for (id, held) in view.members.values().filter(|(id, _)| *id != host.name_id) {
            let runs = |id: &HostId| sim.host(*id).is_running() && sim.host(*id).mesh == host.mesh;
            if held.state == MemberState::Alive && !sim.names.hosts(id).iter().any(runs) {
                let names: Vec<String> = sim.names.hosts(id).iter().map(|id| sim.host(*id).name.to_string()).collect();
                return Err(format!("{} holds {names:?} for alive, and no such agent runs", host.name));
            }
        }
        told_as_held(sim, *observer)?;
    }
    let running: Vec<HostId> = running.into_iter().map(|(id, _)| id).collect();
    operators::agree(sim, &running)?;
    Ok(())
}

/// What is cheap to compare, before everything is: how many each holds for alive.
fn alike(sim: &Sim, running: &[(HostId, Life)]) -> Result<(), String> {
    let mut meshes: BTreeMap<MeshId, BTreeSet<NameId>> = BTreeMap::new();
    for (id, _) in running {
        meshes.entry(sim.host(*id).mesh).or_default().insert(sim.host(*id).name_id);
    }
    for (id, _) in running {
        let (host, Some(view)) = (sim.host(*id), sim.view(*id)) else { continue };
        let all = meshes.get(&host.mesh).map_or(0, BTreeSet::len);
        let own = usize::from(view.members.get(host.name_id).is_some_and(|held| held.state == MemberState::Alive));
        if view.alive - own + 1 != all {
            return Err(format!("{} holds {} others for alive, of {} that run", host.name, view.alive - own, all - 1));
        }
    }
    Ok(())
}

/// What the agent was told and what the machine answers when asked are the same.
fn told_as_held(sim: &Sim, observer: HostId) -> Result<(), String> {
    let (host, Some(view), Some(swim)) = (sim.host(observer), sim.view(observer), sim.swim(observer)) else {
        return Ok(());
    };
    for (name, state, life) in swim.standings().filter(|(name, ..)| **name != host.name) {
        let told = sim.names.id(name).and_then(|id| view.members.get(id)).map(|held| (held.state, held.life));
        if told != Some((state, life)) {
            return Err(format!("{} was told {told:?} of {name}, its machine says {state} {life}", host.name));
        }
    }
    Ok(())
}

fn records_agree(sim: &Sim, owner: HostId, view: &View) -> Result<(), String> {
    let name = &sim.host(owner).name;
    for record in sim.own_records(owner) {
        let same = match record {
            starling_gossip::OwnRecord::Services(want) => same_services(view.services.get(name), want),
            starling_gossip::OwnRecord::Health(want) => view.health.get(name) == Some(want),
            starling_gossip::OwnRecord::Status(want) => view.status.get(name) == Some(want),
        };
        if !same {
            return Err(format!("holds an older {record:?}"));
        }
    }
    Ok(())
}

/// Equal whatever the order of instances, which travel in shards.
fn same_services(held: Option<&ServicesRecord>, want: &ServicesRecord) -> bool {
    let sorted = |record: &ServicesRecord| {
        let mut instances = record.instances.clone();
        instances.sort_by(|a, b| (&a.service, &a.instance).cmp(&(&b.service, &b.instance)));
        instances
    };
    held.map_or_else(|| want.instances.is_empty(), |held| sorted(held) == sorted(want))
}

#[cfg(test)]
mod tests;
