//! `starling-mux/1`: many streams over one ordered, authenticated byte stream, as a machine without IO.
//!
//! One connection joins two nodes. A stream costs no handshake: `open` carries an opaque header, and data may follow in
//! the same write. Each stream has a credit window in each direction (as in HTTP/2, RFC 9113, 5.2, with 1-credit-per-byte
//! `window` frames), the connection has one more; streams with something to send take turns, one frame each. `reset`
//! tells whether anything was processed, `goaway` from which stream on nothing will be, so that a caller knows what may
//! be tried elsewhere. The wire is specified in `docs/mux.md`; [`frame`] is its layout.
//!
//! Calling order: bytes from the network go to [`Mux::handle_input`], the clock to [`Mux::handle_timeout`]; then
//! [`Mux::poll_event`] until `None`, and [`Mux::fill`] and [`Mux::output`] for what is to be written, which
//! [`Mux::sent`] takes away. [`Mux::poll_timeout`] says when to come back. A [`Violation`] ends the connection.
//!
//! Not here: sockets, TLS, wakers, and what an `open` header means.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use bytes::{Buf as _, BytesMut};

pub mod frame;
pub mod limits;
mod liveness;
mod parser;
mod receive;
mod report;
mod send;
mod stream;
#[cfg(test)]
mod tests;

pub use frame::{ResetCode, StreamId, Violation};
pub use liveness::{CLOSED_AFTER, PING_AFTER, PING_IDLE, PING_QUIET_STREAMS, STALLED_AFTER};
pub use report::{CannotOpen, Event, ReadOutcome, Received, Stats};
pub use stream::Fault;

use frame::{HEADER_BYTES, Header, Kind, OPEN_BYTES_MAX, RESET_BYTES};
use limits::{
    ANSWERS_MAX, CONNECTION_WINDOW, OPEN_STREAMS_MAX, STREAM_ID_MAX, STREAM_WINDOW_INITIAL, WINDOW_GROWTH_MAX,
};
use liveness::{Liveness, Pulse};
use parser::Parser;
use stream::{Incoming, Outgoing, Stream};

/// Which end of the connection this is; it decides the parity of stream ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This side dialled: its streams are odd.
    Dialler,
    /// This side accepted: its streams are even.
    Acceptor,
}

impl Role {
    const fn first_own(self) -> u32 {
        match self {
            Self::Dialler => 1,
            Self::Acceptor => 2,
        }
    }

    const fn first_peer(self) -> u32 {
        match self {
            Self::Dialler => 2,
            Self::Acceptor => 1,
        }
    }
}

/// Ids rise by two and nobody chooses them, so spreading them is all a hash has to do.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        // The odd constant is 2^64 divided by the golden ratio (Knuth, 6.4).
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    accept_max: usize,
    parser: Parser,
    streams: HashMap<StreamId, Stream, BuildHasherDefault<IdHasher>>,
    own_streams: usize,
    peer_streams: usize,
    /// The next id this side opens.
    next_own: u32,
    /// The id the peer must open next.
    next_peer: u32,
    /// Streams with bytes and credit, in turn. Its length is bounded by the number of streams.
    ring: VecDeque<StreamId>,
    /// Framed, not yet taken by the network.
    output: BytesMut,
    /// Bytes that the network has taken, ever.
    output_taken: u64,
    /// Something in `output` makes a living peer answer.
    output_asks: bool,
    /// Bytes in `output` that the peer caused.
    answers: usize,
    events: VecDeque<Event>,
    /// What we may still send on the connection.
    credit: u32,
    /// What the peer may still send on the connection.
    given: u32,
    /// Read or discarded, connection credit not returned yet.
    consumed: u32,
    /// What streams may still grow beyond their initial windows.
    growth: u32,
    /// The last stream of the peer that we process, once said.
    goaway_sent: Option<StreamId>,
    /// The last stream of ours that the peer processes, once said.
    goaway_received: Option<StreamId>,
    liveness: Liveness,
    is_dead: bool,
    stats: Stats,
}

