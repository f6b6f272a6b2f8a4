//! Propositions about whole meshes, in virtual time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_model::{BootEpoch, MemberState, RecordKind, ServicesRecord, StatusRecord};

use super::test_mesh::{MESH_HEAD, MS, Mesh, address, pair};
use crate::action::{Command, Event, ExchangeId, OwnRecord, Rejected};
use crate::config::SwimConfig;
use crate::payload::tests::sample_instance;
use crate::testing::node;

pub(super) fn services(names: &[&str]) -> OwnRecord {
    OwnRecord::Services(ServicesRecord { instances: names.iter().map(|name| sample_instance(name)).collect() })
}

fn went_dead(events: &[Event], of: &str) -> bool {
    let name = node(of);
    events
        .iter()
        .any(|event| matches!(event, Event::Member(view) if view.name == name && view.state == MemberState::Dead))
}

#[test]
fn three_members_form_through_one_seed() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    let took = mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    assert!(took <= MS(200), "{took:?}");
    for name in ["n1", "n2", "n3"] {
        let synced = mesh.events(name).iter().filter(|event| matches!(event, Event::Synced { .. })).count();
        assert_eq!(synced, 1, "{name}");
    }
    assert_eq!(mesh.nodes[&node("n1")].swim.agreement().0, 3);
}

#[test]
fn a_seed_that_starts_late_is_found() {
    let mut mesh = Mesh::new(SwimConfig::lan());
    mesh.start("n2", &["n1"]);
    mesh.start("n3", &["n1"]);
    mesh.run(MS(3_000));
    mesh.start("n1", &[]);
    mesh.until(MS(4_000), "a complete mesh", Mesh::is_complete);
}

#[test]
fn a_record_reaches_everybody_at_once_and_goes_once_to_each() {
    let mut mesh = Mesh::of(5, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(3_000));
    mesh.command("n2", Command::Put(services(&["web-1", "web-2"])));
    let took = mesh.until(MS(1000), "the record everywhere", |mesh| {
        ["n1", "n3", "n4", "n5"].iter().all(|at| mesh.services(at, "n2") == Some(2))
    });
    assert!(took <= MS(10), "{took:?}");
    mesh.command("n2", Command::Put(services(&["web-2"])));
    let took = mesh.until(MS(1000), "the withdrawal everywhere", |mesh| {
        ["n1", "n3", "n4", "n5"].iter().all(|at| mesh.services(at, "n2") == Some(1))
    });
    assert!(took <= MS(40), "{took:?}");
    mesh.command("n2", Command::Put(services(&["web-2"])));
    let heard = mesh.events("n1").iter().filter(|event| matches!(event, Event::Services { .. })).count();
    assert_eq!(heard, 2, "the same record again is no news");
}

#[test]
fn records_too_large_for_a_datagram_spread_too() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    let names: Vec<String> = (0..200).map(|at| format!("web-{at:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    mesh.command("n3", Command::Put(services(&names)));
    mesh.until(MS(1000), "the shards everywhere", |mesh| {
        ["n1", "n2", "n4"].iter().all(|at| mesh.services(at, "n3") == Some(200))
    });
}

#[test]
fn a_joiner_has_everything_within_one_exchange() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    for name in ["n1", "n2", "n3", "n4"] {
        mesh.command(name, Command::Put(services(&["a", "b", "c"])));
        mesh.command(name, Command::Put(OwnRecord::Status(StatusRecord { documents: 7, ..StatusRecord::default() })));
    }
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.start("n5", &["n3"]);
    mesh.until(MS(200), "the joiner is ready", |mesh| {
        mesh.events("n5").iter().any(|event| matches!(event, Event::Synced { members: 5 }))
    });
    for name in ["n1", "n2", "n3", "n4"] {
        assert_eq!(mesh.services("n5", name), Some(3), "{name}");
    }
    mesh.until(MS(200), "a complete mesh", Mesh::is_complete);
}

