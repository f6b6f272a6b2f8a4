//! Propositions about the table and the pick, told through one small mesh.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use starling_model::{
    Announcement, HealthEntry, HealthRecord, InstanceName, Labels, MemberState, NodeName, PortName, Protocol,
    Readiness, ServiceKey, ServiceName, ServicesRecord, Weight,
};

use crate::registry::{MemberFact, Registry};
use crate::*;

mod balancing;
mod explained;
mod gateways;
mod grants;
mod increments;
mod properties;
mod routes;
mod rows;
mod services;
mod sessions;
mod snapshots;
mod world;

fn settings() -> TableSettings {
    TableSettings { domain: "mesh.internal".to_owned() }
}

#[expect(clippy::disallowed_methods, reason = "a base for virtual time")]
fn base() -> Instant {
    Instant::now()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(starling_model::Namespace::default(), ServiceName::new(name).unwrap())
}

/// A mesh in a few words: `vm-1: orders-1=orders*100, …`; everything alive and ready.
#[derive(Default)]
struct Mesh {
    registry: Registry,
    services: BTreeMap<String, Vec<Announcement>>,
}

impl Mesh {
    fn node(mut self, node: &str, instances: &[(&str, &str, u32)]) -> Self {
        let last: u8 = node.bytes().last().unwrap() - b'0';
        let address = SocketAddr::from(([127, 0, 0, last], 7740));
        let name = NodeName::new(node).unwrap();
        self.registry.member(&MemberFact { node: name, state: MemberState::Alive, address: Some(address) });
        for (instance, service, weight) in instances {
            self.services.entry(node.to_owned()).or_default().push(Announcement {
                instance: InstanceName::new(instance).unwrap(),
                service: key(service),
                port: PortName::new("http").unwrap(),
                protocol: Protocol::Http,
                labels: Labels::default(),
                weight: Weight::new(*weight).unwrap(),
            });
        }
        self.announce(node);
        self.ready(node, Readiness::Ready);
        self
    }

    fn announce(&mut self, node: &str) {
        let instances = self.services.get(node).cloned().unwrap_or_default();
        self.registry.services(&NodeName::new(node).unwrap(), &ServicesRecord { instances });
    }

    fn ready(&mut self, node: &str, readiness: Readiness) {
        let instances = self.services.get(node).into_iter().flatten();
        let entries = instances.map(|a| HealthEntry { instance: a.instance.clone(), readiness }).collect();
        self.registry.health(&NodeName::new(node).unwrap(), &HealthRecord { entries });
    }

    fn state(&mut self, node: &str, state: MemberState) {
        self.registry.member(&MemberFact { node: NodeName::new(node).unwrap(), state, address: None });
    }

    fn table(&self) -> RouteTable {
        compile(&Documents::default(), &self.registry, &settings(), None)
    }
}

/// Nodes that 2,000 requests for `orders` reach, with their counts.
fn spread(table: &RouteTable, now: Instant, load_of: impl Fn(&str) -> Load) -> BTreeMap<String, u32> {
    let orders = key("orders");
    let service = table.service(&orders).cloned();
    let loads = |index: EndpointIndex| {
        let found = service.as_ref().and_then(|s| s.endpoints.iter().find(|e| e.index == index)).unwrap();
        load_of(found.node().as_str())
    };
    let mut counts = BTreeMap::new();
    for seed in 0..2_000 {
        let request = RequestFacts {
            destination: Destination::Service(&orders),
            port: None,
            source: None,
            http: None,
            avoid: &[],
            node: None,
            wall: UnixSeconds(0),
        };
        match table.decide(&request, now, Draws::from_seed(seed), &loads) {
            Decision::Forward(choice) => *counts.entry(choice.endpoint().node().to_string()).or_default() += 1,
            Decision::Refuse { why, .. } => *counts.entry(format!("{why:?}")).or_default() += 1,
            Decision::Answer(_) => panic!("no rule answers"),
        }
    }
    counts
}

fn two_nodes() -> Mesh {
    Mesh::default().node("vm-1", &[("orders-1", "orders", 100)]).node("vm-2", &[("orders-2", "orders", 100)])
}

