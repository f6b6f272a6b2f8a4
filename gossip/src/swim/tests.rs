//! A small mesh in virtual time: real machines, a perfect or broken network between them, and verdicts that always say
//! yes unless a test says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_model::{BootEpoch, Life, MemberState, MeshId, NodeName, RecordKind, ServicesRecord, StatusRecord};

use super::Swim;
use crate::action::{
    Action, Alarm, Change, Command, ConnectionChange, DialTarget, DownReason, Event, ExchangeId, LocalMember,
    OwnRecord, Rejected, Restored, Seed, Signature, SignedClaim, Verdict,
};
use crate::config::SwimConfig;
use crate::payload::tests::sample_instance;
use crate::testing::{base, node};

const MS: fn(u64) -> Duration = Duration::from_millis;
const LATENCY: Duration = Duration::from_millis(2);

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wire {
    Datagram(Bytes),
    Sync(ExchangeId, Bytes),
    Up,
    Down,
    DialFailed,
    SeedFailed(Seed),
}

struct Node {
    swim: Swim,
    events: Vec<Event>,
    store: BTreeMap<String, Restored>,
    epoch: BootEpoch,
    /// Answers nothing and hears nothing, while its connections look alive.
    frozen: bool,
}

struct Mesh {
    now: Instant,
    config: SwimConfig,
    nodes: BTreeMap<NodeName, Node>,
    queue: BTreeMap<(Instant, u64), (NodeName, NodeName, Wire)>,
    sequence: u64,
    links: BTreeSet<(NodeName, NodeName)>,
    cut: BTreeSet<(NodeName, NodeName)>,
    /// Owners whose signatures are refused.
    forged: BTreeSet<NodeName>,
    /// Every n-th datagram is lost.
    lose: u64,
    trace: Vec<u64>,
}

fn pair(a: &NodeName, b: &NodeName) -> (NodeName, NodeName) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

fn address(name: &NodeName) -> SocketAddr {
    let head = crate::hash::head(&[name.as_str().as_bytes()]).to_le_bytes();
    SocketAddr::from(([127, head[0], head[1], head[2] | 1], 7740))
}

fn local(name: &str, epoch: u64, tag: u64) -> LocalMember {
    LocalMember {
        mesh: MeshId([7; 32]),
        name: node(name),
        addresses: vec![address(&node(name))],
        record_key: [1; 32],
        credential: Bytes::from(format!("credential of {name} {epoch}")),
        epoch: BootEpoch(epoch),
        instance_tag: tag,
        region: "test".to_owned(),
        release: "0.1.0".to_owned(),
    }
}

impl Mesh {
    fn new(config: SwimConfig) -> Self {
        Self {
            now: base(),
            config,
            nodes: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            forged: BTreeSet::new(),
            lose: 0,
            trace: Vec::new(),
        }
    }

    /// Starts an agent; `restored` and `epoch` as its store would have it.
    fn start_with(&mut self, name: &str, epoch: u64, restored: Vec<Restored>, seeds: &[&str]) {
        let tag = epoch * 1000 + self.sequence;
        let seed = crate::hash::sha256(&[name.as_bytes(), &epoch.to_le_bytes()]);
        let swim = Swim::new(local(name, epoch, tag), self.config.clone(), seed, self.now);
        let entry = Node { swim, events: Vec::new(), store: BTreeMap::new(), epoch: BootEpoch(epoch), frozen: false };
        self.nodes.insert(node(name), entry);
        self.command(name, Command::Restore(restored));
        let seeds = seeds.iter().map(|seed| Seed((*seed).to_owned())).collect();
        self.command(name, Command::Join { seeds });
    }

    fn start(&mut self, name: &str, seeds: &[&str]) {
        self.start_with(name, 10, Vec::new(), seeds);
    }

    /// n1 is the seed of all others.
    fn of(count: usize, config: SwimConfig) -> Self {
        let mut mesh = Self::new(config);
        for at in 1..=count {
            let seeds: &[&str] = if at == 1 { &[] } else { &["n1"] };
            mesh.start(&format!("n{at}"), seeds);
        }
        mesh
    }

