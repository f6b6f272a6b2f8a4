//! Propositions about sessions (GEP-1619): where a client comes back to, and when it does not.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::base;
use super::world::{Ask, NOW, World, findings, http_route, told};
use crate::*;

/// `orders` in two versions, two instances of the first.
fn world(yaml: &str) -> World {
    World::new(yaml)
        .node("vm-1", &["o-1 orders version=v1"])
        .node("vm-2", &["o-2 orders version=v1"])
        .node("vm-3", &["o-3 orders version=v2", "admin-1 admin"])
}

/// A split among both versions with sessions under the name `sid`.
fn split(v1: u32, v2: u32) -> String {
    http_route("a", "orders", &format!("[{}]", rule(v1, v2, "sessionPersistence: {sessionName: sid}")))
}

fn rule(v1: u32, v2: u32, more: &str) -> String {
    format!(
        "{{backendRefs: [{{name: orders, subset: {{version: v1}}, weight: {v1}}}, {{name: orders, subset: {{version: v2}}, weight: {v2}}}], {more}}}"
    )
}

fn get(path: &str) -> Ask {
    Ask::new("orders", &format!("GET {path}"))
}

fn choice(decision: &Decision) -> &Choice {
    match decision {
        Decision::Forward(choice) => choice,
        Decision::Answer(_) | Decision::Refuse { .. } => panic!("{}", told(decision)),
    }
}

/// The endpoint, and the cookie that the answer sets.
fn visit(table: &RouteTable, ask: &Ask, seed: u64) -> (String, Option<String>) {
    let decision = ask.decide(table, seed);
    let choice = choice(&decision);
    let set = choice.set_cookie().map(|set| set.to_str().unwrap().to_owned());
    (choice.endpoint().id.node.to_string(), set)
}

/// Asks again as a client does that took this cookie.
fn again(ask: &Ask, set: &str) -> Ask {
    ask.clone().header("cookie", set.split(';').next().unwrap())
}

/// The node that each of these seeds leads to.
fn nodes(table: &RouteTable, ask: &Ask) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    (0..400).for_each(|seed| *counts.entry(visit(table, ask, seed).0).or_default() += 1);
    counts
}

fn only(node: &str) -> BTreeMap<String, u32> {
    BTreeMap::from([(node.to_owned(), 400)])
}

fn why(table: &RouteTable, ask: &Ask) -> Option<Began> {
    match choice(&ask.decide(table, 1)).session {
        None | Some(Kept::Yes) => None,
        Some(Kept::New { why, .. }) => Some(why),
    }
}

#[test]
fn a_client_stays_where_its_first_request_went() {
    let table = world(&split(90, 10)).table();
    for seed in 0..50 {
        let (node, set) = visit(&table, &get("/"), seed);
        let ask = again(&get("/other"), &set.unwrap());
        assert_eq!(nodes(&table, &ask), only(&node));
        assert_eq!(visit(&table, &ask, 1).1, None, "the cookie is set once");
    }
}

#[test]
fn new_sessions_follow_weights_and_old_ones_do_not_even_weight_0() {
    let before = world(&split(90, 10)).table();
    let counts = nodes(&before, &get("/"));
    assert!((20..60).contains(&counts["vm-3"]), "{counts:?}");
    let seed = (0..).find(|seed| visit(&before, &get("/"), *seed).0 == "vm-3").unwrap();
    let ask = again(&get("/"), &visit(&before, &get("/"), seed).1.unwrap());
    for weights in [(100, 0), (1, 1), (0, 0)] {
        let after = world(&split(weights.0, weights.1)).table();
        assert_eq!(nodes(&after, &ask), only("vm-3"), "{weights:?}");
    }
    let none = world(&split(0, 0)).table();
    assert_eq!(told(&get("/").decide(&none, 1)), "default/a #0 NoBackend 500");
    let gone = world(&split(100, 0)).table();
    assert!(!nodes(&gone, &get("/")).contains_key("vm-3"));
}

#[test]
fn a_session_is_of_one_rule_though_two_have_one_cookie() {
    let rules = ["/a", "/b"].map(|path| {
        rule(1, 1, &format!("matches: [{{path: {{value: {path}}}}}], sessionPersistence: {{sessionName: sid}}"))
    });
    let table = world(&http_route("a", "orders", &format!("[{}]", rules.join(", ")))).table();
    let (_, set) = visit(&table, &get("/a"), 1);
    let set = set.unwrap();
    assert_eq!(why(&table, &again(&get("/a"), &set)), None);
    assert_eq!(why(&table, &again(&get("/b"), &set)), Some(Began::Foreign));
    assert!(nodes(&table, &again(&get("/b"), &set)).len() > 1);
}

