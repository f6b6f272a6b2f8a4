//! Connections as an agent's QUIC shell gives them: a handshake of one round trip, one connection per pair, datagrams
//! that may get lost, streams that do not while packets pass at all, silence when a process dies, a stateless reset
//! when it is back, an idle end after that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use starling_gossip::{CloseReason, Command, ConnectionChange, DialTarget, DownReason, ExchangeId};
use starling_model::NodeName;

use crate::clock::SimTime;
use crate::cluster::{HostId, Sim};
use crate::network::Fate;
use crate::turn::{Input, Process};

/// How long one address may take to answer a dial.
const DIAL_TIME_MAX: Duration = Duration::from_secs(3);
/// Wait before a dialler repeats its first flight; doubles.
const KNOCK_AGAIN: Duration = Duration::from_millis(300);
/// Wait before lost stream data is sent again, beside the round trip; doubles up to [`RESEND_MAX`].
const RESEND: Duration = Duration::from_millis(30);
const RESEND_MAX: Duration = Duration::from_secs(2);

/// One connection of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(usize);

/// One dial of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DialId(u64);

/// State of one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The acceptor has answered and waits for the dialler's last flight.
    Half,
    Up,
    Over,
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    host: HostId,
    generation: u64,
    phase: Phase,
    heard: SimTime,
}

/// A connection; end 0 dialled.
#[derive(Debug)]
pub(crate) struct Connection {
    ends: [End; 2],
    streams: BTreeMap<(usize, u64), Stream>,
}

/// One bidirectional stream: per direction, what was sent, what arrived in order, what arrived too early.
#[derive(Debug, Default)]
struct Stream {
    sent: [u64; 2],
    taken: [u64; 2],
    early: [BTreeMap<u64, Bytes>; 2],
    /// Id under which the accepting end knows it.
    inbound: Option<u64>,
}

/// A dial in progress.
#[derive(Debug)]
pub(crate) struct Dial {
    host: HostId,
    generation: u64,
    target: DialTarget,
    addresses: Vec<SocketAddr>,
    at: usize,
    connection: Option<ConnectionId>,
    tries: u32,
}

/// A piece of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    opener: usize,
    stream: u64,
    sequence: u64,
    frame: Bytes,
}

/// A frame that a machine sends on a stream.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) exchange: ExchangeId,
    pub(crate) frame: Bytes,
    pub(crate) last: bool,
}

/// What travels on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Carried {
    Datagram(Bytes),
    Piece(Piece),
    Finish,
    Close(DownReason),
    Reset,
}

/// Something that happens at a point in time.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A machine's deadline.
    Turn { host: HostId, generation: u64, token: u64 },
    /// Answers of the driver itself.
    Answer { host: HostId, generation: u64, inputs: Vec<Input> },
    /// A pause ends.
    Resume { host: HostId, generation: u64 },
    /// Something between two hosts.
    Wire(Wire),
}

/// What happens between two hosts.
#[derive(Debug)]
pub(crate) enum Wire {
    /// The dialler sends its first flight, again perhaps.
    Knock { dial: DialId },
    /// It arrives.
    Knocked { dial: DialId, host: HostId },
    /// The answer arrives at the dialler.
    Welcome { dial: DialId, connection: ConnectionId },
    /// The refusal arrives at the dialler.
    Unwelcome { dial: DialId },
    /// One address had its time.
    DialEnds { dial: DialId, at: usize },
    /// Something arrives at an end.
    Arrives { connection: ConnectionId, end: usize, what: Carried },
    /// Something reliable is sent from an end, again perhaps.
    Resend { connection: ConnectionId, end: usize, what: Carried, tries: u32 },
    /// Look whether an end has heard anything of late.
    Idle { connection: ConnectionId, end: usize },
}

impl Sim {
    /// The host whose process would notice it.
    pub(crate) fn whose(&self, happening: &Happening) -> Option<HostId> {
        match happening {
            Happening::Turn { host, .. } | Happening::Answer { host, .. } | Happening::Resume { host, .. } => {
                Some(*host)
            }
            Happening::Wire(Wire::Knocked { host, .. }) => Some(*host),
            Happening::Wire(
                Wire::Knock { dial }
                | Wire::Welcome { dial, .. }
                | Wire::Unwelcome { dial }
                | Wire::DialEnds { dial, .. },
            ) => self.dials.get(dial).map(|dial| dial.host),
            Happening::Wire(
                Wire::Arrives { connection, end, .. }
                | Wire::Resend { connection, end, .. }
                | Wire::Idle { connection, end },
            ) => self.connections.get(connection.0).map(|c| c.ends[*end].host),
        }
    }