#[test]
fn large_meshes_compare_buckets_first() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1000), "a pair", Mesh::is_complete);
    // Enough shards that a plain listing would be too long.
    for name in ["n1", "n2"] {
        for kind in 0..2_u8 {
            let instances = (0..250).map(|at| {
                let labels = (0..30).map(|label| (format!("l{label}-{at}-{kind}"), "x".repeat(40))).collect();
                starling_model::Announcement {
                    labels: starling_model::Labels::new(labels).unwrap(),
                    ..sample_instance(&format!("{name}-{at}"))
                }
            });
            mesh.command(name, Command::Put(OwnRecord::Services(ServicesRecord { instances: instances.collect() })));
        }
    }
    mesh.run(MS(60_000));
    let shards = mesh.nodes[&node("n1")].swim.records.len();
    assert!(mesh.is_complete(), "{shards} shards\n{}", mesh.show());
}

/// kill -9, the connection still looks up: only missing acks tell.
#[test]
fn a_silent_crash_is_dead_everywhere_within_ten_seconds() {
    let check = |config: SwimConfig, limit: Duration| {
        for victim in ["n1", "n2", "n3"] {
            let mut mesh = Mesh::of(3, config.clone());
            mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
            mesh.run(MS(2_500));
            mesh.nodes.get_mut(&node(victim)).unwrap().frozen = true;
            let others: Vec<&str> = ["n1", "n2", "n3"].into_iter().filter(|name| *name != victim).collect();
            let took = mesh.until(limit, "dead everywhere", |mesh| {
                others.iter().all(|at| mesh.state(at, victim) == Some(MemberState::Dead))
            });
            mesh.run(MS(10_000));
            assert!(mesh.is_complete(), "{victim} after {took:?}\n{}", mesh.show());
            assert!(!went_dead(mesh.events(others[0]), others[1]), "nobody else is ever dead");
        }
    };
    check(SwimConfig::lan(), MS(10_000));
    check(SwimConfig::fast(), MS(3_000));
}

#[test]
fn a_crash_with_closed_connections_is_dead_everywhere_too() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(5_000));
    mesh.kill("n3");
    mesh.until(MS(10_000), "dead everywhere", |mesh| {
        ["n1", "n2"].iter().all(|at| mesh.state(at, "n3") == Some(MemberState::Dead))
    });
}

#[test]
fn one_of_two_may_die_and_the_other_goes_on() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1000), "a pair", Mesh::is_complete);
    mesh.run(MS(5_000));
    mesh.nodes.get_mut(&node("n1")).unwrap().frozen = true;
    mesh.until(MS(10_000), "dead", |mesh| mesh.state("n2", "n1") == Some(MemberState::Dead));
}

/// SWIM 4.2: a pause shorter than the suspicion is answered, not buried.
#[test]
fn a_paused_member_refutes() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(3_000));
    let before = mesh.life("n3");
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = true;
    mesh.until(MS(6_000), "a suspicion", |mesh| mesh.state("n1", "n3") == Some(MemberState::Suspect));
    mesh.run(MS(500));
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = false;
    let took = mesh.until(MS(3_000), "alive again", Mesh::is_complete);
    assert!(mesh.life("n3") > before, "{took:?}");
    assert!(mesh.nodes[&node("n3")].swim.stats().refutations >= 1);
    for at in ["n1", "n2"] {
        assert!(!went_dead(mesh.events(at), "n3"));
    }
    for at in ["n1", "n2"] {
        assert!(!went_dead(mesh.events("n3"), at), "our own pause is nobody else's death");
    }
}

/// Since when two members are connected, as the first one sees it.
fn linked_since(mesh: &Mesh, at: &str, with: &str) -> Option<Instant> {
    mesh.nodes[&node(at)].swim.links.get(&node(with)).map(|link| link.since)
}

#[test]
fn a_member_that_stands_still_keeps_its_connections_until_it_is_dead() {
    let mut mesh = Mesh::of(5, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(3_000));
    let peers = ["n1", "n2", "n4", "n5"];
    let before: Vec<_> = peers.iter().map(|at| linked_since(&mesh, at, "n3")).collect();
    for _ in 0..6 {
        mesh.nodes.get_mut(&node("n3")).unwrap().frozen = true;
        mesh.run(MS(4_000));
        mesh.nodes.get_mut(&node("n3")).unwrap().frozen = false;
        mesh.run(MS(4_000));
    }
    let failed: u64 = peers.iter().map(|at| mesh.nodes[&node(at)].swim.stats().probes_failed).sum();
    assert!(failed >= 12, "each connection owed three acks, {failed}");
    assert_eq!(peers.iter().map(|at| linked_since(&mesh, at, "n3")).collect::<Vec<_>>(), before);
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = true;
    mesh.until(MS(20_000), "the death everywhere", |mesh| {
        peers.iter().all(|at| mesh.state(at, "n3") == Some(MemberState::Dead))
    });
    assert!(peers.iter().all(|at| linked_since(&mesh, at, "n3").is_none()), "calls to the dead are not in the way");
}