impl Mux {
    /// A fresh connection that serves at most `accept_max` streams of the peer at once (zero: none).
    #[must_use]
    pub fn new(role: Role, accept_max: usize, now: Instant) -> Self {
        Self {
            role,
            accept_max,
            parser: Parser::default(),
            streams: HashMap::default(),
            own_streams: 0,
            peer_streams: 0,
            next_own: role.first_own(),
            next_peer: role.first_peer(),
            ring: VecDeque::new(),
            output: BytesMut::new(),
            output_taken: 0,
            output_asks: false,
            answers: 0,
            events: VecDeque::new(),
            credit: CONNECTION_WINDOW,
            given: CONNECTION_WINDOW,
            consumed: 0,
            growth: WINDOW_GROWTH_MAX,
            goaway_sent: None,
            goaway_received: None,
            liveness: Liveness::new(now),
            is_dead: false,
            stats: Stats::default(),
        }
    }

    // ---- getters

    /// Plain counters since the start.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Streams in anybody's hands, of either side.
    #[must_use]
    pub fn streams_len(&self) -> usize {
        self.streams.len()
    }

    /// Whether a new stream would be taken at `now`.
    ///
    /// # Errors
    /// [`CannotOpen`], saying why not.
    pub fn may_open(&self, now: Instant) -> Result<(), CannotOpen> {
        if self.is_leaving() || self.is_dead || self.next_own > STREAM_ID_MAX {
            Err(CannotOpen::GoingAway)
        } else if self.liveness.is_stalled(now) {
            Err(CannotOpen::Stalled)
        } else if self.own_streams >= OPEN_STREAMS_MAX {
            Err(CannotOpen::Full)
        } else {
            Ok(())
        }
    }

