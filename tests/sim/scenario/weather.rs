//! Networks that lose, reorder, delay and swallow packets. Rows of faults.md (F) and gossip.md (S) are cited.

use std::time::Duration;

use starling_gossip::SwimConfig;
use starling_model::MeshId;

use super::records::announce_everywhere;
use super::{Run, Scenario, demand, seconds};
use crate::checks::converged;
use crate::clock::Dice;
use crate::cluster::Setup;
use crate::network::{Bursts, Link};

pub(super) const BURSTS: Scenario = Scenario {
    name: "bursts",
    about: "F10: 5 % of packets lost in bursts of ten: nobody is buried, records spread, a crash is found",
    nodes: 10,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        run.sim.network.set_default(Link::site().in_bursts(Bursts::of(0.05, 10.0)));
        run.sim.run_for(seconds(300));
        demand(run.sim.network.counts.lost_in_bursts > 60, "hardly a packet was lost")?;
        run.no_false_death()?;
        announce_everywhere(run, 1);
        run.agree("records in bursts", seconds(30))?;
        run.crash(&hosts[4..5], seconds(11))?;
        run.no_false_death()
    },
};

pub(super) const REORDER: Scenario = Scenario {
    name: "reorder",
    about: "F11: half of all packets overtaken, all datagrams doubled, 1 % lost as damaged: the same state as without",
    nodes: 8,
    setup: |seed| {
        let link = Link { duplication: 1.0, ..Link::site().losing(0.01) };
        Setup { link: link.reordering(0.5, Duration::from_millis(60)), ..Setup::lan(seed) }
    },
    run: |run| {
        let hosts = run.settled_mesh()?;
        for version in 1..20 {
            announce_everywhere(run, version);
            run.sim.run_for(seconds(1));
        }
        run.agree("records out of order", seconds(10))?;
        for victim in [hosts[1], hosts[2]] {
            run.sim.restart(victim);
            run.agree("restarted", seconds(10))?;
        }
        run.sim.run_for(seconds(60));
        let counts = run.sim.network.counts;
        demand(counts.detours > 1_000 && counts.duplicated > 1_000, format!("too little happened: {counts:?}"))?;
        converged(&run.sim)?;
        run.nobody_buried()
    },
};

pub(super) const DELAY: Scenario = Scenario {
    name: "delay",
    about: "F12: 300 ms of delay, give or take 200: nobody flaps",
    nodes: 8,
    setup: |seed| {
        let link = Link { latency: Duration::from_millis(100), jitter: Duration::from_millis(400), ..Link::site() };
        Setup { link, ..Setup::wan(seed) }
    },
    run: |run| {
        run.mesh(seconds(30))?;
        run.agree_after(seconds(300))?;
        run.nobody_buried()?;
        let suspicions = run.sim.checker.counts.suspicions;
        demand(suspicions == 0, format!("{suspicions} suspicions"))
    },
};

/// UDP payload of an IPv4 packet of 1,280 bytes.
const NARROW: usize = 1_280 - 28;

pub(super) const BLACK_HOLE: Scenario = Scenario {
    name: "black-hole",
    about: "S17: names of 63 bytes, 100 services each, and in mid-run every path swallows packets above 1,280 bytes",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts: Vec<_> =
            (0..run.nodes).map(|at| run.sim.add_host_named(&format!("{at:a>63}"), MeshId([7; 32]))).collect();
        run.start_all(&hosts, seconds(20))?;
        run.sim.run_for(seconds(5));
        for host in &hosts {
            run.announce(*host, 1, 100);
        }
        run.agree("announced", seconds(10))?;
        run.sim.network.set_default(Link::site().narrowed(NARROW));
        for (version, host) in (2..).zip(&hosts) {
            run.announce(*host, version, 100);
            run.agree("through the black hole", seconds(10))?;
            run.sim.run_for(seconds(20));
        }
        demand(run.sim.network.counts.too_large > 5, "nothing was swallowed")?;
        demand(run.sim.checker.counts.black_holes_found > 0, "no connection noticed it")?;
        // The least that QUIC runs on at all.
        run.sim.network.set_default(Link::site().narrowed(1_200));
        run.sim.restart(hosts[1]);
        run.agree("restarted", seconds(10))?;
        run.agree_after(seconds(60))?;
        run.nobody_buried()
    },
};

