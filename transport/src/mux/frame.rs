//! Frames of `starling-mux/1`: the fixed header and its rules, nothing about streams.
//!
//! Every frame starts with the same eight bytes, little endian:
//!
//! ```text
//!  0        1        2                 4                                   8
//! +--------+--------+-----------------+-----------------------------------+----------------------
//! | kind   | flags  | length          | stream                            | payload (length bytes)
//! | u8     | u8 = 0 | u16             | u32                               |
//! +--------+--------+-----------------+-----------------------------------+----------------------
//! ```

use std::fmt;

/// Bytes of every frame's header.
pub const HEADER_BYTES: usize = 8;

/// Largest frame with its header: the plaintext of one TLS record (RFC 8446, 5.1), so that a full frame is one record.
pub const FRAME_BYTES_MAX: usize = 16_384;

/// Largest payload of a `data` frame.
pub const DATA_BYTES_MAX: usize = FRAME_BYTES_MAX - HEADER_BYTES;

/// Largest payload of an `open` frame: names of source and destination (six labels of 63 bytes) and a trace context fit
/// four times.
pub const OPEN_BYTES_MAX: usize = 2_048;

/// Payload of `window`: the credit that is added, u32.
pub const WINDOW_BYTES: usize = 4;

/// Payload of `reset`: the reason, u8.
pub const RESET_BYTES: usize = 1;

/// Payload of `ping` and `pong`: eight bytes that the answer repeats.
pub const PING_BYTES: usize = 8;

const _: () = assert!(DATA_BYTES_MAX <= u16::MAX as usize && OPEN_BYTES_MAX <= DATA_BYTES_MAX);

/// One stream of a connection. The dialling side opens odd ids, the accepting side even ones; zero is the connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// Not a stream but the whole connection.
    pub const CONNECTION: Self = Self(0);
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A new stream; the payload is its header, opaque here.
    Open,
    /// Bytes of a stream.
    Data,
    /// Credit for a stream, or for the connection when the stream is zero.
    Window,
    /// The sender has no more bytes on this stream.
    End,
    /// The sender is done with this stream in both directions; the payload says why.
    Reset,
    /// No new streams; those of the receiver above `stream` were not and will not be processed.
    GoAway,
    /// Asks for a `Pong` with the same payload.
    Ping,
    /// Answers a `Ping`.
    Pong,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Data => 2,
            Self::Window => 3,
            Self::End => 4,
            Self::Reset => 5,
            Self::GoAway => 6,
            Self::Ping => 7,
            Self::Pong => 8,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Data,
            3 => Self::Window,
            4 => Self::End,
            5 => Self::Reset,
            6 => Self::GoAway,
            7 => Self::Ping,
            8 => Self::Pong,
            _ => return None,
        })
    }

    /// The payload lengths this kind may have, both ends included.
    const fn lengths(self) -> (usize, usize) {
        match self {
            Self::Open => (0, OPEN_BYTES_MAX),
            Self::Data => (1, DATA_BYTES_MAX),
            Self::Window => (WINDOW_BYTES, WINDOW_BYTES),
            Self::Reset => (RESET_BYTES, RESET_BYTES),
            Self::End | Self::GoAway => (0, 0),
            Self::Ping | Self::Pong => (PING_BYTES, PING_BYTES),
        }
    }
}

/// Why a stream was reset, as written in a `reset` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// Nothing of the stream was processed: the opener may send it elsewhere.
    Refused,
    /// Something was or may have been processed.
    Error,
}

impl ResetCode {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::Error => 2,
        }
    }

    pub(super) const fn of(number: u8) -> Result<Self, Violation> {
        match number {
            1 => Ok(Self::Refused),
            2 => Ok(Self::Error),
            _ => Err(Violation::ResetCode(number)),
        }
    }
}

/// The first eight bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Bytes of payload that follow.
    pub length: u16,
    /// The stream, or zero.
    pub stream: StreamId,
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER_BYTES] {
        let [length_0, length_1] = self.length.to_le_bytes();
        let [stream_0, stream_1, stream_2, stream_3] = self.stream.0.to_le_bytes();
        [self.kind.number(), 0, length_0, length_1, stream_0, stream_1, stream_2, stream_3]
    }

    /// Reads a header and checks all that can be checked without knowing the streams.
    ///
    /// # Errors
    /// A [`Violation`]: unknown kind, flags, a length the kind cannot have, a stream where none belongs or none where
    /// one does.
    pub const fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, Violation> {
        let [kind, flags, length_0, length_1, stream_0, stream_1, stream_2, stream_3] = bytes;
        let Some(kind) = Kind::of(kind) else { return Err(Violation::Kind(kind)) };
        if flags != 0 {
            return Err(Violation::Flags(flags));
        }
        let length = u16::from_le_bytes([length_0, length_1]);
        let (least, most) = kind.lengths();
        if (length as usize) < least || (length as usize) > most {
            return Err(Violation::Length { kind, length });
        }
        let stream = StreamId(u32::from_le_bytes([stream_0, stream_1, stream_2, stream_3]));
        let belongs = match kind {
            Kind::Open | Kind::Data | Kind::End | Kind::Reset => stream.0 != 0,
            Kind::Ping | Kind::Pong => stream.0 == 0,
            Kind::Window | Kind::GoAway => true,
        };
        if !belongs {
            return Err(Violation::Stream { kind, stream });
        }
        Ok(Self { kind, length, stream })
    }
}

/// What a peer did that no correct peer does. It closes this connection and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame kind this version does not have.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// Flags this version does not have.
    #[error("frame flags {0:#04x} are unknown")]
    Flags(u8),
    /// A payload length the kind cannot have.
    #[error("a {kind:?} frame cannot have {length} bytes")]
    Length {
        /// The frame's kind.
        kind: Kind,
        /// The claimed length.
        length: u16,
    },
    /// A stream where none belongs, or none where one does.
    #[error("a {kind:?} frame cannot name stream {stream}")]
    Stream {
        /// The frame's kind.
        kind: Kind,
        /// The stream it named.
        stream: StreamId,
    },
    /// An opened id that is not the next one of the peer.
    #[error("stream {got} was opened, the next one is {expected}")]
    OutOfTurn {
        /// The id that was due.
        expected: StreamId,
        /// The id that came.
        got: StreamId,
    },
    /// A frame for a stream that nobody opened.
    #[error("a {kind:?} frame for stream {stream}, which was never opened")]
    NeverOpened {
        /// The frame's kind.
        kind: Kind,
        /// The stream it named.
        stream: StreamId,
    },
    /// Bytes, or a second end, after the end of a stream.
    #[error("stream {0} went on after its end")]
    AfterEnd(StreamId),
    /// More bytes than the stream had credit for.
    #[error("stream {0} overran its window")]
    StreamOverrun(StreamId),
    /// More bytes than the connection had credit for.
    #[error("the connection's window was overrun")]
    ConnectionOverrun,
    /// A window frame that adds nothing.
    #[error("a window of nothing for stream {0}")]
    EmptyWindow(StreamId),
    /// Credit beyond 2^31 - 1.
    #[error("stream {0} was given more credit than there can be")]
    WindowOverflow(StreamId),
    /// A reset reason this version does not have.
    #[error("reset reason {0} is unknown")]
    ResetCode(u8),
    /// A second goaway that takes back the first, or one that names streams of the wrong side.
    #[error("goaway names stream {0}, which it cannot")]
    GoAway(StreamId),
}
