//! Which documents the table in use is made of, for everybody else: what a node says that it uses must be what it uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use starling_gossip::DocumentView;
use starling_model::{Digest, DocumentKey, DocumentVersion};
use starling_routing::Documents;

/// Where the newest one is.
pub type AppliedCell = Arc<ArcSwap<Applied>>;

/// The documents of the table in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Their digest.
    pub digest: Digest,
    /// How many they are.
    pub documents: usize,
    /// Documents of the mesh that are held back here (ST0414), with the version that is used in their place; `None`:
    /// they have no effect here.
    pub held_back: BTreeMap<DocumentKey, Option<DocumentVersion>>,
}

impl Applied {
    /// `used` of those that the mesh uses.
    #[must_use]
    pub fn new(meant: &[DocumentView], used: &Documents) -> Self {
        let held_back = meant.iter().filter_map(|view| {
            let used = used.get(&view.key).map(|used| used.version);
            (used != Some(view.version)).then(|| (view.key.clone(), used))
        });
        Self { digest: used.digest(), documents: used.len(), held_back: held_back.collect() }
    }
}
