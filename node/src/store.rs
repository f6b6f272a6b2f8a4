//! What must survive a crash: our boot epoch, members and records, instances announced over the API.
//!
//! Everything here can be rebuilt from peers and from the host's own files, so a damaged store is set aside and the
//! agent starts with an empty one. Keys, bundle and revocations are plain files elsewhere: losing the store never rolls
//! trust back. One OS thread owns the database and answers over a bounded queue; when the disk is full, broken or
//! stuck, the agent goes on from memory and says so (ST0716). An acknowledged write has been flushed and synchronised;
//! everything else is written without waiting.
//!
//! Only `store/sled.rs` knows the database.

mod owner;
mod sled;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use starling_model::{BootEpoch, MeshId};
use tracing::{error, warn};

use self::owner::Owner;
use crate::files::{self, FileError};

/// Requests that may wait for the store's thread.
const QUEUE_LEN_MAX: usize = 4_096;
/// How long opening may take before the agent goes on without the store.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// A request without an answer for this long means that the thread is stuck: it is given up.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// How long a new agent waits for the lock of one that is just ending.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A set of writes that happen together or not at all; the last write of a key counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Adds or replaces a value.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.push((key.into(), Some(value.into())));
    }

    /// Removes a value, if it is there.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.writes.push((key.into(), None));
    }

    /// True when it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Why the store did not do something. After any of these but `TooLarge` the store is finished.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A key or value over the limits; nothing was written.
    #[error("a key of {key} bytes or a value of {value} bytes is over the limit")]
    TooLarge {
        /// Length of the key.
        key: usize,
        /// Length of the value.
        value: usize,
    },
    /// The content makes no sense.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The system refused; the content is as good as it was.
    #[error("{0}")]
    Refused(String),
}

/// A key with its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A key-value store with ordered keys. Implemented by the database and by plain memory, its fallback.
pub trait Store: Send {
    /// One value.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// All keys that begin with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// [`StoreError`].
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StoreError>;

    /// Writes without waiting for the disk.
    ///
    /// # Errors
    /// [`StoreError`].
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Returns when everything applied so far survives power loss.
    ///
    /// # Errors
    /// [`StoreError`].
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Bytes on disk, or in memory.
    fn size_bytes(&self) -> u64;

    /// Flushes and lets go.
    ///
    /// # Errors
    /// [`StoreError`].
    fn close(self: Box<Self>) -> Result<(), StoreError>;
}