#[test]
fn equal_endpoints_share_equally() {
    let counts = spread(&two_nodes().table(), base(), |_| Load::default());
    assert!((900..=1_100).contains(&counts["vm-1"]), "{counts:?}");
}

#[test]
fn of_two_endpoints_the_lighter_is_taken() {
    let counts = spread(&two_nodes().table(), base(), |node| Load {
        latency: Some(Duration::from_millis(if node == "vm-1" { 2 } else { 50 })),
        ..Load::default()
    });
    assert_eq!(counts.get("vm-1"), Some(&2_000));
}

#[test]
fn a_hair_of_difference_leaves_equals_equal() {
    let counts = spread(&two_nodes().table(), base(), |node| Load {
        latency: Some(Duration::from_micros(if node == "vm-1" { 900 } else { 1_100 })),
        ..Load::default()
    });
    assert!((900..=1_100).contains(&counts["vm-2"]), "{counts:?}");
}

#[test]
fn an_endpoint_without_a_sample_neither_starves_nor_draws_the_herd() {
    let counts = spread(&two_nodes().table(), base(), |node| Load {
        latency: (node == "vm-1").then(|| Duration::from_millis(5)),
        ..Load::default()
    });
    assert!((900..=1_100).contains(&counts["vm-2"]), "{counts:?}");
}

#[test]
fn weights_shift_traffic() {
    let mesh = Mesh::default()
        .node("vm-1", &[("a", "orders", 300)])
        .node("vm-2", &[("b", "orders", 100)])
        .node("vm-3", &[("c", "orders", 0)]);
    let shares = mesh.table().service(&key("orders")).unwrap().shares(base(), &|_| Load::default());
    assert_eq!(shares, vec![0.75, 0.25, 0.0]);
    let counts = spread(&mesh.table(), base(), |_| Load::default());
    assert_eq!(counts.get("vm-3"), None);
}

#[test]
fn unready_draining_and_left_get_nothing_even_when_nothing_else_is_there() {
    let mut mesh = two_nodes();
    mesh.ready("vm-1", Readiness::Unready);
    mesh.ready("vm-2", Readiness::Draining);
    assert_eq!(spread(&mesh.table(), base(), |_| Load::default()).get("NoEndpoint"), Some(&2_000));
    mesh.ready("vm-1", Readiness::Ready);
    mesh.state("vm-1", MemberState::Left);
    assert_eq!(spread(&mesh.table(), base(), |_| Load::default()).get("NoEndpoint"), Some(&2_000));
}

#[test]
fn own_failure_beats_a_gossiped_life() {
    let now = base();
    let failing =
        |node: &str| Load { failing_until: (node == "vm-1").then(|| now + Duration::from_secs(1)), ..Load::default() };
    assert_eq!(spread(&two_nodes().table(), now, failing).get("vm-2"), Some(&2_000));
}

#[test]
fn own_success_beats_a_gossiped_death() {
    let now = base() + Duration::from_secs(60);
    let mut mesh = two_nodes();
    mesh.state("vm-1", MemberState::Dead);
    assert_eq!(spread(&mesh.table(), now, |_| Load::default()).get("vm-1"), None);
    let working = |_: &str| Load { last_success: Some(now), ..Load::default() };
    assert!(spread(&mesh.table(), now, working).contains_key("vm-1"));
    let long_ago = |_: &str| Load { last_success: Some(now - Duration::from_secs(30)), ..Load::default() };
    assert_eq!(spread(&mesh.table(), now, long_ago).get("vm-1"), None);
}

#[test]
fn a_view_that_lost_most_endpoints_is_doubted() {
    let now = base();
    let mut mesh = two_nodes().node("vm-3", &[("orders-3", "orders", 100)]);
    mesh.state("vm-1", MemberState::Dead);
    mesh.state("vm-2", MemberState::Dead);
    // Gossip alone: all three are used.
    assert_eq!(spread(&mesh.table(), now, |_| Load::default()).len(), 3);
    // Gossip and our own traffic agree on vm-1: it is left out.
    let counts = spread(&mesh.table(), now, |node| Load {
        failing_until: (node == "vm-1").then(|| now + Duration::from_secs(1)),
        ..Load::default()
    });
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["vm-2", "vm-3"]);
}

