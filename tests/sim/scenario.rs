//! Named runs: how a mesh begins, what happens to it, and what must be true afterwards. The same functions serve the
//! tests (over lists of seeds) and the `simulate` command (one size and seed, with its story).

use std::fmt;
use std::time::Duration;

use starling_gossip::SwimConfig;
use starling_model::{
    Announcement, InstanceName, Labels, Namespace, PortName, Protocol, ServiceKey, ServiceName, ServicesRecord, Weight,
};

use crate::checks::{Counts, VERSION_LABEL};
use crate::clock::SimTime;
use crate::cluster::{Setup, Sim};
use crate::network::NetworkCounts;
use crate::trace::TraceHash;

mod chaos;
mod documents;
mod faults;
mod large;
mod links;
mod masses;
mod membership;
mod records;
mod restarts;
mod run;
mod weather;
mod words;

pub(crate) use run::Run;

/// One named run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Its usual size.
    pub nodes: usize,
    setup: fn(u64) -> Setup,
    run: fn(&mut Run) -> Result<(), String>,
}

/// Every scenario.
pub const ALL: &[Scenario] = &[
    membership::JOIN,
    membership::SEED_LATE,
    membership::CRASH,
    membership::CRASH_FAST,
    membership::CRASH_WAN,
    membership::MOVED,
    membership::LEAVE,
    membership::FOREIGN,
    membership::CLONE,
    membership::CLONE_WAR,
    links::LINKS_AT_REST,
    links::LINKS_OF_ALL,
    links::JOIN_COST,
    records::ANNOUNCE,
    records::SHARDS,
    records::QUOTA,
    records::UNKNOWN_KIND,
    documents::KNOWN_TO_AGREE,
    documents::EACH_SECOND,
    documents::TEN_A_SECOND,
    documents::UNDER_LOSS,
    documents::WRONG_CLOCK,
    documents::TWO_WRITERS,
    documents::NEWER_SCHEMA,
    documents::LATE_BATCH,
    documents::RESTARTS,
    restarts::QUICK,
    restarts::ALL_AT_ONCE,
    restarts::OLD_SNAPSHOT,
    restarts::OLD_SNAPSHOT_BARE,
    restarts::LOST_DISK,
    faults::LOSS,
    faults::SPLIT,
    faults::SPLIT_LONG,
    faults::SPLIT_MINORITY,
    faults::CUT_OFF,
    faults::EDGE,
    faults::ONE_WAY,
    faults::PAUSE_SHORT,
    faults::PAUSE_LONG,
    faults::LIAR,
    weather::BURSTS,
    weather::REORDER,
    weather::DELAY,
    weather::BLACK_HOLE,
    weather::LOSS_HALF,
    weather::HOUR,
    weather::HOUR_FAST,
    weather::MINUTES,
    weather::MINUTES_FAST,
    weather::SWIZZLE,
    weather::SPLIT_PAST,
    masses::MANY_CRASH,
    masses::FORTY,
    masses::CHURN,
    masses::CHURN_SHORT,
    masses::HEALTH_STORM,
    masses::HEALTH_STORM_LARGE,
    words::REPLAY,
    words::TWO_ROUNDS,
    words::NEWER,
    words::HALF_DEAD,
    large::LARGE,
    chaos::CHAOS,
    chaos::CHAOS_SLOW,
    chaos::CHAOS_FAST,
    chaos::CHAOS_LIAR,
    chaos::CHAOS_DOCUMENTS,
];

/// A run that kept its promises.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which.
    pub scenario: &'static str,
    /// How many agents.
    pub nodes: usize,
    /// From which seed.
    pub seed: u64,
    /// How much virtual time passed.
    pub length: SimTime,
    /// What took how long.
    pub times: Vec<(String, Duration)>,
    /// What happened.
    pub counts: Counts,
    /// What became of packets.
    pub network: NetworkCounts,
    /// Deaths seen, and those of agents that ran.
    pub deaths: (usize, usize),
    /// The run as one number.
    pub trace: TraceHash,
    /// Its story.
    pub lines: Vec<(SimTime, String)>,
}

