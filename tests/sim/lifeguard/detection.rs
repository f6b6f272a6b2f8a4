//! How soon a crash is found without any anomaly: the distributions of SWIM's first detection (SWIM, 5) and of the
//! spread of the news, with our defaults as they are deployed (32 links per agent above 33 members).

use std::time::Duration;

use starling_gossip::{Evidence, Step, SwimConfig};
use starling_model::{MemberState, NodeName};

use super::{Experiment, FORMED_WITHIN, SETTLE, Size, knows_all_alive, loopback, table};
use crate::clock::{Dice, SimTime};
use crate::cluster::{HostId, Setup, Sim};
use crate::parallel;
use crate::statistics::Times;

/// Crashes of each run, one after another, of different agents.
const CRASHES: usize = 20;
/// Time within which a crash must be known to all, and a restart too.
const KNOWN_WITHIN: Duration = Duration::from_secs(120);
/// Throws for victims and moments.
const CRASH_DICE: u64 = 42;

/// The experiment as a command.
pub const DETECTION: Experiment = Experiment {
    name: "detection",
    about: "how soon one crash is found by the first and by the last agent, with our defaults and without anomalies",
    run: |size| report(size, &measure(size)),
};

/// The probe ladder that first failed against one crashed agent.
#[derive(Debug)]
pub(crate) struct Ladder {
    of: NodeName,
    since: SimTime,
    began: Option<SimTime>,
}

impl Sim {
    /// Looks for the first failed ladder, if somebody asked for it.
    pub(crate) fn note_ladder(&mut self, evidence: &Evidence) {
        let Some(ladder) = self.ladder.as_mut().filter(|ladder| ladder.of == evidence.subject) else { return };
        if let Step::ProbeFailed(trail) = &evidence.step {
            let began = self.clock.time(trail.began).max(ladder.since);
            ladder.began = Some(ladder.began.map_or(began, |known| known.min(began)));
        }
    }
}

/// What crashes of one size showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// From each crash to the begin of the first probe that failed for it.
    pub probe: Vec<Duration>,
    /// From each crash to the first agent that held it for failed.
    pub first: Vec<Duration>,
    /// From the first agent to the last.
    pub spread: Vec<Duration>,
    /// Failure events about anybody else.
    pub fp: usize,
}

fn wanted_sizes(size: &Size) -> Vec<usize> {
    if size.full { vec![8, 32, 128, 1_000] } else { vec![8, 32, 128] }
}

/// Crashes in a mesh of so many agents.
#[must_use]
pub fn run(config: &SwimConfig, agents: usize, crashes: usize, seed: u64) -> Outcome {
    let mut sim = Sim::new(Setup { config: config.clone(), link: loopback(), ..Setup::lan(seed) });
    let hosts = sim.add_hosts(agents);
    for id in &hosts {
        sim.start(*id, &hosts[..1]);
        sim.run_for(Duration::from_millis(5));
    }
    let all_well = |sim: &Sim| hosts.iter().all(|id| knows_all_alive(sim, *id, agents));
    assert!(sim.run_until(FORMED_WITHIN, all_well).is_some(), "seed={seed}: {agents} agents form no mesh");
    sim.run_for(SETTLE);
    let mut dice = Dice::new(seed, CRASH_DICE);
    let mut outcome = Outcome::default();
    for _ in 0..crashes {
        let moment = dice.up_to(config.probe_interval);
        sim.run_for(config.probe_interval + moment);
        let victim = hosts[dice.index(hosts.len())];
        let (name, since) = (sim.host(victim).name.clone(), sim.now());
        sim.ladder = Some(Ladder { of: name.clone(), since, began: None });
        sim.crash(victim);
        let known = |sim: &Sim| hosts.iter().all(|id| *id == victim || holds_failed(sim, *id, &name));
        assert!(sim.run_until(KNOWN_WITHIN, known).is_some(), "seed={seed}: not all know of the crash at {since}");
        outcome.probe.extend(sim.ladder.take().and_then(|ladder| ladder.began).map(|began| began.since(since)));
        let deaths = sim.checker.deaths_of(&name, since);
        let (first, last) = (deaths.values().min().copied(), deaths.values().max().copied());
        outcome.first.extend(first);
        outcome.spread.extend(first.zip(last).map(|(first, last)| last - first));
        outcome.fp += sim.checker.deaths.iter().filter(|death| death.at >= since && death.subject != name).count();
        sim.restart(victim);
        assert!(sim.run_until(KNOWN_WITHIN, all_well).is_some(), "seed={seed}: {name} does not come back");
        sim.run_for(SETTLE);
    }
    outcome
}

fn holds_failed(sim: &Sim, id: HostId, of: &NodeName) -> bool {
    sim.held(id, of).is_some_and(|(state, _)| state == MemberState::Dead)
}

/// Runs all sizes with all seeds.
#[must_use]
pub fn measure(size: &Size) -> Vec<(usize, Outcome)> {
    let config = SwimConfig::lan();
    let mut jobs = Vec::new();
    for agents in wanted_sizes(size) {
        jobs.extend((1..=size.seeds).map(|seed| (agents, seed)));
    }
    // The largest first, so that no thread is left with one of them at the end.
    jobs.sort_unstable_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
    let outcomes = parallel::run(&jobs, size.threads, |(agents, seed)| run(&config, *agents, CRASHES, *seed));
    let of = |wanted: usize| {
        let mut sum = Outcome::default();
        for (_, outcome) in jobs.iter().zip(&outcomes).filter(|((agents, _), _)| *agents == wanted) {
            sum.probe.extend(&outcome.probe);
            sum.first.extend(&outcome.first);
            sum.spread.extend(&outcome.spread);
            sum.fp += outcome.fp;
        }
        (wanted, sum)
    };
    wanted_sizes(size).into_iter().map(of).collect()
}

/// In which period a probe begins, on average: 1 is the period that begins with the crash. SWIM 5 expects
/// e / (e - 1) = 1.58 in a large mesh.
#[must_use]
pub fn mean_period(probes: &[Duration], period: Duration) -> f64 {
    let periods = probes.iter().map(|probe| (probe.as_secs_f64() / period.as_secs_f64()).floor() + 1.0);
    periods.sum::<f64>() / probes.len().max(1) as f64
}

/// The table.
#[must_use]
pub fn report(size: &Size, measured: &[(usize, Outcome)]) -> String {
    let config = SwimConfig::lan();
    let mut text = format!("Our defaults, seeds 1 to {}, {CRASHES} crashes of each.\n\n", size.seeds);
    text += &table::head(&[
        "agents",
        "crashes",
        "first failed probe: period, mean",
        "begins after, mean s",
        "shortest suspicion, s",
        "first dead - that: median, s",
        "99 %",
        "99.9 %",
        "last after first: median, s",
        "99 %",
        "FP",
    ]);
    for (agents, outcome) in measured {
        let shortest = crate::scenario::suspicion_min(&config, *agents);
        let beyond = Times::new(outcome.first.iter().map(|first| first.saturating_sub(shortest)).collect());
        let spread = Times::new(outcome.spread.clone());
        let row = [
            agents.to_string(),
            outcome.first.len().to_string(),
            format!("{:.2}", mean_period(&outcome.probe, config.probe_interval)),
            table::seconds(Times::new(outcome.probe.clone()).mean()),
            table::seconds(shortest),
            table::seconds(beyond.median()),
            table::seconds(beyond.at(0.99)),
            table::seconds(beyond.at(0.999)),
            table::seconds(spread.median()),
            table::seconds(spread.at(0.99)),
            outcome.fp.to_string(),
        ];
        table::row(&mut text, &row);
    }
    text
}
