//! Agents that come back.

use crate::gossip_simulator::{SEEDS, check};

/// S12.
#[test]
fn a_restart_faster_than_detection_is_no_death() {
    check("quick-restart", 5, SEEDS);
    check("quick-restart", 3, SEEDS);
}

/// S10 and F43, in small.
#[test]
fn all_agents_restart_at_once_from_what_they_stored() {
    check("all-restart", 16, 0..2);
    check("all-restart", 3, SEEDS);
}

/// S11.
#[test]
fn a_disk_and_a_clock_that_went_back_still_give_a_higher_life() {
    check("old-snapshot", 5, SEEDS);
    check("old-snapshot-bare", 5, SEEDS);
}

/// S21.
#[test]
fn an_agent_without_its_disk_and_with_a_slow_clock_comes_back() {
    check("lost-disk", 4, SEEDS);
}