#[test]
fn a_rule_by_its_name_keeps_its_sessions_when_another_comes_before_it() {
    let named = |extra: &str, name: &str| {
        let rule = rule(1, 1, &format!("{name}sessionPersistence: {{sessionName: sid}}"));
        world(&http_route("a", "orders", &format!("[{extra}{rule}]"))).table()
    };
    let other = "{matches: [{path: {value: /x}}], backendRefs: [{name: admin}]}, ";
    for (name, want) in [("name: all, ", None), ("", Some(Began::Foreign))] {
        let (_, set) = visit(&named("", name), &get("/"), 1);
        assert_eq!(why(&named(other, name), &again(&get("/"), &set.unwrap())), want, "{name:?}");
    }
}

#[test]
fn an_endpoint_that_may_not_be_used_is_left_for_good() {
    let mut world = world(&split(1, 1));
    let table = world.table();
    let (node, set) = visit(&table, &get("/"), 1);
    let ask = again(&get("/"), &set.unwrap());
    world.unready(&node);
    let without = world.table();
    assert_eq!(why(&without, &ask), Some(Began::Gone));
    let (other, set) = visit(&without, &ask, 2);
    assert_ne!(other, node);
    // It sticks again, also once the first one is back.
    let ask = again(&get("/"), &set.unwrap());
    assert_eq!((nodes(&without, &ask), nodes(&table, &ask)), (only(&other), only(&other)));
}

#[test]
fn an_endpoint_that_fails_or_was_tried_begins_the_session_anew() {
    let table = world(&split(1, 1)).table();
    let (node, set) = visit(&table, &get("/"), 1);
    let ask = again(&get("/"), &set.unwrap());
    let index = choice(&ask.decide(&table, 1)).endpoint().index;
    let now = base();
    let failing = |at: EndpointIndex| Load {
        failing_until: (at == index).then(|| now + std::time::Duration::from_secs(1)),
        ..Load::default()
    };
    let decide = |avoid: &[EndpointIndex], loads: &dyn Fn(EndpointIndex) -> Load| {
        ask.with(|request| table.decide(&RequestFacts { avoid, ..*request }, now, Draws::from_seed(5), loads))
    };
    for (what, decision) in [("failing", decide(&[], &failing)), ("tried", decide(&[index], &|_| Load::default()))] {
        let choice = choice(&decision);
        assert_ne!(choice.endpoint().node().as_str(), node, "{what}");
        assert_eq!(choice.session, Some(Kept::New { at: UnixSeconds(NOW), why: Began::Gone }), "{what}");
        assert!(choice.set_cookie().is_some(), "{what}");
    }
    // When all seem to fail the view is doubted, and the session stays.
    let doubtful = |_| Load { failing_until: Some(now + std::time::Duration::from_secs(1)), ..Load::default() };
    let decision = decide(&[], &doubtful);
    assert_eq!((choice(&decision).endpoint().index, choice(&decision).session), (index, Some(Kept::Yes)));
}

#[test]
fn an_instance_that_leaves_the_rule_s_backends_takes_its_sessions_along() {
    let both = world(&split(1, 1)).table();
    let seed = (0..).find(|seed| visit(&both, &get("/"), *seed).0 == "vm-3").unwrap();
    let ask = again(&get("/"), &visit(&both, &get("/"), seed).1.unwrap());
    let rule = "[{backendRefs: [{name: orders, subset: {version: v1}}], sessionPersistence: {sessionName: sid}}]";
    let one = world(&http_route("a", "orders", rule)).table();
    assert_eq!(why(&one, &ask), Some(Began::Gone));
    assert!(!nodes(&one, &ask).contains_key("vm-3"), "a cookie chooses among what the rule leads to");
}

#[test]
fn any_agent_finds_the_endpoint_of_a_cookie() {
    let here = world(&split(90, 10)).table();
    // Learnt in another order, with others beside them.
    let there = World::new(&split(50, 50))
        .node("vm-9", &["x-1 other"])
        .node("vm-3", &["admin-1 admin", "o-3 orders version=v2"])
        .node("vm-2", &["o-2 orders version=v1"])
        .node("vm-1", &["o-1 orders version=v1"])
        .table();
    for seed in 0..50 {
        let (node, set) = visit(&here, &get("/"), seed);
        assert_eq!(nodes(&there, &again(&get("/"), &set.unwrap())), only(&node));
    }
}

