//! What the machine tells its user: events, outcomes, counters.

use bytes::Bytes;

use super::frame::{OPEN_BYTES_MAX, StreamId};
use super::limits::OPEN_STREAMS_MAX;

/// What happened, for whoever holds the streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream. It is held until [`release`](super::Mux::release).
    Opened {
        /// Its id.
        stream: StreamId,
        /// What the opener says about it.
        header: Bytes,
    },
    /// A read that found nothing would find something.
    Readable(StreamId),
    /// A write that found no room would find some.
    Writable(StreamId),
    /// A stream whose fault somebody waits for ([`watch`](super::Mux::watch)) broke.
    Broken(StreamId),
    /// The peer takes no new streams.
    GoAway,
}

/// Why no stream could be opened here. Another connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotOpen {
    /// One side has said goaway, or the ids are used up.
    #[error("the connection takes no new streams")]
    GoingAway,
    /// The peer has not answered for 3 s.
    #[error("the peer does not answer")]
    Stalled,
    /// [`OPEN_STREAMS_MAX`] are open.
    #[error("the connection has its {OPEN_STREAMS_MAX} streams")]
    Full,
    /// The header is larger than [`OPEN_BYTES_MAX`].
    #[error("the stream's header is larger than {OPEN_BYTES_MAX} bytes")]
    HeaderTooLarge,
}

/// What has arrived on a stream and was not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// These bytes, never none; [`consume`](super::Mux::consume) takes them away.
    Bytes(&'a [u8]),
    /// Nothing yet; [`Event::Readable`] follows.
    Empty,
    /// The peer has said `end`, and everything was read.
    End,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet; [`Event::Readable`] follows.
    Empty,
    /// The peer has said `end`, and everything was read.
    End,
}

/// What a connection has done, as plain counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Streams this side opened.
    pub streams_opened: u64,
    /// Streams the peer opened and that were handed on.
    pub streams_accepted: u64,
    /// Streams the peer opened beyond the limit.
    pub streams_refused: u64,
    /// Streams the peer opened after our goaway.
    pub streams_ignored: u64,
    /// Payload bytes sent in `data` frames.
    pub bytes_sent: u64,
    /// Payload bytes received in `data` frames.
    pub bytes_received: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Payload bytes that came for streams nobody reads any more.
    pub bytes_discarded: u64,
    /// Pings sent.
    pub pings_sent: u64,
}
