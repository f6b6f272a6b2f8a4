//! What one host has on disk: what the machine asked to keep, with the two classes of an agent's store. Durable things
//! are there at once; the rest is written a moment later, and a crash loses that moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use starling_gossip::{Change, Restored};
use starling_model::{BootEpoch, Digest, NodeName, RecordKind};

use crate::clock::SimTime;

/// How long a lazy write stays in memory.
const LAZY: Duration = Duration::from_millis(500);

/// A host's disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    epoch: Option<BootEpoch>,
    members: BTreeMap<NodeName, Bytes>,
    records: BTreeMap<(NodeName, RecordKind, u8), Bytes>,
    credentials: BTreeMap<NodeName, Bytes>,
    addresses: BTreeMap<NodeName, Bytes>,
    documents: BTreeMap<Digest, Bytes>,
    revocations: BTreeMap<[u8; 32], Bytes>,
    lazy: VecDeque<(SimTime, Change)>,
}

impl Disk {
    /// The saved epoch of this host.
    #[must_use]
    pub fn epoch(&self) -> Option<BootEpoch> {
        self.epoch
    }

    /// Saves the epoch of a start, durably.
    pub fn save_epoch(&mut self, epoch: BootEpoch) {
        self.epoch = Some(epoch);
    }

    /// Keeps one change.
    pub fn keep(&mut self, change: Change, now: SimTime) {
        self.settle(now);
        match change {
            Change::Epoch(_)
            | Change::Record { own: true, .. }
            | Change::Document { durable: true, .. }
            | Change::Revocation { .. }
            | Change::ForgetRevocation { .. } => self.write(change),
            Change::Member { .. }
            | Change::Document { .. }
            | Change::ForgetDocument { .. }
            | Change::Record { .. }
            | Change::Credential { .. }
            | Change::ForgetOwner(_)
            | Change::AddressBook { .. } => self.lazy.push_back((now, change)),
        }
    }

    /// Writes what has waited long enough.
    fn settle(&mut self, now: SimTime) {
        while self.lazy.front().is_some_and(|(since, _)| now.since(*since) >= LAZY) {
            if let Some((_, change)) = self.lazy.pop_front() {
                self.write(change);
            }
        }
    }

    /// A crash: what still waited is lost.
    pub fn crash(&mut self, now: SimTime) {
        self.settle(now);
        self.lazy.clear();
    }

    /// An orderly end: everything is written.
    pub fn flush(&mut self) {
        while let Some((_, change)) = self.lazy.pop_front() {
            self.write(change);
        }
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::Epoch(epoch) => self.epoch = Some(epoch),
            Change::Member { name, bytes } => {
                self.members.insert(name, bytes);
            }
            Change::Record { owner, kind, shard, bytes, own: _ } => {
                self.records.insert((owner, kind, shard), bytes);
            }
            Change::Credential { owner, bytes } => {
                self.credentials.insert(owner, bytes);
            }
            Change::ForgetOwner(name) => {
                self.members.remove(&name);
                self.credentials.remove(&name);
                self.records.retain(|(owner, ..), _| *owner != name);
            }
            Change::AddressBook { name, bytes } => {
                self.addresses.insert(name, bytes);
            }
            Change::Document { key: _, hash, bytes, durable: _ } => {
                self.documents.insert(hash, bytes);
            }
            Change::ForgetDocument { hash } => {
                self.documents.remove(&hash);
            }
            Change::Revocation { node: _, hash, bytes } => {
                self.revocations.insert(hash, bytes);
            }
            Change::ForgetRevocation { hash } => {
                self.revocations.remove(&hash);
            }
        }
    }

    /// Puts a document there, as if the agent had kept it.
    pub fn plant_document(&mut self, hash: Digest, bytes: Bytes) {
        self.documents.insert(hash, bytes);
    }

    /// What a start gives back to the machine.
    #[must_use]
    pub fn restore(&self) -> Vec<Restored> {
        let members =
            self.members.iter().map(|(name, bytes)| Restored::Member { name: name.clone(), bytes: bytes.clone() });
        let credentials = self
            .credentials
            .iter()
            .map(|(owner, bytes)| Restored::Credential { owner: owner.clone(), bytes: bytes.clone() });
        let records = self.records.iter().map(|((owner, kind, shard), bytes)| Restored::Record {
            owner: owner.clone(),
            kind: *kind,
            shard: *shard,
            bytes: bytes.clone(),
        });
        let addresses = self
            .addresses
            .iter()
            .map(|(name, bytes)| Restored::AddressBook { name: name.clone(), bytes: bytes.clone() });
        let documents = self.documents.values().map(|bytes| Restored::Document { bytes: bytes.clone() });
        let revocations = self.revocations.values().map(|bytes| Restored::Revocation { bytes: bytes.clone() });
        members.chain(credentials).chain(records).chain(addresses).chain(documents).chain(revocations).collect()
    }

    /// The stored form of one record, if it is there or on its way.
    #[must_use]
    pub fn record(&self, owner: &NodeName, kind: RecordKind, shard: u8) -> Option<&Bytes> {
        let waiting = self.lazy.iter().rev().find_map(|(_, change)| match change {
            Change::Record { owner: of, kind: what, shard: at, bytes, .. } => {
                (of == owner && *what == kind && *at == shard).then_some(bytes)
            }
            Change::Epoch(_)
            | Change::Member { .. }
            | Change::Credential { .. }
            | Change::ForgetOwner(_)
            | Change::AddressBook { .. }
            | Change::Document { .. }
            | Change::ForgetDocument { .. }
            | Change::Revocation { .. }
            | Change::ForgetRevocation { .. } => None,
        });
        waiting.or_else(|| self.records.get(&(owner.clone(), kind, shard)))
    }

    /// Puts a record there that this machine never wrote, as another release may have done.
    pub fn plant_record(&mut self, owner: &NodeName, kind: RecordKind, shard: u8, bytes: Bytes) {
        self.records.insert((owner.clone(), kind, shard), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loses_the_last_moment_but_nothing_durable() {
        let name = NodeName::new("a").expect("a label");
        let member = |byte: u8| Change::Member { name: name.clone(), bytes: Bytes::copy_from_slice(&[byte]) };
        let mut disk = Disk::default();
        let late = SimTime::START.after(Duration::from_secs(5));
        disk.keep(member(1), SimTime::START);
        disk.keep(Change::Epoch(BootEpoch(9)), late);
        disk.keep(member(2), late);
        disk.crash(late.after(Duration::from_millis(100)));
        assert_eq!(disk.epoch(), Some(BootEpoch(9)));
        assert_eq!(disk.restore(), vec![Restored::Member { name: name.clone(), bytes: Bytes::from_static(&[1]) }]);
        disk.keep(member(3), late);
        disk.flush();
        assert_eq!(disk.restore(), vec![Restored::Member { name: name.clone(), bytes: Bytes::from_static(&[3]) }]);
        disk.keep(Change::ForgetOwner(name), late);
        disk.flush();
        assert!(disk.restore().is_empty());
    }
}
