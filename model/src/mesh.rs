//! Fixed-size hashes that name things: the mesh, a set of documents.

use std::fmt;

/// Names one mesh for ever: SHA-256 of the first root's public key (SPKI). It is in every envelope, so two meshes never
/// merge, even with equal trust domains and node names. People compare it as the *fingerprint*.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId(pub [u8; 32]);

impl MeshId {
    /// `SHA256:b7e1 03c8 …`: all 64 digits of the id in groups of four, for reading aloud.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.0)
    }

    /// The first four bytes in hex: how a root is named in tables.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.first_chunk::<4>().map(|head| hex(head)).unwrap_or_default()
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Digest of the documents in use at a node; equal digests mean equal rules. Zero when no document is in use.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    /// Eight hex digits, as in tables, headers and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.first_chunk::<4>().map(|head| hex(head)).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `SHA256:b7e1 03c8 …`: a hash with all its digits, in groups of four, for reading aloud.
#[must_use]
pub fn fingerprint(hash: &[u8; 32]) -> String {
    let hex = hex(hash);
    let groups: Vec<&str> = (0..hex.len()).step_by(4).filter_map(|at| hex.get(at..at + 4)).collect();
    format!("SHA256:{}", groups.join(" "))
}

/// The hash of 64 hex digits, `SHA256:` before them or not, in groups or not, as people copy it; `None` for anything else.
#[must_use]
pub fn read_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.strip_prefix("SHA256:").unwrap_or(text).bytes().filter(|byte| *byte != b' ').collect();
    let mut hash = [0; 32];
    if digits.len() != hash.len() * 2 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}

/// Lower-case hex of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_in_groups_of_four() {
        let id = MeshId([0xb7; 32]);
        assert!(id.fingerprint().starts_with("SHA256:b7b7 b7b7 "));
        assert_eq!(id.short(), "b7b7b7b7");
    }
}
