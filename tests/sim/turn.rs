//! One turn of one agent, as its driver does it: feed the inputs, `handle_timeout`, perform all actions, arm one timer.
//!
//! A turn has two halves. To think is the machine's own: it needs nothing but its process, so the agents of one slot do
//! it at the same time ([`crate::slots`]). To act is to let the rest of the run know, one agent after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::{
    Action, Command, ConnectionChange, DownReason, Event, Evidence, ExchangeId, Signature, Step, Swim, Ticket, Verdict,
};
use starling_model::{MeshId, NodeName};

use crate::anomaly::{Anomaly, Send};
use crate::checks::{Scene, View};
use crate::clock::SimTime;
use crate::cluster::{HostId, Sim};
use crate::keys::Trust;
use crate::shell::{ConnectionId, DialId, Happening, Outgoing};
use crate::trace::Trace;

/// A crypto driver that is not slower answers all questions of a turn together.
const TOGETHER_MAX: Duration = Duration::from_millis(1);

/// Inputs for which an agent keeps room between its turns.
const INBOX_KEPT: usize = 16;

/// What a driver feeds into its machine.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Datagram { from: NodeName, payload: Bytes },
    Sync { from: NodeName, exchange: ExchangeId, frame: Bytes },
    Change { peer: NodeName, change: ConnectionChange },
    Command(Command),
    Verdict(Ticket, Verdict),
    Signature(Ticket, Signature),
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) swim: Swim,
    host: HostId,
    mesh: MeshId,
    pub(crate) generation: u64,
    pub(crate) inbox: Vec<Input>,
    pub(crate) links: BTreeMap<NodeName, ConnectionId>,
    pub(crate) streams_in: BTreeMap<(NodeName, u64), (ConnectionId, u64)>,
    pub(crate) streams_out: BTreeMap<u64, ConnectionId>,
    pub(crate) next_inbound: u64,
    /// Dials under way.
    pub(crate) dialling: Vec<DialId>,
    /// What the crypto driver answers to the present turn.
    answers: Vec<Input>,
    pub(crate) view: View,
    pub(crate) wake_token: u64,
    pub(crate) wake_at: Option<SimTime>,
    /// It has a turn at the end of this slot.
    pub(crate) due: bool,
    thought: Thought,
    last_turn: SimTime,
    turns_in_a_row: u32,
}

/// What machines share while they think: the time, in both its forms, whom to trust, and whether disks keep anything.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) now: SimTime,
    pub(crate) instant: Instant,
    pub(crate) trust: Arc<Trust>,
    pub(crate) disks: bool,
}

/// What a machine made of its inputs.
#[derive(Debug, Default)]
struct Thought {
    /// What the run must hear of.
    actions: Vec<Action>,
    /// All that it asked for.
    asked: usize,
    /// When it wants its next turn.
    wake: Option<Instant>,
    trace: Trace,
    rejected: Vec<&'static str>,
    downs: Vec<DownReason>,
    forgeries_refused: u64,
}

impl Process {
    /// A machine that has not had its first turn.
    pub(crate) fn new(swim: Swim, (host, mesh): (HostId, MeshId), generation: u64, now: SimTime) -> Self {
        Self {
            swim,
            host,
            mesh,
            generation,
            inbox: Vec::new(),
            links: BTreeMap::new(),
            streams_in: BTreeMap::new(),
            streams_out: BTreeMap::new(),
            next_inbound: 0,
            dialling: Vec::new(),
            answers: Vec::new(),
            view: View::default(),
            wake_token: 0,
            wake_at: None,
            due: false,
            thought: Thought::default(),
            last_turn: now,
            turns_in_a_row: 0,
        }
    }

    /// Turns at one and the same virtual time.
    pub(crate) fn turns_in_a_row(&self) -> u32 {
        self.turns_in_a_row
    }

