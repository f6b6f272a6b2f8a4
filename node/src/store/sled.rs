//! The one file that knows sled 0.34.7, and the rules that keep it honest.
//!
//! * A half-written `snap.*.generating` makes every later open fail: it is removed before each open.
//! * `flush` alone does not reach the disk (`sync_file_range`): a commit also calls `sync_data` on a second descriptor
//!   of the data file, and creating a store synchronises its configuration and both folders once.
//! * Large values go to files that nobody synchronises: values are cut into chunks of at most 4 KiB.
//! * Its cache would grow to 1 GiB: 16 MiB are enough here.
//! * The handle is never cloned and lives on one thread; its lock is released late, so a fresh open is retried for 5 s.
//!
//! Key on disk: logical key, then the chunk's number (u16, big endian). Chunk 0 begins with the number of chunks (u16).
//! A store also holds its format, the mesh it belongs to and a canary; a store that does not is not ours.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
#[cfg(test)]
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use sled::{Config, Db, Mode};
use starling_model::MeshId;
use tracing::warn;

use super::{Batch, Pair, Store, StoreError};

/// Longest logical key.
const KEY_BYTES_MAX: usize = 254;
/// Largest piece of a value; sixteen of these in a leaf stay far below the size at which sled makes blob files.
const CHUNK_BYTES_MAX: usize = 4_096;
/// Largest value: 256 chunks.
const VALUE_BYTES_MAX: usize = 256 * CHUNK_BYTES_MAX - 2;
/// Memory that pages may take.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// How long a lock that is released late is waited for.
const OPEN_RETRY: Duration = Duration::from_secs(5);

const FORMAT_KEY: &[u8] = b"\0format";
const FORMAT: &[u8] = b"starling-store/1";
const MESH_KEY: &[u8] = b"\0mesh";
const CANARY_KEY: &[u8] = b"\0canary";
/// Any change of these bytes on the way from disk shows.
const CANARY: &[u8] = b"\x00\xffthe canary of starling's store: 0123456789 \xaa\x55\x00\xff";

/// Whether the files were there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Created,
    Found,
}

/// A store on disk.
pub(super) struct SledStore {
    db: Db,
    /// A second descriptor of the data file, for `sync_data`.
    data: File,
}

/// Opens or creates the store in `folder`.
///
/// `Damaged` means that another open of the same files will not succeed either; `Refused` that the system stands in
/// the way.
pub(super) fn open(folder: &Path, mesh: &MeshId) -> Result<SledStore, StoreError> {
    remove_half_snapshots(folder)?;
    let origin = if folder.join("db").exists() { Origin::Found } else { Origin::Created };
    let deadline = Instant::now() + OPEN_RETRY;
    let db = loop {
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            Config::new()
                .path(folder)
                .cache_capacity(CACHE_BYTES)
                .mode(Mode::LowSpace)
                .flush_every_ms(Some(1_000))
                .open()
        }));
        match attempt {
            Ok(Ok(db)) => break db,
            Ok(Err(sled::Error::Io(error)))
                if error.to_string().contains("could not acquire lock") && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(50));
            }
            Ok(Err(error)) => return Err(classify(error)),
            Err(_panic) => return Err(StoreError::Damaged("the database panicked while opening".to_owned())),
        }
    };
    let data_path = folder.join("db");
    let data = File::open(&data_path).map_err(|error| refused("open", &data_path, &error))?;
    let mut store = SledStore { db, data };
    let checked = catch_unwind(AssertUnwindSafe(|| store.check_or_mark(mesh, origin)))
        .unwrap_or_else(|_panic| Err(StoreError::Damaged("the database panicked while it was checked".to_owned())));
    if let Err(error) = checked {
        // The folder is about to be renamed: first wait until the handle has let it go.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(store)));
        wait_for_release(&data_path, deadline);
        return Err(error);
    }
    if origin == Origin::Created {
        sync_folder(folder)?;
    }
    if fs::read_dir(folder.join("blobs")).is_ok_and(|mut blobs| blobs.next().is_some()) {
        warn!("has blob files, which are not durable; values over the chunk size were written");
    }
    Ok(store)
}

fn remove_half_snapshots(folder: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused("read", folder, &error)),
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            fs::remove_file(entry.path()).map_err(|error| refused("remove", &entry.path(), &error))?;
            warn!("removed a half-written snapshot");
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let parent = folder.parent().unwrap_or(folder);
    for path in [folder.join("conf"), folder.to_owned(), parent.to_owned()] {
        match File::open(&path).and_then(|file| file.sync_all()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused("flush", &path, &error)),
        }
    }
    Ok(())
}

fn wait_for_release(data_path: &Path, deadline: Instant) {
    let Ok(file) = File::open(data_path) else { return };
    while file.try_lock().is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
}

fn refused(action: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Refused(format!("{action} {}: {error}", path.display()))
}

/// Errors of the system that say nothing about the files' content.
const NOT_DAMAGE: [io::ErrorKind; 6] = [
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::StorageFull,
    io::ErrorKind::QuotaExceeded,
    io::ErrorKind::ReadOnlyFilesystem,
    io::ErrorKind::OutOfMemory,
    io::ErrorKind::NotADirectory,
];

fn classify(error: sled::Error) -> StoreError {
    let text = error.to_string();
    match error {
        sled::Error::Io(io) if NOT_DAMAGE.contains(&io.kind()) || text.contains("could not acquire lock") => {
            StoreError::Refused(text)
        }
        sled::Error::Io(_)
        | sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => StoreError::Damaged(text),
    }
}

fn chunk_key(key: &[u8], number: u16) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(key.len() + 2);
    chunk.extend_from_slice(key);
    chunk.extend_from_slice(&number.to_be_bytes());
    chunk
}

