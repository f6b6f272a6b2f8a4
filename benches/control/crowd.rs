//! A thousand members behind one real gossip node.
//!
//! The node's machine learns them in memory: for each one a machine of its own is made with keys, certificate, credential
//! and announced instances, meets ours for some milliseconds, and goes. Then the node dials the agent over QUIC, and the
//! agent takes in every one of them as signed by its owner. Nobody is at their addresses: an agent that probes one dials in
//! vain, suspects it and tells of it, about one a second.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fixtures::judge::{down_reason, judge, signature_kind, wall_clock};
use starling_gossip::{
    Action, CloseReason, Command, ConnectionChange, DialTarget, DownReason, Event, ExchangeId, LocalMember, OwnRecord,
    Seed, Signature, SignedClaim, Swim, SwimConfig, Ticket, Verdict,
};
use starling_identity::{CurrentIdentity, NodeIdentity};
use starling_model::{
    Announcement, BootEpoch, HealthEntry, HealthRecord, InstanceName, Labels, MemberState, Namespace, NodeName,
    PortName, Protocol, Readiness, ServiceKey, ServicesRecord, Weight,
};
use starling_transport::quic::{
    AGE_MAX, CloseCode, DialTag, GossipNet, KeepAlive, NetEvent, NetSettings, Pair, QuicKeys,
};
use tokio::sync::mpsc;

use crate::Done;
use crate::arguments::Arguments;
use crate::issuer::Issuer;

/// Events of the network that wait, as in the agent.
const INBOX_LEN_MAX: usize = 1_024;

/// Virtual time in which a newcomer and the node must have compared what they hold.
const MEETING_MS_MAX: u32 = 100;

const EPOCH: BootEpoch = BootEpoch(1);

/// Who is in the crowd, and what they announce.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) members: usize,
    /// Instances of each member.
    pub(crate) instances: usize,
    /// Services over which all instances are spread, one after the other.
    pub(crate) services: usize,
    /// Each member says that its instances are ready, as an agent does; else nobody may use them.
    pub(crate) ready: Readiness,
}

impl Shape {
    /// What `benches/control.sh` joins.
    pub(crate) fn of_control(members: usize) -> Self {
        Self { members, instances: 1, services: 100, ready: Readiness::Unready }
    }

    fn read(arguments: &Arguments) -> Result<Self, String> {
        let default = Self::of_control(arguments.get("members", 1_000)?);
        let ready = if arguments.get("ready", 0_u8)? == 1 { Readiness::Ready } else { default.ready };
        let (instances, services) =
            (arguments.get("instances", default.instances)?, arguments.get("services", default.services)?);
        Ok(Self { instances, services: services.max(1), ready, ..default })
    }

    /// Arguments of the program, from which the same is read again.
    pub(crate) fn arguments(&self) -> [String; 4] {
        [
            format!("members={}", self.members),
            format!("instances={}", self.instances),
            format!("services={}", self.services),
            format!("ready={}", u8::from(self.ready == Readiness::Ready)),
        ]
    }

    /// What member `at` announces.
    fn announced_by(&self, at: usize) -> Done<ServicesRecord> {
        let announcement = |number: usize| -> Done<Announcement> {
            let service = format!("orders-{:02}", number % self.services);
            Ok(Announcement {
                instance: InstanceName::new(&format!("orders-{number:04}"))?,
                service: ServiceKey::parse(&service, &Namespace::default())?,
                port: PortName::new("http")?,
                protocol: Protocol::Http,
                labels: Labels::default(),
                weight: Weight::default(),
            })
        };
        let numbers = (at * self.instances)..((at + 1) * self.instances);
        // By name, as an agent writes it.
        let by_name: BTreeMap<_, _> =
            numbers.map(|number| announcement(number).map(|one| (one.instance.clone(), one))).collect::<Done<_>>()?;
        Ok(ServicesRecord { instances: by_name.into_values().collect() })
    }
}

/// A machine with the keys that its claims are signed with.
struct Member {
    swim: Swim,
    identity: NodeIdentity,
    current: CurrentIdentity,
    /// Owners of the service records that it holds.
    announced: BTreeSet<NodeName>,
    /// Owners of the health records that it holds.
    healthy: BTreeSet<NodeName>,
}

impl Member {
    fn new(issuer: &Issuer, at: usize, name: &str, address: SocketAddr, now: Instant) -> Done<Self> {
        let (identity, current) = issuer.identity(name)?;
        let me = LocalMember {
            mesh: identity.mesh_id(),
            name: identity.node().clone(),
            addresses: vec![address],
            record_key: identity.record_public_key(),
            credential: Bytes::from(identity.credential(EPOCH)),
            epoch: EPOCH,
            instance_tag: at as u64,
            region: String::new(),
            release: "bench".to_owned(),
        };
        let mut seed = [9; 32];
        seed.iter_mut().zip(at.to_le_bytes()).for_each(|(place, byte)| *place = byte);
        let swim = Swim::new(me, SwimConfig::lan(), seed, now);
        Ok(Self { swim, identity, current, announced: BTreeSet::new(), healthy: BTreeSet::new() })
    }