    fn command(&mut self, name: &str, command: Command) {
        let (name, now) = (node(name), self.now);
        self.nodes.get_mut(&name).unwrap().swim.handle_command(command, now);
        self.turn(&name);
    }

    fn send(&mut self, from: &NodeName, to: &NodeName, after: Duration, what: Wire) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), (from.clone(), to.clone(), what));
    }

    /// Timeouts, then all actions, until nothing is due.
    fn turn(&mut self, name: &NodeName) {
        let now = self.now;
        loop {
            let entry = self.nodes.get_mut(name).unwrap();
            entry.swim.handle_timeout(now);
            while let Some(action) = self.nodes.get_mut(name).unwrap().swim.poll_action() {
                self.perform(name, action);
            }
            let next = self.nodes[name].swim.poll_timeout();
            if next.is_none_or(|(at, _)| at > now) {
                return;
            }
        }
    }

    fn perform(&mut self, name: &NodeName, action: Action) {
        let now = self.now;
        match action {
            Action::SendDatagram { to, payload } => {
                assert!(payload.len() <= crate::limits::DATAGRAM_BYTES_MAX);
                self.trace.push(crate::hash::head(&[name.as_str().as_bytes(), to.as_str().as_bytes(), &payload]));
                self.sequence += 1;
                let lost = self.lose > 0 && self.sequence.is_multiple_of(self.lose);
                if !lost {
                    self.send(name, &to, LATENCY, Wire::Datagram(payload));
                }
            }
            Action::SendSync { to, exchange, frame, last: _ } => {
                // Seen from the other end, our stream is an inbound one and the other way round.
                let theirs = ExchangeId(exchange.0 ^ ExchangeId::INBOUND);
                self.send(name, &to, LATENCY, Wire::Sync(theirs, frame));
            }
            Action::Dial { target, addresses, why: _ } => {
                let (to, seed) = match target {
                    DialTarget::Member(to) => {
                        assert!(addresses.contains(&address(&to)));
                        (to, None)
                    }
                    DialTarget::Seed(seed) => (node(&seed.0), Some(seed)),
                };
                let listens = self.nodes.get(&to).is_some_and(|peer| !peer.frozen);
                if listens && !self.cut.contains(&pair(name, &to)) && *name != to {
                    if self.links.insert(pair(name, &to)) {
                        self.send(&to, name, LATENCY, Wire::Up);
                        self.send(name, &to, LATENCY, Wire::Up);
                    }
                } else if let Some(seed) = seed {
                    self.send(&to, name, LATENCY, Wire::SeedFailed(seed));
                } else {
                    self.send(&to, name, LATENCY, Wire::DialFailed);
                }
            }
            Action::Close { peer, why: _ } => {
                if self.links.remove(&pair(name, &peer)) {
                    self.send(name, &peer, LATENCY, Wire::Down);
                }
            }
            Action::Verify { ticket, claim } => {
                let verdict = match claim {
                    SignedClaim::Credential { owner, bytes } => {
                        let text = String::from_utf8(bytes.to_vec()).unwrap();
                        let epoch = text.strip_prefix(&format!("credential of {owner} ")).unwrap().parse().unwrap();
                        Verdict::Credential { record_key: [1; 32], epoch: BootEpoch(epoch) }
                    }
                    SignedClaim::Owned { owner, signature, .. } => {
                        let good = signature == [3; 64] && !self.forged.contains(&owner);
                        if good { Verdict::Valid } else { Verdict::Refused }
                    }
                };
                self.nodes.get_mut(name).unwrap().swim.handle_verdict(ticket, verdict, now);
            }
            Action::Sign { ticket, statement: _ } => {
                self.nodes.get_mut(name).unwrap().swim.handle_signature(ticket, Signature([3; 64]), now);
            }
            Action::Persist(change) => self.persist(name, change),
            Action::Emit(event) => self.nodes.get_mut(name).unwrap().events.push(event),
        }
    }

    fn persist(&mut self, name: &NodeName, change: Change) {
        let entry = self.nodes.get_mut(name).unwrap();
        match change {
            Change::Epoch(epoch) => entry.epoch = epoch,
            Change::Member { name, bytes } => {
                entry.store.insert(format!("m {name}"), Restored::Member { name, bytes });
            }
            Change::Record { owner, kind, shard, bytes, own: _ } => {
                let key = format!("r {owner} {} {shard}", kind.to_wire());
                entry.store.insert(key, Restored::Record { owner, kind, shard, bytes });
            }
            Change::Credential { owner, bytes } => {
                entry.store.insert(format!("c {owner}"), Restored::Credential { owner, bytes });
            }
            Change::ForgetOwner(name) => {
                entry.store.retain(|key, _| key.split(' ').nth(1) != Some(name.as_str()) || key.starts_with('a'));
            }
            Change::AddressBook { name, bytes } => {
                entry.store.insert(format!("a {name}"), Restored::AddressBook { name, bytes });
            }
        }
    }

    fn deliver(&mut self, from: &NodeName, to: &NodeName, what: Wire) {
        let (now, linked) = (self.now, self.links.contains(&pair(from, to)));
        let cut = self.cut.contains(&pair(from, to));
        let Some(entry) = self.nodes.get_mut(to).filter(|entry| !entry.frozen) else { return };
        match what {
            Wire::Datagram(payload) if linked && !cut => {
                let result = entry.swim.handle_datagram(from, &payload, now);
                assert!(matches!(result, Ok(()) | Err(Rejected::Leaving)), "{result:?}");
            }
            Wire::Sync(exchange, frame) if linked && !cut => {
                let _ = entry.swim.handle_sync(from, exchange, &frame, now);
            }
            Wire::Datagram(_) | Wire::Sync(..) => {}
            Wire::Up => entry.swim.handle_connection(from, ConnectionChange::Up { address: address(from) }, now),
            Wire::Down => {
                let reason = DownReason::Other;
                entry.swim.handle_connection(from, ConnectionChange::Down { reason }, now);
            }
            Wire::DialFailed => {
                let reason = DownReason::Refused;
                entry.swim.handle_connection(from, ConnectionChange::DialFailed { reason }, now);
            }
            Wire::SeedFailed(seed) => entry.swim.handle_command(Command::SeedFailed { seed }, now),
        }
        self.turn(to);
    }

    /// Lets virtual time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let frame = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self
                .nodes
                .values()
                .filter(|entry| !entry.frozen)
                .filter_map(|entry| entry.swim.poll_timeout())
                .map(|(at, _)| at)
                .min();
            let Some(next) = frame.into_iter().chain(timer).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if frame == Some(next) {
                let (_, (from, to, what)) = self.queue.pop_first().unwrap();
                self.deliver(&from, &to, what);
            } else {
                let names: Vec<NodeName> = self.nodes.keys().cloned().collect();
                for name in names {
                    if self.nodes[&name].frozen {
                        continue;
                    }
                    if self.nodes[&name].swim.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                        self.turn(&name);
                    }
                }
            }
        }
        self.now = end;
    }

    /// Lets time pass until the condition holds; fails after `limit`. Returns how long it took.
    fn until(&mut self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !holds(self) {
            assert!(self.now - start < limit, "{what} does not hold after {limit:?}\n{}", self.show());
            self.run(MS(5));
        }
        self.now - start
    }

    fn show(&self) -> String {
        let row = |(name, entry): (&NodeName, &Node)| {
            let seen: Vec<String> = entry
                .swim
                .members()
                .map(|member| {
                    format!(
                        "{}={}@{}{}",
                        member.name,
                        member.state,
                        member.life,
                        if member.connected { "" } else { "-" }
                    )
                })
                .collect();
            format!("{name}@{}: {} {:?}\n", entry.swim.me().life, seen.join(" "), entry.swim.stats().dropped)
        };
        self.nodes.iter().map(row).collect()
    }

    fn state(&self, at: &str, of: &str) -> Option<MemberState> {
        let name = node(of);
        self.nodes[&node(at)].swim.members().find(|member| member.name == name).map(|member| member.state)
    }

    fn life(&self, name: &str) -> Life {
        self.nodes[&node(name)].swim.me().life
    }

    fn is_complete(&self) -> bool {
        let names: Vec<&NodeName> =
            self.nodes.iter().filter(|(_, entry)| !entry.frozen).map(|(name, _)| name).collect();
        let root = self.nodes[names[0]].swim.roots();
        names.iter().all(|name| {
            let alive = self.nodes[*name].swim.members().filter(|member| member.state == MemberState::Alive).count();
            alive + 1 == names.len() && self.nodes[*name].swim.roots() == root
        })
    }

    fn services(&self, at: &str, of: &str) -> Option<usize> {
        let name = node(of);
        let member = self.nodes[&node(at)].swim.members().find(|member| member.name == name)?;
        member.services.map(|record| record.instances.len())
    }

    fn restart(&mut self, name: &str, epoch: u64, seeds: &[&str]) {
        let store = self.kill(name);
        self.start_with(name, epoch, store, seeds);
    }

    /// kill -9 with the connections gone at once; returns what its store held.
    fn kill(&mut self, name: &str) -> Vec<Restored> {
        let name = node(name);
        let entry = self.nodes.remove(&name).unwrap();
        let gone: Vec<_> = self.links.iter().filter(|(a, b)| *a == name || *b == name).cloned().collect();
        for (a, b) in gone {
            self.links.remove(&(a.clone(), b.clone()));
            let peer = if a == name { b } else { a };
            self.send(&name, &peer, LATENCY, Wire::Down);
        }
        entry.store.into_values().collect()
    }

    fn events(&self, name: &str) -> &[Event] {
        &self.nodes[&node(name)].events
    }
}

