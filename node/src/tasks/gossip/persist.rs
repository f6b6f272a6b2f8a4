//! Between the machine's changes and the store's keys.
//!
//! `m/NAME` a member, `c/NAME` its credential, `a/NAME` its last addresses, `r/NAME/` and two bytes (kind, shard) one
//! shard of a record, `d/` and a hash one version of a document. Values are the machine's own
//! and are not looked at. Revocations are in a file of their own ([`RevocationFile`]).

use std::collections::BTreeSet;

use starling_gossip::{Change, Restored};
use starling_model::{NodeName, RecordKind};

use super::revocations::RevocationFile;
use crate::store::{Batch, Durability, StoreHandle};

/// Collects the changes of one turn into one batch.
#[derive(Debug)]
pub(super) struct Persister {
    store: StoreHandle,
    batch: Batch,
    /// Record keys in the store, so that an owner can be forgotten without reading.
    records: BTreeSet<Vec<u8>>,
    revocations: RevocationFile,
}

/// What became of a turn's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flushed {
    /// Of the store: documents, members, records.
    pub(super) store: Durability,
    /// Of the file of revocations.
    pub(super) revocations: Durability,
}

impl Flushed {
    /// There was nothing to write.
    pub(super) const NOTHING: Self = Self { store: Durability::Durable, revocations: Durability::Durable };
}

fn key(room: u8, name: &NodeName) -> Vec<u8> {
    let mut key = vec![room, b'/'];
    key.extend_from_slice(name.as_str().as_bytes());
    key
}

fn hash_key(room: u8, hash: &[u8; 32]) -> Vec<u8> {
    [&[room, b'/'][..], hash].concat()
}

fn records_of(owner: &NodeName) -> Vec<u8> {
    let mut prefix = key(b'r', owner);
    prefix.push(b'/');
    prefix
}

fn record_key(owner: &NodeName, kind: RecordKind, shard: u8) -> Vec<u8> {
    let mut key = records_of(owner);
    key.extend_from_slice(&[kind.to_wire(), shard]);
    key
}

fn name_of(key: &[u8]) -> Option<NodeName> {
    NodeName::new(std::str::from_utf8(key.get(2..)?).ok()?).ok()
}

fn record_of(key: &[u8]) -> Option<(NodeName, RecordKind, u8)> {
    let (head, [kind, shard]) = key.split_last_chunk::<2>()?;
    let owner = name_of(head.strip_suffix(b"/")?)?;
    Some((owner, RecordKind::from_wire(*kind), *shard))
}

/// Told by others: who begins anew has nothing of it.
pub(super) fn is_of_the_mesh(item: &Restored) -> bool {
    match item {
        Restored::Member { .. } | Restored::Document { .. } => true,
        Restored::Credential { .. }
        | Restored::Record { .. }
        | Restored::AddressBook { .. }
        | Restored::Revocation { .. } => false,
    }
}

impl Persister {
    pub(super) fn new(store: StoreHandle) -> Self {
        let revocations = RevocationFile::new(store.state());
        Self { store, batch: Batch::default(), records: BTreeSet::new(), revocations }
    }

    /// Everything the store holds. Keys that make no sense are left alone.
    pub(super) fn restore(&mut self) -> Vec<Restored> {
        let mut restored = Vec::new();
        for (key, bytes) in self.store.scan(b"m/") {
            restored.extend(name_of(&key).map(|name| Restored::Member { name, bytes: bytes.into() }));
        }
        for (key, bytes) in self.store.scan(b"c/") {
            restored.extend(name_of(&key).map(|owner| Restored::Credential { owner, bytes: bytes.into() }));
        }
        for (key, bytes) in self.store.scan(b"r/") {
            if let Some((owner, kind, shard)) = record_of(&key) {
                restored.push(Restored::Record { owner, kind, shard, bytes: bytes.into() });
                self.records.insert(key);
            }
        }
        for (key, bytes) in self.store.scan(b"a/") {
            restored.extend(name_of(&key).map(|name| Restored::AddressBook { name, bytes: bytes.into() }));
        }
        restored
            .extend(self.store.scan(b"d/").into_iter().map(|(_, bytes)| Restored::Document { bytes: bytes.into() }));
        restored.extend(self.revocations.read().into_iter().map(|bytes| Restored::Revocation { bytes }));
        restored
    }

