//! One node: endpoint, machine and the driver between them, as the agent's gossip task does it, without store and API.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fixtures::judge::{down_reason, judge, signature_kind, wall_clock};
use starling_gossip::{
    Action, CloseReason, Command, ConnectionChange, DialTarget, Event, Evidence, ExchangeId, LocalMember, OwnRecord,
    Seed, Signature, Step, Swim, SwimConfig, Ticket, Verdict,
};
use starling_identity::{
    CurrentIdentity, IssuingCa, NewTrustDomain, NodeIdentity, TrustView, create_trust_domain, new_record_key,
};
use starling_model::{
    Announcement, BootEpoch, InstanceName, Labels, MemberState, Namespace, NodeName, PortName, Protocol, ServiceKey,
    ServicesRecord, TrustDomain, Weight,
};
use starling_transport::quic::{
    AGE_MAX, CloseCode, DialTag, GossipNet, KeepAlive, NetEvent, NetSettings, Pair, QuicKeys,
};
use tokio::sync::mpsc;

use crate::Done;

/// Events of the network that wait, as in the agent.
const INBOX_LEN_MAX: usize = 1_024;

/// A turn that comes so late after its deadline is counted.
const LATE: Duration = Duration::from_millis(100);

/// Inputs of one turn, as in the agent.
const TURN_INPUTS_MAX: usize = 64;

/// Who signs for everybody.
pub(crate) struct Mesh {
    domain: NewTrustDomain,
    issuer: IssuingCa,
}

impl Mesh {
    pub(crate) fn new() -> Done<Self> {
        let domain = create_trust_domain(&TrustDomain::new("bench.internal")?, "alice", false, wall_clock())?;
        let issuer = IssuingCa::load(&domain.bundle, &domain.issuer_key_pem)?;
        Ok(Self { domain, issuer })
    }

    pub(crate) fn identity(&self, at: usize) -> Done<(NodeIdentity, CurrentIdentity)> {
        let (name, now) = (NodeName::new(&format!("vm-{at:03}"))?, wall_clock());
        let issued = self.issuer.issue_node(&name, 30, now)?;
        let bundle = &self.domain.bundle;
        let node = NodeIdentity::load(bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), now)?;
        let current = CurrentIdentity::new(node.mint_leaf(now)?, TrustView::new(bundle.clone()));
        Ok((node, current))
    }

    fn settings(&self) -> NetSettings {
        NetSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            keys: QuicKeys::random(),
            mesh: self.domain.bundle.mesh_id,
            keep_alive: KeepAlive::ByProbes,
            age_max: AGE_MAX,
        }
    }

    /// An endpoint alone. Call it inside a runtime.
    pub(crate) fn endpoint(&self, at: usize) -> Done<(GossipNet, mpsc::Receiver<NetEvent>)> {
        let (_, current) = self.identity(at)?;
        let (sender, inbox) = mpsc::channel(INBOX_LEN_MAX);
        Ok((GossipNet::bind(self.settings(), current, wall_clock, sender)?, inbox))
    }
}

/// What a node has seen, for the bench.
#[derive(Debug)]
pub(crate) struct Facts {
    since: Instant,
    alive: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    states: BTreeMap<NodeName, MemberState>,
    deaths: BTreeMap<NodeName, Instant>,
    weights: BTreeMap<NodeName, (u32, Instant)>,
    /// What happened, by kind: failed dials, ends of links, comparisons.
    counts: BTreeMap<String, u64>,
    /// What led to each member's present state, since it was last doubted.
    stories: BTreeMap<NodeName, Vec<String>>,
}

/// Steps of one story that are kept.
const STEPS_MAX: usize = 40;

impl Facts {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other members that it holds alive.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn saw_death(&self, name: &NodeName) -> Option<Instant> {
        self.seen().deaths.get(name).copied()
    }

