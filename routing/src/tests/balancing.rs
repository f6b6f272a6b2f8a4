//! Propositions about the ways to choose an endpoint, and about endpoints that are new.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::base;
use super::world::{Ask, World, node, told};
use crate::limits::{SLOW_START, SLOW_START_SHARE};
use crate::*;

fn service(spec: &str) -> String {
    format!("---\napiVersion: starling/v1\nkind: Service\nmetadata: {{name: orders}}\nspec: {{{spec}}}\n")
}

fn balancing(policy: &str) -> World {
    world(&service(&format!("loadBalancing: {{policy: {policy}}}")))
}

/// Four endpoints, on vm-1 to vm-4.
fn world(yaml: &str) -> World {
    (1..=4).fold(World::new(yaml), |world, at| {
        world.node(&format!("vm-{at}"), &[&format!("o-{at} orders version=v{}", at % 2)])
    })
}

fn get(path: &str) -> Ask {
    Ask::new("orders", &format!("GET {path}"))
}

/// The node that takes it; `avoid` are nodes that were tried.
fn to(table: &RouteTable, ask: &Ask, seed: u64, load: &dyn Fn(&str) -> Load, avoid: &[&str]) -> String {
    let service = table.service(&super::key("orders")).unwrap();
    let on = |index: EndpointIndex| service.endpoints.iter().find(|one| one.index == index).unwrap().node().as_str();
    let tried: Vec<EndpointIndex> =
        service.endpoints.iter().filter(|one| avoid.contains(&one.node().as_str())).map(|one| one.index).collect();
    let decide = |request: &RequestFacts<'_>| {
        let request = RequestFacts { avoid: &tried, ..*request };
        table.decide(&request, base(), Draws::from_seed(seed), &|index| load(on(index)))
    };
    match ask.with(decide) {
        Decision::Forward(choice) => choice.endpoint().node().to_string(),
        other @ (Decision::Answer(_) | Decision::Refuse { .. }) => told(&other),
    }
}

fn spread(table: &RouteTable, load: &dyn Fn(&str) -> Load) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    (0..4_000).for_each(|seed| *counts.entry(to(table, &get("/"), seed, load, &[])).or_default() += 1);
    counts
}

fn within(counts: &BTreeMap<String, u32>, node: &str, share: f64) {
    let got = f64::from(counts.get(node).copied().unwrap_or_default()) / 4_000.0;
    assert!((got - share).abs() < 0.03, "{node}: {got}, not {share}: {counts:?}");
}

#[test]
fn least_request_looks_at_requests_alone() {
    let table = balancing("least-request").table();
    let load = |node: &str| Load {
        latency: Some(Duration::from_millis(if node == "vm-1" { 900 } else { 1 })),
        in_flight: u32::from(node != "vm-1"),
        ..Load::default()
    };
    // In one of two pairs, and then always.
    within(&spread(&table, &load), "vm-1", 0.5);
    within(&spread(&table, &|_| Load::default()), "vm-1", 0.25);
}

#[test]
fn random_looks_at_weights_alone() {
    let table = balancing("random").table();
    let load = |node: &str| Load { in_flight: if node == "vm-1" { 1_000 } else { 0 }, ..Load::default() };
    let counts = spread(&table, &load);
    ["vm-1", "vm-2", "vm-3", "vm-4"].iter().for_each(|node| within(&counts, node, 0.25));
}

#[test]
fn round_robin_goes_from_one_to_the_next_and_says_who_counts() {
    let table = balancing("round-robin").table();
    let turn = Cell::new(0);
    let mut nodes = Vec::new();
    for seed in 0..8 {
        let decision = get("/").with(|request| {
            table.decide(request, base(), Draws::from_seed(seed), &|_| Load { turn: turn.get(), ..Load::default() })
        });
        let Decision::Forward(choice) = decision else { panic!() };
        assert_eq!(choice.turn, Some(table.service(&super::key("orders")).unwrap().endpoints[0].index));
        turn.set(turn.get() + 1);
        nodes.push(choice.endpoint().node().to_string());
    }
    assert_eq!(nodes, ["vm-1", "vm-2", "vm-3", "vm-4", "vm-1", "vm-2", "vm-3", "vm-4"]);
}

