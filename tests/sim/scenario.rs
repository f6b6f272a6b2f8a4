//! Named runs: how a mesh begins, what happens to it, and what must be true afterwards. The same functions serve the
//! tests (over lists of seeds) and the `simulate` command (one size and seed, with its story).

use std::fmt;
use std::time::Duration;

use starling_gossip::{OwnRecord, SwimConfig};
use starling_model::{
    Announcement, InstanceName, Labels, MemberState, Namespace, NodeName, PortName, Protocol, ServiceKey, ServiceName,
    ServicesRecord, Weight,
};

use crate::checks::{Counts, VERSION_LABEL, converged};
use crate::clock::SimTime;
use crate::cluster::{HostId, Setup, Sim};
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
mod weather;
mod words;

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
    links::LINKS_AT_REST,
    links::LINKS_OF_ALL,
    links::JOIN_COST,
    records::ANNOUNCE,
    records::SHARDS,
    records::QUOTA,
    records::UNKNOWN_KIND,
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
        let mut run = Run { sim: Sim::new((self.setup)(seed)), nodes, times: Vec::new() };
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

/// A run in progress.
pub(crate) struct Run {
    pub(crate) sim: Sim,
    pub(crate) nodes: usize,
    times: Vec<(String, Duration)>,
}

/// Fails with `what` unless it is so.
pub(crate) fn demand(so: bool, what: impl Into<String>) -> Result<(), String> {
    if so { Ok(()) } else { Err(what.into()) }
}

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Run {
    /// Starts all agents within a tenth of a second, the first being everybody's seed, and lets them agree.
    pub(crate) fn mesh(&mut self, limit: Duration) -> Result<Vec<HostId>, String> {
        let hosts = self.sim.add_hosts(self.nodes);
        self.start_all(&hosts, limit)?;
        Ok(hosts)
    }

    /// The same for hosts that are there.
    pub(crate) fn start_all(&mut self, hosts: &[HostId], limit: Duration) -> Result<(), String> {
        for id in hosts {
            self.sim.start(*id, &hosts[..1]);
            let wait = Duration::from_millis(100 / self.nodes as u64);
            self.sim.run_for(wait);
        }
        self.agree("after the last start", limit)?;
        self.took("formed", self.sim.now().since(SimTime::START));
        Ok(())
    }

    /// All running agents have the same hashes over documents and over members and records.
    pub(crate) fn same_roots(&self) -> Result<(), String> {
        let roots: std::collections::BTreeSet<_> =
            self.sim.host_ids().filter_map(|id| Some(self.sim.swim(id)?.roots())).collect();
        demand(roots.len() == 1, format!("{} different roots", roots.len()))
    }

    /// A mesh that has been there for a while.
    pub(crate) fn settled_mesh(&mut self) -> Result<Vec<HostId>, String> {
        let hosts = self.mesh(seconds(20))?;
        self.sim.run_for(seconds(5));
        Ok(hosts)
    }

    /// Waits until all running agents agree on everything, and notes the time.
    pub(crate) fn agree(&mut self, what: &str, limit: Duration) -> Result<Duration, String> {
        let took = self.sim.run_until(limit, |sim| converged(sim).is_ok());
        match took {
            Some(took) => {
                self.times.push((what.to_owned(), took));
                Ok(took)
            }
            None => {
                let why = converged(&self.sim).err().unwrap_or_default();
                Err(format!("{what}: not within {limit:?}: {why}"))
            }
        }
    }

    /// Waits until something holds, and notes the time.
    pub(crate) fn within(
        &mut self,
        what: &str,
        limit: Duration,
        holds: impl FnMut(&Sim) -> bool,
    ) -> Result<Duration, String> {
        let took = self.sim.run_until(limit, holds).ok_or_else(|| format!("{what}: not within {limit:?}"))?;
        self.times.push((what.to_owned(), took));
        Ok(took)
    }

    /// A time that was noted.
    pub(crate) fn time(&self, what: &str) -> Option<Duration> {
        self.times.iter().find(|(name, _)| name == what).map(|(_, time)| *time)
    }

    /// Notes a time that the scenario measured itself.
    pub(crate) fn took(&mut self, what: &str, time: Duration) {
        self.times.push((what.to_owned(), time));
    }

    /// Nobody that ran may have been buried.
    pub(crate) fn no_false_death(&self) -> Result<(), String> {
        let deaths = self.sim.checker.false_deaths();
        let first =
            deaths.first().map(|death| format!("{} by {} at {}", death.subject, self.name(death.observer), death.at));
        demand(deaths.is_empty(), format!("{} false deaths, first of {}", deaths.len(), first.unwrap_or_default()))
    }

    pub(crate) fn name(&self, id: HostId) -> NodeName {
        self.sim.host(id).name.clone()
    }

    /// True when every other running agent holds `of` in this state.
    pub(crate) fn all_hold(sim: &Sim, of: &NodeName, state: MemberState) -> bool {
        sim.host_ids()
            .filter(|id| sim.host(*id).is_running() && sim.host(*id).name != *of)
            .all(|id| sim.held(id, of).is_some_and(|(held, _)| held == state))
    }

    /// Announces instances of one service, numbered.
    pub(crate) fn announce(&mut self, host: HostId, version: u64, instances: usize) {
        self.sim.put(host, OwnRecord::Services(services(version, instances)));
    }
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
pub(crate) fn suspicion_min(config: &SwimConfig, nodes: usize) -> Duration {
    let scale = (nodes.max(1) as f64).log10().max(1.0);
    let scale = (scale * 1_000.0).floor() / 1_000.0;
    (config.probe_interval * config.suspicion_alpha).mul_f64(scale).max(config.pause_tolerated)
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run at {}", self.sim.now())
    }
}