    pub(crate) fn transport(&mut self, wire: Wire) {
        match wire {
            Wire::Knock { dial } => self.knock(dial),
            Wire::Knocked { dial, host } => self.knocked(dial, host),
            Wire::Welcome { dial, connection } => self.welcome(dial, connection),
            Wire::Unwelcome { dial } => self.dial_failed(dial, DownReason::Foreign),
            Wire::DialEnds { dial, at } => self.dial_ends(dial, at),
            Wire::Arrives { connection, end, what } => self.arrives(connection, end, what),
            Wire::Resend { connection, end, what, tries } => self.send_reliably(connection, end, what, tries),
            Wire::Idle { connection, end } => self.idle(connection, end),
        }
    }

    fn wire(&mut self, wait: Duration, wire: Wire) {
        self.later(wait, Happening::Wire(wire));
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// True while the process that made this end still runs.
    fn lives(&self, connection: ConnectionId, end: usize) -> bool {
        self.connections.get(connection.0).is_some_and(|c| {
            let end = &c.ends[end];
            self.hosts[end.host.0].process.as_ref().is_some_and(|process| process.generation == end.generation)
        })
    }

    // ---- dialling

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

    fn knock(&mut self, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        dial.tries += 1;
        let wait = KNOCK_AGAIN * 2_u32.pow(dial.tries.min(8) - 1);
        let from = dial.host;
        let address = dial.addresses.get(dial.at).copied();
        if let Some(to) = address.and_then(|address| self.by_address.get(&address).copied())
            && let Some(delay) = self.network.send(from, to).first()
        {
            self.wire(delay, Wire::Knocked { dial: id, host: to });
        }
        self.wire(wait, Wire::Knock { dial: id });
    }

    fn knocked(&mut self, id: DialId, host: HostId) {
        let Some(dial) = self.dials.get(&id) else { return };
        let (from, from_generation) = (dial.host, dial.generation);
        let Some(process) = &self.hosts[host.0].process else { return };
        if self.hosts[host.0].mesh != self.hosts[from.0].mesh {
            self.checker.counts.foreign_refused += 1;
            if let Some(delay) = self.network.send(host, from).first() {
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
                let end = |host, generation| End { host, generation, phase: Phase::Half, heard: self.now };
                let ends = [end(from, from_generation), end(host, generation)];
                self.connections.push(Connection { ends, streams: BTreeMap::new() });
                if let Some(dial) = self.dials.get_mut(&id) {
                    dial.connection = Some(connection);
                }
                connection
            }
        };
        if let Some(delay) = self.network.send(host, from).first() {
            self.wire(delay, Wire::Welcome { dial: id, connection });
        }
    }

    fn welcome(&mut self, id: DialId, connection: ConnectionId) {
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
        self.dials.remove(&id);
        self.checker.counts.handshakes += 1;
        self.send_reliably(connection, 0, Carried::Finish, 0);
        self.install(connection, 0);
    }

    fn dial_ends(&mut self, id: DialId, at: usize) {
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

    fn dial_failed(&mut self, id: DialId, reason: DownReason) {
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

    // ---- one connection per pair

    fn names(&self, connection: &Connection) -> [NodeName; 2] {
        [0, 1].map(|end: usize| self.hosts[connection.ends[end].host.0].name.clone())
    }

    /// An end is complete: it becomes the link to its peer, unless a better one is there.
    fn install(&mut self, id: ConnectionId, end: usize) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let names = self.names(connection);
        let (host, peer) = (connection.ends[end].host, names[1 - end].clone());
        let (peer_host, dialler) = (connection.ends[1 - end].host, names[0].clone());
        let old = self.hosts[host.0].process.as_ref().and_then(|process| process.links.get(&peer).copied());
        if let Some(old) = old
            && old != id
            && let Some(former) = self.connections.get(old.0)
        {
            let former_end = usize::from(former.ends[1].host == host);
            let former_dialler = self.names(former)[0].clone();
            let former_alive = former.ends[1 - former_end].phase != Phase::Over && self.lives(old, 1 - former_end);
            // Both are alive and were dialled crosswise: the smaller name's dial stays.
            if former_alive && former_dialler < dialler {
                self.set_phase(id, end, Phase::Over);
                self.carry(id, end, Carried::Close(DownReason::Other));
                return;
            }
            self.set_phase(old, former_end, Phase::Over);
            self.carry(old, former_end, Carried::Close(DownReason::Other));
        }
        self.set_phase(id, end, Phase::Up);
        if let Some(process) = self.hosts[host.0].process.as_mut() {
            process.links.insert(peer.clone(), id);
        }
        let idle = self.setup.idle;
        self.wire(idle, Wire::Idle { connection: id, end });
        let address = self.hosts[peer_host.0].address;
        let rtt = self.network.latency(host, peer_host) + self.network.latency(peer_host, host);
        self.deliver(host, Input::Change { peer: peer.clone(), change: ConnectionChange::Up { address } });
        self.deliver(host, Input::Change { peer, change: ConnectionChange::Rtt(rtt) });
    }

    fn set_phase(&mut self, id: ConnectionId, end: usize, phase: Phase) {
        let now = self.now;
        if let Some(connection) = self.connections.get_mut(id.0) {
            connection.ends[end].phase = phase;
            connection.ends[end].heard = now;
            if connection.ends.iter().all(|end| end.phase == Phase::Over) {
                connection.streams.clear();
            }
        }
    }

    fn take_down(&mut self, id: ConnectionId, end: usize, reason: DownReason) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let (host, peer) = (connection.ends[end].host, self.names(connection)[1 - end].clone());
        self.set_phase(id, end, Phase::Over);
        if let Some(process) = self.hosts[host.0].process.as_mut()
            && process.links.get(&peer) == Some(&id)
        {
            process.links.remove(&peer);
            self.deliver(host, Input::Change { peer, change: ConnectionChange::Down { reason } });
        }
    }

    fn idle(&mut self, id: ConnectionId, end: usize) {
        let Some(connection) = self.connections.get(id.0) else { return };
        if connection.ends[end].phase != Phase::Up || !self.lives(id, end) {
            return;
        }
        let heard = connection.ends[end].heard;
        let quiet = self.now.since(heard);
        if quiet >= self.setup.idle {
            self.take_down(id, end, DownReason::TimedOut);
        } else {
            let wait = self.setup.idle - quiet;
            self.wire(wait, Wire::Idle { connection: id, end });
        }
    }

    // ---- closing

    pub(crate) fn close(&mut self, host: HostId, process: &mut Process, peer: &NodeName, why: CloseReason) {
        let Some(id) = process.links.remove(peer) else { return };
        let Some(connection) = self.connections.get(id.0) else { return };
        let end = usize::from(connection.ends[1].host == host);
        let reason = match why {
            CloseReason::Leaving => DownReason::Left,
            CloseReason::Evicted => DownReason::Evicted,
            CloseReason::Stale => DownReason::Other,
        };
        self.set_phase(id, end, Phase::Over);
        self.carry(id, end, Carried::Close(reason));
        let change = ConnectionChange::Down { reason: DownReason::Local };
        let inputs = vec![Input::Change { peer: peer.clone(), change }];
        self.later(Duration::ZERO, Happening::Answer { host, generation: process.generation, inputs });
    }

    /// An orderly end of a process closes all of its connections.
    pub(crate) fn close_all(&mut self, host: HostId, process: &mut Process) {
        let peers: Vec<NodeName> = process.links.keys().cloned().collect();
        for peer in peers {
            self.close(host, process, &peer, CloseReason::Leaving);
        }
    }

    // ---- sending

    /// Sends once; the network decides.
    fn carry(&mut self, id: ConnectionId, end: usize, what: Carried) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let (from, to) = (connection.ends[end].host, connection.ends[1 - end].host);
        let other = 1 - end;
        match (self.network.send(from, to), &what) {
            (Fate::Vanishes, _) => {}
            (Fate::Twice(first, second), Carried::Datagram(_)) => {
                self.wire(first, Wire::Arrives { connection: id, end: other, what: what.clone() });
                self.wire(second, Wire::Arrives { connection: id, end: other, what });
            }
            (Fate::Arrives(delay) | Fate::Twice(delay, _), _) => {
                self.wire(delay, Wire::Arrives { connection: id, end: other, what });
            }
        }
    }

