//! Table look-up, decision and compile: what a request pays, and what a change of one instance costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fixtures::{registry, service_key, settings, table};
use starling_model::{HealthEntry, HealthRecord, InstanceName, NodeName, Readiness};
use starling_routing::{Draws, EndpointIndex, Load, PeakEwma, RequestFacts, compile};

fn load(index: EndpointIndex) -> Load {
    Load { latency: Some(Duration::from_micros(100 + u64::from(index.0 % 7))), ..Load::default() }
}

fn decisions(c: &mut Criterion) {
    let now = Instant::now();
    for (services, nodes) in [(20, 3), (1_000, 10)] {
        let table = table(services, nodes);
        let host = format!("service-{}.mesh.internal", services / 2);
        c.bench_function(&format!("resolve_host/{services}_services"), |b| {
            b.iter(|| table.resolve_host(black_box(&host)).is_some());
        });
        let key = service_key(services / 2);
        let mut seed = 0;
        c.bench_function(&format!("decide/{services}_services_{nodes}_endpoints"), |b| {
            b.iter(|| {
                seed += 1;
                let request = RequestFacts { destination: &key, port: None, source: None, avoid: &[] };
                black_box(table.decide(&request, now, Draws::from_seed(seed), &load));
            });
        });
    }
    let ewma = PeakEwma::default().observe(Duration::from_millis(2), 0);
    c.bench_function("ewma/observe_and_read", |b| {
        b.iter(|| black_box(ewma).observe(black_box(Duration::from_millis(1)), 5).read(9));
    });
}

fn compiling(c: &mut Criterion) {
    let mut registry = registry(1_000, 10);
    let before = compile(&registry, &settings(), None);
    c.bench_function("compile/1000_services_x_10_whole", |b| b.iter(|| compile(&registry, &settings(), None)));
    let node = NodeName::new("vm-3").expect("a label");
    let mut entries: Vec<HealthEntry> = (0..1_000)
        .map(|at| HealthEntry {
            instance: InstanceName::new(&format!("instance-{at}")).expect("a label"),
            readiness: Readiness::Ready,
        })
        .collect();
    entries[7].readiness = Readiness::Unready;
    registry.health(&node, &HealthRecord { entries });
    c.bench_function("compile/1000_services_x_10_one_instance_changed", |b| {
        b.iter(|| compile(&registry, &settings(), Some(&before)));
    });
}

criterion_group!(benches, decisions, compiling);
criterion_main!(benches);
