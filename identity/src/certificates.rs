//! Renewed node certificates: new certificates for the keys that nodes hold already, under another issuing CA or for a
//! longer life. They are public and prove themselves, so they travel in lists that the trust bundle names by hash: whoever
//! has the bundle in force has its lists, and can hand each node its own.
//!
//! ```text
//! list := "STL1" | certificates u16 { DER }          DER := len u16 | bytes
//! ```
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::keys;
use crate::limits::{CERTIFICATES_PER_KEY_MAX, LIST_BYTES_MAX, LISTED_BYTES_MAX};
use crate::wire::{Reader, WireError, Writer};
use crate::x509::Facts;

const MAGIC: [u8; 4] = *b"STL1";

/// The bytes are no list of node certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no list of node certificates")]
pub struct ListInvalid;

impl From<WireError> for ListInvalid {
    fn from(_: WireError) -> Self {
        Self
    }
}

/// One list. What its certificates are worth is judged where they are used.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateList {
    hash: [u8; 32],
    raw: Arc<[u8]>,
    certificates: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for CertificateList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateList").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

impl CertificateList {
    /// Reads one to its last byte.
    ///
    /// # Errors
    /// [`ListInvalid`] when it is longer than [`LIST_BYTES_MAX`], holds something that is no certificate of a node CA's
    /// shape, or is none.
    pub fn decode(raw: &[u8]) -> Result<Self, ListInvalid> {
        let mut reader = Reader::new(raw);
        if raw.len() > LIST_BYTES_MAX || reader.array()? != MAGIC {
            return Err(ListInvalid);
        }
        let count = usize::from(reader.u16()?);
        // A certificate takes two bytes at least, so the claim alone reserves no more than was sent.
        let mut certificates = Vec::with_capacity(count.min(raw.len()));
        for _ in 0..count {
            let der = CertificateDer::from(reader.bytes()?.to_vec());
            let is_node_ca = Facts::read(&der).is_some_and(|facts| facts.ca && facts.path_len == Some(0));
            if der.len() > LISTED_BYTES_MAX || !is_node_ca {
                return Err(ListInvalid);
            }
            certificates.push(der);
        }
        reader.finish()?;
        Ok(Self { hash: keys::sha256(raw), raw: raw.into(), certificates })
    }

    /// As many lists as these certificates need, in their order.
    ///
    /// # Errors
    /// [`ListInvalid`] when one of them is none of a node CA.
    pub fn pack(certificates: &[CertificateDer<'_>]) -> Result<Vec<Self>, ListInvalid> {
        let (mut lists, mut batch, mut bytes) = (Vec::new(), Vec::new(), HEADER_BYTES);
        for der in certificates {
            let more = der.len().saturating_add(2);
            if bytes.saturating_add(more) > LIST_BYTES_MAX {
                lists.push(Self::encode(&batch)?);
                batch.clear();
                bytes = HEADER_BYTES;
            }
            bytes = bytes.saturating_add(more);
            batch.push(der);
        }
        if !batch.is_empty() {
            lists.push(Self::encode(&batch)?);
        }
        Ok(lists)
    }

    fn encode(certificates: &[&CertificateDer<'_>]) -> Result<Self, ListInvalid> {
        let mut out = Writer::default();
        let count = u16::try_from(certificates.len()).map_err(|_| ListInvalid)?;
        out.raw(&MAGIC).raw(&count.to_le_bytes());
        for der in certificates {
            out.bytes(der)?;
        }
        Self::decode(&out.into_bytes())
    }

    /// SHA-256 of its bytes: how a bundle names it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Its bytes.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// What it holds.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

/// Bytes of a list before its certificates.
const HEADER_BYTES: usize = 6;

/// The lists of one bundle, looked up by issuing key.
#[derive(Clone, Debug, Default)]
pub struct NodeCertificates {
    lists: Vec<CertificateList>,
    by_key: BTreeMap<[u8; 32], Vec<CertificateDer<'static>>>,
}

impl NodeCertificates {
    /// Of these lists.
    #[must_use]
    pub fn new(lists: Vec<CertificateList>) -> Self {
        let mut by_key: BTreeMap<[u8; 32], Vec<_>> = BTreeMap::new();
        for der in lists.iter().flat_map(CertificateList::certificates) {
            let Some(facts) = Facts::read(der) else { continue };
            by_key.entry(facts.key_hash()).or_default().push((Reverse(facts.not_after), der.clone()));
        }
        let newest = |mut held: Vec<(Reverse<_>, CertificateDer<'static>)>| {
            held.sort_by(|one, other| (one.0, one.1.as_ref()).cmp(&(other.0, other.1.as_ref())));
            held.dedup();
            held.into_iter().map(|(_, der)| der).take(CERTIFICATES_PER_KEY_MAX).collect()
        };
        Self { by_key: by_key.into_iter().map(|(key, held)| (key, newest(held))).collect(), lists }
    }

    /// The certificates of an issuing key, by the SHA-256 of its SPKI: the one that ends last is the first, at most
    /// [`CERTIFICATES_PER_KEY_MAX`].
    #[must_use]
    pub fn of_key(&self, issuing_key_hash: &[u8; 32]) -> &[CertificateDer<'static>] {
        self.by_key.get(issuing_key_hash).map(Vec::as_slice).unwrap_or_default()
    }

    /// The list of this hash.
    #[must_use]
    pub fn list(&self, hash: &[u8; 32]) -> Option<&CertificateList> {
        self.lists.iter().find(|list| list.hash == *hash)
    }

    /// All lists.
    #[must_use]
    pub fn lists(&self) -> &[CertificateList] {
        &self.lists
    }
}

#[cfg(test)]
mod tests;
