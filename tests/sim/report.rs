//! The report on gossip: measured meshes as tables, with the seeds and the command that make them again.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use starling_gossip::SwimConfig;

use crate::cluster::Setup;
use crate::figures::{Figures, Plan, measure, peak_bytes, percentile};
use crate::lifeguard::interval::{self, Cell};
use crate::lifeguard::{Size, configurations};
use crate::scenario;

/// A part of the report: its heading and how its text comes about.
pub type Section = (&'static str, fn(&Scope) -> Result<String, String>);

/// All parts, in their order.
pub const SECTIONS: &[Section] = &[
    ("Meshes of one site", meshes),
    ("One member in 50 is lost at once", losses),
    ("One of 25 crashes, preset `fast`", crash_of_25),
    ("The Lifeguard paper's false positives and load", anomalies),
];

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Sizes of meshes.
    pub sizes: Vec<usize>,
    /// The first seed; each further run takes the next.
    pub seed: u64,
    /// Words of which a section's heading has one to be measured; all are without any.
    pub sections: Vec<String>,
}

impl Scope {
    fn has(&self, heading: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|word| heading.contains(word.as_str()))
    }
}

/// Makes the report; sections that are not asked for stay as they are in the `old` one. `progress` is told what is being
/// measured.
///
/// # Errors
/// What did not come about or broke a promise: no report is better than a wrong one.
pub fn markdown(scope: &Scope, old: &str, mut progress: impl FnMut(&str)) -> Result<String, String> {
    let sizes: Vec<String> = scope.sizes.iter().map(ToString::to_string).collect();
    let mut text = String::from("# Gossip in the simulator\n\n");
    let _ = writeln!(
        text,
        "Written by `cargo run --release -p starling-tests --bin simulate -- --report docs/measurements/gossip.md --sizes {} \
         --seed {}`, and of one section alone with `--sections WORD`, a word of its heading. The machines are the real ones of `starling-gossip`; time, network, disks and signatures are \
         simulated (`tests/sim`). Virtual times repeat exactly for a seed; speeds and memory are those of this machine: {}.",
        sizes.join(","),
        scope.seed,
        machine(),
    );
    for (heading, section) in SECTIONS {
        if !scope.has(heading) {
            text.push_str(kept(old, heading));
            continue;
        }
        progress(heading);
        let begin = Instant::now();
        let part = section(scope)?;
        let _ = write!(text, "\n## {heading}\n\n{part}\nMeasured in {:.0} s.\n", begin.elapsed().as_secs_f64());
    }
    Ok(text)
}

/// A section of a report with its heading, or nothing.
fn kept<'a>(report: &'a str, heading: &str) -> &'a str {
    let Some(begin) = report.find(&format!("\n## {heading}\n")) else { return "" };
    let rest = &report[begin..];
    let end = rest[1..].find("\n## ").map_or(rest.len(), |end| end + 1);
    &rest[..end]
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).and_then(|line| line.split(':').nth(1));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores", model.map_or("unknown processor", str::trim))
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

/// Small meshes are cheap, so they are measured from several seeds.
fn plans(nodes: usize) -> (u64, Plan) {
    let plan = |changes, crashes, rest| Plan { nodes, changes, crashes, rest: Duration::from_secs(rest) };
    match nodes {
        0..=32 => (10, plan(10, 3, 300)),
        33..=128 => (5, plan(10, 3, 300)),
        129..=1_000 => (1, plan(10, 2, 120)),
        _ => (1, plan(3, 1, 60)),
    }
}

/// Larger meshes run in slots of a millisecond, on all cores.
const SLOTTED_ABOVE: usize = 1_000;

