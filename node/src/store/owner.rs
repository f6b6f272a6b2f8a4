//! The thread that owns the store: every request in order, one commit for all that wait for it, and what happens when
//! the database fails.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use starling_model::MeshId;
use tracing::{info, warn};

use super::{Acknowledge, Condition, Durability, MemoryStore, Request, Store, StoreError, sled, unix_seconds};

/// Durable writes that arrive within this time share one commit.
const COMMIT_GATHER: Duration = Duration::from_millis(2);
/// Most requests in one turn of the thread.
const TURN_REQUESTS_MAX: usize = 256;
/// Damaged stores kept for inspection.
const BAD_KEPT_MAX: usize = 2;

/// The thread that owns the store.
pub(super) struct Owner {
    pub(super) condition: Arc<Condition>,
    pub(super) state: PathBuf,
    pub(super) mesh: MeshId,
}

impl Owner {
    pub(super) fn run(self, inbox: &Receiver<Request>, ready: &SyncSender<()>) {
        let mut store = self.open();
        let _ = ready.try_send(());
        while let Ok(first) = inbox.recv() {
            let requests = gather(inbox, first);
            if self.condition.abandoned.load(Ordering::Relaxed) {
                break;
            }
            let closing = self.turn(&mut store, requests);
            self.condition.size_bytes.store(store.size_bytes(), Ordering::Relaxed);
            if closing {
                return;
            }
        }
        self.let_go(store);
    }

    /// One turn: everything in order, one commit for all that wait for it. Returns true after `Close`.
    fn turn(&self, store: &mut Box<dyn Store>, requests: Vec<Request>) -> bool {
        let mut waiting = Vec::new();
        for request in requests {
            match request {
                Request::Get(key, reply) => {
                    let _ = reply.try_send(self.guarded(store, |store| store.get(&key)).flatten());
                }
                Request::Scan(prefix, reply) => {
                    let _ = reply.try_send(self.guarded(store, |store| store.scan(&prefix)).unwrap_or_default());
                }
                Request::Write(batch) => {
                    self.guarded(store, |store| store.apply(&batch));
                }
                Request::Commit(batch, acknowledge) => {
                    let applied = self.guarded(store, |store| store.apply(&batch)).is_some();
                    waiting.push((applied, acknowledge));
                }
                Request::Close(reply) => {
                    acknowledge_all(self.commit(store), waiting);
                    let finished = std::mem::replace(store, Box::new(MemoryStore::default()));
                    self.let_go(finished);
                    let _ = reply.try_send(());
                    return true;
                }
            }
        }
        if !waiting.is_empty() {
            acknowledge_all(self.commit(store), waiting);
        }
        false
    }

    fn commit(&self, store: &mut Box<dyn Store>) -> Durability {
        if self.condition.memory.load(Ordering::Relaxed) {
            return Durability::Memory;
        }
        match self.guarded(store, |store| store.commit()) {
            Some(()) => Durability::Durable,
            None => Durability::Memory,
        }
    }

    /// Runs one operation. Any error or panic but an oversized value ends the store: the rest of this process works from
    /// memory, because the database keeps its first error for ever.
    fn guarded<T>(
        &self,
        store: &mut Box<dyn Store>,
        operation: impl FnOnce(&mut dyn Store) -> Result<T, StoreError>,
    ) -> Option<T> {
        let reason = match catch_unwind(AssertUnwindSafe(|| operation(store.as_mut()))) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error @ StoreError::TooLarge { .. })) => {
                warn!(%error, "a write was refused");
                return None;
            }
            Ok(Err(error @ (StoreError::Damaged(_) | StoreError::Refused(_)))) => error.to_string(),
            Err(_panic) => "the database panicked".to_owned(),
        };
        self.condition.degrade(&reason);
        let finished = std::mem::replace(store, Box::new(MemoryStore::default()));
        // Its destructor may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(finished)));
        None
    }

    fn let_go(&self, store: Box<dyn Store>) {
        match catch_unwind(AssertUnwindSafe(|| store.close())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "closing failed"),
            Err(_panic) => warn!("the database panicked while closing"),
        }
    }

    fn open(&self) -> Box<dyn Store> {
        let folder = self.state.join("state");
        let reason = match sled::open(&folder, &self.mesh) {
            Ok(store) => return Box::new(store),
            Err(StoreError::Damaged(reason)) => reason,
            Err(error @ (StoreError::Refused(_) | StoreError::TooLarge { .. })) => {
                self.condition.degrade(&error.to_string());
                return Box::new(MemoryStore::default());
            }
        };
        match self.set_aside(&folder) {
            Ok(aside) => warn!(reason, aside = %aside.display(), "was damaged, set aside, starting empty"),
            Err(error) => {
                self.condition.degrade(&format!("{reason}; and it could not be set aside: {error}"));
                return Box::new(MemoryStore::default());
            }
        }
        match sled::open(&folder, &self.mesh) {
            Ok(store) => {
                info!("opened empty; peers and files will fill it");
                Box::new(store)
            }
            Err(error) => {
                self.condition.degrade(&error.to_string());
                Box::new(MemoryStore::default())
            }
        }
    }

    /// Renames the damaged folder and keeps the newest two of its kind.
    fn set_aside(&self, folder: &Path) -> Result<PathBuf, std::io::Error> {
        let mut stamp = unix_seconds();
        let mut aside = self.state.join(format!("state.bad-{stamp}"));
        while aside.exists() {
            stamp = stamp.saturating_add(1); // Two within a second: only a test does that.
            aside = self.state.join(format!("state.bad-{stamp}"));
        }
        fs::rename(folder, &aside)?;
        let mut bad: Vec<(u64, PathBuf)> = fs::read_dir(&self.state)?
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name();
                let stamp = name.to_str()?.strip_prefix("state.bad-")?.parse().ok()?;
                Some((stamp, entry.path()))
            })
            .collect();
        bad.sort();
        let surplus = bad.len().saturating_sub(BAD_KEPT_MAX);
        for (_, path) in bad.into_iter().take(surplus) {
            if let Err(error) = fs::remove_dir_all(&path) {
                warn!(path = %path.display(), %error, "an old damaged store could not be removed");
            }
        }
        Ok(aside)
    }
}

fn acknowledge_all(durability: Durability, waiting: Vec<(bool, Acknowledge)>) {
    for (applied, acknowledge) in waiting {
        acknowledge(if applied { durability } else { Durability::Memory });
    }
}

/// Takes what waits; when somebody waits for a commit, a little longer, so that others can share it.
fn gather(inbox: &Receiver<Request>, first: Request) -> Vec<Request> {
    let mut durable = matches!(first, Request::Commit(..));
    let mut requests = vec![first];
    let deadline = Instant::now() + COMMIT_GATHER;
    while requests.len() < TURN_REQUESTS_MAX {
        let next = match inbox.try_recv() {
            Ok(next) => next,
            Err(_) if !durable => break,
            Err(_) => match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(next) => next,
                Err(_) => break,
            },
        };
        durable |= matches!(next, Request::Commit(..));
        let closing = matches!(next, Request::Close(_));
        requests.push(next);
        if closing {
            break;
        }
    }
    requests
}
