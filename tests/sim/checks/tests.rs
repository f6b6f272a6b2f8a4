//! Each checker can fail: here is what makes it fire.

use std::collections::BTreeMap;

use starling_model::{
    Announcement, BootEpoch, Incarnation, InstanceName, Labels, Namespace, PortName, Protocol, ServiceKey, ServiceName,
    Weight,
};

use super::*;
use crate::cluster::Setup;

fn life(epoch: u64, incarnation: u32) -> Life {
    Life { epoch: BootEpoch(epoch), incarnation: Incarnation(incarnation) }
}

/// Left of the arrow what an observer held, right of it what it was told; true when that is legal.
#[test]
fn only_a_higher_life_brings_back() {
    use MemberState::{Alive, Dead, Joining, Left, Suspect};
    let check = |old: (MemberState, Life), new: (MemberState, Life), legal: bool| {
        assert_eq!(illegal_move(Some(old), new).is_none(), legal, "{old:?} -> {new:?}");
    };
    check((Alive, life(1, 0)), (Suspect, life(1, 0)), true);
    check((Alive, life(1, 0)), (Left, life(1, 0)), true);
    check((Suspect, life(1, 0)), (Dead, life(1, 0)), true);
    check((Suspect, life(1, 0)), (Alive, life(1, 1)), true);
    check((Dead, life(1, 0)), (Suspect, life(2, 0)), true);
    check((Joining, life(1, 0)), (Alive, life(1, 0)), true);
    check((Suspect, life(1, 0)), (Alive, life(1, 0)), false);
    check((Dead, life(1, 0)), (Suspect, life(1, 0)), false);
    check((Dead, life(1, 0)), (Alive, life(1, 0)), false);
    check((Left, life(1, 0)), (Alive, life(1, 0)), false);
    check((Alive, life(2, 0)), (Alive, life(1, 9)), false);
    check((Dead, life(2, 0)), (Alive, life(1, 9)), false);
    assert!(illegal_move(None, (Dead, life(0, 0))).is_none());
}

#[test]
fn bounds_are_bounds() {
    let check = |waiting, actions, broadcasts, members, good: bool| {
        assert_eq!(over_bounds(waiting, actions, broadcasts, members).is_none(), good);
    };
    check(WAITING_ROOM_MAX, ACTIONS_PER_TURN_MAX, 2 * BROADCASTS_PER_MEMBER_MAX, 1, true);
    check(WAITING_ROOM_MAX + 1, 0, 0, 1, false);
    check(0, ACTIONS_PER_TURN_MAX + 1, 0, 1, false);
    check(0, 0, 2 * BROADCASTS_PER_MEMBER_MAX + 1, 1, false);
    assert!(oversized(DATAGRAM_BYTES_MAX + 1, true) && !oversized(DATAGRAM_BYTES_MAX, true));
    assert!(oversized(SYNC_FRAME_BYTES_MAX + 1, false) && !oversized(SYNC_FRAME_BYTES_MAX, false));
}

#[test]
fn nobody_holds_itself_for_dead() {
    assert!(self_denial(MemberState::Dead, false));
    assert!(self_denial(MemberState::Suspect, true));
    assert!(self_denial(MemberState::Left, false));
    assert!(!self_denial(MemberState::Left, true));
    assert!(!self_denial(MemberState::Alive, false));
}

#[test]
fn a_death_needs_a_failed_probe_since_the_last_sign_of_life() {
    assert!(unproven_death(0, 0));
    assert!(unproven_death(7, 7));
    assert!(!unproven_death(7, 8));
}

fn services(version: u64) -> ServicesRecord {
    let labels = Labels::new(BTreeMap::from([(VERSION_LABEL.to_owned(), version.to_string())])).expect("a label");
    let instance = Announcement {
        instance: InstanceName::new("web-1").expect("a label"),
        service: ServiceKey::new(Namespace::default(), ServiceName::new("web").expect("a label")),
        port: PortName::new("http").expect("a label"),
        protocol: Protocol::Http,
        labels,
        weight: Weight::default(),
    };
    ServicesRecord { instances: vec![instance] }
}

