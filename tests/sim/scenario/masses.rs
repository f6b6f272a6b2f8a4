//! Many members at once: crashes, losses, churn, storms of changes. Rows of gossip.md (S) are cited.

use std::collections::BTreeMap;
use std::time::Duration;

use starling_gossip::{OwnRecord, SwimConfig};
use starling_model::{HealthEntry, HealthRecord, InstanceName, MemberState, Readiness};

use super::{Run, Scenario, demand, seconds, suspicion_min};
use crate::clock::Dice;
use crate::cluster::{HostId, Setup, Sim};

pub(super) const MANY_CRASH: Scenario = Scenario {
    name: "ten-crash",
    about: "S5: ten crash at once, all of them are known to all in time, and nobody else is buried",
    nodes: 64,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let victims: Vec<HostId> = hosts.iter().copied().skip(1).step_by(run.nodes / 10).take(10).collect();
        for id in &victims {
            run.sim.crash(*id);
        }
        let shortest = suspicion_min(&run.sim.setup.config, run.nodes);
        let took = all_buried(run, &victims, shortest + seconds(11))?;
        run.took("beyond the shortest suspicion", took.saturating_sub(shortest));
        run.no_false_death()
    },
};

pub(super) const FORTY: Scenario = Scenario {
    name: "forty-per-cent",
    about: "S9 (b): two of five are really lost at once: the guard against being cut off does not freeze the rest",
    nodes: 20,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let victims: Vec<HostId> = hosts.iter().copied().skip(1).take(run.nodes * 2 / 5).collect();
        for id in &victims {
            run.sim.crash(*id);
        }
        let config = &run.sim.setup.config;
        // The longest suspicion, and the time to the first failed probe of each.
        let limit = suspicion_min(config, run.nodes) * config.suspicion_beta + seconds(8);
        all_buried(run, &victims, limit)?;
        run.agree("one view of the rest", seconds(10))?;
        run.no_false_death()
    },
};

/// Waits until all that run hold all of these for dead.
fn all_buried(run: &mut Run, victims: &[HostId], limit: Duration) -> Result<Duration, String> {
    let names: Vec<_> = victims.iter().map(|id| run.name(*id)).collect();
    run.within("all known to be dead", limit, |sim| {
        names.iter().all(|name| {
            let others = sim.host_ids().filter(|id| sim.host(*id).is_running());
            others.into_iter().all(|id| sim.held(id, name).is_some_and(|(state, _)| state == MemberState::Dead))
        })
    })
}

/// Mean load of one node in memberlist's part of Rapid's table 2, in bytes a second; twice that is the bound.
const IDLE_BYTES: f64 = 640.0;

pub(super) const CHURN: Scenario = Scenario {
    name: "churn",
    about: "S19: one in twenty is replaced each minute, for half an hour: queues, tables and load keep their bounds",
    nodes: 100,
    setup: Setup::lan,
    run: |run| churn(run, 30),
};

pub(super) const CHURN_SHORT: Scenario = Scenario {
    name: "churn-short",
    about: "the same for ten minutes",
    nodes: 30,
    setup: Setup::lan,
    run: |run| churn(run, 10),
};

fn churn(run: &mut Run, minutes: u64) -> Result<(), String> {
    let mut running = run.mesh(seconds(30))?;
    run.sim.run_for(seconds(30));
    let mut dice = Dice::new(run.sim.setup.seed, 11);
    let (nodes, sent) = (run.nodes, bytes_sent(&run.sim));
    let begin = run.sim.now();
    let replaced = nodes as u64 * minutes / 20;
    for _ in 0..replaced {
        let seed = running[0];
        let victim = running.swap_remove(1 + dice.index(running.len() - 1));
        run.sim.crash(victim);
        let newcomer = run.sim.add_host();
        run.sim.start(newcomer, &[seed]);
        running.push(newcomer);
        run.sim.run_for(seconds(60 * minutes) / u32::try_from(replaced).unwrap_or(u32::MAX));
        for id in &running {
            let (Some(swim), Some(view)) = (run.sim.swim(*id), run.sim.view(*id)) else { continue };
            let queue = swim.stats().queue_broadcasts;
            demand(queue <= nodes, format!("{queue} updates wait among {nodes}"))?;
            let present = view.members().filter(|(state, _)| !matches!(state, MemberState::Dead | MemberState::Left));
            let present = present.count() + 1;
            demand(present * 5 <= nodes * 6, format!("{present} members among {nodes}"))?;
        }
    }
    run.agree("one view", seconds(60))?;
    let length = run.sim.now().since(begin);
    let each = (bytes_sent(&run.sim) - sent) as f64 / nodes as f64 / length.as_secs_f64();
    run.took("bytes per node and second (as seconds)", Duration::from_secs_f64(each));
    demand(run.sim.checker.deaths.len() as u64 >= replaced, "hardly anybody died")?;
    demand(each <= 2.0 * IDLE_BYTES, format!("{each:.0} bytes per node and second"))?;
    run.no_false_death()
}

fn bytes_sent(sim: &Sim) -> u64 {
    sim.checker.counts.datagrams.1 + sim.checker.counts.frames.1
}

pub(super) const HEALTH_STORM: Scenario = Scenario {
    name: "health-storm",
    about: "S32: ten changes of health a second cause few comparisons, and a newcomer hears of no dead whom it never knew",
    nodes: 64,
    setup: |seed| {
        let config = SwimConfig { links: 8, full_view_members_max: 9, ..SwimConfig::lan() };
        Setup { config, ..Setup::lan(seed) }
    },
    run: health_storm,
};

fn health_storm(run: &mut Run) -> Result<(), String> {
    let hosts = run.settled_mesh()?;
    let lost = hosts[run.nodes - 1];
    let name = run.name(lost);
    run.sim.crash(lost);
    run.within("dead for all", seconds(60), |sim| Run::all_hold(sim, &name, MemberState::Dead))?;
    let instance = InstanceName::new("web-0").map_err(|error| error.to_string())?;
    let started = |sim: &Sim| -> BTreeMap<HostId, u64> {
        sim.host_ids().filter_map(|id| Some((id, sim.swim(id)?.stats().syncs_started))).collect()
    };
    let before = started(&run.sim);
    let (length, per_second) = (120_u32, 10);
    for round in 0..length * per_second {
        let readiness = if round / 60 % 2 == 0 { Readiness::Unready } else { Readiness::Ready };
        let entries = vec![HealthEntry { instance: instance.clone(), readiness }];
        let owner = hosts[round as usize % (run.nodes - 1)];
        run.sim.put(owner, OwnRecord::Health(HealthRecord { entries }));
        run.sim.run_for(seconds(1) / per_second);
    }
    let config = &run.sim.setup.config;
    let interval = config.anti_entropy_among(run.nodes);
    // One advisory comparison in each quarter of an interval, the regular one in each whole, and one that was under way.
    let most = u64::from(length) * 5 / interval.as_secs().max(1) + 2;
    let after = started(&run.sim);
    let worst = after.iter().map(|(id, count)| count - before.get(id).copied().unwrap_or(0)).max().unwrap_or(0);
    demand(worst <= most, format!("a node began {worst} comparisons, {most} are allowed"))?;
    let newcomer = run.sim.add_host();
    run.sim.start(newcomer, &hosts[..1]);
    run.agree("newcomer knows all", seconds(30))?;
    run.sim.run_for(seconds(60));
    demand(run.sim.held(newcomer, &name).is_none(), "a newcomer was told of a death before its time")
}