#[test]
fn a_retry_avoids_what_was_tried() {
    let now = base();
    let table = two_nodes().table();
    let orders = key("orders");
    let service = table.service(&orders).unwrap().clone();
    let avoid = [service.endpoints[0].index];
    for seed in 0..100 {
        let request = RequestFacts {
            destination: Destination::Service(&orders),
            port: None,
            source: None,
            http: None,
            avoid: &avoid,
            node: None,
            wall: UnixSeconds(0),
        };
        let Decision::Forward(choice) = table.decide(&request, now, Draws::from_seed(seed), &|_| Load::default())
        else {
            panic!("one endpoint is left")
        };
        assert_ne!(choice.endpoint().index, avoid[0]);
    }
    let all = [service.endpoints[0].index, service.endpoints[1].index];
    let request = RequestFacts {
        destination: Destination::Service(&orders),
        port: None,
        source: None,
        http: None,
        avoid: &all,
        node: None,
        wall: UnixSeconds(0),
    };
    let refused = table.decide(&request, now, Draws::from_seed(1), &|_| Load::default());
    assert!(matches!(refused, Decision::Refuse { why: Refusal::NoEndpoint, .. }), "{refused:?}");
}

#[test]
fn unknown_services_and_ports_are_refused_with_their_own_reason() {
    let table = two_nodes().table();
    let (nothing, orders, port) = (key("nothing"), key("orders"), PortName::new("admin").unwrap());
    let decide = |destination: &ServiceKey, port: Option<&PortName>| {
        let request = RequestFacts {
            destination: Destination::Service(destination),
            port,
            source: None,
            http: None,
            avoid: &[],
            node: None,
            wall: UnixSeconds(0),
        };
        match table.decide(&request, base(), Draws::from_seed(1), &|_| Load::default()) {
            Decision::Refuse { why, .. } => Some((why, why.status())),
            Decision::Forward(_) | Decision::Answer(_) => None,
        }
    };
    assert_eq!(decide(&nothing, None), Some((Refusal::NoService, 404)));
    assert_eq!(decide(&orders, Some(&port)), Some((Refusal::NoPort, 404)));
    assert_eq!(decide(&orders, None), None);
}

#[test]
fn hosts_resolve_in_both_forms_and_any_case() {
    let table = two_nodes().table();
    for host in ["orders.mesh.internal", "ORDERS.mesh.internal:80", "orders.default.mesh.internal."] {
        assert_eq!(table.resolve_host(host).map(|s| s.key.to_string()).as_deref(), Some("default/orders"), "{host}");
    }
    for host in ["", ":80", "orders", "orders.shop.mesh.internal", "mesh.internal", "orders.mesh.internal.evil"] {
        assert!(table.resolve_host(host).is_none(), "{host}");
    }
}

#[test]
fn pools_that_did_not_change_are_shared_with_the_table_before() {
    let mut mesh = two_nodes().node("vm-3", &[("db-1", "db", 100)]);
    let before = mesh.table();
    mesh.ready("vm-3", Readiness::Unready);
    let after = compile(&Documents::default(), &mesh.registry, &settings(), Some(&before));
    let same =
        |name: &str| std::sync::Arc::ptr_eq(before.service(&key(name)).unwrap(), after.service(&key(name)).unwrap());
    assert!(same("orders"));
    assert!(!same("db"));
}

#[test]
fn a_withdrawn_instance_disappears_and_its_number_returns_under_a_new_birth() {
    let mut mesh = two_nodes();
    let birth = |table: &RouteTable| {
        table.service(&key("orders")).unwrap().endpoints.iter().map(|e| (e.index, e.birth)).collect::<Vec<_>>()
    };
    let before = birth(&mesh.table());
    let kept = mesh.services.remove("vm-1").unwrap();
    mesh.announce("vm-1");
    assert_eq!(birth(&mesh.table()).len(), 1);
    mesh.services.insert("vm-1".to_owned(), kept);
    mesh.announce("vm-1");
    let after = birth(&mesh.table());
    assert_eq!(before[0].0, after[0].0);
    assert_ne!(before[0].1, after[0].1);
    mesh.registry.forget(&NodeName::new("vm-1").unwrap());
    mesh.registry.forget(&NodeName::new("vm-2").unwrap());
    assert!(mesh.table().service(&key("orders")).is_none());
}