    /// Sends until it arrives, as long as this end exists.
    fn send_reliably(&mut self, id: ConnectionId, end: usize, what: Carried, tries: u32) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let over = connection.ends[end].phase == Phase::Over || !self.lives(id, end);
        let (from, to) = (connection.ends[end].host, connection.ends[1 - end].host);
        if over {
            return;
        }
        if let Some(delay) = self.network.send(from, to).first() {
            self.wire(delay, Wire::Arrives { connection: id, end: 1 - end, what });
        } else {
            let round_trip = self.network.latency(from, to) * 2;
            let wait = ((round_trip + RESEND) * 2_u32.pow(tries.min(8))).min(RESEND_MAX);
            self.wire(wait, Wire::Resend { connection: id, end, what, tries: tries + 1 });
        }
    }

    /// A liar damages what it sends.
    fn damaged(&mut self, host: HostId, bytes: Bytes) -> Bytes {
        let share = self.hosts[host.0].corrupts;
        if bytes.is_empty() || !self.dice.chance(share) {
            return bytes;
        }
        self.checker.counts.damaged += 1;
        let mut copy = bytes.to_vec();
        match self.dice.index(4) {
            0 => copy.truncate(self.dice.index(copy.len())),
            1 => copy.extend_from_slice(&self.dice.number().to_le_bytes()),
            _ => {
                for _ in 0..=self.dice.index(3) {
                    let at = self.dice.index(copy.len());
                    copy[at] ^= 1 << self.dice.index(8);
                }
            }
        }
        Bytes::from(copy)
    }

    pub(crate) fn send_datagram(&mut self, host: HostId, process: &Process, to: &NodeName, payload: Bytes) {
        let Some(id) = process.links.get(to).copied() else {
            self.checker.counts.unsent += 1;
            return;
        };
        let payload = self.damaged(host, payload);
        let end = self.connections.get(id.0).map_or(0, |c| usize::from(c.ends[1].host == host));
        self.carry(id, end, Carried::Datagram(payload));
    }

    pub(crate) fn send_sync(&mut self, host: HostId, process: &mut Process, to: &NodeName, outgoing: Outgoing) {
        let Outgoing { exchange, frame, last } = outgoing;
        let found = if exchange.is_inbound() {
            process.streams_in.get(&(to.clone(), exchange.0)).copied().map(|(id, stream)| (id, stream, false))
        } else {
            let linked = process.links.get(to).copied();
            let id = process.streams_out.get(&exchange.0).copied().or(linked);
            id.map(|id| (id, exchange.0, true))
        };
        let Some((id, stream, ours)) = found else {
            self.checker.counts.unsent += 1;
            return;
        };
        if ours {
            process.streams_out.insert(exchange.0, id);
            if last {
                process.streams_out.remove(&exchange.0);
            }
        }
        if frame.is_empty() {
            return;
        }
        let frame = self.damaged(host, frame);
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let end = usize::from(connection.ends[1].host == host);
        let opener = if ours { end } else { 1 - end };
        let state = connection.streams.entry((opener, stream)).or_default();
        let sequence = state.sent[end];
        state.sent[end] += 1;
        // The process is out of its host during its turn, so the first try waits for the end of the turn.
        let what = Carried::Piece(Piece { opener, stream, sequence, frame });
        self.wire(Duration::ZERO, Wire::Resend { connection: id, end, what, tries: 0 });
    }

    // ---- arriving

    fn arrives(&mut self, id: ConnectionId, end: usize, what: Carried) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let (host, phase) = (connection.ends[end].host, connection.ends[end].phase);
        if self.hosts[host.0].process.is_none() {
            return;
        }
        if phase == Phase::Over || !self.lives(id, end) {
            // A process that does not know the connection says so, but never answers an end with an end.
            match what {
                Carried::Datagram(_) | Carried::Piece(_) | Carried::Finish => {
                    self.checker.counts.resets += 1;
                    self.carry(id, end, Carried::Reset);
                }
                Carried::Close(_) | Carried::Reset => {}
            }
            return;
        }
        // Whatever comes after the last flight proves that it was sent.
        if phase == Phase::Half && end == 1 && !matches!(what, Carried::Close(_) | Carried::Reset) {
            self.install(id, 1);
        }
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if connection.ends[end].phase == Phase::Over {
            return;
        }
        connection.ends[end].heard = now;
        let from = self.hosts[connection.ends[1 - end].host.0].name.clone();
        match what {
            Carried::Finish => {}
            Carried::Datagram(payload) => self.deliver(host, Input::Datagram { from, payload }),
            Carried::Close(reason) => self.take_down(id, end, reason),
            Carried::Reset => self.take_down(id, end, DownReason::Reset),
            Carried::Piece(piece) => self.piece(id, end, &from, piece),
        }
    }

    fn piece(&mut self, id: ConnectionId, end: usize, from: &NodeName, piece: Piece) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let host = connection.ends[end].host;
        let Some(process) = self.hosts[host.0].process.as_mut() else { return };
        let state = connection.streams.entry((piece.opener, piece.stream)).or_default();
        let exchange = if piece.opener == end {
            ExchangeId(piece.stream)
        } else {
            let inbound = *state.inbound.get_or_insert_with(|| {
                process.next_inbound += 1;
                ExchangeId::INBOUND | process.next_inbound
            });
            process.streams_in.insert((from.clone(), inbound), (id, piece.stream));
            ExchangeId(inbound)
        };
        let sender = 1 - end;
        state.early[sender].insert(piece.sequence, piece.frame);
        let mut ready = Vec::new();
        while let Some(frame) = state.early[sender].remove(&state.taken[sender]) {
            state.taken[sender] += 1;
            ready.push(frame);
        }
        for frame in ready {
            self.deliver(host, Input::Sync { from: from.clone(), exchange, frame });
        }
    }
}