pub(super) const LOSS_HALF: Scenario = Scenario {
    name: "loss-half",
    about: "S18: 30 and 50 % lost, 30 s each: nobody is buried, and a crash is found all the same",
    nodes: 10,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        for share in [0.3, 0.5] {
            run.sim.network.set_default(Link::site().losing(share));
            run.sim.run_for(seconds(30));
            run.no_false_death()?;
        }
        demand(run.sim.network.counts.lost > 500, "hardly a packet was lost")?;
        let (begin, name) = (run.sim.now(), run.name(hosts[4]));
        run.sim.crash(hosts[4]);
        run.missed(&hosts[4..5], seconds(30))?;
        let first = run.sim.checker.deaths_of(&name, begin).into_values().min().unwrap_or_default();
        run.took("the first knows", first);
        demand(first <= seconds(15), format!("found after {first:?}"))
    },
};

pub(super) const HOUR: Scenario = Scenario {
    name: "loss-hour",
    about: "one hour with 10 % of packets lost: nobody is buried",
    nodes: 25,
    setup: Setup::lan,
    run: |run| lossy(run, seconds(3_600)),
};

pub(super) const HOUR_FAST: Scenario = Scenario {
    name: "loss-hour-fast",
    about: "the same with the quick settings",
    nodes: 25,
    setup: Setup::fast,
    run: |run| lossy(run, seconds(3_600)),
};

pub(super) const MINUTES: Scenario = Scenario {
    name: "loss-minutes",
    about: "five minutes of it, for every day",
    nodes: 25,
    setup: Setup::lan,
    run: |run| lossy(run, seconds(300)),
};

pub(super) const MINUTES_FAST: Scenario = Scenario {
    name: "loss-minutes-fast",
    about: "the same with the quick settings",
    nodes: 25,
    setup: Setup::fast,
    run: |run| lossy(run, seconds(300)),
};

/// A tenth of all packets is lost for so long.
fn lossy(run: &mut Run, length: Duration) -> Result<(), String> {
    run.settled_mesh()?;
    run.sim.network.set_default(Link::site().losing(0.1));
    run.sim.run_for(length);
    let lost = run.sim.network.counts.lost;
    demand(lost > length.as_secs() * run.nodes as u64 / 20, format!("only {lost} packets were lost"))?;
    run.no_false_death()
}

pub(super) const SWIZZLE: Scenario = Scenario {
    name: "swizzle",
    about: "F16: links are clogged one by one and unclogged in another order, again and again; then one view",
    nodes: 8,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let mut dice = Dice::new(run.sim.setup.seed, 10);
        for _ in 0..6 {
            let mut clogged = Vec::new();
            for _ in 0..run.nodes {
                let (a, b) = (hosts[dice.index(hosts.len())], hosts[dice.index(hosts.len())]);
                run.sim.network.block(a, b);
                run.sim.network.block(b, a);
                clogged.push((a, b));
                run.sim.run_for(dice.up_to(seconds(2)));
            }
            while !clogged.is_empty() {
                let (a, b) = clogged.swap_remove(dice.index(clogged.len()));
                run.sim.network.unblock(a, b);
                run.sim.run_for(dice.up_to(seconds(2)));
            }
        }
        demand(run.sim.network.counts.blocked > 100, "hardly a packet was stopped")?;
        run.agree("one view", seconds(60))?;
        let minutes = run.sim.now().elapsed().as_secs() / 60 + 1;
        // One oscillation a minute, as each observer sees it.
        let most = usize::try_from(minutes).unwrap_or(usize::MAX) * (run.nodes - 1);
        let seen = run.sim.checker.deaths.len();
        demand(seen <= most, format!("{seen} deaths seen in {minutes} minutes"))
    },
};

pub(super) const SPLIT_PAST: Scenario = Scenario {
    name: "split-past",
    about: "S8: a split that outlasts the memory of the dead still heals",
    nodes: 8,
    setup: |seed| {
        let config = SwimConfig { dead_retention: seconds(60), ..SwimConfig::lan() };
        Setup { config, ..Setup::lan(seed) }
    },
    run: |run| {
        let hosts = run.settled_mesh()?;
        announce_everywhere(run, 1);
        run.agree("announced", seconds(2))?;
        let (left, right) = hosts.split_at(run.nodes / 2);
        run.sim.split(left, right);
        run.sim.run_for(seconds(480));
        let forgotten = |run: &Run| {
            let of = |from: &[_], who: &[_]| {
                from.iter().all(|id| who.iter().all(|other| run.sim.held(*id, &run.name(*other)).is_none()))
            };
            of(left, right) && of(right, left)
        };
        demand(forgotten(run), "the test is void: somebody of the other side is still remembered")?;
        run.sim.heal();
        run.agree("one view", seconds(60))?;
        run.agree_after(seconds(60))
    },
};