fn services(names: &[&str]) -> OwnRecord {
    OwnRecord::Services(ServicesRecord { instances: names.iter().map(|name| sample_instance(name)).collect() })
}

fn went_dead(events: &[Event], of: &str) -> bool {
    let name = node(of);
    events
        .iter()
        .any(|event| matches!(event, Event::Member(view) if view.name == name && view.state == MemberState::Dead))
}

#[test]
fn three_members_form_through_one_seed() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    let took = mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    assert!(took <= MS(200), "{took:?}");
    for name in ["n1", "n2", "n3"] {
        let synced = mesh.events(name).iter().filter(|event| matches!(event, Event::Synced { .. })).count();
        assert_eq!(synced, 1, "{name}");
    }
    assert_eq!(mesh.nodes[&node("n1")].swim.agreement().0, 3);
}

#[test]
fn a_seed_that_starts_late_is_found() {
    let mut mesh = Mesh::new(SwimConfig::lan());
    mesh.start("n2", &["n1"]);
    mesh.start("n3", &["n1"]);
    mesh.run(MS(3_000));
    mesh.start("n1", &[]);
    mesh.until(MS(4_000), "a complete mesh", Mesh::is_complete);
}

#[test]
fn a_record_reaches_everybody_at_once_and_goes_once_to_each() {
    let mut mesh = Mesh::of(5, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(3_000));
    mesh.command("n2", Command::Put(services(&["web-1", "web-2"])));
    let took = mesh.until(MS(1000), "the record everywhere", |mesh| {
        ["n1", "n3", "n4", "n5"].iter().all(|at| mesh.services(at, "n2") == Some(2))
    });
    assert!(took <= MS(10), "{took:?}");
    mesh.command("n2", Command::Put(services(&["web-2"])));
    let took = mesh.until(MS(1000), "the withdrawal everywhere", |mesh| {
        ["n1", "n3", "n4", "n5"].iter().all(|at| mesh.services(at, "n2") == Some(1))
    });
    assert!(took <= MS(40), "{took:?}");
    mesh.command("n2", Command::Put(services(&["web-2"])));
    let heard = mesh.events("n1").iter().filter(|event| matches!(event, Event::Services { .. })).count();
    assert_eq!(heard, 2, "the same record again is no news");
}

