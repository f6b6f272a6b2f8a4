//! Documents of the mesh on their way into the table: each text is read once, and what comes of it is kept by its hash.
//!
//! A text that cannot be read here leaves the last good version of its document in use (ST0414). One whose trial took a
//! thread down, or never ended, is quarantined: nothing is tried with its hash again while this agent runs.
//!
//! A ServiceGrant is the exception: it has no last good version, and denies what it names until it can be used. A
//! MeshConfig without a good version denies whatever no grant names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use starling_config::documents::grant::{self, Targets};
use starling_config::documents::{self, Document, Spec};
use starling_gossip::DocumentView;
use starling_model::{Digest, DocumentKey, codes};
use starling_routing::{Denial, Denied, Documents, InUse};
use tracing::warn;

use super::applied::Why;
use super::trial::Judged;
use super::worker::{Failure, Worker};

const SERVICE_GRANT: &str = "ServiceGrant";
const MESH_CONFIG: &str = "MeshConfig";

/// What permits denies when it cannot be used.
pub(super) fn is_grant(key: &DocumentKey) -> bool {
    key.kind.as_str() == SERVICE_GRANT
}

/// Hashes that are remembered as quarantined although the mesh does not use them any more.
const QUARANTINED_OLD_MAX: usize = 1_024;

/// How a text becomes a document.
pub(super) type Parse = fn(&DocumentKey, &[u8]) -> Result<Document, String>;

/// What is known of texts, by hash.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) parse: Parse,
    read: BTreeMap<Digest, Arc<Document>>,
    refused: BTreeMap<Digest, Why>,
    /// The last good version of each grant: what it named is nobody's until the next one can be used.
    grants: BTreeMap<DocumentKey, InUse>,
}

impl Default for Shelf {
    fn default() -> Self {
        Self { parse, read: BTreeMap::new(), refused: BTreeMap::new(), grants: BTreeMap::new() }
    }
}

impl Shelf {
    /// Forgets what the mesh does not use, but for what is quarantined.
    pub(super) fn keep(&mut self, meant: &[DocumentView]) {
        let hashes: BTreeSet<Digest> = meant.iter().map(|view| view.version.hash).collect();
        self.read.retain(|hash, _| hashes.contains(hash));
        let keys: BTreeSet<&DocumentKey> = meant.iter().map(|view| &view.key).collect();
        self.grants.retain(|key, _| keys.contains(key));
        let mut old = 0;
        self.refused.retain(|hash, why| {
            let is_old = !hashes.contains(hash);
            old += usize::from(is_old && why.is_quarantine());
            !is_old || (why.is_quarantine() && old <= QUARANTINED_OLD_MAX)
        });
    }

    /// Why nothing comes of this hash, if that is known.
    pub(super) fn refusal(&self, hash: &Digest) -> Option<&Why> {
        self.refused.get(hash)
    }

    /// Nothing is tried with this hash again.
    pub(super) fn refuse(&mut self, hash: Digest, why: Why) {
        self.read.remove(&hash);
        self.refused.insert(hash, why);
    }

    /// A table came about with these.
    pub(super) fn note_used(&mut self, used: &Documents) {
        let grants = used.iter().filter(|one| is_grant(&one.document.key));
        self.grants.extend(grants.map(|one| (one.document.key.clone(), one.clone())));
    }

    /// What those of these documents deny that cannot be used here, or were not tried for want of a thread.
    pub(super) fn denials(&self, meant: &[DocumentView], judged: &Judged) -> Vec<Denial> {
        let refused = |view: &DocumentView| self.refused.contains_key(&view.version.hash);
        let waits = |view: &DocumentView| judged.why.get(&view.key) == Some(&Why::Waiting);
        let out = meant.iter().filter(|view| refused(view) || waits(view));
        out.filter_map(|view| self.denial(view, &judged.documents)).collect()
    }

