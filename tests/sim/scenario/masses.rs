//! Many members at once: crashes, losses, churn, storms of changes. Rows of gossip.md (S) are cited.

use std::collections::BTreeMap;
use std::time::Duration;

use starling_gossip::{OwnRecord, SwimConfig};
use starling_model::{HealthEntry, HealthRecord, InstanceName, MemberState, Readiness};

use super::{Run, Scenario, demand, seconds, suspicion_min};
use crate::clock::{Dice, SimTime};
use crate::cluster::{HostId, Setup, Sim};
use crate::network::Link;

/// The time that `ten-crash` notes.
const BEYOND: &str = "beyond the shortest suspicion";

pub(super) const MANY_CRASH: Scenario = Scenario {
    name: "ten-crash",
    about: "S5: ten crash at once, all of them are known to all in time, and nobody else is buried",
    nodes: 1_000,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let victims: Vec<HostId> = hosts.iter().copied().skip(1).step_by(run.nodes / 10).take(10).collect();
        let took = run.crash(&victims, seconds(11))?;
        let shortest = suspicion_min(&run.sim.setup.config, run.nodes);
        run.took(BEYOND, took.saturating_sub(shortest));
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
        victims.iter().for_each(|id| run.sim.crash(*id));
        let config = &run.sim.setup.config;
        let longest = suspicion_min(config, run.nodes) * config.suspicion_beta;
        run.missed(&victims, longest)?;
        run.agree("one view of the rest", seconds(10))?;
        run.no_false_death()
    },
};

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

/// After each replacement one view in so many is looked at, another one each time.
const LOOKS: usize = 10;

/// Bytes that a node sends for each member that is replaced: who it is, that its predecessor is gone, and its share of what
/// the newcomer is told of all others.
const NEWS_BYTES: f64 = 6_144.0;

fn churn(run: &mut Run, minutes: u64) -> Result<(), String> {
    let mut running = run.mesh(seconds(30))?;
    run.sim.run_for(seconds(30));
    let mut dice = Dice::new(run.sim.setup.seed, 11);
    let (nodes, sent) = (run.nodes, bytes_sent(&run.sim));
    let begin = run.sim.now();
    let replaced = nodes as u64 * minutes / 20;
    for round in 0..replaced {
        let seed = running[0];
        let victim = running.swap_remove(1 + dice.index(running.len() - 1));
        run.sim.crash(victim);
        let newcomer = run.sim.add_host();
        run.sim.start(newcomer, &[seed]);
        running.push(newcomer);
        run.sim.run_for(seconds(60 * minutes) / u32::try_from(replaced).unwrap_or(u32::MAX));
        for id in running.iter().skip(usize::try_from(round).unwrap_or(0) % LOOKS).step_by(LOOKS) {
            let (Some(swim), Some(view)) = (run.sim.swim(*id), run.sim.view(*id)) else { continue };
            let queue = swim.stats().queue_broadcasts;
            demand(queue <= nodes, format!("{queue} updates wait among {nodes}"))?;
            let present = view.members().filter(|(state, _)| !matches!(state, MemberState::Dead | MemberState::Left));
            let present = present.count() + 1;
            demand(present * 5 <= nodes * 6, format!("{present} members among {nodes}"))?;
        }
    }
    run.agree("one view", seconds(60))?;
    let each = |run: &Run, sent: u64, begin: SimTime| {
        (bytes_sent(&run.sim) - sent) as f64 / nodes as f64 / run.sim.now().since(begin).as_secs_f64()
    };
    let busy = each(run, sent, begin);
    run.took("bytes per node and second (as seconds)", Duration::from_secs_f64(busy));
    run.sim.run_for(seconds(60));
    let (sent, begin) = (bytes_sent(&run.sim), run.sim.now());
    run.sim.run_for(seconds(120));
    let idle = each(run, sent, begin);
    run.took("afterwards, idle (as seconds)", Duration::from_secs_f64(idle));
    demand(run.sim.checker.deaths.len() as u64 >= replaced, "hardly anybody died")?;
    demand(idle <= 2.0 * IDLE_BYTES, format!("{idle:.0} bytes per node and second after the churn"))?;
    // What a newcomer must hear grows with the mesh, and so does what all hear of newcomers: with certificates and keys a
    // member is some 1.5 KiB, several times what it is without.
    let news = replaced as f64 / (minutes as f64 * 60.0) * NEWS_BYTES;
    demand(busy <= idle + news, format!("{busy:.0} bytes per node and second while members change"))?;
    run.no_false_death()
}

fn bytes_sent(sim: &Sim) -> u64 {
    sim.checker.counts.datagrams.1 + sim.checker.counts.frames.1
}

pub(super) const HEALTH_STORM: Scenario = Scenario {
    name: "health-storm",
    about: "S32 with eight links: ten changes of health a second cause few comparisons, and a newcomer hears of no dead",
    nodes: 64,
    setup: |seed| {
        let config = SwimConfig { links: 8, full_view_members_max: 9, ..SwimConfig::lan() };
        Setup { config, link: lossy(), ..Setup::lan(seed) }
    },
    run: health_storm,
};

/// News that come late are what comparisons are for.
fn lossy() -> Link {
    Link::site().losing(0.05)
}

pub(super) const HEALTH_STORM_LARGE: Scenario = Scenario {
    name: "health-storm-large",
    about: "S32 with the usual 32 links per node: for large meshes, by hand",
    nodes: 1_000,
    setup: |seed| Setup { disks: false, link: lossy(), ..Setup::lan(seed) },
    run: health_storm,
};

fn health_storm(run: &mut Run) -> Result<(), String> {
    let hosts = run.settled_mesh()?;
    let lost = hosts[run.nodes - 1];
    let name = run.name(lost);
    run.sim.crash(lost);
    run.missed(&hosts[run.nodes - 1..], seconds(60))?;
    let instance = InstanceName::new("web-0").map_err(|error| error.to_string())?;
    let advised = |sim: &Sim| -> BTreeMap<HostId, u64> {
        sim.host_ids().filter_map(|id| Some((id, sim.swim(id)?.stats().syncs_advised))).collect()
    };
    let before = advised(&run.sim);
    let (length, per_second) = (120_u32, 10);
    for round in 0..length * per_second {
        let readiness = if round / 60 % 2 == 0 { Readiness::Unready } else { Readiness::Ready };
        let entries = vec![HealthEntry { instance: instance.clone(), readiness }];
        let owner = hosts[round as usize % (run.nodes - 1)];
        run.sim.put(owner, OwnRecord::Health(HealthRecord { entries }));
        run.sim.run_for(seconds(1) / per_second);
    }
    let quarter = run.sim.setup.config.anti_entropy_among(run.nodes) / 4;
    let most = u64::from(length).div_ceil(quarter.as_secs().max(1));
    let after = advised(&run.sim);
    let counts = after.iter().map(|(id, count)| count - before.get(id).copied().unwrap_or(0));
    let (worst, sum) = counts.fold((0, 0), |(worst, sum), count| (count.max(worst), sum + count));
    demand(worst <= most, format!("a node was advised to compare {worst} times, {most} are allowed"))?;
    demand(sum > 0, "the storm advised nobody: nothing was tested")?;
    let newcomer = run.sim.add_host();
    run.sim.start(newcomer, &hosts[..1]);
    run.agree("newcomer knows all", seconds(30))?;
    run.sim.run_for(seconds(60));
    demand(run.sim.held(newcomer, &name).is_none(), "a newcomer was told of a death before its time")
}
