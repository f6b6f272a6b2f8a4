//! Propositions about routes: who they hold for, what they lead to, and what is answered where they lead nowhere.

use std::collections::BTreeMap;

use super::world::{Ask, World, findings, http_route, told};
use crate::*;

fn check(yaml: &str, asks: &[(Ask, &str)], want_findings: &[&str]) {
    let table = two_services(yaml).table();
    for (ask, want) in asks {
        assert_eq!(ask.told(&table), *want, "{ask:?}\n{yaml}");
    }
    assert_eq!(findings(&table), want_findings, "{yaml}");
}

/// `orders` in two versions, `admin` and `db` beside it.
fn two_services(yaml: &str) -> World {
    World::new(yaml)
        .node("vm-1", &["orders-1 orders version=v1", "admin-1 admin"])
        .node("vm-2", &["orders-2 orders version=v2", "db-1 db:tcp"])
}

fn get(path: &str) -> Ask {
    Ask::new("orders", &format!("GET {path}"))
}

#[test]
fn without_a_route_requests_go_to_the_service() {
    check(
        "",
        &[(Ask::new("admin", "GET /"), "-> vm-1/default/admin-1"), (Ask::bytes("db"), "-> vm-2/default/db-1")],
        &[],
    );
}

#[test]
fn the_best_match_leads_where_its_rule_says() {
    let yaml = http_route(
        "a",
        "orders",
        "[{matches: [{path: {value: /admin}, method: GET}], backendRefs: [{name: admin}]}, {backendRefs: [{name: orders, subset: {version: v2}}]}]",
    );
    let asks = [
        (get("/admin"), "default/a #0 -> vm-1/default/admin-1"),
        (get("/admin/x"), "default/a #0 -> vm-1/default/admin-1"),
        (get("/administrator"), "default/a #1 -> vm-2/default/orders-2"),
        (Ask::new("orders", "POST /admin"), "default/a #1 -> vm-2/default/orders-2"),
    ];
    check(&yaml, &asks, &[]);
}

#[test]
fn a_route_whose_rules_do_not_match_is_404_and_unimplemented() {
    let yaml = http_route("a", "orders", "[{matches: [{path: {value: /x}}], backendRefs: [{name: orders}]}]");
    check(&yaml, &[(get("/y"), "NoRule 404")], &[]);
    assert_eq!(Refusal::NoRule.grpc_status(), 12);
    let grpc = Ask::new("orders", "POST /p.S/M").header("content-type", "application/grpc+proto");
    assert_eq!(grpc.with(|request| request.answered_in()), starling_model::Protocol::Grpc);
    assert_eq!(get("/y").with(|request| request.answered_in()), starling_model::Protocol::Http);
    assert_eq!(Ask::bytes("db").with(|request| request.answered_in()), starling_model::Protocol::Tcp);
}

/// GEP-1294: a route of another namespace binds callers of its own namespace only, for whom it replaces the others.
#[test]
fn a_consumer_route_replaces_the_producers_for_its_own_namespace() {
    let producer = http_route("p", "orders", "[{matches: [{path: {value: /p}}], backendRefs: [{name: orders}]}]");
    let consumer = http_route(
        "shop/c",
        "orders",
        "[{matches: [{path: {value: /c}}], backendRefs: [{name: admin, namespace: default}]}]",
    );
    let admin = "shop/c #0 -> vm-1/default/admin-1";
    let asks = [
        (get("/c").from("shop/web"), admin),
        (get("/p").from("shop/web"), "NoRule 404"),
        (get("/c").from("other/web"), "NoRule 404"),
        (get("/c"), "NoRule 404"),
    ];
    check(&format!("{producer}{consumer}"), &asks, &[]);
    let table = two_services(&format!("{producer}{consumer}")).table();
    for caller in [get("/p"), get("/p").from("web"), get("/p").from("other/web")] {
        assert!(caller.told(&table).starts_with("default/p #0 -> "), "{caller:?}");
    }
    // Without producer routes all others go straight to the service.
    let table = two_services(&consumer).table();
    assert!(get("/c").from("other/web").told(&table).starts_with("-> vm-"));
}

