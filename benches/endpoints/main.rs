//! A mesh of real endpoints in one process: real QUIC, certificates and membership machines, on loopback.
//!
//! ```sh
//! cargo run --release -p starling-benches --bin endpoints -- nodes=64 secs=60 > docs/measurements/gossip-endpoints.md
//! ```
//!
//! Measures how long a mesh needs that starts at once until all see all, what it costs at rest, how fast a change of one
//! reaches all, how fast a silent death is seen, what a ping costs, and what a connection holds in memory. About two
//! minutes on two idle cores. The figures are Markdown on standard output; progress is on standard error.
#![expect(clippy::print_stdout, reason = "figures go to standard output, where they become a page")]
#![expect(clippy::print_stderr, reason = "progress is told to the person who runs the bench")]

mod memory;
mod mesh;
mod process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::{Mesh, Node};
use process::Figures;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Changes that are timed.
const CHANGES: usize = 20;

type Done<T> = Result<T, Box<dyn std::error::Error>>;

struct Arguments {
    nodes: usize,
    rest: Duration,
}

fn arguments() -> Done<Arguments> {
    let mut given: BTreeMap<String, u64> = BTreeMap::from([("nodes".to_owned(), 64), ("secs".to_owned(), 60)]);
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').ok_or("write nodes=64 secs=60")?;
        *given.get_mut(key).ok_or("only nodes and secs are known")? = value.parse()?;
    }
    let nodes = usize::try_from(given["nodes"])?;
    if !(3..=500).contains(&nodes) {
        return Err("nodes is 3 to 500".into());
    }
    Ok(Arguments { nodes, rest: Duration::from_secs(given["secs"]) })
}

