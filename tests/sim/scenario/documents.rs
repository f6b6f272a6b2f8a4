//! Documents and revocations of operators: how fast they reach all, and that all decide alike about them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use starling_gossip::OperatorClaim;
use starling_model::{DocumentKey, DocumentVersion};

use super::{Run, Scenario, demand, seconds};
use crate::Sim;
use crate::checks::converged;
use crate::clock::SimTime;
use crate::cluster::{HostId, Setup};
use crate::operators::{Draft, batch, revocation, version_of};

const CONFIG: [OperatorClaim; 1] = [OperatorClaim::Document];

fn step() -> Duration {
    Duration::from_millis(5)
}

fn losing(seed: u64) -> Setup {
    let setup = Setup::lan(seed);
    Setup { link: setup.link.losing(0.05), ..setup }
}

pub(super) const EACH_SECOND: Scenario = Scenario {
    name: "documents",
    about: "a document changes once a second: every node uses each change within half a second (gossip.md, S31)",
    nodes: 25,
    setup: Setup::lan,
    run: |run| changes(run, Duration::from_secs(1), 10, Loss::None),
};

pub(super) const TEN_A_SECOND: Scenario = Scenario {
    name: "documents-often",
    about: "documents change ten times a second: every node uses each change within half a second (gossip.md, S31)",
    nodes: 25,
    setup: Setup::lan,
    run: |run| changes(run, Duration::from_millis(100), 60, Loss::None),
};

pub(super) const UNDER_LOSS: Scenario = Scenario {
    name: "documents-loss",
    about: "the same with five packets in a hundred lost (gossip.md, S31)",
    nodes: 25,
    setup: losing,
    run: |run| changes(run, Duration::from_millis(100), 60, Loss::Some),
};

pub(super) const KNOWN_TO_AGREE: Scenario = Scenario {
    name: "documents-agree",
    about: "one document is handed in: within half a second each node knows that all others use it, too",
    nodes: 25,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let operator = run.sim.operator(&CONFIG);
        let mut took = Vec::new();
        for at in 0..20 {
            let envelope = Draft::new(&format!("d{at}"), 1).sign(&operator);
            run.sim.submit(hosts[at % hosts.len()], vec![envelope]);
            let (since, mut missing) = (run.sim.now(), hosts.clone());
            // The submitter agrees with the others until it takes the document in.
            run.sim.run_for(step());
            for _ in 0..400 {
                let all = |host: &HostId| {
                    run.sim.swim(*host).is_some_and(|swim| swim.agreement() == (hosts.len(), hosts.len()))
                };
                let uses = |host: &HostId| run.sim.swim(*host).is_some_and(|swim| swim.documents().count() > at);
                let (done, open): (Vec<_>, Vec<_>) = missing.into_iter().partition(|host| uses(host) && all(host));
                took.extend(done.iter().map(|_| run.sim.now().since(since)));
                missing = open;
                if missing.is_empty() {
                    break;
                }
                run.sim.run_for(step());
            }
            demand(missing.is_empty(), format!("{} nodes do not know of document {at} after 2 s", missing.len()))?;
            run.sim.run_for(seconds(1));
        }
        took.sort_unstable();
        let rank = |percent: usize| took.get((took.len() * percent).div_ceil(100) - 1).copied().unwrap_or_default();
        let (median, most, last) = (rank(50), rank(99), rank(100));
        run.took("median", median);
        run.took("99 of 100", most);
        run.took("last", last);
        demand(most <= Duration::from_millis(500), format!("one node in a hundred took more than {most:?}"))
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    None,
    Some,
}

/// Changes that are under way: what, and since when.
type UnderWay = Vec<(DocumentKey, DocumentVersion, SimTime, Vec<HostId>)>;

