//! Coming, going, and who does not belong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use starling_gossip::Seed;
use starling_model::{MemberState, MeshId};

use super::{Run, Scenario, demand, seconds, suspicion_min};
use crate::checks::converged;
use crate::clock::SimTime;
use crate::cluster::{HostId, Setup};

pub(super) const JOIN: Scenario = Scenario {
    name: "join",
    about: "agents that know one seed become a mesh",
    nodes: 3,
    setup: Setup::lan,
    run: |run| {
        // One second for three (a requirement); more take the anti-entropy of one more round.
        let limit = if run.nodes <= 8 { seconds(1) } else { seconds(3) };
        let hosts = run.mesh(limit)?;
        run.within("all ready", seconds(5), |sim| hosts.iter().all(|id| sim.host(*id).ready.is_some()))?;
        run.agree_after(seconds(30))?;
        demand(run.sim.checker.deaths.is_empty() && run.sim.checker.counts.suspicions == 0, "somebody was doubted")
    },
};

pub(super) const SEED_LATE: Scenario = Scenario {
    name: "seed-late",
    about: "a seed that is down at first is found when it comes up",
    nodes: 3,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.sim.add_hosts(run.nodes);
        let nowhere = Seed("10.9.9.9:7740".to_owned());
        for id in &hosts[1..] {
            run.sim.start_with(*id, vec![nowhere.clone(), run.sim.seed_of(hosts[0])]);
        }
        run.sim.run_for(seconds(60));
        demand(run.sim.checker.counts.dials_failed > 0, "no dial failed")?;
        demand(run.sim.checker.counts.dials < 60 * run.nodes as u64 * 2, "a dead seed is dialled without pause")?;
        run.sim.start(hosts[0], &[]);
        // The longest pause between two dials, a dial that is under way to nowhere, and the join.
        run.agree("joined", run.sim.setup.config.dial_backoff_max + seconds(7))
    },
};

pub(super) const CRASH: Scenario = Scenario {
    name: "crash",
    about: "a killed agent is dead in everybody's view, in time and not before its time; nobody else is",
    nodes: 3,
    setup: Setup::lan,
    // 99.9 % of first detections are within 10.7 s of the shortest suspicion; ten seconds for three is a requirement.
    run: |run| crash(run, if run.nodes <= 3 { seconds(6) } else { seconds(11) }),
};

pub(super) const CRASH_FAST: Scenario = Scenario {
    name: "crash-fast",
    about: "the same with the quick settings: known within about three seconds",
    nodes: 5,
    setup: Setup::fast,
    run: |run| crash(run, seconds(4)),
};

pub(super) const CRASH_WAN: Scenario = Scenario {
    name: "crash-wan",
    about: "the same between sites that are 80 ms apart, with the settings for that",
    nodes: 6,
    setup: Setup::wan,
    run: |run| crash(run, seconds(60)),
};

/// Everybody must know within the shortest suspicion and `slack`.
fn crash(run: &mut Run, slack: Duration) -> Result<(), String> {
    let hosts = run.settled_mesh()?;
    let victim = hosts[run.nodes / 2];
    let (name, since) = (run.name(victim), run.sim.now());
    run.sim.checker.first_failed_probes.clear();
    run.crash(&[victim], slack)?;
    let shortest = suspicion_min(&run.sim.setup.config, run.nodes);
    let deaths = run.sim.checker.deaths_of(&name, since);
    let first = deaths.values().min().copied().unwrap_or_default();
    let last = deaths.values().max().copied().unwrap_or_default();
    run.took("first death", first);
    run.took("last death", last);
    let began = run.sim.checker.first_failed_probes.get(&name).ok_or("no probe failed")?;
    run.took("first failed probe began", began.since(since));
    demand(first >= shortest, format!("dead after {first:?}, the shortest suspicion is {shortest:?}"))?;
    run.agree_after(seconds(20))?;
    demand(run.sim.checker.deaths.len() == run.nodes - 1, "one death in each view")?;
    run.no_false_death()
}

