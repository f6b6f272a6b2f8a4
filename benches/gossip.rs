//! The membership machine on one core: full packets, turns, and whole probes.
//!
//! ```sh
//! cargo bench -p starling-benches --bench gossip
//! ```
//!
//! Goals: 300,000 datagrams a second, and less than 5 us to write or read a full one.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fixtures::machines::{EPOCH, MESH, Machines, address, drain, name};
use starling_gossip::golden;
use starling_model::NodeName;

/// Links of a node in a large mesh.
const LINKS: usize = 32;

fn peers() -> Vec<NodeName> {
    (0..LINKS).map(|at| name(&format!("vm-{at:03}"))).collect()
}

fn lives() -> Vec<(Bytes, [u8; 64])> {
    peers().iter().map(|peer| (golden::alive_body(peer, EPOCH, &[address()]), [3; 64])).collect()
}

/// As full as a packet gets: lives of members, then pings.
fn full(c: &mut Criterion) {
    let lives = lives();
    let datagram = golden::full_datagram(&MESH, &lives, 7).expect("a datagram");
    let mut group = c.benchmark_group("datagram");
    group.throughput(Throughput::Bytes(datagram.len() as u64));
    group.bench_function("encode full", |b| b.iter(|| golden::full_datagram(&MESH, black_box(&lives), 7)));
    group.bench_function("decode full", |b| b.iter(|| golden::read_datagram(&MESH, black_box(&datagram))));
    group.finish();
}

/// One machine that knows and is linked with [`LINKS`] others, which are gone.
fn hub() -> (Machines, NodeName) {
    let (mut machines, hub) = (Machines::new(), name("hub"));
    machines.add(&hub, None);
    for peer in peers() {
        machines.add(&peer, None);
        machines.link(&hub, &peer);
    }
    machines.advance(Duration::from_secs(5), Duration::from_millis(50));
    let known = machines.swims.get(&hub).map_or(0, |swim| swim.members().filter(|m| m.last_seen.is_some()).count());
    assert_eq!(known, LINKS, "all have proved themselves");
    machines.swims.retain(|own, _| *own == hub);
    (machines, hub)
}

fn turns(c: &mut Criterion) {
    let (mut machines, hub) = hub();
    let (peers, mut now) = (peers(), machines.now);
    let swim = machines.swims.get_mut(&hub).expect("the hub");
    let ping = golden::ping_datagram(&MESH, 42).expect("a ping");
    let news = golden::full_datagram(&MESH, &lives(), 7).expect("a datagram");
    let life = golden::alive_datagram(&MESH, golden::alive_body(&peers[0], EPOCH, &[address()]), [3; 64]);
    let life = life.expect("a datagram");
    let mut group = c.benchmark_group("handle");
    group.throughput(Throughput::Elements(1));
    let mut at = 0;
    for (what, datagram) in
        [("ping, answered", &ping), ("one known life", &life), ("a full datagram of known lives", &news)]
    {
        group.bench_function(what, |b| {
            b.iter(|| {
                at = (at + 1) % LINKS;
                now += Duration::from_nanos(100);
                let done = swim.handle_datagram(&peers[at], black_box(datagram), now);
                assert!(done.is_ok());
                drain(swim, now, |action| drop(black_box(action)));
            });
        });
    }
    group.finish();
}

/// Two machines: a period with its ping and ack, both sides, timers included.
fn probes(c: &mut Criterion) {
    let mut machines = Machines::new();
    let (a, b) = (name("a"), name("b"));
    machines.add(&a, None);
    machines.add(&b, None);
    machines.link(&a, &b);
    machines.advance(Duration::from_secs(10), Duration::from_millis(50));
    let before = machines.datagrams;
    machines.advance(Duration::from_secs(100), Duration::from_millis(500));
    let rate = (machines.datagrams - before) / 100;
    assert!((2..=8).contains(&rate), "{rate} datagrams a second: each side probes once");
    c.bench_function("probe/a period of two machines: two pings, two acks", |bench| {
        bench.iter(|| machines.advance(Duration::from_secs(1), Duration::from_millis(500)));
    });
}

criterion_group!(benches, full, turns, probes);
criterion_main!(benches);