/// The fallback: lives as long as the process.
#[derive(Debug, Default)]
struct MemoryStore {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StoreError> {
        let from = self.values.range(prefix.to_vec()..);
        Ok(from.take_while(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        for (key, value) in &batch.writes {
            match value {
                Some(value) => self.values.insert(key.clone(), value.clone()),
                None => self.values.remove(key),
            };
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        Err(StoreError::Refused("memory is not durable".to_owned()))
    }

    fn size_bytes(&self) -> u64 {
        self.values.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What an acknowledged write is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It survives a crash of the host.
    Durable,
    /// It lives as long as this agent (ST0716).
    Memory,
}

/// Told once a durable write has been decided.
type Acknowledge = Box<dyn FnOnce(Durability) + Send>;

enum Request {
    Get(Vec<u8>, SyncSender<Option<Vec<u8>>>),
    Scan(Vec<u8>, SyncSender<Vec<Pair>>),
    Write(Batch),
    Commit(Batch, Acknowledge),
    Close(SyncSender<()>),
}

/// The condition of the store, for `status` and metrics.
#[derive(Debug, Default)]
struct Condition {
    memory: AtomicBool,
    abandoned: AtomicBool,
    reason: Mutex<Option<String>>,
    dropped: AtomicU64,
    size_bytes: AtomicU64,
}

impl Condition {
    fn degrade(&self, reason: &str) {
        if !self.memory.swap(true, Ordering::Relaxed) {
            error!(reason, "cannot write durably, going on from memory (ST0716)");
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

/// Another agent uses the state folder.
#[derive(Debug, thiserror::Error)]
pub enum OpenRefused {
    /// It is alive (ST0718).
    #[error("{} is used by another agent{}", path.display(), pid.map(|pid| format!(", process {pid}")).unwrap_or_default())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Its process, if it could be read.
        pid: Option<u32>,
    },
    /// The state folder itself cannot be used.
    #[error("the state folder cannot be used")]
    Folder {
        /// Why.
        source: FileError,
    },
}

/// The agent's handle on its store: cheap to clone, never waits unless asked to.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    requests: SyncSender<Request>,
    condition: Arc<Condition>,
    state: Arc<Path>,
    /// Held as long as anybody may still write.
    _lock: Arc<File>,
}

/// Opens the store in `state`, or goes on from memory when it cannot be opened in time. A damaged one is set aside.
///
/// # Errors
/// [`OpenRefused`] when another agent holds the folder, or the folder itself cannot be made.
pub fn open(state: &Path, mesh: MeshId) -> Result<StoreHandle, OpenRefused> {
    files::make_dir(state, 0o700).map_err(|source| OpenRefused::Folder { source })?;
    let lock = Arc::new(lock(&state.join("LOCK"))?);
    let condition = Arc::new(Condition::default());
    let (requests, inbox) = sync_channel(QUEUE_LEN_MAX);
    let (ready, opened) = sync_channel(1);
    let owner = Owner { condition: Arc::clone(&condition), state: state.to_owned(), mesh };
    let spawned = thread::Builder::new().name("starling-store".to_owned()).spawn(move || owner.run(&inbox, &ready));
    match spawned {
        Ok(_detached) => match opened.recv_timeout(OPEN_DEADLINE) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                condition.abandoned.store(true, Ordering::Relaxed);
                condition.degrade("opening took over 10 s");
            }
        },
        Err(error) => condition.degrade(&format!("no thread for the store: {error}")),
    }
    Ok(StoreHandle { requests, condition, state: state.into(), _lock: lock })
}

/// Takes the folder's lock: released by the kernel when the process ends, however it ends.
fn lock(path: &Path) -> Result<File, OpenRefused> {
    let folder =
        |source| OpenRefused::Folder { source: FileError::Io { action: "open", path: path.to_owned(), source } };
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(folder)?;
    let deadline = Instant::now() + LOCK_WAIT;
    while let Err(error) = file.try_lock() {
        if let fs::TryLockError::Error(source) = error {
            return Err(folder(source));
        }
        if Instant::now() >= deadline {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            let pid = text.split_whitespace().next().and_then(|word| word.parse().ok());
            return Err(OpenRefused::Locked { path: path.to_owned(), pid });
        }
        thread::sleep(Duration::from_millis(50));
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let text = format!("{}\n{}\n", std::process::id(), boot.trim());
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes())).map_err(folder)?;
    Ok(file)
}

impl StoreHandle {
    /// The folder that it is in.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// One value; `None` too when the store does not answer in time.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.ask(|reply| Request::Get(key.to_vec(), reply)).flatten()
    }

    /// All keys with a prefix; empty too when the store does not answer in time.
    #[must_use]
    pub fn scan(&self, prefix: &[u8]) -> Vec<Pair> {
        self.ask(|reply| Request::Scan(prefix.to_vec(), reply)).unwrap_or_default()
    }

    fn ask<T>(&self, request: impl FnOnce(SyncSender<T>) -> Request) -> Option<T> {
        if self.condition.abandoned.load(Ordering::Relaxed) {
            return None;
        }
        let (reply, answer) = sync_channel(1);
        self.requests.try_send(request(reply)).ok()?;
        let answer = answer.recv_timeout(STUCK_AFTER);
        if matches!(answer, Err(RecvTimeoutError::Timeout)) {
            self.give_up();
        }
        answer.ok()
    }