#[test]
fn a_turn_of_one_that_may_not_be_used_goes_to_the_others_alike() {
    let table = balancing("round-robin").table();
    let now = base();
    let mut counts = BTreeMap::new();
    for turn in 0..1_200 {
        let load = |node: &str| Load {
            turn,
            failing_until: (node == "vm-2").then(|| now + Duration::from_secs(60)),
            ..Load::default()
        };
        *counts.entry(to(&table, &get("/"), 1, &load, &[])).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|count| (350..=450).contains(count)), "{counts:?}");
    let tried = to(&table, &get("/"), 1, &|_| Load::default(), &["vm-1"]);
    assert_ne!(tried, "vm-1", "a retry goes elsewhere");
}

#[test]
fn a_key_goes_to_one_endpoint_and_keys_are_spread() {
    let cases: [(&str, &dyn Fn(u64) -> Ask); 4] = [
        ("maglev, key: 'header:x-user'", &|at| get("/").header("x-user", &at.to_string())),
        ("maglev, key: 'cookie:sid'", &|at| get("/").header("cookie", &format!("a=b; sid={at}"))),
        ("maglev, key: path", &|at| get(&format!("/{at}?q=1"))),
        ("maglev, key: source", &|at| get("/").from(&format!("web-{at}"))),
    ];
    for (policy, ask) in cases {
        let table = balancing(policy).table();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for at in 0..1_000 {
            let first = to(&table, &ask(at), 1, &|_| Load::default(), &[]);
            let busy = |node: &str| Load { in_flight: if node == first { 1_000 } else { 0 }, ..Load::default() };
            assert_eq!(to(&table, &ask(at), at, &busy, &[]), first, "{policy}");
            *counts.entry(first).or_default() += 1;
        }
        assert!(counts.len() == 4 && counts.values().all(|count| (180..=320).contains(count)), "{policy}: {counts:?}");
    }
}

#[test]
fn callers_of_one_service_on_several_nodes_are_several_sources() {
    let table = balancing("maglev, key: source").table();
    let ask = get("/").from("web");
    let mut nodes = std::collections::BTreeSet::new();
    for at in 0..50 {
        let caller = node(&format!("vm-{at}"));
        let decision = ask.with(|request| {
            let request = RequestFacts { node: Some(&caller), ..*request };
            table.decide(&request, base(), Draws::from_seed(1), &|_| Load::default())
        });
        nodes.insert(told(&decision));
    }
    assert_eq!(nodes.len(), 4);
}

#[test]
fn a_request_without_the_key_goes_to_the_lighter_of_two() {
    let table = balancing("maglev, key: 'header:x-user'").table();
    let counts = spread(&table, &|node| Load { in_flight: if node == "vm-1" { 9 } else { 0 }, ..Load::default() });
    assert!(counts.len() == 3 && !counts.contains_key("vm-1"), "{counts:?}");
    let source = balancing("maglev, key: path").table();
    assert_eq!(Ask::bytes("orders").told(&source).split(' ').next(), Some("->"), "bytes have no path");
}

#[test]
fn keys_of_an_endpoint_that_may_not_be_used_are_spread_and_no_others_move() {
    let table = balancing("maglev, key: path").table();
    let now = base();
    let failing =
        |node: &str| Load { failing_until: (node == "vm-2").then(|| now + Duration::from_secs(60)), ..Load::default() };
    let mut moved: BTreeMap<String, u32> = BTreeMap::new();
    for at in 0..2_000 {
        let ask = get(&format!("/{at}"));
        let (first, then) = (to(&table, &ask, 1, &|_| Load::default(), &[]), to(&table, &ask, 1, &failing, &[]));
        let tried = to(&table, &ask, 1, &|_| Load::default(), &[&first]);
        assert_ne!(tried, first, "a retry goes elsewhere");
        if first == "vm-2" {
            *moved.entry(then).or_default() += 1;
        } else {
            assert_eq!(then, first);
        }
    }
    assert!(moved.len() == 3 && moved.values().all(|count| *count > 100), "{moved:?}");
}

