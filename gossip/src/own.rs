//! What this node says about itself: its records, sharded, numbered and only rewritten where something changed.

use std::collections::BTreeMap;

use starling_model::{Announcement, HealthEntry, HealthRecord, InstanceName, RecordKind, ServicesRecord, StatusRecord};

use crate::limits::{RECORD_PAYLOAD_BYTES_MAX, SHARDS_MAX};
use crate::payload;

/// Bytes of a payload before its first element.
const LIST_HEAD: usize = 4;

/// Elements spread over shards so that each fits a record. An element stays in its shard while it fits, so one change
/// rewrites one shard.
#[derive(Clone, Debug)]
struct Sharded<T> {
    shards: Vec<BTreeMap<InstanceName, T>>,
    len: fn(&T) -> usize,
}

impl<T: Clone + PartialEq> Sharded<T> {
    fn new(len: fn(&T) -> usize) -> Self {
        Self { shards: Vec::new(), len }
    }

    fn bytes(&self, shard: &BTreeMap<InstanceName, T>) -> usize {
        LIST_HEAD + shard.values().map(self.len).sum::<usize>()
    }

    /// Takes the new whole; returns which shards changed, and whether everything found a place.
    fn update(&mut self, mut wanted: BTreeMap<InstanceName, T>) -> (Vec<u8>, bool) {
        let before = self.shards.clone();
        for at in 0..self.shards.len() {
            let mut shard = std::mem::take(&mut self.shards[at]);
            shard.retain(|name, _| wanted.contains_key(name));
            for (name, value) in &mut shard {
                if let Some(new) = wanted.get(name) {
                    value.clone_from(new);
                }
            }
            // Grown beyond its shard: the last ones move.
            while self.bytes(&shard) > RECORD_PAYLOAD_BYTES_MAX && shard.pop_last().is_some() {}
            shard.keys().for_each(|name| {
                wanted.remove(name);
            });
            self.shards[at] = shard;
        }
        let mut complete = true;
        for (name, value) in wanted {
            complete &= self.place(name, value);
        }
        if self.shards.is_empty() {
            self.shards.push(BTreeMap::new());
        }
        let changed = self.shards.iter().enumerate().filter(|(at, shard)| before.get(*at) != Some(shard));
        (changed.filter_map(|(at, _)| u8::try_from(at).ok()).collect(), complete)
    }

    fn place(&mut self, name: InstanceName, value: T) -> bool {
        let len = (self.len)(&value);
        if LIST_HEAD + len > RECORD_PAYLOAD_BYTES_MAX {
            return false;
        }
        let fits = |shard: &&mut BTreeMap<InstanceName, T>| {
            LIST_HEAD + shard.values().map(self.len).sum::<usize>() + len <= RECORD_PAYLOAD_BYTES_MAX
        };
        if let Some(shard) = self.shards.iter_mut().find(fits) {
            shard.insert(name, value);
            return true;
        }
        if self.shards.len() >= SHARDS_MAX {
            return false;
        }
        self.shards.push(BTreeMap::from([(name, value)]));
        true
    }
}

fn announcement_len(one: &Announcement) -> usize {
    payload::write_services(std::iter::once(one)).map_or(RECORD_PAYLOAD_BYTES_MAX, |bytes| bytes.len() - LIST_HEAD)
}

fn entry_len(one: &HealthEntry) -> usize {
    payload::write_health(std::iter::once(one)).map_or(RECORD_PAYLOAD_BYTES_MAX, |bytes| bytes.len() - LIST_HEAD)
}

/// Which shards to write, and whether all of the record found a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewrite {
    pub(crate) kind: RecordKind,
    pub(crate) shards: Vec<u8>,
    pub(crate) complete: bool,
}

/// All own records.
#[derive(Clone, Debug)]
pub(crate) struct OwnRecords {
    services: Sharded<Announcement>,
    health: Sharded<HealthEntry>,
    status: Option<StatusRecord>,
    put: [bool; 3],
    versions: BTreeMap<(RecordKind, u8), u64>,
}

impl OwnRecords {
    pub(crate) fn new() -> Self {
        Self {
            services: Sharded::new(announcement_len),
            health: Sharded::new(entry_len),
            status: None,
            put: [false; 3],
            versions: BTreeMap::new(),
        }
    }

    pub(crate) fn put_services(&mut self, record: ServicesRecord) -> Rewrite {
        self.put[0] = true;
        let all = record.instances.into_iter().map(|one| (one.instance.clone(), one)).collect();
        let (shards, complete) = self.services.update(all);
        Rewrite { kind: RecordKind::Services, shards, complete }
    }

    pub(crate) fn put_health(&mut self, record: HealthRecord) -> Rewrite {
        self.put[1] = true;
        let all = record.entries.into_iter().map(|one| (one.instance.clone(), one)).collect();
        let (shards, complete) = self.health.update(all);
        Rewrite { kind: RecordKind::Health, shards, complete }
    }

