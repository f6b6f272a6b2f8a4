//! Agents that come back: quickly, all at once, with an old disk, with none.

use std::time::Duration;

use super::records::announce_everywhere;
use super::{Run, Scenario, demand, seconds};
use crate::cluster::Setup;
use crate::disk::Disk;

pub(super) const QUICK: Scenario = Scenario {
    name: "quick-restart",
    about: "an agent restarted faster than it can be missed is never dead in anybody's view",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        announce_everywhere(run, 1);
        run.agree("announced", seconds(1))?;
        for round in 0..3 {
            let victim = hosts[1 + round % (run.nodes - 1)];
            let before = run.sim.swim(victim).ok_or("it runs")?.me().life;
            run.sim.crash(victim);
            run.sim.run_for(Duration::from_millis(900));
            run.sim.restart(victim);
            run.agree("back", seconds(2))?;
            let after = run.sim.swim(victim).ok_or("it runs")?.me().life;
            demand(after.epoch > before.epoch, format!("{before} was followed by {after}"))?;
            run.agree_after(seconds(40))?;
        }
        demand(run.sim.checker.counts.resets > 0, "no stateless reset was sent")?;
        run.nobody_buried()
    },
};

/// Handshakes that one agent may have in a second: as many as its endpoint has under way at once (`PENDING_MAX` of the
/// transport).
const HANDSHAKES_PER_SECOND_MAX: u64 = 256;

pub(super) const ALL_AT_ONCE: Scenario = Scenario {
    name: "all-restart",
    about: "S10: all agents restart at once, without seeds, and find each other by what they stored",
    nodes: 16,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        announce_everywhere(run, 1);
        run.agree("announced", seconds(2))?;
        run.sim.run_for(seconds(2));
        for id in &hosts {
            run.sim.crash(*id);
        }
        run.sim.run_for(seconds(5));
        run.sim.checker.counts.handshakes_peak = 0;
        for id in &hosts {
            run.sim.start(*id, &[]);
        }
        run.agree("full view", seconds(10))?;
        let peak = run.sim.checker.counts.handshakes_peak;
        demand(peak > 0 && peak <= HANDSHAKES_PER_SECOND_MAX, format!("{peak} handshakes of one agent in a second"))?;
        run.agree_after(seconds(40))?;
        run.no_false_death()
    },
};

pub(super) const OLD_SNAPSHOT: Scenario = Scenario {
    name: "old-snapshot",
    about: "an agent whose disk and clock went back rejoins with a higher life than the mesh remembers",
    nodes: 5,
    setup: Setup::lan,
    run: |run| old_snapshot(run, true),
};

pub(super) const OLD_SNAPSHOT_BARE: Scenario = Scenario {
    name: "old-snapshot-bare",
    about: "the same for an agent that never announced anything: its signed life alone must tell",
    nodes: 5,
    setup: Setup::lan,
    run: |run| old_snapshot(run, false),
};

fn old_snapshot(run: &mut Run, announces: bool) -> Result<(), String> {
    let hosts = run.settled_mesh()?;
    if announces {
        announce_everywhere(run, 1);
        run.agree("announced", seconds(1))?;
    }
    run.sim.run_for(seconds(2));
    let victim = hosts[3];
    let old = run.sim.host(victim).disk.clone();
    for version in 2..5 {
        if announces {
            run.announce(victim, version, 1);
        }
        run.sim.crash(victim);
        run.sim.run_for(Duration::from_millis(500));
        run.sim.restart(victim);
        run.agree("between", seconds(3))?;
    }
    let known = run.sim.swim(victim).ok_or("it runs")?.me().life;
    run.sim.crash(victim);
    run.missed(&[victim], seconds(20))?;
    let host = run.sim.host_mut(victim);
    host.disk = old;
    host.clock_off_s = -86_400;
    if announces {
        run.announce(victim, 5, 1);
    }
    run.sim.restart(victim);
    let begins = run.sim.swim(victim).ok_or("it runs")?.me().life;
    demand(begins < known, format!("the test is void: it begins with {begins}, known is {known}"))?;
    run.agree("back", seconds(10))?;
    let now = run.sim.swim(victim).ok_or("it runs")?.me().life;
    demand(now.epoch > known.epoch, format!("{known} was followed by {now}"))?;
    demand(run.sim.view(victim).is_some_and(|view| view.alarms.is_empty()), "it takes itself for a clone")?;
    run.agree_after(seconds(40))
}

pub(super) const LOST_DISK: Scenario = Scenario {
    name: "lost-disk",
    about: "an agent that lost its disk while its clock is a day behind comes back, and its new records win",
    nodes: 4,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let victim = hosts[2];
        for version in 1..4 {
            run.announce(victim, version, 2);
            run.agree("announced", seconds(1))?;
        }
        let known = run.sim.swim(victim).ok_or("it runs")?.me().life;
        run.sim.crash(victim);
        run.sim.run_for(seconds(1));
        let host = run.sim.host_mut(victim);
        host.disk = Disk::default();
        host.clock_off_s = -86_400;
        run.announce(victim, 4, 1);
        run.sim.restart(victim);
        run.agree("back", seconds(10))?;
        let now = run.sim.swim(victim).ok_or("it runs")?.me().life;
        demand(now.epoch > known.epoch, format!("{known} was followed by {now}"))?;
        run.agree_after(seconds(70))
    },
};
