//! The membership machine on one core: full packets, turns, and whole probes.
//!
//! ```sh
//! cargo bench -p starling-benches --bench gossip
//! ```
//!
//! Goals: 300,000 datagrams a second, full ones included, and less than 5 us to write or read one.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fixtures::hub::{Hub, Traffic, life};
use fixtures::machines::{MESH, Machines, name};
use starling_gossip::golden;

/// As full as a packet gets.
fn full(c: &mut Criterion) {
    let lives: Vec<_> = (0..10).map(life).collect();
    let datagram = golden::full_datagram(&MESH, &lives);
    let mut group = c.benchmark_group("datagram");
    group.throughput(Throughput::Bytes(datagram.len() as u64));
    group.bench_function("encode full", |b| b.iter(|| golden::full_datagram(&MESH, black_box(&lives))));
    group.bench_function("decode full", |b| b.iter(|| golden::read_datagram(&MESH, black_box(&datagram))));
    group.finish();
}

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("handle");
    group.throughput(Throughput::Elements(1));
    for traffic in Traffic::ALL {
        let mut hub = Hub::new(traffic);
        group.bench_function(traffic.as_str(), |b| b.iter(|| hub.turn()));
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
