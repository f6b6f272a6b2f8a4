//! One turn of one agent, as its driver does it: feed the inputs, `handle_timeout`, perform all actions, arm one timer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use starling_gossip::{
    Action, Command, ConnectionChange, Event, Evidence, ExchangeId, Signature, Step, Swim, Ticket, Verdict,
};
use starling_model::NodeName;

use crate::anomaly::Send;
use crate::checks::{Scene, View};
use crate::clock::SimTime;
use crate::cluster::{HostId, Sim};
use crate::shell::{ConnectionId, DialId, Happening, Outgoing};

/// A crypto driver that is not slower answers all questions of a turn together.
const TOGETHER_MAX: Duration = Duration::from_millis(1);

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
    last_turn: SimTime,
    turns_in_a_row: u32,
}

impl Process {
    /// A machine that has not had its first turn.
    pub(crate) fn new(swim: Swim, generation: u64, inbox: Vec<Input>, now: SimTime) -> Self {
        Self {
            swim,
            generation,
            inbox,
            links: BTreeMap::new(),
            streams_in: BTreeMap::new(),
            streams_out: BTreeMap::new(),
            next_inbound: 0,
            dialling: Vec::new(),
            answers: Vec::new(),
            view: View::default(),
            wake_token: 0,
            wake_at: None,
            last_turn: now,
            turns_in_a_row: 0,
        }
    }

    /// Turns at one and the same virtual time.
    pub(crate) fn turns_in_a_row(&self) -> u32 {
        self.turns_in_a_row
    }
}

impl Sim {
    pub(crate) fn turn(&mut self, id: HostId) {
        let Some(mut process) = self.hosts[id.0].process.take() else { return };
        let (now, instant) = (self.now, self.clock.instant(self.now));
        process.turns_in_a_row = if process.last_turn == now { process.turns_in_a_row + 1 } else { 0 };
        process.last_turn = now;
        let mut inbox = std::mem::take(&mut process.inbox);
        for input in inbox.drain(..) {
            self.feed(id, &mut process, input);
        }
        process.inbox = inbox;
        self.hosts[id.0].anomaly.handle_timeout(&mut process.swim, instant);
        let mut over = false;
        let mut actions = 0;
        while let Some(action) = process.swim.poll_action() {
            over |= matches!(action, Action::Emit(Event::LeaveFinished { .. }));
            self.perform(id, &mut process, action);
            actions += 1;
        }
        self.answer(id, &mut process);
        self.arm(id, &mut process);
        self.checker.after_turn(now, &self.hosts[id.0], &process, actions);
        if over {
            self.close_all(id, &mut process);
            self.hosts[id.0].disk.flush();
            self.checker.note(now, format!("{} is gone", self.hosts[id.0].name));
        } else {
            self.hosts[id.0].process = Some(process);
        }
    }

    fn feed(&mut self, id: HostId, process: &mut Process, input: Input) {
        let now = self.clock.instant(self.now);
        let nanos = self.now.elapsed().as_nanos();
        let rejected = match input {
            Input::Datagram { from, payload } => {
                self.trace.add(1, id.0, nanos, &payload);
                process.swim.handle_datagram(&from, &payload, now).err()
            }
            Input::Sync { from, exchange, frame } => {
                self.trace.add(2, id.0, nanos, &frame);
                process.swim.handle_sync(&from, exchange, &frame, now).err()
            }
            Input::Change { peer, change } => {
                self.trace.add(3, id.0, nanos, format!("{peer} {change:?}").as_bytes());
                if let ConnectionChange::Down { reason } | ConnectionChange::DialFailed { reason } = change {
                    *self.checker.counts.downs.entry(reason).or_default() += 1;
                }
                process.swim.handle_connection(&peer, change, now);
                None
            }
            Input::Command(command) => {
                self.trace.add(4, id.0, nanos, &[]);
                process.swim.handle_command(command, now);
                None
            }
            Input::Verdict(ticket, verdict) => {
                self.trace.add(5, id.0, nanos, &ticket.0.to_le_bytes());
                if verdict == Verdict::Refused {
                    self.checker.counts.forgeries_refused += 1;
                }
                process.swim.handle_verdict(ticket, verdict, now);
                None
            }
            Input::Signature(ticket, signature) => {
                self.trace.add(6, id.0, nanos, &signature.0);
                process.swim.handle_signature(ticket, signature, now);
                None
            }
        };
        if let Some(rejected) = rejected {
            *self.checker.counts.rejected.entry(rejected.reason()).or_default() += 1;
        }
    }

    fn perform(&mut self, id: HostId, process: &mut Process, action: Action) {
        let nanos = self.now.elapsed().as_nanos();
        match action {
            Action::SendDatagram { to, payload } => {
                self.trace.add(11, id.0, nanos, &payload);
                self.checker.sent(self.now, &self.hosts[id.0].name, payload.len(), true);
                self.checker.traffic.iter_mut().for_each(|traffic| traffic.datagram(&payload));
                self.hosts[id.0].last_datagram = payload.clone();
                let send = Send::Datagram { to, payload };
                self.send_unless_blocked(id, process, send);
            }
            Action::SendSync { to, exchange, frame, last } => {
                self.trace.add(12, id.0, nanos, &frame);
                self.checker.sent(self.now, &self.hosts[id.0].name, frame.len(), false);
                self.checker.traffic.iter_mut().for_each(|traffic| traffic.frame(&frame));
                if !frame.is_empty() {
                    self.hosts[id.0].last_frame = frame.clone();
                }
                let send = Send::Sync { to, outgoing: Outgoing { exchange, frame, last } };
                self.send_unless_blocked(id, process, send);
            }
            Action::Dial { target, addresses, why } => {
                self.trace.add(13, id.0, nanos, format!("{target:?} {why:?}").as_bytes());
                self.dial(id, process, target, addresses);
            }
            Action::Close { peer, why } => {
                self.trace.add(14, id.0, nanos, peer.as_str().as_bytes());
                self.close(id, process, &peer, why);
            }
            Action::Verify { ticket, claim } => {
                self.trace.add(15, id.0, nanos, &ticket.0.to_le_bytes());
                let verdict = self.trust.judge(&self.hosts[id.0].mesh, &claim);
                process.answers.push(Input::Verdict(ticket, verdict));
            }
            Action::Sign { ticket, statement } => {
                self.trace.add(16, id.0, nanos, &statement.body);
                let host = &self.hosts[id.0];
                let signature = Signature(host.key.sign(&host.mesh, statement.kind, &statement.body));
                process.answers.push(Input::Signature(ticket, signature));
            }
            Action::Persist(change) => {
                self.trace.add(17, id.0, nanos, &[]);
                if self.setup.disks {
                    self.hosts[id.0].disk.keep(change, self.now);
                }
            }
            Action::Emit(event) => {
                self.trace_event(id, nanos, &event);
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

    /// Members and evidence are told by the million in a large run: without a text in between.
    fn trace_event(&mut self, id: HostId, nanos: u128, event: &Event) {
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
            | Event::LeaveFinished { .. }) => return self.trace.add(18, id.0, nanos, event_word(other).as_bytes()),
        };
        self.trace.add(18, id.0, nanos, name.as_str().as_bytes());
        self.trace.number(life.epoch.0);
        self.trace.number(u64::from(life.incarnation.0));
        self.trace.number(state.len() as u64 ^ u64::from(state.as_bytes().first().copied().unwrap_or(0)) << 8);
    }

    fn arm(&mut self, id: HostId, process: &mut Process) {
        let at = self.hosts[id.0].anomaly.poll_timeout(&process.swim).map(|at| self.clock.time(at).max(self.now));
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
