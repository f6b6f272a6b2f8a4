//! A small mesh in virtual time: real machines, a perfect or broken network between them, and verdicts that always say
//! yes unless a test says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_model::mesh::hex;
use starling_model::{BootEpoch, Life, MemberState, MeshId, NodeName};

use super::Swim;
use crate::action::{
    Action, Change, Command, ConnectionChange, DialTarget, DownReason, Event, ExchangeId, LocalMember, Rejected,
    Restored, Seed, Signature, SignedClaim, Verdict, Void,
};
use crate::config::SwimConfig;
use crate::testing::{base, node};

pub(super) const MS: fn(u64) -> Duration = Duration::from_millis;
/// The head of the mesh id of [`local`].
pub(super) const MESH_HEAD: [u8; 8] = [7; 8];
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

pub(super) struct Node {
    pub(super) swim: Swim,
    pub(super) events: Vec<Event>,
    pub(super) store: BTreeMap<String, Restored>,
    pub(super) epoch: BootEpoch,
    /// Answers nothing and hears nothing, while its connections look alive.
    pub(super) frozen: bool,
}

pub(super) struct Mesh {
    pub(super) now: Instant,
    config: SwimConfig,
    pub(super) nodes: BTreeMap<NodeName, Node>,
    queue: BTreeMap<(Instant, u64), (NodeName, NodeName, Wire)>,
    sequence: u64,
    links: BTreeSet<(NodeName, NodeName)>,
    pub(super) cut: BTreeSet<(NodeName, NodeName)>,
    /// Owners whose signatures are refused.
    pub(super) forged: BTreeSet<NodeName>,
    /// Nodes whose credentials are refused.
    pub(super) refused_credentials: BTreeSet<NodeName>,
    /// Operators' keys that are in no bundle any more.
    pub(super) removed: BTreeSet<u32>,
    /// Of each node the chain of trust bundles, and what all their holders heard.
    pub(super) chains: BTreeMap<NodeName, Vec<u8>>,
    pub(super) bundle_events: usize,
    /// Every n-th datagram is lost.
    pub(super) lose: u64,
    pub(super) trace: Vec<u64>,
}

pub(super) fn pair(a: &NodeName, b: &NodeName) -> (NodeName, NodeName) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

pub(super) fn address(name: &NodeName) -> SocketAddr {
    let head = crate::hash::head(&[name.as_str().as_bytes()]).to_le_bytes();
    SocketAddr::from(([127, head[0], head[1], head[2] | 1], 7740))
}