    /// Writes without waiting; a full queue drops the batch and counts it. For what peers can tell us again.
    pub fn write(&self, batch: Batch) {
        if batch.is_empty() || self.condition.abandoned.load(Ordering::Relaxed) {
            return;
        }
        if self.requests.try_send(Request::Write(batch)).is_err() {
            self.condition.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes, and calls `acknowledge` exactly once when it is decided what the write is worth.
    pub fn commit_then(&self, batch: Batch, acknowledge: impl FnOnce(Durability) + Send + 'static) {
        if self.condition.abandoned.load(Ordering::Relaxed) {
            acknowledge(Durability::Memory);
            return;
        }
        let request = Request::Commit(batch, Box::new(acknowledge));
        if let Err(TrySendError::Full(refused) | TrySendError::Disconnected(refused)) = self.requests.try_send(request)
        {
            self.condition.dropped.fetch_add(1, Ordering::Relaxed);
            if let Request::Commit(_, acknowledge) = refused {
                acknowledge(Durability::Memory);
            }
        }
    }

    /// Writes and waits until it is durable, or known not to be.
    pub async fn commit(&self, batch: Batch) -> Durability {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.commit_then(batch, move |durability| {
            // The asker may have gone: then nobody needs the answer.
            let _ = sender.send(durability);
        });
        match tokio::time::timeout(STUCK_AFTER, receiver).await {
            Ok(answer) => answer.unwrap_or(Durability::Memory),
            Err(_elapsed) => {
                self.give_up();
                Durability::Memory
            }
        }
    }

    /// As [`Self::commit`], outside a runtime.
    #[must_use]
    pub fn commit_blocking(&self, batch: Batch) -> Durability {
        let (sender, receiver) = sync_channel(1);
        self.commit_then(batch, move |durability| {
            let _ = sender.try_send(durability);
        });
        match receiver.recv_timeout(STUCK_AFTER) {
            Ok(durability) => durability,
            Err(RecvTimeoutError::Disconnected) => Durability::Memory,
            Err(RecvTimeoutError::Timeout) => {
                self.give_up();
                Durability::Memory
            }
        }
    }

    fn give_up(&self) {
        self.condition.abandoned.store(true, Ordering::Relaxed);
        self.condition.degrade("the store did not answer for 5 s");
    }

    /// Why writes are not durable; `None` when they are.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        if !self.condition.memory.load(Ordering::Relaxed) {
            return None;
        }
        let reason = self.condition.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(reason.unwrap_or_else(|| "unknown".to_owned()))
    }

    /// Writes dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.condition.dropped.load(Ordering::Relaxed)
    }

    /// Bytes on disk when last looked at.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.condition.size_bytes.load(Ordering::Relaxed)
    }

    /// Flushes and closes, at most 5 s. Later calls answer as from memory.
    pub fn close(&self) {
        let closed = self.ask(Request::Close);
        self.condition.abandoned.store(true, Ordering::Relaxed);
        if closed.is_none() {
            warn!("did not close in time");
        }
    }

    /// Takes a new boot epoch and makes it durable before it is used: one more than the last, or Unix seconds when none
    /// is saved. In memory mode too: then the greater of both, so that it still rises from start to start.
    #[must_use]
    pub fn next_epoch(&self) -> BootEpoch {
        let seconds = unix_seconds();
        let saved = self.get(EPOCH_KEY).and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let next = match saved {
            Some(saved) => saved.saturating_add(1),
            None => seconds,
        };
        self.save_epoch(BootEpoch(next));
        BootEpoch(next)
    }

    /// Makes an epoch durable before it is used.
    pub fn save_epoch(&self, epoch: BootEpoch) {
        let mut batch = Batch::default();
        batch.put(EPOCH_KEY, epoch.0.to_be_bytes());
        if self.commit_blocking(batch) == Durability::Memory {
            warn!(%epoch, "the boot epoch is not durable");
        }
    }
}

/// Where our boot epoch is kept.
const EPOCH_KEY: &[u8] = b"epoch";

/// Wall-clock seconds, the only use of the clock here: names of damaged stores and the very first epoch.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
