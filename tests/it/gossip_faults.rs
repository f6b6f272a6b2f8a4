//! Networks and processes that fail in part.

use sim::Report;

use crate::gossip_simulator::{SEEDS, check};

#[test]
fn loss_of_up_to_thirty_per_cent_buries_nobody_and_a_crash_is_still_found() {
    for report in check("loss", 10, 0..3) {
        assert!(report.network.lost > 1_000, "seed={}", report.seed);
    }
}

#[test]
fn two_and_one_split_and_are_one_again() {
    check("split", 3, SEEDS);
}

/// S7 and F13, with equal roots in the end.
#[test]
fn two_halves_split_and_are_one_again() {
    check("split", 10, 0..3);
    check("split-minority", 5, SEEDS);
    check("split-long", 10, 0..1);
}

/// S9 (a).
#[test]
fn one_node_cut_off_keeps_its_view() {
    check("cut-off", 12, SEEDS);
    // Found once: its health slowed its probing so far that it buried six, one by one, before it doubted itself.
    check("cut-off", 12, 5088..5089);
    check("cut-off", 100, 0..2);
}

/// S6 and F14.
#[test]
fn indirect_probes_save_both_ends_of_a_broken_edge() {
    check("edge", 5, SEEDS);
}

#[test]
fn a_node_that_nobody_hears_is_found() {
    check("one-way", 6, SEEDS);
}

#[test]
fn a_short_pause_evicts_nobody_and_a_long_one_heals() {
    check("pause-short", 8, SEEDS);
    check("pause-long", 6, 0..3);
}

#[test]
fn a_member_that_damages_what_it_sends_hurts_only_itself() {
    for report in check("liar", 6, 0..3) {
        assert!(report.counts.damaged > 100, "seed={}", report.seed);
    }
}

/// S30. Ten thousand seeds: `simulate --scenario chaos --seeds 10000`.
#[test]
fn all_faults_in_a_random_mix_end_in_one_view() {
    let reports: Vec<Report> = [(8, 0..12), (5, 12..20), (3, 20..30)]
        .into_iter()
        .flat_map(|(nodes, seeds)| check("chaos", nodes, seeds))
        .collect();
    // Not every run meets every fault, but all together must: what did not happen was not tested.
    let happened = |what: &str, count: fn(&Report) -> u64| {
        let sum: u64 = reports.iter().map(count).sum();
        assert!(sum > 20, "{what}: {sum} times in {} runs", reports.len());
    };
    happened("lost", |report| report.network.lost);
    happened("lost in bursts", |report| report.network.lost_in_bursts);
    happened("detours", |report| report.network.detours);
    happened("too large", |report| report.network.too_large);
    happened("blocked", |report| report.network.blocked);
    happened("duplicated", |report| report.network.duplicated);
    happened("stateless resets", |report| report.counts.resets);
    happened("failed dials", |report| report.counts.dials_failed);
    happened("suspicions", |report| report.counts.suspicions);
    happened("refutations", |report| report.counts.refuted);
    happened("deaths", |report| report.deaths.0 as u64);
}

#[test]
fn all_faults_under_harder_conditions_end_in_one_view() {
    check("chaos-slow", 6, 0..6);
    check("chaos-fast", 6, 0..6);
    for report in check("chaos-liar", 6, 0..6) {
        assert!(report.counts.damaged > 0, "seed={}", report.seed);
    }
}
