//! What the tests of this crate share.

use std::num::NonZeroU16;
use std::time::Instant;

use bytes::Bytes;
use starling_model::envelope::SCHEMA;
use starling_model::{Batch, BatchId, Document, DocumentKey, Generation, KeyId, NodeName, Revocation};

/// An instant to count from.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made from nothing; tests only add to this one")]
pub(crate) fn base() -> Instant {
    static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(crate) fn document_key(name: &str) -> DocumentKey {
    DocumentKey::parse("HTTPRoute", "default", name).unwrap()
}

/// Signatures that the tests' verdicts take for good.
pub(crate) const GOOD: [u8; 64] = [3; 64];

pub(crate) fn batch(id: u8, count: u16) -> Option<Batch> {
    Some(Batch { id: BatchId([id; 32]), count: NonZeroU16::new(count).unwrap() })
}

/// A document signed by operator `k1`.
pub(crate) fn document(name: &str, generation: u64, batch: Option<Batch>) -> Bytes {
    document_by(1, name, generation, batch, &format!("{name} {generation}"))
}

/// A document as signed form and signature.
pub(crate) fn document_by(key: u32, name: &str, generation: u64, batch: Option<Batch>, text: &str) -> Bytes {
    let head = Document {
        schema: SCHEMA,
        key: document_key(name),
        signer: KeyId(key),
        generation: Generation::new(generation).unwrap(),
        signed_at: 0,
        deleted: false,
        batch,
    };
    [&head.to_body(text).unwrap()[..], &GOOD[..]].concat().into()
}

/// A revocation by operator `k1` as signed form and signature.
pub(crate) fn revocation(name: &str, number: u64, kept: &[u8]) -> Bytes {
    let said = Revocation {
        schema: SCHEMA,
        node: node(name),
        signer: KeyId(1),
        number,
        signed_at: 0,
        kept: kept.iter().map(|byte| [*byte; 32]).collect(),
        reason: "stolen".to_owned(),
    };
    [&said.to_body().unwrap()[..], &GOOD[..]].concat().into()
}