#[test]
fn a_subset_has_its_keys_spread_too() {
    let route = "---\napiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {parentRefs: [{kind: Service, name: orders}], rules: [{backendRefs: [{name: orders, subset: {version: v1}}]}]}\n";
    let table = world(&format!("{}{route}", service("loadBalancing: {policy: maglev, key: path}"))).table();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for at in 0..1_000 {
        let ask = get(&format!("/{at}"));
        let first = to(&table, &ask, 1, &|_| Load::default(), &[]);
        assert_eq!(to(&table, &ask, 2, &|_| Load::default(), &[]), first);
        *counts.entry(first).or_default() += 1;
    }
    assert!(counts.len() == 2 && counts.values().all(|count| (400..=600).contains(count)), "{counts:?}");
}

/// A subset of one among hundreds: the table gives it no slot within the probes, and the key still has one endpoint.
#[test]
fn a_small_part_of_a_large_service_is_found() {
    let route = "---\napiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {parentRefs: [{kind: Service, name: orders}], rules: [{backendRefs: [{name: orders, subset: {rare: \"1\"}}]}]}\n";
    let yaml = format!("{}{route}", service("loadBalancing: {policy: maglev, key: path}"));
    let world = (0..300).fold(World::new(&yaml), |world, at| {
        let rare = if at < 2 { "rare=1" } else { "rare=0" };
        world.node(&format!("vm-{at}"), &[&format!("o-{at} orders {rare}")])
    });
    let table = world.table();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for at in 0..400 {
        *counts.entry(to(&table, &get(&format!("/{at}")), at, &|_| Load::default(), &[])).or_default() += 1;
    }
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["vm-0", "vm-1"]);
    assert!(counts.values().all(|count| *count > 120), "{counts:?}");
}

#[test]
fn explanations_name_the_way_and_say_what_is_certain() {
    let by = |policy: &str, ask: &Ask| {
        let (_, record) = ask.explain(&balancing(policy).table(), 1);
        let step = record.endpoints.unwrap();
        let certain =
            step.candidates.iter().filter(|one| one.share == 1.0).map(|one| Some(&one.id)).collect::<Vec<_>>();
        assert!(certain.is_empty() || certain == [step.picked.as_ref()]);
        (step.by.to_string(), certain.len())
    };
    let told = |text: &str, certain| (text.to_owned(), certain);
    let user = get("/").header("x-user", "7");
    assert_eq!(by("peak-ewma", &user), told("peak-ewma", 0));
    assert_eq!(by("least-request", &user), told("least-request", 0));
    assert_eq!(by("round-robin", &user), told("round-robin", 0));
    assert_eq!(by("random", &user), told("random", 0));
    let maglev = "maglev, key: 'header:x-user'";
    assert_eq!(by(maglev, &user), told("maglev by header x-user", 1));
    assert_eq!(by(maglev, &get("/")), told("peak-ewma, since maglev finds no header x-user", 0));
    assert_eq!(by("maglev, key: source", &user), told("maglev by source", 1));
}

/// One of four endpoints is so old; its share.
fn share_at(world: &World, age: Duration) -> f64 {
    let table = world.table();
    let now = base();
    let load = |node: &str| Load { ready_since: (node == "vm-1").then(|| now - age), ..Load::default() };
    let service = table.service(&super::key("orders")).unwrap();
    let first = service.endpoints[0].index;
    let mut count = 0;
    for seed in 0..8_000 {
        let decision = get("/").with(|request| {
            table.decide(request, now, Draws::from_seed(seed), &|index| {
                load(if index == first { "vm-1" } else { "vm-2" })
            })
        });
        let Decision::Forward(choice) = decision else { panic!() };
        count += u32::from(choice.endpoint().index == first);
    }
    f64::from(count) / 8_000.0
}

#[test]
fn a_new_endpoint_s_share_rises_in_a_line_whatever_the_policy() {
    for policy in ["peak-ewma", "least-request", "random", "round-robin"] {
        let world = balancing(policy);
        // Round robin has no turns here: the first is always the new one's, which is then passed over by its coin.
        let whole = if policy == "round-robin" { 1.0 } else { 0.25 };
        for (age, part) in [(0.0, SLOW_START_SHARE), (0.5, 0.55), (1.0, 1.0)] {
            let got = share_at(&world, SLOW_START.mul_f64(age)) / whole;
            // Others are there in its place, so of the requests that it takes part in it has a little more.
            assert!((got - part).abs() < 0.12, "{policy} after {age}: {got}, not {part}");
        }
    }
}

