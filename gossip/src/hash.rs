//! SHA-256: the one hash of the protocol, for names of things on the wire. It keeps no secret and signs nothing.

use sha2::{Digest as _, Sha256};

/// SHA-256 of the parts, one after another.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// The first eight bytes of [`sha256`], as a number.
pub(crate) fn head(parts: &[&[u8]]) -> u64 {
    short(&sha256(parts))
}

/// The first eight bytes of a hash, as a number.
pub(crate) fn short(hash: &[u8; 32]) -> u64 {
    hash.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