/// Forming, detection, dissemination, cost at rest, the simulator's speed.
fn meshes(scope: &Scope) -> Result<String, String> {
    let mut rows: Vec<(u64, Vec<Figures>)> = Vec::new();
    for nodes in &scope.sizes {
        let (seeds, plan) = plans(*nodes);
        let setup = if *nodes > SLOTTED_ABOVE { Setup::large } else { Setup::lan };
        let all = (scope.seed..scope.seed + seeds).map(|seed| measure(setup(seed), &plan));
        rows.push((seeds, all.collect::<Result<_, _>>()?));
    }
    let mut text = String::from(
        "Preset `lan`, a link of 0.3 to 0.6 ms each way without loss, all agents started 2 ms apart with three seeds. A \
         change is a new services record of three instances. Times in seconds.\n\n\
         | nodes | seeds | formed after the last start | handshakes and KB a node till then | first knows of a crash, median / max | \
         all know, median / max | change at each node, p50 / p99 / max | false deaths |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for (seeds, all) in &rows {
        let Some(one) = all.first() else { continue };
        let join = |part: fn(&Figures) -> &Vec<Duration>| -> Vec<Duration> {
            all.iter().flat_map(|figures| part(figures).iter().copied()).collect()
        };
        let formed: Vec<Duration> = all.iter().map(|figures| figures.formed).collect();
        let (first, known) = (join(|figures| &figures.first_known), join(|figures| &figures.all_known));
        let spread = join(|figures| &figures.spread);
        let _ = writeln!(
            text,
            "| {} | {}-{} | {} | {:.1}, {:.1} | {} / {} | {} / {} | {} / {} / {} | {} |",
            one.nodes,
            scope.seed,
            scope.seed + seeds - 1,
            seconds(percentile(&formed, 500)),
            mean(all, |figures| figures.forming_handshakes),
            mean(all, |figures| figures.forming_bytes) / 1e3,
            seconds(percentile(&first, 500)),
            seconds(percentile(&first, 1_000)),
            seconds(percentile(&known, 500)),
            seconds(percentile(&known, 1_000)),
            seconds(percentile(&spread, 500)),
            seconds(percentile(&spread, 990)),
            seconds(percentile(&spread, 1_000)),
            all.iter().map(|figures| figures.false_deaths).sum::<usize>(),
        );
    }
    text.push_str(
        "\nAt rest, nothing changing, each node and second; bytes are payload, before QUIC adds its own (the report on \
         real endpoints counts those).\n\n\
         | nodes | datagrams | datagram B | stream B | payload B | handshakes | virtual s for each real s | \
         peak memory of the run, MiB | B for each node and member |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for (_, all) in &rows {
        let Some(one) = all.first() else { continue };
        let datagrams = mean(all, |figures| figures.rest.datagram_bytes);
        let streams = mean(all, |figures| figures.rest.stream_bytes);
        let peak = all.iter().map(|figures| figures.peak_bytes).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "| {} | {:.2} | {datagrams:.0} | {streams:.0} | {:.0} | {:.4} | {:.0} | {} | {:.0} |",
            one.nodes,
            mean(all, |figures| figures.rest.datagrams),
            datagrams + streams,
            mean(all, |figures| figures.rest.handshakes),
            mean(all, |figures| figures.speed),
            peak >> 20,
            peak as f64 / (one.nodes * one.nodes) as f64,
        );
    }
    text.push_str(
        "\nMemory is that of the whole process at its largest so far, with the simulated network and the checkers; it means \
         something for the largest mesh only, whose tables outweigh the rest.\n",
    );
    Ok(text)
}

fn mean(all: &[Figures], part: impl Fn(&Figures) -> f64) -> f64 {
    all.iter().map(part).sum::<f64>() / all.len().max(1) as f64
}

