//! The interval experiment: anomalies of length D, gaps of length I, for two minutes. It counts false positives and what
//! the agents send (the paper's Tables IV and VI).

use std::time::Duration;

use super::configurations::{self, Configuration};
use super::traffic::{CAUSES, Traffic};
use super::{Experiment, Replay, Size, table};
use crate::parallel;

/// Anomalies come until so much time has passed; the one that begins then is the last.
const LENGTH: Duration = Duration::from_secs(120);

/// The experiment as a command.
pub const INTERVAL: Experiment = Experiment {
    name: "lifeguard-interval",
    about: "the Lifeguard paper's interval experiment: false positives and load of its components and of our rules",
    run: |size| {
        let cells = cells(size.full);
        report(size, &measure(size, &size.chosen(configurations::all()), &cells))
    },
};

/// One cell of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Agents that are anomalous at once.
    pub anomalous: usize,
    /// How long each anomaly lasts, in milliseconds.
    pub anomaly_ms: u64,
    /// How long they are well between two, in milliseconds.
    pub gap_ms: u64,
}

/// The cells of the paper's grid, or those that are run regularly.
#[must_use]
pub fn cells(full: bool) -> Vec<Cell> {
    let (anomalous, lengths, gaps): (&[usize], &[u64], &[u64]) = if full {
        (
            &[1, 4, 8, 12, 16, 20, 24, 28, 32],
            &[128, 512, 2_048, 8_192, 16_384, 32_768],
            &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384],
        )
    } else {
        (&[1, 8, 32], &[2_048, 8_192, 32_768], &[4, 256, 4_096])
    };
    let mut cells = Vec::new();
    for anomalous in anomalous {
        for anomaly_ms in lengths {
            cells.extend(gaps.iter().map(|gap_ms| Cell {
                anomalous: *anomalous,
                anomaly_ms: *anomaly_ms,
                gap_ms: *gap_ms,
            }));
        }
    }
    cells
}

/// What runs of one configuration came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Runs.
    pub runs: u64,
    /// Anomalies, counted once for all agents that had one together.
    pub anomalies: u64,
    /// Failure events about agents that were never anomalous, raised anywhere.
    pub fp: u64,
    /// Of these, raised at agents that were never anomalous.
    pub fp_healthy: u64,
    /// Failure events about anomalous agents.
    pub detections: u64,
    /// Suspicions, whoever was suspected and by whomever.
    pub suspicions: u64,
    /// Datagrams and stream frames sent after the mesh had settled.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What they were for.
    pub traffic: Traffic,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.anomalies += other.anomalies;
        self.fp += other.fp;
        self.fp_healthy += other.fp_healthy;
        self.detections += other.detections;
        self.suspicions += other.suspicions;
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.traffic = self.traffic.plus(&other.traffic);
    }
}

/// One run.
#[must_use]
pub fn run(configuration: &Configuration, agents: usize, cell: Cell, seed: u64) -> Outcome {
    let mut replay = Replay::settled(&configuration.config, agents, cell.anomalous, seed);
    let (anomalous, begin) = (replay.anomalous(), replay.sim.now());
    let before = replay.sim.checker.counts.clone();
    replay.sim.checker.traffic = Some(Traffic::default());
    let mut outcome = Outcome { runs: 1, ..Outcome::default() };
    loop {
        let last = replay.sim.now().since(begin) >= LENGTH;
        replay.sim.block(&anomalous);
        replay.sim.run_for(Duration::from_millis(cell.anomaly_ms));
        replay.sim.release(&anomalous);
        outcome.anomalies += 1;
        if last {
            break;
        }
        replay.sim.run_for(Duration::from_millis(cell.gap_ms));
    }
    let counts = &replay.sim.checker.counts;
    outcome.messages = counts.datagrams.0 + counts.frames.0 - before.datagrams.0 - before.frames.0;
    outcome.bytes = counts.datagrams.1 + counts.frames.1 - before.datagrams.1 - before.frames.1;
    outcome.traffic = replay.sim.checker.traffic.unwrap_or_default();
    outcome.suspicions = counts.suspicions - before.suspicions;
    assert_eq!(counts.overflowed, 0, "seed={seed}: more was held than an anomaly can hold");
    for death in replay.sim.checker.deaths.iter().filter(|death| death.at >= begin) {
        let subject = replay.hosts.iter().find(|id| replay.sim.host(**id).name == death.subject);
        if subject.is_some_and(|id| replay.is_anomalous(*id)) {
            outcome.detections += 1;
        } else {
            outcome.fp += 1;
            outcome.fp_healthy += u64::from(!replay.is_anomalous(death.observer));
        }
    }
    outcome
}