    /// Either side has said goaway.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.goaway_sent.is_some() || self.goaway_received.is_some()
    }

    /// Either side has said goaway and the last stream is over: the connection can end.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_leaving() && self.streams.is_empty() && self.output.is_empty()
    }

    /// No stream has anything to send or to receive any more, though some may still be held.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.streams.values().all(Stream::is_finished)
    }

    /// The peer has not answered for 15 s: the connection is to be dropped.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// False while a peer causes answers and does not read them: then it is not read either.
    #[must_use]
    pub const fn wants_input(&self) -> bool {
        self.answers < ANSWERS_MAX
    }

    /// Why a stream is broken, if it is.
    #[must_use]
    pub fn fault(&self, stream: StreamId) -> Option<Fault> {
        let stream = self.streams.get(&stream)?;
        match (stream.incoming, stream.outgoing) {
            (Incoming::Closed(fault), _) | (_, Outgoing::Closed(fault)) => Some(fault),
            (Incoming::Open | Incoming::Ended, Outgoing::Open | Outgoing::Ending | Outgoing::Ended) => None,
        }
    }

    /// The same, and where it is not broken yet, [`Event::Broken`] says when it is, though nobody reads or writes it.
    pub fn watch(&mut self, id: StreamId) -> Option<Fault> {
        let fault = self.fault(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_watched = fault.is_none();
        }
        fault
    }

    // ---- commands of the streams' holders

    /// Opens a stream. Its `open` frame is the first to leave, and data may be sent at once.
    ///
    /// # Errors
    /// [`CannotOpen`]; nothing has happened then.
    pub fn open(&mut self, header: &[u8], now: Instant) -> Result<StreamId, CannotOpen> {
        self.may_open(now)?;
        let length = u16::try_from(header.len()).ok().filter(|length| usize::from(*length) <= OPEN_BYTES_MAX);
        let Some(length) = length else { return Err(CannotOpen::HeaderTooLarge) };
        let stream = StreamId(self.next_own);
        self.next_own = self.next_own.saturating_add(2);
        self.frame(Header { kind: Kind::Open, length, stream }, header);
        let opened_at = self.output_taken.saturating_add(self.output.len() as u64);
        self.streams.insert(stream, Stream::new(opened_at));
        self.own_streams = self.own_streams.saturating_add(1);
        self.stats.streams_opened = self.stats.streams_opened.saturating_add(1);
        Ok(stream)
    }

    /// No more bytes on `stream` from this side; what was taken still leaves, then `end`.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.outgoing == Outgoing::Open {
            stream.outgoing = Outgoing::Ending;
            stream.writer_waits = false;
            self.end_if_empty(id);
        }
    }

    /// What can be read of `stream`.
    ///
    /// # Errors
    /// [`Fault`] when the stream is broken and what could still be read was read.
    pub fn received(&mut self, id: StreamId) -> Result<Received<'_>, Fault> {
        let Some(stream) = self.streams.get_mut(&id) else { return Err(Fault::Local) };
        if !stream.inbox.is_empty() {
            return Ok(Received::Bytes(&stream.inbox));
        }
        match stream.incoming {
            Incoming::Open => {
                stream.reader_waits = true;
                Ok(Received::Empty)
            }
            Incoming::Ended => Ok(Received::End),
            Incoming::Closed(fault) => Err(fault),
        }
    }

    /// Takes `length` bytes off what was [`received`](Self::received), and returns their credit to the peer.
    pub fn consume(&mut self, id: StreamId, length: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let length = length.min(stream.inbox.len());
        stream.inbox.advance(length);
        if stream.inbox.is_empty() {
            // An idle stream keeps no buffer.
            stream.inbox = BytesMut::new();
            stream.keeps_up = true;
        }
        stream.consumed = stream.consumed.saturating_add(narrow(length));
        self.return_stream_credit(id);
        self.return_credit(length);
    }

    /// Copies what has arrived on `stream` into `into`, and returns credit to the peer.
    ///
    /// # Errors
    /// As [`received`](Self::received).
    pub fn read(&mut self, id: StreamId, into: &mut [u8]) -> Result<ReadOutcome, Fault> {
        let bytes = match self.received(id)? {
            Received::Bytes(bytes) => bytes,
            Received::Empty => return Ok(ReadOutcome::Empty),
            Received::End => return Ok(ReadOutcome::End),
        };
        let length = bytes.len().min(into.len());
        if let (Some(place), Some(head)) = (into.get_mut(..length), bytes.get(..length)) {
            place.copy_from_slice(head);
        }
        self.consume(id, length);
        Ok(ReadOutcome::Bytes(length))
    }

    /// Breaks `stream` off in both directions and tells the peer why.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let was_open =
            stream.incoming == Incoming::Open || matches!(stream.outgoing, Outgoing::Open | Outgoing::Ending);
        let unread = stream.inbox.len();
        stream.inbox = BytesMut::new();
        stream.close(Fault::Local);
        // What had arrived was dropped, so a later read must not see a clean end.
        stream.incoming = Incoming::Closed(Fault::Local);
        wake(&mut self.events, stream, id);
        self.return_credit(unread);
        if was_open {
            self.frame(Header { kind: Kind::Reset, length: 1, stream: id }, &[code.number()]);
            if !self.is_own(id) {
                // The peer may open and we refuse for ever: it has to read what that costs.
                self.answers = self.answers.saturating_add(HEADER_BYTES.saturating_add(RESET_BYTES));
            }
        }
        self.remove_if_over(id);
    }

    /// Nobody on this side uses `stream` any more. What was finished is still delivered; the rest is reset.
    pub fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.held = false;
        (stream.reader_waits, stream.writer_waits, stream.is_watched) = (false, false, false);
        let (incoming, outgoing) = (stream.incoming, stream.outgoing);
        let unread = stream.inbox.len();
        self.consume(id, unread);
        match (incoming, outgoing) {
            (_, Outgoing::Open) | (Incoming::Open, Outgoing::Ended) => self.reset(id, ResetCode::Error),
            // `end` is still to leave; `end_if_empty` looks after the rest.
            (_, Outgoing::Ending) => {}
            (Incoming::Ended | Incoming::Closed(_), Outgoing::Ended) | (_, Outgoing::Closed(_)) => {
                self.remove_if_over(id);
            }
        }
    }

    /// Takes no new streams of the peer and opens none; those there are live on.
    pub fn goaway(&mut self) {
        if self.goaway_sent.is_none() {
            // The last stream that was opened: all of those are served or were refused one by one.
            let last = StreamId(self.next_peer.saturating_sub(2));
            self.goaway_sent = Some(last);
            self.frame(Header { kind: Kind::GoAway, length: 0, stream: last }, &[]);
        }
    }

    /// The connection broke: every stream ends, and those whose `open` never left know that.
    pub fn connection_lost(&mut self) {
        self.end_all(self.output_taken);
    }

    /// The peer refused the connection before it read the first frame: no stream was processed.
    pub fn connection_refused(&mut self) {
        self.end_all(0);
    }

    fn end_all(&mut self, taken: u64) {
        self.is_dead = true;
        let mut ids: Vec<StreamId> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.close(if stream.opened_at > taken { Fault::Unprocessed } else { Fault::Lost });
                wake(&mut self.events, stream, id);
            }
            self.remove_if_over(id);
        }
        self.output = BytesMut::new();
    }

    // ---- the clock and what happened (the network's side is in `send.rs` and `receive.rs`)

    /// Acts on the clock: asks a silent peer, gives up on a dead one.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.liveness.check(now, !self.streams.is_empty()) {
            Pulse::Fine => {}
            Pulse::Ping => {
                self.stats.pings_sent = self.stats.pings_sent.saturating_add(1);
                let number = self.stats.pings_sent.to_le_bytes();
                self.frame(Header { kind: Kind::Ping, length: 8, stream: StreamId::CONNECTION }, &number);
            }
            Pulse::Dead => self.connection_lost(),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.liveness.deadline(!self.streams.is_empty())
    }

    /// The next thing that happened.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // ---- helpers

    fn frame(&mut self, header: Header, payload: &[u8]) {
        self.output.extend_from_slice(&header.encode());
        self.output.extend_from_slice(payload);
        self.stats.frames_sent = self.stats.frames_sent.saturating_add(1);
        // An answer to a pong would be answered for ever.
        self.output_asks |= header.kind != Kind::Pong;
    }

    /// Sends `end` when nothing precedes it any more, and lets go of a stream nobody holds.
    fn end_if_empty(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.outgoing != Outgoing::Ending || !stream.outbox.is_empty() {
            return;
        }
        stream.outgoing = Outgoing::Ended;
        let reads_on = stream.held || stream.incoming != Incoming::Open;
        self.frame(Header { kind: Kind::End, length: 0, stream: id }, &[]);
        if reads_on {
            self.remove_if_over(id);
        } else {
            // The peer still sends and nobody listens.
            self.reset(id, ResetCode::Error);
        }
    }

    fn remove_if_over(&mut self, id: StreamId) {
        if !self.streams.get(&id).is_some_and(Stream::is_over) {
            return;
        }
        if let Some(stream) = self.streams.remove(&id) {
            self.growth = self.growth.saturating_add(stream.window.saturating_sub(STREAM_WINDOW_INITIAL));
        }
        if self.is_own(id) {
            self.own_streams = self.own_streams.saturating_sub(1);
        } else {
            self.peer_streams = self.peer_streams.saturating_sub(1);
        }
    }

    const fn is_own(&self, id: StreamId) -> bool {
        id.0 & 1 == self.role.first_own() & 1
    }

    /// True for ids that somebody has opened at some time.
    const fn was_opened(&self, id: StreamId) -> bool {
        id.0 < if self.is_own(id) { self.next_own } else { self.next_peer }
    }
}

/// Tells whoever waits on `stream`, which broke, to look again.
fn wake(events: &mut VecDeque<Event>, stream: &mut Stream, id: StreamId) {
    if std::mem::take(&mut stream.reader_waits) {
        events.push_back(Event::Readable(id));
    }
    if std::mem::take(&mut stream.writer_waits) {
        events.push_back(Event::Writable(id));
    }
    if std::mem::take(&mut stream.is_watched) {
        events.push_back(Event::Broken(id));
    }
}

/// Lengths here are bounded by windows, which are u32.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
