//! What is accepted, and as what.

use std::time::Duration;

use http::Method;
use proptest::prelude::*;
use starling_model::{Protocol, codes};

use super::{SAMPLES, all, one, route, sample};
use crate::documents::filter::{PathEdit, PathFilter};
use crate::documents::http_route::{PathMatch, TextMatch};
use crate::documents::route::{BackendTarget, ParentKind, Subset};
use crate::documents::rule_policy::{CookieLifetime, Timeout};
use crate::documents::service::TargetPort;
use crate::documents::starling_service::{HashKey, Policy};
use crate::documents::{ApiVersion, HttpRoute, Spec, parse};
use crate::problem::render;

fn http(text: &str) -> HttpRoute {
    let Spec::HttpRoute(route) = one(text).spec else { panic!("{text}") };
    route
}

#[test]
fn every_sample_parses_and_keeps_its_text() {
    for (name, text) in SAMPLES {
        for document in all(text) {
            assert!(text.contains(&document.text), "{name}: {}", document.text);
            let alone = one(&document.text);
            assert_eq!((alone.key, alone.spec, alone.text), (document.key, document.spec, document.text), "{name}");
        }
    }
}

#[test]
fn the_text_is_kept_byte_for_byte_with_its_comments() {
    let text = "# why\nkind: Service # what\r\napiVersion: v1\nmetadata: {name:   x}\nspec: {ports: [{port: 80}]}";
    let documents = all(&format!("\n{text}\n\n---\n{}", text.replace("name:   x", "name: y")));
    assert_eq!(documents[0].text, text);
    assert_eq!((documents[0].line, documents[1].line), (2, 9));
    assert_eq!(documents[0].key.to_string(), "Service default/x");
}

#[test]
fn keys_are_kind_namespace_and_name() {
    let keys: Vec<String> = sample("standard.yaml").iter().map(|document| document.key.to_string()).collect();
    let want = [
        "HTTPRoute shop/everything",
        "GRPCRoute default/calls",
        "TCPRoute default/db",
        "TLSRoute default/passthrough",
        "Service shop/orders",
    ];
    assert_eq!(keys, want);
}

