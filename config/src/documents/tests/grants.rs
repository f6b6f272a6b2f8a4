//! Who may announce what, as documents say it.

use starling_model::codes::{self, BAD_DOCUMENT, Code, UNKNOWN_FIELD};
use starling_model::{Namespace, NodeName};

use super::{one, sample};
use crate::documents::grant::{NodePattern, targets};
use crate::documents::limits::{GRANT_NODES_MAX, GRANT_SERVICES_MAX};
use crate::documents::{GrantMode, MeshConfig, ServiceGrant, Spec, parse};
use crate::problem::render;

fn grant(spec: &str) -> String {
    format!("apiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {{name: g, namespace: shop}}\nspec: {spec}")
}

fn mesh(spec: &str) -> String {
    format!("apiVersion: starling/v1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {spec}")
}

fn read(spec: &str) -> ServiceGrant {
    let Spec::ServiceGrant(grant) = one(&grant(spec)).spec else { panic!("{spec}") };
    grant
}

/// One error, with its code, a part of its sentence, and its place: where `at` last stands in the text.
fn check(text: &str, code: Code, at: &str, part: &str) {
    let before = &text[..text.rfind(at).unwrap_or_else(|| panic!("{at} is not in {text}"))];
    let (line, column) =
        (1 + before.matches('\n').count(), 1 + before.len() - before.rfind('\n').map_or(0, |at| at + 1));
    let told = parse("a.yaml", text).expect_err(text);
    let errors: Vec<_> = told.iter().filter(|one| one.code.level == codes::Level::Error).collect();
    assert_eq!(errors.len(), 1, "{text}\n{}", render(&told));
    assert_eq!(
        (errors[0].code, errors[0].line(), errors[0].column()),
        (code, Some(line), Some(column)),
        "{}",
        errors[0]
    );
    assert!(errors[0].sentence().contains(part), "{part:?} is not in {}", errors[0].sentence());
}

#[test]
fn the_samples_of_the_contract_are_read_unchanged() {
    let documents = sample("grants.yaml");
    let Spec::ServiceGrant(grant) = &documents[0].spec else { panic!() };
    assert_eq!(grant.nodes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["vm-*"]);
    let services: Vec<String> = grant.services.iter().map(ToString::to_string).collect();
    assert_eq!(services, ["default/web", "default/orders", "checkout/checkout"]);
    assert!(documents[0].warnings.is_empty());
    assert_eq!(documents[1].spec, Spec::MeshConfig(MeshConfig { service_grants: GrantMode::Open }));
    let idle: Vec<_> = documents[1].warnings.iter().map(|one| (one.code, one.line())).collect();
    assert_eq!(idle, [(codes::DOCUMENT_IDLE, Some(12)), (codes::DOCUMENT_IDLE, Some(13))]);
}