    /// The machine's half of a turn.
    pub(crate) fn think(&mut self, anomaly: &mut Anomaly, moment: &Moment) {
        let (id, now, instant) = (self.host, moment.now, moment.instant);
        self.turns_in_a_row = if self.last_turn == now { self.turns_in_a_row + 1 } else { 0 };
        self.last_turn = now;
        let nanos = now.elapsed().as_nanos();
        let mut inbox = std::mem::take(&mut self.inbox);
        for input in inbox.drain(..) {
            self.feed(id, input, nanos, instant);
        }
        // What a burst took is given back: thousands of agents would keep room for the greatest turn of each.
        if inbox.capacity() <= INBOX_KEPT {
            self.inbox = inbox;
        }
        anomaly.handle_timeout(&mut self.swim, instant);
        while let Some(action) = self.swim.poll_action() {
            trace_action(&mut self.thought.trace, id, nanos, &action);
            self.thought.asked += 1;
            if let Action::Verify { ticket, claim } = action {
                let verdict = moment.trust.judge(&self.mesh, &claim);
                self.answers.push(Input::Verdict(ticket, verdict));
            } else if moment.disks || !matches!(action, Action::Persist(_)) {
                self.thought.actions.push(action);
            }
        }
        self.thought.wake = anomaly.poll_timeout(&self.swim);
    }

    fn feed(&mut self, id: HostId, input: Input, nanos: u128, now: Instant) {
        let trace = &mut self.thought.trace;
        let rejected = match input {
            Input::Datagram { from, payload } => {
                trace.add(1, id.0, nanos, &payload);
                self.swim.handle_datagram(&from, &payload, now).err()
            }
            Input::Sync { from, exchange, frame } => {
                trace.add(2, id.0, nanos, &frame);
                self.swim.handle_sync(&from, exchange, &frame, now).err()
            }
            Input::Change { peer, change } => {
                trace.add(3, id.0, nanos, format!("{peer} {change:?}").as_bytes());
                if let ConnectionChange::Down { reason } | ConnectionChange::DialFailed { reason } = change {
                    self.thought.downs.push(reason);
                }
                self.swim.handle_connection(&peer, change, now);
                None
            }
            Input::Command(command) => {
                trace.add(4, id.0, nanos, &[]);
                self.swim.handle_command(command, now);
                None
            }
            Input::Verdict(ticket, verdict) => {
                trace.add(5, id.0, nanos, &ticket.0.to_le_bytes());
                self.thought.forgeries_refused += u64::from(verdict == Verdict::Refused);
                self.swim.handle_verdict(ticket, verdict, now);
                None
            }
            Input::Signature(ticket, signature) => {
                trace.add(6, id.0, nanos, &signature.0);
                self.swim.handle_signature(ticket, signature, now);
                None
            }
        };
        self.thought.rejected.extend(rejected.map(|rejected| rejected.reason()));
    }
}

impl Sim {
    /// An agent has something to do: now, or at the end of the slot.
    pub(crate) fn turn(&mut self, id: HostId) {
        if !self.setup.slot.is_zero() {
            return self.turn_in_slot(id);
        }
        let moment = self.moment();
        let host = &mut self.hosts[id.0];
        let Some(mut process) = host.process.take() else { return };
        process.think(&mut host.anomaly, &moment);
        self.act(id, process);
    }

    pub(crate) fn moment(&self) -> Moment {
        let (trust, disks) = (Arc::clone(&self.trust), self.setup.disks);
        Moment { now: self.now, instant: self.clock.instant(self.now), trust, disks }
    }

