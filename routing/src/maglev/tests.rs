use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn entry(name: u32, weight: u32) -> Entry {
    let mut mark = [0; 16];
    mark.iter_mut().zip(Sha256::digest(name.to_be_bytes())).for_each(|(to, from)| *to = from);
    Entry { mark: Mark(mark), weight, position: name }
}

fn table(weights: &[(u32, u32)]) -> Maglev {
    Maglev::new(HashKey::Path, weights.iter().map(|(name, weight)| entry(*name, *weight)).collect(), None)
}

/// Slots of each name.
fn slots(maglev: &Maglev) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for slot in maglev.slots.iter() {
        *counts.entry(maglev.entries[usize::from(*slot)].position).or_default() += 1;
    }
    counts
}

/// Slots that mean another name.
fn moved(one: &Maglev, two: &Maglev) -> usize {
    let name = |maglev: &Maglev, at: usize| maglev.entries[usize::from(maglev.slots[at])].position;
    (0..MAGLEV_SLOTS).filter(|at| name(one, *at) != name(two, *at)).count()
}

fn equal(names: impl IntoIterator<Item = u32>) -> Maglev {
    table(&names.into_iter().map(|name| (name, 100)).collect::<Vec<_>>())
}

#[test]
fn the_number_of_slots_is_prime_so_that_every_walk_comes_by_all() {
    let root = (1..).find(|n: &usize| n * n > MAGLEV_SLOTS).unwrap();
    assert!((2..=root).all(|n| !MAGLEV_SLOTS.is_multiple_of(n)));
}

/// Section 3.4: "almost equal": between two endpoints at most a slot where each turn gives one.
#[test]
fn slots_are_even() {
    for len in [1, 2, 3, 10, 100, 655] {
        let counts = slots(&equal(0..len));
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        assert_eq!(counts.len(), len as usize);
        assert!(most - least <= 1, "{len}: {least} {most}");
    }
}

/// Looking at everybody in each round would take 200 million looks here.
#[test]
fn one_heavy_endpoint_among_thousands_has_its_share() {
    let weights: Vec<(u32, u32)> = (0..5_000).map(|name| (name, if name == 7 { 1_000_000 } else { 100 })).collect();
    let counts = slots(&table(&weights));
    // A ten-thousandth of its weight is a slot in every ten thousandth round.
    assert!(counts.iter().all(|(name, slots)| *slots == if *name == 7 { MAGLEV_SLOTS - 4 * 4_999 } else { 4 }));
}

#[test]
fn weights_are_slots() {
    let counts = slots(&table(&[(1, 300), (2, 100), (3, 200)]));
    for (name, share) in [(1, 0.5), (2, 1.0 / 6.0), (3, 1.0 / 3.0)] {
        let got = counts[&name] as f64 / MAGLEV_SLOTS as f64;
        assert!((got - share).abs() < 0.001, "{name}: {got}");
    }
}

/// Section 5.3 finds a few per mill beyond those that must move, at these sizes.
#[test]
fn when_one_goes_its_own_keys_move_and_few_others() {
    for len in [3u32, 10, 100] {
        let whole = equal(0..len);
        for gone in [0, len / 2, len - 1] {
            let left = equal((0..len).filter(|name| *name != gone));
            let own = slots(&whole)[&gone];
            let others = moved(&whole, &left) - own;
            assert!(others * 100 <= MAGLEV_SLOTS * 6, "{len}: {others} others of {MAGLEV_SLOTS} moved");
        }
    }
}

#[test]
fn without_endpoints_or_weights_nothing_is_meant() {
    assert_eq!(table(&[]).positions(7).count(), 0);
    assert_eq!(table(&[]).highest(7, |_| true), None);
}

#[test]
fn a_key_is_hashed_so_often_and_no_more() {
    assert_eq!(equal(0..3).positions(7).count(), MAGLEV_PROBES_MAX as usize);
}

#[test]
fn a_table_is_made_anew_only_when_names_or_weights_change() {
    let one = equal(0..5);
    let again = Maglev::new(HashKey::Source, one.entries.clone(), Some(&one));
    assert!(Arc::ptr_eq(&one.slots, &again.slots));
    let other = Maglev::new(HashKey::Path, equal(0..4).entries, Some(&one));
    assert_eq!(other, equal(0..4));
}

#[test]
fn rendezvous_shares_by_weight_and_moves_only_the_keys_of_whoever_goes() {
    let maglev = table(&[(1, 300), (2, 100), (3, 200)]);
    let mut counts = BTreeMap::new();
    for key in 0..30_000u64 {
        let key = hash_key(&[&key.to_be_bytes()]);
        let one = maglev.highest(key, |_| true).unwrap();
        *counts.entry(one).or_insert(0u32) += 1;
        let without = maglev.highest(key, |position| position != 2).unwrap();
        assert!(one == 2 || without == one, "{key}");
    }
    for (name, share) in [(1, 0.5), (2, 1.0 / 6.0), (3, 1.0 / 3.0)] {
        assert!((f64::from(counts[&name]) / 30_000.0 - share).abs() < 0.02, "{counts:?}");
    }
}

#[test]
fn parts_of_a_key_do_not_run_into_each_other() {
    assert_ne!(hash_key(&[b"ab", b"c"]), hash_key(&[b"a", b"bc"]));
    assert_ne!(hash_key(&[b""]), hash_key(&[]));
    // The same in every release, or all keys would move with an update.
    assert_eq!(hash_key(&[b"user-7"]), GOLDEN);
}

/// By another implementation.
const GOLDEN: u64 = 0xb4c8_4991_b32f_6391;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Disruption (section 3.4): when one of some endpoints of any weights comes or goes, the keys that move beyond its own
    /// are few.
    #[test]
    fn of_any_weights_few_keys_move(weights in prop::collection::vec(1u32..1_000, 2..40), gone in any::<prop::sample::Index>()) {
        let named: Vec<(u32, u32)> = (0u32..).zip(weights).collect();
        let gone = gone.index(named.len());
        let whole = table(&named);
        let left = table(&named.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, one)| *one).collect::<Vec<_>>());
        let own = slots(&whole).get(&named[gone].0).copied().unwrap_or_default();
        let others = moved(&whole, &left) - own;
        prop_assert!(others * 100 <= MAGLEV_SLOTS * 15, "{} others of {}", others, MAGLEV_SLOTS);
    }

    /// Evenness: each has its share of the slots, within one turn of all.
    #[test]
    fn of_any_weights_each_has_its_share(weights in prop::collection::vec(1u32..1_000, 1..60)) {
        let named: Vec<(u32, u32)> = (0u32..).zip(weights.iter().copied()).collect();
        let counts = slots(&table(&named));
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (name, weight) in &named {
            let want = MAGLEV_SLOTS as f64 * f64::from(*weight) / total as f64;
            let got = counts.get(name).copied().unwrap_or_default() as f64;
            prop_assert!((want - got).abs() <= weights.len() as f64 / 2.0 + 2.0, "{}: {} of {}", name, got, want);
        }
    }
}
