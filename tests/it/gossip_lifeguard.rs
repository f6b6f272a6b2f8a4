//! The Lifeguard paper's experiments on a small grid (rows S2 to S4): what its components are worth with this machine,
//! and that our own rules keep it. The paper's grid is `simulate --scenario lifeguard-interval --full`.

use std::time::Duration;

use sim::lifeguard::interval::{self, Outcome};
use sim::lifeguard::{Configuration, configurations, detection, threshold};
use sim::scenario::suspicion_min;
use sim::{parallel, statistics::Times};
use starling_gossip::SwimConfig;

/// Enough for the shapes; the paper has 128.
const AGENTS: usize = 32;

/// The sums of short anomalies, which only cost messages, and of long ones with gaps in which hardly a refutation passes.
fn false_positives(configurations: &[Configuration]) -> Vec<Outcome> {
    let cell = |anomaly_ms, gap_ms| interval::Cell { anomalous: 8, anomaly_ms, gap_ms };
    let cells = [cell(2_048, 256), cell(8_192, 4), cell(16_384, 1)];
    let mut jobs = Vec::new();
    for at in 0..configurations.len() {
        jobs.extend(cells.iter().flat_map(|cell| (1..=2).map(move |seed| (at, *cell, seed))));
    }
    let outcomes = parallel::run(&jobs, parallel::threads(), |(at, cell, seed)| {
        interval::run(&configurations[*at], AGENTS, *cell, *seed)
    });
    let sum = |wanted: usize| {
        let mine = jobs.iter().zip(&outcomes).filter(|((at, ..), _)| *at == wanted);
        interval::total(&mine.map(|((_, cell, _), outcome)| (*cell, *outcome)).collect::<Vec<_>>())
    };
    (0..configurations.len()).map(sum).collect()
}

/// S2 and S4. The paper: 1.53 % of the false positives, 110.59 % of the messages, 97.97 % of the bytes.
#[test]
fn lifeguard_and_our_rules_blame_few_of_the_well_for_the_slow() {
    let sums = false_positives(&[configurations::baseline(), configurations::lifeguard(), configurations::ours()]);
    let [swim, lifeguard, ours] = sums.as_slice() else { panic!("three were asked for") };
    println!("SWIM {swim:?}\nLifeguard {lifeguard:?}\nours {ours:?}");
    assert!(swim.fp > 500, "plain SWIM blames few, so the anomalies did not take place: {swim:?}");
    assert!(lifeguard.fp * 20 < swim.fp, "{lifeguard:?} after {swim:?}");
    assert!(ours.fp * 20 < swim.fp, "{ours:?} after {swim:?}");
    assert_eq!((lifeguard.fp_healthy, ours.fp_healthy), (0, 0));
    let most = |percent: u64, of: u64| of * percent / 100;
    assert!(lifeguard.messages <= most(110, swim.messages), "{lifeguard:?} after {swim:?}");
    assert!(lifeguard.bytes <= most(98, swim.bytes), "{lifeguard:?} after {swim:?}");
}

