//! A run in progress: a mesh forms, something happens to it, all agree. What scenarios have in common is here.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use starling_gossip::OwnRecord;
use starling_model::{MemberState, NodeName};

use super::{demand, seconds, services, suspicion_min};
use crate::checks::converged;
use crate::clock::SimTime;
use crate::cluster::{HostId, Sim};

/// The time that [`Run::missed`] notes.
pub(crate) const MISSED: &str = "all know who is dead";

/// A run in progress.
pub(crate) struct Run {
    pub(crate) sim: Sim,
    pub(crate) nodes: usize,
    pub(super) times: Vec<(String, Duration)>,
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
        let roots: BTreeSet<_> = self.sim.host_ids().filter_map(|id| Some(self.sim.swim(id)?.roots())).collect();
        demand(roots.len() == 1, format!("{} different roots", roots.len()))
    }

    /// A mesh that has been there for a while.
    pub(crate) fn settled_mesh(&mut self) -> Result<Vec<HostId>, String> {
        let hosts = self.mesh(seconds(20))?;
        self.sim.run_for(seconds(5));
        Ok(hosts)
    }

    /// Waits until all running agents agree on everything, and notes the time.
    pub(crate) fn agree(&mut self, what: &str, limit: Duration) -> Result<(), String> {
        match self.sim.run_until(limit, |sim| converged(sim).is_ok()) {
            Some(took) => {
                self.took(what, took);
                Ok(())
            }
            None => {
                let why = converged(&self.sim).err().unwrap_or_default();
                Err(format!("{what}: not within {limit:?}: {why}"))
            }
        }
    }

    /// Goes on for so long; all must agree still, or again.
    pub(crate) fn agree_after(&mut self, length: Duration) -> Result<(), String> {
        self.sim.run_for(length);
        converged(&self.sim)
    }

    /// Waits until something holds, and notes the time.
    pub(crate) fn within(
        &mut self,
        what: &str,
        limit: Duration,
        holds: impl FnMut(&Sim) -> bool,
    ) -> Result<Duration, String> {
        let took = self.sim.run_until(limit, holds).ok_or_else(|| format!("{what}: not within {limit:?}"))?;
        self.took(what, took);
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

    /// Kills agents; all others must hold them for dead within the shortest suspicion and `slack`.
    pub(crate) fn crash(&mut self, victims: &[HostId], slack: Duration) -> Result<Duration, String> {
        victims.iter().for_each(|id| self.sim.crash(*id));
        let shortest = suspicion_min(&self.sim.setup.config, self.nodes);
        self.missed(victims, shortest + slack)
    }

    /// Waits until all that run, but these, hold these for dead, and notes the time.
    pub(crate) fn missed(&mut self, victims: &[HostId], limit: Duration) -> Result<Duration, String> {
        let names: Vec<_> = victims.iter().map(|id| self.name(*id)).collect();
        self.within(MISSED, limit, |sim| names.iter().all(|name| Self::all_hold(sim, name, MemberState::Dead)))
    }

    /// Nobody may have been buried, whether it ran or not.
    pub(crate) fn nobody_buried(&self) -> Result<(), String> {
        let first = self.sim.checker.deaths.first();
        let first = first.map(|death| format!("{} by {} at {}", death.subject, self.name(death.observer), death.at));
        first.map_or(Ok(()), |first| Err(format!("somebody was buried, {first}")))
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

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run at {}", self.sim.now())
    }
}
