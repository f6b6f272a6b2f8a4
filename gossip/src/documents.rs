//! Operator-signed documents: which version wins, which is in use, what peers must hold alike, and what is kept for a
//! rollback. Nothing here looks into the YAML.
//!
//! Everything follows from the set of versions that are held, whatever their order of arrival:
//!
//! * the *newest* version of a document is the greatest by (generation, key, hash);
//! * a batch is *complete* once as many documents as it counts are held in it (a later generation of a document does
//!   not take it out of its batch);
//! * the version *in use* is the greatest that belongs to no batch or to a complete one, so a batch is used whole or not
//!   at all;
//! * *live* is what peers decide alike by: the version in use, the greater ones that wait for their batches, all contents
//!   of the newest generation, and, of each batch that one in use or waiting belongs to, its versions, even where a
//!   document has moved on. The root covers the live versions and nothing else: history differs from node to node and is
//!   in no root.
//!
//! Taking in what a peer holds live only ever raises what is newest and completes batches, so two nodes that exchange
//! their live versions come to hold the same (in a second exchange, where the first made an old batch count again).

mod live;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_model::{Batch, Digest, Document, DocumentKey, DocumentVersion, EnvelopeInvalid, Generation};

use crate::hash;
use crate::limits::{
    CONFLICTING_MAX, DOCUMENT_GENERATIONS_KEPT, DOCUMENTS_BYTES_MAX, DOCUMENTS_MAX, DOCUMENTS_RESERVE_BYTES,
    WAITING_VERSIONS_MAX,
};

/// How long a batch may stay incomplete before people hear of it.
pub(crate) const BATCH_PATIENCE: Duration = Duration::from_secs(5);

/// One signed version, taken apart; its parts share memory with the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedDocument {
    pub(crate) head: Document,
    pub(crate) version: DocumentVersion,
    pub(crate) text: Bytes,
    /// The signed form and the signature, as received.
    pub(crate) envelope: Bytes,
}

impl SignedDocument {
    /// Reads a signed form with its signature; the signature is not judged here.
    ///
    /// # Errors
    /// The first thing that is wrong with the form.
    pub(crate) fn read(envelope: &Bytes) -> Result<Self, EnvelopeInvalid> {
        let (body, _) = starling_model::envelope::split_signature(envelope).ok_or(EnvelopeInvalid::Truncated)?;
        let (head, text) = Document::read(body)?;
        let hash = Digest(hash::sha256(&[body]));
        let version = DocumentVersion { generation: head.generation, signer: head.signer, hash };
        Ok(Self { version, text: envelope.slice_ref(text.as_bytes()), envelope: envelope.clone(), head })
    }

    pub(crate) fn key(&self) -> &DocumentKey {
        &self.head.key
    }
}

/// A document's key, as digests name it.
pub(crate) fn subject(key: &DocumentKey) -> u64 {
    hash::head(&[b"key", key.to_string().as_bytes()])
}

/// Why a version is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is held.
    Held,
    /// Later ones are held, and it serves no batch.
    Stale,
    /// No room.
    Full,
}

/// What a version changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Newly in use, all at once.
    pub(crate) activated: Vec<SignedDocument>,
    /// No longer in use, with nothing in their place: their batch lost a document that counts for nothing any more.
    pub(crate) ended: Vec<SignedDocument>,
    /// The new newest version of its document.
    pub(crate) known: Option<SignedDocument>,
    /// All contents of the newest generation, the winner first; empty without a new conflict.
    pub(crate) conflict: Vec<DocumentVersion>,
    /// The new newest version ended a conflict.
    pub(crate) conflict_ended: bool,
    /// Peers must hold it, too.
    pub(crate) live: bool,
    /// No longer held.
    pub(crate) forgotten: Vec<Digest>,
    /// No longer live, so not worth telling.
    pub(crate) faded: Vec<Digest>,
}

/// All versions of one document.
#[derive(Clone, Debug, Default)]
struct Entry {
    versions: BTreeMap<DocumentVersion, SignedDocument>,
    live: BTreeSet<DocumentVersion>,
    used: Option<DocumentVersion>,
}

impl Entry {
    fn newest(&self) -> Option<&SignedDocument> {
        self.versions.last_key_value().map(|(_, document)| document)
    }

    fn newest_generation(&self) -> Option<Generation> {
        self.versions.last_key_value().map(|(version, _)| version.generation)
    }

    /// The contents of the newest generation, the winner first.
    fn contents(&self) -> impl Iterator<Item = DocumentVersion> + '_ {
        let newest = self.newest_generation();
        self.versions.keys().rev().copied().take_while(move |version| Some(version.generation) == newest)
    }

    /// The greatest versions that wait for their batches, and the one in use.
    fn candidates(&self) -> impl Iterator<Item = &SignedDocument> {
        let waits = |(version, _): &(&DocumentVersion, &SignedDocument)| self.used.is_none_or(|used| **version > used);
        let waiting = self.versions.iter().rev().take_while(waits).take(WAITING_VERSIONS_MAX);
        let used = self.used.and_then(|used| self.versions.get(&used));
        waiting.map(|(_, document)| document).chain(used)
    }
}

/// The held versions of one batch.
#[derive(Clone, Debug)]
struct Group {
    members: BTreeMap<DocumentKey, BTreeSet<DocumentVersion>>,
    since: Instant,
    reported: bool,
}

