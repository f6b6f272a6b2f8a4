//! Membership machines joined in memory, in virtual time, with keys that always say yes: what remains is the machine.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::{
    Action, Command, ConnectionChange, DownReason, ExchangeId, LocalMember, OwnRecord, Signature, SignedClaim, Swim,
    SwimConfig, Verdict,
};
use starling_model::{BootEpoch, MeshId, NodeName, ServicesRecord};

/// The mesh of all benches.
pub const MESH: MeshId = MeshId([7; 32]);

/// The epoch of every machine.
pub const EPOCH: BootEpoch = BootEpoch(1);

/// A node's name.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a node name")
}

/// Where everybody is.
#[must_use]
pub fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7740))
}

/// A machine that has begun.
#[must_use]
pub fn machine(own: &NodeName, services: Option<ServicesRecord>, now: Instant) -> Swim {
    let me = LocalMember {
        mesh: MESH,
        name: own.clone(),
        addresses: vec![address()],
        record_key: [1; 32],
        credential: Bytes::from(format!("credential of {own}")),
        epoch: EPOCH,
        instance_tag: 1,
        region: "region".to_owned(),
        release: "0.1.0".to_owned(),
    };
    let mut seed = [5; 32];
    seed.iter_mut().zip(own.as_str().bytes()).for_each(|(place, byte)| *place = byte);
    let mut swim = Swim::new(me, SwimConfig::lan(), seed, now);
    if let Some(record) = services {
        swim.handle_command(Command::Put(OwnRecord::Services(record)), now);
    }
    swim.handle_command(Command::Join { seeds: Vec::new() }, now);
    drain(&mut swim, now, |_| {});
    swim
}

/// Performs what needs no network; `send` gets the rest.
pub fn drain(swim: &mut Swim, now: Instant, mut send: impl FnMut(Action)) {
    while let Some(action) = swim.poll_action() {
        match action {
            Action::Sign { ticket, .. } => swim.handle_signature(ticket, Signature([3; 64]), now),
            Action::Verify { ticket, claim } => {
                let verdict = match claim {
                    SignedClaim::Credential { .. } => Verdict::Credential { record_key: [1; 32], epoch: EPOCH },
                    SignedClaim::Owned { .. } | SignedClaim::Operator { .. } => Verdict::Valid,
                };
                swim.handle_verdict(ticket, verdict, now);
            }
            Action::SendDatagram { .. } | Action::SendSync { .. } => send(action),
            Action::Dial { .. } | Action::Close { .. } | Action::Persist(_) | Action::Emit(_) => {}
        }
    }
}

/// Machines and a network without loss or delay.
#[derive(Debug)]
pub struct Machines {
    /// Virtual time.
    pub now: Instant,
    /// By name.
    pub swims: BTreeMap<NodeName, Swim>,
    /// Datagrams that were delivered.
    pub datagrams: u64,
}

impl Machines {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self { now: Instant::now(), swims: BTreeMap::new(), datagrams: 0 }
    }

    /// Adds one.
    pub fn add(&mut self, own: &NodeName, services: Option<ServicesRecord>) {
        self.swims.insert(own.clone(), machine(own, services, self.now));
    }

    /// Connects two.
    pub fn link(&mut self, a: &NodeName, b: &NodeName) {
        for (me, peer) in [(a, b), (b, a)] {
            if let Some(swim) = self.swims.get_mut(me) {
                swim.handle_connection(peer, ConnectionChange::Up { address: address() }, self.now);
            }
        }
        self.settle();
    }

    /// Takes one away, without a word.
    pub fn remove(&mut self, gone: &NodeName) {
        self.swims.remove(gone);
        let down = ConnectionChange::Down { reason: DownReason::TimedOut };
        for swim in self.swims.values_mut() {
            swim.handle_connection(gone, down, self.now);
        }
        self.settle();
    }

    /// Lets time pass in steps of `step`.
    pub fn advance(&mut self, time: Duration, step: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += step;
            for swim in self.swims.values_mut() {
                swim.handle_timeout(self.now);
            }
            self.settle();
        }
    }

    /// Carries what was sent until nobody says anything any more.
    pub fn settle(&mut self) {
        let mut wire: VecDeque<(NodeName, Action)> = VecDeque::new();
        for (own, swim) in &mut self.swims {
            drain(swim, self.now, |action| wire.push_back((own.clone(), action)));
        }
        while let Some((from, action)) = wire.pop_front() {
            let (to, exchange, bytes) = match action {
                Action::SendDatagram { to, payload } => (to, None, payload),
                // Seen from the other end, our stream is an inbound one and the other way round.
                Action::SendSync { to, exchange, frame, .. } => {
                    (to, Some(ExchangeId(exchange.0 ^ ExchangeId::INBOUND)), frame)
                }
                Action::Dial { .. }
                | Action::Close { .. }
                | Action::Verify { .. }
                | Action::Sign { .. }
                | Action::Persist(_)
                | Action::Emit(_) => continue,
            };
            let Some(swim) = self.swims.get_mut(&to) else { continue };
            // What a peer refuses here, it counts.
            let _ = match exchange {
                None => {
                    self.datagrams += 1;
                    swim.handle_datagram(&from, &bytes, self.now)
                }
                Some(exchange) => swim.handle_sync(&from, exchange, &bytes, self.now),
            };
            drain(swim, self.now, |action| wire.push_back((to.clone(), action)));
        }
    }
}

impl Default for Machines {
    fn default() -> Self {
        Self::new()
    }
}