/// One change of one of five documents per pause, each handed in at the next host.
fn changes(run: &mut Run, pause: Duration, count: u64, loss: Loss) -> Result<(), String> {
    let hosts = run.settled_mesh()?;
    let operator = run.sim.operator(&CONFIG);
    let bodies = |sim: &Sim| -> u64 {
        sim.host_ids().filter_map(|id| sim.swim(id)).map(|swim| swim.stats().sent_documents).sum()
    };
    let (mut took, mut open, before): (Vec<Duration>, UnderWay, u64) = (Vec::new(), Vec::new(), bodies(&run.sim));
    for at in 0..count {
        let draft = Draft::new(&format!("d{}", at % 5), 1 + at / 5);
        let envelope = draft.sign(&operator);
        let version = version_of(&envelope).ok_or("it can be read")?;
        let host = hosts[usize::try_from(at).unwrap_or(0) % hosts.len()];
        let submit = run.sim.submit(host, vec![envelope]);
        open.push((draft.key(), version, run.sim.now(), hosts.clone()));
        let end = run.sim.now().elapsed() + pause;
        while run.sim.now().elapsed() < end {
            run.sim.run_for(step());
            arrivals(&run.sim, &mut open, &mut took);
        }
        demand(run.sim.accepted(host, submit), format!("change {at} was refused"))?;
    }
    for _ in 0..2_000 {
        if open.is_empty() {
            break;
        }
        run.sim.run_for(step());
        arrivals(&run.sim, &mut open, &mut took);
    }
    demand(open.is_empty(), format!("{} changes never reached all", open.len()))?;
    took.sort_unstable();
    let rank = |percent: usize| {
        let at = (took.len() * percent).div_ceil(100).saturating_sub(1);
        took.get(at).copied().unwrap_or_default()
    };
    let (median, most, last) = (rank(50), rank(99), rank(100));
    run.took("median", median);
    run.took("99 of 100", most);
    run.took("last", last);
    if hosts.len() <= 25 {
        demand(most <= Duration::from_millis(500), format!("one in a hundred took more than {most:?}"))?;
    }
    // What is superseded on its way is not fetched, and a comparison may bring what a fetch is bringing.
    let sent = bodies(&run.sim) - before;
    let each = count * (hosts.len() as u64 - 1);
    let bound = if loss == Loss::None { each + each / 20 } else { 2 * each };
    demand(sent <= bound, format!("{sent} bodies for {count} changes at {} nodes", hosts.len()))?;
    run.agree("equal roots after the last", seconds(5))
}

/// Notes who uses what by now.
fn arrivals(sim: &Sim, open: &mut UnderWay, took: &mut Vec<Duration>) {
    for (key, version, since, missing) in open.iter_mut() {
        missing.retain(|host| {
            let used = sim.view(*host).and_then(|view| view.words.used.get(key));
            let here = used.is_some_and(|used| used >= version);
            if here {
                took.push(sim.now().since(*since));
            }
            !here
        });
    }
    open.retain(|(_, _, _, missing)| !missing.is_empty());
}

pub(super) const WRONG_CLOCK: Scenario = Scenario {
    name: "documents-clock",
    about: "a clock ten years ahead signs a document; the next generation of a correct clock wins (gossip.md, S22)",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let (fast, right) = (run.sim.operator(&CONFIG), run.sim.operator(&CONFIG));
        let years = 10 * 365 * 86_400_000;
        run.sim.host_mut(hosts[1]).clock_off_s = 3_600;
        let ahead = Draft { signed_at: years, ..Draft::new("a", 7) }.sign(&fast);
        publish(run, hosts[1], "the one from the future", &ahead)?;
        let correct = Draft::new("a", 8).sign(&right);
        publish(run, hosts[2], "the next", &correct)?;
        let history =
            run.sim.swim(hosts[4]).map_or(0, |swim| swim.document_versions(&Draft::new("a", 8).key()).count());
        demand(history == 2, format!("{history} versions are kept"))
    },
};

/// Hands a document in at one node; two seconds later at most every node uses exactly this.
fn publish(run: &mut Run, at: HostId, what: &str, envelope: &Bytes) -> Result<(), String> {
    run.sim.submit(at, vec![envelope.clone()]);
    all_use(run, what, envelope, seconds(2))
}