    /// The other half of a turn: the run learns what came of it.
    pub(crate) fn act(&mut self, id: HostId, mut process: Box<Process>) {
        let now = self.now;
        let thought = std::mem::take(&mut process.thought);
        self.trace.join(&thought.trace);
        self.checker.counts.forgeries_refused += thought.forgeries_refused;
        for reason in thought.downs {
            *self.checker.counts.downs.entry(reason).or_default() += 1;
        }
        for reason in thought.rejected {
            *self.checker.counts.rejected.entry(reason).or_default() += 1;
        }
        let over = |action: &Action| matches!(action, Action::Emit(Event::LeaveFinished { .. }));
        let over = thought.actions.iter().any(over);
        for action in thought.actions {
            self.perform(id, &mut process, action);
        }
        self.answer(id, &mut process);
        self.arm(id, &mut process, thought.wake);
        self.checker.after_turn(now, &self.hosts[id.0], &process, thought.asked);
        if over {
            self.close_all(id, &mut process);
            self.hosts[id.0].disk.flush();
            self.checker.note(now, format!("{} is gone", self.hosts[id.0].name));
        } else {
            self.hosts[id.0].process = Some(process);
        }
    }

    fn perform(&mut self, id: HostId, process: &mut Process, action: Action) {
        match action {
            Action::SendDatagram { to, payload } => {
                self.checker.sent(self.now, &self.hosts[id.0].name, payload.len(), true);
                self.checker.traffic.iter_mut().for_each(|traffic| traffic.datagram(&payload));
                self.hosts[id.0].last_datagram = payload.clone();
                let send = Send::Datagram { to, payload };
                self.send_unless_blocked(id, process, send);
            }
            Action::SendSync { to, exchange, frame, last } => {
                self.checker.sent(self.now, &self.hosts[id.0].name, frame.len(), false);
                self.checker.traffic.iter_mut().for_each(|traffic| traffic.frame(&frame));
                if !frame.is_empty() {
                    self.hosts[id.0].last_frame = frame.clone();
                }
                let send = Send::Sync { to, outgoing: Outgoing { exchange, frame, last } };
                self.send_unless_blocked(id, process, send);
            }
            Action::Dial { target, addresses, why: _ } => self.dial(id, process, target, addresses),
            Action::Close { peer, why } => self.close(id, process, &peer, why),
            Action::Sign { ticket, statement } => {
                let host = &self.hosts[id.0];
                let signature = Signature(host.key.sign(&host.mesh, statement.kind, &statement.body));
                process.answers.push(Input::Signature(ticket, signature));
            }
            Action::Persist(change) => self.hosts[id.0].disk.keep(change, self.now),
            // Answered while the machine thought.
            Action::Verify { .. } => {}
            Action::Emit(event) => {
                if matches!(event, Event::Synced { .. }) {
                    self.hosts[id.0].ready = Some(self.now);
                }
                self.note_failed_probe(&event);
                if let Event::Evidence(evidence) = &event {
                    self.note_ladder(evidence);
                }
                let scene = Scene {
                    at: self.now,
                    observer: id,
                    hosts: &self.hosts,
                    names: &self.names,
                    network: &self.network,
                };
                self.checker.told(&scene, process, event);
            }
        }
    }

    /// When the first failed probe of each member began.
    fn note_failed_probe(&mut self, event: &Event) {
        if let Event::Evidence(Evidence { subject, step: Step::ProbeFailed(trail), .. }) = event {
            let began = self.clock.time(trail.began);
            let first = self.checker.first_failed_probes.entry(subject.clone()).or_insert(began);
            *first = began.min(*first);
        }
    }

    /// Answers of the crypto driver take a moment. A quick one answers all that a turn asked at once; with a slow one each
    /// answer takes its own time, and they do not come back in order.
    fn answer(&mut self, host: HostId, process: &mut Process) {
        let generation = process.generation;
        if self.setup.crypto <= TOGETHER_MAX {
            if !process.answers.is_empty() {
                let inputs = std::mem::take(&mut process.answers);
                let wait = self.crypto_dice.up_to(self.setup.crypto);
                self.later(wait, Happening::Answer { host, generation, inputs });
            }
            return;
        }
        for input in std::mem::take(&mut process.answers) {
            let wait = self.crypto_dice.up_to(self.setup.crypto);
            self.later(wait, Happening::Answer { host, generation, inputs: vec![input] });
        }
    }