proptest! {
    /// Whatever order facts arrive in, the table is the same but for endpoint numbers.
    #[test]
    fn the_table_does_not_depend_on_the_order_of_facts(order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut registry = Registry::new();
        let mut counts = RefCell::new(0);
        for step in order {
            let node = NodeName::new(&format!("vm-{}", step % 3 + 1)).unwrap();
            *counts.get_mut() += 1;
            if step < 3 {
                let address = SocketAddr::from(([127, 0, 0, 1], 7740));
                registry.member(&MemberFact { node, state: MemberState::Alive, address: Some(address) });
            } else {
                let instance = InstanceName::new("one").unwrap();
                let announcement = Announcement {
                    instance: instance.clone(), service: key("orders"), port: PortName::new("http").unwrap(),
                    protocol: Protocol::Http, labels: Labels::default(), weight: Weight::default(),
                };
                registry.health(&node, &HealthRecord { entries: vec![HealthEntry { instance, readiness: Readiness::Ready }] });
                registry.services(&node, &ServicesRecord { instances: vec![announcement] });
            }
        }
        let table = compile(&Documents::default(), &registry, &settings(), None);
        let service = table.service(&key("orders")).unwrap();
        let ids: Vec<String> = service.endpoints.iter().map(|e| e.id.to_string()).collect();
        prop_assert_eq!(ids, ["vm-1/default/one", "vm-2/default/one", "vm-3/default/one"]);
        prop_assert_eq!(service.admissible_len(), 3);
    }

    /// Whatever loads say, a decision never picks an endpoint that its owner withholds, and never panics.
    #[test]
    fn withheld_endpoints_are_never_picked(
        ready in prop::collection::vec(any::<bool>(), 9), failing in prop::collection::vec(any::<bool>(), 9),
        dead in prop::collection::vec(any::<bool>(), 9), seed in any::<u64>(), tried in prop::collection::vec(0u32..9, 0..4),
    ) {
        let now = base();
        let mut mesh = Mesh::default();
        for at in 0..9 {
            let node = format!("vm-{}", at + 1);
            mesh = mesh.node(&node, &[("one", "orders", 100)]);
            if !ready[at] { mesh.ready(&node, Readiness::Unready); }
            if dead[at] { mesh.state(&node, MemberState::Dead); }
        }
        let table = mesh.table();
        let avoid: Vec<EndpointIndex> = tried.into_iter().map(EndpointIndex).collect();
        let orders = key("orders");
        let request = RequestFacts { destination: Destination::Service(&orders), port: None, source: None, http: None, avoid: &avoid, node: None, wall: UnixSeconds(0) };
        let loads = |index: EndpointIndex| Load {
            failing_until: failing[index.0 as usize].then(|| now + Duration::from_secs(1)), ..Load::default()
        };
        match table.decide(&request, now, Draws::from_seed(seed), &loads) {
            Decision::Forward(choice) => {
                prop_assert_eq!(choice.endpoint().readiness, Readiness::Ready);
                prop_assert!(!avoid.contains(&choice.endpoint().index));
            }
            Decision::Answer(_) => prop_assert!(false, "no rule answers"),
            Decision::Refuse { .. } => {
                let left = table.service(&orders).unwrap().endpoints.iter()
                    .filter(|e| e.admissible() && !avoid.contains(&e.index)).count();
                // Refused only when nothing untried is admissible, or the untried ones are surely gone while others live.
                let live = table.service(&orders).unwrap().endpoints.iter().filter(|e| e.admissible()).any(|e| {
                    let gone = dead[e.index.0 as usize] && failing[e.index.0 as usize];
                    !gone && !avoid.contains(&e.index)
                });
                prop_assert!(left == 0 || !live);
            }
        }
    }
}
