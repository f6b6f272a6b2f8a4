//! Networks and processes that fail in part.

use crate::gossip_simulator::check;

#[test]
fn loss_of_up_to_thirty_per_cent_buries_nobody_and_a_crash_is_still_found() {
    for report in check("loss", 10, 0..3) {
        assert!(report.network.lost > 1_000, "seed={}", report.seed);
    }
}

#[test]
fn two_and_one_split_and_are_one_again() {
    check("split", 3, 0..5);
}

#[test]
fn two_halves_split_and_are_one_again() {
    check("split", 10, 0..3);
}

#[test]
fn one_node_cut_off_keeps_its_view() {
    check("cut-off", 12, 0..2);
}

#[test]
fn indirect_probes_save_both_ends_of_a_broken_edge() {
    check("edge", 5, 0..4);
}

#[test]
fn a_node_that_nobody_hears_is_found() {
    check("one-way", 6, 0..3);
}

#[test]
fn a_short_pause_evicts_nobody_and_a_long_one_heals() {
    check("pause-short", 8, 0..3);
    check("pause-long", 6, 0..3);
}

#[test]
fn a_member_that_damages_what_it_sends_hurts_only_itself() {
    for report in check("liar", 6, 0..3) {
        assert!(report.counts.damaged > 100, "seed={}", report.seed);
    }
}

#[test]
fn all_faults_in_a_random_mix_end_in_one_view() {
    for report in check("chaos", 8, 0..6) {
        assert!(report.counts.refuted > 0 && report.counts.resets > 0, "seed={}", report.seed);
    }
}
