//! The operator documents in use: what the rules half of a table is compiled from.
//!
//! Order does not exist here: documents are held by key, and [`Documents::digest`] covers their content alone. Equal
//! digests mean equal rules on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use starling_config::documents::Document;
use starling_model::{Digest, DocumentKey, DocumentVersion, Namespace, ServiceKey};

/// One document in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// What it says.
    pub document: Arc<Document>,
    /// Generation, signing key, and hash of the signed bytes.
    pub version: DocumentVersion,
    /// Name of the operator whose key signed it, for people.
    pub signer: Arc<str>,
}

impl InUse {
    /// The documents of one text, all of one version.
    ///
    /// # Errors
    /// Everything that is wrong with it, for people.
    pub fn read(name: &str, text: &str, version: DocumentVersion, signer: &str) -> Result<Vec<Self>, String> {
        let read = starling_config::documents::parse(name, text).map_err(|told| starling_config::render(&told))?;
        let used = |document| Self { document: Arc::new(document), version, signer: signer.into() };
        Ok(read.into_iter().map(used).collect())
    }
}

/// A document of the mesh that cannot be read here and is of a kind that permits: until it can, it denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which.
    pub document: DocumentKey,
    /// Which version of it.
    pub version: DocumentVersion,
    /// What it denies.
    pub what: Denied,
}

/// What a document that cannot be read denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// These services, and all of a namespace where not all of them could be made out.
    Services {
        /// Those that are certainly meant.
        services: BTreeSet<ServiceKey>,
        /// Where others may be meant.
        all_of: Option<Namespace>,
    },
    /// Whatever no grant names: it might have been strict.
    Unnamed,
}

/// All documents in use, by key. Immutable: a change makes a new set, so that its digest always fits. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    by_key: Arc<BTreeMap<DocumentKey, InUse>>,
    denials: Arc<[Denial]>,
    digest: Digest,
    /// More may be in use than is here.
    is_partial: bool,
}

impl Documents {
    /// Takes them in any order; of two with one key the later version counts.
    #[must_use]
    pub fn new(documents: impl IntoIterator<Item = InUse>) -> Self {
        let mut by_key: BTreeMap<DocumentKey, InUse> = BTreeMap::new();
        for one in documents {
            let key = &one.document.key;
            if by_key.get(key).is_none_or(|held| held.version < one.version) {
                by_key.insert(key.clone(), one);
            }
        }
        let digest = digest_of(by_key.values().map(|one| &one.version.hash));
        Self { by_key: Arc::new(by_key), denials: Arc::default(), digest, is_partial: false }
    }

    /// With these beside them. They are in no digest: they are not in use.
    #[must_use]
    pub fn denying(self, denials: Vec<Denial>) -> Self {
        Self { denials: Arc::from(denials), ..self }
    }

    /// As those of a node that does not know all of them yet: what is missing may be a grant, so nobody is accepted for
    /// anything.
    #[must_use]
    pub fn partial(self) -> Self {
        Self { is_partial: true, ..self }
    }

    /// True where some may be missing.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// What cannot be read here and denies.
    #[must_use]
    pub fn denials(&self) -> &[Denial] {
        &self.denials
    }

    /// True when the same rules come of both.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let same_denials = Arc::ptr_eq(&self.denials, &other.denials) || self.denials == other.denials;
        self.digest == other.digest && self.is_partial == other.is_partial && same_denials
    }

    /// Digest of the documents in use, see [`digest_of`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, key: &DocumentKey) -> Option<&InUse> {
        self.by_key.get(key)
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &InUse> {
        self.by_key.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

/// SHA-256 over the hashes of documents, given in the order of their keys; zero for none.
///
/// A hash covers the signed bytes of a document, which hold its kind, namespace, name and generation, so the digest
/// does, too.
#[must_use]
pub fn digest_of<'a>(hashes: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let mut hashes = hashes.into_iter().peekable();
    if hashes.peek().is_none() {
        return Digest::default();
    }
    let mut all = Sha256::new();
    hashes.for_each(|hash| all.update(hash.0));
    Digest(all.finalize().into())
}
