//! Networks and processes that fail in part, and a member that lies.

use starling_model::MemberState;

use super::records::announce_everywhere;
use super::{Run, Scenario, demand, seconds};
use crate::checks::converged;
use crate::cluster::Setup;
use crate::network::Link;

pub(super) const LOSS: Scenario = Scenario {
    name: "loss",
    about: "10, 20 and 30 % of packets lost, each for a minute: nobody is buried; then a crash is still found",
    nodes: 10,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        for share in [0.1, 0.2, 0.3] {
            run.sim.network.set_default(Link::site().losing(share));
            run.sim.run_for(seconds(60));
            run.no_false_death()?;
        }
        demand(run.sim.network.counts.lost > 1_000, "hardly a packet was lost")?;
        announce_everywhere(run, 1);
        run.agree("records under loss", seconds(30))?;
        run.crash(&hosts[4..5], seconds(20))?;
        run.no_false_death()
    },
};

pub(super) const SPLIT: Scenario = Scenario {
    name: "split",
    about: "a split mesh goes on on both sides and is one again after the heal, with nothing lost",
    nodes: 10,
    setup: Setup::lan,
    run: |run| split(run, run.nodes.div_ceil(2), seconds(80)),
};

pub(super) const SPLIT_LONG: Scenario = Scenario {
    name: "split-long",
    about: "S7: the same after ten minutes, when everybody has long been buried on the other side",
    nodes: 10,
    setup: Setup::lan,
    run: |run| split(run, run.nodes.div_ceil(2), seconds(600)),
};

pub(super) const SPLIT_MINORITY: Scenario = Scenario {
    name: "split-minority",
    about: "the same when all seeds are on the smaller side, so that only calls to the dead can bring the two together",
    nodes: 5,
    setup: Setup::lan,
    run: |run| split(run, run.nodes * 2 / 5, seconds(80)),
};

/// The first `left` hosts, the seed among them, are cut off from the rest.
fn split(run: &mut Run, left: usize, length: std::time::Duration) -> Result<(), String> {
    let hosts = run.settled_mesh()?;
    announce_everywhere(run, 1);
    run.agree("announced", seconds(2))?;
    let (left, right) = hosts.split_at(left);
    run.sim.split(left, right);
    run.sim.run_for(seconds(40));
    demand(run.sim.network.counts.blocked > 50, "hardly a packet was stopped")?;
    // Written while split, on both sides; one side also withdraws.
    run.announce(left[0], 2, 3);
    run.announce(right[0], 2, 0);
    run.sim.run_for(length);
    for side in [left, right] {
        for pair in side.windows(2) {
            let (a, b) = (run.name(pair[0]), run.name(pair[1]));
            let held = run.sim.held(pair[0], &b);
            demand(
                held.is_some_and(|(state, _)| state == MemberState::Alive),
                format!("{a} lost {b} of its own side"),
            )?;
        }
    }
    run.sim.heal();
    run.agree("one view", seconds(60))?;
    run.same_roots()?;
    run.sim.run_for(seconds(60));
    run.same_roots()?;
    converged(&run.sim)
}

pub(super) const CUT_OFF: Scenario = Scenario {
    name: "cut-off",
    about: "S9 (a): one node cut off from all others keeps its view, and takes nobody with it",
    nodes: 12,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        run.sim.split(&hosts[..1], &hosts[1..]);
        run.sim.run_for(seconds(120));
        let lonely = run.sim.view(hosts[0]).ok_or("it runs")?;
        demand(lonely.isolated, "it does not notice that it is the one that is cut off")?;
        let buried = lonely.members().filter(|(state, _)| *state == MemberState::Dead).count();
        demand(buried <= 3, format!("it buried {buried} that are well"))?;
        let name = run.name(hosts[0]);
        let wrong =
            run.sim.checker.deaths.iter().filter(|death| death.observer != hosts[0] && death.subject != name).count();
        demand(wrong == 0, "the others buried somebody who is well")?;
        run.sim.heal();
        run.agree("one view", seconds(60))?;
        demand(!run.sim.view(hosts[0]).ok_or("it runs")?.isolated, "it still takes itself for cut off")
    },
};

