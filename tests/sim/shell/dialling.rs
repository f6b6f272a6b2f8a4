//! Dials: an address is knocked at until it answers or its time is over, then the next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use starling_gossip::{Command, ConnectionChange, DialTarget, DownReason};

use super::{BASE_PACKET_BYTES, Carried, Connection, ConnectionId, Dial, DialId, End, Happening, Phase, Wire};
use crate::cluster::{HostId, Sim};
use crate::turn::{Input, Process};

/// How long one address may take to answer a dial.
const DIAL_TIME_MAX: Duration = Duration::from_secs(3);
/// Wait before a dialler repeats its first flight; doubles.
const KNOCK_AGAIN: Duration = Duration::from_millis(300);

impl Sim {
    pub(crate) fn dial(&mut self, host: HostId, process: &mut Process, target: DialTarget, addresses: Vec<SocketAddr>) {
        self.checker.counts.dials += 1;
        let generation = process.generation;
        if let DialTarget::Member(name) = &target
            && process.links.contains_key(name)
        {
            let change =
                ConnectionChange::Up { address: addresses.first().copied().unwrap_or(self.hosts[host.0].address) };
            let inputs = vec![Input::Change { peer: name.clone(), change }];
            self.later(Duration::ZERO, Happening::Answer { host, generation, inputs });
            return;
        }
        process.dialling.retain(|id| self.dials.contains_key(id));
        if process.dialling.iter().filter_map(|id| self.dials.get(id)).any(|dial| dial.target == target) {
            return;
        }
        let addresses = match &target {
            DialTarget::Member(_) => addresses,
            DialTarget::Seed(seed) => seed.0.parse().into_iter().collect(),
        };
        let id = DialId(self.new_id());
        let own = self.hosts[host.0].address;
        let nowhere = addresses.is_empty() || addresses == [own];
        process.dialling.push(id);
        self.dials.insert(id, Dial { host, generation, target, addresses, at: 0, connection: None, tries: 0 });
        if nowhere {
            self.wire(Duration::ZERO, Wire::Unwelcome { dial: id });
        } else {
            self.wire(Duration::ZERO, Wire::Knock { dial: id });
            self.wire(DIAL_TIME_MAX, Wire::DialEnds { dial: id, at: 0 });
        }
    }

    pub(super) fn knock(&mut self, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        dial.tries += 1;
        let wait = KNOCK_AGAIN * 2_u32.pow(dial.tries.min(8) - 1);
        let from = dial.host;
        let address = dial.addresses.get(dial.at).copied();
        if let Some(to) = address.and_then(|address| self.by_address.get(&address).copied())
            && let Some(delay) = self.network.send(from, to, BASE_PACKET_BYTES).first()
        {
            self.wire(delay, Wire::Knocked { dial: id, host: to });
        }
        self.wire(wait, Wire::Knock { dial: id });
    }

    pub(super) fn knocked(&mut self, id: DialId, host: HostId) {
        let Some(dial) = self.dials.get(&id) else { return };
        let (from, from_generation) = (dial.host, dial.generation);
        let Some(process) = &self.hosts[host.0].process else { return };
        if self.hosts[host.0].mesh != self.hosts[from.0].mesh {
            self.checker.counts.foreign_refused += 1;
            if let Some(delay) = self.network.send(host, from, BASE_PACKET_BYTES).first() {
                self.wire(delay, Wire::Unwelcome { dial: id });
            }
            return;
        }
        let known = self.dials.get(&id).and_then(|dial| dial.connection).filter(|known| {
            self.connections
                .get(known.0)
                .is_some_and(|c| c.ends[1].host == host && c.ends[1].generation == process.generation)
        });
        let connection = match known {
            Some(known) => known,
            None => {
                let generation = process.generation;
                let connection = ConnectionId(self.connections.len());
                let end =
                    |host, generation| End { host, generation, phase: Phase::Half, heard: self.now, large_losses: 0 };
                let ends = [end(from, from_generation), end(host, generation)];
                self.connections.push(Connection { ends, streams: BTreeMap::new() });
                if let Some(dial) = self.dials.get_mut(&id) {
                    dial.connection = Some(connection);
                }
                connection
            }
        };
        if let Some(delay) = self.network.send(host, from, BASE_PACKET_BYTES).first() {
            self.wire(delay, Wire::Welcome { dial: id, connection });
        }
    }

    pub(super) fn welcome(&mut self, id: DialId, connection: ConnectionId) {
        let Some(dial) = self.dials.get(&id) else { return };
        let Some(acceptor) = self.connections.get(connection.0).map(|c| c.ends[1].host) else { return };
        let running = self.hosts[dial.host.0].process.as_ref().is_some_and(|p| p.generation == dial.generation);
        if !running {
            self.dials.remove(&id);
            return;
        }
        let answered = &self.hosts[acceptor.0].name;
        let own = self.hosts[dial.host.0].name == *answered;
        let unexpected = matches!(&dial.target, DialTarget::Member(name) if name != answered);
        if own || unexpected {
            self.dial_failed(id, DownReason::Foreign);
            return;
        }
        let ends = [dial.host, acceptor];
        self.dials.remove(&id);
        self.checker.handshake(self.now, ends);
        self.send_reliably(connection, 0, Carried::Finish, 0);
        self.install(connection, 0);
    }

    pub(super) fn dial_ends(&mut self, id: DialId, at: usize) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        if dial.at != at {
            return;
        }
        dial.at += 1;
        dial.tries = 0;
        dial.connection = None;
        if dial.at < dial.addresses.len() {
            let at = dial.at;
            self.wire(DIAL_TIME_MAX, Wire::DialEnds { dial: id, at });
        } else {
            self.dial_failed(id, DownReason::TimedOut);
        }
    }

    pub(super) fn dial_failed(&mut self, id: DialId, reason: DownReason) {
        let Some(dial) = self.dials.remove(&id) else { return };
        self.checker.counts.dials_failed += 1;
        let input = match dial.target {
            DialTarget::Member(peer) => Input::Change { peer, change: ConnectionChange::DialFailed { reason } },
            DialTarget::Seed(seed) => Input::Command(Command::SeedFailed { seed }),
        };
        if self.hosts[dial.host.0].process.as_ref().is_some_and(|process| process.generation == dial.generation) {
            self.deliver(dial.host, input);
        }
    }
}