#[test]
fn slow_start_is_as_long_as_the_service_says() {
    let at = |spec: &str, seconds| share_at(&world(&service(spec)), Duration::from_secs(seconds));
    assert!(at("slowStart: 0s", 0) > 0.2);
    assert!(at("slowStart: 10s", 10) > 0.2);
    assert!(at("slowStart: 100s", 30) < 0.15);
    assert!(at("", SLOW_START.as_secs() + 1) > 0.2);
}

#[test]
fn hashing_knows_no_slow_start_and_new_ones_alone_are_used() {
    let new = |_: &str| Load { ready_since: Some(base()), ..Load::default() };
    let table = balancing("maglev, key: path").table();
    for at in 0..200 {
        let ask = get(&format!("/{at}"));
        assert_eq!(to(&table, &ask, 1, &new, &[]), to(&table, &ask, 1, &|_| Load::default(), &[]));
    }
    for policy in ["peak-ewma", "least-request", "random", "round-robin"] {
        let counts = spread(&balancing(policy).table(), &new);
        assert!(counts.len() == 4 || policy == "round-robin", "{policy}: {counts:?}");
    }
}

#[test]
fn shares_for_people_show_the_slow_start() {
    let table = world("").table();
    let service = table.service(&super::key("orders")).unwrap();
    let (now, first) = (base(), service.endpoints[0].index);
    let load = |index: EndpointIndex| Load { ready_since: (index == first).then_some(now), ..Load::default() };
    let shares = service.shares(now, &load);
    assert!((shares[0] - SLOW_START_SHARE / (3.0 + SLOW_START_SHARE)).abs() < 1e-9, "{shares:?}");
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the policy: what may not be used is not, what was tried is not tried again, and somebody is found while
    /// anybody is left.
    #[test]
    fn every_policy_picks_whom_it_may(
        policy in prop::sample::select(&["peak-ewma", "least-request", "round-robin", "random", "maglev, key: path"][..]),
        ready in prop::collection::vec(any::<bool>(), 4), failing in prop::collection::vec(any::<bool>(), 4),
        tried in prop::collection::vec(any::<bool>(), 4), new in prop::collection::vec(any::<bool>(), 4),
        seed in any::<u64>(), turn in any::<u32>(),
    ) {
        let mut world = balancing(policy);
        let name = |at: usize| format!("vm-{}", at + 1);
        (0..4).filter(|at| !ready[*at]).for_each(|at| world.unready(&name(at)));
        let now = base();
        let load = |node: &str| {
            let at = usize::from(node.as_bytes()[3] - b'1');
            Load {
                failing_until: failing[at].then(|| now + Duration::from_secs(60)),
                ready_since: new[at].then_some(now), turn, ..Load::default()
            }
        };
        let avoid: Vec<String> = (0..4).filter(|at| tried[*at]).map(name).collect();
        let avoid: Vec<&str> = avoid.iter().map(String::as_str).collect();
        let taken = to(&world.table(), &get("/x"), seed, &load, &avoid);
        let left: Vec<String> = (0..4).filter(|at| ready[*at] && !tried[*at]).map(name).collect();
        if left.is_empty() {
            prop_assert_eq!(taken, "NoEndpoint 503");
        } else {
            prop_assert!(left.contains(&taken), "{} of {:?}", taken, left);
        }
    }

    /// All agents agree: a key means the same endpoint in whatever order its agent learnt of them.
    #[test]
    fn a_key_means_the_same_endpoint_at_every_agent(order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle(), key in any::<u32>()) {
        let yaml = service("loadBalancing: {policy: maglev, key: path}");
        let learnt = |order: &[usize]| {
            let world = order.iter().fold(World::new(&yaml), |world, at| world.node(&format!("vm-{at}"), &[&format!("o-{at} orders")]));
            get(&format!("/{key}")).told(&world.table())
        };
        prop_assert_eq!(learnt(&order), learnt(&[0, 1, 2, 3, 4, 5]));
    }
}