    /// What happened, by kind.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.seen().counts.clone()
    }

    /// Why it held members dead, but for `name`: one line a step.
    pub(crate) fn stories_but_of(&self, name: &NodeName) -> Vec<String> {
        let seen = self.seen();
        let wrong = seen.deaths.keys().filter(|dead| *dead != name);
        wrong.flat_map(|dead| seen.stories.get(dead).cloned().unwrap_or_default()).collect()
    }

    fn count(&self, what: String) {
        *self.seen().counts.entry(what).or_default() += 1;
    }

    pub(crate) fn deaths(&self) -> usize {
        self.seen().deaths.len()
    }

    /// When it learnt that `owner` announces `weight`.
    pub(crate) fn saw_weight(&self, owner: &NodeName, weight: u32) -> Option<Instant> {
        self.seen().weights.get(owner).filter(|(seen, _)| *seen == weight).map(|(_, at)| *at)
    }

    fn tell(&self, evidence: &Evidence, health_score: u8, now: Instant) {
        let mut seen = self.seen();
        if seen.deaths.contains_key(&evidence.subject) {
            return; // The first death is the one to explain.
        }
        let story = seen.stories.entry(evidence.subject.clone()).or_default();
        if let Step::Suspected { .. } = &evidence.step {
            story.clear();
        }
        if story.len() < STEPS_MAX {
            let at = now.saturating_duration_since(self.since).as_secs_f64();
            let (subject, step) = (&evidence.subject, &evidence.step);
            story.push(format!("{at:.3} s, own health score {health_score}: {subject}: {step:?}"));
        }
    }

    fn note(&self, event: &Event, health_score: u8, now: Instant) {
        match event {
            Event::Member(member) => {
                let mut seen = self.seen();
                let before = seen.states.insert(member.name.clone(), member.state);
                if member.state == MemberState::Dead && before != Some(MemberState::Dead) {
                    seen.deaths.insert(member.name.clone(), now);
                }
                let alive = seen.states.values().filter(|state| **state == MemberState::Alive).count();
                self.alive.store(alive, Ordering::Relaxed);
            }
            Event::Services { owner, record } => {
                if let Some(instance) = record.instances.first() {
                    self.seen().weights.insert(owner.clone(), (instance.weight.get(), now));
                }
            }
            Event::Evidence(evidence) => self.tell(evidence, health_score, now),
            Event::MemberForgotten(_)
            | Event::Health { .. }
            | Event::Status { .. }
            | Event::OwnerDropped(_)
            | Event::Synced { .. }
            | Event::Isolation(_)
            | Event::Alarm(_)
            | Event::Documents(_)
            | Event::Bundle(_)
            | Event::Revoked(_)
            | Event::Submitted { .. }
            | Event::Pong { .. }
            | Event::LeaveFinished { .. } => {}
        }
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) net: GossipNet,
    pub(crate) facts: Arc<Facts>,
    address: SocketAddr,
    commands: mpsc::Sender<Command>,
}

/// Its task's side.
struct Driver {
    swim: Swim,
    net: GossipNet,
    identity: NodeIdentity,
    current: CurrentIdentity,
    facts: Arc<Facts>,
    verdicts: VecDeque<(Ticket, Verdict)>,
}

impl Node {
    /// Starts one, with the first node as its seed. Call it inside a runtime.
    pub(crate) fn start(
        mesh: &Mesh,
        at: usize,
        (identity, current): (NodeIdentity, CurrentIdentity),
        seed: Option<SocketAddr>,
    ) -> Done<Self> {
        let (sender, inbox) = mpsc::channel(INBOX_LEN_MAX);
        let net = GossipNet::bind(mesh.settings(), current.clone(), wall_clock, sender)?;
        let (address, name, epoch) = (net.local_addr()?, identity.node().clone(), BootEpoch(1));
        let me = LocalMember {
            mesh: identity.mesh_id(),
            name: name.clone(),
            addresses: vec![address],
            record_key: identity.record_public_key(),
            credential: Bytes::from(identity.credential(epoch)),
            epoch,
            instance_tag: at as u64,
            region: String::new(),
            release: "bench".to_owned(),
        };
        let mut dice = [0; 32];
        dice.iter_mut().zip(at.to_le_bytes()).for_each(|(place, byte)| *place = byte);
        let (commands, queue) = mpsc::channel(64);
        let now = Instant::now();
        let facts = Arc::new(Facts { since: now, alive: AtomicUsize::new(0), seen: Mutex::default() });
        let driver = Driver {
            swim: Swim::new(me, SwimConfig::lan(), dice, now),
            net: net.clone(),
            identity,
            current,
            facts: Arc::clone(&facts),
            verdicts: VecDeque::new(),
        };
        let node = Self { name, net, facts, address, commands };
        node.announce(1);
        let seeds = seed.map(|address| Seed(address.to_string())).into_iter().collect();
        let _ = node.commands.try_send(Command::Join { seeds });
        tokio::spawn(driver.run(inbox, queue));
        Ok(node)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Eight instances, the first of them with this weight.
    pub(crate) fn announce(&self, weight: u32) {
        let _ = self.commands.try_send(Command::Put(OwnRecord::Services(services(weight))));
    }
}

fn services(weight: u32) -> ServicesRecord {
    let instance = |at: u32| Announcement {
        instance: InstanceName::new(&format!("orders-{at}")).expect("an instance name"),
        service: ServiceKey::parse("orders", &Namespace::default()).expect("a service"),
        port: PortName::new("http").expect("a port name"),
        protocol: Protocol::Http,
        labels: Labels::new([("zone".to_owned(), "a".to_owned())].into()).expect("labels"),
        weight: Weight::new(if at == 0 { weight } else { 1 }).expect("a weight"),
    };
    ServicesRecord { instances: (0..8).map(instance).collect() }
}

impl Driver {
    /// Turns until the runtime ends. Nothing leaves a queue before the `select!` returns.
    async fn run(mut self, mut inbox: mpsc::Receiver<NetEvent>, mut commands: mpsc::Receiver<Command>) {
        loop {
            let deadline = self.swim.poll_timeout().map(|(at, _)| at);
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let (mut events, mut asked) = (Vec::with_capacity(4), None);
            tokio::select! {
                Some(event) = inbox.recv() => events.push(event),
                Some(command) = commands.recv() => asked = Some(command),
                () = sleep => {}
            }
            while events.len() < TURN_INPUTS_MAX {
                let Ok(event) = inbox.try_recv() else { break };
                events.push(event);
            }
            let now = Instant::now();
            for event in events {
                self.feed(event, now);
            }
            if let Some(command) = asked {
                self.swim.handle_command(command, now);
            }
            self.swim.handle_timeout(now);
            self.drain(now);
            let late = deadline.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            if late > LATE {
                self.facts.count("turns late by 100 ms".to_owned());
            }
        }
    }

