//! How many links a mesh keeps, what they cost at rest, and what joining costs.

use std::time::Duration;

use super::{Run, Scenario, demand, seconds};
use crate::checks::converged;
use crate::cluster::{Setup, Sim};

/// Links per node in these runs: as many members as a test can afford are then far beyond a full view.
const LINKS: usize = 8;

pub(super) const LINKS_AT_REST: Scenario = Scenario {
    name: "links-at-rest",
    about: "S33: beyond a full view each node keeps its links, and handshakes only replace one of them now and then",
    nodes: 64,
    setup: |seed| {
        let mut setup = Setup::lan(seed);
        setup.config.links = LINKS;
        setup.config.full_view_members_max = LINKS + 1;
        setup
    },
    run: |run| at_rest(run, 300),
};

pub(super) const LINKS_OF_ALL: Scenario = Scenario {
    name: "links",
    about: "S33 with the usual 32 links per node, for ten minutes: for large meshes, by hand",
    nodes: 128,
    setup: Setup::lan,
    run: |run| at_rest(run, 600),
};

/// Links that agents have.
fn links(sim: &Sim) -> Vec<usize> {
    sim.host_ids().filter_map(|id| sim.host(id).process.as_ref()).map(|process| process.links.len()).collect()
}

/// A mesh that is watched for so many seconds while nothing happens; then one crashes and is found as ever.
fn at_rest(run: &mut Run, rest: u64) -> Result<(), String> {
    let (want, rotation) = (run.sim.setup.config.links, run.sim.setup.config.link_rotation);
    run.mesh(seconds(30))?;
    // Links of the beginning that nobody needs close after a while.
    run.sim.run_for(seconds(60));
    let (dials, handshakes) = (run.sim.checker.counts.dials, run.sim.checker.counts.handshakes);
    let mut mean = 0.0;
    for _ in 0..rest {
        run.sim.run_for(seconds(1));
        let links = links(&run.sim);
        mean += links.iter().sum::<usize>() as f64 / links.len() as f64 / rest as f64;
        demand(links.iter().all(|one| *one <= 2 * want), format!("a node has {:?} links", links.iter().max()))?;
    }
    let made = run.sim.checker.counts.handshakes - handshakes;
    let tried = run.sim.checker.counts.dials - dials;
    let most = run.nodes as f64 * rest as f64 / rotation.as_secs_f64();
    run.took("mean links (as seconds)", Duration::from_secs_f64(mean));
    run.took("handshakes per rotation", Duration::from_secs_f64(made as f64 / most));
    // The two rings have neighbours in common, and the other half of the random links is chosen by others.
    let (low, high) = (want as f64 * 0.9, want as f64 * 1.1);
    demand(mean >= low && mean <= high, format!("{mean:.2} links per node, {want} are wanted"))?;
    demand(made as f64 <= most * 1.1, format!("{made} handshakes in {rest} s, at most {most:.0} are wanted"))?;
    demand(made as f64 >= most * 0.5, format!("only {made} handshakes in {rest} s: nothing is replaced"))?;
    demand(tried as f64 <= most * 1.2, format!("{tried} dials for {made} handshakes"))?;
    converged(&run.sim)?;
    let open = run.sim.open_streams();
    demand(open <= run.nodes, format!("{open} streams are open at rest"))?;
    demand(run.sim.checker.counts.suspicions == 0, "somebody was doubted at rest")?;
    let victim = run.sim.host_ids().nth(run.nodes / 2).ok_or("there is one")?;
    run.crash(&[victim], seconds(11))?;
    run.no_false_death()
}

pub(super) const JOIN_COST: Scenario = Scenario {
    name: "join-cost",
    about: "agents that start at once with one seed see each other within a second, for a bounded price",
    nodes: 32,
    setup: |seed| {
        let mut setup = Setup::lan(seed);
        setup.link.latency = Duration::from_millis(1);
        setup
    },
    run: |run| {
        let took = {
            run.mesh(seconds(3))?;
            run.agree_after(seconds(5))?;
            run.time("after the last start").unwrap_or_default()
        };
        let counts = run.sim.checker.counts.clone();
        let nodes = run.nodes as u64;
        let bytes = (counts.datagrams.1 + counts.frames.1) / nodes;
        run.took("KiB sent per node (as seconds)", Duration::from_secs(bytes / 1024));
        let limit = if run.nodes <= 33 { seconds(1) } else { seconds(2) };
        demand(took <= limit, format!("complete after {took:?}"))?;
        // One handshake for each link that is kept, and a few for links that a growing mesh outgrew.
        let view = run.sim.setup.config.links.min(run.nodes - 1) as u64;
        let most = nodes * view * 13 / 20;
        demand(counts.handshakes <= most, format!("{} handshakes, {most} would do", counts.handshakes))?;
        let most = PRICE * nodes + PRICE_BASE;
        demand(bytes <= most, format!("{bytes} bytes per node, {most} would do"))
    },
};

/// Bytes that a node may send for each member while all join: its life to a few, its credential and records once.
const PRICE: u64 = 2_000;
/// Bytes beside that.
const PRICE_BASE: u64 = 8_192;
