//! What operators sign reaches everybody, alike and whole, soon, and through all that fails. Rows of the table of
//! scenarios in the design of gossip are named where a test stands for one.

use std::time::Duration;

use crate::gossip_simulator::{SEEDS, check};

/// S31: a change a second and ten a second, without loss.
#[test]
fn a_change_is_in_use_everywhere_within_half_a_second() {
    for (name, nodes, seeds) in [("documents", 25, 0..3), ("documents-often", 25, 0..3), ("documents-often", 50, 0..1)]
    {
        for report in check(name, nodes, seeds) {
            let most = report.time("99 of 100").unwrap_or(Duration::MAX);
            assert!(most <= Duration::from_millis(500), "{name} at {nodes}, seed={}: {most:?}", report.seed);
        }
    }
}

/// An `apply` that waits for all must not wait for a round of everybody's probes.
#[test]
fn within_half_a_second_each_node_knows_that_all_use_a_document() {
    for report in check("documents-agree", 25, SEEDS) {
        let most = report.time("99 of 100").unwrap_or(Duration::MAX);
        assert!(most <= Duration::from_millis(500), "seed={}: {most:?}", report.seed);
    }
}

/// S31 with five per cent lost.
#[test]
fn loss_delays_a_change_and_loses_none() {
    for report in check("documents-loss", 25, 0..3) {
        assert!(report.network.lost > 500, "seed={}", report.seed);
    }
}

/// S22.
#[test]
fn generations_decide_and_no_clock() {
    check("documents-clock", 5, SEEDS);
}

/// S23.
#[test]
fn two_writers_across_a_split_have_one_winner_everywhere() {
    check("documents-split", 8, SEEDS);
}

/// S24.
#[test]
fn a_newer_schema_is_byte_identical_at_the_third_node() {
    check("documents-newer", 3, SEEDS);
}

/// S34.
#[test]
fn a_batch_with_a_late_document_is_never_used_in_part_and_is_reported() {
    check("documents-batch", 5, SEEDS);
}

#[test]
fn all_faults_in_a_random_mix_end_in_one_set_of_documents() {
    check("chaos-documents", 6, 0..6);
}

#[test]
fn documents_and_revocations_survive_crashes_of_those_who_took_them() {
    check("documents-restarts", 6, 0..4);
}