fn split_key(chunk: &[u8]) -> Option<(&[u8], u16)> {
    let (key, number) = chunk.split_last_chunk::<2>()?;
    Some((key, u16::from_be_bytes(*number)))
}

/// Cuts a value; the first piece begins with the number of pieces.
fn cut(value: &[u8]) -> Vec<Vec<u8>> {
    let mut whole = Vec::with_capacity(value.len() + 2);
    whole.extend_from_slice(&[0, 0]);
    whole.extend_from_slice(value);
    let mut pieces: Vec<Vec<u8>> = whole.chunks(CHUNK_BYTES_MAX).map(<[u8]>::to_vec).collect();
    let count = u16::try_from(pieces.len()).unwrap_or(u16::MAX); // VALUE_BYTES_MAX keeps it at 256 or below.
    if let Some(head) = pieces.first_mut().and_then(|first| first.first_chunk_mut::<2>()) {
        *head = count.to_be_bytes();
    }
    pieces
}

fn count_of(first: &[u8]) -> Option<u16> {
    first.first_chunk::<2>().map(|head| u16::from_be_bytes(*head))
}

/// Joins pieces in order; `None` when one is missing.
fn join(pieces: &BTreeMap<u16, Vec<u8>>) -> Option<Vec<u8>> {
    let count = count_of(pieces.get(&0)?)?;
    let mut value = Vec::new();
    for number in 0..count {
        let piece = pieces.get(&number)?;
        value.extend_from_slice(if number == 0 { piece.get(2..)? } else { piece });
    }
    Some(value)
}

impl SledStore {
    /// A new store is marked as ours; an old one must carry the marks.
    fn check_or_mark(&mut self, mesh: &MeshId, origin: Origin) -> Result<(), StoreError> {
        let damaged = |what: &str| Err(StoreError::Damaged(what.to_owned()));
        if origin == Origin::Created {
            let mut batch = Batch::default();
            batch.put(FORMAT_KEY, FORMAT);
            batch.put(MESH_KEY, mesh.0);
            batch.put(CANARY_KEY, CANARY);
            self.apply(&batch)?;
            return self.commit();
        }
        // The database takes a file full of junk for an empty one: without its marks it is not what we wrote.
        if self.get(FORMAT_KEY)?.as_deref() != Some(FORMAT) {
            return damaged("not a store of this format");
        }
        if self.get(CANARY_KEY)?.as_deref() != Some(CANARY) {
            return damaged("the canary changed");
        }
        if self.get(MESH_KEY)?.as_deref() != Some(&mesh.0[..]) {
            return damaged("the store of another mesh");
        }
        Ok(())
    }

    fn chunks_of(&self, key: &[u8]) -> Result<u16, StoreError> {
        let first = self.db.get(chunk_key(key, 0)).map_err(classify)?;
        Ok(first.and_then(|bytes| count_of(&bytes)).unwrap_or(0))
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let count = self.chunks_of(key)?;
        if count == 0 {
            return Ok(None);
        }
        let mut pieces = BTreeMap::new();
        for number in 0..count {
            if let Some(piece) = self.db.get(chunk_key(key, number)).map_err(classify)? {
                pieces.insert(number, piece.to_vec());
            }
        }
        match join(&pieces) {
            Some(value) => Ok(Some(value)),
            None => Err(StoreError::Damaged("a piece of a value is missing".to_owned())),
        }
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StoreError> {
        let mut found: BTreeMap<Vec<u8>, BTreeMap<u16, Vec<u8>>> = BTreeMap::new();
        for item in self.db.scan_prefix(prefix) {
            let (chunk, piece) = item.map_err(classify)?;
            if let Some((key, number)) = split_key(&chunk)
                && key.starts_with(prefix)
            {
                found.entry(key.to_vec()).or_default().insert(number, piece.to_vec());
            }
        }
        let mut values = Vec::with_capacity(found.len());
        for (key, pieces) in found {
            match join(&pieces) {
                Some(value) => values.push((key, value)),
                None => return Err(StoreError::Damaged("a piece of a value is missing".to_owned())),
            }
        }
        Ok(values)
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut writes = sled::Batch::default();
        // The number of pieces that a key will have once earlier writes of this batch are in.
        let mut counts: BTreeMap<&[u8], u16> = BTreeMap::new();
        for (key, value) in &batch.writes {
            let value_len = value.as_ref().map_or(0, Vec::len);
            if key.len() > KEY_BYTES_MAX || value_len > VALUE_BYTES_MAX {
                return Err(StoreError::TooLarge { key: key.len(), value: value_len });
            }
            let old = match counts.get(key.as_slice()) {
                Some(count) => *count,
                None => self.chunks_of(key)?,
            };
            let pieces = value.as_deref().map(cut).unwrap_or_default();
            let new = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
            for (number, piece) in (0..=u16::MAX).zip(pieces) {
                writes.insert(chunk_key(key, number), piece);
            }
            for number in new..old {
                writes.remove(chunk_key(key, number));
            }
            counts.insert(key, new);
        }
        self.db.apply_batch(writes).map_err(classify)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.db.flush().map_err(classify)?;
        self.data.sync_data().map_err(|error| StoreError::Refused(format!("sync_data: {error}")))
    }

    fn size_bytes(&self) -> u64 {
        self.data.metadata().map_or(0, |metadata| metadata.len())
    }

    fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        self.commit()
    }
}

/// Where the data file is, for tests that damage it.
#[cfg(test)]
pub(super) fn data_path(state: &Path) -> PathBuf {
    state.join("state").join("db")
}