#[test]
fn records_too_large_for_a_datagram_spread_too() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    let names: Vec<String> = (0..200).map(|at| format!("web-{at:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    mesh.command("n3", Command::Put(services(&names)));
    mesh.until(MS(1000), "the shards everywhere", |mesh| {
        ["n1", "n2", "n4"].iter().all(|at| mesh.services(at, "n3") == Some(200))
    });
}

#[test]
fn a_joiner_has_everything_within_one_exchange() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    for name in ["n1", "n2", "n3", "n4"] {
        mesh.command(name, Command::Put(services(&["a", "b", "c"])));
        mesh.command(name, Command::Put(OwnRecord::Status(StatusRecord { documents: 7, ..StatusRecord::default() })));
    }
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.start("n5", &["n3"]);
    mesh.until(MS(200), "the joiner is ready", |mesh| {
        mesh.events("n5").iter().any(|event| matches!(event, Event::Synced { members: 5 }))
    });
    for name in ["n1", "n2", "n3", "n4"] {
        assert_eq!(mesh.services("n5", name), Some(3), "{name}");
    }
    mesh.until(MS(200), "a complete mesh", Mesh::is_complete);
}

#[test]
fn large_meshes_compare_buckets_first() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1000), "a pair", Mesh::is_complete);
    // Enough shards that a plain listing would be too long.
    for name in ["n1", "n2"] {
        for kind in 0..2_u8 {
            let instances = (0..250).map(|at| {
                let labels = (0..30).map(|label| (format!("l{label}-{at}-{kind}"), "x".repeat(40))).collect();
                starling_model::Announcement {
                    labels: starling_model::Labels::new(labels).unwrap(),
                    ..sample_instance(&format!("{name}-{at}"))
                }
            });
            mesh.command(name, Command::Put(OwnRecord::Services(ServicesRecord { instances: instances.collect() })));
        }
    }
    mesh.run(MS(60_000));
    let shards = mesh.nodes[&node("n1")].swim.records.len();
    assert!(mesh.is_complete(), "{shards} shards\n{}", mesh.show());
}