#[test]
fn a_silent_connection_is_replaced_while_others_reach_the_member() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(3_000));
    let before = linked_since(&mesh, "n1", "n2");
    mesh.cut.insert(pair(&node("n1"), &node("n2")));
    mesh.until(MS(20_000), "given up", |mesh| linked_since(mesh, "n1", "n2").is_none());
    mesh.cut.clear();
    mesh.until(MS(15_000), "a fresh one", |mesh| linked_since(mesh, "n1", "n2") > before);
    assert_eq!(mesh.state("n1", "n2"), Some(MemberState::Alive));
}

/// Scenario S6.
#[test]
fn one_broken_edge_kills_nobody() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.cut.insert(pair(&node("n1"), &node("n2")));
    mesh.run(MS(60_000));
    for (at, of) in [("n1", "n2"), ("n2", "n1"), ("n3", "n1"), ("n4", "n2")] {
        assert_eq!(mesh.state(at, of), Some(MemberState::Alive), "{of} at {at}\n{}", mesh.show());
        assert!(!went_dead(mesh.events(at), of));
    }
    assert!(mesh.nodes[&node("n1")].swim.stats().probes_acked_indirectly > 0, "the fault took place");
}

#[test]
fn a_leave_is_seen_at_once() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.command("n3", Command::Put(services(&["web"])));
    mesh.run(MS(500));
    mesh.command("n3", Command::Leave);
    let took = mesh.until(MS(1000), "left everywhere", |mesh| {
        ["n1", "n2"].iter().all(|at| mesh.state(at, "n3") == Some(MemberState::Left))
    });
    assert!(took <= MS(20), "{took:?}");
    mesh.run(MS(100));
    let done = |event: &Event| matches!(event, Event::LeaveFinished { acknowledged: 2 });
    assert!(mesh.events("n3").iter().any(done), "{:?}", mesh.events("n3"));
    assert!(mesh.events("n1").contains(&Event::OwnerDropped(node("n3"))));
    assert_eq!(mesh.nodes[&node("n3")].swim.poll_timeout(), None);
    mesh.run(MS(30_000));
    for at in ["n1", "n2"] {
        assert_eq!(mesh.state(at, "n3"), Some(MemberState::Left));
        assert!(!went_dead(mesh.events(at), "n3"));
    }
}

#[test]
fn a_restart_with_a_higher_epoch_takes_over_without_a_death() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.command("n3", Command::Put(services(&["old-1", "old-2"])));
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(2_000));
    mesh.restart("n3", 11, &["n1"]);
    mesh.command("n3", Command::Put(services(&["new"])));
    let took = mesh.until(MS(1_000), "the new life everywhere", |mesh| {
        ["n1", "n2"].iter().all(|at| mesh.services(at, "n3") == Some(1)) && mesh.is_complete()
    });
    mesh.run(MS(30_000));
    for at in ["n1", "n2"] {
        assert!(!went_dead(mesh.events(at), "n3"), "{took:?}");
        assert_eq!(mesh.state(at, "n3"), Some(MemberState::Alive));
    }
}

/// Scenario S11 and S21: the disk is lost and the clock is behind.
#[test]
fn a_restart_with_a_lower_epoch_raises_its_own() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.command("n3", Command::Put(services(&["old-1", "old-2"])));
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.kill("n3");
    mesh.start_with("n3", 3, Vec::new(), &["n1"]);
    mesh.until(MS(2_000), "a life above the old one", |mesh| mesh.life("n3").epoch > BootEpoch(10));
    assert_eq!(mesh.nodes[&node("n3")].epoch, mesh.life("n3").epoch, "and it is kept");
    mesh.until(MS(10_000), "old records withdrawn", |mesh| {
        ["n1", "n2"].iter().all(|at| mesh.services(at, "n3") == Some(0))
    });
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    assert!(!mesh.events("n1").iter().any(|event| matches!(event, Event::Alarm(_))));
}

