//! Table look-up, decision and compile: what a request pays, and what a change of one instance costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fixtures::{documents, registry, route, selecting, service_key, settings, table};
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use starling_model::{HealthEntry, HealthRecord, InstanceName, NodeName, Readiness};
use starling_routing::{
    Decision, Destination, Documents, Draws, EndpointIndex, HttpFacts, Load, PeakEwma, Reason, Registry, RequestFacts,
    RouteTable, UnixSeconds, compile,
};

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
                let request = RequestFacts {
                    destination: Destination::Service(&key),
                    port: None,
                    source: None,
                    http: None,
                    avoid: &[],
                    node: None,
                    wall: UnixSeconds(0),
                };
                black_box(table.decide(&request, now, Draws::from_seed(seed), &load));
            });
        });
    }
    let ewma = PeakEwma::default().observe(Duration::from_millis(2), 0);
    c.bench_function("ewma/observe_and_read", |b| {
        b.iter(|| black_box(ewma).observe(black_box(Duration::from_millis(1)), 5).read(9));
    });
}

/// Takes readiness from one instance of one service.
fn flap(registry: &mut Registry) {
    let node = NodeName::new("vm-3").expect("a label");
    let mut entries: Vec<HealthEntry> = (0..1_000)
        .map(|at| HealthEntry {
            instance: InstanceName::new(&format!("instance-{at}")).expect("a label"),
            readiness: Readiness::Ready,
        })
        .collect();
    entries[7].readiness = Readiness::Unready;
    registry.health(&node, &HealthRecord { entries });
}

fn compiling(c: &mut Criterion) {
    let by_path = |at: usize| route(at, at, "{path: {value: /v1}, method: GET}, {path: {value: /v2}}");
    let sets = [
        ("", Documents::default()),
        ("_1000_routes", documents((0..1_000).map(by_path))),
        ("_1000_selectors", documents((0..1_000).map(selecting))),
    ];
    for (what, documents) in sets {
        let mut registry = registry(1_000, 10);
        let compiled = |registry: &Registry, before: Option<&RouteTable>| {
            compile(black_box(&documents), registry, &settings(), before)
        };
        let before = compiled(&registry, None);
        let unknown = before.findings().iter().filter(|finding| finding.reason == Reason::BackendNotFound).count();
        assert!(unknown <= 1, "only the last route leads to a service that is not there: {:?}", before.findings());
        c.bench_function(&format!("compile/1000_services_x_10{what}_whole"), |b| b.iter(|| compiled(&registry, None)));
        flap(&mut registry);
        c.bench_function(&format!("compile/1000_services_x_10{what}_one_instance_changed"), |b| {
            b.iter(|| compiled(&registry, Some(&before)));
        });
    }
}

/// `len` routes of one service: their prefix is `/route-N/v1`, or they take every path and differ in one header.
fn routes(len: usize, by_path: bool) -> Documents {
    documents((0..len).map(|at| {
        let matches = match by_path {
            true => format!("{{path: {{value: /route-{at}/v1}}}}"),
            false => format!("{{headers: [{{name: x-tenant, value: \"{at}\"}}]}}"),
        };
        route(at, 0, &matches)
    }))
}

