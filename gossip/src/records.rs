//! Owner-signed records as held: full values, ordered by (epoch, version), each owner within its quota. Bytes are kept
//! as received, kinds of newer releases included; nobody but the owner supersedes them.

use std::collections::BTreeMap;

use bytes::Bytes;
use starling_model::{HealthRecord, NodeName, RecordKind, RecordVersion, ServicesRecord, StatusRecord};

use crate::limits::{OWNER_BYTES_MAX, SHARDS_MAX, STATE_BYTES_MAX, UNKNOWN_KINDS_MAX};
use crate::payload::Payload;
use crate::stats::Drop;
use crate::wire::{RecordDigest, RecordHead};

/// One shard.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) version: RecordVersion,
    /// Whole, as received.
    pub(crate) bytes: Bytes,
    /// What it says, if this release can read it.
    pub(crate) payload: Option<Payload>,
}

#[derive(Clone, Debug, Default)]
struct Owner {
    shards: BTreeMap<(RecordKind, u8), Held>,
    bytes: usize,
}

/// All records, by owner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    owners: BTreeMap<NodeName, Owner>,
    bytes: usize,
    /// Since the largest owner was looked for.
    changed: bool,
}

impl Records {
    /// Would this version be applied? A version that is not greater never is (unit vector V9).
    pub(crate) fn is_newer(&self, head: &RecordHead) -> bool {
        let Some(owner) = self.owners.get(&head.owner) else { return true };
        let newest_epoch = owner.of(head.kind).map(|(_, held)| held.version.epoch).max();
        let held = owner.shards.get(&(head.kind, head.shard)).map(|held| held.version);
        newest_epoch.is_none_or(|epoch| head.version.epoch >= epoch) && held.is_none_or(|held| head.version > held)
    }

    /// Does the owner's quota admit it?
    pub(crate) fn admits(&self, head: &RecordHead, len: usize) -> Result<(), Drop> {
        let empty = Owner::default();
        let owner = self.owners.get(&head.owner).unwrap_or(&empty);
        let replaced = owner.shards.get(&(head.kind, head.shard)).map_or(0, |held| held.bytes.len());
        if owner.bytes - replaced + len > OWNER_BYTES_MAX || owner.of(head.kind).count() > SHARDS_MAX {
            return Err(Drop::OwnerQuota);
        }
        if let RecordKind::Unknown(_) = head.kind {
            let mut kinds: Vec<RecordKind> = owner.shards.keys().map(|(kind, _)| *kind).collect();
            kinds.dedup();
            kinds.retain(|kind| matches!(kind, RecordKind::Unknown(_)) && *kind != head.kind);
            if kinds.len() >= UNKNOWN_KINDS_MAX {
                return Err(Drop::OwnerQuota);
            }
        }
        if self.bytes - replaced + len > STATE_BYTES_MAX {
            return Err(Drop::TableFull);
        }
        Ok(())
    }

    /// Holds a newer version. A new epoch drops all shards of that kind of older epochs; their numbers are returned.
    pub(crate) fn insert(&mut self, head: &RecordHead, bytes: Bytes, payload: Option<Payload>) -> Vec<u8> {
        self.changed = true;
        let owner = self.owners.entry(head.owner.clone()).or_default();
        let outdated: Vec<u8> = owner
            .of(head.kind)
            .filter(|(shard, held)| *shard != head.shard && held.version.epoch < head.version.epoch)
            .map(|(shard, _)| shard)
            .collect();
        for shard in &outdated {
            if let Some(held) = owner.shards.remove(&(head.kind, *shard)) {
                owner.bytes -= held.bytes.len();
                self.bytes -= held.bytes.len();
            }
        }
        owner.bytes += bytes.len();
        self.bytes += bytes.len();
        if let Some(old) = owner.shards.insert((head.kind, head.shard), Held { version: head.version, bytes, payload })
        {
            owner.bytes -= old.bytes.len();
            self.bytes -= old.bytes.len();
        }
        outdated
    }