pub(super) fn local(name: &str, epoch: u64, tag: u64) -> LocalMember {
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
    pub(super) fn new(config: SwimConfig) -> Self {
        Self {
            now: base(),
            config,
            nodes: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            forged: BTreeSet::new(),
            refused_credentials: BTreeSet::new(),
            removed: BTreeSet::new(),
            chains: BTreeMap::new(),
            bundle_events: 0,
            lose: 0,
            trace: Vec::new(),
        }
    }

    /// Starts an agent; `restored` and `epoch` as its store would have it.
    pub(super) fn start_with(&mut self, name: &str, epoch: u64, restored: Vec<Restored>, seeds: &[&str]) {
        let tag = epoch * 1000 + self.sequence;
        let seed = crate::hash::sha256(&[name.as_bytes(), &epoch.to_le_bytes()]);
        let swim = Swim::new(local(name, epoch, tag), self.config.clone(), seed, self.now);
        let entry = Node { swim, events: Vec::new(), store: BTreeMap::new(), epoch: BootEpoch(epoch), frozen: false };
        self.nodes.insert(node(name), entry);
        self.command(name, Command::Restore(restored));
        let seeds = seeds.iter().map(|seed| Seed((*seed).to_owned())).collect();
        self.command(name, Command::Join { seeds });
    }

    pub(super) fn start(&mut self, name: &str, seeds: &[&str]) {
        self.start_with(name, 10, Vec::new(), seeds);
    }

    /// n1 is the seed of all others.
    pub(super) fn of(count: usize, config: SwimConfig) -> Self {
        let mut mesh = Self::new(config);
        for at in 1..=count {
            let seeds: &[&str] = if at == 1 { &[] } else { &["n1"] };
            mesh.start(&format!("n{at}"), seeds);
        }
        mesh
    }

    pub(super) fn command(&mut self, name: &str, command: Command) {
        let (name, now) = (node(name), self.now);
        self.nodes.get_mut(&name).unwrap().swim.handle_command(command, now);
        self.turn(&name);
    }

    fn send(&mut self, from: &NodeName, to: &NodeName, after: Duration, what: Wire) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), (from.clone(), to.clone(), what));
    }

    /// Timeouts, then all actions, until nothing is due.
    pub(super) fn turn(&mut self, name: &NodeName) {
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
                    SignedClaim::Credential { owner, .. } if self.refused_credentials.contains(&owner) => {
                        Verdict::Refused
                    }
                    SignedClaim::Credential { owner, bytes } => {
                        let text = String::from_utf8(bytes.to_vec()).unwrap();
                        let epoch = text.strip_prefix(&format!("credential of {owner} ")).unwrap().parse().unwrap();
                        Verdict::Credential { record_key: [1; 32], epoch: BootEpoch(epoch) }
                    }
                    SignedClaim::Owned { owner, signature, .. } => {
                        let good = signature == [3; 64] && !self.forged.contains(&owner);
                        if good { Verdict::Valid } else { Verdict::Refused }
                    }
                    // Keys from k9 on are nobody's, and k5 to k8 have another role.
                    SignedClaim::Operator { signer, signature, .. } => match signer.0 {
                        9.. => Verdict::Void(Void::UnknownKey),
                        key if self.removed.contains(&key) => Verdict::Void(Void::UnknownKey),
                        5..=8 => Verdict::Void(Void::Role),
                        _ if signature == [3; 64] => Verdict::Valid,
                        _ => Verdict::Void(Void::BadSignature),
                    },
                };
                self.nodes.get_mut(name).unwrap().swim.handle_verdict(ticket, verdict, now);
            }
            Action::Sign { ticket, statement: _ } => {
                self.nodes.get_mut(name).unwrap().swim.handle_signature(ticket, Signature([3; 64]), now);
            }
            Action::Persist(change) => self.persist(name, change),
            Action::Emit(Event::Bundle(event)) => self.bundle_event(name, event),
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
            Change::Document { key: _, hash, bytes, durable: _ } => {
                entry.store.insert(format!("d {}", hex(&hash.0)), Restored::Document { bytes });
            }
            Change::ForgetDocument { hash } => {
                entry.store.remove(&format!("d {}", hex(&hash.0)));
            }
            Change::Revocation { node: _, hash, bytes } => {
                entry.store.insert(format!("v {}", hex(&hash)), Restored::Revocation { bytes });
            }
            Change::ForgetRevocation { hash } => {
                entry.store.remove(&format!("v {}", hex(&hash)));
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
    pub(super) fn run(&mut self, time: Duration) {
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
    pub(super) fn until(&mut self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !holds(self) {
            assert!(self.now - start < limit, "{what} does not hold after {limit:?}\n{}", self.show());
            self.run(MS(5));
        }
        self.now - start
    }

    pub(super) fn show(&self) -> String {
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

    pub(super) fn state(&self, at: &str, of: &str) -> Option<MemberState> {
        let name = node(of);
        self.nodes[&node(at)].swim.members().find(|member| member.name == name).map(|member| member.state)
    }

    pub(super) fn life(&self, name: &str) -> Life {
        self.nodes[&node(name)].swim.me().life
    }

    pub(super) fn is_complete(&self) -> bool {
        let names: Vec<&NodeName> =
            self.nodes.iter().filter(|(_, entry)| !entry.frozen).map(|(name, _)| name).collect();
        let root = self.nodes[names[0]].swim.roots();
        names.iter().all(|name| {
            let alive = self.nodes[*name].swim.members().filter(|member| member.state == MemberState::Alive).count();
            alive + 1 == names.len() && self.nodes[*name].swim.roots() == root
        })
    }

    pub(super) fn services(&self, at: &str, of: &str) -> Option<usize> {
        let name = node(of);
        let member = self.nodes[&node(at)].swim.members().find(|member| member.name == name)?;
        member.services.map(|record| record.instances.len())
    }

    pub(super) fn restart(&mut self, name: &str, epoch: u64, seeds: &[&str]) {
        let store = self.kill(name);
        self.start_with(name, epoch, store, seeds);
    }

    /// kill -9 with the connections gone at once; returns what its store held.
    pub(super) fn kill(&mut self, name: &str) -> Vec<Restored> {
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

    pub(super) fn events(&self, name: &str) -> &[Event] {
        &self.nodes[&node(name)].events
    }
}