fn matching(c: &mut Criterion) {
    let mut headers = HeaderMap::new();
    for at in 0..12 {
        let name = HeaderName::from_bytes(format!("x-header-{at}").as_bytes()).expect("a header name");
        headers.insert(name, HeaderValue::from_static("value"));
    }
    let (registry, key, now) = (registry(2, 10), service_key(0), Instant::now());
    for len in [20, 1_000] {
        let path = format!("/route-{}/v1/cart/items", len / 2);
        headers.insert("x-tenant", HeaderValue::from(len - 1));
        let facts = HttpFacts {
            method: &Method::GET,
            scheme: "http",
            authority: "service-0.mesh.internal",
            path: &path,
            query: Some("page=2"),
            headers: &headers,
        };
        for (what, by_path) in [("paths", true), ("headers_last_wins", false)] {
            let table = compile(&routes(len, by_path), &registry, &settings(), None);
            let request = RequestFacts {
                destination: Destination::Service(&key),
                port: None,
                source: None,
                http: Some(&facts),
                avoid: &[],
                node: None,
                wall: UnixSeconds(0),
            };
            let mut seed = 0;
            let mut decide = || {
                seed += 1;
                table.decide(black_box(&request), now, Draws::from_seed(seed), &load)
            };
            let Decision::Forward(choice) = decide() else { panic!("the bench would measure a miss") };
            assert!(choice.rule.is_some(), "the bench would measure a request without a route");
            c.bench_function(&format!("decide/{len}_routes_by_{what}"), |b| b.iter(|| black_box(decide())));
        }
    }
}

/// A service of ten endpoints under each way to choose one, and a session that is kept.
fn choosing(c: &mut Criterion) {
    let (registry, key, now) = (registry(1, 10), service_key(0), Instant::now());
    let mut headers = HeaderMap::new();
    headers.insert("x-user", HeaderValue::from_static("user-7"));
    let service = |spec: &str| {
        let head = "apiVersion: starling/v1\nkind: Service\nmetadata: {name: service-0}";
        format!("{head}\nspec: {{loadBalancing: {{{spec}}}}}\n")
    };
    let ways =
        ["peak-ewma", "least-request", "round-robin", "random", "maglev, key: 'header:x-user'", "maglev, key: source"];
    let decide = |table: &RouteTable, headers: &HeaderMap, seed: u64| {
        let (method, path) = (&Method::GET, "/cart");
        let facts =
            HttpFacts { method, scheme: "http", authority: "service-0.mesh.internal", path, query: None, headers };
        let request = RequestFacts {
            destination: Destination::Service(&key),
            port: None,
            source: None,
            http: Some(&facts),
            avoid: &[],
            node: None,
            wall: UnixSeconds(1_700_000_000),
        };
        table.decide(black_box(&request), now, Draws::from_seed(seed), &load)
    };
    let mut seed = 0;
    for way in ways {
        let table = compile(&documents([service(&format!("policy: {way}"))]), &registry, &settings(), None);
        let name: String = way.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        c.bench_function(&format!("decide/10_endpoints_{name}"), |b| {
            b.iter(|| {
                seed += 1;
                black_box(decide(&table, &headers, seed))
            });
        });
    }
    let policy = "apiVersion: starling/v1\nkind: BackendTrafficPolicy\nmetadata: {name: a}\nspec: {targetRefs: [{kind: Service, name: service-0}], sessionPersistence: {sessionName: sid}}\n";
    let table = compile(&documents([policy.to_owned()]), &registry, &settings(), None);
    let Decision::Forward(first) = decide(&table, &headers, 1) else { panic!("the bench would measure a refusal") };
    let set = first.set_cookie().expect("a session begins");
    c.bench_function("session/set_cookie", |b| b.iter(|| black_box(first.set_cookie())));
    let pair = set.to_str().ok().and_then(|set| set.split(';').next()).expect("a cookie");
    headers.insert("cookie", HeaderValue::from_str(pair).expect("a header value"));
    c.bench_function("decide/10_endpoints_session_kept", |b| {
        b.iter(|| {
            seed += 1;
            black_box(decide(&table, &headers, seed))
        });
    });
    for nodes in [10, 1_000] {
        let registry = fixtures::registry(1, nodes);
        let documents = documents([service("policy: maglev, key: path")]);
        c.bench_function(&format!("compile/maglev_of_{nodes}_endpoints"), |b| {
            b.iter(|| compile(black_box(&documents), &registry, &settings(), None));
        });
    }
}

criterion_group!(benches, decisions, compiling, matching, choosing);
criterion_main!(benches);
