//! All faults in a random mix, then peace.

use std::time::Duration;

use starling_gossip::OperatorClaim;

use super::records::announce_everywhere;
use super::{Run, Scenario, seconds};
use crate::clock::Dice;
use crate::cluster::{HostId, Setup};
use crate::keys::OperatorKey;
use crate::network::{Bursts, Link};
use crate::operators::{Draft, batch};

/// Faults of one run.
const FAULTS: usize = 40;

pub(super) const CHAOS: Scenario = Scenario {
    name: "chaos",
    about: "S30: crashes, restarts, pauses, splits, half-open edges, loss, bursts, reordering, narrow paths, leaves and writes in a random mix; then one view",
    nodes: 8,
    setup: Setup::lan,
    run: |run| chaos(run, 0.0),
};

pub(super) const CHAOS_SLOW: Scenario = Scenario {
    name: "chaos-slow",
    about: "the same mix while signatures and verdicts take up to 400 ms and come back in any order",
    nodes: 6,
    setup: Setup::slow_crypto,
    run: |run| chaos(run, 0.0),
};

pub(super) const CHAOS_FAST: Scenario = Scenario {
    name: "chaos-fast",
    about: "the same mix with the quick settings",
    nodes: 6,
    setup: Setup::fast,
    run: |run| chaos(run, 0.0),
};

pub(super) const CHAOS_LIAR: Scenario = Scenario {
    name: "chaos-liar",
    about: "the same mix while one member damages a tenth of what it sends",
    nodes: 6,
    setup: Setup::lan,
    run: |run| chaos(run, 0.1),
};

pub(super) const CHAOS_DOCUMENTS: Scenario = Scenario {
    name: "chaos-documents",
    about: "the same mix while two operators write documents and batches wherever an agent runs; then one set for all",
    nodes: 6,
    setup: Setup::lan,
    run: |run| {
        let roles = [OperatorClaim::Document, OperatorClaim::Revocation];
        let operators = [run.sim.operator(&roles), run.sim.operator(&roles)];
        let mut written = 0;
        mix(run, 0.0, |run, dice, hosts| {
            written += 1;
            let (one, operator) = (hosts[dice.index(hosts.len())], &operators[dice.index(2)]);
            write(run, dice, one, operator, written);
        })
    },
};

/// One `apply` of one to three documents, numbered above what this agent knows, as the command line does.
fn write(run: &mut Run, dice: &mut Dice, at: HostId, operator: &OperatorKey, id: u64) {
    let count = 1 + dice.index(3);
    let first = dice.index(4);
    let of = (count > 1).then(|| batch(u8::try_from(id % 255 + 1).unwrap_or(1), count));
    let next = |key: &starling_model::DocumentKey| {
        let known = run.sim.view(at).and_then(|view| view.words.known.get(key));
        known.map_or(1, |version| version.generation.get() + 1)
    };
    let documents = (0..count).map(|step| {
        let draft = Draft::new(&format!("d{}", (first + step) % 4), 1);
        Draft { generation: next(&draft.key()), batch: of, text: format!("write {id}"), ..draft }.sign(operator)
    });
    let documents = documents.collect();
    run.sim.submit(at, documents);
}

fn chaos(run: &mut Run, liar: f64) -> Result<(), String> {
    mix(run, liar, |_, _, _| {})
}

/// The mix; after each fault `besides` may do something.
fn mix(run: &mut Run, liar: f64, mut besides: impl FnMut(&mut Run, &mut Dice, &[HostId])) -> Result<(), String> {
    let hosts = run.settled_mesh()?;
    announce_everywhere(run, 1);
    run.sim.host_mut(hosts[hosts.len() - 1]).corrupts = liar;
    let mut dice = Dice::new(run.sim.setup.seed, 9);
    let mut version = 1;
    for _ in 0..FAULTS {
        version += 1;
        fault(run, &hosts, &mut dice, version);
        besides(run, &mut dice, &hosts);
        let wait = dice.up_to(seconds(12));
        run.sim.run_for(wait);
    }
    run.sim.heal();
    run.sim.network.set_default(Link::site());
    run.sim.host_mut(hosts[hosts.len() - 1]).corrupts = 0.0;
    run.sim.run_for(seconds(13));
    for id in &hosts {
        if run.sim.swim(*id).is_none() {
            run.sim.restart(*id);
        }
    }
    // Anti-entropy, two longest suspicions and the rounds of gossip.
    run.agree("one view", seconds(30 + 2 * 24 + 12))?;
    run.agree_after(seconds(60))
}

fn fault(run: &mut Run, hosts: &[HostId], dice: &mut Dice, version: u64) {
    let one = hosts[dice.index(hosts.len())];
    let other = hosts[dice.index(hosts.len())];
    let running = run.sim.host(one).is_running();
    match dice.index(15) {
        0 if running => run.sim.crash(one),
        0..=3 if !running && run.sim.swim(one).is_none() => run.sim.restart(one),
        1 | 2 if running => run.sim.restart(one),
        3 if running => run.sim.pause(one, dice.up_to(seconds(12))),
        4 => {
            let (left, right) = hosts.split_at(1 + dice.index(hosts.len() - 1));
            run.sim.split(left, right);
        }
        5 | 6 => run.sim.heal(),
        7 if one != other => run.sim.network.block(one, other),
        8 => {
            let link = if dice.chance(0.3) { Link::far() } else { Link::site() };
            run.sim.network.set_default(Link { duplication: 0.02, ..link.losing(0.25) });
        }
        9 => run.sim.network.set_default(Link::site()),
        12 => run.sim.network.set_default(Link::site().in_bursts(Bursts::of(0.1, 20.0))),
        13 => run.sim.network.set_default(Link::site().reordering(0.3, Duration::from_millis(80))),
        14 => run.sim.network.set_default(Link::site().narrowed(1_200)),
        10 if running && dice.chance(0.3) => run.sim.leave(one),
        _ => {
            let instances = dice.index(5) * dice.index(20);
            run.announce(one, version, instances);
        }
    }
}
