//! What owners announce reaches everybody, whole, in order, and only as fast as is good for the mesh.

use crate::gossip_simulator::{SEEDS, check};

#[test]
fn a_record_and_its_changes_reach_all_and_a_withdrawal_is_final() {
    check("announce", 8, SEEDS);
    check("announce", 3, 0..4);
}

#[test]
fn an_owner_with_many_instances_is_known_whole() {
    check("shards", 4, 0..3);
}

/// S20.
#[test]
fn an_owner_that_writes_too_much_is_held_to_its_rate() {
    check("quota", 5, SEEDS);
}

#[test]
fn a_record_of_an_unknown_kind_is_relayed_byte_for_byte() {
    check("unknown-kind", 4, SEEDS);
}
