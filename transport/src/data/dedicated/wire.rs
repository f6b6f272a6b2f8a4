//! The first words of `starling-data/1`: frames of `starling-mux/1`, one in each direction.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::mux::frame::{HEADER_BYTES, Header, Kind, OPEN_BYTES_MAX, RESET_BYTES, StreamId, Violation};
use crate::mux::{CannotOpen, ResetCode};

const _: () = assert!(RESET_BYTES == 1);

/// The only stream there is.
const ONE: StreamId = StreamId(1);

/// What the acceptor says to an `open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Bytes may pass.
    Taken,
    /// This stream is not wanted; a code follows.
    Refused,
    /// No dedicated connection now; the stream may be wanted on a shared one.
    NoRoom,
}

/// The opener's first words.
pub(super) fn open(header: &[u8]) -> Result<Vec<u8>, CannotOpen> {
    let length = u16::try_from(header.len()).ok().filter(|length| usize::from(*length) <= OPEN_BYTES_MAX);
    let length = length.ok_or(CannotOpen::HeaderTooLarge)?;
    let frame = Header { kind: Kind::Open, length, stream: ONE };
    Ok([&frame.encode()[..], header].concat())
}

/// How many bytes of header follow these first words of an opener.
pub(super) fn opened(bytes: [u8; HEADER_BYTES]) -> Result<usize, Violation> {
    let frame = Header::decode(bytes)?;
    match (frame.kind, frame.stream) {
        (Kind::Open, ONE) => Ok(usize::from(frame.length)),
        (Kind::Open, got) => Err(Violation::OutOfTurn { expected: ONE, got }),
        (kind, stream) => Err(Violation::NeverOpened { kind, stream }),
    }
}

/// The acceptor takes the stream.
pub(super) const fn taken() -> [u8; HEADER_BYTES] {
    Header { kind: Kind::Open, length: 0, stream: ONE }.encode()
}

/// The acceptor does not take the stream.
pub(super) fn refused(code: ResetCode) -> Vec<u8> {
    let frame = Header { kind: Kind::Reset, length: 1, stream: ONE };
    [&frame.encode()[..], &[code.number()]].concat()
}

/// The acceptor has no place for a dedicated connection.
pub(super) const fn no_room() -> [u8; HEADER_BYTES] {
    Header { kind: Kind::GoAway, length: 0, stream: StreamId::CONNECTION }.encode()
}

/// What an acceptor said.
pub(super) fn answered(bytes: [u8; HEADER_BYTES]) -> Result<Answer, Violation> {
    let frame = Header::decode(bytes)?;
    match (frame.kind, frame.length, frame.stream) {
        (Kind::Open, 0, ONE) => Ok(Answer::Taken),
        (Kind::Reset, _, ONE) => Ok(Answer::Refused),
        (Kind::GoAway, _, StreamId::CONNECTION) => Ok(Answer::NoRoom),
        (kind, length, ONE) => Err(Violation::Length { kind, length }),
        (kind, _, stream) => Err(Violation::NeverOpened { kind, stream }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/data.md`.
    #[test]
    fn golden_bytes() {
        assert_eq!(open(b"hdr").unwrap(), b"\x01\x00\x03\x00\x01\x00\x00\x00hdr");
        assert_eq!(taken(), *b"\x01\x00\x00\x00\x01\x00\x00\x00");
        assert_eq!(refused(ResetCode::Refused), b"\x05\x00\x01\x00\x01\x00\x00\x00\x01");
        assert_eq!(refused(ResetCode::Error), b"\x05\x00\x01\x00\x01\x00\x00\x00\x02");
        assert_eq!(no_room(), *b"\x06\x00\x00\x00\x00\x00\x00\x00");
    }

    #[test]
    fn what_is_said_is_understood_and_nothing_else_is() {
        let first = |bytes: &[u8]| <[u8; HEADER_BYTES]>::try_from(&bytes[..HEADER_BYTES]).unwrap();
        assert_eq!(opened(first(&open(&[7; OPEN_BYTES_MAX]).unwrap())), Ok(OPEN_BYTES_MAX));
        assert_eq!(open(&[7; OPEN_BYTES_MAX + 1]), Err(CannotOpen::HeaderTooLarge));
        assert_eq!(answered(taken()), Ok(Answer::Taken));
        assert_eq!(answered(first(&refused(ResetCode::Error))), Ok(Answer::Refused));
        assert_eq!(answered(no_room()), Ok(Answer::NoRoom));
        let frame = |kind, length, stream| Header { kind, length, stream: StreamId(stream) }.encode();
        for bytes in [frame(Kind::Open, 3, 3), frame(Kind::Data, 5, 1), frame(Kind::Ping, 8, 0), *b"GET / HT", [0; 8]] {
            assert!(opened(bytes).is_err() && answered(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [frame(Kind::Open, 1, 1), frame(Kind::Reset, 1, 3), frame(Kind::GoAway, 0, 1)] {
            assert!(answered(bytes).is_err(), "{bytes:?}");
        }
    }
}
