//! Who may serve what, and call as it.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use starling_model::{DocumentKey, Namespace, Protocol};

use super::base;
use super::world::{Ask, World, findings, http_route, in_use, key, node, told};
use crate::limits::ENDPOINTS_PER_SERVICE_MAX;
use crate::*;

fn grant(name: &str, nodes: &[&str], services: &[&str]) -> String {
    let nodes: String = nodes.iter().map(|node| format!("{{node: \"{node}\"}}, ")).collect();
    let services: String = services
        .iter()
        .map(|text| {
            let service = key(text);
            format!("{{namespace: {}, service: {}}}, ", service.namespace, service.name)
        })
        .collect();
    format!(
        "---\napiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {{name: {name}}}\nspec: {{nodes: [{nodes}], services: [{services}]}}\n"
    )
}

const STRICT: &str =
    "---\napiVersion: starling/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {serviceGrants: Strict}\n";

/// `vm-1 granted, vm-2 not_granted` of a service's endpoints.
fn standings(table: &RouteTable, service: &str) -> String {
    let service = table.service(&key(service)).expect("a known service");
    let one = |endpoint: &Endpoint| format!("{} {}", endpoint.node(), endpoint.standing.as_str());
    service.endpoints.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Nodes that 200 requests reach.
fn reached(table: &RouteTable, service: &str) -> BTreeSet<String> {
    (0..200).map(|seed| told(&Ask::new(service, "GET /").decide(table, seed))).collect()
}

fn accepted(table: &RouteTable, at: &str, source: &str) -> Option<String> {
    let caller = table.accept_source(&node(at), Some(&key(source)));
    assert_eq!(caller.node, node(at), "whatever is claimed");
    caller.service.map(|service| service.to_string())
}

fn denying(world: &World, what: Denied) -> RouteTable {
    let document = DocumentKey::parse("ServiceGrant", "default", "later").unwrap();
    let version = in_use(STRICT)[0].version;
    let documents = world.set().denying(vec![Denial { document, version, what }]);
    compile(&documents, &world.registry, &super::settings(), None)
}

fn services(names: &[&str], all_of: Option<&str>) -> Denied {
    Denied::Services {
        services: names.iter().map(|name| key(name)).collect(),
        all_of: all_of.map(|namespace| Namespace::new(namespace).unwrap()),
    }
}

/// A node that has just started may lack the one document that would deny: whatever it holds, it takes nobody.
#[test]
fn where_documents_may_be_missing_nobody_is_accepted_for_anything() {
    let world = World::new(&grant("g", &["vm-1"], &["orders"])).node("vm-1", &["o orders", "w web"]);
    let partial = compile(&world.set().partial(), &world.registry, &super::settings(), None);
    let check = |table: &RouteTable| {
        assert_eq!((standings(table, "orders"), standings(table, "web")), two("vm-1 not_known"));
        assert!(reached(table, "orders").iter().chain(&reached(table, "web")).all(|told| !told.starts_with("->")));
        assert_eq!(accepted(table, "vm-1", "orders"), None);
        assert!(table.grants().by(&key("orders"), &node("vm-1")).is_none());
    };
    check(&partial);
    // Neither a snapshot nor a question what one more document would do makes it known.
    check(&partial.with(Vec::new(), base()).unwrap());
    let taken = Snapshot::of(&partial, base(), &|_| Load::default());
    check(&Snapshot::read(&serde_json::to_vec(&taken).unwrap()).unwrap().freeze(base()).unwrap().table);
    // The same documents, known to be all, are another set: the table is made anew.
    assert!(!world.set().is_like(&world.set().partial()) && world.set().digest() == partial.digest());
    let whole = compile(&world.set(), &world.registry, &super::settings(), Some(&partial));
    assert_eq!(standings(&whole, "orders"), "vm-1 granted");
    assert_eq!(standings(&whole, "web"), "vm-1 unnamed");
}

fn two(text: &str) -> (String, String) {
    (text.to_owned(), text.to_owned())
}

#[test]
fn a_service_that_a_grant_names_is_served_by_granted_nodes_alone() {
    let world = World::new(&grant("g", &["vm-1", "db-*"], &["orders"]))
        .node("vm-1", &["o orders", "w web"])
        .node("vm-2", &["o orders", "w web"])
        .node("db-7", &["o orders"]);
    let table = world.table();
    assert_eq!(standings(&table, "orders"), "db-7 granted, vm-1 granted, vm-2 not_granted");
    assert_eq!(standings(&table, "web"), "vm-1 unnamed, vm-2 unnamed", "no grant names it");
    let want = ["-> db-7/default/o", "-> vm-1/default/o"].map(str::to_owned);
    assert_eq!(reached(&table, "orders"), BTreeSet::from(want));
    assert_eq!(reached(&table, "web").len(), 2);
    assert_eq!(table.service(&key("orders")).unwrap().admissible_len(), 2);
    let left_out = table.service(&key("orders")).unwrap().endpoints.last().unwrap().clone();
    let condition = condition(&left_out, &Load::default(), base());
    assert_eq!(condition, Condition::Ungranted(Standing::NotGranted));
    assert_eq!(table.unnamed().into_iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/web"]);
}

/// An explanation lists who gets nothing, and why.
#[test]
fn whoever_is_not_granted_is_explained() {
    let world = World::new(&grant("g", &["vm-1"], &["orders"])).node("vm-1", &["o orders"]).node("vm-2", &["o orders"]);
    let (_, told) = Ask::new("orders", "GET /").explain(&world.table(), 1);
    let candidates = told.endpoints.unwrap().candidates;
    let listed: Vec<_> = candidates.iter().map(|one| (one.id.node.as_str(), one.share, one.condition)).collect();
    let out = Condition::Ungranted(Standing::NotGranted);
    assert_eq!(listed, [("vm-1", 1.0, Condition::Usable), ("vm-2", 0.0, out)]);
}

#[test]
fn where_nobody_is_granted_there_is_no_endpoint() {
    let world = World::new(&grant("g", &["vm-9"], &["orders"])).node("vm-1", &["o orders:admin"]);
    let table = world.table();
    for ask in [Ask::new("orders", "GET /"), Ask::new("orders", "GET /").port("admin"), Ask::bytes("orders")] {
        assert_eq!(ask.told(&table), "NoEndpoint 503");
    }
}

#[test]
fn a_strict_mesh_has_no_endpoint_and_no_source_without_a_grant() {
    let world = World::new(&(grant("g", &["vm-1"], &["orders"]) + STRICT))
        .node("vm-1", &["o orders", "w web"])
        .node("vm-2", &["o orders"]);
    let table = world.table();
    assert_eq!(standings(&table, "orders"), "vm-1 granted, vm-2 not_granted");
    assert_eq!(standings(&table, "web"), "vm-1 no_grant");
    assert_eq!(Ask::new("web", "GET /").told(&table), "NoEndpoint 503");
    assert_eq!(accepted(&table, "vm-1", "orders").as_deref(), Some("default/orders"));
    assert_eq!((accepted(&table, "vm-2", "orders"), accepted(&table, "vm-1", "web")), (None, None));
    assert!(table.unnamed().is_empty());
}

#[test]
fn only_granted_nodes_may_call_as_a_service_that_a_grant_names() {
    let table = World::new(&grant("g", &["vm-1"], &["web", "checkout/checkout"])).table();
    assert_eq!(accepted(&table, "vm-1", "web").as_deref(), Some("default/web"), "whether or not it runs there");
    assert_eq!(accepted(&table, "vm-2", "web"), None);
    assert_eq!(accepted(&table, "vm-2", "checkout/checkout"), None);
    // Another namespace's service of that name is another service.
    assert_eq!(accepted(&table, "vm-2", "checkout").as_deref(), Some("default/checkout"));
    assert_eq!(table.accept_source(&node("vm-2"), None).service, None);
}

#[test]
fn grants_add_up_and_each_tells_which_it_is() {
    let world = World::new(&(grant("a", &["vm-1"], &["web"]) + &grant("b", &["vm-2", "vm-1"], &["web"])))
        .node("vm-1", &["w web"])
        .node("vm-2", &["w web"])
        .node("vm-3", &["w web"]);
    let table = world.table();
    assert_eq!(standings(&table, "web"), "vm-1 granted, vm-2 granted, vm-3 not_granted");
    let by = |at: &str| table.grants().by(&key("web"), &node(at)).map(|by| by.document.name.to_string());
    assert_eq!(["vm-1", "vm-2", "vm-3"].map(by), [Some("a".to_owned()), Some("b".to_owned()), None]);
}

/// A label is self-announced: being selected by it grants nothing.
#[test]
fn an_instance_found_under_another_name_must_be_granted_both() {
    let front = "---\napiVersion: v1\nkind: Service\nmetadata: {name: front}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n";
    let mesh = |grants: &str| {
        World::new(&format!("{front}{grants}"))
            .node("vm-1", &["a web app=web"])
            .node("vm-2", &["b evil app=web"])
            .table()
    };
    assert_eq!(standings(&mesh(""), "front"), "vm-1 unnamed, vm-2 unnamed");
    assert_eq!(standings(&mesh(&grant("g", &["vm-1"], &["front"])), "front"), "vm-1 unnamed, vm-2 not_granted");
    assert_eq!(standings(&mesh(&grant("g", &["vm-2"], &["web"])), "front"), "vm-1 not_granted, vm-2 unnamed");
    let both = grant("g", &["vm-1"], &["front", "web"]) + STRICT;
    assert_eq!(standings(&mesh(&both), "front"), "vm-1 granted, vm-2 no_grant");
    let announced_alone = grant("g", &["vm-1"], &["web"]) + STRICT;
    assert_eq!(standings(&mesh(&announced_alone), "front"), "vm-1 no_grant, vm-2 no_grant");
}

#[test]
fn whoever_is_not_granted_has_no_say_in_what_a_service_speaks() {
    let mesh = |yaml: &str| {
        let table = World::new(yaml).node("vm-1", &["a orders:http"]).node("vm-2", &["b orders:tcp", "c orders:admin"]);
        let service = table.table().service(&key("orders")).cloned().unwrap();
        service.ports.iter().map(|port| (port.name.to_string(), port.protocol)).collect::<Vec<_>>()
    };
    assert_eq!(mesh("").len(), 3);
    assert_eq!(mesh(&grant("g", &["vm-1"], &["orders"])), [("http".to_owned(), Protocol::Http)]);
}

#[test]
fn whoever_is_not_granted_takes_nobody_s_place() {
    let mut world = World::new(&grant("g", &["zz"], &["orders"])).node("zz", &["last orders"]);
    let names: Vec<String> = (0..100).map(|at| format!("i{at} orders")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for at in 0..=ENDPOINTS_PER_SERVICE_MAX / 100 {
        world = world.node(&format!("a{at}"), &names);
    }
    let table = world.table();
    let service = table.service(&key("orders")).unwrap();
    assert_eq!((service.endpoints.len(), service.admissible_len()), (ENDPOINTS_PER_SERVICE_MAX, 1));
    assert_eq!(Ask::new("orders", "GET /").told(&table), "-> zz/default/last");
}

#[test]
fn a_grant_that_cannot_be_read_denies_what_it_names() {
    let world = World::new(&grant("g", &["vm-*"], &["web", "shop/cart"]))
        .node("vm-1", &["w web", "o orders", "c shop/cart", "d shop/db"]);
    let table = denying(&world, services(&["web"], None));
    assert_eq!(standings(&table, "web"), "vm-1 held_back", "whatever else grants it");
    assert_eq!((accepted(&table, "vm-1", "web"), table.grants().by(&key("web"), &node("vm-1"))), (None, None));
    assert_eq!(table.grants().held_back(&key("web")).unwrap().to_string(), "ServiceGrant default/later");
    assert_eq!(standings(&table, "orders"), "vm-1 unnamed");
    // Where the targets cannot be made out it is the whole namespace.
    let table = denying(&world, services(&["shop/other"], Some("shop")));
    assert_eq!((standings(&table, "shop/cart"), standings(&table, "shop/db")).0, "vm-1 held_back");
    assert_eq!(
        (standings(&table, "shop/db"), standings(&table, "web")),
        ("vm-1 held_back".into(), "vm-1 granted".into())
    );
    // A MeshConfig that cannot be read might be strict.
    let table = denying(&world, Denied::Unnamed);
    assert_eq!(
        (standings(&table, "orders"), standings(&table, "web")),
        ("vm-1 held_back".into(), "vm-1 granted".into())
    );
    assert_eq!(accepted(&table, "vm-1", "orders"), None);
    let strict = World { documents: in_use(STRICT), ..world };
    assert_eq!(standings(&denying(&strict, Denied::Unnamed), "orders"), "vm-1 no_grant");
}

#[test]
fn what_is_denied_comes_and_goes_without_a_change_of_the_digest() {
    let world = World::new("").node("vm-1", &["w web"]);
    let before = world.table();
    let document = DocumentKey::parse("ServiceGrant", "default", "later").unwrap();
    let denial = Denial { document, version: in_use(STRICT)[0].version, what: services(&["web"], None) };
    let documents = world.set().denying(vec![denial]);
    let denied = compile(&documents, &world.registry, &super::settings(), Some(&before));
    assert_eq!((before.digest(), standings(&denied, "web").as_str()), (denied.digest(), "vm-1 held_back"));
    assert_eq!(standings(&world.table_after(&denied), "web"), "vm-1 unnamed");
}

#[test]
fn documents_that_take_endpoints_away_are_told_before() {
    let world = World::new(&grant("g", &["vm-*"], &["orders"]))
        .node("vm-1", &["a orders", "w web"])
        .node("vm-2", &["b orders"]);
    let table = world.table();
    let after = |yaml: &str| {
        let documents = starling_config::documents::parse("a.yaml", yaml).unwrap();
        let told = table.removed_in(&table.with(documents, base()).unwrap());
        told.iter().map(|one| format!("{} {} {}", one.service, one.endpoint, one.standing.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(after(&grant("g", &["vm-1"], &["orders"])), ["default/orders vm-2/default/b not_granted"]);
    assert_eq!(after(STRICT), ["default/web vm-1/default/w no_grant"]);
    assert!(after(&grant("h", &["vm-1"], &["orders"])).is_empty(), "it adds to the other one");
}

/// A slip in a name leaves the service that was meant to anybody.
#[test]
fn a_service_that_nobody_knows_is_told() {
    let table = World::new(&grant("g", &["vm-1"], &["wbe", "web"])).node("vm-1", &["w web"]).table();
    let want = "ServiceGrant default/g /spec/services/0: ST0433 TargetNotFound: no document and no instance knows a service default/wbe";
    assert_eq!(findings(&table), [want]);
}

/// By the pointer the receiver of streams sees that nothing changed.
#[test]
fn grants_are_shared_while_they_are_the_same() {
    let mut world = World::new(&grant("g", &["vm-1"], &["web"])).node("vm-1", &["w web"]);
    let before = world.table();
    world = world.node("vm-2", &["w web"]);
    world.documents.extend(in_use(&http_route("r", "web", "[{backendRefs: [{name: web}]}]")));
    let after = world.table_after(&before);
    assert!(Arc::ptr_eq(before.grants(), after.grants()));
    world.documents = in_use(&grant("g", &["vm-2"], &["web"]));
    let changed = world.table_after(&after);
    assert!(!Arc::ptr_eq(after.grants(), changed.grants()));
    assert_eq!(standings(&changed, "web"), "vm-1 not_granted, vm-2 granted");
}

#[test]
fn a_snapshot_keeps_who_is_granted_and_what_is_denied() {
    let world = World::new(&grant("g", &["vm-1"], &["orders"]))
        .node("vm-1", &["o orders", "w web"])
        .node("vm-2", &["o orders"]);
    for what in [services(&["web"], Some("shop")), Denied::Unnamed] {
        let table = denying(&world, what);
        let taken = Snapshot::of(&table, base(), &|_| Load::default());
        let read = Snapshot::read(&serde_json::to_vec(&taken).unwrap()).unwrap();
        let frozen = read.freeze(base()).unwrap().table;
        assert_eq!(frozen.grants(), table.grants());
        assert_eq!(standings(&frozen, "orders"), "vm-1 granted, vm-2 not_granted");
        assert_eq!(standings(&frozen, "web"), "vm-1 held_back");
        let mut bad = read.clone();
        bad.denials[0].key_id = "x".to_owned();
        assert!(bad.freeze(base()).unwrap_err().to_string().contains("denial ServiceGrant default/later"));
    }
}

proptest! {
    /// Source law: whatever a stream claims, no caller is a service that is granted to other nodes only. And no endpoint
    /// that gets traffic is on one.
    #[test]
    fn no_caller_and_no_endpoint_is_a_service_that_is_granted_to_others_only(
        grants in proptest::collection::vec(
            (proptest::sample::subsequence(vec!["vm-1", "vm-2", "vm-*", "x-*", "*"], 1..3),
             proptest::sample::subsequence(vec!["web", "orders", "shop/web"], 1..3)),
            0..4,
        ),
        strict in any::<bool>(),
    ) {
        let texts = grants.iter().enumerate().map(|(at, (nodes, services))| grant(&format!("g{at}"), nodes, services));
        let yaml: String = texts.chain(strict.then(|| STRICT.to_owned())).collect();
        let mut world = World::new(&yaml);
        for at in ["vm-1", "vm-2", "x-1", "y"] {
            world = world.node(at, &["a web", "b orders", "c shop/web"]);
        }
        let table = world.table();
        for at in ["vm-1", "vm-2", "x-1", "y"] {
            for service in ["web", "orders", "shop/web"] {
                let holds = |pattern: &&str| pattern.strip_suffix('*').map_or(*pattern == at, |head| at.starts_with(head));
                let naming = || grants.iter().filter(|(_, services)| services.contains(&service));
                let granted = naming().any(|(nodes, _)| nodes.iter().any(&holds));
                let want = granted || (naming().next().is_none() && !strict);
                prop_assert_eq!(accepted(&table, at, service).is_some(), want, "{} as {}", at, service);
                let endpoints = &table.service(&key(service)).unwrap().endpoints;
                let endpoint = endpoints.iter().find(|one| one.node().as_str() == at).unwrap();
                prop_assert_eq!(endpoint.admissible(), want);
            }
        }
    }
}