pub(super) const MOVED: Scenario = Scenario {
    name: "moved",
    about: "an agent comes back under another address, the seed of all others; everybody finds it there",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        for victim in [hosts[0], hosts[3]] {
            let name = run.name(victim);
            run.sim.crash(victim);
            run.sim.run_for(seconds(30));
            run.sim.move_host(victim);
            run.sim.restart(victim);
            run.agree("back", seconds(5))?;
            let address = run.sim.host(victim).address;
            for id in hosts.iter().filter(|id| **id != victim) {
                let known = run.sim.swim(*id).and_then(|swim| swim.members().find(|member| member.name == name));
                let first = known.and_then(|member| member.addresses.first().copied());
                demand(first == Some(address), format!("{first:?} is held for {name}, it is at {address}"))?;
            }
        }
        // Once more all links must be made anew, now to the new addresses.
        for id in &hosts[1..] {
            run.sim.restart(*id);
        }
        run.agree("all back", seconds(10))
    },
};

pub(super) const LEAVE: Scenario = Scenario {
    name: "leave",
    about: "a graceful leave is seen by all at once, and is no death",
    nodes: 8,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        run.announce(hosts[1], 1, 1);
        run.agree("announced", seconds(1))?;
        let name = run.name(hosts[1]);
        run.sim.leave(hosts[1]);
        run.within("left for all", Duration::from_millis(500), |sim| Run::all_hold(sim, &name, MemberState::Left))?;
        run.within("gone", seconds(3), |sim| sim.swim(hosts[1]).is_none())?;
        run.agree_after(seconds(60))?;
        let kept = hosts.iter().filter_map(|id| run.sim.view(*id)).any(|view| view.services.contains_key(&name));
        demand(!kept, "records of a member that left are kept")?;
        run.nobody_buried()?;
        run.sim.restart(hosts[1]);
        run.agree("back", seconds(5))
    },
};

pub(super) const FOREIGN: Scenario = Scenario {
    name: "foreign",
    about: "two meshes with the same node names and each other's seeds stay apart; a foreign datagram changes nothing",
    nodes: 3,
    setup: Setup::lan,
    run: |run| {
        let ours = run.mesh(seconds(5))?;
        let mut theirs = Vec::new();
        for at in 0..run.nodes {
            let id = run.sim.add_host_named(&format!("n{at}"), MeshId([9; 32]));
            theirs.push(id);
            let seeds = [run.sim.seed_of(theirs[0]), run.sim.seed_of(ours[0])];
            run.sim.start_with(id, seeds.into());
        }
        run.agree("both meshes stand", seconds(10))?;
        run.sim.run_for(seconds(3));
        run.sim.restart(ours[1]);
        run.agree("restarted", seconds(5))?;
        let before = run.sim.checker.counts.rejected.clone();
        let theirs = run.sim.host(theirs[2]);
        let (payload, frame) = (theirs.last_datagram.clone(), theirs.last_frame.clone());
        let from = run.name(ours[2]);
        run.sim.inject_datagram(ours[0], &from, payload);
        run.sim.inject_sync(ours[0], &from, frame);
        let counted = run.sim.checker.counts.rejected.get("other_mesh").copied().unwrap_or(0);
        demand(counted == before.get("other_mesh").copied().unwrap_or(0) + 2, "a foreign frame was not refused")?;
        run.sim.run_for(seconds(30));
        demand(run.sim.checker.counts.foreign_refused > 0, "nobody of the other mesh ever called")?;
        converged(&run.sim)?;
        run.no_false_death()
    },
};

pub(super) const CLONE: Scenario = Scenario {
    name: "clone",
    about: "a cloned machine under a name that is alive raises an alarm and no war of lives",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        // Long enough that nobody takes the original for a newcomer.
        run.sim.run_for(seconds(15));
        let name = run.name(hosts[1]);
        let copy = run.sim.clone_host(hosts[1]);
        run.sim.start(copy, &hosts[..1]);
        run.within("alarm", seconds(30), |sim| {
            sim.host_ids()
                .filter_map(|id| sim.view(id))
                .any(|view| view.alarms.iter().any(|alarm| alarm.contains("NameTaken")))
        })?;
        let out =
            |run: &Run| run.sim.view(copy).is_some_and(|view| view.alarms.iter().any(|it| it.contains("NameTaken")));
        demand(out(run), "the copy came last and stays outside")?;
        let life = |run: &Run| hosts.iter().filter_map(|id| run.sim.held(*id, &name)).max_by_key(|(_, life)| *life);
        run.sim.run_for(seconds(10));
        let early = life(run).ok_or("nobody knows the name")?.1;
        run.sim.run_for(seconds(120));
        let late = life(run).ok_or("nobody knows the name")?.1;
        let steps = u64::from(late.incarnation.0) + late.epoch.0.saturating_sub(early.epoch.0);
        demand(
            steps <= 4 + u64::from(early.incarnation.0),
            format!("a war of lives: {early} to {late} in two minutes"),
        )?;
        // They take each other's connections away: that must not become all that they do.
        let dials = run.sim.checker.counts.dials;
        demand(dials < 2_000, format!("{dials} dials in two minutes"))?;
        let others = run.sim.checker.false_deaths().iter().filter(|death| death.subject != name).count();
        demand(others == 0, "an innocent member was buried")
    },
};

