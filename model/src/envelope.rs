//! The two forms that operators sign: documents and revocations of nodes.
//!
//! ```text
//! document   := schema u16 | kind, namespace, name, key id: { len u8 | bytes } | generation u64 | signed_at i64
//!               | flags u8 (1 = deleted) | batch hash [32] | batch count u16 | ylen u32 <= 65536 | YAML | newer fields
//! revocation := schema u16 | node, key id: { len u8 | bytes } | number u64 | signed_at i64
//!               | kept u8 <= 8 { SPKI SHA-256 [32] } | reason: len u8 <= 200 | bytes | newer fields
//! signed     := form | signature [64]                                 integers little endian
//! ```
//!
//! Every schema begins like schema 1, so each release can order, keep and forward what a newer one signed; newer fields
//! follow the last old one and are empty in schema 1. Signatures and hashes cover the form as received; nothing signed
//! is encoded a second time. The signature's domain is in `identity/signature.rs`.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::num::NonZeroU16;

use crate::document::{Batch, BatchId, DocumentKey, DocumentKind, Generation, KeyId};
use crate::limits::{
    BATCH_DOCUMENTS_MAX, DOCUMENT_BODY_BYTES_MAX, DOCUMENT_TEXT_BYTES_MAX, KEPT_KEYS_MAX, NAME_BYTES_MAX,
    REASON_BYTES_MAX, REVOCATION_BODY_BYTES_MAX,
};
use crate::names::{DocumentName, Namespace, NodeName};

/// The schema that this release writes, of either form.
pub const SCHEMA: u16 = 1;
const FLAG_DELETED: u8 = 1;
const NO_BATCH: [u8; 32] = [0; 32];
/// An Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Why bytes are no document or revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeInvalid {
    /// Longer than its form may be.
    #[error("it is longer than allowed")]
    TooLong,
    /// It ends in the middle of a field.
    #[error("it ends too early")]
    Truncated,
    /// Bytes follow the end of schema 1.
    #[error("bytes follow its end")]
    Trailing,
    /// A field has a value it cannot have.
    #[error("field {0} is invalid")]
    Field(&'static str),
}

/// The header of a document. What the YAML says is not looked at here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Of the signed form, not of the YAML.
    pub schema: u16,
    /// Which document.
    pub key: DocumentKey,
    /// Who signed it.
    pub signer: KeyId,
    /// Which write of it.
    pub generation: Generation,
    /// Milliseconds since 1970 by the signer's clock. It informs people and orders nothing.
    pub signed_at: i64,
    /// True when this write removes the document; it is kept, so that an old copy cannot come back.
    pub deleted: bool,
    /// With which others it was applied.
    pub batch: Option<Batch>,
}

impl Document {
    /// The bytes to sign, with `text` verbatim.
    ///
    /// # Errors
    /// [`EnvelopeInvalid`] when a reader would refuse them.
    pub fn to_body(&self, text: &str) -> Result<Vec<u8>, EnvelopeInvalid> {
        let mut out = Vec::with_capacity(text.len().saturating_add(128));
        out.extend_from_slice(&self.schema.to_le_bytes());
        put_text(&mut out, self.key.kind.as_str())?;
        put_text(&mut out, self.key.namespace.as_str())?;
        put_text(&mut out, self.key.name.as_str())?;
        put_text(&mut out, &self.signer.to_string())?;
        out.extend_from_slice(&self.generation.get().to_le_bytes());
        out.extend_from_slice(&self.signed_at.to_le_bytes());
        out.push(if self.deleted { FLAG_DELETED } else { 0 });
        out.extend_from_slice(&self.batch.map_or(NO_BATCH, |batch| batch.id.0));
        out.extend_from_slice(&self.batch.map_or(0, |batch| batch.count.get()).to_le_bytes());
        out.extend_from_slice(&u32::try_from(text.len()).map_err(|_| EnvelopeInvalid::TooLong)?.to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        Self::read(&out)?;
        Ok(out)
    }

    /// Reads signed bytes (without the signature): the header and the YAML.
    ///
    /// # Errors
    /// [`EnvelopeInvalid`] with the first thing that is wrong.
    pub fn read(body: &[u8]) -> Result<(Self, &str), EnvelopeInvalid> {
        if body.len() > DOCUMENT_BODY_BYTES_MAX {
            return Err(EnvelopeInvalid::TooLong);
        }
        let mut reader = Reader(body);
        let schema = reader.u16()?;
        if schema == 0 {
            return Err(EnvelopeInvalid::Field("schema"));
        }
        let key = DocumentKey {
            kind: DocumentKind::new(reader.name("kind")?).map_err(|_| EnvelopeInvalid::Field("kind"))?,
            namespace: Namespace::new(reader.name("namespace")?).map_err(|_| EnvelopeInvalid::Field("namespace"))?,
            name: DocumentName::new(reader.name("name")?).map_err(|_| EnvelopeInvalid::Field("name"))?,
        };
        let signer = reader.name("key id")?.parse().map_err(|_| EnvelopeInvalid::Field("key id"))?;
        let generation = Generation::new(reader.u64()?).ok_or(EnvelopeInvalid::Field("generation"))?;
        let signed_at = i64::from_le_bytes(reader.array()?);
        let flags = reader.u8()?;
        if schema == SCHEMA && flags & !FLAG_DELETED != 0 {
            return Err(EnvelopeInvalid::Field("flags"));
        }
        let batch = batch(reader.array()?, reader.u16()?)?;
        let len = usize::try_from(reader.u32()?).map_err(|_| EnvelopeInvalid::TooLong)?;
        if len > DOCUMENT_TEXT_BYTES_MAX {
            return Err(EnvelopeInvalid::TooLong);
        }
        let text = std::str::from_utf8(reader.take(len)?).map_err(|_| EnvelopeInvalid::Field("text"))?;
        reader.end_of(schema)?;
        let deleted = flags & FLAG_DELETED != 0;
        Ok((Self { schema, key, signer, generation, signed_at, deleted, batch }, text))
    }
}

/// No batch is written as zeros; a real one has a hash and a count.
fn batch(id: [u8; 32], count: u16) -> Result<Option<Batch>, EnvelopeInvalid> {
    match (id == NO_BATCH, NonZeroU16::new(count)) {
        (true, None) => Ok(None),
        (false, Some(count)) if count.get() <= BATCH_DOCUMENTS_MAX => Ok(Some(Batch { id: BatchId(id), count })),
        (true, Some(_)) | (false, Some(_) | None) => Err(EnvelopeInvalid::Field("batch")),
    }
}

/// A node is not to be trusted any more, but for these keys of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Of the signed form.
    pub schema: u16,
    /// Whose issuing keys are hit: all but the kept ones.
    pub node: NodeName,
    /// Who signed it.
    pub signer: KeyId,
    /// Per node the highest number counts; of equal numbers what all of them keep.
    pub number: u64,
    /// Milliseconds since 1970 by the signer's clock; informs people.
    pub signed_at: i64,
    /// SHA-256 of the SPKI of each issuing key that stays, ascending; empty when the node is out.
    pub kept: Vec<[u8; 32]>,
    /// For people.
    pub reason: String,
}