#[test]
fn a_snapshot_brings_back_the_alive_and_the_failed() {
    let mut mesh = Mesh::of(3, SwimConfig::fast());
    mesh.command("n2", Command::Put(services(&["web"])));
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.kill("n3");
    mesh.until(MS(6_000), "dead", |mesh| mesh.state("n1", "n3") == Some(MemberState::Dead));
    let store = mesh.kill("n1");
    mesh.start_with("n1", 11, store, &[]);
    assert_eq!(mesh.state("n1", "n3"), Some(MemberState::Dead));
    assert_eq!(mesh.services("n1", "n2"), Some(1), "served before anybody answers");
    mesh.until(MS(2_000), "linked again without any seed", Mesh::is_complete);
    assert_eq!(mesh.state("n2", "n1"), Some(MemberState::Alive));
}

/// Scenario S7, in small.
#[test]
fn a_split_heals() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    for a in ["n1", "n2"] {
        for b in ["n3", "n4"] {
            mesh.cut.insert(pair(&node(a), &node(b)));
        }
    }
    mesh.until(MS(60_000), "both sides alone", |mesh| {
        mesh.state("n1", "n3") == Some(MemberState::Dead) && mesh.state("n4", "n2") == Some(MemberState::Dead)
    });
    mesh.run(MS(60_000));
    mesh.command("n1", Command::Put(services(&["while-split"])));
    mesh.cut.clear();
    let took = mesh.until(MS(60_000), "one mesh", Mesh::is_complete);
    assert_eq!(mesh.services("n4", "n1"), Some(1), "{took:?}");
}

#[test]
fn lost_datagrams_cost_time_and_no_state() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.lose = 3;
    mesh.until(MS(20_000), "a complete mesh", Mesh::is_complete);
    for at in 0..10 {
        let name = format!("web-{at}");
        mesh.command("n2", Command::Put(services(&[&name])));
        mesh.run(MS(300));
    }
    mesh.until(MS(20_000), "the last record everywhere", Mesh::is_complete);
    mesh.run(MS(60_000));
    for at in ["n1", "n2", "n3", "n4"] {
        for of in ["n1", "n2", "n3", "n4"] {
            assert!(!went_dead(mesh.events(at), of), "{of} at {at}");
        }
    }
}

#[test]
fn forged_words_change_nothing() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.forged.insert(node("n2"));
    mesh.command("n2", Command::Put(services(&["evil"])));
    mesh.command("n2", Command::Leave);
    mesh.run(MS(200));
    assert_eq!(mesh.services("n1", "n2"), None);
    assert_eq!(mesh.state("n1", "n2"), Some(MemberState::Alive), "a forged leave is no leave");
    assert!(mesh.nodes[&node("n1")].swim.stats().dropped(crate::stats::Drop::Refused) >= 2);
}

#[test]
fn another_mesh_and_garbage_are_refused_and_counted() {
    let mut mesh = Mesh::of(1, SwimConfig::lan());
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    let frame = crate::wire::frame(crate::wire::Envelope::Datagram, b"another!", &[]);
    assert_eq!(swim.handle_datagram(&node("x"), &frame, now), Err(Rejected::OtherMesh));
    assert!(matches!(swim.handle_datagram(&node("x"), b"garbage", now), Err(Rejected::Malformed(_))));
    assert!(matches!(swim.handle_sync(&node("x"), ExchangeId(5), b"garbage", now), Err(Rejected::Malformed(_))));
    assert_eq!(swim.handle_datagram(&node("n1"), &frame, now), Err(Rejected::OwnName));
    let empty = crate::wire::frame(crate::wire::Envelope::Sync, &MESH_HEAD, &[]);
    assert_eq!(swim.handle_sync(&node("x"), ExchangeId(5), &empty, now), Err(Rejected::StrayFrame));
    assert_eq!(swim.stats().rejected["malformed"], 2);
    assert_eq!(swim.stats().rejected["other_mesh"], 1);
}

