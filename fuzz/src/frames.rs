//! Gossip frames around messages that need not be any.

use starling_model::MeshId;

/// The mesh of all gossip targets.
pub const MESH: MeshId = MeshId([7; 32]);

/// Which envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// At most one packet.
    Datagram,
    /// On a stream.
    Sync,
}

/// One message of any kind; from kind 128 on the length is a wide one.
#[must_use]
pub fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("an input is short");
    let length = if kind < 128 { length.to_le_bytes().to_vec() } else { u32::from(length).to_le_bytes().to_vec() };
    [&[kind][..], &length, payload].concat()
}

/// A frame of our mesh with a right length.
#[must_use]
pub fn frame(which: Envelope, messages: &[u8]) -> Vec<u8> {
    let kind = match which {
        Envelope::Datagram => 1,
        Envelope::Sync => 2,
    };
    let length = u32::try_from(messages.len()).expect("an input is short");
    [&b"S1"[..], &[kind, 0], &MESH.0[..8], &length.to_le_bytes(), messages].concat()
}

/// A record with right lengths.
#[must_use]
pub fn record(owner: &str, kind: u8, shard: u8, (epoch, version): (u64, u64), schema: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(owner.len()).expect("a name")];
    out.extend_from_slice(owner.as_bytes());
    out.extend([kind, shard]);
    out.extend_from_slice(&epoch.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&schema.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&[0; 32]);
    out.extend_from_slice(&u16::try_from(payload.len()).expect("an input is short").to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&[3; 64]);
    out
}