/// What each configuration came to in each cell.
pub type Measured = Vec<(Configuration, Vec<(Cell, Outcome)>)>;

/// Runs these cells with all seeds for each configuration; outcomes by cell.
#[must_use]
pub fn measure(size: &Size, configurations: &[Configuration], cells: &[Cell]) -> Measured {
    // All configurations meet a cell one after another, so that a run that is cut short compares like with like.
    let mut jobs = Vec::new();
    for seed in 1..=size.seeds {
        for cell in cells {
            jobs.extend((0..configurations.len()).map(|at| (at, *cell, seed)));
        }
    }
    let outcomes = parallel::run(&jobs, size.threads, |(at, cell, seed)| {
        let outcome = run(&configurations[*at], size.agents, *cell, *seed);
        (size.progress)(&format!("{} seed={seed} {cell:?} {outcome:?}", configurations[*at].name));
        outcome
    });
    let none = |cell: &Cell| (*cell, Outcome::default());
    let mut measured: Measured =
        configurations.iter().map(|one| (one.clone(), cells.iter().map(none).collect())).collect();
    for ((at, cell, _), outcome) in jobs.iter().zip(&outcomes) {
        if let Some((_, sum)) = measured[*at].1.iter_mut().find(|(known, _)| known == cell) {
            sum.add(outcome);
        }
    }
    measured
}

/// The sum over all cells.
#[must_use]
pub fn total(cells: &[(Cell, Outcome)]) -> Outcome {
    cells.iter().fold(Outcome::default(), |mut sum, (_, outcome)| {
        sum.add(outcome);
        sum
    })
}

/// The tables; per cent are of the first configuration.
#[must_use]
pub fn report(size: &Size, measured: &Measured) -> String {
    let base = measured.first().map(|(_, cells)| total(cells)).unwrap_or_default();
    let mut text = format!(
        "{} agents, seeds 1 to {}, {} cells, {} runs of each configuration.\n\n",
        size.agents,
        size.seeds,
        measured.first().map_or(0, |(_, cells)| cells.len()),
        base.runs
    );
    text += &table::head(&[
        "configuration",
        "FP",
        "% of SWIM",
        "per run",
        "FP-",
        "% of SWIM",
        "per run",
        "suspicions",
        "messages",
        "% of SWIM",
        "MiB",
        "% of SWIM",
    ]);
    for (configuration, cells) in measured {
        let sum = total(cells);
        let per_run = |count: u64| format!("{:.4}", count as f64 / sum.runs.max(1) as f64);
        let row = [
            configuration.name.to_owned(),
            sum.fp.to_string(),
            table::percent(sum.fp, base.fp),
            per_run(sum.fp),
            sum.fp_healthy.to_string(),
            table::percent(sum.fp_healthy, base.fp_healthy),
            per_run(sum.fp_healthy),
            sum.suspicions.to_string(),
            sum.messages.to_string(),
            table::percent(sum.messages, base.messages),
            format!("{:.1}", sum.bytes as f64 / f64::from(1 << 20)),
            table::percent(sum.bytes, base.bytes),
        ];
        table::row(&mut text, &row);
    }
    text += "\nFP by length of the anomaly, ms:\n\n";
    text += &by_length(measured);
    text + "\nMessages of one run by what they are for:\n\n" + &by_cause(measured)
}

fn by_cause(measured: &Measured) -> String {
    let mut columns = vec!["configuration"];
    columns.extend(CAUSES.iter().map(|(_, name)| *name));
    let mut text = table::head(&columns);
    for (configuration, cells) in measured {
        let sum = total(cells);
        let mut row = vec![configuration.name.to_owned()];
        row.extend(CAUSES.iter().map(|(cause, _)| (sum.traffic.of(*cause) / sum.runs.max(1)).to_string()));
        table::row(&mut text, &row);
    }
    text
}

fn by_length(measured: &Measured) -> String {
    let all = measured.first().map_or(&[][..], |(_, cells)| cells.as_slice());
    let mut lengths: Vec<u64> = all.iter().map(|(cell, _)| cell.anomaly_ms).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let names: Vec<String> = lengths.iter().map(u64::to_string).collect();
    let mut columns = vec!["configuration"];
    columns.extend(names.iter().map(String::as_str));
    let mut text = table::head(&columns);
    for (configuration, cells) in measured {
        let of = |length: &u64| -> u64 {
            cells.iter().filter(|(cell, _)| cell.anomaly_ms == *length).map(|(_, outcome)| outcome.fp).sum()
        };
        let mut row = vec![configuration.name.to_owned()];
        row.extend(lengths.iter().map(|length| of(length).to_string()));
        table::row(&mut text, &row);
    }
    text
}
