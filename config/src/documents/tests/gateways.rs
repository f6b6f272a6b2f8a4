//! Where connections from outside come in, as documents say it.

use starling_model::codes::{self, BAD_DOCUMENT, Code, UNKNOWN_FIELD};

use super::one;
use crate::documents::gateway::RoutesFrom;
use crate::documents::limits::GATEWAY_LISTENERS_MAX;
use crate::documents::{Gateway, Spec, parse};
use crate::problem::render;

fn gateway(spec: &str) -> String {
    format!("apiVersion: starling/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec: {spec}")
}

fn listener(more: &str) -> String {
    gateway(&format!(
        "{{nodes: [{{node: edge-*}}], listeners: [{{name: a, port: 8443, protocol: TLS, tls: {{mode: Passthrough}}{more}}}]}}"
    ))
}

fn read(text: &str) -> Gateway {
    let Spec::Gateway(gateway) = one(text).spec else { panic!("{text}") };
    gateway
}

fn check(text: &str, code: Code, part: &str) {
    let told = parse("a.yaml", text).expect_err(text);
    let errors: Vec<_> = told.iter().filter(|one| one.code.level == codes::Level::Error).collect();
    assert_eq!(errors.len(), 1, "{text}\n{}", render(&told));
    assert_eq!(errors[0].code, code, "{}", errors[0]);
    assert!(errors[0].sentence().contains(part), "{part:?} is not in {}", errors[0].sentence());
}

#[test]
fn listeners_arrive_with_the_standard_s_defaults() {
    let plain = read(&listener(""));
    let one = &plain.listeners[0];
    assert_eq!((plain.nodes[0].to_string(), one.name.as_str(), one.port.get()), ("edge-*".to_owned(), "a", 8443));
    assert_eq!((&one.hostname, one.routes_from), (&None, RoutesFrom::Same));
    let wide = read(&listener(", hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}}"));
    let one = &wide.listeners[0];
    assert_eq!((one.hostname.as_deref(), one.routes_from), (Some("*.example.com"), RoutesFrom::All));
}

#[test]
fn what_this_release_does_not_do_is_refused_by_name() {
    let with = |from: &str, to: &str| listener("").replace(from, to);
    check(&with("TLS", "HTTPS"), BAD_DOCUMENT, "do not have");
    check(&with("TLS", "SMTP"), BAD_DOCUMENT, "no protocol of listeners");
    check(&with("mode: Passthrough", "mode: Terminate"), BAD_DOCUMENT, "would end TLS here");
    check(&with("mode: Passthrough", ""), BAD_DOCUMENT, "would end TLS here");
    check(&with(", tls: {mode: Passthrough}", ""), BAD_DOCUMENT, "`tls` is missing");
    check(&with("mode: Passthrough", "mode: Passthrough, certificateRefs: [{name: x}]"), BAD_DOCUMENT, "does not have");
    check(&with("mode: Passthrough", "mode: Passthru"), BAD_DOCUMENT, "did you mean \"Passthrough\"?");
    check(&listener(", allowedRoutes: {namespaces: {from: Selector}}"), BAD_DOCUMENT, "by label");
    check(&listener(", allowedRoutes: {kinds: [{kind: TLSRoute}]}"), BAD_DOCUMENT, "does not have");
    check(&listener(", hostname: a_b"), BAD_DOCUMENT, "not a host name");
    check(&listener(", hostnam: a"), UNKNOWN_FIELD, "did you mean `hostname`?");
    check(&with("{nodes:", "{gatewayClassName: x, nodes:"), BAD_DOCUMENT, "does not have");
    check(&with("port: 8443", "port: 0"), BAD_DOCUMENT, "port");
    check(
        &gateway("{listeners: [{name: a, port: 1, protocol: TLS, tls: {mode: Passthrough}}]}"),
        BAD_DOCUMENT,
        "`nodes` is missing",
    );
    check(&gateway("{nodes: [{node: a}], listeners: []}"), BAD_DOCUMENT, "at least one");
    check(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {}",
        BAD_DOCUMENT,
        "does not have",
    );
}

fn several(listeners: &[(&str, u16, &str)]) -> String {
    let each = listeners.iter().map(|(name, port, more)| {
        format!("{{name: {name}, port: {port}, protocol: TLS, tls: {{mode: Passthrough}}{more}}}")
    });
    gateway(&format!("{{nodes: [{{node: a}}], listeners: [{}]}}", each.collect::<Vec<_>>().join(", ")))
}

#[test]
fn listeners_have_names_of_their_own_and_can_be_told_apart() {
    check(&several(&[("a", 1, ""), ("a", 2, "")]), BAD_DOCUMENT, "twice");
    check(&several(&[("a", 1, ""), ("b", 1, "")]), BAD_DOCUMENT, "of an earlier listener");
    let host = ", hostname: x.com";
    assert_eq!(read(&several(&[("a", 1, ""), ("b", 1, host), ("c", 2, host)])).listeners.len(), 3);
    check(&several(&[("a", 1, host), ("b", 1, host)]), BAD_DOCUMENT, "of an earlier listener");
}

#[test]
fn one_listener_over_the_bound_is_refused() {
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("l{at}")).collect();
        let all: Vec<_> = (1..).zip(&names).map(|(port, name)| (name.as_str(), port, "")).collect();
        several(&all)
    };
    assert_eq!(read(&many(GATEWAY_LISTENERS_MAX)).listeners.len(), GATEWAY_LISTENERS_MAX);
    check(&many(GATEWAY_LISTENERS_MAX + 1), BAD_DOCUMENT, "at most 64");
}