pub(super) const CLONE_WAR: Scenario = Scenario {
    name: "clone-war",
    about: "S13: a clone that grew up across a split, and is restarted again and again: one winner, changed once a minute at most",
    nodes: 6,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        run.sim.run_for(seconds(15));
        let (original, far) = (hosts[1], hosts[run.nodes - 1]);
        let copy = run.sim.clone_host(original);
        // Both have been there for long when they meet, each with a part of the mesh that knows only it.
        let (left, right) = hosts.split_at(run.nodes / 2);
        let right: Vec<HostId> = right.iter().copied().chain([copy]).collect();
        run.sim.split(left, &right);
        run.sim.start(copy, &[far]);
        let mut winners = Winners::of(original, copy);
        winners.watch(run, &hosts, 60);
        let own = |run: &Run, id: HostId| run.sim.swim(id).map(|swim| swim.me().life);
        demand(winners.held.get(&far) == Some(&copy), "the test is void: nobody met the copy")?;
        winners.changes.clear();
        for _ in 0..3 {
            run.sim.heal();
            winners.watch(run, &hosts, 90);
            run.sim.split(left, &right);
            winners.watch(run, &hosts, 30);
        }
        run.sim.heal();
        for _ in 0..6 {
            winners.watch(run, &hosts, 10);
            run.sim.restart(copy);
        }
        winners.watch(run, &hosts, 30);
        demand(!winners.changes.is_empty(), "nobody ever changed its mind: nothing was tested")?;
        for pair in winners.changes.windows(2) {
            let ((host, at), (other, then)) = (pair[0], pair[1]);
            let pause = then.since(at);
            demand(
                host != other || pause >= seconds(60 - u64::from(SETTLED)),
                format!("two winners within {pause:?} at {}", run.name(host)),
            )?;
        }
        let views: BTreeSet<_> = winners.held.values().collect();
        demand(views.len() == 1, format!("{views:?} win: {:?} and {:?}", own(run, original), own(run, copy)))?;
        let alarms = |id: HostId| run.sim.view(id).map_or(0, |view| view.alarms.len());
        demand(hosts.iter().map(|id| alarms(*id)).sum::<usize>() > 0, "nobody raised an alarm")
    },
};

/// Seconds after which a winner counts: a newcomer outbids whoever is there once, and is outbid at once if that is alive.
const SETTLED: u32 = 3;

/// Whom each of the others holds for the owner of a name that two agents carry, looked at once a second.
struct Winners {
    original: HostId,
    copy: HostId,
    /// Who won last.
    held: BTreeMap<HostId, HostId>,
    /// Who is held, and for how many seconds.
    lately: BTreeMap<HostId, (HostId, u32)>,
    /// In the order of hosts, then of time.
    changes: Vec<(HostId, SimTime)>,
}

impl Winners {
    fn of(original: HostId, copy: HostId) -> Self {
        Self { original, copy, held: BTreeMap::new(), lately: BTreeMap::new(), changes: Vec::new() }
    }

    fn watch(&mut self, run: &mut Run, hosts: &[HostId], length: u64) {
        let original = self.original;
        for _ in 0..length {
            run.sim.run_for(seconds(1));
            for id in hosts.iter().filter(|id| **id != original) {
                self.look(run, *id);
            }
        }
        self.changes.sort_unstable();
    }

    fn look(&mut self, run: &Run, id: HostId) {
        let Some((_, life)) = run.sim.held(id, &run.name(self.original)) else { return };
        let lives = |one: &HostId| run.sim.swim(*one).is_some_and(|swim| swim.me().life == life);
        let Some(owner) = [self.original, self.copy].into_iter().find(lives) else { return };
        let (lately, count) = self.lately.entry(id).or_insert((owner, 0));
        *count = if *lately == owner { *count + 1 } else { 1 };
        *lately = owner;
        if *count == SETTLED && self.held.insert(id, owner).is_some_and(|before| before != owner) {
            self.changes.push((id, run.sim.now()));
        }
    }
}
