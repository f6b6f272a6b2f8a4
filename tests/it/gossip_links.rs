//! How many links a mesh keeps, and what joining costs. Times are virtual.

use std::time::Duration;

use crate::gossip_simulator::check;

/// S33, in small: 64 agents with eight links each.
#[test]
fn a_large_mesh_at_rest_keeps_its_links_and_only_replaces_one_now_and_then() {
    check("links-at-rest", 64, 0..2);
}

#[test]
fn thirty_two_agents_on_links_of_a_millisecond_see_each_other_within_a_second() {
    for report in check("join-cost", 32, 0..3) {
        assert_eq!(report.counts.handshakes, 32 * 31 / 2, "one for each pair, seed={}", report.seed);
        assert!(report.time("after the last start").is_some_and(|time| time < Duration::from_secs(1)));
    }
}

#[test]
fn a_mesh_beyond_a_full_view_forms_at_a_bounded_price() {
    check("join-cost", 64, 0..2);
}