impl Report {
    /// How long the named thing took.
    #[must_use]
    pub fn time(&self, what: &str) -> Option<Duration> {
        self.times.iter().find(|(name, _)| name == what).map(|(_, time)| *time)
    }
}

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which.
    pub scenario: &'static str,
    /// How many agents.
    pub nodes: usize,
    /// From which seed.
    pub seed: u64,
    /// What did not hold.
    pub what: Vec<String>,
    /// Its story.
    pub lines: Vec<(SimTime, String)>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "scenario {} with {} nodes, seed={}, broke:", self.scenario, self.nodes, self.seed)?;
        for what in &self.what {
            writeln!(f, "  {what}")?;
        }
        writeln!(f, "its last lines:")?;
        for (at, line) in self.lines.iter().skip(self.lines.len().saturating_sub(40)) {
            writeln!(f, "  {at:>12}  {line}")?;
        }
        let Self { scenario, nodes, seed, .. } = self;
        write!(
            f,
            "replay: cargo run --release -p starling-tests --bin simulate -- --scenario {scenario} --nodes {nodes} --seed {seed}"
        )
    }
}

/// A scenario by name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// Runs it.
    ///
    /// # Errors
    /// With everything that did not hold.
    pub fn run(&'static self, nodes: usize, seed: u64) -> Result<Report, Box<Broken>> {
        self.run_telling(nodes, seed, |_| {})
    }

    /// Runs it; `progress` is told of virtual seconds that pass while something is awaited.
    ///
    /// # Errors
    /// With everything that did not hold.
    pub fn run_telling(&'static self, nodes: usize, seed: u64, progress: fn(SimTime)) -> Result<Report, Box<Broken>> {
        let setup = Setup { progress, ..(self.setup)(seed) };
        let mut run = Run { sim: Sim::new(setup), nodes, times: Vec::new() };
        let outcome = (self.run)(&mut run);
        let Run { sim, times, .. } = run;
        let trace = sim.trace_hash();
        let false_deaths = sim.checker.false_deaths().len();
        let length = sim.now();
        let network = sim.network.counts;
        let checker = sim.checker;
        let mut what: Vec<String> = outcome.err().map(|what| format!("at {length}: {what}")).into_iter().collect();
        what.extend(checker.breaches.iter().cloned());
        if !what.is_empty() {
            return Err(Box::new(Broken { scenario: self.name, nodes, seed, what, lines: checker.lines }));
        }
        let deaths = (checker.deaths.len(), false_deaths);
        let (counts, lines) = (checker.counts, checker.lines);
        Ok(Report { scenario: self.name, nodes, seed, length, times, counts, network, deaths, trace, lines })
    }
}

/// Fails with `what` unless it is so.
pub(crate) fn demand(so: bool, what: impl Into<String>) -> Result<(), String> {
    if so { Ok(()) } else { Err(what.into()) }
}

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A services record with this many instances, labelled with its version.
pub(crate) fn services(version: u64, instances: usize) -> ServicesRecord {
    let label = |text: &str| text.to_owned();
    let name = |text: &str| ServiceName::new(text).expect("invariant: scenarios use labels");
    let instances = (0..instances).map(|at| Announcement {
        instance: InstanceName::new(&format!("web-{at}")).expect("invariant: scenarios use labels"),
        service: ServiceKey::new(Namespace::default(), name("web")),
        port: PortName::new("http").expect("invariant: scenarios use labels"),
        protocol: Protocol::Http,
        labels: Labels::new([(label(VERSION_LABEL), version.to_string())].into()).expect("invariant: a small label"),
        weight: Weight::default(),
    });
    ServicesRecord { instances: instances.collect() }
}

/// Shortest suspicion among `nodes` with these settings (memberlist's formula, floored to milliseconds).
#[must_use]
pub fn suspicion_min(config: &SwimConfig, nodes: usize) -> Duration {
    let scale = (nodes.max(1) as f64).log10().max(1.0);
    let scale = (scale * 1_000.0).floor() / 1_000.0;
    (config.probe_interval * config.suspicion_alpha).mul_f64(scale).max(config.pause_tolerated)
}
