//! Documents in use on their way into the table.
//!
//! A text is read once for each hash. One that cannot be read here leaves the last good version of its document in use
//! (ST0414), and one with which compiling panics is left out by its hash, found by halving what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use starling_config::documents::{self, Document};
use starling_gossip::DocumentView;
use starling_model::{Digest, DocumentKey, codes};
use starling_routing::InUse;
use tracing::warn;

/// Documents that were read, by hash; `None` for those that are left out.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    read: BTreeMap<Digest, Option<Arc<Document>>>,
    /// The newest good version of each document in use.
    good: BTreeMap<DocumentKey, InUse>,
}

impl Shelf {
    /// What the table is to be made of: each document in use, or its last good version.
    pub(super) fn take(&mut self, in_use: &[DocumentView]) -> Vec<InUse> {
        let hashes: BTreeSet<Digest> = in_use.iter().map(|view| view.version.hash).collect();
        let keys: BTreeSet<&DocumentKey> = in_use.iter().map(|view| &view.key).collect();
        self.read.retain(|hash, _| hashes.contains(hash));
        self.good.retain(|key, _| keys.contains(key));
        in_use.iter().filter_map(|view| self.one(view)).collect()
    }

    fn one(&mut self, view: &DocumentView) -> Option<InUse> {
        let hash = view.version.hash;
        let document = self.read.entry(hash).or_insert_with(|| read(view)).clone();
        match document {
            Some(document) => {
                let signer = view.version.signer.to_string().into();
                Some(InUse { document, version: view.version, signer })
            }
            None => self.good.get(&view.key).cloned(),
        }
    }

    /// The table came about with these.
    pub(super) fn keep(&mut self, used: &[InUse]) {
        self.good.extend(used.iter().map(|one| (one.document.key.clone(), one.clone())));
    }

    /// No table comes about with this one.
    pub(super) fn leave_out(&mut self, hash: Digest) {
        self.read.insert(hash, None);
    }
}

fn read(view: &DocumentView) -> Option<Arc<Document>> {
    let text = std::str::from_utf8(&view.text).ok()?;
    let told = match documents::parse(&view.key.to_string(), text) {
        Ok(mut read) if read.len() == 1 => match read.pop().filter(|document| document.key == view.key) {
            Some(document) => return Some(Arc::new(document)),
            None => "it is another document than its header says".to_owned(),
        },
        Ok(read) => format!("it has {} documents", read.len()),
        Err(problems) => problems.first().map(ToString::to_string).unwrap_or_default(),
    };
    let (document, code) = (&view.key, codes::DOCUMENT_HELD_BACK);
    warn!(%document, version = %view.version, %code, why = %told, "a document cannot be used here; its last good version stays");
    None
}