/// Scenario S29.
#[test]
fn the_same_history_gives_the_same_bytes() {
    let history = || {
        let mut mesh = Mesh::of(5, SwimConfig::lan());
        mesh.lose = 7;
        mesh.run(MS(5_000));
        mesh.command("n2", Command::Put(services(&["web"])));
        mesh.nodes.get_mut(&node("n4")).unwrap().frozen = true;
        mesh.run(MS(20_000));
        mesh.trace
    };
    let (a, b) = (history(), history());
    assert!(a.len() > 100);
    assert_eq!(a, b);
}

#[test]
fn a_mesh_at_rest_is_quiet() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(2_000));
    let before = mesh.trace.len();
    mesh.run(MS(60_000));
    // One ping and one ack per node and second.
    let sent = mesh.trace.len() - before;
    assert!((300..=400).contains(&sent), "{sent} datagrams in a minute");
}

#[test]
fn twelve_members_survive_the_loss_of_two() {
    let mut mesh = Mesh::of(12, SwimConfig::lan());
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(5_000));
    for victim in ["n4", "n9"] {
        mesh.nodes.get_mut(&node(victim)).unwrap().frozen = true;
    }
    let took = mesh.until(MS(25_000), "dead everywhere", |mesh| {
        mesh.nodes
            .iter()
            .filter(|(_, entry)| !entry.frozen)
            .all(|(at, _)| ["n4", "n9"].iter().all(|of| mesh.state(at.as_str(), of) == Some(MemberState::Dead)))
    });
    assert!(took < MS(20_000), "{took:?}");
    for at in mesh.nodes.keys() {
        for of in mesh.nodes.keys().filter(|of| !["n4", "n9"].contains(&of.as_str())) {
            assert!(!went_dead(mesh.events(at.as_str()), of.as_str()) || ["n4", "n9"].contains(&at.as_str()));
        }
    }
}

#[test]
fn unknown_kinds_are_kept_and_handed_on_byte_for_byte() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    let statement = mesh.nodes[&node("n2")].swim.credential;
    let head = crate::wire::RecordHead {
        owner: node("n2"),
        kind: RecordKind::Unknown(77),
        shard: 0,
        version: starling_model::RecordVersion { epoch: BootEpoch(10), version: 1 },
        schema: 9,
        ttl_s: 0,
        statement,
    };
    let bytes: Bytes = [&head.to_bytes(b"of a newer release").unwrap()[..], &[3; 64]].concat().into();
    let message = crate::wire::message(&crate::wire::Message::Record(bytes.clone())).unwrap();
    let frame = crate::wire::frame(crate::wire::Envelope::Datagram, &MESH_HEAD, &[message]);
    let now = mesh.now;
    mesh.nodes.get_mut(&node("n1")).unwrap().swim.handle_datagram(&node("n2"), &frame, now).unwrap();
    mesh.turn(&node("n1"));
    mesh.run(MS(100));
    let held = mesh.nodes[&node("n3")].swim.records.get(&node("n2"), RecordKind::Unknown(77), 0).unwrap();
    assert_eq!(held.bytes, bytes);
}

#[test]
fn new_addresses_are_a_new_life() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1_000), "a complete mesh", Mesh::is_complete);
    let before = mesh.life("n2");
    let addresses: Vec<SocketAddr> = vec![address(&node("n2")), "127.9.9.9:7740".parse().unwrap()];
    mesh.command("n2", Command::SetAddresses(addresses.clone()));
    mesh.command("n2", Command::SetAddresses(addresses.clone()));
    mesh.run(MS(200));
    assert_eq!(mesh.life("n2"), before.next().unwrap());
    let seen = mesh.nodes[&node("n3")].swim.members().find(|member| member.name == node("n2")).unwrap();
    assert_eq!(seen.addresses, addresses);
}

