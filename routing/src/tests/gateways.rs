//! Connections from outside the mesh: which listener and which route a server name leads to.

use std::num::NonZeroU16;

use super::base;
use super::world::{World, findings, node, told};
use crate::*;

const GATEWAY: &str = "apiVersion: starling/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  nodes: [{node: edge-*}]\n  listeners:\n    - {name: tls, port: 8443, protocol: TLS, tls: {mode: Passthrough}}\n";

fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "---\napiVersion: starling/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  nodes: [{{node: edge-1}}]\n  listeners: [{listeners}]\n"
    )
}

fn listener(name: &str, port: u16, more: &str) -> String {
    format!("{{name: {name}, port: {port}, protocol: TLS, tls: {{mode: Passthrough}}{more}}}")
}

fn route(name: &str, more: &str, backends: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "---\napiVersion: starling/v1\nkind: TLSRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{{kind: Gateway, name: edge, namespace: default}}], {more}rules: [{{backendRefs: [{backends}]}}]}}\n"
    )
}

fn world(yaml: &str) -> World {
    World::new(yaml).node("vm-1", &["shop-1 shop:tcp", "bank-1 bank:tcp"]).node("vm-2", &["shop-2 shop:tcp version=v2"])
}

fn ask(table: &RouteTable, at: &str, port: u16, name: Option<&str>, seed: u64) -> (Decision, Explanation) {
    let node = node(at);
    let request = RequestFacts {
        destination: Destination::Gateway { port: NonZeroU16::new(port).unwrap(), name },
        port: None,
        source: None,
        http: None,
        avoid: &[],
        node: Some(&node),
        wall: UnixSeconds(0),
    };
    table.explain(&request, base(), Draws::from_seed(seed), &|_| Load::default())
}

fn asked(table: &RouteTable, name: Option<&str>) -> String {
    told(&ask(table, "edge-1", 8443, name, 1).0)
}

#[test]
fn a_server_name_leads_to_its_route_and_an_unknown_one_nowhere() {
    let table = world(
        &[
            GATEWAY,
            &route("bank", "hostnames: [bank.example.com], ", "{name: bank}"),
            &route("shop", "hostnames: ['*.example.com'], ", "{name: shop}"),
        ]
        .concat(),
    )
    .table();
    assert_eq!(findings(&table), [""; 0]);
    assert_eq!(asked(&table, Some("bank.example.com")), "default/bank #0 -> vm-1/default/bank-1");
    assert!(asked(&table, Some("a.shop.example.com")).starts_with("default/shop #0 -> "));
    assert_eq!(asked(&table, Some("example.com")), "NoRule 404");
    assert_eq!(asked(&table, Some("example.org")), "NoRule 404");
    assert_eq!(asked(&table, None), "NoRule 404");
    let elsewhere = |at: &str, port| told(&ask(&table, at, port, Some("bank.example.com"), 1).0);
    assert_eq!(elsewhere("vm-1", 8443), "NoListener 404", "a node that is not selected");
    assert_eq!(elsewhere("edge-1", 8444), "NoListener 404");
    assert!(elsewhere("edge-2", 8443).contains("bank-1"));
    let ports = |at: &str| table.gateways().ports(&node(at)).map(NonZeroU16::get).collect::<Vec<_>>();
    assert_eq!((ports("edge-7"), ports("vm-1")), (vec![8443], vec![]));
}

#[test]
fn a_route_without_host_names_takes_every_name_and_none() {
    let table = world(&[GATEWAY, &route("all", "", "{name: bank}")].concat()).table();
    for name in [Some("x.org"), None] {
        assert_eq!(asked(&table, name), "default/all #0 -> vm-1/default/bank-1");
    }
}