/// One host sees another: what the checker says to each view in turn.
#[test]
fn breaches_in_what_an_agent_is_told_are_found() {
    let mut sim = Sim::new(Setup::lan(1));
    let hosts = sim.add_hosts(2);
    sim.start(hosts[0], &[]);
    let now = sim.swim(hosts[0]).expect("it runs").standing().1;
    let mut view = View::default();
    let (id, name) = (sim.host(hosts[0]).name_id, sim.host(hosts[0]).name.clone());
    let told = |state, life| Told { id, name: &name, state, life, failures: 0 };
    let alive = told(MemberState::Alive, now);
    let higher = told(MemberState::Alive, life(now.epoch.0 + 1, 0));
    let suspect = told(MemberState::Suspect, now);
    let Sim { checker, hosts: all, .. } = &mut sim;
    let observer = &all[1];
    checker.breaches.clear();
    checker.member(SimTime::START, observer, &mut view, &alive);
    checker.member(SimTime::START, observer, &mut view, &suspect);
    assert_eq!(checker.breaches, Vec::<String>::new());
    checker.member(SimTime::START, observer, &mut view, &alive);
    assert_eq!(checker.breaches.len(), 1, "a suspicion ended by itself: {:?}", checker.breaches);
    checker.member(SimTime::START, observer, &mut view, &higher);
    assert_eq!(checker.breaches.len(), 2, "somebody else raised a life: {:?}", checker.breaches);
    let owner = all[0].name.clone();
    checker.services(SimTime::START, &all[1], &mut view, owner.clone(), services(2));
    assert_eq!(checker.breaches.len(), 2);
    checker.services(SimTime::START, &all[1], &mut view, owner, services(1));
    assert_eq!(checker.breaches.len(), 3, "an old record came back: {:?}", checker.breaches);
}

#[test]
fn views_that_differ_are_found() {
    let mut sim = Sim::new(Setup::lan(1));
    let hosts = sim.add_hosts(2);
    assert_eq!(converged(&sim), Ok(()), "nobody runs");
    sim.start(hosts[0], &[]);
    sim.start(hosts[1], &[]);
    assert!(converged(&sim).is_err(), "two that never met");
}

#[test]
fn quotas_are_bounds_and_spinning_is_seen() {
    let check = |state_bytes, largest_owner_bytes, good: bool| {
        let stats = Stats { state_bytes, largest_owner_bytes, ..Stats::default() };
        assert_eq!(over_quota(&stats).is_none(), good);
    };
    check(STATE_BYTES_MAX, OWNER_BYTES_MAX, true);
    check(STATE_BYTES_MAX + 1, 0, false);
    check(0, OWNER_BYTES_MAX + 1, false);
    let later = SimTime::START.after(Duration::from_millis(1));
    assert!(spins(SimTime::START, SimTime::START, BUSY_MAX));
    assert!(!spins(SimTime::START, later, BUSY_MAX));
    assert!(!spins(SimTime::START, SimTime::START, BUSY_MAX - 1));
}

/// What only a member says of itself: its address and release in each life, and that it left.
#[test]
fn words_that_a_member_never_said_are_found() {
    let mut sim = Sim::new(Setup::lan(1));
    let hosts = sim.add_hosts(2);
    sim.start(hosts[0], &[]);
    let mut said = sim.swim(hosts[0]).expect("it runs").me();
    let (id, mesh) = (sim.host(hosts[0]).name_id, sim.host(hosts[0]).mesh);
    said.addresses = vec![sim.host(hosts[0]).address];
    let check = |sim: &Sim, told: &MemberView| sim.checker.announced.foreign(id, &mesh, told);
    assert_eq!(check(&sim, &said), None);
    let moved = MemberView { addresses: vec![sim.host(hosts[1]).address], ..said.clone() };
    assert!(check(&sim, &moved).is_some(), "an address that it never had");
    let other = MemberView { release: "9.9.9".to_owned(), ..said.clone() };
    assert!(check(&sim, &other).is_some(), "a release that it never had");
    let left = MemberView { state: MemberState::Left, ..said.clone() };
    assert!(check(&sim, &left).is_some(), "it never left");
    sim.restart(hosts[0]);
    let life = sim.swim(hosts[0]).expect("it runs").standing().1;
    let older = MemberView { life, ..said };
    assert!(check(&sim, &older).is_some(), "attributes of the life before");
    let Sim { checker, hosts: all, .. } = &mut sim;
    checker.breaches.clear();
    checker.attributes(SimTime::START, &all[1], id, &left);
    assert_eq!(checker.breaches.len(), 1, "{:?}", checker.breaches);
    sim.leave(hosts[0]);
    sim.run_for(Duration::from_millis(1));
    let life = sim.swim(hosts[0]).map_or(life, |swim| swim.standing().1);
    let left = MemberView { life, ..left };
    sim.run_for(Duration::from_secs(5));
    assert_eq!(check(&sim, &left), None, "it left");
}
