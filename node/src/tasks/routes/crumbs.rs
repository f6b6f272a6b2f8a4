//! What was being tried when the agent ended: a document may take the whole process down, past any thread of its own.
//!
//! Before documents are read and compiled for the first time, their hashes are put into a file; afterwards it is taken
//! away. Hashes that are found there at a start are of documents that were being tried when the agent ended without
//! order. Each is then tried alone, and one that is found there again is quarantined: for this release, since the next
//! one may stand it. The file is not flushed: it is to outlive the process, whatever ends that, and a power cut is no
//! document's doing. How often is in the store.

use std::collections::BTreeMap;

use starling_model::Digest;
use tracing::warn;

use crate::files;
use crate::store::{Batch, StoreHandle};

/// Where the hashes under trial are, in the state folder.
const TRYING_FILE: &str = "trying";
/// Before a hash: how often the agent ended while it was tried.
const ENDED_PREFIX: &[u8] = b"q/ended/";
/// So many ends quarantine a document: one may be chance (a power cut), of two with the document alone hardly any is.
pub(super) const ENDS_MAX: u8 = 2;
/// Hashes whose ends are kept; those that fit no more are tried as if nothing had happened.
const ENDED_LEN_MAX: usize = 1_024;

/// The traces.
#[derive(Debug)]
pub(super) struct Crumbs {
    store: Option<StoreHandle>,
    ended: BTreeMap<Digest, u8>,
}

impl Crumbs {
    /// Reads what an earlier start left; without a store nothing is remembered.
    pub(super) fn open(store: Option<StoreHandle>) -> Self {
        let mut ended = BTreeMap::new();
        let Some(held) = &store else { return Self { store, ended } };
        let mut batch = Batch::default();
        for (key, value) in held.scan(ENDED_PREFIX) {
            match (key.strip_prefix(ENDED_PREFIX).and_then(digest), value.split_first()) {
                (Some(hash), Some((count, release))) if release == crate::RELEASE.as_bytes() => {
                    ended.insert(hash, *count);
                }
                // Of another release, which is another trial.
                _ => batch.remove(key),
            }
        }
        // Without it nothing was being tried.
        let trying = std::fs::read(held.state().join(TRYING_FILE)).unwrap_or_default();
        for hash in trying.chunks_exact(32).filter_map(digest) {
            if ended.len() < ENDED_LEN_MAX || ended.contains_key(&hash) {
                let count = ended.entry(hash).or_default();
                *count = count.saturating_add(1);
                warn!(digest = %hash, times = *count, "the agent ended while this document was tried");
                batch.put(ended_key(&hash), [&[*count], crate::RELEASE.as_bytes()].concat());
            }
        }
        if !batch.is_empty() {
            // In memory mode an end is forgotten; the store says itself that it is in that mode.
            let _ = held.commit_blocking(batch);
        }
        let crumbs = Self { store, ended };
        crumbs.sweep();
        crumbs
    }

    /// How often the agent ended while this one was tried.
    pub(super) fn ends(&self, hash: &Digest) -> u8 {
        self.ended.get(hash).copied().unwrap_or(0)
    }

    /// These are about to be tried.
    pub(super) fn lay(&self, hashes: &[Digest]) {
        let Some(store) = self.store.as_ref().filter(|_| !hashes.is_empty()) else { return };
        let trying: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        if let Err(error) = files::leave(&store.state().join(TRYING_FILE), &trying) {
            warn!(%error, "an end of the agent would not be traced to the documents that are tried now");
        }
    }

    /// The agent outlived the trial.
    pub(super) fn sweep(&self) {
        let Some(store) = &self.store else { return };
        // Missing is as good.
        let _ = std::fs::remove_file(store.state().join(TRYING_FILE));
    }

    /// It came into use after all.
    pub(super) fn clear(&mut self, hash: &Digest) {
        if self.ended.remove(hash).is_some()
            && let Some(store) = &self.store
        {
            let mut batch = Batch::default();
            batch.remove(ended_key(hash));
            store.commit_then(batch, |_| {});
        }
    }
}

fn ended_key(hash: &Digest) -> Vec<u8> {
    [ENDED_PREFIX, &hash.0].concat()
}

fn digest(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok().map(Digest)
}

#[cfg(test)]
mod tests {
    use starling_model::MeshId;

    use super::*;
    use crate::store;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hash_that_an_end_left_behind_is_counted_and_one_of_another_release_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let open = || store::open(folder.path(), MeshId([7; 32])).unwrap();
        let (first, second) = (Digest([1; 32]), Digest([2; 32]));
        let store = open();
        let crumbs = Crumbs::open(Some(store.clone()));
        assert_eq!(crumbs.ends(&first), 0);
        crumbs.lay(&[first, second]);
        crumbs.sweep();
        store.close();
        drop((crumbs, store));

        // Swept: nothing happened. Then the agent ends between the two.
        let store = open();
        let crumbs = Crumbs::open(Some(store.clone()));
        assert_eq!((crumbs.ends(&first), crumbs.ends(&second)), (0, 0));
        crumbs.lay(&[first, second]);
        store.close();
        drop((crumbs, store));

        let store = open();
        let mut crumbs = Crumbs::open(Some(store.clone()));
        assert_eq!((crumbs.ends(&first), crumbs.ends(&second)), (1, 1));
        crumbs.clear(&first);
        crumbs.lay(&[second]);
        store.close();
        drop((crumbs, store));

        let store = open();
        let crumbs = Crumbs::open(Some(store.clone()));
        assert_eq!((crumbs.ends(&first), crumbs.ends(&second)), (0, ENDS_MAX));
        let mut batch = Batch::default();
        batch.put(ended_key(&second), [&[ENDS_MAX][..], b"0.0.0-other"].concat());
        let _ = store.commit(batch).await;
        drop(crumbs);
        assert_eq!(Crumbs::open(Some(store.clone())).ends(&second), 0, "another release tries it anew");
        store.close();
    }
}
