//! Propositions about what own traffic remembers of endpoints.

use starling_model::{
    EndpointId, InstanceName, Labels, Namespace, NodeName, PortName, Protocol, Readiness, ServiceKey, Weight,
};

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
    assert_eq!(loads.load(new.index, now), Load { in_flight: 1, ..Load::default() });
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
