use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::table::Pool;

fn pool(weights: &[u64]) -> Pool {
    let mut pool = Pool::default();
    for (position, weight) in (0u32..).zip(weights) {
        pool.push(position, *weight);
    }
    pool
}

fn turns(weights: &[u64], len: u32) -> Vec<u32> {
    (0..len).map(|turn| pool(weights).in_turn(turn).unwrap()).collect()
}

#[test]
fn equals_come_one_after_the_other() {
    assert_eq!(turns(&[100, 100, 100], 7), [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(turns(&[5], 3), [0, 0, 0]);
}

#[test]
fn the_heavy_ones_turns_are_spread() {
    assert_eq!(turns(&[300, 100], 8), [0, 1, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn without_endpoints_nobody_has_a_turn() {
    assert_eq!(pool(&[]).in_turn(3), None);
}

proptest! {
    /// In one cycle each has as many turns as its weight says, exactly.
    #[test]
    fn a_cycle_gives_each_its_weight(weights in prop::collection::vec(1u64..50, 1..12), times in 1u64..100) {
        let scaled: Vec<u64> = weights.iter().map(|weight| weight * times).collect();
        let unit = scaled.iter().fold(0, |unit, weight| gcd(unit, *weight));
        let cycle = u32::try_from(scaled.iter().sum::<u64>() / unit).unwrap();
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        let pool = pool(&scaled);
        (0..cycle).for_each(|turn| *counts.entry(pool.in_turn(turn).unwrap()).or_default() += 1);
        for (position, weight) in (0u32..).zip(&scaled) {
            prop_assert_eq!(counts[&position], weight / unit);
        }
    }

    #[test]
    fn any_turn_of_any_weights_is_somebodys(weights in prop::collection::vec(1u64..=1_000_000, 1..40), turn in any::<u32>()) {
        prop_assert!(pool(&weights).in_turn(turn).is_some());
    }
}