#[test]
fn tombstones_go_and_take_everything_with_them() {
    let config = SwimConfig { dead_retention: MS(20_000), left_retention: MS(10_000), ..SwimConfig::fast() };
    let mut mesh = Mesh::of(4, config);
    mesh.command("n3", Command::Put(services(&["web"])));
    mesh.until(MS(1_000), "a complete mesh", Mesh::is_complete);
    mesh.command("n4", Command::Leave);
    mesh.run(MS(100));
    mesh.kill("n3");
    mesh.kill("n4");
    mesh.until(MS(10_000), "dead", |mesh| mesh.state("n1", "n3") == Some(MemberState::Dead));
    assert_eq!(mesh.services("n1", "n3"), Some(1), "routes of the dead stay until they are forgotten");
    mesh.run(MS(30_000));
    assert_eq!((mesh.state("n1", "n3"), mesh.state("n1", "n4")), (None, None));
    let events = mesh.events("n1");
    for gone in ["n3", "n4"] {
        assert!(events.contains(&Event::MemberForgotten(node(gone))), "{gone}");
    }
    assert!(events.contains(&Event::OwnerDropped(node("n3"))));
    let n1 = &mesh.nodes[&node("n1")];
    assert!(n1.store.contains_key("a n3") && !n1.store.contains_key("m n3"), "{:?}", n1.store.keys());
    assert!(mesh.is_complete(), "{}", mesh.show());
    // Nobody who still remembers brings it back.
    mesh.run(MS(60_000));
    assert_eq!(mesh.state("n2", "n3"), None);
}

/// Scenario S9: one of twelve is cut off; it keeps its routes, and the others lose only it.
#[test]
fn who_is_cut_off_holds_its_verdicts() {
    let mut mesh = Mesh::of(12, SwimConfig::lan());
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    for other in mesh.nodes.keys().filter(|name| **name != node("n5")).cloned().collect::<Vec<_>>() {
        mesh.cut.insert(pair(&node("n5"), &other));
    }
    mesh.until(MS(60_000), "dead to the others", |mesh| {
        mesh.nodes
            .keys()
            .filter(|at| **at != node("n5"))
            .all(|at| mesh.state(at.as_str(), "n5") == Some(MemberState::Dead))
    });
    mesh.run(MS(60_000));
    let n5 = &mesh.nodes[&node("n5")].swim;
    assert!(n5.is_isolated(), "{}", mesh.show());
    let dead = n5.members().filter(|member| member.state == MemberState::Dead).count();
    assert!(dead <= 3, "{dead}");
    mesh.cut.clear();
    mesh.until(MS(60_000), "one mesh", Mesh::is_complete);
    assert!(!mesh.nodes[&node("n5")].swim.is_isolated());
}

#[test]
fn forty_members_form_one_mesh_over_their_rings() {
    let mut mesh = Mesh::of(40, SwimConfig::lan());
    let took = mesh.until(MS(20_000), "a complete mesh", Mesh::is_complete);
    mesh.command("n17", Command::Put(services(&["web"])));
    mesh.until(MS(2_000), "the record everywhere", |mesh| {
        mesh.nodes.keys().all(|at| *at == node("n17") || mesh.services(at.as_str(), "n17") == Some(1))
    });
    mesh.nodes.get_mut(&node("n23")).unwrap().frozen = true;
    mesh.until(MS(40_000), "dead everywhere", |mesh| {
        mesh.nodes.keys().all(|at| *at == node("n23") || mesh.state(at.as_str(), "n23") == Some(MemberState::Dead))
    });
    mesh.run(MS(5_000));
    assert!(mesh.is_complete(), "formed in {took:?}\n{}", mesh.show());
}

/// Every preset finds a crash among five within its own bounds, and buries nobody else.
#[test]
fn every_preset_finds_a_crash() {
    let check = |config: SwimConfig, limit: Duration| {
        let mut mesh = Mesh::of(5, config);
        mesh.until(MS(10_000), "a complete mesh", Mesh::is_complete);
        mesh.run(MS(10_000));
        mesh.nodes.get_mut(&node("n2")).unwrap().frozen = true;
        mesh.until(limit, "dead everywhere", |mesh| {
            ["n1", "n3", "n4", "n5"].iter().all(|at| mesh.state(at, "n2") == Some(MemberState::Dead))
        });
        mesh.run(MS(1_000));
        assert!(mesh.is_complete(), "{}", mesh.show());
    };
    check(SwimConfig::lan(), MS(15_000));
    check(SwimConfig::fast(), MS(5_000));
    check(SwimConfig::local(), MS(12_000));
    check(SwimConfig::wan(), MS(120_000));
    check(SwimConfig::memberlist(), MS(20_000));
    check(SwimConfig::paper(), MS(30_000));
    check(SwimConfig::swim(), MS(10_000));
}
