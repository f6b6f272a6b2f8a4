//! Documents in use on their way into the table.
//!
//! A text is read once for each hash. One that cannot be read here leaves the last good version of its document in use
//! (ST0414), and one with which compiling panics is left out by its hash, found by halving what changed.
//!
//! A ServiceGrant is the exception: it has no last good version, and denies what it names until it can be read. A
//! MeshConfig without a good version denies whatever no grant names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use starling_config::documents::grant::{self, Targets};
use starling_config::documents::{self, Document, Spec};
use starling_gossip::DocumentView;
use starling_model::{Digest, DocumentKey, codes};
use starling_routing::{Denial, Denied, InUse};
use tracing::warn;

const SERVICE_GRANT: &str = "ServiceGrant";
const MESH_CONFIG: &str = "MeshConfig";

/// What permits denies when it cannot be read.
pub(super) fn is_grant(key: &DocumentKey) -> bool {
    key.kind.as_str() == SERVICE_GRANT
}

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
            None if is_grant(&view.key) => None,
            None => self.good.get(&view.key).cloned(),
        }
    }

    /// What those of these documents deny that cannot be used here; [`Self::take`] has looked at them.
    pub(super) fn denials(&self, in_use: &[DocumentView]) -> Vec<Denial> {
        let unread = |view: &&DocumentView| matches!(self.read.get(&view.version.hash), Some(None));
        in_use.iter().filter(unread).filter_map(|view| self.denial(view)).collect()
    }

    fn denial(&self, view: &DocumentView) -> Option<Denial> {
        let good = self.good.get(&view.key);
        let what = if is_grant(&view.key) {
            let text = std::str::from_utf8(&view.text).unwrap_or_default();
            let Targets { mut services, complete } = grant::targets(text, &view.key.namespace);
            // What it named until now was somebody's, and is nobody's before it is read.
            if let Some(Spec::ServiceGrant(good)) = good.map(|good| &good.document.spec) {
                services.extend(good.services.iter().cloned());
            }
            Denied::Services { services, all_of: (!complete).then(|| view.key.namespace.clone()) }
        } else if view.key.kind.as_str() == MESH_CONFIG && good.is_none() {
            Denied::Unnamed
        } else {
            return None;
        };
        Some(Denial { document: view.key.clone(), version: view.version, what })
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
    let version = view.version;
    if is_grant(document) {
        warn!(%document, %version, %code, why = %told, "a grant cannot be used here; what it names is denied");
    } else {
        warn!(%document, %version, %code, why = %told, "a document cannot be used here; its last good version stays");
    }
    None
}
