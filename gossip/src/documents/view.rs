//! Documents as others see them: the boundary's form, look-ups, and figures.

use starling_model::{Digest, DocumentKey, DocumentVersion};

use super::{Documents, SignedDocument, subject};
use crate::action::{DocumentView, OperatorClaim};
use crate::wire::SignedDigest;

impl SignedDocument {
    /// The boundary's form.
    pub(crate) fn view(&self) -> DocumentView {
        DocumentView {
            key: self.head.key.clone(),
            version: self.version,
            schema: self.head.schema,
            signed_at: self.head.signed_at,
            deleted: self.head.deleted,
            batch: self.head.batch,
            text: self.text.clone(),
            envelope: self.envelope.clone(),
        }
    }

    /// What digests say of it.
    pub(crate) fn digest(&self) -> SignedDigest {
        SignedDigest {
            kind: OperatorClaim::Document,
            in_batch: self.head.batch.is_some(),
            subject: subject(&self.head.key),
            number: self.version.generation.get(),
            hash: self.version.hash.0,
        }
    }
}

impl Documents {
    /// A version that is held, by its hash.
    pub(crate) fn get(&self, hash: &Digest) -> Option<&SignedDocument> {
        let (key, version) = self.hashes.get(hash)?;
        self.entries.get(key)?.versions.get(version)
    }

    /// The hashes of all versions that are held, those of one document together.
    pub(crate) fn all_hashes(&self) -> impl Iterator<Item = Digest> + '_ {
        self.entries.values().flat_map(|entry| entry.versions.keys().map(|version| version.hash))
    }

    /// The winner of a document.
    pub(crate) fn newest(&self, key: &DocumentKey) -> Option<DocumentVersion> {
        self.entries.get(key)?.newest().map(|newest| newest.version)
    }

    /// The newest generation of a document by the hash of its key.
    pub(crate) fn newest_of(&self, subject: u64) -> Option<u64> {
        self.newest(self.subjects.get(&subject)?).map(|version| version.generation.get())
    }

    /// The version in use of each document, deleted ones included.
    pub(crate) fn all_used(&self) -> impl Iterator<Item = &SignedDocument> {
        self.entries.values().filter_map(|entry| entry.versions.get(&entry.used?))
    }

    /// All documents of which something is held, in use or not.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &DocumentKey> {
        self.entries.keys()
    }

    /// All versions that are held of one document, the newest first.
    pub(crate) fn versions<'a>(&'a self, key: &DocumentKey) -> impl Iterator<Item = &'a SignedDocument> + use<'a> {
        self.entries.get(key).into_iter().flat_map(|entry| entry.versions.values().rev())
    }

    /// Documents, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all versions that are held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Documents whose newest generation was written in more than one way.
    pub(crate) fn conflicting(&self) -> usize {
        self.entries.values().filter(|entry| entry.contents().nth(1).is_some()).count()
    }

    /// Incomplete batches that some version waits for.
    pub(crate) fn awaited(&self) -> usize {
        self.groups.keys().filter(|batch| self.is_awaited(batch)).count()
    }
}