    pub(crate) fn get(&self, owner: &NodeName, kind: RecordKind, shard: u8) -> Option<&Held> {
        self.owners.get(owner)?.shards.get(&(kind, shard))
    }

    /// By an owner's name as it came.
    pub(crate) fn find(&self, owner: &str, kind: RecordKind, shard: u8) -> Option<(&NodeName, &Held)> {
        let (name, owner) = self.owners.get_key_value(owner)?;
        owner.shards.get(&(kind, shard)).map(|held| (name, held))
    }

    /// All shards of one owner.
    pub(crate) fn of<'a>(&'a self, owner: &NodeName) -> impl Iterator<Item = (RecordKind, u8, &'a Held)> {
        self.owners
            .get(owner)
            .into_iter()
            .flat_map(|owner| &owner.shards)
            .map(|((kind, shard), held)| (*kind, *shard, held))
    }

    /// Everything held.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeName, RecordKind, u8, &Held)> {
        self.owners
            .iter()
            .flat_map(|(name, owner)| owner.shards.iter().map(move |((kind, shard), held)| (name, *kind, *shard, held)))
    }

    /// How many shards are held.
    pub(crate) fn len(&self) -> usize {
        self.owners.values().map(|owner| owner.shards.len()).sum()
    }

    /// Drops an owner whole; returns what it held.
    pub(crate) fn forget(&mut self, owner: &NodeName) -> Vec<(RecordKind, u8)> {
        let Some(gone) = self.owners.remove(owner) else { return Vec::new() };
        self.bytes -= gone.bytes;
        self.changed = true;
        gone.shards.into_keys().collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the largest owner if anything changed since the last call.
    pub(crate) fn largest_owner(&mut self) -> Option<usize> {
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| self.owners.values().map(|owner| owner.bytes).max().unwrap_or(0))
    }

    /// All services of an owner, its shards together, ordered by instance; `None` when it never announced any.
    pub(crate) fn services(&self, owner: &NodeName) -> Option<ServicesRecord> {
        let mut all = BTreeMap::new();
        let mut any = false;
        for (_, held) in self.owners.get(owner)?.of(RecordKind::Services) {
            if let Some(Payload::Services(record)) = &held.payload {
                any = true;
                all.extend(record.instances.iter().map(|one| (one.instance.clone(), one.clone())));
            }
        }
        any.then(|| ServicesRecord { instances: all.into_values().collect() })
    }

    /// Readiness of all instances of an owner.
    pub(crate) fn health(&self, owner: &NodeName) -> Option<HealthRecord> {
        let mut all = BTreeMap::new();
        let mut any = false;
        for (_, held) in self.owners.get(owner)?.of(RecordKind::Health) {
            if let Some(Payload::Health(record)) = &held.payload {
                any = true;
                all.extend(record.entries.iter().map(|one| (one.instance.clone(), one.clone())));
            }
        }
        any.then(|| HealthRecord { entries: all.into_values().collect() })
    }

    /// An owner's condition.
    pub(crate) fn status(&self, owner: &NodeName) -> Option<StatusRecord> {
        self.owners.get(owner)?.of(RecordKind::Status).find_map(|(_, held)| match &held.payload {
            Some(Payload::Status(record)) => Some((**record).clone()),
            Some(Payload::Services(_) | Payload::Health(_)) | None => None,
        })
    }
}

impl Owner {
    fn of(&self, kind: RecordKind) -> impl Iterator<Item = (u8, &Held)> {
        self.shards.range((kind, 0)..=(kind, u8::MAX)).map(|((_, shard), held)| (*shard, held))
    }
}

/// The digest of one held shard.
pub(crate) fn digest(owner: &NodeName, kind: RecordKind, shard: u8, held: &Held) -> RecordDigest {
    RecordDigest { owner: owner.clone(), kind, shard, version: held.version }
}

#[cfg(test)]
mod tests;
