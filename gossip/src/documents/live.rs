//! What is in use, what is live, and what history keeps: recomputed around each change.

use std::collections::BTreeSet;

use starling_model::{Batch, Digest, DocumentKey, DocumentVersion, Generation};

use super::{Changes, Documents, Entry, SignedDocument};
use crate::hash;
use crate::limits::{CONFLICTING_MAX, DOCUMENT_GENERATIONS_KEPT, DOCUMENTS_HELD_BYTES_MAX};

/// What one live version adds to the root.
fn sum(version: &DocumentVersion) -> u64 {
    hash::head(&[b"document", &version.hash.0])
}

impl Documents {
    /// Recomputes everything that depends on a document and the batches around it.
    pub(super) fn refresh(&mut self, key: &DocumentKey, mut touched: BTreeSet<Batch>) -> Changes {
        let mut changes = Changes::default();
        let mut keys = BTreeSet::from([key.clone()]);
        for batch in &touched {
            keys.extend(self.groups.get(batch).into_iter().flat_map(|group| group.members.keys().cloned()));
        }
        for key in &keys {
            touched.extend(self.batches_around(key));
            let usable = self.usable(key);
            if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.used != usable) {
                let before = std::mem::replace(&mut entry.used, usable);
                let (list, of) = match usable {
                    Some(_) => (&mut changes.activated, usable),
                    None => (&mut changes.ended, before),
                };
                list.extend(of.and_then(|version| entry.versions.get(&version)).cloned().filter(|_| self.settled));
            }
            touched.extend(self.batches_around(key));
        }
        // What is newest or in use decides which batches count, and these decide what else is live.
        for batch in &touched {
            keys.extend(self.groups.get(batch).into_iter().flat_map(|group| group.members.keys().cloned()));
        }
        for key in &keys {
            self.relive(key, &mut changes);
        }
        if self.settled {
            keys.iter().for_each(|key| self.prune(key, &mut changes));
        }
        changes
    }

    /// Batches of the versions of a document that wait or are in use.
    pub(super) fn batches_around(&self, key: &DocumentKey) -> BTreeSet<Batch> {
        let entry = self.entries.get(key).into_iter();
        entry.flat_map(Entry::candidates).filter_map(|document| document.head.batch).collect()
    }

    /// The greatest version of no batch or of a complete one.
    fn usable(&self, key: &DocumentKey) -> Option<DocumentVersion> {
        let whole = |batch: Option<Batch>| batch.is_none_or(|batch| self.is_complete(&batch));
        let versions = &self.entries.get(key)?.versions;
        versions.iter().rev().find(|(_, document)| whole(document.head.batch)).map(|(version, _)| *version)
    }

    pub(super) fn is_complete(&self, batch: &Batch) -> bool {
        self.groups.get(batch).is_some_and(|group| group.members.len() >= usize::from(batch.count.get()))
    }

    /// Does any version that waits or is in use belong to this batch?
    pub(super) fn is_needed(&self, batch: &Batch) -> bool {
        let carries = |entry: &Entry| entry.candidates().any(|document| document.head.batch == Some(*batch));
        self.groups
            .get(batch)
            .is_some_and(|group| group.members.keys().filter_map(|key| self.entries.get(key)).any(carries))
    }

    /// Incomplete, and some version waits for it.
    pub(super) fn is_awaited(&self, batch: &Batch) -> bool {
        !self.is_complete(batch) && self.is_needed(batch)
    }

    /// Live by the rules of the module's documentation.
    fn live_of(&self, key: &DocumentKey) -> BTreeSet<DocumentVersion> {
        let Some(entry) = self.entries.get(key) else { return BTreeSet::new() };
        let mut live: BTreeSet<DocumentVersion> = entry.contents().take(CONFLICTING_MAX).collect();
        live.extend(entry.candidates().map(|document| document.version));
        let mut served = BTreeSet::new();
        for (version, document) in entry.versions.iter().rev() {
            if let Some(batch) = document.head.batch.filter(|batch| self.is_needed(batch))
                && served.insert(batch)
            {
                live.insert(*version);
            }
        }
        live
    }

    fn relive(&mut self, key: &DocumentKey, changes: &mut Changes) {
        let live = self.live_of(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        let old = std::mem::replace(&mut entry.live, live);
        let len = |version: &DocumentVersion| entry.versions.get(version).map_or(0, |held| held.envelope.len());
        for version in entry.live.difference(&old) {
            self.root = self.root.wrapping_add(sum(version));
            self.live_bytes += len(version);
        }
        for version in old.difference(&entry.live) {
            self.root = self.root.wrapping_sub(sum(version));
            self.live_bytes -= len(version);
            changes.faded.push(version.hash);
        }
    }

    /// Cuts a document's history: of each older generation the winner, of few generations.
    pub(super) fn prune(&mut self, key: &DocumentKey, changes: &mut Changes) {
        let Some(entry) = self.entries.get(key) else { return };
        let mut kept: BTreeSet<Generation> = entry.newest_generation().into_iter().collect();
        let mut gone = Vec::new();
        for version in entry.versions.keys().rev() {
            let first = kept.contains(&version.generation) || kept.len() < DOCUMENT_GENERATIONS_KEPT;
            let wins = kept.insert(version.generation) && first;
            if !wins && !entry.live.contains(version) {
                gone.push(*version);
            }
        }
        gone.iter().for_each(|version| self.remove(key, version, changes));
    }

    /// History gives way when all versions together take too much: the oldest of each document first.
    pub(super) fn make_room(&mut self, changes: &mut Changes) {
        if self.bytes <= DOCUMENTS_HELD_BYTES_MAX {
            return;
        }
        let spare = |entry: &Entry| entry.versions.keys().find(|version| !entry.live.contains(version)).copied();
        while self.bytes > DOCUMENTS_HELD_BYTES_MAX {
            let oldest: Vec<(DocumentKey, DocumentVersion)> =
                self.entries.iter().filter_map(|(key, entry)| Some((key.clone(), spare(entry)?))).collect();
            if oldest.is_empty() {
                return;
            }
            for (key, version) in oldest {
                if self.bytes > DOCUMENTS_HELD_BYTES_MAX {
                    self.remove(&key, &version, changes);
                }
            }
        }
    }

    fn remove(&mut self, key: &DocumentKey, version: &DocumentVersion, changes: &mut Changes) {
        let Some(document) = self.entries.get_mut(key).and_then(|entry| entry.versions.remove(version)) else { return };
        self.bytes -= document.envelope.len();
        self.hashes.remove(&version.hash);
        self.forget_member(key, version, document.head.batch);
        changes.forgotten.push(version.hash);
    }

    /// Takes out a version that counts for nothing any more; what it changed, and whether it was in use.
    pub(crate) fn void(&mut self, hash: &Digest) -> Option<(SignedDocument, bool, Changes)> {
        let (key, version) = self.hashes.get(hash).cloned()?;
        let mut touched = self.batches_around(&key);
        let entry = self.entries.get_mut(&key)?;
        let document = entry.versions.get(&version).cloned()?;
        touched.extend(document.head.batch);
        let was_used = entry.used == Some(version);
        if was_used {
            entry.used = None;
        }
        if entry.live.remove(&version) {
            self.root = self.root.wrapping_sub(sum(&version));
            self.live_bytes -= document.envelope.len();
        }
        let mut removed = Changes::default();
        // The documents of its batch may fall back, too; they are looked at before it has left the batch.
        let keys: Vec<DocumentKey> = touched
            .iter()
            .flat_map(|batch| self.groups.get(batch))
            .flat_map(|group| group.members.keys().cloned())
            .collect();
        self.remove(&key, &version, &mut removed);
        let mut changes = self.refresh(&key, touched);
        for other in &keys {
            let around = self.batches_around(other);
            let more = self.refresh(other, around);
            changes.activated.extend(more.activated);
            changes.ended.extend(more.ended);
            changes.faded.extend(more.faded);
            changes.forgotten.extend(more.forgotten);
        }
        changes.forgotten.extend(removed.forgotten);
        changes.faded.push(*hash);
        if self.entries.get(&key).is_some_and(|entry| entry.versions.is_empty()) {
            self.entries.remove(&key);
            self.subjects.remove(&super::subject(&key));
        }
        Some((document, was_used, changes))
    }

    fn forget_member(&mut self, key: &DocumentKey, version: &DocumentVersion, batch: Option<Batch>) {
        let Some(batch) = batch else { return };
        let Some(group) = self.groups.get_mut(&batch) else { return };
        if let Some(versions) = group.members.get_mut(key) {
            versions.remove(version);
            if versions.is_empty() {
                group.members.remove(key);
            }
        }
        if group.members.is_empty() {
            self.groups.remove(&batch);
        }
    }

    /// All live versions.
    pub(crate) fn live(&self) -> impl Iterator<Item = &SignedDocument> {
        self.entries.values().flat_map(|entry| entry.live.iter().filter_map(|version| entry.versions.get(version)))
    }
}