/// kill -9, the connection still looks up: only missing acks tell.
#[test]
fn a_silent_crash_is_dead_everywhere_within_ten_seconds() {
    let check = |config: SwimConfig, limit: Duration| {
        for victim in ["n1", "n2", "n3"] {
            let mut mesh = Mesh::of(3, config.clone());
            mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
            mesh.run(MS(2_500));
            mesh.nodes.get_mut(&node(victim)).unwrap().frozen = true;
            let others: Vec<&str> = ["n1", "n2", "n3"].into_iter().filter(|name| *name != victim).collect();
            let took = mesh.until(limit, "dead everywhere", |mesh| {
                others.iter().all(|at| mesh.state(at, victim) == Some(MemberState::Dead))
            });
            mesh.run(MS(10_000));
            assert!(mesh.is_complete(), "{victim} after {took:?}\n{}", mesh.show());
            assert!(!went_dead(mesh.events(others[0]), others[1]), "nobody else is ever dead");
        }
    };
    check(SwimConfig::lan(), MS(10_000));
    check(SwimConfig::fast(), MS(3_000));
}

#[test]
fn a_crash_with_closed_connections_is_dead_everywhere_too() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(5_000));
    mesh.kill("n3");
    mesh.until(MS(10_000), "dead everywhere", |mesh| {
        ["n1", "n2"].iter().all(|at| mesh.state(at, "n3") == Some(MemberState::Dead))
    });
}

#[test]
fn one_of_two_may_die_and_the_other_goes_on() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1000), "a pair", Mesh::is_complete);
    mesh.run(MS(5_000));
    mesh.nodes.get_mut(&node("n1")).unwrap().frozen = true;
    mesh.until(MS(10_000), "dead", |mesh| mesh.state("n2", "n1") == Some(MemberState::Dead));
}

/// SWIM 4.2: a pause shorter than the suspicion is answered, not buried.
#[test]
fn a_paused_member_refutes() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(3_000));
    let before = mesh.life("n3");
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = true;
    mesh.until(MS(6_000), "a suspicion", |mesh| mesh.state("n1", "n3") == Some(MemberState::Suspect));
    mesh.run(MS(500));
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = false;
    let took = mesh.until(MS(3_000), "alive again", Mesh::is_complete);
    assert!(mesh.life("n3") > before, "{took:?}");
    assert!(mesh.nodes[&node("n3")].swim.stats().refutations >= 1);
    for at in ["n1", "n2"] {
        assert!(!went_dead(mesh.events(at), "n3"));
    }
    for at in ["n1", "n2"] {
        assert!(!went_dead(mesh.events("n3"), at), "our own pause is nobody else's death");
    }
}

