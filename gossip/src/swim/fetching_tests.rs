//! What is announced is fetched once, from the next one when the first stays silent; comparisons that acks advise follow
//! their worth.

use bytes::Bytes;
use starling_model::{BootEpoch, Life, MemberState};

use super::Swim;
use super::hostile_tests::{datagram, frame, machine};
use super::spread::BUSY_UPDATES;
use super::sync::ADVICE_PAUSE_MIN;
use super::test_mesh::{MS, Mesh};
use crate::action::{Action, ConnectionChange, DownReason, ExchangeId};
use crate::anti_entropy::{Listing, Purpose};
use crate::broadcasts::{Broadcasts, Class, Parcel, Subject};
use crate::config::SwimConfig;
use crate::fetches::FETCH_PATIENCE;
use crate::limits::{FETCHES_PER_PEER_MAX, FORWARD_TO_ALL_MAX};
use crate::testing::{base, node};
use crate::wire::{self, Envelope, Frame, MemberDigest, Message, SignedLife, Want};

/// What the machine asks for on streams: of whom, on which, and what.
fn asked(swim: &mut Swim) -> Vec<(String, ExchangeId, Vec<Want>)> {
    let mut all = Vec::new();
    while let Some(action) = swim.poll_action() {
        let Action::SendSync { to, exchange, frame, .. } = action else { continue };
        let Ok(Frame::Ours(messages, _)) = wire::read_frame(Envelope::Sync, &swim.mesh, &frame) else { continue };
        for message in messages {
            if let Message::Want(list) = message {
                all.push((to.to_string(), exchange, list));
            }
        }
    }
    all
}

fn digest(name: &str) -> MemberDigest {
    let (life, proof) = (Life::first(BootEpoch(1)), crate::hash::head(&[name.as_bytes()]));
    MemberDigest { name: node(name), life, state: MemberState::Alive, proof, credential: 0 }
}

fn announce(swim: &mut Swim, from: &str, names: &[&str]) {
    let list = names.iter().map(|name| digest(name)).collect();
    swim.handle_datagram(&node(from), &datagram(&Message::Members(list)), base()).unwrap();
}

fn members(names: &[&str]) -> Vec<Want> {
    names.iter().map(|name| Want::Member(node(name))).collect()
}

#[test]
fn all_that_a_turn_lacks_of_a_peer_is_asked_on_one_stream_and_of_nobody_else() {
    let mut swim = machine();
    announce(&mut swim, "p1", &["a", "b"]);
    announce(&mut swim, "p1", &["b", "c"]);
    announce(&mut swim, "p2", &["a", "d"]);
    announce(&mut swim, "p1", &["me"]);
    swim.handle_timeout(base());
    let questions: Vec<_> = asked(&mut swim).into_iter().map(|(to, _, list)| (to, list)).collect();
    assert_eq!(questions, [("p1".to_owned(), members(&["a", "b", "c"])), ("p2".to_owned(), members(&["d"]))]);
}

#[test]
fn who_announces_and_stays_silent_or_goes_is_replaced() {
    let mut swim = machine();
    announce(&mut swim, "p1", &["a"]);
    announce(&mut swim, "p2", &["a"]);
    swim.handle_timeout(base());
    assert_eq!(asked(&mut swim).len(), 1);
    swim.handle_timeout(base() + FETCH_PATIENCE / 2);
    assert_eq!(asked(&mut swim).len(), 0);
    swim.handle_timeout(base() + FETCH_PATIENCE);
    let (to, _, list) = asked(&mut swim).remove(0);
    assert_eq!((to.as_str(), list), ("p2", members(&["a"])));

    let mut swim = machine();
    announce(&mut swim, "p2", &["b"]);
    announce(&mut swim, "p1", &["b"]);
    swim.handle_timeout(base());
    assert_eq!(asked(&mut swim)[0].0, "p2");
    let down = ConnectionChange::Down { reason: DownReason::Evicted };
    swim.handle_connection(&node("p2"), down, base());
    let (to, _, list) = asked(&mut swim).remove(0);
    assert_eq!((to.as_str(), list), ("p1", members(&["b"])));
}

