//! Operator-signed documents: what names one, which version wins, and which were applied together.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU64};
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::NAME_BYTES_MAX;
use crate::mesh::{Digest, hex};
use crate::names::{DocumentName, NameInvalid, Namespace};

/// Which kind of document, as its YAML writes it: `HTTPRoute`. Nothing in the mesh's state layers knows kinds apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKind(Arc<str>);

/// Why a text is no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a document kind is 1 to 63 ASCII letters and digits and begins with a capital")]
pub struct KindInvalid;

impl DocumentKind {
    /// Parses one kind.
    ///
    /// # Errors
    /// [`KindInvalid`] when `text` is anything but a capital followed by letters and digits.
    pub fn new(text: &str) -> Result<Self, KindInvalid> {
        let inner = text.bytes().all(|b| b.is_ascii_alphanumeric());
        let capital = text.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
        if inner && capital && text.len() <= NAME_BYTES_MAX { Ok(Self(Arc::from(text))) } else { Err(KindInvalid) }
    }

    /// The kind as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one document for ever, over all its generations; `apiVersion` is not part of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// What it is.
    pub kind: DocumentKind,
    /// Where its name holds.
    pub namespace: Namespace,
    /// Its name there.
    pub name: DocumentName,
}

impl DocumentKey {
    /// Parses the three parts.
    ///
    /// # Errors
    /// What is wrong with the first part that breaks its grammar.
    pub fn parse(kind: &str, namespace: &str, name: &str) -> Result<Self, KeyInvalid> {
        Ok(Self {
            kind: DocumentKind::new(kind)?,
            namespace: Namespace::new(namespace)?,
            name: DocumentName::new(name)?,
        })
    }
}

/// Why three texts name no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyInvalid {
    /// The kind is none.
    #[error(transparent)]
    Kind(#[from] KindInvalid),
    /// The namespace or the name is none.
    #[error(transparent)]
    Name(#[from] NameInvalid),
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Counts the writes of one document, from 1. A deletion is one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub NonZeroU64);

impl Generation {
    /// The first.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// From a number; `None` for zero.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The one after; `None` at the end of numbers, where only removing the signer helps.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names an operator's key, `k1`; never used again for another key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

/// Why a text names no operator's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operator's key is named k and a number, such as k1")]
pub struct KeyIdInvalid;

impl FromStr for KeyId {
    type Err = KeyIdInvalid;

    /// Each key has one spelling: no sign, no zero in front.
    fn from_str(text: &str) -> Result<Self, KeyIdInvalid> {
        let digits = text.strip_prefix('k').ok_or(KeyIdInvalid)?;
        let id = Self(digits.parse().map_err(|_| KeyIdInvalid)?);
        if id.to_string() == text { Ok(id) } else { Err(KeyIdInvalid) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which of two versions of one document wins: the higher generation, then the higher key, then the greater hash, on
/// every node alike. No clock takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentVersion {
    /// Rises with each write.
    pub generation: Generation,
    /// Who signed it.
    pub signer: KeyId,
    /// SHA-256 of the signed bytes.
    pub hash: Digest,
}

impl fmt::Display for DocumentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {} ({})", self.generation, self.signer, self.hash)
    }
}

/// Names the documents of one `apply`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub [u8; 32]);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.first_chunk::<4>().map(|head| hex(head)).unwrap_or_default())
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The batch that a document belongs to: used together with all the others of it, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Batch {
    /// Which.
    pub id: BatchId,
    /// How many documents it has, at most [`crate::limits::BATCH_DOCUMENTS_MAX`].
    pub count: NonZeroU16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_capitalised_words() {
        for good in ["HTTPRoute", "A", "V1", &format!("A{}", "x".repeat(62))] {
            assert!(DocumentKind::new(good).is_ok(), "{good}");
        }
        for bad in ["", "httpRoute", "1A", "A b", "A-b", "Ä", "A\0", &format!("A{}", "x".repeat(63))] {
            assert!(DocumentKind::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_operators_key_has_one_spelling() {
        assert_eq!("k1".parse(), Ok(KeyId(1)));
        assert_eq!("k4294967295".parse(), Ok(KeyId(u32::MAX)));
        for bad in ["", "k", "1", "K1", "k01", "k+1", "k-1", "k4294967296", "k1 "] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad:?}");
        }
    }

    /// gossip.md, 11: (generation, operator key id, hash), the greatest wins.
    #[test]
    fn generation_then_key_then_hash_decides() {
        let version = |generation, key, hash| DocumentVersion {
            generation: Generation::new(generation).unwrap(),
            signer: KeyId(key),
            hash: Digest([hash; 32]),
        };
        let rising = [version(1, 9, 9), version(2, 1, 9), version(2, 2, 1), version(2, 2, 2), version(2, 10, 0)];
        assert!(rising.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn generations_begin_at_one_and_end() {
        assert_eq!(Generation::new(0), None);
        assert_eq!(Generation::FIRST.next(), Generation::new(2));
        assert_eq!(Generation::new(u64::MAX).and_then(Generation::next), None);
    }

    #[test]
    fn a_key_is_three_checked_parts() {
        let key = DocumentKey::parse("HTTPRoute", "default", "orders-canary").unwrap();
        assert_eq!(key.to_string(), "HTTPRoute default/orders-canary");
        for (kind, namespace, name) in [("route", "a", "b"), ("Route", "node", "b"), ("Route", "a", "B")] {
            assert!(DocumentKey::parse(kind, namespace, name).is_err(), "{kind} {namespace} {name}");
        }
    }
}