/// gossip.md 17, S6.
#[test]
fn one_broken_edge_kills_nobody() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.cut.insert(pair(&node("n1"), &node("n2")));
    mesh.run(MS(60_000));
    for (at, of) in [("n1", "n2"), ("n2", "n1"), ("n3", "n1"), ("n4", "n2")] {
        assert_eq!(mesh.state(at, of), Some(MemberState::Alive), "{of} at {at}\n{}", mesh.show());
        assert!(!went_dead(mesh.events(at), of));
    }
    assert!(mesh.nodes[&node("n1")].swim.stats().probes_acked_indirectly > 0, "the fault took place");
}

#[test]
fn a_leave_is_seen_at_once() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.command("n3", Command::Put(services(&["web"])));
    mesh.run(MS(500));
    mesh.command("n3", Command::Leave);
    let took = mesh.until(MS(1000), "left everywhere", |mesh| {
        ["n1", "n2"].iter().all(|at| mesh.state(at, "n3") == Some(MemberState::Left))
    });
    assert!(took <= MS(20), "{took:?}");
    mesh.run(MS(100));
    let done = |event: &Event| matches!(event, Event::LeaveFinished { acknowledged: 2 });
    assert!(mesh.events("n3").iter().any(done), "{:?}", mesh.events("n3"));
    assert!(mesh.events("n1").contains(&Event::OwnerDropped(node("n3"))));
    assert_eq!(mesh.nodes[&node("n3")].swim.poll_timeout(), None);
    mesh.run(MS(30_000));
    for at in ["n1", "n2"] {
        assert_eq!(mesh.state(at, "n3"), Some(MemberState::Left));
        assert!(!went_dead(mesh.events(at), "n3"));
    }
}

#[test]
fn a_restart_with_a_higher_epoch_takes_over_without_a_death() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.command("n3", Command::Put(services(&["old-1", "old-2"])));
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(2_000));
    mesh.restart("n3", 11, &["n1"]);
    mesh.command("n3", Command::Put(services(&["new"])));
    let took = mesh.until(MS(1_000), "the new life everywhere", |mesh| {
        ["n1", "n2"].iter().all(|at| mesh.services(at, "n3") == Some(1)) && mesh.is_complete()
    });
    mesh.run(MS(30_000));
    for at in ["n1", "n2"] {
        assert!(!went_dead(mesh.events(at), "n3"), "{took:?}");
        assert_eq!(mesh.state(at, "n3"), Some(MemberState::Alive));
    }
}

/// gossip.md 17, S11 and S21: the disk is lost and the clock is behind.
#[test]
fn a_restart_with_a_lower_epoch_raises_its_own() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.command("n3", Command::Put(services(&["old-1", "old-2"])));
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.kill("n3");
    mesh.start_with("n3", 3, Vec::new(), &["n1"]);
    mesh.until(MS(2_000), "a life above the old one", |mesh| mesh.life("n3").epoch > BootEpoch(10));
    assert_eq!(mesh.nodes[&node("n3")].epoch, mesh.life("n3").epoch, "and it is kept");
    mesh.until(MS(10_000), "old records withdrawn", |mesh| {
        ["n1", "n2"].iter().all(|at| mesh.services(at, "n3") == Some(0))
    });
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    assert!(!mesh.events("n1").iter().any(|event| matches!(event, Event::Alarm(_))));
}

#[test]
fn a_snapshot_brings_back_the_alive_and_the_failed() {
    let mut mesh = Mesh::of(3, SwimConfig::fast());
    mesh.command("n2", Command::Put(services(&["web"])));
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.kill("n3");
    mesh.until(MS(6_000), "dead", |mesh| mesh.state("n1", "n3") == Some(MemberState::Dead));
    let store = mesh.kill("n1");
    mesh.start_with("n1", 11, store, &[]);
    assert_eq!(mesh.state("n1", "n3"), Some(MemberState::Dead));
    assert_eq!(mesh.services("n1", "n2"), Some(1), "served before anybody answers");
    mesh.until(MS(2_000), "linked again without any seed", Mesh::is_complete);
    assert_eq!(mesh.state("n2", "n1"), Some(MemberState::Alive));
}