/// Waits until every node uses exactly this, and all agree.
fn all_use(run: &mut Run, what: &str, envelope: &Bytes, limit: Duration) -> Result<(), String> {
    let version = version_of(envelope).ok_or("it cannot be read")?;
    let uses = |sim: &Sim, id| sim.view(id).is_some_and(|view| view.words.used.values().any(|used| *used == version));
    run.within(what, limit, |sim| sim.host_ids().all(|id| uses(sim, id)))?;
    run.agree(what, limit)
}

pub(super) const TWO_WRITERS: Scenario = Scenario {
    name: "documents-split",
    about: "two operators write one generation on both sides of a split: one winner, shown, ended by the next (S23)",
    nodes: 8,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let (one, two) = (run.sim.operator(&CONFIG), run.sim.operator(&CONFIG));
        let before = Draft::new("a", 1).sign(&one);
        publish(run, hosts[0], "before the split", &before)?;
        let (left, right) = hosts.split_at(hosts.len() / 2);
        run.sim.split(left, right);
        run.sim.run_for(seconds(30));
        demand(run.sim.network.counts.blocked > 20, "hardly a packet was stopped")?;
        let of = Some(batch(1, 2));
        let mine = [Draft { batch: of, ..Draft::new("a", 2) }, Draft { batch: of, ..Draft::new("b", 1) }];
        let mine = mine.map(|draft| draft.sign(&one)).to_vec();
        let theirs = Draft { text: "name: other".to_owned(), ..Draft::new("a", 2) }.sign(&two);
        let (first, second) = (run.sim.submit(left[0], mine), run.sim.submit(right[0], vec![theirs.clone()]));
        run.sim.run_for(seconds(5));
        demand(run.sim.accepted(left[0], first) && run.sim.accepted(right[0], second), "each side takes its own")?;
        run.sim.heal();
        run.agree("one view", seconds(60))?;
        let (key, winner) = (Draft::new("a", 2).key(), version_of(&theirs).ok_or("readable")?);
        all_use(run, "the winner", &theirs, seconds(5))?;
        for id in &hosts {
            let shown = run.sim.view(*id).and_then(|view| view.words.conflicts.get(&key));
            let right = shown.is_some_and(|versions| versions.len() == 2 && versions[0] == winner);
            demand(right, format!("{} shows {shown:?}", run.name(*id)))?;
        }
        let next = Draft::new("a", 3).sign(&one);
        publish(run, left[1], "the next generation", &next)?;
        let ended = |id: &HostId| run.sim.view(*id).is_some_and(|view| view.words.conflicts_ended == 1);
        demand(hosts.iter().all(ended), "somebody still shows the conflict")
    },
};

pub(super) const NEWER_SCHEMA: Scenario = Scenario {
    name: "documents-newer",
    about: "a document of a newer schema reaches the third node byte for byte, through one that knows less (S24)",
    nodes: 3,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let operator = run.sim.operator(&CONFIG);
        // The first and the third never speak to each other.
        run.sim.split(&hosts[..1], &hosts[2..]);
        let newer = Draft { newer: Some((9, b"fields of schema 9")), ..Draft::new("a", 1) };
        let envelope = newer.sign(&operator);
        run.sim.submit(hosts[0], vec![envelope.clone()]);
        let key = newer.key();
        run.within("the third has it", seconds(5), |sim| {
            sim.view(hosts[2]).is_some_and(|view| view.words.envelopes.get(&key) == Some(&envelope))
        })?;
        run.sim.heal();
        run.agree("one view", seconds(30))
    },
};