    /// Signs and judges within the turn; what goes to others is returned.
    fn turn(&mut self, now: Instant) -> Vec<Action> {
        self.turn_with(judge, now)
    }

    fn turn_with(&mut self, judge: fn(&SignedClaim, &CurrentIdentity) -> Verdict, now: Instant) -> Vec<Action> {
        let (mut out, mut verdicts): (Vec<Action>, VecDeque<(Ticket, Verdict)>) = (Vec::new(), VecDeque::new());
        loop {
            while let Some(action) = self.swim.poll_action() {
                match action {
                    Action::Sign { ticket, statement } => {
                        let signature = self.identity.sign(signature_kind(statement.kind), &statement.body);
                        self.swim.handle_signature(ticket, Signature(signature), now);
                    }
                    Action::Verify { ticket, claim } => verdicts.push_back((ticket, judge(&claim, &self.current))),
                    Action::Emit(Event::Services { owner, .. }) => drop(self.announced.insert(owner)),
                    Action::Emit(Event::Health { owner, .. }) => drop(self.healthy.insert(owner)),
                    Action::Persist(_) | Action::Emit(_) => {}
                    Action::SendDatagram { .. }
                    | Action::SendSync { .. }
                    | Action::Dial { .. }
                    | Action::Close { .. } => out.push(action),
                }
            }
            let Some((ticket, verdict)) = verdicts.pop_front() else { return out };
            self.swim.handle_verdict(ticket, verdict, now);
        }
    }

    /// Hands over what `from` said to us; what it refuses, it counts.
    fn hear(&mut self, from: &NodeName, said: Vec<Action>, now: Instant) {
        let own = self.identity.node().clone();
        for action in said {
            match action {
                Action::SendDatagram { to, payload } if to == own => {
                    let _ = self.swim.handle_datagram(from, &payload, now);
                }
                Action::SendSync { to, exchange, frame, .. } if to == own => {
                    // Seen from the other end, our stream is an inbound one and the other way round.
                    let exchange = ExchangeId(exchange.0 ^ ExchangeId::INBOUND);
                    let _ = self.swim.handle_sync(from, exchange, &frame, now);
                }
                Action::SendDatagram { .. }
                | Action::SendSync { .. }
                | Action::Dial { .. }
                | Action::Close { .. }
                | Action::Sign { .. }
                | Action::Verify { .. }
                | Action::Persist(_)
                | Action::Emit(_) => {}
            }
        }
    }

    /// Others that it holds alive or only doubts.
    fn others(&self) -> usize {
        let there = |state| matches!(state, MemberState::Alive | MemberState::Suspect);
        self.swim.members().filter(|member| there(member.state)).count()
    }
}

/// How guests judge: what they hear of the others is of no use to them, and to check it would take minutes.
fn refuse(_: &SignedClaim, _: &CurrentIdentity) -> Verdict {
    Verdict::Refused
}

/// The node, knowing all others, and the virtual time that it has got to.
fn learn(issuer: &Issuer, shape: &Shape, own: SocketAddr) -> Done<(Member, Instant)> {
    let mut now = Instant::now();
    let mut hub = Member::new(issuer, usize::MAX, "crowd", own, now)?;
    hub.swim.handle_command(Command::Join { seeds: Vec::new() }, now);
    let _ = hub.turn(now);
    for at in 0..shape.members {
        let [.., high, low] = at.to_be_bytes();
        let address = SocketAddr::from(([127, 1, high, low], 17_740));
        let mut guest = Member::new(issuer, at, &format!("m-{at:04}"), address, now)?;
        let (name, hub_name) = (guest.identity.node().clone(), hub.identity.node().clone());
        let announced = shape.announced_by(at)?;
        if shape.ready == Readiness::Ready {
            let entry = |one: &Announcement| HealthEntry { instance: one.instance.clone(), readiness: shape.ready };
            let health = HealthRecord { entries: announced.instances.iter().map(entry).collect() };
            guest.swim.handle_command(Command::Put(OwnRecord::Health(health)), now);
        }
        guest.swim.handle_command(Command::Put(OwnRecord::Services(announced)), now);
        guest.swim.handle_command(Command::Join { seeds: Vec::new() }, now);
        let _ = guest.turn_with(refuse, now);
        guest.swim.handle_connection(&hub_name, ConnectionChange::Up { address: own }, now);
        hub.swim.handle_connection(&name, ConnectionChange::Up { address }, now);
        for step in 0.. {
            loop {
                let (there, back) = (guest.turn_with(refuse, now), hub.turn(now));
                if there.is_empty() && back.is_empty() {
                    break;
                }
                hub.hear(&name, there, now);
                guest.hear(&hub_name, back, now);
            }
            let healthy = shape.ready != Readiness::Ready || hub.healthy.contains(&name);
            if healthy && hub.announced.contains(&name) {
                break;
            }
            if step >= MEETING_MS_MAX {
                return Err(format!("{name} did not get known").into());
            }
            now += Duration::from_millis(1);
            guest.swim.handle_timeout(now);
            hub.swim.handle_timeout(now);
        }
        hub.swim.handle_connection(&name, ConnectionChange::Down { reason: DownReason::Local }, now);
        let _ = hub.turn(now);
    }
    Ok((hub, now))
}

