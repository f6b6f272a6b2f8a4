//! What is held of one document: all its versions, for whoever asks.

use std::fmt;

use starling_gossip::{DocumentView, Swim};
use starling_model::DocumentKey;

/// A document as people name it: its kind in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyCase {
    /// `HTTPRoute`, `httproute`.
    pub kind: String,
    /// Where its name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl AnyCase {
    /// Is this the one?
    #[must_use]
    pub fn is(&self, key: &DocumentKey) -> bool {
        key.kind.as_str().eq_ignore_ascii_case(&self.kind)
            && key.namespace.as_str() == self.namespace
            && key.name.as_str() == self.name
    }
}

impl fmt::Display for AnyCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What is held of one document.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The version in use, which may be a deletion; none while all that is held waits for its batch.
    pub used: Option<DocumentView>,
    /// All versions, the newest first: the last ten generations, and those that wait for their batch.
    pub versions: Vec<DocumentView>,
}

impl History {
    pub(super) fn of(swim: &Swim, wanted: &AnyCase) -> Self {
        let used = swim.documents().find(|document| wanted.is(&document.key));
        let key = used.as_ref().map(|used| &used.key).or_else(|| swim.document_keys().find(|key| wanted.is(key)));
        let versions = key.into_iter().flat_map(|key| swim.document_versions(key)).collect();
        Self { used, versions }
    }
}
