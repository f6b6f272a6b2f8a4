//! What operators decide, as it crosses the boundary: documents and revocations in, their fate and their effects out.

use bytes::Bytes;
use starling_model::{Batch, DocumentKey, DocumentVersion, EnvelopeInvalid, Revocation};

/// Names one `apply` for the driver; given back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubmitId(pub u64);

/// Which kind of statement an operator's key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperatorClaim {
    /// A document; role config.
    Document,
    /// A revocation of a node; role revoke.
    Revocation,
}

/// Why an operator's signature counts for nothing, by the bundle in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Void {
    /// No operator has this key.
    UnknownKey,
    /// The key may not sign this.
    Role,
    /// The signature does not hold.
    BadSignature,
}

/// One version of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentView {
    /// Which document.
    pub key: DocumentKey,
    /// Which version of it.
    pub version: DocumentVersion,
    /// Of the signed form. A newer one than ours is kept and forwarded; its header is read, its meaning is unknown.
    pub schema: u16,
    /// By the signer's clock, milliseconds since 1970: informs people.
    pub signed_at: i64,
    /// True when this version removes the document.
    pub deleted: bool,
    /// With which others it was applied.
    pub batch: Option<Batch>,
    /// The YAML, verbatim.
    pub text: Bytes,
    /// The signed form and the signature, as received: what is sent on.
    pub envelope: Bytes,
}

/// What changed among documents. Consumers act on [`DocumentsEvent::Activated`] alone; the rest is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentsEvent {
    /// From now on these versions are the ones to use, all at once. Each replaces what was in use under its key;
    /// a deleted one ends it.
    Activated {
        /// At least one; more when a batch became complete.
        documents: Vec<DocumentView>,
    },
    /// The newest version of a document is known; it is in use already, or waits for the rest of its batch.
    Known {
        /// That version.
        document: DocumentView,
    },
    /// One generation of a document was written in more than one way. The greatest version wins everywhere; all
    /// signers should hear of it.
    Conflict {
        /// Which document.
        key: DocumentKey,
        /// The contents of one generation, the winner first.
        versions: Vec<DocumentVersion>,
    },
    /// The next generation ended a conflict.
    ConflictEnded {
        /// Which document.
        key: DocumentKey,
        /// What ended it.
        version: DocumentVersion,
    },
    /// A version that was held counts for nothing by the trust that is in force now, so it is no longer held; or one
    /// of its batch does, so it waits for that. When it was in use, an older one that still counts was told as activated
    /// before, or nothing is in use under this key.
    Voided {
        /// That version.
        document: DocumentView,
        /// Was it in use?
        was_used: bool,
    },
    /// A batch is not complete after its time; told once. What of it is known stays unused.
    Incomplete {
        /// Which batch.
        batch: Batch,
        /// Its documents that are here.
        present: Vec<DocumentKey>,
    },
}

/// What became of one `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// All of it is kept and on its way to the others.
    Accepted {
        /// The versions, in the order of the submission.
        versions: Vec<DocumentVersion>,
    },
    /// None of it is kept.
    Refused {
        /// Every problem, at least one.
        problems: Vec<SubmitProblem>,
    },
}

/// One problem of one submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmitProblem {
    /// Which of the submitted things, from 0.
    pub index: usize,
    /// Which document it is, as far as that could be read.
    pub key: Option<DocumentKey>,
    /// What is wrong.
    pub why: SubmitRefused,
}

/// Why a submitted document or revocation was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefused {
    /// It cannot be read.
    #[error("it cannot be read")]
    Invalid(#[source] EnvelopeInvalid),
    /// Its signature counts for nothing.
    #[error("its signature does not count here: {0:?}")]
    Void(Void),
    /// A later one is known.
    #[error("a later one is known: {held}")]
    Stale {
        /// The one in force.
        held: DocumentVersion,
    },
    /// Another content of the same generation is known.
    #[error("another content of this generation is known: {held}")]
    Conflict {
        /// The one that is known.
        held: DocumentVersion,
    },
    /// The revocation is older than one that is known.
    #[error("a revocation of this node with number {held} is known")]
    Superseded {
        /// The number in force.
        held: u64,
    },
    /// The submission is not one whole batch: every document of it once, and nothing besides.
    #[error("the submission is not one whole batch")]
    NotOneBatch,
    /// No room for more documents.
    #[error("there is no room for it")]
    Full,
    /// The verdict did not come in time, or the machine is leaving.
    #[error("it was not judged in time")]
    Unjudged,
}

/// A revocation in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationView {
    /// What it says.
    pub revocation: Revocation,
    /// SHA-256 of its signed form.
    pub hash: [u8; 32],
    /// The signed form and the signature, as received.
    pub envelope: Bytes,
}