pub(super) const LATE_BATCH: Scenario = Scenario {
    name: "documents-batch",
    about: "of a batch of five one comes ten seconds late: never in use in part, reported after five (gossip.md, S34)",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let operator = run.sim.operator(&CONFIG);
        let before = Draft::new("d0", 1).sign(&operator);
        publish(run, hosts[0], "a version before", &before)?;
        run.sim.run_for(seconds(2));
        let of = Some(batch(3, 5));
        let all: Vec<_> =
            (0..5).map(|at| Draft { batch: of, ..Draft::new(&format!("d{at}"), 2) }.sign(&operator)).collect();
        run.sim.expect_batch(&all);
        // Four are at one node, the fifth at another that nobody reaches: as if an agent had died in the middle.
        let plant = |run: &mut Run, host: HostId, some: &[Bytes]| {
            for envelope in some {
                if let Some(version) = version_of(envelope) {
                    run.sim.host_mut(host).disk.plant_document(version.hash, envelope.clone());
                }
            }
        };
        plant(run, hosts[1], &all[..4]);
        plant(run, hosts[4], &all[4..]);
        run.sim.split(&hosts[4..], &hosts[..4]);
        run.sim.restart(hosts[1]);
        run.sim.restart(hosts[4]);
        let knows = |sim: &Sim, count: usize| {
            let known = |id: &HostId| sim.view(*id).map_or(0, |view| view.words.known.len());
            hosts[..4].iter().all(|id| known(id) == count)
        };
        run.within("four are known", seconds(5), |sim| knows(sim, 4))?;
        let told = |sim: &Sim| {
            let count = |id: &HostId| sim.view(*id).map_or(0, |view| view.words.incomplete.len());
            hosts[..4].iter().map(count).sum::<usize>()
        };
        demand(told(&run.sim) == 0, "reported at once")?;
        let reported = run.within("reported", seconds(7), |sim| told(sim) == 4)?;
        demand(reported >= seconds(3), format!("reported after {reported:?}"))?;
        run.sim.run_for(seconds(4));
        for id in &hosts {
            let used = run.sim.view(*id).map_or(0, |view| view.words.used.len());
            demand(used == 1, format!("{} uses {used} documents", run.name(*id)))?;
        }
        run.sim.heal();
        for envelope in &all {
            all_use(run, "the whole batch", envelope, seconds(60))?;
        }
        converged(&run.sim)
    },
};

pub(super) const RESTARTS: Scenario = Scenario {
    name: "documents-restarts",
    about: "agents crash while documents change and nodes are revoked; all come back to the same, and a newcomer, too",
    nodes: 6,
    setup: losing,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let operator = run.sim.operator(&[OperatorClaim::Document, OperatorClaim::Revocation]);
        let mut generations: BTreeMap<usize, u64> = BTreeMap::new();
        for round in 0..12_usize {
            let host = hosts[round % hosts.len()];
            let of = Some(batch(u8::try_from(round + 1).unwrap_or(1), 3));
            let mut next = |name: usize| {
                let generation = generations.entry(name).or_default();
                *generation += 1;
                Draft { batch: of, ..Draft::new(&format!("d{name}"), *generation) }.sign(&operator)
            };
            let documents = vec![next(round % 4), next((round + 1) % 4), next((round + 2) % 4)];
            let submit = run.sim.submit(host, documents);
            run.sim.run_for(Duration::from_millis(400));
            demand(run.sim.accepted(host, submit), format!("round {round} was refused"))?;
            // Once it was accepted it is durable, so even the agent that took it may die.
            let victim = hosts[(round * 5 + round % 2) % hosts.len()];
            run.sim.crash(victim);
            run.sim.run_for(Duration::from_millis(300));
            run.sim.restart(victim);
            run.sim.run_for(seconds(3));
        }
        let gone = starling_model::NodeName::new("elsewhere").map_err(|error| error.to_string())?;
        run.sim.submit_revocation(hosts[3], revocation(&operator, &gone, 4));
        run.agree("all the same", seconds(60))?;
        let late = run.sim.add_host();
        run.sim.start(late, &hosts[1..2]);
        run.agree("a newcomer, too", seconds(20))?;
        let words =
            |id: HostId| run.sim.view(id).map(|view| (view.words.used.len(), view.words.revoked.get(&gone).copied()));
        demand(words(late) == Some((4, Some(4))), format!("the newcomer has {:?}", words(late)))
    },
};