pub(super) const EDGE: Scenario = Scenario {
    name: "edge",
    about: "only the edge between two nodes is broken: both stay alive everywhere, by indirect probes",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        run.sim.split(&hosts[1..2], &hosts[2..3]);
        run.sim.run_for(seconds(180));
        demand(run.sim.network.counts.blocked > 20, "nobody used the edge")?;
        run.nobody_buried()?;
        let saved = run.sim.swim(hosts[1]).map_or(0, |swim| swim.stats().probes_acked_indirectly);
        demand(saved > 5, format!("{saved} probes were answered indirectly"))?;
        let (a, b) = (run.name(hosts[1]), run.name(hosts[2]));
        let alive =
            |sim: &crate::Sim| Run::all_hold(sim, &a, MemberState::Alive) && Run::all_hold(sim, &b, MemberState::Alive);
        run.within("both alive", seconds(10), alive)?;
        run.announce(hosts[1], 1, 1);
        run.within("records go around", seconds(5), |sim| {
            sim.view(hosts[2])
                .is_some_and(|view| view.services.get(&a).is_some_and(|record| record.instances.len() == 1))
        })?;
        Ok(())
    },
};

pub(super) const ONE_WAY: Scenario = Scenario {
    name: "one-way",
    about: "a node that is heard by nobody but hears everybody is found, and is back when it is heard again",
    nodes: 6,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let name = run.name(hosts[2]);
        for other in hosts.iter().filter(|id| **id != hosts[2]) {
            run.sim.network.block(hosts[2], *other);
        }
        run.missed(&hosts[2..3], seconds(45))?;
        let wrong =
            run.sim.checker.deaths.iter().filter(|death| death.observer != hosts[2] && death.subject != name).count();
        demand(wrong == 0, "the deaf node's word buried somebody")?;
        run.sim.heal();
        run.agree("back", seconds(60))
    },
};

pub(super) const PAUSE_SHORT: Scenario = Scenario {
    name: "pause-short",
    about: "a process that stands still for two seconds, now and then, is never evicted",
    nodes: 8,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        for round in 0..8 {
            run.sim.pause(hosts[round % run.nodes], seconds(2));
            run.sim.run_for(seconds(7));
        }
        run.nobody_buried()?;
        run.agree("one view", seconds(10))
    },
};

pub(super) const PAUSE_LONG: Scenario = Scenario {
    name: "pause-long",
    about: "a process that stands still for half a minute is missed, buries nobody when it goes on, and is back at once",
    nodes: 6,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let name = run.name(hosts[3]);
        run.sim.pause(hosts[3], seconds(30));
        run.missed(&hosts[3..4], seconds(25))?;
        run.sim.run_for(seconds(15));
        run.agree("back", seconds(15))?;
        run.agree_after(seconds(30))?;
        let wrong = run.sim.checker.deaths.iter().filter(|death| death.subject != name).count();
        demand(wrong == 0, "the sleeper buried somebody when it woke")
    },
};

pub(super) const LIAR: Scenario = Scenario {
    name: "liar",
    about: "one member damages a third of what it sends: nothing unsigned is believed and the others are not hurt",
    nodes: 6,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        announce_everywhere(run, 1);
        run.agree("announced", seconds(2))?;
        run.sim.host_mut(hosts[2]).corrupts = 0.33;
        for version in 2..30 {
            announce_everywhere(run, version);
            run.sim.run_for(seconds(2));
            if version % 7 == 0 {
                run.sim.restart(hosts[2]);
            }
        }
        let counts = &run.sim.checker.counts;
        demand(counts.damaged > 100, "hardly anything was damaged")?;
        demand(counts.rejected.get("malformed").copied().unwrap_or(0) > 10, "no damaged frame was noticed")?;
        demand(counts.forgeries_refused > 0, "no damaged signature was refused")?;
        let liar = run.name(hosts[2]);
        let wrong = run.sim.checker.deaths.iter().filter(|death| death.subject != liar).count();
        demand(wrong == 0, "an honest member was buried")?;
        run.sim.host_mut(hosts[2]).corrupts = 0.0;
        run.agree("one view", seconds(60))
    },
};