/// The largest mesh forms, loses many members and agrees again: how long that takes, here and there, and what it costs.
fn losses(scope: &Scope) -> Result<String, String> {
    let mut text = String::from(
        "`simulate --scenario large --nodes N`: 500 agents start in each second with eight seeds, and 5 s after all agree \
         one in 50 crashes. Times in virtual seconds but for the last but one column.\n\n\
         | nodes | seed | formed after the last start | all know who is lost | one view again | deaths of the living | \
         trace | real s | peak memory, MiB |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let large = scenario::find("large").ok_or("there is no such scenario")?;
    for nodes in scope.sizes.iter().filter(|nodes| **nodes >= SLOTTED_ABOVE) {
        let begin = Instant::now();
        let report = large.run(*nodes, scope.seed).map_err(|broken| broken.to_string())?;
        let real = begin.elapsed().as_secs_f64();
        let time = |what: &str| report.time(what).map_or_else(|| "-".to_owned(), seconds);
        let _ = writeln!(
            text,
            "| {nodes} | {} | {} | {} | {} | {} | {} | {real:.0} | {} |",
            scope.seed,
            time("formed after the last start"),
            time("all know who is lost"),
            time("one view again"),
            report.deaths.1,
            report.trace,
            peak_bytes() >> 20,
        );
    }
    Ok(text)
}

/// Seeds of the meshes of 25.
const SEEDS_OF_25: u64 = 100;

/// How soon all of 25 know that one crashed.
fn crash_of_25(scope: &Scope) -> Result<String, String> {
    let plan = Plan { nodes: 25, changes: 0, crashes: 1, rest: Duration::from_secs(1) };
    let mut text = String::from(
        "| preset | runs | first knows, p50 / p99 | all know, p50 / p99 / max | false deaths |\n|---|---|---|---|---|\n",
    );
    for (name, config) in [("fast", SwimConfig::fast()), ("lan", SwimConfig::lan())] {
        let (mut first, mut known, mut wrong) = (Vec::new(), Vec::new(), 0);
        for seed in scope.seed..scope.seed + SEEDS_OF_25 {
            let figures = measure(Setup { config: config.clone(), ..Setup::lan(seed) }, &plan)?;
            first.extend(figures.first_known);
            known.extend(figures.all_known);
            wrong += figures.false_deaths;
        }
        let _ = writeln!(
            text,
            "| {name} | {SEEDS_OF_25} | {} / {} | {} / {} / {} | {wrong} |",
            seconds(percentile(&first, 500)),
            seconds(percentile(&first, 990)),
            seconds(percentile(&known, 500)),
            seconds(percentile(&known, 990)),
            seconds(percentile(&known, 1_000)),
        );
    }
    Ok(text)
}

/// Agents of the experiment here: a run of the paper's 128 takes twenty times as long.
const ANOMALY_AGENTS: usize = 32;

/// The interval experiment on the regular grid, as far as most of the agents are well.
fn anomalies(scope: &Scope) -> Result<String, String> {
    let cells: Vec<Cell> =
        interval::cells(false).into_iter().filter(|cell| cell.anomalous * 2 < ANOMALY_AGENTS).collect();
    let compared =
        [configurations::baseline(), configurations::lifeguard(), configurations::memberlist(), configurations::ours()];
    let size = Size { agents: ANOMALY_AGENTS, seeds: scope.seed, ..Size::reduced() };
    let measured = interval::measure(&size, &compared, &cells);
    Ok(format!(
        "C of {{1, 8}} agents stand still for D of {{2048, 8192, 32768}} ms with gaps of {{4, 256, 4096}} ms, for two minutes \
         (arXiv 1707.00788v2, V-D). FP is a death of an agent outside the C, FP- one that such an agent saw. The paper's own \
         grid has 128 agents and many mild cells, in which no rule differs much: its Lifeguard has 1.53 % of the FP, \
         110.59 % of the messages and 97.97 % of the bytes of its SWIM. All rows are this machine with other settings \
         (`SwimConfig::swim`, `paper`, `memberlist`, `lan`), each agent linked with every other. With 128 agents: \
         `simulate --scenario lifeguard-interval`.\n\n{}",
        interval::report(&size, &measured)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_not_asked_for_stays() {
        let old = "# Head\n\n## One\n\ntext\n\n## Two\n\nmore\n";
        assert_eq!(kept(old, "One"), "\n## One\n\ntext\n");
        assert_eq!(kept(old, "Two"), "\n## Two\n\nmore\n");
        assert_eq!(kept(old, "Three"), "");
        let scope = |words: &[&str]| Scope {
            sizes: vec![],
            seed: 1,
            sections: words.iter().map(ToString::to_string).collect(),
        };
        assert!(scope(&[]).has("One") && scope(&["On"]).has("One") && !scope(&["Two"]).has("One"));
    }

    #[test]
    fn a_section_names_its_sizes_and_seeds() {
        let scope = Scope { sizes: vec![4], seed: 5, sections: vec![] };
        let text = meshes(&scope).expect("a mesh of four forms");
        assert!(text.contains("| 4 | 5-14 |"), "{text}");
    }
}