/// A life whose credential nobody brought is not lost: whoever tells it again is asked.
#[test]
fn a_credential_is_asked_of_the_next_who_tells_the_life() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1_000), "a pair", Mesh::is_complete);
    let life = mesh.nodes[&node("n1")].swim.members.get(&node("n2")).unwrap().announced().signed();
    let mut swim = machine();
    for from in ["p1", "p2"] {
        swim.handle_datagram(&node(from), &datagram(&Message::Life(life.clone())), base()).unwrap();
    }
    swim.handle_timeout(base());
    let (to, exchange, list) = asked(&mut swim).remove(0);
    assert!(to == "p1" && matches!(&list[..], [Want::Credential(owner, _)] if *owner == node("n2")), "{to} {list:?}");
    // It has no such thing, or not any more.
    swim.handle_sync(&node("p1"), exchange, &frame(Envelope::Sync, &Message::Done), base()).unwrap();
    swim.handle_timeout(base() + FETCH_PATIENCE);
    assert_eq!(asked(&mut swim)[0].0, "p2");
}

#[test]
fn a_flood_of_announced_members_is_asked_for_within_bounds() {
    let mut swim = machine();
    for at in 0..FETCHES_PER_PEER_MAX + 50 {
        announce(&mut swim, "p1", &[&format!("x{at}")]);
    }
    swim.handle_timeout(base());
    let wants: usize = asked(&mut swim).iter().map(|(_, _, list)| list.len()).sum();
    assert_eq!(wants, FETCHES_PER_PEER_MAX);
}

/// Single changes travel whole, and so are known one way after they happened; of many at a time only the news does.
#[test]
fn lives_are_announced_while_much_is_told() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    let life = swim.members.get(&node("n3")).unwrap().announced().signed();
    let told = |swim: &mut Swim| {
        swim.spread(Subject::Life(node("n3")), Class::Life, &Message::Life(life.clone()), None, now);
        swim.broadcasts.pick(&node("n2"), Broadcasts::flush_room())
    };
    let whole = Parcel::Datagram(wire::message(&Message::Life(life.clone())).unwrap());
    assert!(told(swim).contains(&whole));
    for at in 0..=BUSY_UPDATES {
        let subject = Subject::Doubt(node(&format!("x{at}")));
        swim.broadcasts.push(subject, Class::Record, Parcel::Datagram(Bytes::from_static(&[113, 0, 0])), None);
    }
    let digest = swim.members.get(&node("n3")).unwrap().digest(&node("n3"));
    let news = Parcel::Datagram(wire::message(&Message::Members(vec![digest])).unwrap());
    assert!(told(swim).contains(&whole), "in a small mesh all goes to all anyway");
    let other = swim.members.get(&node("n2")).unwrap().clone();
    for at in 0..FORWARD_TO_ALL_MAX {
        swim.members.insert(node(&format!("x{at}")), other.clone());
    }
    let parcels = told(swim);
    assert!(parcels.contains(&news) && !parcels.contains(&whole));
}

/// Two that stay apart compare ever less often; a comparison that was worth it is followed by the next one soon.
#[test]
fn advice_is_followed_as_often_as_it_is_worth_it() {
    let mut swim = machine();
    let longest = SwimConfig::lan().anti_entropy_among(1) / 4;
    let mut pauses = Vec::new();
    for _ in 0..6 {
        swim.learn_from(false);
        pauses.push(swim.advice.pause);
    }
    assert!(pauses.is_sorted() && pauses[0] == ADVICE_PAUSE_MIN * 2, "{pauses:?}");
    assert_eq!(pauses.last(), Some(&longest));
    swim.learn_from(true);
    assert_eq!(swim.advice.pause, ADVICE_PAUSE_MIN);
}

/// What a peer sends though we hold it, or cannot take it, is no reason to compare again soon.
#[test]
fn a_comparison_is_worth_what_it_brings_to_us() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    let (now, peer) = (mesh.now, node("n2"));
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    let known = swim.members.get(&node("n3")).unwrap().announced().signed();
    let news = SignedLife { signature: [9; 64], ..known.clone() };
    let mut pause_after = |life| {
        let exchange = swim.open_exchange(&peer, Purpose::Sync(Listing::default()), now);
        swim.handle_sync(&peer, exchange, &frame(Envelope::Sync, &Message::Life(life)), now).unwrap();
        swim.handle_sync(&peer, exchange, &frame(Envelope::Sync, &Message::Done), now).unwrap();
        swim.advice.pause
    };
    assert_eq!(pause_after(known), ADVICE_PAUSE_MIN * 2);
    assert_eq!(pause_after(news), ADVICE_PAUSE_MIN);
}