#[test]
fn weights_and_subsets_hold_for_connections() {
    let table = world(
        &[
            GATEWAY,
            &route(
                "shop",
                "",
                "{name: shop, weight: 1, subset: {version: v2}}, {name: bank, weight: 3}, {name: shop, weight: 0}",
            ),
        ]
        .concat(),
    )
    .table();
    let mut shop = 0;
    for seed in 0..4_000 {
        match told(&ask(&table, "edge-1", 8443, Some("a"), seed).0).as_str() {
            "default/shop #0 -> vm-2/default/shop-2" => shop += 1,
            other => assert_eq!(other, "default/shop #0 -> vm-1/default/bank-1"),
        }
    }
    assert!((900..=1_100).contains(&shop), "{shop}");
}

#[test]
fn the_most_special_listener_takes_a_name_and_its_routes_alone_count() {
    let listeners = [
        listener("all", 8443, ""),
        listener("shop", 8443, ", hostname: '*.shop.com'"),
        listener("one", 8443, ", hostname: one.shop.com"),
    ];
    let to = |section: &str, more: &str, backend: &str| {
        route(section, more, backend).replace("name: edge,", &format!("name: edge, sectionName: {section},"))
    };
    let table = world(
        &[
            gateway("edge", &listeners.join(", ")),
            to("all", "hostnames: ['*.com'], ", "{name: bank}"),
            to("shop", "hostnames: [a.shop.com], ", "{name: shop, subset: {version: v2}}"),
        ]
        .concat(),
    )
    .table();
    assert_eq!(findings(&table), [""; 0]);
    assert_eq!(asked(&table, Some("x.com")), "default/all #0 -> vm-1/default/bank-1");
    assert_eq!(asked(&table, Some("a.shop.com")), "default/shop #0 -> vm-2/default/shop-2");
    assert_eq!(asked(&table, Some("b.shop.com")), "NoRule 404", "the listener of *.shop.com has it");
    assert_eq!(asked(&table, Some("one.shop.com")), "NoRule 404");
    assert_eq!(asked(&table, Some("x.org")), "NoRule 404");
}

#[test]
fn at_an_exact_listener_the_route_that_says_more_comes_first_then_the_name() {
    let table = world(
        &[
            gateway("edge", &listener("one", 8443, ", hostname: a.shop.com")),
            route("aaa", "hostnames: ['*.shop.com'], ", "{name: shop}"),
            route("bbb", "hostnames: [a.shop.com], ", "{name: bank}"),
            route("ccc", "hostnames: [a.shop.com], ", "{name: shop}"),
        ]
        .concat(),
    )
    .table();
    assert_eq!(asked(&table, Some("a.shop.com")), "default/bbb #0 -> vm-1/default/bank-1");
    let told = findings(&table);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("default/ccc /spec/hostnames/0: ST0432 Conflicted"), "{told:?}");
}

#[test]
fn what_does_not_attach_is_told() {
    let check = |yaml: &str, want: &str| {
        let told = findings(&world(yaml).table());
        assert!(told.iter().any(|one| one.contains(want)), "{want}: {told:?}");
    };
    check(&route("a", "", "{name: bank}"), "ST0433 NoMatchingParent: no document describes a Gateway default/edge");
    let gone = route("a", "", "{name: bank}").replace("name: edge,", "name: edge, port: 9,");
    check(&[GATEWAY, &gone].concat(), "ST0433 NoMatchingParent: Gateway edge has no listener");
    check(&[GATEWAY, &route("shop/a", "", "{name: bank}")].concat(), "ST0404 NotAllowedByListeners");
    let narrow = gateway("edge", &listener("a", 1, ", hostname: a.com"));
    check(&[narrow, route("a", "hostnames: [b.com], ", "{name: bank}")].concat(), "NoMatchingListenerHostname");
    let http = route("a", "", "{name: bank}").replace("TLSRoute", "HTTPRoute");
    check(&[GATEWAY, &http].concat(), "NotAllowedByListeners: Gateway edge takes TLSRoutes: a HTTPRoute");
    let twice = gateway("edgf", &listener("a", 8443, ""));
    check(&[GATEWAY, &twice].concat(), "Gateway default/edgf /spec/listeners/0: ST0432 Conflicted");
}