/// Learns, says so, waits for a line on standard input, dials the agent, and stays until it is ended.
#[expect(clippy::print_stdout, reason = "who started this waits for the line")]
pub(crate) fn run(arguments: &Arguments) -> Done<()> {
    let issuer = Issuer::load(&arguments.get("trust", PathBuf::new())?)?;
    let (target, listen) = (arguments.address("target")?, arguments.address("listen")?);
    let (hub, virtual_now) = learn(&issuer, &Shape::read(arguments)?, listen)?;
    println!("ready others={}", hub.others());
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (sender, inbox) = mpsc::channel(INBOX_LEN_MAX);
        let settings = NetSettings {
            listen,
            keys: QuicKeys::random(),
            mesh: hub.identity.mesh_id(),
            keep_alive: KeepAlive::ByProbes,
            age_max: AGE_MAX,
        };
        let net = GossipNet::bind(settings, hub.current.clone(), wall_clock, sender)?;
        net.dial(None, DialTag(target.to_string()), vec![target]);
        let clock = Clock { real: Instant::now(), virtual_then: virtual_now };
        live(hub, &net, inbox, clock).await
    })
}

/// The machine's time goes on from where learning left it, and not while we waited.
struct Clock {
    real: Instant,
    virtual_then: Instant,
}

impl Clock {
    fn now(&self) -> Instant {
        self.virtual_then + self.real.elapsed()
    }

    fn real_of(&self, at: Instant) -> Instant {
        self.real + at.saturating_duration_since(self.virtual_then)
    }
}

/// The agent's gossip task, without store and interface; ends with the network.
async fn live(mut hub: Member, net: &GossipNet, mut inbox: mpsc::Receiver<NetEvent>, clock: Clock) -> Done<()> {
    loop {
        let deadline = hub.swim.poll_timeout().map_or_else(|| clock.now() + Duration::from_secs(1), |(at, _)| at);
        let event = tokio::select! {
            event = inbox.recv() => Some(event.ok_or("the network has ended")?),
            () = tokio::time::sleep_until(clock.real_of(deadline).into()) => None,
        };
        let now = clock.now();
        if let Some(event) = event {
            feed(&mut hub.swim, event, now);
        }
        hub.swim.handle_timeout(now);
        for action in hub.turn(now) {
            perform(net, action);
        }
    }
}

fn feed(swim: &mut Swim, event: NetEvent, now: Instant) {
    match event {
        NetEvent::Datagram { from, payload } => drop(swim.handle_datagram(&from, &payload, now)),
        NetEvent::Sync { from, exchange, frame } => {
            drop(swim.handle_sync(&from, ExchangeId(exchange), &frame, now));
        }
        NetEvent::Up { peer, address, pair, dialled: _, rtt } => {
            if pair == Pair::New {
                swim.handle_connection(&peer, ConnectionChange::Up { address }, now);
            }
            swim.handle_connection(&peer, ConnectionChange::Rtt(rtt), now);
        }
        NetEvent::Down { peer, reason } => {
            swim.handle_connection(&peer, ConnectionChange::Down { reason: down_reason(reason) }, now);
        }
        NetEvent::DialFailed { tag, expected: None, .. } => {
            swim.handle_command(Command::SeedFailed { seed: Seed(tag.0) }, now);
        }
        NetEvent::DialFailed { expected: Some(peer), reason, .. } => {
            let reason = down_reason(reason.as_down());
            swim.handle_connection(&peer, ConnectionChange::DialFailed { reason }, now);
        }
    }
}

fn perform(net: &GossipNet, action: Action) {
    match action {
        // A peer that is not there any more is the machine's own business to notice.
        Action::SendDatagram { to, payload } => drop(net.send_datagram(&to, payload)),
        Action::SendSync { to, exchange, frame, last } => net.send_sync(&to, exchange.0, frame, last),
        Action::Dial { target: DialTarget::Member(peer), addresses, .. } => {
            let tag = DialTag(peer.to_string());
            net.dial(Some(peer), tag, addresses);
        }
        Action::Dial { target: DialTarget::Seed(seed), .. } => {
            let addresses = seed.0.parse().into_iter().collect();
            net.dial(None, DialTag(seed.0), addresses);
        }
        Action::Close { peer, why } => net.close(
            &peer,
            match why {
                CloseReason::Leaving => CloseCode::Leaving,
                CloseReason::Evicted => CloseCode::Evicted,
                CloseReason::Stale => CloseCode::Stale,
            },
        ),
        Action::Sign { .. } | Action::Verify { .. } | Action::Persist(_) | Action::Emit(_) => {}
    }
}