    pub(crate) fn put_status(&mut self, record: StatusRecord) -> Rewrite {
        self.put[2] = true;
        let shards = if self.status.as_ref() == Some(&record) { Vec::new() } else { vec![0] };
        self.status = Some(record);
        Rewrite { kind: RecordKind::Status, shards, complete: true }
    }

    /// True when the driver has put this kind since the start.
    pub(crate) fn was_put(&self, kind: RecordKind) -> bool {
        match kind {
            RecordKind::Services => self.put[0],
            RecordKind::Health => self.put[1],
            RecordKind::Status => self.put[2],
            RecordKind::Unknown(_) => false,
        }
    }

    /// Every shard of every kind that was put: for a new epoch.
    pub(crate) fn all(&self) -> Vec<(RecordKind, u8)> {
        let shards = |kind, count: usize| (0..count).filter_map(move |at| Some((kind, u8::try_from(at).ok()?)));
        let mut all: Vec<(RecordKind, u8)> = Vec::new();
        if self.put[0] {
            all.extend(shards(RecordKind::Services, self.services.shards.len()));
        }
        if self.put[1] {
            all.extend(shards(RecordKind::Health, self.health.shards.len()));
        }
        if self.put[2] {
            all.push((RecordKind::Status, 0));
        }
        all
    }

    /// The payload of one shard with its schema; `None` for a kind that is not ours.
    pub(crate) fn payload(&self, kind: RecordKind, shard: u8) -> Option<(u16, Vec<u8>)> {
        let at = usize::from(shard);
        let first = |payload| (payload::SCHEMA, payload);
        match kind {
            RecordKind::Services => payload::write_services(self.services.shards.get(at)?.values()).ok().map(first),
            RecordKind::Health => payload::write_health(self.health.shards.get(at)?.values()).ok().map(first),
            RecordKind::Status => payload::write_status(self.status.as_ref()?).ok(),
            RecordKind::Unknown(_) => None,
        }
    }

    /// The next version of one shard in this epoch.
    pub(crate) fn next_version(&mut self, kind: RecordKind, shard: u8) -> u64 {
        let version = self.versions.entry((kind, shard)).or_insert(0);
        *version += 1;
        *version
    }

    /// A new epoch counts from one.
    pub(crate) fn restart_versions(&mut self) {
        self.versions.clear();
    }
}

#[cfg(test)]
mod tests {
    use starling_model::Labels;

    use super::*;
    use crate::payload::tests::sample_instance;

    fn fat(name: &str, bytes: usize) -> Announcement {
        let labels = (0..bytes.div_ceil(64)).map(|at| (format!("l{at}"), "x".repeat(60))).collect();
        Announcement { labels: Labels::new(labels).unwrap(), ..sample_instance(name) }
    }

    fn services(list: Vec<Announcement>) -> ServicesRecord {
        ServicesRecord { instances: list }
    }

    #[test]
    fn the_same_record_again_writes_nothing() {
        let mut own = OwnRecords::new();
        let record = services(vec![sample_instance("a"), sample_instance("b")]);
        assert_eq!(own.put_services(record.clone()).shards, [0]);
        assert!(own.put_services(record).shards.is_empty());
        assert_eq!(own.put_services(services(Vec::new())).shards, [0], "withdrawal is the next version");
        assert_eq!(own.payload(RecordKind::Services, 0).unwrap(), (1, vec![0; 4]));
        assert_eq!(OwnRecords::new().put_services(services(Vec::new())).shards, [0], "an empty start is said once");
    }

    #[test]
    fn large_records_are_sharded_and_one_change_rewrites_one_shard() {
        let mut own = OwnRecords::new();
        let list = |count: usize| (0..count).map(|at| fat(&format!("i{at:03}"), 1_500)).collect::<Vec<_>>();
        let rewrite = own.put_services(services(list(40)));
        assert!(rewrite.complete && rewrite.shards.len() > 5, "{rewrite:?}");
        for shard in &rewrite.shards {
            assert!(own.payload(RecordKind::Services, *shard).unwrap().1.len() <= RECORD_PAYLOAD_BYTES_MAX);
        }
        let mut changed = list(40);
        changed[20] = sample_instance("i020");
        assert_eq!(own.put_services(services(changed)).shards.len(), 1);
    }

    #[test]
    fn versions_count_per_shard_and_epoch() {
        let mut own = OwnRecords::new();
        assert_eq!(own.next_version(RecordKind::Services, 0), 1);
        assert_eq!(own.next_version(RecordKind::Services, 0), 2);
        assert_eq!(own.next_version(RecordKind::Services, 1), 1);
        own.restart_versions();
        assert_eq!(own.next_version(RecordKind::Services, 0), 1);
    }
}
