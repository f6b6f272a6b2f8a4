//! What was being tried when the agent ended: a document may take the whole process down, past any thread of its own.
//!
//! Before documents are read and compiled for the first time, their hashes are put into a file; afterwards it is taken
//! away; an agent that ends in order takes it away, too. Hashes that are found there at a start are of documents that
//! were being tried when the agent ended otherwise. Each is then tried alone, and one that is found there again is
//! quarantined. Chance (`kill -9`, a host without memory) may have hit the same one twice, so it is tried once more when
//! the agent has been up for a while: longer each time, at another moment on each node, so that a mesh never ends
//! together. After [`ENDS_MAX`] ends that is over for this release; the next one may stand it. The file is not flushed:
//! it is to outlive the process, whatever ends that, and a power cut is no document's doing. How often is in the store.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use starling_model::{Digest, NodeName};
use tracing::warn;

use crate::files;
use crate::store::{Batch, StoreHandle};

/// Where the hashes under trial are, in the state folder.
const TRYING_FILE: &str = "trying";
/// Before a hash: how often the agent ended while it was tried.
const ENDED_PREFIX: &[u8] = b"q/ended/";
/// So many ends quarantine a document: one may be chance (a power cut), of two with the document alone hardly any is.
pub(super) const ENDS_QUARANTINED: u8 = 2;
/// So many ends quarantine it for this release.
pub(super) const ENDS_MAX: u8 = 4;
const _: () = assert!(ENDS_QUARANTINED < ENDS_MAX);
/// An agent is up for so long before it tries one again that is quarantined, and for twice that after a further end; and
/// for up to as long again, by node and document.
const UP_BEFORE_RETRY: Duration = Duration::from_secs(1_800);
/// Hashes whose ends are kept; those that fit no more are tried as if nothing had happened.
const ENDED_LEN_MAX: usize = 1_024;

/// The traces.
#[derive(Debug)]
pub(super) struct Crumbs {
    store: Option<StoreHandle>,
    ended: BTreeMap<Digest, u8>,
    node: NodeName,
    began: Instant,
}

impl Crumbs {
    /// Reads what an earlier start left; without a store nothing is remembered.
    pub(super) fn open(store: Option<StoreHandle>, node: NodeName) -> Self {
        let (mut ended, began) = (BTreeMap::new(), Instant::now());
        let Some(held) = &store else { return Self { store, ended, node, began } };
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
        let crumbs = Self { store, ended, node, began };
        crumbs.sweep();
        crumbs
    }

    /// How often the agent ended while this one was tried.
    pub(super) fn ends(&self, hash: &Digest) -> u8 {
        self.ended.get(hash).copied().unwrap_or(0)
    }

    /// True while this one is not to be tried.
    pub(super) fn is_quarantined(&self, hash: &Digest, now: Instant) -> bool {
        let ends = self.ends(hash);
        ends >= ENDS_QUARANTINED && now.saturating_duration_since(self.began) < self.up_before_retry(hash, ends)
    }

    /// How long the agent is up before it tries this one again.
    fn up_before_retry(&self, hash: &Digest, ends: u8) -> Duration {
        if ends >= ENDS_MAX {
            return Duration::MAX;
        }
        let least = UP_BEFORE_RETRY.saturating_mul(1 << u32::from(ends.saturating_sub(ENDS_QUARANTINED)));
        let mut hasher = DefaultHasher::new();
        (self.node.as_str(), hash.0).hash(&mut hasher);
        let share = u32::try_from(hasher.finish() & 0xff).unwrap_or_default();
        least + least / 256 * share
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
        if let Some(store) = &self.store {
            ends_in_order(store);
        }
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

/// The agent ends in order: what is being tried now does not end it.
pub(crate) fn ends_in_order(store: &StoreHandle) {
    // Missing is as good.
    let _ = std::fs::remove_file(store.state().join(TRYING_FILE));
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

    fn opened(store: &StoreHandle) -> Crumbs {
        Crumbs::open(Some(store.clone()), "vm-1".parse().unwrap())
    }

    #[test]
    fn one_that_is_quarantined_is_tried_again_later_each_time_and_on_each_node_at_another_moment() {
        let (hash, other) = (Digest([1; 32]), Digest([2; 32]));
        let crumbs = |node: &str, ends| Crumbs {
            ended: BTreeMap::from([(hash, ends)]),
            ..Crumbs::open(None, node.parse().unwrap())
        };
        let waits = |node: &str, ends| {
            let crumbs = crumbs(node, ends);
            assert!(!crumbs.is_quarantined(&other, crumbs.began));
            let minutes = |at: &u64| !crumbs.is_quarantined(&hash, crumbs.began + Duration::from_secs(60 * at));
            (0..100_000).find(minutes)
        };
        assert_eq!((waits("vm-1", 0), waits("vm-1", 1)), (Some(0), Some(0)), "alone, and at once");
        let (second, third) = (waits("vm-1", 2).unwrap(), waits("vm-1", 3).unwrap());
        assert!((30..=60).contains(&second) && (60..=120).contains(&third), "{second} {third}");
        assert_eq!((waits("vm-1", ENDS_MAX), waits("vm-1", u8::MAX)), (None, None), "for this release");
        let moments: std::collections::BTreeSet<_> = (0..20).map(|n| waits(&format!("vm-{n}"), 2)).collect();
        assert!(moments.len() > 8, "{moments:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hash_that_an_end_left_behind_is_counted_and_one_of_another_release_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let open = || store::open(folder.path(), MeshId([7; 32])).unwrap();
        let (first, second) = (Digest([1; 32]), Digest([2; 32]));
        let store = open();
        let crumbs = opened(&store);
        assert_eq!(crumbs.ends(&first), 0);
        crumbs.lay(&[first, second]);
        crumbs.sweep();
        store.close();
        drop((crumbs, store));

        // Swept: nothing happened. Then the agent ends between the two.
        let store = open();
        let crumbs = opened(&store);
        assert_eq!((crumbs.ends(&first), crumbs.ends(&second)), (0, 0));
        crumbs.lay(&[first, second]);
        store.close();
        drop((crumbs, store));

        let store = open();
        let mut crumbs = opened(&store);
        assert_eq!((crumbs.ends(&first), crumbs.ends(&second)), (1, 1));
        crumbs.clear(&first);
        crumbs.lay(&[second]);
        store.close();
        drop((crumbs, store));

        let store = open();
        let crumbs = opened(&store);
        assert_eq!((crumbs.ends(&first), crumbs.ends(&second)), (0, 2));
        let mut batch = Batch::default();
        batch.put(ended_key(&second), [&[2][..], b"0.0.0-other"].concat());
        let _ = store.commit(batch).await;
        drop(crumbs);
        assert_eq!(opened(&store).ends(&second), 0, "another release tries it anew");
        // An agent that ends in order while something is tried, or hangs, leaves nothing.
        opened(&store).lay(&[second]);
        ends_in_order(&store);
        assert_eq!(opened(&store).ends(&second), 0);
        store.close();
    }
}