#[test]
fn one_kind_of_route_has_a_port_and_the_others_are_told() {
    let parents = "parentRefs: [{kind: Service, name: orders}]";
    let grpc = format!(
        "---\napiVersion: starling/v1\nkind: GRPCRoute\nmetadata: {{name: g}}\nspec:\n  {parents}\n  rules: [{{matches: [{{method: {{service: p.S}}}}], backendRefs: [{{name: admin}}]}}]\n"
    );
    let l4 = |kind: &str, name: &str, backend: &str| {
        format!(
            "---\napiVersion: starling/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  {parents}\n  rules: [{{backendRefs: [{{name: {backend}}}]}}]\n"
        )
    };
    let http = http_route("h", "orders", "[{backendRefs: [{name: orders}]}]");
    let call = || Ask::new("orders", "POST /p.S/M");
    let covered = |document: &str, kind: &str| {
        format!(
            "{document} /spec/parentRefs: ST0432 Conflicted: a {kind} has the port of Service default/orders, and one kind of route has a port"
        )
    };
    check(
        &format!("{http}{grpc}"),
        &[(call(), "default/g #0 -> vm-1/default/admin-1"), (get("/"), "NoRule 404")],
        &[&covered("HTTPRoute default/h", "GRPCRoute")],
    );
    let (tls, tcp) = (l4("TLSRoute", "s", "db"), l4("TCPRoute", "t", "admin"));
    check(
        &format!("{tcp}{tls}"),
        &[(Ask::bytes("orders"), "default/s #0 -> vm-2/default/db-1"), (get("/"), "default/s #0 -> vm-2/default/db-1")],
        &[&covered("TCPRoute default/t", "TLSRoute")],
    );
    let second = "TCPRoute default/u /spec/parentRefs: ST0432 Conflicted: TCPRoute default/t has a port of Service default/orders already: the first TCPRoute by name counts";
    check(
        &format!("{}{tcp}", l4("TCPRoute", "u", "db")),
        &[(Ask::bytes("orders"), "default/t #0 -> vm-1/default/admin-1")],
        &[second],
    );
    // What is asked for in bytes cannot be seen: they go to the service, whatever HTTPRoutes there are.
    let table = two_services(&http_route("h", "orders", "[{backendRefs: [{name: admin}]}]")).table();
    assert!(Ask::bytes("orders").told(&table).starts_with("-> vm-"));
}

#[test]
fn a_match_that_another_route_hides_is_told() {
    let rules = "[{matches: [{path: {value: /x}}], backendRefs: [{name: admin}]}]";
    let yaml = format!("{}{}", http_route("b", "orders", rules), http_route("a", "orders", rules));
    let told = "HTTPRoute default/b /spec/rules/0/matches/0: ST0432 Conflicted: HTTPRoute default/a asks for the same and comes before it by name";
    check(&yaml, &[(get("/x"), "default/a #0 -> vm-1/default/admin-1")], &[told]);
}

#[test]
fn a_backend_that_cannot_be_used_answers_its_share_with_500() {
    let service = "---\napiVersion: starling/v1\nkind: Service\nmetadata: {name: raw}\nspec: {ports: [{name: main, port: 5432, protocol: tcp}], subsets: {old: {version: v0}}}\n";
    let check_one = |backend: &str, told: &str| {
        let yaml = format!("{service}{}", http_route("a", "orders", &format!("[{{backendRefs: [{backend}]}}]")));
        let pointer = "HTTPRoute default/a /spec/rules/0/backendRefs/0: ST0433";
        check(&yaml, &[(get("/"), "default/a #0 InvalidBackend 500")], &[&format!("{pointer} {told}")]);
    };
    check_one("{name: gone}", "BackendNotFound: no document and no instance knows a service default/gone");
    check_one("{kind: Bucket, group: b, name: x}", "InvalidKind: Bucket x is of a kind that is not known here");
    check_one("{name: raw, port: 1}", "BackendNotFound: Service default/raw has no port 1");
    check_one(
        "{name: orders, subset: gone}",
        "BackendNotFound: no Service document of default/orders has a subset gone",
    );
    check_one(
        "{name: raw, port: 5432}",
        "UnsupportedProtocol: the port of Service default/raw speaks tcp, which HTTPRoute cannot use",
    );
    assert_eq!((Refusal::InvalidBackend.status(), Refusal::InvalidBackend.grpc_status()), (500, 14));

    let table = two_services(&http_route(
        "a",
        "orders",
        "[{backendRefs: [{name: admin, weight: 3}, {name: gone, weight: 1}, {name: orders, subset: {version: v9}, weight: 4}]}]",
    ))
    .table();
    let counts = spread(&get("/"), &table);
    let near = |what: &str, share: f64| {
        let found = f64::from(counts.get(what).copied().unwrap_or_default()) / 10_000.0;
        assert!((found - share).abs() < 0.02, "{what}: {counts:?}");
    };
    near("default/a #0 -> vm-1/default/admin-1", 0.375);
    near("default/a #0 InvalidBackend 500", 0.125);
    near("default/a #0 NoEndpoint 503", 0.5);
}

