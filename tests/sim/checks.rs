//! What must hold in every run, looked at after every turn of every agent, and what happened, so that a run in which
//! nothing happened is not taken for a proof.
//!
//! Each checker is a function of plain values with a test that makes it fire. A breach never stops a run: it is written
//! down with its time, and the scenario fails at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use starling_gossip::limits::{ACTIONS_MAX, DATAGRAM_BYTES_MAX, SYNC_FRAME_BYTES_MAX, WAITING_ROOM_MAX};
use starling_gossip::{DownReason, Event, MemberView};
use starling_model::{HealthRecord, Life, MemberState, MeshId, NodeName, ServicesRecord, StatusRecord};

use crate::clock::SimTime;
use crate::cluster::{Host, HostId, Sim};
use crate::network::Network;
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
    /// Members as last told.
    pub members: BTreeMap<NodeName, (MemberState, Life)>,
    /// Services as last told.
    pub services: BTreeMap<NodeName, ServicesRecord>,
    /// Readiness as last told.
    pub health: BTreeMap<NodeName, HealthRecord>,
    /// Conditions as last told.
    pub status: BTreeMap<NodeName, StatusRecord>,
    /// Failed probes of this agent when each member was last told to be alive.
    failures_while_alive: BTreeMap<NodeName, u64>,
    /// Alarms so far.
    pub alarms: Vec<String>,
    /// True while the agent takes itself for cut off.
    pub isolated: bool,
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
    /// Stateless resets sent.
    pub resets: u64,
    /// Dials of another mesh that were refused.
    pub foreign_refused: u64,
    /// Sends without a connection.
    pub unsent: u64,
    /// Packets that found a paused process's buffer full.
    pub overflowed: u64,
    /// Claims with a signature or credential that does not hold.
    pub forgeries_refused: u64,
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
    /// Highest life that each name has had itself.
    lives: BTreeMap<(MeshId, NodeName), Life>,
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

impl Checker {
    /// Writes a line of the story.
    pub fn note(&mut self, at: SimTime, line: String) {
        if self.lines.len() < LINES_MAX {
            self.lines.push((at, line));
        }
    }

    /// Writes down a breach.
    pub fn breach(&mut self, at: SimTime, what: &str) {
        if self.breaches.len() < BREACHES_MAX {
            self.breaches.push(format!("at {at}: {what}"));
        }
    }

    pub(crate) fn sent(&mut self, at: SimTime, from: &NodeName, bytes: &[u8], is_datagram: bool) {
        let (number, sum) = if is_datagram { &mut self.counts.datagrams } else { &mut self.counts.frames };
        *number += 1;
        *sum += bytes.len() as u64;
        if oversized(bytes.len(), is_datagram) {
            self.breach(at, &format!("{from} sends {} bytes at once", bytes.len()));
        }
    }

