//! Figures of one mesh of one size: how long things take, and what it costs to be in it. The report is made of these.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use starling_gossip::OwnRecord;

use crate::checks::converged;
use crate::cluster::{HostId, Setup, Sim};
use crate::scenario;

/// Steps in which the spread of a change is looked at.
const STEP: Duration = Duration::from_millis(5);
/// How long a change may take to be everywhere before the figures are given up.
const SPREAD_MAX: Duration = Duration::from_secs(120);

/// What one node sends in a second, on average over a mesh and a while.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Datagrams.
    pub datagrams: f64,
    /// Bytes in datagrams.
    pub datagram_bytes: f64,
    /// Bytes on streams.
    pub stream_bytes: f64,
    /// Handshakes that it began.
    pub handshakes: f64,
}

/// Everything that was measured in one mesh.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How many agents.
    pub nodes: usize,
    /// From which seed.
    pub seed: u64,
    /// From the last start until all agreed.
    pub formed: Duration,
    /// Handshakes until then, for each node.
    pub forming_handshakes: f64,
    /// Bytes sent until then, for each node.
    pub forming_bytes: f64,
    /// With nothing changing.
    pub rest: Load,
    /// How long each change took to reach each node.
    pub spread: Vec<Duration>,
    /// From each crash until somebody knew.
    pub first_known: Vec<Duration>,
    /// From each crash until everybody knew.
    pub all_known: Vec<Duration>,
    /// Members buried that ran.
    pub false_deaths: usize,
    /// Virtual time for each unit of real time, at rest.
    pub speed: f64,
    /// Most memory of this process so far, in bytes.
    pub peak_bytes: u64,
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many agents.
    pub nodes: usize,
    /// Changes that are watched on their way.
    pub changes: usize,
    /// Crashes, one after the other.
    pub crashes: usize,
    /// How long the mesh is watched at rest.
    pub rest: Duration,
}

/// Forms a mesh and measures it.
///
/// # Errors
/// What did not come about in time, or which promise was broken.
pub fn measure(setup: Setup, plan: &Plan) -> Result<Figures, String> {
    let (seed, nodes) = (setup.seed, plan.nodes);
    let mut sim = Sim::new(Setup { disks: false, ..setup });
    let hosts = sim.add_hosts(nodes);
    let seeds: Vec<HostId> = hosts.iter().copied().take(3).collect();
    for id in &hosts {
        sim.start(*id, &seeds);
        sim.run_for(Duration::from_millis(2));
    }
    let formed = sim.run_until(SPREAD_MAX, |sim| converged(sim).is_ok());
    let formed = formed.ok_or_else(|| format!("{nodes} nodes, seed {seed}: {:?}", converged(&sim).err()))?;
    let counts = &sim.checker.counts;
    let each = |sum: u64| sum as f64 / nodes as f64;
    let (forming_handshakes, forming_bytes) = (each(counts.handshakes), each(counts.datagrams.1 + counts.frames.1));
    sim.run_for(Duration::from_secs(60));
    let (rest, speed) = at_rest(&mut sim, plan.rest, nodes);
    let mut spread = Vec::new();
    for change in 0..plan.changes {
        let owner = hosts[(change * 7 + 1) % nodes];
        spread.extend(spread_of_change(&mut sim, owner, change as u64 + 1)?);
        sim.run_for(Duration::from_secs(3));
    }
    let (mut first_known, mut all_known) = (Vec::new(), Vec::new());
    for crash in 0..plan.crashes {
        let victim = hosts[(crash * 11 + 3) % nodes];
        let (first, all) = crash_of(&mut sim, victim)?;
        first_known.push(first);
        all_known.push(all);
    }
    if let Some(breach) = sim.checker.breaches.first() {
        return Err(format!("{nodes} nodes, seed {seed}: {breach}"));
    }
    let false_deaths = sim.checker.false_deaths().len();
    let peak_bytes = peak_bytes();
    Ok(Figures {
        nodes,
        seed,
        formed,
        forming_handshakes,
        forming_bytes,
        rest,
        spread,
        first_known,
        all_known,
        false_deaths,
        speed,
        peak_bytes,
    })
}