fn main() -> Done<()> {
    let arguments = arguments()?;
    println!("# Gossip over real endpoints\n");
    println!(
        "    cargo run --release -p starling-benches --bin endpoints -- nodes={} secs={}\n",
        arguments.nodes,
        arguments.rest.as_secs()
    );
    println!(
        "One process, {} nodes with a QUIC endpoint and a membership machine each, on loopback; {}. Node and second are \
         shares of the whole process: the driver of each node is in it, the agent's other parts are not.\n",
        arguments.nodes,
        process::machine()
    );
    println!("| Figure | Value |\n|---|---|");
    memory::run(&runtime(2)?)?;
    ping_cost(&runtime(2)?)?;
    mesh_figures(&arguments)
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

fn row(name: &str, value: impl std::fmt::Display) {
    println!("| {name} | {value} |");
    eprintln!("{name}: {value}");
}

/// Waits until `condition` holds and says how long that took.
fn until(what: &str, mut condition: impl FnMut() -> bool) -> Done<Duration> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return Err(format!("waited in vain for: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(start.elapsed())
}

fn mesh_figures(arguments: &Arguments) -> Done<()> {
    let count = arguments.nodes;
    let mesh = Mesh::new()?;
    let identities: Vec<_> = (0..count).map(|at| mesh.identity(at)).collect::<Result<_, _>>()?;
    // The last one can die without a word: its sockets and tasks are on a runtime of their own.
    let (shared, doomed) = (runtime(2)?, runtime(1)?);
    let before = Figures::read();
    let (start, mut nodes) = (Instant::now(), Vec::with_capacity(count));
    for (at, identity) in identities.into_iter().enumerate() {
        let on = if at + 1 == count { &doomed } else { &shared };
        let seed = nodes.first().map(|first: &Node| first.address());
        let _inside = on.enter();
        nodes.push(Node::start(&mesh, at, identity, seed)?);
    }
    let others = count - 1;
    until("all see all", || nodes.iter().all(|node| node.facts.alive() == others))?;
    let (joined, after) = (start.elapsed(), Figures::read());
    row("all see all, from the first start", format!("{:.2} s", joined.as_secs_f64()));
    row("CPU until then, per node", format!("{:.1} ms", ms(after.cpu - before.cpu) / count as f64));
    join_rows(&nodes, "until then");

    // Links settle, first comparisons end.
    std::thread::sleep(Duration::from_secs(15));
    join_rows(&nodes, "15 s later");
    link_row(&nodes);
    let heap = ALLOCATOR.stats();
    let live = heap.bytes_allocated.saturating_sub(heap.bytes_deallocated);
    row("heap in use, per node, all included", format!("{:.0} KiB", live as f64 / 1024.0 / count as f64));
    row(
        "resident memory, per node, all included",
        format!("{:.0} KiB", Figures::read().rss as f64 / 1024.0 / count as f64),
    );

    rest_rows(&nodes, arguments.rest);
    change_rows(&nodes)?;

    let victim = nodes.pop().ok_or("no node")?;
    let name = victim.name.clone();
    eprintln!("killing {name}");
    let died = Instant::now();
    doomed.shutdown_background();
    drop(victim);
    until("the death is known", || nodes.iter().all(|node| node.facts.saw_death(&name).is_some()))?;
    let mut seen: Vec<Duration> = nodes
        .iter()
        .filter_map(|node| node.facts.saw_death(&name))
        .map(|at| at.saturating_duration_since(died))
        .collect();
    seen.sort();
    let at = |part: usize| seen.get(part.min(seen.len().saturating_sub(1))).copied().unwrap_or_default().as_secs_f64();
    row(
        "silent death known: first, median, last",
        format!("{:.2} s, {:.2} s, {:.2} s", at(0), at(seen.len() / 2), at(seen.len())),
    );
    let false_deaths: usize = nodes.iter().map(|node| node.facts.deaths().saturating_sub(1)).sum();
    row("members held dead that were not, whole run", false_deaths);
    for node in &nodes {
        node.facts.stories_but_of(&name).iter().for_each(|step| eprintln!("{}: {step}", node.name));
    }
    shared.shutdown_background();
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn join_rows(nodes: &[Node], when: &str) {
    let sum = |read: fn(&starling_transport::quic::NetStats) -> u64| -> u64 {
        nodes.iter().map(|node| read(&node.net.stats())).sum()
    };
    let accepted = sum(|stats| stats.handshakes_accepted);
    let pairs = sum(|stats| stats.connections) / 2;
    row(&format!("handshakes, {when}"), format!("{accepted} for {pairs} connected pairs"));
    let rest = [
        ("duplicates closed", sum(|stats| stats.duplicates)),
        ("refused", sum(|stats| stats.handshakes_refused)),
        ("ignored", sum(|stats| stats.handshakes_ignored)),
        ("retried", sum(|stats| stats.handshakes_retried)),
        ("dials failed", sum(|stats| stats.dials_failed)),
        ("exchanges broken", sum(|stats| stats.exchanges_broken)),
        ("frames dropped", sum(|stats| stats.frames_dropped)),
        ("datagrams dropped", sum(|stats| stats.datagrams_dropped_out + stats.datagrams_dropped_inbox)),
    ];
    let text: Vec<String> = rest.iter().map(|(what, count)| format!("{what} {count}")).collect();
    row(&format!("besides, {when}"), text.join(", "));
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (what, count) in nodes.iter().flat_map(|node| node.facts.counts()) {
        *counts.entry(what).or_default() += count;
    }
    let text: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    row(&format!("as the drivers saw it, {when}"), text.join(", "));
}

fn link_row(nodes: &[Node]) {
    let links: Vec<u64> = nodes.iter().map(|node| node.net.stats().connections).collect();
    let mean = links.iter().sum::<u64>() as f64 / links.len() as f64;
    row("links per node, mean and most", format!("{mean:.1}, {}", links.iter().max().copied().unwrap_or(0)));
}

fn rest_rows(nodes: &[Node], time: Duration) {
    eprintln!("at rest for {} s", time.as_secs());
    let read = || nodes.iter().map(|node| node.net.stats()).collect::<Vec<_>>();
    let (before, cpu, start) = (read(), Figures::read().cpu, Instant::now());
    std::thread::sleep(time);
    let (after, cpu) = (read(), Figures::read().cpu - cpu);
    let node_seconds = start.elapsed().as_secs_f64() * nodes.len() as f64;
    let rate = |value: fn(&starling_transport::quic::NetStats) -> u64| {
        let sum = |all: &[starling_transport::quic::NetStats]| all.iter().map(value).sum::<u64>();
        (sum(&after) - sum(&before)) as f64 / node_seconds
    };
    row("at rest: CPU of one core, per node", format!("{:.3} %", cpu.as_secs_f64() / node_seconds * 100.0));
    row(
        "at rest: gossip payload sent, per node and second",
        format!("{:.0} B", rate(|s| s.datagram_bytes_sent + s.frame_bytes_sent)),
    );
    row(
        "at rest: UDP payload sent, per node and second",
        format!("{:.0} B in {:.2} packets", rate(|s| s.udp_bytes_sent), rate(|s| s.udp_packets_sent)),
    );
    row("at rest: with IP and UDP headers, per node and second", format!("{:.0} B", rate(|s| s.wire_bytes_sent)));
    row("at rest: handshakes, per node and minute", format!("{:.2}", rate(|s| s.handshakes_accepted) * 60.0));
}

/// One node announces something new, over and over: when does each other one have it?
fn change_rows(nodes: &[Node]) -> Done<()> {
    let (mut each, mut last) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let Some(owner) = nodes.get(change * 7 % nodes.len()) else { continue };
        let weight = u32::try_from(change + 100)?;
        let start = Instant::now();
        owner.announce(weight);
        let others = || nodes.iter().filter(|node| node.name != owner.name);
        until("a change is everywhere", || others().all(|node| node.facts.saw_weight(&owner.name, weight).is_some()))?;
        let times: Vec<Duration> = others()
            .filter_map(|node| node.facts.saw_weight(&owner.name, weight))
            .map(|at| at.saturating_duration_since(start))
            .collect();
        last.extend(times.iter().max().copied());
        each.extend(times);
        // Above the rate of writes that peers take from one owner.
        std::thread::sleep(Duration::from_millis(250));
    }
    each.sort();
    last.sort();
    let at = |times: &[Duration], part: usize| {
        times.get(part.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    row(
        "a change at another node: median, 99 %, most",
        format!(
            "{:.1} ms, {:.1} ms, {:.1} ms",
            ms(at(&each, each.len() / 2)),
            ms(at(&each, each.len() * 99 / 100)),
            ms(at(&each, each.len()))
        ),
    );
    row(
        "a change at all nodes: median, most",
        format!("{:.1} ms, {:.1} ms", ms(at(&last, last.len() / 2)), ms(at(&last, last.len()))),
    );
    Ok(())
}

/// A datagram there and one back, through both endpoints and their inboxes, one at a time.
fn ping_cost(runtime: &Runtime) -> Done<()> {
    const PINGS: u32 = 20_000;
    let mesh = Arc::new(Mesh::new()?);
    let (cpu, time) = runtime.block_on(async {
        let (a, mut from_b) = mesh.endpoint(0)?;
        let (b, mut from_a) = mesh.endpoint(1)?;
        memory::connect(&a, &b, &mut from_b).await?;
        let echo = tokio::spawn({
            let (b, to) = (b.clone(), a.name().clone());
            async move {
                while let Some(event) = from_a.recv().await {
                    if let starling_transport::quic::NetEvent::Datagram { payload, .. } = event {
                        let _ = b.send_datagram(&to, payload);
                    }
                }
            }
        });
        let (cpu, start) = (Figures::read().cpu, Instant::now());
        for _ in 0..PINGS {
            let _ = a.send_datagram(b.name(), bytes::Bytes::from_static(&[7; 40]));
            // On loopback nothing is lost; if it were, the bench would only be slower.
            let _ = tokio::time::timeout(Duration::from_millis(200), from_b.recv()).await;
        }
        echo.abort();
        Done::Ok((Figures::read().cpu - cpu, start.elapsed()))
    })?;
    row("ping and ack: CPU per side", format!("{:.1} us", ms(cpu) * 1_000.0 / f64::from(PINGS) / 2.0));
    row("ping and ack: round trip, one at a time", format!("{:.1} us", ms(time) * 1_000.0 / f64::from(PINGS)));
    Ok(())
}