/// gossip.md 17, S7, in small.
#[test]
fn a_split_heals() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    for a in ["n1", "n2"] {
        for b in ["n3", "n4"] {
            mesh.cut.insert(pair(&node(a), &node(b)));
        }
    }
    mesh.until(MS(60_000), "both sides alone", |mesh| {
        mesh.state("n1", "n3") == Some(MemberState::Dead) && mesh.state("n4", "n2") == Some(MemberState::Dead)
    });
    mesh.run(MS(60_000));
    mesh.command("n1", Command::Put(services(&["while-split"])));
    mesh.cut.clear();
    let took = mesh.until(MS(60_000), "one mesh", Mesh::is_complete);
    assert_eq!(mesh.services("n4", "n1"), Some(1), "{took:?}");
}

#[test]
fn lost_datagrams_cost_time_and_no_state() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.lose = 3;
    mesh.until(MS(20_000), "a complete mesh", Mesh::is_complete);
    for at in 0..10 {
        let name = format!("web-{at}");
        mesh.command("n2", Command::Put(services(&[&name])));
        mesh.run(MS(300));
    }
    mesh.until(MS(20_000), "the last record everywhere", Mesh::is_complete);
    mesh.run(MS(60_000));
    for at in ["n1", "n2", "n3", "n4"] {
        for of in ["n1", "n2", "n3", "n4"] {
            assert!(!went_dead(mesh.events(at), of), "{of} at {at}");
        }
    }
}

#[test]
fn a_cloned_identity_is_noticed_and_one_of_the_two_stays_silent() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1000), "a pair", Mesh::is_complete);
    // The clone speaks to n1 in n2's place with an epoch of its own, again and again.
    let mut lives = BTreeSet::new();
    for round in 0..6_u64 {
        let epoch = mesh.life("n2").epoch.0 + 1;
        let mut clone = Swim::new(local("n2", epoch, 999), SwimConfig::lan(), [9; 32], mesh.now);
        clone.handle_command(Command::Join { seeds: Vec::new() }, mesh.now);
        let mut words = Vec::new();
        while let Some(action) = clone.poll_action() {
            if let Action::Sign { statement, .. } = action {
                words.push(crate::wire::SignedLife { body: statement.body, signature: [3; 64] });
            }
        }
        let body = crate::wire::message(&crate::wire::Message::Life(words.remove(0))).unwrap();
        let credential = crate::wire::message(&crate::wire::Message::Credential {
            owner: node("n2"),
            bytes: local("n2", epoch, 999).credential,
        });
        let frame = crate::wire::frame(crate::wire::Envelope::Sync, &[7; 8], &[credential.unwrap(), body]);
        let exchange = ExchangeId(ExchangeId::INBOUND | (1000 + round));
        let now = mesh.now;
        let n2 = mesh.nodes.get_mut(&node("n2")).unwrap();
        n2.swim.handle_sync(&node("n1"), exchange, &frame, now).unwrap();
        mesh.turn(&node("n2"));
        mesh.run(MS(200));
        lives.insert(mesh.life("n2"));
    }
    assert!(lives.len() <= 2, "no race of epochs: {lives:?}");
    let alarm = Event::Alarm(Alarm::DuplicateIdentity { name: node("n2"), quiet: true });
    assert!(mesh.events("n2").contains(&alarm));
}

#[test]
fn forged_words_change_nothing() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.forged.insert(node("n2"));
    mesh.command("n2", Command::Put(services(&["evil"])));
    mesh.command("n2", Command::Leave);
    mesh.run(MS(200));
    assert_eq!(mesh.services("n1", "n2"), None);
    assert_eq!(mesh.state("n1", "n2"), Some(MemberState::Alive), "a forged leave is no leave");
    assert!(mesh.nodes[&node("n1")].swim.stats().dropped(crate::stats::Drop::Refused) >= 2);
}

