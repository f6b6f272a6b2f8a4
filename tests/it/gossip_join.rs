//! Coming, going, and being found dead. Times are virtual.

use std::time::Duration;

use crate::gossip_simulator::{SEEDS, check};

#[test]
fn three_agents_form_a_mesh_through_one_seed_within_a_second() {
    for report in check("join", 3, SEEDS) {
        assert!(report.time("formed").is_some_and(|time| time <= Duration::from_secs(1)), "seed={}", report.seed);
    }
}

#[test]
fn eight_agents_form_a_mesh_through_one_seed() {
    check("join", 8, 0..5);
}

#[test]
fn thirty_two_agents_form_a_mesh_through_one_seed() {
    check("join", 32, 0..1);
}

#[test]
fn a_seed_that_comes_late_is_found() {
    check("seed-late", 3, 0..5);
}

#[test]
fn a_crash_among_three_is_known_to_all_within_ten_seconds() {
    for report in check("crash", 3, SEEDS) {
        assert!(report.time("last death").is_some_and(|time| time <= Duration::from_secs(10)), "seed={}", report.seed);
    }
}

#[test]
fn a_crash_among_eight_is_known_to_all_in_time() {
    check("crash", 8, 0..5);
}

/// S1.
#[test]
fn a_crash_among_thirty_two_is_known_within_the_suspicion_bounds() {
    check("crash", 32, 0..1);
}

#[test]
fn a_crash_is_known_with_every_preset() {
    check("crash-fast", 5, SEEDS);
    check("crash-fast", 3, SEEDS);
    check("crash-wan", 6, 0..4);
}

#[test]
fn an_agent_that_moved_is_found_at_its_new_address() {
    check("moved", 5, 0..4);
}

#[test]
fn a_leave_is_seen_by_all_at_once_and_is_no_death() {
    check("leave", 8, SEEDS);
    check("leave", 3, 0..5);
}

/// S14.
#[test]
fn another_mesh_stays_outside() {
    for report in check("foreign", 3, SEEDS) {
        assert!(report.counts.foreign_refused > 0, "seed={}", report.seed);
    }
}

/// S13 and F19.
#[test]
fn a_cloned_machine_raises_an_alarm_and_no_war_of_lives() {
    check("clone", 5, SEEDS);
    check("clone-war", 6, 0..50);
}
