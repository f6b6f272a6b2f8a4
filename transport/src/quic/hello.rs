//! The first words on a gossip connection: each side sends one hello on a stream of its own, and nothing else counts
//! before the other's has come. A client that the server refuses would otherwise take itself for connected, because its
//! handshake ends before the server has judged it.
//!
//! ```text
//! hello := "STLH" | length u16le | body          length: bytes of body; unknown bytes at its end are skipped
//! body  := mesh id [32] | protocol min u16le | protocol max u16le | instance u64le | flags u8
//! flags := 1 when the sender holds another connection with the receiver
//! ```

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use starling_model::MeshId;

use super::limits::HELLO_BYTES_MAX;

/// Versions of the gossip protocol that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// The greatest of them.
pub const PROTOCOL_MAX: u16 = 1;

const MAGIC: &[u8; 4] = b"STLH";
const BODY_BYTES: usize = 32 + 2 + 2 + 8 + 1;
const HOLDS_ANOTHER: u8 = 1;

/// What each side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which mesh the sender belongs to.
    pub mesh: MeshId,
    /// Least and greatest version of the protocol that it speaks.
    pub versions: (u16, u16),
    /// Drawn at the start of the agent: tells a restarted peer from the one that was there.
    pub instance: u64,
    /// True when the sender holds another connection with the receiver.
    pub holds_another: bool,
}

impl Hello {
    /// The bytes that are sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HELLO_BYTES_MAX.min(64));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&u16::try_from(BODY_BYTES).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(&self.mesh.0);
        bytes.extend_from_slice(&self.versions.0.to_le_bytes());
        bytes.extend_from_slice(&self.versions.1.to_le_bytes());
        bytes.extend_from_slice(&self.instance.to_le_bytes());
        bytes.push(if self.holds_another { HOLDS_ANOTHER } else { 0 });
        bytes
    }

    /// Reads a whole stream of at most [`HELLO_BYTES_MAX`]; `None` for anything that is not a hello.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (length, body) = rest.split_first_chunk::<2>()?;
        if usize::from(u16::from_le_bytes(*length)) != body.len() {
            return None;
        }
        let (mesh, body) = body.split_first_chunk::<32>()?;
        let (min, body) = body.split_first_chunk::<2>()?;
        let (max, body) = body.split_first_chunk::<2>()?;
        let (instance, body) = body.split_first_chunk::<8>()?;
        let flags = body.first()?;
        Some(Self {
            mesh: MeshId(*mesh),
            versions: (u16::from_le_bytes(*min), u16::from_le_bytes(*max)),
            instance: u64::from_le_bytes(*instance),
            holds_another: flags & HOLDS_ANOTHER != 0,
        })
    }

    /// True when a version is common to both.
    #[must_use]
    pub fn is_understood(&self) -> bool {
        let (min, max) = self.versions;
        min <= PROTOCOL_MAX && max >= PROTOCOL_MIN && min <= max
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello { mesh: MeshId([7; 32]), versions: (1, 2), instance: 0x0102_0304_0506_0708, holds_another: true }
    }

    #[test]
    fn a_hello_has_these_bytes() {
        let mut want = b"STLH\x2d\0".to_vec();
        want.extend_from_slice(&[7; 32]);
        want.extend_from_slice(&[1, 0, 2, 0, 8, 7, 6, 5, 4, 3, 2, 1, 1]);
        assert_eq!(hello().encode(), want);
        assert_eq!(Hello::decode(&want), Some(hello()));
    }

    #[test]
    fn a_later_hello_may_say_more_but_not_less() {
        let mut longer = hello().encode();
        longer.extend_from_slice(b"more");
        assert_eq!(Hello::decode(&longer), None, "the length must fit");
        longer[4] += 4;
        assert_eq!(Hello::decode(&longer), Some(hello()));
        let mut shorter = hello().encode();
        shorter.pop();
        shorter[4] -= 1;
        assert_eq!(Hello::decode(&shorter), None);
    }

    #[test]
    fn versions_must_overlap() {
        let check = |versions, want| assert_eq!(Hello { versions, ..hello() }.is_understood(), want, "{versions:?}");
        check((PROTOCOL_MIN, PROTOCOL_MAX), true);
        check((0, PROTOCOL_MAX + 9), true);
        check((PROTOCOL_MAX + 1, PROTOCOL_MAX + 2), false);
        check((0, PROTOCOL_MIN - 1), false);
        check((9, 0), false);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Hello::decode(&bytes);
        }
    }
}
