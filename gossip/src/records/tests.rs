use proptest::prelude::*;
use starling_model::{BootEpoch, RecordVersion};

use super::*;
use crate::testing::node;

fn head(kind: RecordKind, shard: u8, epoch: u64, version: u64) -> RecordHead {
    let version = RecordVersion { epoch: BootEpoch(epoch), version };
    RecordHead { owner: node("o"), kind, shard, version, schema: 1, ttl_s: 0, statement: [0; 32] }
}

fn offer(records: &mut Records, head: &RecordHead) -> bool {
    let newer = records.is_newer(head) && records.admits(head, 10).is_ok();
    if newer {
        records.insert(head, vec![0; 10].into(), None);
    }
    newer
}

/// Unit vector V9 (chitchat's rule).
#[test]
fn a_version_that_is_not_greater_is_never_applied() {
    let mut records = Records::default();
    let mut check = |epoch, version, applied| {
        assert_eq!(offer(&mut records, &head(RecordKind::Services, 0, epoch, version)), applied, "{epoch}.{version}");
    };
    check(5, 3, true);
    check(5, 3, false);
    check(5, 2, false);
    check(4, 900, false);
    check(5, 4, true);
    check(6, 1, true);
}

#[test]
fn a_new_epoch_drops_the_older_shards_of_its_kind_only() {
    let mut records = Records::default();
    offer(&mut records, &head(RecordKind::Services, 0, 5, 1));
    offer(&mut records, &head(RecordKind::Services, 1, 5, 9));
    offer(&mut records, &head(RecordKind::Health, 0, 5, 1));
    assert_eq!(records.insert(&head(RecordKind::Services, 0, 6, 1), vec![0; 4].into(), None), [1]);
    assert!(!offer(&mut records, &head(RecordKind::Services, 1, 5, 10)), "an older epoch never comes back");
    assert!(records.get(&node("o"), RecordKind::Health, 0).is_some());
    assert_eq!(records.bytes(), 14);
}

#[test]
fn quotas_hold_per_owner() {
    let mut records = Records::default();
    for kind in 10..10 + u8::try_from(UNKNOWN_KINDS_MAX).unwrap() {
        assert!(offer(&mut records, &head(RecordKind::Unknown(kind), 0, 1, 1)));
    }
    assert_eq!(records.admits(&head(RecordKind::Unknown(99), 0, 1, 1), 10), Err(Drop::OwnerQuota));
    assert_eq!(records.admits(&head(RecordKind::Unknown(10), 0, 1, 2), 10), Ok(()));
    assert_eq!(records.admits(&head(RecordKind::Status, 0, 1, 1), OWNER_BYTES_MAX), Err(Drop::OwnerQuota));
    assert_eq!(records.forget(&node("o")).len(), UNKNOWN_KINDS_MAX);
    assert_eq!((records.bytes(), records.len()), (0, 0));
}

proptest! {
    /// Whatever the order of arrival, all nodes end with the same versions.
    #[test]
    fn merging_converges(offers in prop::collection::vec((0..2_u8, 1..4_u64, 1..4_u64), 1..12), turn in 0..12_usize) {
        let fold = |offers: &[(u8, u64, u64)]| {
            let mut records = Records::default();
            for (shard, epoch, version) in offers {
                offer(&mut records, &head(RecordKind::Services, *shard, *epoch, *version));
            }
            let held: Vec<_> = records.iter().map(|(_, kind, shard, held)| (kind, shard, held.version)).collect();
            (held, records.bytes())
        };
        let mut other = offers.clone();
        other.reverse();
        let len = other.len();
        other.rotate_left(turn % len);
        prop_assert_eq!(fold(&offers), fold(&other));
    }
}