/// S3, at 32 agents: medians and shares of the paper's Tables V and VII, whose shortest suspicion is longer by the
/// logarithm of the size.
#[test]
fn anomalous_agents_are_found_as_soon_as_the_paper_says() {
    // Eight detections each: with 96 a median is good to a few hundredths, with 32 only to a tenth.
    const SEEDS: u64 = 12;
    let first = |configuration: &Configuration| -> Times {
        let cell = threshold::Cell { anomalous: 8, anomaly_ms: 32_768 };
        let seeds: Vec<u64> = (1..=SEEDS).collect();
        let outcomes =
            parallel::run(&seeds, parallel::threads(), |seed| threshold::run(configuration, AGENTS, cell, *seed));
        assert!(
            outcomes.iter().all(|outcome| outcome.well.is_some()),
            "{}: not all are well again",
            configuration.name
        );
        Times::new(outcomes.into_iter().flat_map(|outcome| outcome.first).collect())
    };
    let (swim, lifeguard) = (first(&configurations::baseline()), first(&configurations::lifeguard()));
    let (four, two) = (first(&configurations::lifeguard_with(4, 6)), first(&configurations::lifeguard_with(2, 6)));
    for times in [&swim, &lifeguard, &four, &two] {
        assert_eq!(times.count() as u64, 8 * SEEDS, "all 8 in each run: {times:?}");
    }
    // Shortest suspicion 5 x 1.505 s, then 1.9 s: the paper's 10.536 and 12.45 s at 128.
    let limit = Duration::from_millis(7_525 + 1_914 + 600);
    assert!(swim.median() <= limit && lifeguard.median() <= limit, "{swim:?} {lifeguard:?}");
    let share = |times: &Times| times.median().as_secs_f64() / swim.median().as_secs_f64();
    assert!(share(&lifeguard) < 1.10, "{}", share(&lifeguard));
    // 93 % and 78 % here: with 32 agents the shortest suspicion is a smaller part of the whole. With the paper's 128
    // agents they are 84.52 % and 54.38 % (`simulate --scenario lifeguard-threshold --seeds 1 --only Lifeguard`).
    assert!((0.75..0.97).contains(&share(&four)), "83.12 % in the paper: {}", share(&four));
    assert!((0.45..0.85).contains(&share(&two)), "54.34 % in the paper: {}", share(&two));
}

/// S1, our defaults: SWIM 5 expects the first failed probe in period 1.58 on average, whatever the size. With 1,000 it is
/// `simulate --scenario detection --full`.
#[test]
fn a_crash_is_found_when_swim_says() {
    found_as_expected(8, 14);
    found_as_expected(32, 30);
    found_as_expected(128, 4);
}

fn found_as_expected(agents: usize, seeds: u64) {
    let config = SwimConfig::lan();
    let seeds: Vec<u64> = (1..=seeds).collect();
    let outcomes = parallel::run(&seeds, parallel::threads(), |seed| detection::run(&config, agents, 20, *seed));
    let probes: Vec<Duration> = outcomes.iter().flat_map(|outcome| outcome.probe.iter().copied()).collect();
    let first = Times::new(outcomes.iter().flat_map(|outcome| outcome.first.iter().copied()).collect());
    let spread = Times::new(outcomes.iter().flat_map(|outcome| outcome.spread.iter().copied()).collect());
    assert_eq!((probes.len(), first.count()), (seeds.len() * 20, seeds.len() * 20));
    let period = detection::mean_period(&probes, config.probe_interval);
    // SWIM, 3.1: each period a member is somebody's target with chance p; the mean of so many crashes within 3 deviations.
    let others = (agents - 1) as f64;
    let p = 1.0 - (1.0 - 1.0 / others).powf(others);
    let off = 3.0 * (1.0 - p).sqrt() / p / (probes.len() as f64).sqrt();
    assert!((period - 1.0 / p).abs() <= off, "{agents} agents: {period}, not {} to within {off}", 1.0 / p);
    let shortest = suspicion_min(&config, agents);
    for (share, most_ms) in [(0.5, 1_900), (0.99, 7_400), (0.999, 10_700)] {
        let found = first.at(share);
        assert!(found <= shortest + Duration::from_millis(most_ms), "{agents} agents, {share}: {found:?}");
    }
    assert!(first.at(0.0) >= shortest, "{agents} agents: {:?} is too early", first.at(0.0));
    assert!(spread.median() <= Duration::from_millis(500), "{agents} agents: {:?}", spread.median());
    assert_eq!(outcomes.iter().map(|outcome| outcome.fp).sum::<usize>(), 0);
}

/// A result depends on its seed and on nothing else.
#[test]
fn threads_change_no_result() {
    let cell = interval::Cell { anomalous: 2, anomaly_ms: 16_384, gap_ms: 64 };
    let run = |seed: &u64| interval::run(&configurations::lifeguard(), 8, cell, *seed);
    let seeds = [1, 2, 3];
    let alone = parallel::run(&seeds, 1, run);
    assert_eq!(alone, parallel::run(&seeds, 3, run));
    assert_ne!(alone[0], alone[1]);
}