/// All documents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents {
    entries: BTreeMap<DocumentKey, Entry>,
    groups: BTreeMap<Batch, Group>,
    hashes: BTreeMap<Digest, (DocumentKey, DocumentVersion)>,
    /// Documents by the hash of their key, as digests name them.
    subjects: BTreeMap<u64, DocumentKey>,
    root: u64,
    /// Of all versions held.
    bytes: usize,
    /// Of the live ones.
    live_bytes: usize,
    /// What the store held is in: from here on changes are told and history is cut.
    settled: bool,
}

impl Documents {
    /// Is this version worth a verdict?
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admits(&self, document: &SignedDocument) -> Result<(), Unfit> {
        let version = document.version;
        if self.hashes.contains_key(&version.hash) {
            return Err(Unfit::Held);
        }
        let entry = self.entries.get(document.key());
        let max = match entry {
            None if self.entries.len() >= DOCUMENTS_MAX => return Err(Unfit::Full),
            None => DOCUMENTS_BYTES_MAX,
            Some(_) => DOCUMENTS_BYTES_MAX + DOCUMENTS_RESERVE_BYTES,
        };
        if self.live_bytes + document.envelope.len() > max {
            return Err(Unfit::Full);
        }
        let Some(entry) = entry.filter(|_| self.settled) else { return Ok(()) };
        let greater = entry.versions.keys().rev().take_while(|held| **held > version).count();
        let waits = entry.used.is_none_or(|used| version > used) && greater < WAITING_VERSIONS_MAX;
        let shown = entry.newest_generation() == Some(version.generation) && greater < CONFLICTING_MAX;
        if waits || shown || document.head.batch.is_some_and(|batch| self.is_needed(&batch)) {
            return Ok(());
        }
        let later = entry.versions.keys().filter(|held| **held > version);
        let generations: BTreeSet<Generation> = later.map(|held| held.generation).collect();
        let beaten = generations.contains(&version.generation);
        if beaten || generations.len() >= DOCUMENT_GENERATIONS_KEPT { Err(Unfit::Stale) } else { Ok(()) }
    }

    /// Takes in a verified version.
    ///
    /// # Errors
    /// Why nothing changed.
    pub(crate) fn insert(&mut self, document: SignedDocument, now: Instant) -> Result<Changes, Unfit> {
        self.admits(&document)?;
        let (key, version, batch) = (document.key().clone(), document.version, document.head.batch);
        let before = self.entries.get(&key).map(|entry| (entry.newest_generation(), entry.contents().count()));
        let mut touched = self.batches_around(&key);
        self.bytes += document.envelope.len();
        self.hashes.insert(version.hash, (key.clone(), version));
        self.subjects.insert(subject(&key), key.clone());
        self.entries.entry(key.clone()).or_default().versions.insert(version, document);
        if let Some(batch) = batch {
            let new = || Group { members: BTreeMap::new(), since: now, reported: false };
            let group = self.groups.entry(batch).or_insert_with(new);
            group.members.entry(key.clone()).or_default().insert(version);
            touched.insert(batch);
        }
        let mut changes = self.refresh(&key, touched);
        self.make_room(&mut changes);
        if !self.hashes.contains_key(&version.hash) {
            return Err(Unfit::Stale);
        }
        let Some(entry) = self.entries.get(&key) else { return Err(Unfit::Stale) };
        changes.live = entry.live.contains(&version);
        changes.known = entry.newest().filter(|newest| newest.version == version).cloned();
        let contents: Vec<DocumentVersion> = entry.contents().collect();
        let more = contents.contains(&version) && contents.len() > 1;
        changes.conflict_ended =
            before.is_some_and(|(newest, count)| count > 1 && newest.is_some_and(|newest| newest < version.generation));
        if more {
            changes.conflict = contents;
        }
        Ok(changes)
    }

    /// What the store held is in: everything that is in use, newest or in conflict is told now.
    pub(crate) fn settle(&mut self, now: Instant) -> Vec<Changes> {
        if std::mem::replace(&mut self.settled, true) {
            return Vec::new();
        }
        self.groups.values_mut().for_each(|group| group.since = now);
        let keys: Vec<DocumentKey> = self.entries.keys().cloned().collect();
        let mut first = Changes::default();
        keys.iter().for_each(|key| self.prune(key, &mut first));
        self.make_room(&mut first);
        first.activated = self.entries.values().filter_map(|entry| entry.versions.get(&entry.used?)).cloned().collect();
        let mut all = vec![first];
        for entry in self.entries.values() {
            let contents: Vec<DocumentVersion> = entry.contents().collect();
            let conflict = if contents.len() > 1 { contents } else { Vec::new() };
            all.push(Changes { known: entry.newest().cloned(), conflict, ..Changes::default() });
        }
        all
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Batches whose time is over, each told once, with what of them is here.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<(Batch, Vec<DocumentKey>)> {
        if !self.settled {
            return Vec::new();
        }
        let late: Vec<Batch> = self
            .groups
            .iter()
            .filter(|(batch, group)| !group.reported && now >= group.since + BATCH_PATIENCE && self.is_awaited(batch))
            .map(|(batch, _)| *batch)
            .collect();
        let mut told = Vec::new();
        for batch in late {
            if let Some(group) = self.groups.get_mut(&batch) {
                group.reported = true;
                told.push((batch, group.members.keys().cloned().collect()));
            }
        }
        told
    }

    /// When the next batch is overdue.
    pub(crate) fn next_overdue(&self) -> Option<Instant> {
        let open = |(batch, group): &(&Batch, &Group)| !group.reported && self.is_awaited(batch);
        self.groups.iter().filter(open).map(|(_, group)| group.since + BATCH_PATIENCE).min()
    }

    /// Over the live versions.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }
}

#[cfg(test)]
mod tests;
