//! `simulate`: one scenario, one size, one seed, with its story: how a failing seed is looked at.
//!
//! `cargo run --release -p starling-tests --bin simulate -- --scenario crash --nodes 32 --seed 7`

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use sim::Report;
use sim::lifeguard::{self, Size};
use sim::report::{self, Scope};
use sim::scenario::{self, Scenario};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs a named scenario of the gossip simulator in virtual time.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// Which; without it all are listed.
    #[arg(long)]
    scenario: Option<String>,
    /// How many agents; the scenario's usual size without it.
    #[arg(long)]
    nodes: Option<usize>,
    /// Everything random follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure and write the report on gossip to this file, instead of a scenario.
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    report: Option<PathBuf>,
    /// Sizes of the meshes in the report.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 32, 128, 1_000])]
    sizes: Vec<usize>,
    /// Measure only the sections of the report with one of these words in their heading; the others stay as they are.
    #[arg(long, value_delimiter = ',', requires = "report")]
    sections: Vec<String>,
    /// Run that many seeds, beginning with `--seed`, and print one line each; one without it. An experiment has seeds
    /// of its own, beginning with 1.
    #[arg(long)]
    seeds: Option<u64>,
    /// The whole grid of an experiment, with ten seeds.
    #[arg(long)]
    full: bool,
    /// Of an experiment's configurations those with one of these words, set apart by commas, in their name, and the one
    /// that all are compared with.
    #[arg(long)]
    only: Option<String>,
    /// Threads of an experiment; all cores without it.
    #[arg(long)]
    threads: Option<usize>,
    /// Print every line of the story.
    #[arg(long)]
    story: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people: what it prints is its result")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.report {
        let (sizes, sections) = (arguments.sizes.clone(), arguments.sections.clone());
        return write_report(file, &Scope { sizes, seed: arguments.seed, sections });
    }
    let Some(name) = &arguments.scenario else {
        for experiment in lifeguard::ALL {
            println!("{:<20} many nodes  {}", experiment.name, experiment.about);
        }
        for scenario in scenario::ALL {
            println!("{:<14} {:>3} nodes  {}", scenario.name, scenario.nodes, scenario.about);
        }
        return ExitCode::SUCCESS;
    };
    if let Some(experiment) = lifeguard::find(name) {
        let size = if arguments.full { Size::full() } else { Size::reduced() };
        let seeds = arguments.seeds.unwrap_or(size.seeds);
        let agents = arguments.nodes.unwrap_or(size.agents);
        let threads = arguments.threads.unwrap_or(size.threads);
        let only = arguments.only.clone();
        println!(
            "{}",
            (experiment.run)(&Size { agents, seeds, threads, only, progress: |run| eprintln!("{run}"), ..size })
        );
        return ExitCode::SUCCESS;
    }
    let Some(scenario) = scenario::find(name) else {
        eprintln!("no scenario {name:?}; without --scenario all are listed");
        return ExitCode::from(4);
    };
    let nodes = arguments.nodes.unwrap_or(scenario.nodes);
    let seeds = arguments.seeds.unwrap_or(1);
    let mut broken = 0;
    for seed in arguments.seed..arguments.seed.saturating_add(seeds) {
        let begin = Instant::now();
        match run(scenario, nodes, seed, arguments.story && seeds == 1) {
            Ok(report) => print_report(&report, begin.elapsed().as_secs_f64(), seeds == 1),
            Err(text) => {
                broken += 1;
                println!("{text}");
            }
        }
    }
    if broken > 0 {
        eprintln!("{broken} of {seeds} seeds broke");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "a command for people: progress of long work")]
fn write_report(file: &Path, scope: &Scope) -> ExitCode {
    let old = fs::read_to_string(file).unwrap_or_default();
    let text = match report::markdown(scope, &old, |section| eprintln!("measuring: {section}")) {
        Ok(text) => text,
        Err(why) => {
            eprintln!("no report: {why}");
            return ExitCode::FAILURE;
        }
    };
    match fs::write(file, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people: its result, and how far it is")]
fn run(scenario: &'static Scenario, nodes: usize, seed: u64, story: bool) -> Result<Report, String> {
    let watched = io::stderr().is_terminal();
    let outcome = scenario.run_telling(nodes, seed, if watched { |time| eprint!("\r{time:>12}") } else { |_| {} });
    if watched {
        eprint!("\r{:>12}\r", "");
    }
    if story {
        let lines = match &outcome {
            Ok(report) => &report.lines,
            Err(broken) => &broken.lines,
        };
        for (at, line) in lines {
            println!("{at:>12}  {line}");
        }
    }
    outcome.map_err(|broken| broken.to_string())
}

#[expect(clippy::print_stdout, reason = "a command for people: what it prints is its result")]
fn print_report(report: &Report, real: f64, long: bool) {
    let Report { scenario, nodes, seed, length, trace, .. } = report;
    println!("{scenario} nodes={nodes} seed={seed} trace={trace} virtual={length} real={real:.2} s");
    if !long {
        return;
    }
    println!("  {:<28} {:>9.1} virtual s a second", "speed", length.elapsed().as_secs_f64() / real.max(1e-9));
    println!("  {:<28} {:>9} MiB", "peak memory", sim::figures::peak_bytes() >> 20);
    for (what, time) in &report.times {
        println!("  {what:<28} {:>9.3} s", time.as_secs_f64());
    }
    let counts = &report.counts;
    let row = |what: &str, value: u64| println!("  {what:<28} {value:>9}");
    row("turns", counts.turns);
    row("datagrams", counts.datagrams.0);
    row("datagram bytes", counts.datagrams.1);
    row("stream frames", counts.frames.0);
    row("stream bytes", counts.frames.1);
    row("packets lost", report.network.lost);
    row("packets blocked", report.network.blocked);
    row("dials", counts.dials);
    row("dials failed", counts.dials_failed);
    row("handshakes", counts.handshakes);
    row("of one node in a second", counts.handshakes_peak);
    row("stateless resets", counts.resets);
    row("suspicions", counts.suspicions);
    row("refuted", counts.refuted);
    row("isolations", counts.isolations);
    row("deaths", report.deaths.0 as u64);
    row("deaths of the living", report.deaths.1 as u64);
    row("forgeries refused", counts.forgeries_refused);
    for (reason, count) in &counts.rejected {
        row(&format!("rejected: {reason}"), *count);
    }
}
