//! What one gossip packet costs: reading and writing each form, and a whole turn of the machine.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use starling_gossip::{Action, Command, ConnectionChange, LocalMember, Signature, Swim, SwimConfig, Verdict, golden};
use starling_model::{
    Announcement, BootEpoch, InstanceName, Labels, MeshId, Namespace, NodeName, PortName, Protocol, RecordVersion,
    ServiceKey, ServicesRecord, Weight,
};

const MESH: MeshId = MeshId([7; 32]);

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a node name")
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7740))
}

/// Eight instances with one label each: an ordinary host.
fn services() -> ServicesRecord {
    let instance = |at: usize| Announcement {
        instance: InstanceName::new(&format!("orders-{at}")).expect("an instance name"),
        service: ServiceKey::parse("orders", &Namespace::default()).expect("a service"),
        port: PortName::new("http").expect("a port name"),
        protocol: Protocol::Http,
        labels: Labels::new([("zone".to_owned(), "a".to_owned())].into()).expect("labels"),
        weight: Weight::default(),
    };
    ServicesRecord { instances: (0..8).map(instance).collect() }
}

fn codec(c: &mut Criterion) {
    let ping = golden::ping_datagram(&MESH, 42).expect("a ping");
    c.bench_function("ping/encode", |b| b.iter(|| golden::ping_datagram(&MESH, black_box(42))));
    c.bench_function("ping/decode", |b| b.iter(|| golden::read_datagram(&MESH, black_box(&ping))));

    let body = golden::alive_body(&name("vm-1"), BootEpoch(1_700_000_000), &[address()]);
    let alive = golden::alive_datagram(&MESH, body.clone(), [1; 64]).expect("an alive");
    c.bench_function("alive/encode", |b| {
        b.iter(|| golden::alive_body(black_box(&name("vm-1")), BootEpoch(1_700_000_000), &[address()]));
    });
    c.bench_function("alive/decode", |b| {
        b.iter(|| (golden::read_datagram(&MESH, black_box(&alive)), golden::read_life(black_box(&body))));
    });

    let (record, version) = (services(), RecordVersion { epoch: BootEpoch(1), version: 1 });
    let write = || golden::services_record(&name("vm-1"), version, black_box(&record), [2; 32], [3; 64]);
    let bytes = write().expect("a record");
    c.bench_function("services/encode", |b| b.iter(write));
    c.bench_function("services/decode", |b| b.iter(|| golden::read_record(black_box(&bytes))));
}

/// A machine whose keys always say yes, linked with `peers` peers that it knows as members.
fn machine(own: &str, peers: usize, now: Instant) -> Swim {
    let me = LocalMember {
        mesh: MESH,
        name: name(own),
        addresses: vec![address()],
        record_key: [1; 32],
        credential: Bytes::from_static(b"credential"),
        epoch: BootEpoch(1),
        instance_tag: 1,
        region: String::new(),
        release: "0.1.0".to_owned(),
    };
    let mut swim = Swim::new(me, SwimConfig::lan(), [5; 32], now);
    swim.handle_command(Command::Join { seeds: Vec::new() }, now);
    drain(&mut swim, now);
    for at in 0..peers {
        swim.handle_connection(&name(&format!("vm-{at}")), ConnectionChange::Up { address: address() }, now);
    }
    drain(&mut swim, now);
    swim
}

fn drain(swim: &mut Swim, now: Instant) -> usize {
    let mut count = 0;
    while let Some(action) = swim.poll_action() {
        count += 1;
        match action {
            Action::Sign { ticket, .. } => swim.handle_signature(ticket, Signature([3; 64]), now),
            Action::Verify { ticket, .. } => swim.handle_verdict(ticket, Verdict::Valid, now),
            Action::SendDatagram { .. }
            | Action::SendSync { .. }
            | Action::Dial { .. }
            | Action::Close { .. }
            | Action::Persist(_)
            | Action::Emit(_) => {}
        }
    }
    count
}

fn turn(c: &mut Criterion) {
    let start = Instant::now();
    let ping = golden::ping_datagram(&MESH, 42).expect("a ping");
    for peers in [2, 32] {
        let mut swim = machine("me", peers, start);
        let from = name("vm-1");
        let mut now = start;
        c.bench_function(&format!("turn/ping answered, {peers} links"), |b| {
            b.iter(|| {
                now += Duration::from_micros(50);
                let _ = black_box(swim.handle_datagram(&from, black_box(&ping), now));
                swim.handle_timeout(now);
                drain(&mut swim, now)
            });
        });
    }

    let record = golden::services_record(&name("me"), RecordVersion::default(), &services(), [2; 32], [3; 64]);
    let stale = golden::record_datagram(&MESH, record.expect("a record")).expect("a datagram");
    let mut swim = machine("me", 2, start);
    let from = name("vm-1");
    c.bench_function("turn/stale record dropped", |b| {
        b.iter(|| {
            let _ = black_box(swim.handle_datagram(&from, black_box(&stale), start));
            drain(&mut swim, start)
        });
    });
}

criterion_group!(benches, codec, turn);
criterion_main!(benches);