    fn arm(&mut self, id: HostId, process: &mut Process, wake: Option<Instant>) {
        let at = wake.map(|at| self.clock.time(at).max(self.now));
        if at != process.wake_at || at == Some(self.now) {
            process.wake_at = at;
            process.wake_token += 1;
            if let Some(at) = at {
                self.checker.busy(self.now, &self.hosts[id.0], process, at);
                let happening = Happening::Turn { host: id, generation: process.generation, token: process.wake_token };
                self.later(at.since(self.now), happening);
            }
        }
    }
}

fn trace_action(trace: &mut Trace, id: HostId, nanos: u128, action: &Action) {
    match action {
        Action::SendDatagram { payload, .. } => trace.add(11, id.0, nanos, payload),
        Action::SendSync { frame, .. } => trace.add(12, id.0, nanos, frame),
        Action::Dial { target, why, .. } => trace.add(13, id.0, nanos, format!("{target:?} {why:?}").as_bytes()),
        Action::Close { peer, .. } => trace.add(14, id.0, nanos, peer.as_str().as_bytes()),
        Action::Verify { ticket, .. } => trace.add(15, id.0, nanos, &ticket.0.to_le_bytes()),
        Action::Sign { statement, .. } => trace.add(16, id.0, nanos, &statement.body),
        Action::Persist(_) => trace.add(17, id.0, nanos, &[]),
        Action::Emit(event) => trace_event(trace, id, nanos, event),
    }
}

/// Members and evidence are told by the million in a large run: without a text in between.
fn trace_event(trace: &mut Trace, id: HostId, nanos: u128, event: &Event) {
    let (name, state, life) = match event {
        Event::Member(view) => (&view.name, view.state.as_str(), view.life),
        Event::Evidence(why) => (&why.subject, why.step.as_str(), why.life),
        other @ (Event::MemberForgotten(_)
        | Event::OwnerDropped(_)
        | Event::Services { .. }
        | Event::Health { .. }
        | Event::Status { .. }
        | Event::Synced { .. }
        | Event::Isolation(_)
        | Event::Alarm(_)
        | Event::Documents(_)
        | Event::Bundle(_)
        | Event::Revoked(_)
        | Event::Submitted { .. }
        | Event::Pong { .. }
        | Event::LeaveFinished { .. }) => return trace.add(18, id.0, nanos, event_word(other).as_bytes()),
    };
    trace.add(18, id.0, nanos, name.as_str().as_bytes());
    trace.number(life.epoch.0);
    trace.number(u64::from(life.incarnation.0));
    trace.number(state.len() as u64 ^ u64::from(state.as_bytes().first().copied().unwrap_or(0)) << 8);
}

/// The part of a rare event that a trace compares.
fn event_word(event: &Event) -> String {
    match event {
        Event::Member(view) => format!("{} {} {}", view.name, view.state, view.life),
        Event::MemberForgotten(name) | Event::OwnerDropped(name) => format!("{name} gone"),
        Event::Services { owner, record } => format!("{owner} {record:?}"),
        Event::Health { owner, record } => format!("{owner} {record:?}"),
        Event::Status { owner, record } => format!("{owner} {record:?}"),
        Event::Synced { members } => format!("synced {members}"),
        Event::Isolation(on) => format!("isolation {on}"),
        Event::Evidence(why) => format!("{} {} {}", why.subject, why.life, why.step.as_str()),
        Event::Alarm(alarm) => format!("{alarm:?}"),
        Event::Documents(event) => crate::operators::line(event),
        Event::Bundle(event) => format!("{event:?}"),
        Event::Revoked(view) => format!("{} revoked", view.revocation.node),
        Event::Submitted { submit, outcome } => format!("{} {outcome:?}", submit.0),
        Event::Pong { ping, answer } => format!("{} {answer:?}", ping.0),
        Event::LeaveFinished { acknowledged } => format!("left {acknowledged}"),
    }
}