    fn denial(&self, view: &DocumentView, used: &Documents) -> Option<Denial> {
        let what = if is_grant(&view.key) {
            let text = std::str::from_utf8(&view.text).unwrap_or_default();
            let Targets { mut services, complete } = grant::targets(text, &view.key.namespace);
            if let Some(Spec::ServiceGrant(good)) = self.grants.get(&view.key).map(|good| &good.document.spec) {
                services.extend(good.services.iter().cloned());
            }
            Denied::Services { services, all_of: (!complete).then(|| view.key.namespace.clone()) }
        } else if view.key.kind.as_str() == MESH_CONFIG && used.get(&view.key).is_none() {
            Denied::Unnamed
        } else {
            return None;
        };
        Some(Denial { document: view.key.clone(), version: view.version, what })
    }

    /// What the texts say, in the order of `views`: read together, and one by one where that fails.
    pub(super) async fn read(&mut self, views: &[&DocumentView], worker: &mut Worker) -> Vec<Result<InUse, Why>> {
        let is_new = |view: &&&DocumentView| {
            let hash = &view.version.hash;
            !self.read.contains_key(hash) && !self.refused.contains_key(hash)
        };
        let new: Vec<&DocumentView> = views.iter().filter(is_new).copied().collect();
        if new.len() > 1 {
            let texts: Vec<_> = new.iter().map(|view| (view.key.clone(), view.text.clone())).collect();
            let parse = self.parse;
            let all = move || texts.iter().map(|(key, text)| parse(key, text)).collect::<Vec<_>>();
            if let Ok(read) = worker.run(all).await {
                new.iter().zip(read).for_each(|(view, read)| self.take(view, Ok(read)));
            }
        }
        let mut all = Vec::with_capacity(views.len());
        for view in views {
            all.push(self.one(view, worker).await);
        }
        all
    }

    async fn one(&mut self, view: &DocumentView, worker: &mut Worker) -> Result<InUse, Why> {
        let hash = view.version.hash;
        if !self.read.contains_key(&hash) && !self.refused.contains_key(&hash) {
            let (parse, key, text) = (self.parse, view.key.clone(), view.text.clone());
            let read = worker.run(move || parse(&key, &text)).await;
            self.take(view, read);
        }
        match (self.read.get(&hash), self.refused.get(&hash)) {
            (Some(document), _) => {
                let signer = view.version.signer.to_string().into();
                Ok(InUse { document: Arc::clone(document), version: view.version, signer })
            }
            (None, Some(why)) => Err(why.clone()),
            (None, None) => Err(Why::Waiting),
        }
    }

    fn take(&mut self, view: &DocumentView, read: Result<Result<Document, String>, Failure>) {
        let hash = view.version.hash;
        match read {
            Ok(Ok(document)) => drop(self.read.insert(hash, Arc::new(document))),
            Ok(Err(told)) => {
                let (document, code) = (&view.key, codes::DOCUMENT_HELD_BACK);
                warn!(%document, version = %view.version, %code, why = %told, "a document cannot be read here");
                self.refuse(hash, Why::Unreadable);
            }
            Err(Failure::Panicked) => self.refuse(hash, Why::Panicked),
            Err(Failure::TimedOut) => self.refuse(hash, Why::TimedOut),
            Err(Failure::NoThread) => {}
        }
    }
}

pub(super) fn parse(key: &DocumentKey, text: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    match documents::parse(&key.to_string(), text) {
        Ok(mut read) if read.len() == 1 => match read.pop().filter(|document| document.key == *key) {
            Some(document) => Ok(document),
            None => Err("it is another document than its header says".to_owned()),
        },
        Ok(read) => Err(format!("it has {} documents", read.len())),
        Err(problems) => Err(problems.first().map(ToString::to_string).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh_view::tests::document;

    #[test]
    fn what_is_quarantined_stays_so_when_the_mesh_uses_it_no_more_up_to_a_bound() {
        let mut shelf = Shelf::default();
        for at in 0..=QUARANTINED_OLD_MAX {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&(at as u64).to_be_bytes());
            shelf.refuse(Digest(hash), Why::TimedOut);
        }
        let unreadable = document("a", 1);
        shelf.refuse(unreadable.version.hash, Why::Unreadable);
        shelf.keep(&[]);
        assert_eq!(
            shelf.refused.len(),
            QUARANTINED_OLD_MAX,
            "one more is forgotten, and so is what is only unreadable"
        );
        assert_eq!(shelf.refusal(&Digest([0; 32])), Some(&Why::TimedOut));
    }
}
