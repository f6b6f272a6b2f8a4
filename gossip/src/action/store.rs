//! What goes to the store, and what the store gives back after a start.

use bytes::Bytes;
use starling_model::{BootEpoch, Digest, DocumentKey, NodeName, RecordKind};

/// Something for the store. Keys are plain, values are opaque; the same values come back in [`super::Command::Restore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Our own epoch was raised. Must be durable before any later action is performed.
    Epoch(BootEpoch),
    /// One member; replaces what was stored under the name.
    Member {
        /// Key.
        name: NodeName,
        /// Value.
        bytes: Bytes,
    },
    /// One shard of one record; replaces what was stored under the key.
    Record {
        /// Key.
        owner: NodeName,
        /// Key.
        kind: RecordKind,
        /// Key.
        shard: u8,
        /// Value.
        bytes: Bytes,
        /// True for our own: durable before the API answers.
        own: bool,
    },
    /// One owner's node statement in use; replaces the former.
    Credential {
        /// Key.
        owner: NodeName,
        /// Value.
        bytes: Bytes,
    },
    /// Remove member, records and credential of this name (not its address).
    ForgetOwner(NodeName),
    /// Last addresses of a name; outlives the member.
    AddressBook {
        /// Key.
        name: NodeName,
        /// Value.
        bytes: Bytes,
    },
    /// One version of a document, the newest or one of its history.
    Document {
        /// Which document; for logs, the hash is the key.
        key: DocumentKey,
        /// Key: SHA-256 of the signed form.
        hash: Digest,
        /// Value.
        bytes: Bytes,
        /// True for what was submitted here: durable before [`super::Event::Submitted`] is acted on.
        durable: bool,
    },
    /// Remove this version of a document.
    ForgetDocument {
        /// Key.
        hash: Digest,
    },
    /// One revocation; durable before any later action is performed.
    Revocation {
        /// Whose; for logs, the hash is the key.
        node: NodeName,
        /// Key: SHA-256 of the signed form.
        hash: [u8; 32],
        /// Value.
        bytes: Bytes,
    },
    /// Remove this revocation: a later one of the same node took its place.
    ForgetRevocation {
        /// Key.
        hash: [u8; 32],
    },
}

/// What the store gives back after a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Of [`Change::Member`].
    Member {
        /// Key.
        name: NodeName,
        /// Value.
        bytes: Bytes,
    },
    /// Of [`Change::Record`], own ones included.
    Record {
        /// Key.
        owner: NodeName,
        /// Key.
        kind: RecordKind,
        /// Key.
        shard: u8,
        /// Value.
        bytes: Bytes,
    },
    /// Of [`Change::Credential`].
    Credential {
        /// Key.
        owner: NodeName,
        /// Value.
        bytes: Bytes,
    },
    /// Of [`Change::AddressBook`].
    AddressBook {
        /// Key.
        name: NodeName,
        /// Value.
        bytes: Bytes,
    },
    /// Of [`Change::Document`].
    Document {
        /// Value.
        bytes: Bytes,
    },
    /// Of [`Change::Revocation`].
    Revocation {
        /// Value.
        bytes: Bytes,
    },
}