#[test]
fn a_route_of_another_namespace_is_taken_where_the_listener_says_so_and_leads_to_its_own_namespace() {
    let all = gateway("edge", &listener("a", 8443, ", allowedRoutes: {namespaces: {from: All}}"));
    let yaml = [&all[..], &route("shop/a", "", "{name: cart}, {name: bank, namespace: default}")].concat();
    let table = world(&yaml).node("vm-3", &["cart-1 shop/cart:tcp"]).table();
    let told = findings(&table);
    assert!(told.len() == 1 && told[0].contains("/spec/rules/0/backendRefs/1: ST0433 RefNotPermitted"), "{told:?}");
    let (_, explanation) = ask(&table, "edge-1", 8443, Some("x"), 1);
    let outcomes: Vec<String> =
        explanation.outcomes.iter().map(|one| format!("{} {}", one.share, super::world::told(&one.decision))).collect();
    assert_eq!(outcomes, ["0.5 shop/a #0 -> vm-3/shop/cart-1", "0.5 shop/a #0 InvalidBackend 500"]);
}

#[test]
fn in_the_mesh_the_same_route_ignores_its_host_names_and_may_lead_anywhere() {
    let both = route("a", "hostnames: [x.com], ", "{name: bank}")
        .replace("parentRefs: [", "parentRefs: [{kind: Service, name: shop}, ");
    let table = world(&[GATEWAY, &both].concat()).table();
    assert_eq!(super::world::Ask::bytes("shop").told(&table), "default/a #0 -> vm-1/default/bank-1");
    assert_eq!(asked(&table, Some("x.com")), "default/a #0 -> vm-1/default/bank-1");
    assert_eq!(asked(&table, Some("y.com")), "NoRule 404");
}

#[test]
fn an_explanation_names_listener_match_and_what_else_there_is() {
    let table = world(
        &[
            GATEWAY,
            &route("bank", "hostnames: [bank.example.com], ", "{name: bank}"),
            &route("shop", "hostnames: ['*.example.com'], ", "{name: shop}"),
        ]
        .concat(),
    )
    .table();
    let (_, won) = ask(&table, "edge-1", 8443, Some("a.example.com"), 1);
    assert_eq!(won.listener.unwrap().name, "tls");
    let route = won.route.unwrap();
    assert_eq!((route.winner.unwrap().asks.as_str(), route.losers.len()), ("server name *.example.com", 0));
    let (decision, lost) = ask(&table, "edge-1", 8443, Some("a.org"), 1);
    assert!(matches!(decision, Decision::Refuse { why: Refusal::NoRule, rule: None }));
    let losers: Vec<String> = lost.route.unwrap().losers.iter().map(|one| one.missed.to_string()).collect();
    assert_eq!(losers, ["server name is a.org (needs bank.example.com)", "server name is a.org (needs *.example.com)"]);
    let (_, unnamed) = ask(&table, "edge-1", 8443, None, 1);
    let losers = unnamed.route.unwrap().losers;
    assert_eq!(losers[0].missed.to_string(), "the client names no server (needs bank.example.com)");
}

#[test]
fn a_backend_of_a_gateway_s_route_without_an_endpoint_is_in_trouble() {
    let table =
        world(&[GATEWAY, &route("a", "", "{name: bank}, {name: shop, subset: {version: v9}}")].concat()).table();
    let troubled = table.troubled_backends();
    let one = troubled.first().unwrap();
    assert_eq!((troubled.len(), one.trouble, one.by), (1, Trouble::NoEndpoint, LedBy::Backend(1)));
}

#[test]
fn a_mirror_to_a_port_of_bytes_or_to_nobody_is_in_trouble() {
    let rules = "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: bank}}}, {type: RequestMirror, requestMirror: {backendRef: {name: web}}}], backendRefs: [{name: web, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shop, subset: {version: v9}}}}]}]}]";
    let table = world(&super::world::http_route("a", "web", rules)).node("vm-3", &["web-1 web"]).table();
    let told: Vec<String> =
        table.troubled_backends().iter().map(|one| format!("{} {:?}", one.by.pointer(0), one.trouble)).collect();
    assert_eq!(told, ["/spec/rules/0/filters Bytes", "/spec/rules/0/backendRefs/0 Bytes"]);
}
