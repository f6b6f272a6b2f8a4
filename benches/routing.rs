//! Table look-up, decision and compile: what a request pays, and what a change of one instance costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fixtures::{registry, service_key, settings, table};
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use starling_config::documents::http_route::{HeaderMatch, TextMatch};
use starling_model::{HealthEntry, HealthRecord, InstanceName, NodeName, Readiness};
use starling_routing::group::{RouteGroup, RuleId};
use starling_routing::matching::{Conditions, HttpFacts, PathCondition, PathPrefix};
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

/// `len` rules whose prefix is `/service-N/v1`, or that all take every path and differ in one header.
fn group(len: u16, by_path: bool) -> RouteGroup {
    RouteGroup::new((0..len).map(|at| {
        let mut conditions = Conditions::everything();
        if by_path {
            conditions.path = PathCondition::Prefix(PathPrefix::new(&format!("/service-{at}/v1")));
        } else {
            let value = TextMatch::Exact(at.to_string());
            conditions.headers.push(HeaderMatch { name: HeaderName::from_static("x-tenant"), value });
        }
        (RuleId { route: format!("default/route-{at:04}"), rule: 0 }, vec![conditions])
    }))
}

fn matching(c: &mut Criterion) {
    let mut headers = HeaderMap::new();
    for at in 0..12 {
        let name = HeaderName::from_bytes(format!("x-header-{at}").as_bytes()).expect("a header name");
        headers.insert(name, HeaderValue::from_static("value"));
    }
    for len in [20, 1_000] {
        let path = format!("/service-{}/v1/cart/items", len / 2);
        headers.insert("x-tenant", HeaderValue::from(len - 1));
        let facts = HttpFacts {
            method: &Method::GET,
            scheme: "http",
            authority: "orders.mesh.internal",
            path: &path,
            query: Some("page=2"),
            headers: &headers,
        };
        for (what, by_path) in [("paths", true), ("headers_last_wins", false)] {
            let group = group(len, by_path);
            assert!(group.find(&facts).is_some(), "the bench would measure a miss");
            c.bench_function(&format!("match/{len}_routes_by_{what}"), |b| {
                b.iter(|| group.find(black_box(&facts)).is_some());
            });
        }
    }
    c.bench_function("compile/sort_1000_routes", |b| b.iter(|| group(1_000, true)));
}

criterion_group!(benches, decisions, compiling, matching);
criterion_main!(benches);