#[test]
fn a_session_over_its_absolute_timeout_begins_anew() {
    let yaml = split(1, 1).replace("sessionName: sid", "sessionName: sid, absoluteTimeout: 1h");
    let table = world(&yaml).table();
    let (_, set) = visit(&table, &get("/"), 1);
    let ask = again(&get("/"), &set.unwrap());
    let at = |seconds: u64| {
        let decide = |request: &RequestFacts<'_>| {
            let request = RequestFacts { wall: UnixSeconds(NOW + seconds), ..*request };
            table.decide(&request, base(), Draws::from_seed(3), &|_| Load::default())
        };
        choice(&ask.with(decide)).session
    };
    assert_eq!(at(3_599), Some(Kept::Yes));
    assert_eq!(at(3_600), Some(Kept::New { at: UnixSeconds(NOW + 3_600), why: Began::Expired }));
}

fn policy(name: &str, target: &str) -> String {
    format!(
        "---\napiVersion: starling/v1\nkind: BackendTrafficPolicy\nmetadata: {{name: {name}}}\nspec: {{targetRefs: [{{kind: Service, name: {target}}}], sessionPersistence: {{sessionName: {name}}}}}\n"
    )
}

#[test]
fn a_service_s_policy_keeps_sessions_with_and_without_a_route() {
    let route = http_route("a", "orders", "[{backendRefs: [{name: orders, weight: 1}]}]");
    let direct = world(&policy("sid", "orders")).table();
    let routed = world(&format!("{}{route}", policy("sid", "orders"))).table();
    for (table, other) in [(&direct, &routed), (&routed, &direct)] {
        for seed in 0..20 {
            let (node, set) = visit(table, &get("/"), seed);
            let ask = again(&get("/"), &set.unwrap());
            assert_eq!(nodes(table, &ask), only(&node));
            assert_eq!(nodes(other, &ask), only(&node), "the session is with the service, whatever route leads there");
        }
    }
}

#[test]
fn a_rule_s_own_sessions_come_before_the_service_s() {
    let table = world(&format!("{}{}", policy("of-service", "orders"), split(1, 1))).table();
    let (_, set) = visit(&table, &get("/"), 1);
    assert!(set.unwrap().starts_with("sid="));
}

/// GEP-1619, Traffic Splitting: persistence may be applied to the backends that have it configured.
#[test]
fn in_a_split_the_services_with_a_policy_keep_their_clients() {
    let rule = |orders: u32, admin: u32| {
        http_route(
            "a",
            "orders",
            &format!("[{{backendRefs: [{{name: orders, weight: {orders}}}, {{name: admin, weight: {admin}}}]}}]"),
        )
    };
    let table = world(&format!("{}{}", policy("sid", "admin"), rule(1, 1))).table();
    let drawn = |name: &str| {
        (0..).find(|seed| choice(&get("/").decide(&table, *seed)).service.key.name.as_str() == name).unwrap()
    };
    assert_eq!(visit(&table, &get("/"), drawn("orders")).1, None, "orders keeps nobody");
    let ask = again(&get("/"), &visit(&table, &get("/"), drawn("admin")).1.unwrap());
    let all =
        |table: &RouteTable| (0..100).all(|seed| choice(&ask.decide(table, seed)).service.key.name.as_str() == "admin");
    assert!(all(&table));
    assert!(all(&world(&format!("{}{}", policy("sid", "admin"), rule(1, 0))).table()), "even weight 0");
}

#[test]
fn grpc_routes_keep_sessions_and_connections_of_bytes_have_none() {
    let yaml = "---\napiVersion: starling/v1\nkind: GRPCRoute\nmetadata: {name: g}\nspec:\n  parentRefs: [{kind: Service, name: orders}]\n  rules: [{backendRefs: [{name: orders}], sessionPersistence: {sessionName: sid}}]\n";
    let table = world(yaml).table();
    let call = Ask::new("orders", "POST /p.S/M").header("content-type", "application/grpc");
    let (node, set) = visit(&table, &call, 4);
    assert_eq!(nodes(&table, &again(&call, &set.unwrap())), only(&node));
    let decision = Ask::bytes("orders").decide(&world(&policy("sid", "orders")).table(), 1);
    assert_eq!(choice(&decision).session, None);
}

#[test]
fn tables_of_one_key_know_each_others_sessions_and_no_others() {
    let key = |byte: &str| std::sync::Arc::new(SessionKey::parse(&byte.repeat(32)).unwrap());
    let table = |byte: &str| world(&split(90, 10)).table().sealed(key(byte));
    let (one, same, other, open) = (table("11"), table("11"), table("22"), world(&split(90, 10)).table());
    let (node, set) = visit(&one, &get("/"), 3);
    let ask = again(&get("/"), &set.unwrap());
    assert_eq!(nodes(&same, &ask), only(&node));
    assert_eq!((why(&other, &ask), why(&open, &ask)), (Some(Began::Foreign), Some(Began::Foreign)));
    // A change of documents or instances leaves it sealed.
    assert_eq!(why(&world(&split(1, 1)).table_after(&one), &ask), None);
    assert_eq!(why(&one.with(Vec::new(), base()).unwrap(), &ask), None);
    let told = serde_json::to_string(&Snapshot::of(&one, base(), &|_| Load::default())).unwrap();
    assert!(!told.contains(&"11".repeat(32)), "a snapshot holds no secret");
}