impl Revocation {
    /// The bytes to sign.
    ///
    /// # Errors
    /// [`EnvelopeInvalid`] when a reader would refuse them.
    pub fn to_body(&self) -> Result<Vec<u8>, EnvelopeInvalid> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.schema.to_le_bytes());
        put_text(&mut out, self.node.as_str())?;
        put_text(&mut out, &self.signer.to_string())?;
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.signed_at.to_le_bytes());
        out.push(u8::try_from(self.kept.len()).map_err(|_| EnvelopeInvalid::Field("kept"))?);
        self.kept.iter().for_each(|hash| out.extend_from_slice(hash));
        put_text(&mut out, &self.reason)?;
        Self::read(&out)?;
        Ok(out)
    }

    /// Reads signed bytes (without the signature).
    ///
    /// # Errors
    /// [`EnvelopeInvalid`] with the first thing that is wrong.
    pub fn read(body: &[u8]) -> Result<Self, EnvelopeInvalid> {
        if body.len() > REVOCATION_BODY_BYTES_MAX {
            return Err(EnvelopeInvalid::TooLong);
        }
        let mut reader = Reader(body);
        let schema = reader.u16()?;
        if schema == 0 {
            return Err(EnvelopeInvalid::Field("schema"));
        }
        let node = NodeName::new(reader.name("node")?).map_err(|_| EnvelopeInvalid::Field("node"))?;
        let signer = reader.name("key id")?.parse().map_err(|_| EnvelopeInvalid::Field("key id"))?;
        let (number, signed_at) = (reader.u64()?, i64::from_le_bytes(reader.array()?));
        let count = usize::from(reader.u8()?);
        if count > KEPT_KEYS_MAX {
            return Err(EnvelopeInvalid::Field("kept"));
        }
        let kept = (0..count).map(|_| reader.array()).collect::<Result<Vec<[u8; 32]>, _>>()?;
        if !kept.is_sorted_by(|a, b| a < b) {
            return Err(EnvelopeInvalid::Field("kept"));
        }
        let reason = reader.text(REASON_BYTES_MAX, "reason")?;
        if reason.chars().any(char::is_control) {
            return Err(EnvelopeInvalid::Field("reason"));
        }
        let reason = reason.to_owned();
        reader.end_of(schema)?;
        Ok(Self { schema, node, signer, number, signed_at, kept, reason })
    }
}

/// Parts a signed whole into its form and its signature; `None` when it is too short for one.
#[must_use]
pub fn split_signature(whole: &[u8]) -> Option<(&[u8], &[u8; SIGNATURE_BYTES])> {
    whole.split_last_chunk::<SIGNATURE_BYTES>()
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), EnvelopeInvalid> {
    out.push(u8::try_from(text.len()).map_err(|_| EnvelopeInvalid::TooLong)?);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Reads forward through foreign bytes; every step checks the length first.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], EnvelopeInvalid> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(EnvelopeInvalid::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EnvelopeInvalid> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(EnvelopeInvalid::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, EnvelopeInvalid> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, EnvelopeInvalid> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, EnvelopeInvalid> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, EnvelopeInvalid> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, max: usize, field: &'static str) -> Result<&'a str, EnvelopeInvalid> {
        let len = usize::from(self.u8()?);
        if len > max {
            return Err(EnvelopeInvalid::Field(field));
        }
        std::str::from_utf8(self.take(len)?).map_err(|_| EnvelopeInvalid::Field(field))
    }

    fn name(&mut self, field: &'static str) -> Result<&'a str, EnvelopeInvalid> {
        self.text(NAME_BYTES_MAX, field)
    }

    /// Newer schemas go on behind what schema 1 ends with.
    fn end_of(&self, schema: u16) -> Result<(), EnvelopeInvalid> {
        if schema == SCHEMA && !self.0.is_empty() { Err(EnvelopeInvalid::Trailing) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
