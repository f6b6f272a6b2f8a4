//! The threshold experiment: one anomaly of length D, then silence until all see all well again or two minutes are over.
//! It measures how long a real failure takes to be seen (the paper's Tables V and VII).

use std::time::Duration;

use super::configurations::{self, Configuration};
use super::{Experiment, Replay, Size, table};
use crate::parallel;
use crate::statistics::Times;

/// When a run ends at the latest, counted from the begin of the anomaly.
const LENGTH_MAX: Duration = Duration::from_secs(120);
/// How often it is looked at whether all see all well.
const LOOK: Duration = Duration::from_millis(500);

/// The experiment as a command.
pub const THRESHOLD: Experiment = Experiment {
    name: "lifeguard-threshold",
    about: "the Lifeguard paper's threshold experiment: how soon anomalous agents are found, for each configuration",
    run: |size| report(size, &measure(size, &size.chosen(compared()))),
};

fn compared() -> Vec<Configuration> {
    let mut all = configurations::all();
    all.extend([configurations::lifeguard_with(4, 6), configurations::lifeguard_with(2, 6)]);
    all
}

/// One cell of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Agents that are anomalous at once.
    pub anomalous: usize,
    /// How long, in milliseconds.
    pub anomaly_ms: u64,
}

/// The cells of the paper's grid, or those that are run regularly: anomalies long enough to be seen as failures.
#[must_use]
pub fn cells(full: bool) -> Vec<Cell> {
    let (anomalous, lengths): (&[usize], &[u64]) = if full {
        (&[1, 4, 8, 12, 16, 20, 24, 28, 32], &[128, 512, 2_048, 8_192, 16_384, 32_768])
    } else {
        (&[1, 8, 32], &[8_192, 16_384, 32_768])
    };
    let mut cells = Vec::new();
    for anomalous in anomalous {
        cells.extend(lengths.iter().map(|anomaly_ms| Cell { anomalous: *anomalous, anomaly_ms: *anomaly_ms }));
    }
    cells
}

/// What one run showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For each anomalous agent that any well agent held for failed: when the first did, since the anomaly began.
    pub first: Vec<Duration>,
    /// For each anomalous agent that all well agents held for failed: when the last did.
    pub last: Vec<Duration>,
    /// Failure events about well agents.
    pub fp: u64,
    /// When all saw all well again, if they did.
    pub well: Option<Duration>,
}

/// One run.
#[must_use]
pub fn run(configuration: &Configuration, agents: usize, cell: Cell, seed: u64) -> Outcome {
    let mut replay = Replay::settled(&configuration.config, agents, cell.anomalous, seed);
    let (anomalous, begin) = (replay.anomalous(), replay.sim.now());
    replay.sim.block(&anomalous);
    replay.sim.run_for(Duration::from_millis(cell.anomaly_ms));
    replay.sim.release(&anomalous);
    let mut well = None;
    while well.is_none() && replay.sim.now().since(begin) < LENGTH_MAX {
        replay.sim.run_for(LOOK);
        if Replay::is_well(&replay.sim, &replay.hosts) {
            well = Some(replay.sim.now().since(begin));
        }
    }
    let mut outcome = Outcome { well, ..Outcome::default() };
    let others = replay.hosts.len() - anomalous.len();
    for id in &replay.hosts {
        let deaths = replay.sim.checker.deaths_of(&replay.sim.host(*id).name, begin);
        if !replay.is_anomalous(*id) {
            outcome.fp += deaths.len() as u64;
            continue;
        }
        let seen: Vec<Duration> =
            deaths.iter().filter(|(observer, _)| !replay.is_anomalous(**observer)).map(|(_, at)| *at).collect();
        outcome.first.extend(seen.iter().min());
        if seen.len() == others {
            outcome.last.extend(seen.iter().max());
        }
    }
    outcome
}

/// All runs of one configuration together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Anomalous agents over all runs.
    pub anomalous: usize,
    /// First detections.
    pub first: Times,
    /// Full disseminations.
    pub full: Times,
    /// Failure events about well agents.
    pub fp: u64,
    /// Runs that ended with all well.
    pub healed: u64,
}

/// Runs all cells with all seeds for each configuration.
#[must_use]
pub fn measure(size: &Size, configurations: &[Configuration]) -> Vec<(Configuration, Summary)> {
    let mut jobs = Vec::new();
    for (at, _) in configurations.iter().enumerate() {
        for cell in cells(size.full) {
            jobs.extend((1..=size.seeds).map(|seed| (at, cell, seed)));
        }
    }
    let outcomes =
        parallel::run(&jobs, size.threads, |(at, cell, seed)| run(&configurations[*at], size.agents, *cell, *seed));
    let summary = |wanted: usize| {
        let mine = || jobs.iter().zip(&outcomes).filter(move |((at, ..), _)| *at == wanted);
        Summary {
            runs: mine().count() as u64,
            anomalous: mine().map(|((_, cell, _), _)| cell.anomalous).sum(),
            first: Times::new(mine().flat_map(|(_, outcome)| outcome.first.iter().copied()).collect()),
            full: Times::new(mine().flat_map(|(_, outcome)| outcome.last.iter().copied()).collect()),
            fp: mine().map(|(_, outcome)| outcome.fp).sum(),
            healed: mine().filter(|(_, outcome)| outcome.well.is_some()).count() as u64,
        }
    };
    configurations.iter().enumerate().map(|(at, one)| (one.clone(), summary(at))).collect()
}

/// The table; per cent are of the first configuration.
#[must_use]
pub fn report(size: &Size, measured: &[(Configuration, Summary)]) -> String {
    let base = measured.first().map(|(_, summary)| summary.clone()).unwrap_or_default();
    let mut text = format!(
        "{} agents, seeds 1 to {}, {} cells, {} runs of each configuration, {} anomalies of one agent each.\n\n",
        size.agents,
        size.seeds,
        cells(size.full).len(),
        base.runs,
        base.anomalous
    );
    text += &table::head(&[
        "configuration",
        "seen by any",
        "first: median, s",
        "% of SWIM",
        "99 %",
        "99.9 %",
        "seen by all",
        "full: median, s",
        "% of SWIM",
        "99 %",
        "99.9 %",
        "FP",
        "healed runs",
    ]);
    for (configuration, summary) in measured {
        let share = |times: &Times, of: &Times| {
            if of.count() == 0 {
                return "-".to_owned();
            }
            format!("{:.2} %", 100.0 * times.median().as_secs_f64() / of.median().as_secs_f64())
        };
        let row = [
            configuration.name.to_owned(),
            summary.first.count().to_string(),
            table::seconds(summary.first.median()),
            share(&summary.first, &base.first),
            table::seconds(summary.first.at(0.99)),
            table::seconds(summary.first.at(0.999)),
            summary.full.count().to_string(),
            table::seconds(summary.full.median()),
            share(&summary.full, &base.full),
            table::seconds(summary.full.at(0.99)),
            table::seconds(summary.full.at(0.999)),
            summary.fp.to_string(),
            format!("{} of {}", summary.healed, summary.runs),
        ];
        table::row(&mut text, &row);
    }
    text
}
