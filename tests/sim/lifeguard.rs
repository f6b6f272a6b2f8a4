//! The experiments of the Lifeguard paper (Dadgar, Phillips, Currey, arXiv 1707.00788v2, V-C and V-D), replayed with the
//! machine of this project: what each component is worth, and how our own rules compare.
//!
//! As in the paper: 128 agents, each linked with every other and probing all of them (a full view, which our default
//! keeps up to 33 members only), no loss, a quick network, 15 s to settle, then anomalies of C agents in lockstep
//! ([`crate::anomaly`]). A false positive (FP) is an event "this member failed" about an agent outside the anomalous set,
//! raised anywhere; FP- is one that was raised at an agent outside that set.
//!
//! Unlike the paper: connections are already encrypted ones of QUIC, whose framing is not counted; news are forwarded
//! when first received and not at the next gossip tick. A blocked prober hangs in its first send and begins no further
//! probe until the anomaly ends, while its suspicions run out: the paper's text leaves that open, and with a prober that
//! goes on the false positives of every configuration are many times as many.
//!
//! Reading order: [`configurations`] (who is compared), [`interval`] (false positives and load), [`threshold`]
//! (latency), [`detection`] (a crash without anomalies, N from 8 to 1000).

use std::time::Duration;

use starling_gossip::SwimConfig;

use crate::clock::Dice;
use crate::cluster::{HostId, Setup, Sim};
use crate::network::Link;
use crate::parallel;

pub mod configurations;
pub mod detection;
pub mod interval;
pub mod table;
pub mod threshold;
pub mod traffic;

pub use configurations::Configuration;

/// Agents of the paper's experiments.
pub const AGENTS: usize = 128;
/// Time after the last agent has joined and before the first anomaly.
const SETTLE: Duration = Duration::from_secs(15);
/// Longest time in which all agents must know each other.
const FORMED_WITHIN: Duration = Duration::from_secs(60);

/// How much is run.
#[derive(Clone, Debug)]
pub struct Size {
    /// Agents of each run.
    pub agents: usize,
    /// Seeds of each cell, from 1.
    pub seeds: u64,
    /// The whole grid of the paper, or a part of it.
    pub full: bool,
    /// Threads; results do not depend on it.
    pub threads: usize,
    /// Of the configurations those with one of these words, set apart by commas, in their name, and the one that all are
    /// compared with.
    pub only: Option<String>,
    /// Told about each run when it is over.
    pub progress: fn(&str),
}

impl Size {
    /// The part of the grid that this project measures regularly.
    #[must_use]
    pub fn reduced() -> Self {
        Self { agents: AGENTS, seeds: 3, full: false, threads: parallel::threads(), only: None, progress: |_| {} }
    }

    /// The paper's grid with its ten repetitions.
    #[must_use]
    pub fn full() -> Self {
        Self { seeds: 10, full: true, ..Self::reduced() }
    }

    /// The configurations that are run: the first one always is.
    fn chosen(&self, all: Vec<Configuration>) -> Vec<Configuration> {
        let wanted = |name: &str| self.only.as_ref().is_none_or(|only| only.split(',').any(|part| name.contains(part)));
        let mut at = 0..;
        all.into_iter().filter(|one| at.next() == Some(0) || wanted(one.name)).collect()
    }
}

/// One experiment.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Runs it; the answer is Markdown.
    pub run: fn(&Size) -> String,
}

/// Every experiment.
pub const ALL: &[Experiment] = &[interval::INTERVAL, threshold::THRESHOLD, detection::DETECTION];

/// An experiment by name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Experiment> {
    ALL.iter().find(|experiment| experiment.name == name)
}

/// One host over its loopback, as in the paper: what counts is who waits, not how far packets go.
fn loopback() -> Link {
    let (latency, jitter) = (Duration::from_micros(50), Duration::from_micros(100));
    Link { latency, jitter, loss: 0.0, duplication: 0.0, ..Link::site() }
}

/// A settled mesh, and who of it will be anomalous.
struct Replay {
    sim: Sim,
    hosts: Vec<HostId>,
    /// `true` at the places of anomalous agents.
    anomalous: Vec<bool>,
}

impl Replay {
    /// Starts `agents` with these settings and lets them settle. Seeds choose the same anomalous agents whatever the
    /// settings.
    fn settled(config: &SwimConfig, agents: usize, anomalous: usize, seed: u64) -> Self {
        let setup = Setup { config: config.clone(), link: loopback(), disks: false, ..Setup::lan(seed) };
        let mut sim = Sim::new(setup);
        let hosts = sim.add_hosts(agents);
        for id in &hosts {
            sim.start(*id, &hosts[..1]);
            sim.run_for(Duration::from_millis(5));
        }
        let formed = sim.run_until(FORMED_WITHIN, |sim| hosts.iter().all(|id| knows_all_alive(sim, *id, agents)));
        assert!(formed.is_some(), "seed={seed}: {agents} agents do not know each other after {FORMED_WITHIN:?}");
        sim.run_for(SETTLE);
        let mut dice = Dice::new(seed, ANOMALOUS_DICE);
        let mut free: Vec<usize> = (0..agents).collect();
        let mut chosen = vec![false; agents];
        for _ in 0..anomalous.min(agents) {
            let at = free.swap_remove(dice.index(free.len()));
            chosen[at] = true;
        }
        Self { sim, hosts, anomalous: chosen }
    }

    fn anomalous(&self) -> Vec<HostId> {
        self.hosts.iter().filter(|id| self.is_anomalous(**id)).copied().collect()
    }

    fn is_anomalous(&self, id: HostId) -> bool {
        self.anomalous.get(id.0).copied().unwrap_or(false)
    }

    /// Everybody holds everybody else for alive.
    fn is_well(sim: &Sim, hosts: &[HostId]) -> bool {
        hosts.iter().all(|id| knows_all_alive(sim, *id, hosts.len()))
    }
}

/// Beside those that the simulator itself throws.
const ANOMALOUS_DICE: u64 = 41;

fn knows_all_alive(sim: &Sim, id: HostId, agents: usize) -> bool {
    sim.view(id).is_some_and(|view| view.alive >= agents.saturating_sub(1))
}
