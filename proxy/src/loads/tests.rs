//! Propositions about what own traffic remembers of endpoints.

use starling_model::{
    Announcement, EndpointId, HealthEntry, HealthRecord, InstanceName, Labels, Namespace, NodeName, PortName, Protocol,
    Readiness, ServiceKey, ServicesRecord, Weight,
};
use starling_routing::{Documents, MemberFact, Registry, TableSettings, compile};

use super::*;

fn endpoint(index: u32, birth: u64) -> Endpoint {
    Endpoint {
        id: EndpointId {
            node: NodeName::new("vm-1").unwrap(),
            namespace: Namespace::default(),
            instance: InstanceName::new("one").unwrap(),
        },
        service: ServiceKey::parse("orders", &Namespace::default()).unwrap(),
        index: EndpointIndex(index),
        birth,
        address: None,
        port: PortName::new("http").unwrap(),
        protocol: Protocol::Http,
        labels: Labels::default(),
        weight: Weight::default(),
        readiness: Readiness::Ready,
        member: MemberState::Alive,
        standing: starling_routing::Standing::Unnamed,
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn what_is_under_way_is_counted_until_it_ends() {
    let loads = Loads::new();
    let now = Instant::now();
    let one = endpoint(3, 1);
    loads.begin(&one);
    loads.begin(&one);
    assert_eq!(loads.load(one.index, now).in_flight, 2);
    for left in [1, 0, 0] {
        loads.end(one.index, one.birth);
        assert_eq!(loads.load(one.index, now).in_flight, left);
    }
}

#[test]
fn another_endpoint_under_the_same_number_starts_afresh() {
    let loads = Loads::new();
    let now = Instant::now();
    let old = endpoint(0, 1);
    loads.begin(&old);
    loads.succeeded(&old, 5 * MS, now);
    loads.failed(&old, Failure::Quick, now);
    let new = endpoint(0, 2);
    loads.begin(&new);
    let turn = loads.first_turn;
    assert_eq!(loads.load(new.index, now), Load { in_flight: 1, turn, ..Load::default() });
    loads.end(old.index, old.birth);
    assert_eq!(loads.load(new.index, now).in_flight, 1, "the old one's end does not count");
    loads.succeeded(&old, 5 * MS, now);
    assert_eq!(loads.load(new.index, now).latency, None, "nor does its answer");
}

#[test]
fn failures_in_a_row_wait_longer_and_a_success_ends_them() {
    let loads = Loads::new();
    let now = Instant::now();
    let one = endpoint(0, 1);
    loads.begin(&one);
    let mut waits = Vec::new();
    for _ in 0..5 {
        loads.failed(&one, Failure::Quick, now);
        let until = loads.load(one.index, now).failing_until.unwrap();
        waits.push(until.duration_since(now).as_millis().next_multiple_of(10));
    }
    assert_eq!(waits, [200, 400, 800, 1_000, 1_000]);
    loads.failed(&one, Failure::TimedOut, now);
    assert!(loads.load(one.index, now).failing_until.unwrap() > now + 9_000 * MS);
    loads.succeeded(&one, MS, now);
    let load = loads.load(one.index, now);
    assert_eq!(load.failing_until, None);
    assert!(load.last_success.is_some());
}

#[test]
fn an_endpoint_beyond_the_last_slot_is_counted_and_served() {
    let loads = Loads::new();
    let far = endpoint(u32::MAX, 1);
    loads.begin(&far);
    loads.end(far.index, far.birth);
    assert_eq!(loads.load(far.index, Instant::now()), Load::default());
    assert_eq!(loads.beyond(), 1);
}

#[test]
fn turns_are_counted_by_the_endpoint_that_counts_them() {
    let loads = Loads::new();
    let now = Instant::now();
    let one = endpoint(0, 1);
    loads.begin(&one);
    let first = loads.load(one.index, now).turn;
    loads.turned(one.index);
    loads.turned(one.index);
    assert_eq!(loads.load(one.index, now).turn, first.wrapping_add(2));
    loads.turned(EndpointIndex(9_999));
}

/// A mesh of one service on one node.
struct Told {
    registry: Registry,
    node: NodeName,
}

impl Told {
    fn new() -> Self {
        let told = Self { registry: Registry::new(), node: NodeName::new("vm-1").unwrap() };
        let mut told = told.member(MemberState::Alive);
        let one = endpoint(0, 1);
        let announcement = Announcement {
            instance: one.id.instance.clone(),
            service: one.service.clone(),
            port: one.port.clone(),
            protocol: one.protocol,
            labels: one.labels.clone(),
            weight: one.weight,
        };
        told.registry.services(&told.node, &ServicesRecord { instances: vec![announcement] });
        told.ready(Readiness::Ready)
    }

    fn member(mut self, state: MemberState) -> Self {
        let address = "127.0.0.1:7740".parse().ok();
        self.registry.member(&MemberFact { node: self.node.clone(), state, address });
        self
    }

    fn ready(mut self, readiness: Readiness) -> Self {
        let entry = HealthEntry { instance: endpoint(0, 1).id.instance, readiness };
        self.registry.health(&self.node, &HealthRecord { entries: vec![entry] });
        self
    }

    /// Since when it is ready once this is in use.
    fn adopted(&self, loads: &Loads, now: Instant) -> Option<Instant> {
        let settings = TableSettings { domain: "mesh.internal".to_owned() };
        loads.adopt(&compile(&Documents::default(), &self.registry, &settings, None), now);
        loads.load(EndpointIndex(0), now).ready_since
    }
}

#[test]
fn an_endpoint_is_new_when_it_becomes_ready_or_its_node_comes_back() {
    let loads = Loads::new();
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let close = |since: Option<Instant>, want: Instant| {
        let since = since.unwrap();
        let apart = since.max(want) - since.min(want);
        assert!(apart < 100 * MS, "{apart:?}");
    };
    let told = Told::new();
    assert_eq!(told.adopted(&loads, at(1)), None, "the agent is new, not the endpoint");
    assert_eq!(told.adopted(&loads, at(60)), None);
    let told = told.ready(Readiness::Unready);
    assert_eq!(told.adopted(&loads, at(61)), None);
    let told = told.ready(Readiness::Ready);
    close(told.adopted(&loads, at(70)), at(70));
    close(told.adopted(&loads, at(75)), at(70));
    let told = told.member(MemberState::Suspect);
    close(told.adopted(&loads, at(80)), at(70));
    let told = told.member(MemberState::Alive);
    close(told.adopted(&loads, at(81)), at(70));
    let told = told.member(MemberState::Dead);
    told.adopted(&loads, at(90));
    let told = told.member(MemberState::Alive);
    close(told.adopted(&loads, at(100)), at(100));
}

#[test]
fn an_endpoint_that_a_settled_agent_learns_of_is_new() {
    let loads = Loads::new();
    let later = Instant::now() + SETTLING + Duration::from_secs(1);
    assert!(Told::new().adopted(&loads, later).is_some());
}
