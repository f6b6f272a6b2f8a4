//! A decision takes no memory: neither where routes are matched, by path or by header, nor where an endpoint is chosen.
//!
//! Alone in its process, since the allocator counts for all threads.

use std::time::{Duration, Instant};

use fixtures::{documents, registry, route, service_key, settings};
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use starling_routing::{
    Decision, Destination, Draws, EndpointIndex, HttpFacts, Load, RequestFacts, RouteTable, UnixSeconds, compile,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Decisions of each kind.
const DECISIONS: u64 = 1_000;

fn load(index: EndpointIndex) -> Load {
    Load { latency: Some(Duration::from_micros(100 + u64::from(index.0 % 7))), ..Load::default() }
}

/// Allocations of all decisions for one request.
fn allocations(table: &RouteTable, path: &str, headers: &HeaderMap, now: Instant) -> usize {
    let key = service_key(0);
    let http = HttpFacts { method: &Method::GET, scheme: "http", authority: "a", path, query: None, headers };
    let region = Region::new(ALLOCATOR);
    for seed in 0..DECISIONS {
        let request = RequestFacts {
            destination: Destination::Service(&key),
            port: None,
            source: None,
            http: Some(&http),
            avoid: &[],
            node: None,
            wall: UnixSeconds(0),
        };
        let decision = table.decide(&request, now, Draws::from_seed(seed), &load);
        assert!(matches!(&decision, Decision::Forward(choice) if choice.rule.is_some()), "by a route");
    }
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn a_decision_takes_no_memory() {
    let now = Instant::now();
    let registry = registry(1_000, 3);
    for (kind, by_path) in [("path", true), ("header", false)] {
        let matches = |at: usize| match by_path {
            true => format!("{{path: {{value: /items-{at}}}}}"),
            false => format!("{{headers: [{{name: x-user, value: \"{at}\"}}]}}"),
        };
        let table = compile(&documents((0..1_000).map(|at| route(at, 0, &matches(at)))), &registry, &settings(), None);
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-user"), HeaderValue::from_static("500"));
        assert_eq!(allocations(&table, "/items-500/cart", &headers, now), 0, "1,000 routes by {kind}");
    }
}