#[test]
fn the_canary_of_the_contract_is_two_weighted_subsets() {
    let documents = sample("canary.yaml");
    assert_eq!((documents[0].version, documents[0].warnings.len()), (ApiVersion::Starling, 1));
    assert_eq!(documents[0].warnings[0].code, codes::RETRIES_WRITES);
    let Spec::HttpRoute(route) = &documents[0].spec else { panic!() };
    assert_eq!((route.parents[0].kind, route.parents[0].name.as_str()), (ParentKind::Service, "orders"));
    let rule = &route.rules[0];
    assert_eq!(rule.timeouts.request, Some(Timeout::After(Duration::from_secs(2))));
    assert_eq!(rule.retry.as_ref().unwrap().codes, [502, 503, 504]);
    let backends: Vec<(String, u32)> = rule
        .backends
        .iter()
        .map(|backend| match &backend.backend.target {
            BackendTarget::Service(target) => match &target.subset {
                Some(Subset::Named(name)) => (format!("{}{{{name}}}", target.service), backend.backend.weight.get()),
                other => panic!("{other:?}"),
            },
            other @ BackendTarget::Unknown { .. } => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(backends, [("default/orders{stable}".to_owned(), 90), ("default/orders{canary}".to_owned(), 10)]);
}

#[test]
fn every_field_of_the_standard_arrives() {
    let documents = sample("standard.yaml");
    let Spec::HttpRoute(route) = &documents[0].spec else { panic!() };
    assert_eq!(route.hostnames, ["shop.example.com", "*.example.com"]);
    assert_eq!((route.parents[0].kind, route.parents[1].kind), (ParentKind::Service, ParentKind::Gateway));
    assert_eq!(route.parents[1].section.as_ref().unwrap().as_str(), "https");
    let [first, second] = route.rules.as_slice() else { panic!() };
    let one = &first.matches[0];
    assert_eq!(one.path, PathMatch::Exact("/cart".into()));
    assert_eq!((one.headers.len(), one.query.len(), &one.method), (2, 2, &Some(Method::GET)));
    assert!(matches!(&one.headers[1].value, TextMatch::Pattern(pattern) if pattern.holds(b"a=1; canary=1")));
    assert!(matches!(&first.matches[1].path, PathMatch::Pattern(pattern) if !pattern.holds(b"/item/1x")));
    let filters = &first.filters;
    assert_eq!(filters.cors.as_ref().unwrap().max_age, Duration::from_secs(60));
    assert_eq!(filters.request_headers.as_ref().unwrap().remove[0], "x-secret");
    let shares: Vec<(u32, u32)> =
        filters.mirrors.iter().map(|mirror| (mirror.numerator, mirror.denominator.get())).collect();
    assert_eq!(shares, [(5, 100), (1, 1000)]);
    assert!(
        matches!(&filters.path, Some(PathFilter::Rewrite(rewrite)) if rewrite.path == Some(PathEdit::Full("/all".into())))
    );
    assert_eq!(first.backends[1].filters.request_headers.as_ref().unwrap().set.len(), 1);
    assert_eq!(first.session_persistence.as_ref().unwrap().lifetime, CookieLifetime::Permanent);
    assert_eq!(second.matches[0].path, PathMatch::Prefix("/old".into()));
    let Some(PathFilter::Redirect(redirect)) = &second.filters.path else { panic!() };
    assert_eq!((redirect.status.as_u16(), redirect.port.unwrap().get()), (301, 8443));

    let Spec::GrpcRoute(calls) = &documents[1].spec else { panic!() };
    let method = &calls.rules[0].matches[0];
    assert_eq!(method.service, Some(TextMatch::Exact("shop.v1.Ledger".into())));
    assert!(matches!(&calls.rules[0].matches[1].method, Some(TextMatch::Pattern(pattern)) if pattern.holds(b"GetAll")));
    let Spec::TcpRoute(db) = &documents[2].spec else { panic!() };
    assert_eq!(db.backends.iter().map(|backend| backend.weight.get()).collect::<Vec<_>>(), [3, 1]);
    let Spec::TlsRoute(tls) = &documents[3].spec else { panic!() };
    assert_eq!(tls.hostnames, ["vault.example.com"]);
    let Spec::CoreService(service) = &documents[4].spec else { panic!() };
    assert_eq!(service.selector.as_ref().unwrap().to_string(), "app=orders,track=stable");
    assert_eq!(service.ports[0].target, TargetPort::Number(8080.try_into().unwrap()));
    assert!(matches!(&service.ports[1].target, TargetPort::Name(name) if name.as_str() == "admin"));
}

#[test]
fn our_service_and_policy_arrive() {
    let Spec::StarlingService(service) = &sample("service.yaml")[0].spec else { panic!() };
    assert_eq!((service.ports[0].port.get(), service.ports[0].protocol), (80, Protocol::Http));
    assert_eq!(service.subsets.len(), 2);
    assert_eq!(
        (service.load_balancing.locality.as_ref().unwrap().prefer, &service.load_balancing.policy),
        (80, &Policy::PeakEwma)
    );
    let maglev = one(
        "apiVersion: starling/v1\nkind: Service\nmetadata: {name: a}\nspec: {loadBalancing: {policy: maglev, key: 'header:X-User'}}",
    );
    let Spec::StarlingService(service) = maglev.spec else { panic!() };
    assert!(matches!(service.load_balancing.policy, Policy::Maglev(HashKey::Header(name)) if name == "x-user"));
    let Spec::BackendTrafficPolicy(policy) = &sample("resilience.yaml")[1].spec else { panic!() };
    assert_eq!(policy.retry_constraint.unwrap().percent, Some(20));
    assert_eq!(policy.outlier_detection.unwrap().max_ejection_percent, Some(50));
}

#[test]
fn defaults_are_the_standard_s() {
    let route = http(&route("backendRefs: [{name: c}]\nmatches: [{}]\n"));
    let rule = &route.rules[0];
    assert_eq!(rule.matches[0].path, PathMatch::Prefix("/".into()));
    assert_eq!(rule.backends[0].backend.weight.get(), 1);
    assert_eq!((rule.timeouts.request, &rule.retry), (None, &None));
    let off = http(&super::route("backendRefs: [{name: c}]\ntimeouts: {request: 0s, backendRequest: 5s}\n"));
    assert_eq!(off.rules[0].timeouts.request, Some(Timeout::Off));
}

#[test]
fn what_is_right_and_hardly_meant_is_a_warning() {
    let check = |rule: &str, code, line| {
        let told = one(&route(rule)).warnings;
        assert_eq!((told.len(), told[0].code, told[0].line()), (1, code, Some(line)), "{rule}: {told:?}");
    };
    check("name: x", codes::RULE_ANSWERS_ERROR, 7);
    check("backendRefs: [{name: c, weight: 0}, {name: d, weight: 0}]", codes::RULE_ANSWERS_ERROR, 7);
    check("backendRefs: [{name: c}]\nretry: {codes: [503]}", codes::RETRIES_WRITES, 8);
    check("backendRefs: [{group: x.io, kind: Bucket, name: C_1}]", codes::UNKNOWN_REFERENCE, 7);
    let unread = one("apiVersion: starling/v1\nkind: Rollout\nmetadata: {name: a}\nspec: {anything: goes}");
    assert_eq!((unread.spec, unread.warnings[0].code), (Spec::Unread, codes::DOCUMENT_IDLE));
    let of = |spec: &str| {
        let told = one(&format!("apiVersion: starling/v1\nkind: BackendTrafficPolicy\nmetadata: {{name: a}}\nspec: {{targetRefs: [{{kind: Service, name: a}}], {spec}}}")).warnings;
        told.into_iter().map(|one| (one.code, one.message)).collect::<Vec<_>>()
    };
    let idle = |key: &str| {
        (codes::DOCUMENT_IDLE, format!("{key} has no effect in this release, which has no such protection"))
    };
    assert_eq!(of("circuitBreaker: {maxRequests: 1}"), [idle("circuitBreaker")]);
    assert_eq!(of("outlierDetection: {consecutiveErrors: 5}"), [idle("outlierDetection")]);
    assert_eq!(of("sessionPersistence: {}"), []);
    let far = one(
        "apiVersion: starling/v1\nkind: Service\nmetadata: {name: a}\nspec: {loadBalancing: {locality: {prefer: 80%}}}",
    );
    assert_eq!((far.warnings.len(), far.warnings[0].code), (1, codes::DOCUMENT_IDLE));
    let udp = one("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 53, protocol: UDP}]}");
    assert_eq!(udp.warnings[0].code, codes::DOCUMENT_IDLE);
}

#[test]
fn a_header_whose_name_differs_in_case_alone_counts_once() {
    let route =
        http(&route("backendRefs: [{name: c}]\nmatches: [{headers: [{name: A, value: x}, {name: a, value: y}]}]"));
    let headers = &route.rules[0].matches[0].headers;
    assert_eq!((headers.len(), &headers[0].value), (1, &TextMatch::Exact("x".into())));
}

#[test]
fn json_is_accepted() {
    let text =
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}"#;
    assert_eq!(one(text).key.to_string(), "Service default/a");
}

#[test]
fn anchors_and_nulls_are_what_they_stand_for() {
    let route = http(&route(
        "backendRefs: &all [{name: c}]\nmatches: null\nfilters:\n- type: RequestMirror\n  requestMirror: {backendRef: {name: d}}\ntimeouts: ~",
    ));
    assert_eq!((route.rules[0].backends.len(), route.rules[0].matches.len()), (1, 0));
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|[\n:\\-{}\\[\\],\"'#&*]){0,200}") {
        if let Err(told) = parse("a.yaml", &text) {
            prop_assert!(!told.is_empty());
            let _ = render(&told);
        }
    }

    #[test]
    fn no_mutation_of_a_sample_panics(
        which in 0..SAMPLES.len(),
        at in 0_usize..4_000,
        insert in "(\\PC|[\n:{}\\[\\],\"]){0,4}",
        cut in 0_usize..12,
    ) {
        let text = SAMPLES[which].1;
        let at = at % text.len();
        let head: String = text.chars().take(at).collect();
        let tail: String = text.chars().skip(at + cut).collect();
        match parse("a.yaml", &format!("{head}{insert}{tail}")) {
            Ok(documents) => {
                for document in documents {
                    prop_assert_eq!(&parse("a.yaml", &document.text).unwrap()[0].spec, &document.spec);
                }
            }
            Err(told) => {
                prop_assert!(told.iter().any(|problem| problem.code.level == codes::Level::Error));
                let _ = render(&told);
            }
        }
    }
}