    /// Adds one change to the turn's batch.
    pub(super) fn keep(&mut self, change: &Change) {
        match change {
            Change::Epoch(epoch) => self.store.save_epoch(*epoch),
            Change::Member { name, bytes } => self.batch.put(key(b'm', name), &bytes[..]),
            Change::Credential { owner, bytes } => self.batch.put(key(b'c', owner), &bytes[..]),
            Change::AddressBook { name, bytes } => self.batch.put(key(b'a', name), &bytes[..]),
            Change::Record { owner, kind, shard, bytes, own: _ } => {
                let key = record_key(owner, *kind, *shard);
                self.batch.put(key.clone(), &bytes[..]);
                self.records.insert(key);
            }
            Change::Document { key: _, hash, bytes, durable: _ } => self.batch.put(hash_key(b'd', &hash.0), &bytes[..]),
            Change::ForgetDocument { hash } => self.batch.remove(hash_key(b'd', &hash.0)),
            Change::Revocation { node: _, hash, bytes } => self.revocations.keep(*hash, bytes),
            Change::ForgetRevocation { hash } => self.revocations.forget(hash),
            Change::ForgetOwner(name) => {
                self.batch.remove(key(b'm', name));
                self.batch.remove(key(b'c', name));
                let prefix = records_of(name);
                let gone: Vec<Vec<u8>> =
                    self.records.range(prefix.clone()..).take_while(|key| key.starts_with(&prefix)).cloned().collect();
                for key in gone {
                    self.records.remove(&key);
                    self.batch.remove(key);
                }
            }
        }
    }

    /// Hands the turn's batch to the store, and returns when it is on disk or known not to get there (ST0716, which the
    /// store has told).
    pub(super) fn flush_durably(&mut self) -> Flushed {
        let revocations = self.revocations.flush();
        let batch = std::mem::take(&mut self.batch);
        let store = if batch.is_empty() { Durability::Durable } else { self.store.commit_blocking(batch) };
        Flushed { store, revocations }
    }

    /// Hands the turn's batch to the store, without waiting.
    pub(super) fn flush(&mut self) {
        self.revocations.flush();
        if !self.batch.is_empty() {
            self.store.write(std::mem::take(&mut self.batch));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use starling_model::MeshId;

    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    #[test]
    fn what_was_kept_comes_back_and_a_forgotten_owner_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::open(folder.path(), MeshId([1; 32])).unwrap();
        let mut persister = Persister::new(store.clone());
        let bytes = Bytes::from_static(b"value");
        for owner in ["vm", "vm-1", "vm-2"] {
            let owner = name(owner);
            persister.keep(&Change::Member { name: owner.clone(), bytes: bytes.clone() });
            persister.keep(&Change::Credential { owner: owner.clone(), bytes: bytes.clone() });
            persister.keep(&Change::AddressBook { name: owner.clone(), bytes: bytes.clone() });
            for shard in [0, 47, 255] {
                let (kind, bytes) = (RecordKind::Services, bytes.clone());
                persister.keep(&Change::Record { owner: owner.clone(), kind, shard, bytes, own: false });
            }
        }
        persister.flush();
        let mut again = Persister::new(store);
        assert_eq!(again.restore().len(), 18);
        again.keep(&Change::ForgetOwner(name("vm")));
        again.flush();
        let restored = again.restore();
        assert_eq!(restored.len(), 13, "the address outlives the member");
        let expected = Restored::Record { owner: name("vm-1"), kind: RecordKind::Services, shard: 47, bytes };
        assert!(restored.contains(&expected));
    }

    #[test]
    fn what_did_not_reach_the_disk_is_told_for_each_of_both_places() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::open(folder.path(), MeshId([1; 32])).unwrap();
        let mut persister = Persister::new(store.clone());
        let bytes = Bytes::from_static(b"value");
        let member = || Change::Member { name: name("vm-1"), bytes: bytes.clone() };
        let revocation = |byte| Change::Revocation { node: name("vm-1"), hash: [byte; 32], bytes: bytes.clone() };
        persister.keep(&member());
        persister.keep(&revocation(1));
        assert_eq!(persister.flush_durably(), Flushed::NOTHING);
        // The store is gone, the file is not.
        store.close();
        persister.keep(&member());
        persister.keep(&revocation(2));
        let told = persister.flush_durably();
        assert_eq!(told, Flushed { store: Durability::Memory, revocations: Durability::Durable });
        // A folder in the place of the file: it cannot be replaced.
        let file = folder.path().join("trust/revocations");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir_all(file.join("full")).unwrap();
        persister.keep(&revocation(3));
        assert_eq!(persister.flush_durably().revocations, Durability::Memory);
        std::fs::remove_dir_all(&file).unwrap();
        assert_eq!(persister.flush_durably().revocations, Durability::Durable, "it is tried again");
        assert_eq!(RevocationFile::new(folder.path()).read().len(), 3);
    }
}