#[test]
fn services_without_a_namespace_are_of_the_grant_s_own() {
    let read = read("{nodes: [{node: a}, {node: '*'}], services: [{service: web}, {namespace: x, service: web}]}");
    assert_eq!(read.services.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/web", "x/web"]);
    assert_eq!(read.nodes[1], NodePattern::Beginning(String::new()));
}

#[test]
fn a_star_stands_alone_or_last_in_a_node_s_name() {
    let holds = |pattern: &str, node: &str| {
        let grant = read(&format!("{{nodes: [{{node: \"{pattern}\"}}], services: [{{service: a}}]}}"));
        grant.nodes[0].holds(&NodeName::new(node).unwrap())
    };
    for (pattern, node, want) in [
        ("*", "vm-1", true),
        ("vm-*", "vm-1", true),
        ("vm-*", "vm", false),
        ("vm-*", "xvm-1", false),
        ("vm-1", "vm-1", true),
        ("vm-1", "vm-10", false),
        ("vm-1*", "vm-1", true),
        ("vm-1*", "vm-10", true),
    ] {
        assert_eq!(holds(pattern, node), want, "{pattern} {node}");
    }
    let refused = |node: &str| grant(&format!("{{nodes: [{{node: {node}}}], services: [{{service: a}}]}}"));
    let check = |node: &str, part| check(&refused(node), BAD_DOCUMENT, node, part);
    check("\"v*m\"", "elsewhere than last");
    for node in ["\"vm**\"", "\"-*\"", "\"Vm-*\"", "\".*\"", &format!("\"{}*\"", "v".repeat(63))] {
        check(node, "not the beginning of a node's name");
    }
    check("\"vm-1.\"", "is not a name");
}

#[test]
fn a_grant_says_whom_and_what_and_nothing_else() {
    let services = "services: [{service: a}]";
    let nodes = "nodes: [{node: a}]";
    check(&grant(&format!("{{{services}}}")), BAD_DOCUMENT, "{services", "spec needs `nodes`");
    check(&grant(&format!("{{{nodes}}}")), BAD_DOCUMENT, "{nodes", "spec needs `services`");
    check(&grant(&format!("{{nodes: [], {services}}}")), BAD_DOCUMENT, "[],", "at least one");
    check(&grant(&format!("{{{nodes}, services: []}}")), BAD_DOCUMENT, "[]", "at least one");
    check(&grant(&format!("{{{nodes}, {services}, except: [a]}}")), UNKNOWN_FIELD, "except", "unknown field `except`");
    let servce = format!("{{{nodes}, services: [{{servce: a, service: a}}]}}");
    check(&grant(&servce), UNKNOWN_FIELD, "servce", "did you mean `service`?");
    // What a node says of itself is no attribute.
    let labels = format!("{{nodes: [{{node: a, labels: {{x: y}}}}], {services}}}");
    check(&grant(&labels), UNKNOWN_FIELD, "labels", "unknown field `labels`");
    check(&grant(&format!("{{{nodes}, services: [{{service: \"*\"}}]}}")), BAD_DOCUMENT, "\"*\"", "is not a name");
    let twice = format!("{{{nodes}, services: [{{service: a}}, {{service: a, namespace: shop}}]}}");
    check(&grant(&twice), BAD_DOCUMENT, "{service: a, n", "an earlier one names");
    check(&grant(&format!("{{nodes: [{{node: a}}, {{node: a}}], {services}}}")), BAD_DOCUMENT, "a}], s", "twice");
    check(&grant("{}").replace("starling/v1", "v1"), BAD_DOCUMENT, "ServiceGrant", "it is one of starling/v1");
}

#[test]
fn one_past_each_bound_is_refused() {
    let list = |count: usize, field: &str| (0..count).map(|at| format!("{{{field}: a{at}}}, ")).collect::<String>();
    let text = |nodes, services| {
        grant(&format!("{{nodes: [{}], services: [{}]}}", list(nodes, "node"), list(services, "service")))
    };
    assert!(parse("a.yaml", &text(GRANT_NODES_MAX, GRANT_SERVICES_MAX)).is_ok());
    for (nodes, services) in [(GRANT_NODES_MAX + 1, 1), (1, GRANT_SERVICES_MAX + 1)] {
        let told = parse("a.yaml", &text(nodes, services)).unwrap_err();
        assert!(told[0].message.contains("257 elements, at most 256"), "{}", told[0]);
    }
}

#[test]
fn there_is_one_mesh_config_and_it_asks_for_nothing_that_is_not_done() {
    let mode = |spec: &str| {
        let Spec::MeshConfig(config) = one(&mesh(spec)).spec else { panic!("{spec}") };
        config.service_grants
    };
    assert_eq!((mode("{}"), mode("{serviceGrants: Strict}")), (GrantMode::Open, GrantMode::Strict));
    assert!(
        one(&mesh("{defaultAuthorization: Allow, outbound: registered, remoteRead: {api: [], tap: []}}"))
            .warnings
            .is_empty()
    );
    check(&mesh("{serviceGrants: strict}"), BAD_DOCUMENT, "strict", "did you mean \"Strict\"?");
    check(&mesh("{serviceGrants: true}"), BAD_DOCUMENT, "true", "a string");
    check(&mesh("{defaultAuthorization: Deny}"), BAD_DOCUMENT, "Deny", "would deny nothing");
    check(&mesh("{remoteRead: {api: [{}]}}"), BAD_DOCUMENT, "{}", "needs `node`");
    check(&mesh("{mode: Strict}"), UNKNOWN_FIELD, "mode", "unknown field `mode`");
    check(&mesh("{}").replace("name: mesh", "name: other"), BAD_DOCUMENT, "other", "there is one: `mesh`");
    check(&mesh("{}").replace("mesh}", "mesh, namespace: shop}"), BAD_DOCUMENT, "shop", "there is one: `mesh`");
}

/// What is denied while the grant itself cannot be read.
#[test]
fn the_targets_of_a_grant_that_cannot_be_read_are_made_out() {
    let own = Namespace::new("shop").unwrap();
    let check = |spec: &str, services: &[&str], complete: bool| {
        let text = grant(spec);
        assert!(parse("a.yaml", &text).is_err(), "{text}");
        let told = targets(&text, &own);
        let found: Vec<String> = told.services.iter().map(ToString::to_string).collect();
        assert_eq!(
            (found.iter().map(String::as_str).collect::<Vec<_>>(), told.complete),
            (services.to_vec(), complete),
            "{spec}"
        );
    };
    check("{services: [{service: a}, {service: b, namespace: x, later: 1}], except: [c]}", &["shop/a", "x/b"], true);
    check("{nodes: [{node: a}], services: [{service: a}, {pattern: b}]}", &["shop/a"], false);
    check("{services: [{service: a, namespace: ~}]}", &["shop/a"], true);
    check("{nodes: [{node: a}], services: [{service: a}, b]}", &["shop/a"], false);
    check("{nodes: [{node: a}], services: [{service: a, namespace: [x]}]}", &[], false);
    check("{nodes: [{node: a}], services: []}", &[], false);
    check("{nodes: [{node: a}], services: all}", &[], false);
    check("{nodes: [{node: a}]}", &[], false);
    check("[]", &[], false);
    check("{nodes: [", &[], false);
}