fn at_rest(sim: &mut Sim, length: Duration, nodes: usize) -> (Load, f64) {
    let before = sim.checker.counts.clone();
    let begin = Instant::now();
    sim.run_for(length);
    let speed = length.as_secs_f64() / begin.elapsed().as_secs_f64().max(1e-9);
    let after = &sim.checker.counts;
    let rate = |before: u64, after: u64| (after - before) as f64 / nodes as f64 / length.as_secs_f64();
    let load = Load {
        datagrams: rate(before.datagrams.0, after.datagrams.0),
        datagram_bytes: rate(before.datagrams.1, after.datagrams.1),
        stream_bytes: rate(before.frames.1, after.frames.1),
        handshakes: rate(before.handshakes, after.handshakes),
    };
    (load, speed)
}

/// A node announces something: how long that takes to each of the others.
fn spread_of_change(sim: &mut Sim, owner: HostId, version: u64) -> Result<Vec<Duration>, String> {
    let begin = sim.now();
    let name = sim.host(owner).name.clone();
    sim.put(owner, OwnRecord::Services(scenario::services(version, 3)));
    let mut waiting: BTreeSet<HostId> =
        sim.host_ids().filter(|id| *id != owner && sim.host(*id).is_running()).collect();
    let mut times = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        if sim.now().since(begin) > SPREAD_MAX {
            return Err(format!("a change of {name} did not reach {} nodes", waiting.len()));
        }
        sim.run_for(STEP);
        let took = sim.now().since(begin);
        waiting.retain(|id| {
            let held = sim.view(*id).and_then(|view| view.services.get(&name)).map_or(0, crate::checks::version_of);
            if held >= version {
                times.push(took);
            }
            held < version
        });
    }
    Ok(times)
}

/// A node crashes: when the first knows, and when all do.
fn crash_of(sim: &mut Sim, victim: HostId) -> Result<(Duration, Duration), String> {
    let begin = sim.now();
    let name = sim.host(victim).name.clone();
    sim.crash(victim);
    let others = sim.host_ids().filter(|id| sim.host(*id).is_running()).count();
    let known = sim.run_until(Duration::from_secs(300), |sim| sim.checker.deaths_of(&name, begin).len() == others);
    let all = known.ok_or_else(|| format!("the crash of {name} was not seen by all"))?;
    let first = sim.checker.deaths_of(&name, begin).values().min().copied().unwrap_or(all);
    Ok((first, all))
}

/// The greatest size that this process ever had in memory, in bytes; zero where the system does not tell.
#[must_use]
pub fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// The smallest value that is not less than this many of each thousand; zero of nothing.
#[must_use]
pub fn percentile(values: &[Duration], per_mille: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_mille.min(1_000)).div_ceil(1_000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 500), Duration::from_millis(50));
        assert_eq!(percentile(&values, 990), Duration::from_millis(99));
        assert_eq!(percentile(&values, 1_000), Duration::from_millis(100));
        assert_eq!(percentile(&values, 0), Duration::from_millis(1));
        assert_eq!(percentile(&[], 500), Duration::ZERO);
    }

    #[test]
    fn a_small_mesh_is_measured() {
        let plan = Plan { nodes: 5, changes: 2, crashes: 1, rest: Duration::from_secs(10) };
        let figures = measure(Setup::fast(3), &plan).expect("all comes about");
        assert_eq!(figures.spread.len(), 8);
        assert!(figures.first_known[0] <= figures.all_known[0] && figures.all_known[0] > Duration::from_millis(500));
        assert!(figures.rest.datagrams > 1.0 && figures.rest.datagram_bytes > 10.0, "{:?}", figures.rest);
        assert_eq!(figures.false_deaths, 0);
    }
}