#[test]
fn another_mesh_and_garbage_are_refused_and_counted() {
    let mut mesh = Mesh::of(1, SwimConfig::lan());
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    let frame = crate::wire::frame(crate::wire::Envelope::Datagram, b"another!", &[]);
    assert_eq!(swim.handle_datagram(&node("x"), &frame, now), Err(Rejected::OtherMesh));
    assert!(matches!(swim.handle_datagram(&node("x"), b"garbage", now), Err(Rejected::Malformed(_))));
    assert!(matches!(swim.handle_sync(&node("x"), ExchangeId(5), b"garbage", now), Err(Rejected::Malformed(_))));
    assert_eq!(swim.handle_datagram(&node("n1"), &frame, now), Err(Rejected::OwnName));
    let empty = crate::wire::frame(crate::wire::Envelope::Sync, &[7; 8], &[]);
    assert_eq!(swim.handle_sync(&node("x"), ExchangeId(5), &empty, now), Err(Rejected::StrayFrame));
    assert_eq!(swim.stats().rejected["malformed"], 2);
    assert_eq!(swim.stats().rejected["other_mesh"], 1);
}

/// gossip.md 17, S29.
#[test]
fn the_same_history_gives_the_same_bytes() {
    let history = || {
        let mut mesh = Mesh::of(5, SwimConfig::lan());
        mesh.lose = 7;
        mesh.run(MS(5_000));
        mesh.command("n2", Command::Put(services(&["web"])));
        mesh.nodes.get_mut(&node("n4")).unwrap().frozen = true;
        mesh.run(MS(20_000));
        mesh.trace
    };
    let (a, b) = (history(), history());
    assert!(a.len() > 100);
    assert_eq!(a, b);
}

#[test]
fn a_mesh_at_rest_is_quiet() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(2_000));
    let before = mesh.trace.len();
    mesh.run(MS(60_000));
    // One ping and one ack per node and second.
    let sent = mesh.trace.len() - before;
    assert!((300..=400).contains(&sent), "{sent} datagrams in a minute");
}

#[test]
fn twelve_members_survive_the_loss_of_two() {
    let mut mesh = Mesh::of(12, SwimConfig::lan());
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(5_000));
    for victim in ["n4", "n9"] {
        mesh.nodes.get_mut(&node(victim)).unwrap().frozen = true;
    }
    let took = mesh.until(MS(25_000), "dead everywhere", |mesh| {
        mesh.nodes
            .iter()
            .filter(|(_, entry)| !entry.frozen)
            .all(|(at, _)| ["n4", "n9"].iter().all(|of| mesh.state(at.as_str(), of) == Some(MemberState::Dead)))
    });
    assert!(took < MS(20_000), "{took:?}");
    for at in mesh.nodes.keys() {
        for of in mesh.nodes.keys().filter(|of| !["n4", "n9"].contains(&of.as_str())) {
            assert!(!went_dead(mesh.events(at.as_str()), of.as_str()) || ["n4", "n9"].contains(&at.as_str()));
        }
    }
}

#[test]
fn unknown_kinds_are_kept_and_handed_on_byte_for_byte() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    let statement = mesh.nodes[&node("n2")].swim.credential;
    let head = crate::wire::RecordHead {
        owner: node("n2"),
        kind: RecordKind::Unknown(77),
        shard: 0,
        version: starling_model::RecordVersion { epoch: BootEpoch(10), version: 1 },
        schema: 9,
        ttl_s: 0,
        statement,
    };
    let bytes: Bytes = [&head.to_bytes(b"of a newer release").unwrap()[..], &[3; 64]].concat().into();
    let message = crate::wire::message(&crate::wire::Message::Record(bytes.clone())).unwrap();
    let frame = crate::wire::frame(crate::wire::Envelope::Datagram, &[7; 8], &[message]);
    let now = mesh.now;
    mesh.nodes.get_mut(&node("n1")).unwrap().swim.handle_datagram(&node("n2"), &frame, now).unwrap();
    mesh.turn(&node("n1"));
    mesh.run(MS(100));
    let held = mesh.nodes[&node("n3")].swim.records.get(&node("n2"), RecordKind::Unknown(77), 0).unwrap();
    assert_eq!(held.bytes, bytes);
}