fn spread(ask: &Ask, table: &RouteTable) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    (0..10_000).for_each(|seed| *counts.entry(told(&ask.decide(table, seed))).or_default() += 1);
    counts
}

#[test]
fn without_backends_or_with_weights_of_zero_only_a_rule_answers_500() {
    for backends in ["[]", "[{name: orders, weight: 0}, {name: admin, weight: 0}]"] {
        let yaml = http_route("a", "orders", &format!("[{{backendRefs: {backends}}}]"));
        check(&yaml, &[(get("/"), "default/a #0 NoBackend 500")], &[]);
    }
}

#[test]
fn shares_hold_by_subset_and_within_it_by_endpoint() {
    let yaml = format!(
        "apiVersion: starling/v1\nkind: Service\nmetadata: {{name: orders}}\nspec: {{subsets: {{stable: {{version: v1}}, canary: {{version: v2}}}}}}\n{}",
        http_route(
            "a",
            "orders",
            "[{backendRefs: [{name: orders, subset: stable, weight: 90}, {name: orders, subset: canary, weight: 10}]}]"
        )
    );
    let world = two_services(&yaml).node("vm-3", &["orders-3 orders version=v1"]);
    let counts = spread(&get("/"), &world.table());
    for (endpoint, share) in
        [("vm-1/default/orders-1", 0.45), ("vm-2/default/orders-2", 0.1), ("vm-3/default/orders-3", 0.45)]
    {
        let found = f64::from(counts[&format!("default/a #0 -> {endpoint}")]) / 10_000.0;
        assert!((found - share).abs() < 0.02, "{endpoint}: {counts:?}");
    }
}

#[test]
fn a_valid_backend_without_a_ready_endpoint_is_503_and_a_service_nobody_knows_404() {
    let yaml = http_route("a", "orders", "[{backendRefs: [{name: cache}]}]");
    let mut world = two_services(&yaml).node("vm-3", &["cache-1 cache"]);
    world.unready("vm-3");
    assert_eq!(get("/").told(&world.table()), "default/a #0 NoEndpoint 503");
    assert_eq!(Refusal::NoEndpoint.grpc_status(), 14);
    assert_eq!(Ask::new("nobody", "GET /").told(&world.table()), "NoService 404");
    assert_eq!(get("/").port("other").told(&world.table()), "NoPort 404");
}

#[test]
fn redirects_and_preflights_are_answered_at_once_also_by_a_backends_filter() {
    let redirect = "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308}}]";
    let cors = "filters: [{type: CORS, cors: {allowOrigins: [\"https://a.example\"]}}]";
    let yaml = http_route(
        "a",
        "orders",
        &format!("[{{matches: [{{path: {{value: /old}}}}], {redirect}}}, {{backendRefs: [{{name: admin, {cors}}}]}}]"),
    );
    let preflight = |origin: &str| {
        Ask::new("orders", "OPTIONS /x").header("origin", origin).header("access-control-request-method", "PUT")
    };
    let asks = [
        (get("/old/x?y=1"), "default/a #0 308 location: https://orders.mesh.internal/new/x?y=1"),
        (
            preflight("https://a.example"),
            "default/a #1 204 access-control-allow-origin: https://a.example, vary: Origin, access-control-allow-methods: GET, HEAD, POST, access-control-max-age: 5",
        ),
        (preflight("https://b.example"), "default/a #1 204 "),
        (Ask::new("orders", "OPTIONS /x"), "default/a #1 -> vm-1/default/admin-1"),
    ];
    check(&yaml, &asks, &[]);
}

