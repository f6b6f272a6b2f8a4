//! Connections as an agent's QUIC shell gives them: a handshake of one round trip, one connection per pair, datagrams
//! that may get lost, streams that do not while packets pass at all, silence when a process dies, a stateless reset
//! when it is back, an idle end after that.

mod dialling;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use starling_gossip::limits::{DATAGRAM_BYTES_MAX, SYNC_FRAME_BYTES_MAX};
use starling_gossip::{CloseReason, ConnectionChange, DialTarget, DownReason, ExchangeId};
use starling_model::NodeName;

use crate::clock::SimTime;
use crate::cluster::{HostId, Sim};
use crate::network::Fate;
use crate::turn::{Input, Process};

/// Wait before lost stream data is sent again, beside the round trip; doubles up to [`RESEND_MAX`].
const RESEND: Duration = Duration::from_millis(30);
const RESEND_MAX: Duration = Duration::from_secs(2);
/// What every QUIC path carries (RFC 9000, 14), in bytes of UDP payload; handshakes are padded to it.
const BASE_PACKET_BYTES: usize = 1_200;
/// What quinn's search for the path's MTU finds on Ethernet.
const FOUND_PACKET_BYTES: usize = 1_452;
/// What QUIC adds to a gossip datagram of the largest size.
const PACKET_OVERHEAD_BYTES: usize = BASE_PACKET_BYTES - DATAGRAM_BYTES_MAX;
/// A packet that only acknowledges or closes.
const SMALL_PACKET_BYTES: usize = 60;
/// Losses of large packets, none of which arrived in between, after which an end goes back to the base size, as
/// quinn's black hole detection does.
const LARGE_LOSSES_MAX: u32 = 3;
/// Where an envelope has the length of its messages (the layout is that of `starling_gossip`'s wire).
const LENGTH_AT: usize = 12;
/// Bytes of [`NEWS`].
const NEWS_LEN: u32 = 7;
/// A message of an unknown kind: kind, length, four bytes.
const NEWS: [u8; NEWS_LEN as usize] = [113, 4, 0, 1, 2, 3, 4];

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
    /// Large packets lost since the last that arrived.
    large_losses: u32,
}

impl End {
    /// Largest packet that this end makes.
    fn packet_bytes_max(&self) -> usize {
        if self.large_losses < LARGE_LOSSES_MAX { FOUND_PACKET_BYTES } else { BASE_PACKET_BYTES }
    }
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
    /// Which ends have sent their last frame.
    ended: [bool; 2],
    /// Id under which the accepting end knows it.
    inbound: Option<u64>,
}

impl Stream {
    /// Nothing more comes, and everything that was sent has arrived.
    fn is_over(&self) -> bool {
        self.ended == [true; 2] && self.sent == self.taken
    }
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

impl Carried {
    /// Bytes of UDP payload that it would fill alone.
    fn packet_bytes(&self) -> usize {
        match self {
            Self::Datagram(payload) => payload.len() + PACKET_OVERHEAD_BYTES,
            Self::Piece(piece) => piece.frame.len() + PACKET_OVERHEAD_BYTES,
            Self::Finish | Self::Close(_) | Self::Reset => SMALL_PACKET_BYTES,
        }
    }
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

    /// Streams on which something is still to come.
    pub(crate) fn open_streams(&self) -> usize {
        self.connections.iter().map(|connection| connection.streams.len()).sum()
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
        match (self.network.send(from, to, what.packet_bytes()), &what) {
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
        let bytes = what.packet_bytes().min(connection.ends[end].packet_bytes_max());
        let large = bytes > BASE_PACKET_BYTES;
        let fate = self.network.send(from, to, bytes).first();
        if large && let Some(connection) = self.connections.get_mut(id.0) {
            let losses = &mut connection.ends[end].large_losses;
            *losses = if fate.is_some() { 0 } else { *losses + 1 };
            self.checker.counts.black_holes_found += u64::from(*losses == LARGE_LOSSES_MAX);
        }
        if let Some(delay) = fate {
            self.wire(delay, Wire::Arrives { connection: id, end: 1 - end, what });
        } else {
            let round_trip = self.network.latency(from, to) * 2;
            let wait = ((round_trip + RESEND) * 2_u32.pow(tries.min(8))).min(RESEND_MAX);
            self.wire(wait, Wire::Resend { connection: id, end, what, tries: tries + 1 });
        }
    }

    /// What is put on the wire in place of what a machine asked to send: a newer release says more, a liar damages.
    fn altered(&mut self, host: HostId, bytes: Bytes, bytes_max: usize) -> Bytes {
        let bytes = if self.hosts[host.0].is_newer { self.with_news(bytes, bytes_max) } else { bytes };
        if let Some(tape) = &mut self.hosts[host.0].tape {
            tape.push(bytes.clone());
        }
        self.damaged(host, bytes)
    }

    /// The same envelope with one more message, of a kind that no release has yet, where there is room.
    fn with_news(&mut self, bytes: Bytes, bytes_max: usize) -> Bytes {
        let length = LENGTH_AT..LENGTH_AT + 4;
        let Some(held) = bytes.get(length.clone()).and_then(|field| field.first_chunk::<4>()) else { return bytes };
        if bytes.len() + NEWS.len() > bytes_max {
            return bytes;
        }
        let longer = u32::from_le_bytes(*held).saturating_add(NEWS_LEN);
        let mut copy = bytes.to_vec();
        copy[length].copy_from_slice(&longer.to_le_bytes());
        copy.extend_from_slice(&NEWS);
        self.checker.counts.news_sent += 1;
        Bytes::from(copy)
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
        let payload = self.altered(host, payload, DATAGRAM_BYTES_MAX);
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
        match (ours, last) {
            (true, false) => drop(process.streams_out.insert(exchange.0, id)),
            (true, true) => drop(process.streams_out.remove(&exchange.0)),
            (false, true) => drop(process.streams_in.remove(&(to.clone(), exchange.0))),
            (false, false) => {}
        }
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let end = usize::from(connection.ends[1].host == host);
        let opener = if ours { end } else { 1 - end };
        let state = connection.streams.entry((opener, stream)).or_default();
        state.ended[end] |= last;
        if frame.is_empty() {
            if state.is_over() {
                connection.streams.remove(&(opener, stream));
            }
            return;
        }
        let frame = self.altered(host, frame, SYNC_FRAME_BYTES_MAX);
        let Some(state) = self.connections.get_mut(id.0).and_then(|c| c.streams.get_mut(&(opener, stream))) else {
            return;
        };
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
            if !state.ended[end] {
                process.streams_in.insert((from.clone(), inbound), (id, piece.stream));
            }
            ExchangeId(inbound)
        };
        let sender = 1 - end;
        if piece.sequence != state.taken[sender] {
            state.early[sender].insert(piece.sequence, piece.frame);
            return;
        }
        let mut ready = vec![piece.frame];
        state.taken[sender] += 1;
        while let Some(frame) = state.early[sender].remove(&state.taken[sender]) {
            state.taken[sender] += 1;
            ready.push(frame);
        }
        if state.is_over() {
            connection.streams.remove(&(piece.opener, piece.stream));
        }
        for frame in ready {
            self.deliver(host, Input::Sync { from: from.clone(), exchange, frame });
        }
    }
}
