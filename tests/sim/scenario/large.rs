//! A mesh as large as one domain gets: it forms in waves, loses many members at once, and agrees again.

use std::time::Duration;

use starling_gossip::SwimConfig;

use super::{Run, Scenario, demand, seconds, suspicion_min};
use crate::cluster::{HostId, Setup};

/// Agents started in each second, as by a tool that works through a list of hosts.
const STARTS_PER_SECOND: usize = 500;
/// Seeds that every agent is given.
const SEEDS: usize = 8;
/// One in this many is lost at once.
const LOST_SHARE: usize = 50;

pub(super) const LARGE: Scenario = Scenario {
    name: "large",
    about: "a large mesh forms in waves, loses one member in 50 at once, and agrees again",
    nodes: 1_000,
    setup: Setup::large,
    run: |run| {
        let hosts = run.mesh_in_waves(STARTS_PER_SECOND, SEEDS, seconds(120))?;
        run.sim.run_for(seconds(5));
        let lost: Vec<HostId> = hosts.iter().copied().skip(1).step_by(LOST_SHARE).collect();
        for id in &lost {
            run.sim.crash(*id);
        }
        let limit = suspicion_min(&SwimConfig::lan(), run.nodes) * 6 + seconds(30);
        let all = lost.len() * (run.nodes - lost.len());
        run.within("all know who is lost", limit, |sim| sim.checker.deaths.len() >= all)?;
        run.agree("one view again", seconds(60))?;
        let wrong = run.sim.checker.false_deaths().len();
        demand(wrong == 0, format!("{wrong} that ran were buried"))
    },
};

impl Run {
    /// Starts this many agents in each second, the first few being everybody's seeds, and lets them agree.
    pub(crate) fn mesh_in_waves(
        &mut self,
        per_second: usize,
        seeds: usize,
        limit: Duration,
    ) -> Result<Vec<HostId>, String> {
        let hosts = self.sim.add_hosts(self.nodes);
        let seeds = &hosts[..seeds.min(hosts.len())];
        let wait = seconds(1) / u32::try_from(per_second).unwrap_or(u32::MAX);
        for id in &hosts {
            self.sim.start(*id, seeds);
            self.sim.run_for(wait);
        }
        self.agree("formed after the last start", limit)?;
        Ok(hosts)
    }
}