    pub(crate) fn busy(&mut self, at: SimTime, host: &Host, process: &Process, deadline: SimTime) {
        if deadline == at && process.turns_in_a_row() == BUSY_MAX {
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
        if process.turns_in_a_row() == TURNS_IN_A_ROW_MAX {
            self.breach(at, &format!("{}: {TURNS_IN_A_ROW_MAX} turns at one time", host.name));
        }
        let me = process.swim.me();
        if self_denial(me.state, host.leaving) {
            self.breach(at, &format!("{} holds itself for {}", host.name, me.state));
        }
        let highest = self.lives.entry((host.mesh, host.name.clone())).or_insert(me.life);
        *highest = (*highest).max(me.life);
    }

    /// An agent was told something.
    pub(crate) fn told(&mut self, scene: &Scene<'_>, process: &mut Process, event: Event) {
        let Scene { at, observer, hosts, network } = *scene;
        let host = &hosts[observer.0];
        match event {
            Event::Member(view) => {
                let met = process.view.members.contains_key(&view.name);
                let died = self.member(at, host, &mut process.view, &view);
                if view.state == MemberState::Alive {
                    let failures = process.swim.stats().probes_failed;
                    process.view.failures_while_alive.insert(view.name.clone(), failures);
                }
                // Whom the snapshot knew as dead did not die now.
                if died && met {
                    let subject = hosts.iter().enumerate().filter(|(_, h)| h.name == view.name && h.mesh == host.mesh);
                    let mut death =
                        Death { at, observer, subject: view.name.clone(), running: false, reachable: false };
                    for (index, other) in subject {
                        let id = HostId(index);
                        death.running |= other.is_running() && !other.leaving;
                        death.reachable |= network.passes(observer, id) && network.passes(id, observer);
                    }
                    let before = process.view.failures_while_alive.get(&view.name).copied().unwrap_or(0);
                    if unproven_death(before, process.swim.stats().probes_failed) {
                        self.breach(
                            at,
                            &format!("{} buries {} without a failed probe of its own", host.name, view.name),
                        );
                    }
                    self.deaths.push(death);
                }
            }
            Event::MemberForgotten(name) => {
                self.note(at, format!("{}: {name} is forgotten", host.name));
                process.view.members.remove(&name);
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
            Event::Evidence(_) | Event::Pong { .. } => {}
            Event::Alarm(alarm) => {
                self.note(at, format!("{}: alarm {alarm:?}", host.name));
                process.view.alarms.push(format!("{alarm:?}"));
            }
            Event::Documents(event) => self.note(at, format!("{}: {event:?}", host.name)),
            Event::Revoked(view) => self.note(at, format!("{}: {} is revoked", host.name, view.revocation.node)),
            Event::Submitted { submit, outcome } => {
                self.note(at, format!("{}: submission {}: {outcome:?}", host.name, submit.0));
            }
            Event::LeaveFinished { acknowledged } => {
                self.note(at, format!("{}: leave done, {acknowledged} confirmed it", host.name));
            }
        }
    }

    /// Checks and keeps one view of one member; true when the member died by it.
    fn member(&mut self, at: SimTime, observer: &Host, view: &mut View, member: &MemberView) -> bool {
        let old = view.members.get(&member.name).copied();
        let new = (member.state, member.life);
        if let Some(what) = illegal_move(old, new) {
            let (state, life) = old.unwrap_or(new);
            self.breach(
                at,
                &format!("{}: {} {state} {life} -> {} {}: {what}", observer.name, member.name, new.0, new.1),
            );
        }
        let highest = self.lives.get(&(observer.mesh, member.name.clone())).copied().unwrap_or_default();
        if member.life > highest {
            let line =
                format!("{}: {} in life {}, its own highest is {highest}", observer.name, member.name, member.life);
            self.breach(at, &line);
        }
        let entered = old.is_none_or(|(state, _)| state != member.state);
        if entered {
            self.note(at, format!("{}: {} is {} in life {}", observer.name, member.name, member.state, member.life));
            self.counts.suspicions += u64::from(member.state == MemberState::Suspect);
        }
        if old.is_some_and(|(state, life)| state == MemberState::Suspect && life < member.life) {
            self.counts.refuted += u64::from(member.state == MemberState::Alive);
        }
        view.members.insert(member.name.clone(), new);
        entered && member.state == MemberState::Dead
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
pub fn converged(sim: &Sim) -> Result<(), String> {
    let running: Vec<HostId> = sim.host_ids().filter(|id| sim.host(*id).is_running()).collect();
    for observer in &running {
        let (host, Some(view), Some(swim)) = (sim.host(*observer), sim.view(*observer), sim.swim(*observer)) else {
            continue;
        };
        for subject in running.iter().filter(|subject| sim.host(**subject).mesh == host.mesh) {
            let other = sim.host(*subject);
            let Some(me) = sim.swim(*subject).map(starling_gossip::Swim::me) else { continue };
            let held =
                if observer == subject { Some((me.state, me.life)) } else { view.members.get(&other.name).copied() };
            if held != Some((MemberState::Alive, me.life)) {
                return Err(format!(
                    "{} holds {} for {held:?}, it is alive in life {}",
                    host.name, other.name, me.life
                ));
            }
            records_agree(sim, *subject, view).map_err(|what| format!("{} of {}: {what}", host.name, other.name))?;
        }
        let alive =
            view.members.iter().filter(|(name, (state, _))| *state == MemberState::Alive && **name != host.name);
        for (name, _) in alive {
            if !running.iter().any(|id| sim.host(*id).name == *name && sim.host(*id).mesh == host.mesh) {
                return Err(format!("{} holds {name} for alive, and no such agent runs", host.name));
            }
        }
        // What the agent was told and what the machine answers when asked are the same.
        for member in swim.members().filter(|member| member.name != host.name) {
            if view.members.get(&member.name) != Some(&(member.state, member.life)) {
                return Err(format!(
                    "{} was told {:?} of {}, its machine says {} {}",
                    host.name,
                    view.members.get(&member.name),
                    member.name,
                    member.state,
                    member.life
                ));
            }
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