/// GEP-1619, Session Affinity in K8S Services.
#[test]
fn beside_affinity_by_address_no_session_is_kept_and_both_sides_are_told() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: orders}\nspec: {ports: [{name: http, port: 80}], sessionAffinity: ClientIP}\n";
    let why = "Service default/orders asks for sessionAffinity ClientIP: no session is kept beside it";
    for (yaml, at) in [
        (split(1, 1), "HTTPRoute default/a /spec/rules/0/sessionPersistence"),
        (policy("sid", "orders"), "BackendTrafficPolicy default/sid /spec/sessionPersistence"),
    ] {
        let table = world(&format!("{service}{yaml}")).table();
        assert_eq!(findings(&table), [format!("{at}: ST0432 UnsupportedValue: {why}")]);
        assert_eq!(visit(&table, &get("/"), 1).1, None);
        let none = service.replace("ClientIP", "None");
        assert_eq!(findings(&world(&format!("{none}{yaml}")).table()), [""; 0]);
    }
}

#[test]
fn without_persistence_cookies_mean_nothing_and_none_is_set() {
    let table = world(&http_route("a", "orders", "[{backendRefs: [{name: orders}]}]")).table();
    let (_, set) = visit(&world(&split(1, 1)).table(), &get("/"), 1);
    let ask = again(&get("/"), &set.unwrap());
    let decision = ask.decide(&table, 1);
    assert_eq!((choice(&decision).session, choice(&decision).set_cookie()), (None, None));
    assert_eq!(nodes(&table, &ask).len(), 3);
}

#[test]
fn an_explanation_foretells_what_becomes_of_a_session() {
    let table = world(&split(100, 0)).table();
    let both = world(&split(1, 1)).table();
    let (_, record) = get("/").explain(&table, 1);
    let kept = Kept::New { at: UnixSeconds(NOW), why: Began::NoCookie };
    assert_eq!(record.outcomes.len(), 1);
    let session = record.session.unwrap();
    assert_eq!((session.cookie.as_str(), session.kept), ("sid", kept));
    let seed = (0..).find(|seed| visit(&both, &get("/"), *seed).0 == "vm-3").unwrap();
    let ask = again(&get("/"), &visit(&both, &get("/"), seed).1.unwrap());
    let (decision, record) = ask.explain(&table, 7);
    assert_eq!(told(&decision), "default/a #0 -> vm-3/default/o-3");
    assert_eq!(record.session.unwrap().kept, Kept::Yes);
    assert_eq!(record.split.unwrap().drawn, Some(1), "of weight 0");
    let [outcome] = record.outcomes.as_slice() else { panic!("{:?}", record.outcomes) };
    let step = outcome.endpoints.as_ref().unwrap();
    let shares: Vec<(String, f64)> = step.candidates.iter().map(|one| (one.id.node.to_string(), one.share)).collect();
    assert_eq!((outcome.share, &step.by, shares), (1.0, &ChosenBy::Session, vec![("vm-3".to_owned(), 1.0)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever weights become of it and whoever else comes, a client stays while its endpoint may be used.
    #[test]
    fn a_session_outlives_every_change_of_weights_and_neighbours(
        first in (1u32..100, 1u32..100), then in (0u32..100, 0u32..100), more in 0usize..4, seeds in any::<(u64, u64)>(),
    ) {
        let before = world(&split(first.0, first.1)).table();
        let (node, set) = visit(&before, &get("/"), seeds.0);
        let mut after = world(&split(then.0, then.1));
        for at in 0..more {
            after = after.node(&format!("vm-1{at}"), &[&format!("o-1{at} orders version=v1")]);
        }
        prop_assert_eq!(visit(&after.table(), &again(&get("/"), &set.unwrap()), seeds.1), (node, None));
    }

    /// A client can invent no session: its cookie changes nothing but what its own endpoint's would.
    #[test]
    fn an_invented_cookie_changes_no_choice(value in "[0-9a-f]{64}|[ -:<-~]{0,80}", seed in any::<u64>()) {
        let table = world(&split(90, 10)).table();
        let (node, set) = visit(&table, &get("/"), seed);
        let (same, again) = visit(&table, &get("/").header("cookie", &format!("sid={value}")), seed);
        prop_assert_eq!((same, again), (node, set));
    }
}