    fn feed(&mut self, event: NetEvent, now: Instant) {
        match event {
            NetEvent::Datagram { from, payload } => drop(self.swim.handle_datagram(&from, &payload, now)),
            NetEvent::Sync { from, exchange, frame } => {
                drop(self.swim.handle_sync(&from, ExchangeId(exchange), &frame, now));
            }
            NetEvent::Up { peer, address, pair, dialled: _, rtt } => {
                if pair == Pair::New {
                    self.swim.handle_connection(&peer, ConnectionChange::Up { address }, now);
                }
                self.swim.handle_connection(&peer, ConnectionChange::Rtt(rtt), now);
            }
            NetEvent::Down { peer, reason } => {
                self.facts.count(format!("link down: {}", reason.as_str()));
                let change = ConnectionChange::Down { reason: down_reason(reason) };
                self.swim.handle_connection(&peer, change, now);
            }
            NetEvent::DialFailed { tag, expected: None, reason } => {
                self.facts.count(format!("dial failed: {reason}"));
                self.swim.handle_command(Command::SeedFailed { seed: Seed(tag.0) }, now);
            }
            NetEvent::DialFailed { expected: Some(peer), reason, .. } => {
                self.facts.count(format!("dial failed: {reason}"));
                let change = ConnectionChange::DialFailed { reason: down_reason(reason.as_down()) };
                self.swim.handle_connection(&peer, change, now);
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        loop {
            while let Some(action) = self.swim.poll_action() {
                self.perform(action, now);
            }
            let Some((ticket, verdict)) = self.verdicts.pop_front() else { return };
            self.swim.handle_verdict(ticket, verdict, now);
        }
    }

    fn perform(&mut self, action: Action, now: Instant) {
        match action {
            Action::SendDatagram { to, payload } => {
                let _ = self.net.send_datagram(&to, payload);
            }
            Action::SendSync { to, exchange, frame, last } => {
                self.facts
                    .count(format!("frames of {}", if exchange.is_inbound() { "answers" } else { "our exchanges" }));
                self.net.send_sync(&to, exchange.0, frame, last);
            }
            Action::Dial { target: DialTarget::Member(peer), addresses, .. } => {
                let tag = DialTag(peer.to_string());
                self.net.dial(Some(peer), tag, addresses);
            }
            Action::Dial { target: DialTarget::Seed(seed), .. } => {
                let addresses = seed.0.parse().into_iter().collect();
                self.net.dial(None, DialTag(seed.0), addresses);
            }
            Action::Close { peer, why } => self.net.close(
                &peer,
                match why {
                    CloseReason::Leaving => CloseCode::Leaving,
                    CloseReason::Evicted => CloseCode::Evicted,
                    CloseReason::Stale => CloseCode::Stale,
                },
            ),
            Action::Verify { ticket, claim } => {
                self.verdicts.push_back((ticket, judge(&claim, &self.current)));
            }
            Action::Sign { ticket, statement } => {
                let signature = self.identity.sign(signature_kind(statement.kind), &statement.body);
                let signature = Signature(signature);
                self.swim.handle_signature(ticket, signature, now);
            }
            Action::Persist(_) => {}
            Action::Emit(event) => self.facts.note(&event, self.swim.health_score(), now),
        }
    }
}