#[test]
fn mirrors_take_their_share_and_an_unknown_target_is_dropped_and_told() {
    let mirror = |name: &str, percent: u32| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}}}, percent: {percent}}}}}")
    };
    let filters = format!("filters: [{}, {}, {}]", mirror("cache", 25), mirror("gone", 100), mirror("db", 100));
    let yaml = http_route(
        "a",
        "orders",
        &format!("[{{{filters}, backendRefs: [{{name: admin, filters: [{}]}}]}}]", mirror("orders", 50)),
    );
    let table = two_services(&yaml).node("vm-3", &["cache-1 cache"]).table();
    assert_eq!(findings(&table).len(), 1, "{:?}", findings(&table));
    let mut counts = BTreeMap::<String, u32>::new();
    for seed in 0..10_000 {
        let Decision::Forward(choice) = get("/").decide(&table, seed) else { panic!("there is an endpoint") };
        assert_eq!(choice.endpoint().id.to_string(), "vm-1/default/admin-1");
        for mirror in &choice.mirrors {
            *counts.entry(mirror.endpoint().id.to_string()).or_default() += 1;
        }
    }
    for (endpoint, share) in
        [("vm-3/default/cache-1", 0.25), ("vm-1/default/orders-1", 0.25), ("vm-2/default/orders-2", 0.25)]
    {
        assert!((f64::from(counts[endpoint]) / 10_000.0 - share).abs() < 0.02, "{counts:?}");
    }
    assert!(!counts.contains_key("vm-2/default/db-1"), "bytes are no place for a copy of a request: {counts:?}");
}

#[test]
fn what_holds_for_a_request_comes_from_its_rule_and_from_the_policy_of_the_service_that_takes_it() {
    let policy = |name: &str, percent: u32| {
        format!(
            "---\napiVersion: starling/v1\nkind: BackendTrafficPolicy\nmetadata: {{name: {name}}}\nspec: {{targetRefs: [{{kind: Service, name: admin}}], retryConstraint: {{budget: {{percent: {percent}}}}}}}\n"
        )
    };
    let route = http_route(
        "a",
        "orders",
        "[{timeouts: {request: 2s}, retry: {attempts: 4, codes: [503]}, matches: [{method: GET}], backendRefs: [{name: admin}]}]",
    );
    let table = two_services(&format!("{}{}{route}", policy("z", 1), policy("y", 5))).table();
    let Decision::Forward(choice) = get("/").decide(&table, 1) else { panic!("there is an endpoint") };
    assert_eq!(choice.policy().tries_max, Effective { value: 5, origin: Origin::Rule });
    let budget = choice.service_policy.as_ref().unwrap();
    assert_eq!(
        (budget.document.to_string(), budget.retry_budget.percent),
        ("BackendTrafficPolicy default/y".to_owned(), 5)
    );
    let told = "BackendTrafficPolicy default/z /spec/targetRefs/0: ST0432 Conflicted: BackendTrafficPolicy default/y holds for default/admin already: the first by name counts";
    assert_eq!(findings(&table), [told]);
    let Decision::Forward(choice) = Ask::new("db", "GET /").decide(&table, 1) else { panic!("there is an endpoint") };
    assert_eq!((choice.policy(), &choice.service_policy), (&Policy::BUILT_IN, &None));
}

#[test]
fn a_parent_that_is_not_there_is_told() {
    let yaml = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec:\n  parentRefs: [{name: edge}, {kind: Service, name: gone}]\n  rules: [{backendRefs: [{name: orders, port: 80}]}]\n";
    let gateway =
        "HTTPRoute default/a /spec/parentRefs/0: ST0433 NoMatchingParent: no document describes a Gateway default/edge";
    let gone = "HTTPRoute default/a /spec/parentRefs/1: ST0433 NoMatchingParent: no document and no instance knows a service default/gone";
    check(yaml, &[], &[gateway, gone]);
}
