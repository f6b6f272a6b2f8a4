//! Our own records on their way to the gossip task: always whole, the newest of each kind, never lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use starling_gossip::OwnRecord;
use tokio::sync::Notify;

/// Which record. Services come first: health says nothing about instances that are not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnKind {
    /// What we offer.
    Services,
    /// Its readiness.
    Health,
    /// Our own condition.
    Status,
}

fn kind(record: &OwnRecord) -> OwnKind {
    match record {
        OwnRecord::Services(_) => OwnKind::Services,
        OwnRecord::Health(_) => OwnKind::Health,
        OwnRecord::Status(_) => OwnKind::Status,
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// The newest of each kind, and whether the machine has it already.
    records: Mutex<BTreeMap<OwnKind, (OwnRecord, bool)>>,
    woken: Notify,
}

/// Shared by writers and the gossip task.
#[derive(Clone, Debug, Default)]
pub struct OwnRecords(Arc<Inner>);

impl OwnRecords {
    /// Announces a record from now on. An equal one costs nothing.
    pub fn put(&self, record: OwnRecord) {
        let mut records = self.0.records.lock().unwrap_or_else(PoisonError::into_inner);
        if Self::set(&mut records, record) {
            drop(records);
            self.0.woken.notify_one();
        }
    }

    /// True when it is news.
    fn set(records: &mut BTreeMap<OwnKind, (OwnRecord, bool)>, record: OwnRecord) -> bool {
        let key = kind(&record);
        let is_new = records.get(&key).is_none_or(|(held, _)| *held != record);
        if is_new {
            records.insert(key, (record, false));
        }
        is_new
    }

    /// Changes the status record, beginning with an empty one.
    pub fn change_status(&self, change: impl FnOnce(&mut starling_model::StatusRecord)) {
        // Several tasks change their own part of it, so nobody may come between reading and writing.
        let mut records = self.0.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut status = match records.get(&OwnKind::Status).map(|(record, _)| record.clone()) {
            Some(OwnRecord::Status(status)) => status,
            Some(OwnRecord::Services(_) | OwnRecord::Health(_)) | None => starling_model::StatusRecord::default(),
        };
        change(&mut status);
        if Self::set(&mut records, OwnRecord::Status(status)) {
            drop(records);
            self.0.woken.notify_one();
        }
    }

    /// Takes what changed since the last call, services first.
    #[must_use]
    pub fn take_changed(&self) -> Vec<OwnRecord> {
        let mut records = self.0.records.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = records.values_mut().filter(|(_, taken)| !taken);
        changed
            .map(|(record, taken)| {
                *taken = true;
                record.clone()
            })
            .collect()
    }

    /// A new machine knows nothing yet: everything is to be taken again.
    pub fn forget_taken(&self) {
        for (_, taken) in self.0.records.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            *taken = false;
        }
        self.0.woken.notify_one();
    }

    /// Waits until something changed. Safe to drop: a wake-up that was not taken stays.
    pub async fn wait(&self) {
        self.0.woken.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use starling_model::{HealthRecord, ServicesRecord, StatusRecord};

    use super::*;

    #[test]
    fn services_come_first_and_equal_records_cost_nothing() {
        let own = OwnRecords::default();
        own.put(OwnRecord::Status(StatusRecord::default()));
        own.put(OwnRecord::Health(HealthRecord::default()));
        own.put(OwnRecord::Services(ServicesRecord::default()));
        let kinds = |own: &OwnRecords| own.take_changed().iter().map(kind).collect::<Vec<_>>();
        assert_eq!(kinds(&own), [OwnKind::Services, OwnKind::Health, OwnKind::Status]);
        own.put(OwnRecord::Health(HealthRecord::default()));
        assert_eq!(kinds(&own), []);
        own.change_status(|status| status.bundle_sequence = 2);
        assert_eq!(kinds(&own), [OwnKind::Status]);
        own.forget_taken();
        assert_eq!(kinds(&own).len(), 3);
    }
}
