//! The simulator itself: what it promises before anything that it says about gossip counts.

use std::ops::Range;

use sim::{Broken, Report, parallel, scenario};

/// The seeds with which every run of the tests meets each scenario that it can afford (gossip.md, 17).
pub(crate) const SEEDS: Range<u64> = 0..200;

/// Runs a scenario over seeds; the first that breaks fails the test with its story and how to replay it.
pub(crate) fn check(name: &str, nodes: usize, seeds: Range<u64>) -> Vec<Report> {
    let scenario = scenario::find(name).unwrap_or_else(|| panic!("no scenario {name}"));
    let seeds: Vec<u64> = seeds.collect();
    let outcomes = parallel::run(&seeds, parallel::threads(), |seed| scenario.run(nodes, *seed));
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|broken: Box<Broken>| panic!("{broken}"))).collect()
}

/// S29: same seed, same history.
#[test]
fn equal_seeds_give_equal_traces_and_others_do_not() {
    for (name, nodes) in [("chaos", 6), ("announce", 4)] {
        let (first, again) = (check(name, nodes, 3..4), check(name, nodes, 3..4));
        assert_eq!(first[0].trace, again[0].trace, "{name} seed=3");
        assert_eq!(first[0].lines, again[0].lines, "{name} seed=3");
        assert_ne!(first[0].trace, check(name, nodes, 4..5)[0].trace, "{name} seed=4");
    }
}

#[test]
fn scenario_names_are_unique_and_explained() {
    let mut names: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), scenario::ALL.len());
    assert!(scenario::ALL.iter().all(|scenario| scenario.about.len() > 20));
}
