//! What a member may do that lies, floods or talks nonsense: it changes nothing and fills nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use starling_model::{BootEpoch, Incarnation, Life, MemberState, NodeName, RecordKind, RecordVersion, StatusRecord};

use super::Swim;
use super::test_mesh::{MESH_HEAD, MS, Mesh, local};
use crate::action::{
    Action, Command, ConnectionChange, Event, ExchangeId, OwnRecord, Roots, Signature, SignedClaim, Verdict,
};
use crate::anti_entropy::LISTING_MAX;
use crate::config::SwimConfig;
use crate::documents::SignedDocument;
use crate::limits::{
    ACTIONS_MAX, EXCHANGES_MAX, EXCHANGES_PER_PEER_MAX, INBOUND_SYNCS_MAX, RELAYS_MAX, SYNC_FRAME_BYTES_MAX,
    WAITING_ROOM_MAX, WANT_ITEMS_MAX,
};
use crate::replica::credential_hash;
use crate::stats::Drop;
use crate::testing::{base, batch, document_by, node, revocation};
use crate::wire::{self, Accusation, Envelope, MemberDigest, Message, RecordDigest, RecordHead, SignedLife, Want};

pub(super) fn frame(which: Envelope, message: &Message) -> Bytes {
    wire::frame(which, &MESH_HEAD, &[wire::message(message).unwrap()])
}

pub(super) fn datagram(message: &Message) -> Bytes {
    frame(Envelope::Datagram, message)
}

/// One member calls others dead, hundreds of times a second: it only makes work for itself.
#[test]
fn a_liar_evicts_nobody() {
    let mut mesh = Mesh::of(8, SwimConfig::lan());
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    for _ in 0..600 {
        for of in ["n2", "n3", "n4", "n5"] {
            let now = mesh.now;
            let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
            let (life, proof) = swim.members.get(&node(of)).map(|member| (member.life(), member.proof)).unwrap();
            let said = Accusation { state: MemberState::Dead, subject: node(of), life, proof, accuser: node("n8") };
            swim.handle_datagram(&node("n8"), &datagram(&Message::Accusation(said)), now).unwrap();
        }
        mesh.turn(&node("n1"));
        mesh.run(MS(10));
    }
    mesh.run(MS(10_000));
    assert!(mesh.is_complete(), "{}", mesh.show());
    for at in mesh.nodes.keys() {
        let dead = |event: &Event| matches!(event, Event::Member(view) if view.state == MemberState::Dead);
        assert!(!mesh.events(at.as_str()).iter().any(dead), "somebody died at {at}");
    }
    assert!(mesh.nodes[&node("n1")].swim.stats().dropped(Drop::AccuserCap) > 0, "the cap took effect");
}

/// An accusation cannot invent a life or push a counter to its end.
#[test]
fn an_accusation_of_an_unknown_life_raises_nothing() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1_000), "a pair", Mesh::is_complete);
    let before = mesh.life("n1");
    for life in [
        Life { epoch: BootEpoch(u64::MAX), incarnation: Incarnation(u32::MAX) },
        Life { epoch: before.epoch, incarnation: Incarnation(u32::MAX) },
        Life { epoch: before.epoch, incarnation: Incarnation(before.incarnation.0 + 1) },
    ] {
        let said = Accusation { state: MemberState::Dead, subject: node("n1"), life, proof: 1, accuser: node("n2") };
        let now = mesh.now;
        let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
        swim.handle_datagram(&node("n2"), &datagram(&Message::Accusation(said)), now).unwrap();
        mesh.turn(&node("n1"));
        mesh.run(MS(200));
    }
    assert_eq!(mesh.life("n1"), before);
}

/// Words of a member's earlier life, replayed, change nothing.
#[test]
fn replayed_words_are_stale() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1_000), "a complete mesh", Mesh::is_complete);
    let old = mesh.nodes[&node("n1")].swim.members.get(&node("n3")).unwrap().announced().signed();
    mesh.restart("n3", 11, &["n1"]);
    mesh.until(MS(2_000), "the new life", |mesh| mesh.is_complete() && mesh.life("n3").epoch == BootEpoch(11));
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    let before = swim.stats().dropped(Drop::Stale);
    swim.handle_datagram(&node("n2"), &datagram(&Message::Life(old)), now).unwrap();
    assert_eq!(swim.stats().dropped(Drop::Stale), before + 1);
    mesh.turn(&node("n1"));
    assert_eq!(mesh.nodes[&node("n1")].swim.members.get(&node("n3")).unwrap().life().epoch, BootEpoch(11));
}

/// The last value wins, and others see no more than the owner's rate.
#[test]
fn an_owner_that_writes_all_the_time_is_held_to_its_rate() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1_000), "a complete mesh", Mesh::is_complete);
    for documents in 0..2_000 {
        mesh.command("n2", Command::Put(OwnRecord::Status(StatusRecord { documents, ..StatusRecord::default() })));
        mesh.run(MS(1));
    }
    mesh.run(MS(1_000));
    let seen = mesh.events("n1").iter().filter(|event| matches!(event, Event::Status { .. })).count();
    assert!((20..=60).contains(&seen), "{seen} versions in two seconds");
    assert_eq!(mesh.nodes[&node("n1")].swim.records.status(&node("n2")).unwrap().documents, 1_999);
}

/// Records under invented names, line after line: the room stays bounded, and nothing else grows.
#[test]
fn invented_owners_hold_no_state() {
    let mut swim = machine();
    for at in 0..WAITING_ROOM_MAX + 1_000 {
        let head = RecordHead {
            owner: node(&format!("x{at}")),
            kind: RecordKind::Services,
            shard: 0,
            version: RecordVersion { epoch: BootEpoch(1), version: 1 },
            schema: 1,
            ttl_s: 0,
            statement: [4; 32],
        };
        let bytes: Bytes = [&head.to_bytes(b"").unwrap()[..], &[3; 64]].concat().into();
        swim.handle_datagram(&node("p1"), &datagram(&Message::Record(bytes)), base()).unwrap();
        while swim.poll_action().is_some() {}
    }
    check_bounds(&swim);
    assert_eq!(swim.records.len(), 0);
    assert!(swim.stats().dropped(Drop::WaitingFull) > 0);
    swim.handle_timeout(base() + Duration::from_secs(12));
    swim.handle_timeout(base() + Duration::from_secs(24));
    assert!(swim.room.is_empty(), "and it empties by itself");
}

#[test]
fn one_peer_cannot_take_all_comparisons() {
    let mut swim = machine();
    let open = frame(Envelope::Sync, &Message::SyncOpen { roots: Roots::default() });
    let inbound = |at: u64| ExchangeId(ExchangeId::INBOUND | at);
    let taken = (0..20).filter(|at| swim.handle_sync(&node("p1"), inbound(*at), &open, base()).is_ok()).count();
    assert!(taken < INBOUND_SYNCS_MAX, "{taken}");
    assert!(swim.handle_sync(&node("p2"), inbound(1), &open, base()).is_ok());
}

#[test]
fn a_listing_without_end_is_cut_off() {
    let mut swim = machine();
    let id = ExchangeId(ExchangeId::INBOUND | 1);
    swim.handle_sync(&node("p1"), id, &frame(Envelope::Sync, &Message::SyncOpen { roots: Roots::default() }), base())
        .unwrap();
    for sent in (0..=LISTING_MAX).step_by(400) {
        let list = (sent..sent + 400).map(|at| RecordDigest {
            owner: node(&format!("x{at}")),
            kind: RecordKind::Services,
            shard: 0,
            version: RecordVersion::default(),
        });
        let list = Message::Records(list.collect());
        let _ = swim.handle_sync(&node("p1"), id, &frame(Envelope::Sync, &list), base());
    }
    assert!(swim.exchanges.is_empty());
}

/// A joined machine with two linked peers that are no members yet.
/// A liar sends records under another's name, with signatures of nobody: the other's own news still passes.
#[test]
fn a_forger_does_not_spend_what_the_owner_may_write() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1_000), "a complete mesh", Mesh::is_complete);
    let at = node("n1");
    let statement = mesh.nodes[&at].swim.members.get(&node("n3")).unwrap().announced().credential();
    let epoch = mesh.life("n3").epoch;
    for version in 0..500 {
        let head = RecordHead {
            owner: node("n3"),
            kind: RecordKind::Status,
            shard: 0,
            version: RecordVersion { epoch, version: 1_000 + version },
            schema: 1,
            ttl_s: 0,
            statement,
        };
        let mut bytes = head.to_bytes(b"forged").unwrap().to_vec();
        bytes.extend_from_slice(&[0xee; 64]);
        let now = mesh.now;
        let swim = &mut mesh.nodes.get_mut(&at).unwrap().swim;
        swim.handle_datagram(&node("n2"), &datagram(&Message::Record(bytes.into())), now).unwrap();
        mesh.turn(&at);
    }
    assert!(mesh.nodes[&at].swim.stats().dropped(Drop::Refused) >= 500, "all were judged and none believed");
    assert_eq!(mesh.nodes[&at].swim.stats().dropped(Drop::OwnerRate), 0);
    assert!(mesh.nodes[&at].swim.quota.has(&node("n3"), mesh.now));
}

/// One peer claims to have records that it never gives: streams are left for comparisons with others.
#[test]
fn a_peer_that_claims_to_have_news_takes_few_streams() {
    let mut swim = machine();
    for at in 0..2 * EXCHANGES_MAX {
        let version = RecordVersion { epoch: BootEpoch(1), version: 1 };
        let claim = RecordDigest { owner: node(&format!("x{at}")), kind: RecordKind::Services, shard: 0, version };
        swim.handle_datagram(&node("p1"), &datagram(&Message::Have(claim)), base()).unwrap();
    }
    let open = |peer: &str| swim.exchanges.keys().filter(|(name, _)| *name == node(peer)).count();
    assert!(open("p1") <= EXCHANGES_PER_PEER_MAX + 2, "{} streams", open("p1"));
    assert!(swim.exchanges.len() < EXCHANGES_MAX / 2);
}

/// A small frame asks for the same large record ten thousand times.
#[test]
fn what_one_frame_asks_for_is_answered_once_and_not_without_end() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1_000), "a pair", Mesh::is_complete);
    let at = node("n1");
    let wants = vec![Want::Member(node("n1")); WANT_ITEMS_MAX];
    let want = wire::message(&Message::Want(wants)).unwrap();
    let open = wire::message(&Message::SyncOpen { roots: Roots::default() }).unwrap();
    let buckets = wire::message(&Message::Buckets(vec![7; crate::limits::BUCKETS])).unwrap();
    for (exchange, head, again) in [(0, None, &want), (1, Some(&open), &want), (2, Some(&open), &buckets)] {
        let mut messages: Vec<Bytes> = head.into_iter().cloned().collect();
        messages.extend((0..SYNC_FRAME_BYTES_MAX / again.len() - 2).map(|_| again.clone()));
        let now = mesh.now;
        let swim = &mut mesh.nodes.get_mut(&at).unwrap().swim;
        let before = swim.stats().sent_sync_bytes;
        let bytes = wire::frame(Envelope::Sync, &MESH_HEAD, &messages);
        let _ = swim.handle_sync(&node("n2"), ExchangeId(exchange | 1 << 63), &bytes, now);
        let given = swim.stats().sent_sync_bytes - before;
        assert!(given < 40 << 20, "{given} bytes for {}", bytes.len());
        mesh.turn(&at);
    }
}

pub(super) fn machine() -> Swim {
    let mut swim = Swim::new(local("me", 10, 1), SwimConfig::lan(), [1; 32], base());
    swim.handle_command(Command::Join { seeds: Vec::new() }, base());
    for peer in ["p1", "p2"] {
        let address = "127.0.0.1:1".parse().unwrap();
        swim.handle_connection(&node(peer), ConnectionChange::Up { address }, base());
    }
    while let Some(action) = swim.poll_action() {
        if let Action::Sign { ticket, .. } = action {
            swim.handle_signature(ticket, Signature([3; 64]), base());
        }
    }
    swim
}

/// A stream that one side forgets stays until a deadline of the shell, and only eight are allowed with one peer.
#[test]
fn a_comparison_that_the_peer_has_no_time_for_ends_on_both_sides() {
    let mut swim = machine();
    swim.handle_timeout(base() + MS(1_100));
    let opened = std::iter::from_fn(|| swim.poll_action()).find_map(|action| {
        let Action::SendSync { to, exchange, last: false, .. } = action else { return None };
        Some((to, exchange))
    });
    let (peer, exchange) = opened.expect("a first comparison");
    swim.handle_sync(&peer, exchange, &frame(Envelope::Sync, &Message::Busy), base() + MS(1_101)).unwrap();
    let finished = std::iter::from_fn(|| swim.poll_action())
        .any(|action| action == Action::SendSync { to: peer.clone(), exchange, frame: Bytes::new(), last: true });
    assert!(finished);
    assert!(!swim.exchanges.contains_key(&(peer, exchange)), "it is tried again later, on another stream");
}

fn check_bounds(swim: &Swim) {
    assert!(swim.room.len() <= WAITING_ROOM_MAX);
    assert!(swim.exchanges.len() <= EXCHANGES_MAX);
    assert!(swim.relays.len() <= RELAYS_MAX);
    assert!(swim.actions.len() <= ACTIONS_MAX + 64);
}

const CREDENTIAL: &[u8] = b"credential";

fn any_name() -> impl Strategy<Value = NodeName> {
    prop::sample::select(vec!["me", "p1", "p2", "m1", "m2", "m3"]).prop_map(node)
}

fn any_life() -> impl Strategy<Value = Life> {
    (prop_oneof![0..13_u64, Just(u64::MAX)], prop_oneof![0..3_u32, Just(u32::MAX)])
        .prop_map(|(epoch, incarnation)| Life { epoch: BootEpoch(epoch), incarnation: Incarnation(incarnation) })
}

fn any_word() -> impl Strategy<Value = Message> {
    (any_name(), any_life(), 0..3_u64, any::<bool>()).prop_map(|(name, life, tag, leaves)| {
        let credential = credential_hash(CREDENTIAL);
        let body = if leaves {
            wire::Leave { name, life, credential }.to_bytes()
        } else {
            let alive = wire::Alive {
                name,
                life,
                credential,
                tag,
                protocol: (1, 1),
                features: 0,
                region: String::new(),
                release: String::new(),
                addresses: vec!["127.0.0.1:1".parse().unwrap()],
            };
            alive.to_bytes()
        };
        Message::Life(SignedLife { body, signature: [3; 64] })
    })
}

fn any_record() -> impl Strategy<Value = Message> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    (any_name(), 0..6_u8, 0..3_u8, any_life(), 0..3_u64, payload).prop_map(
        |(owner, kind, shard, life, version, payload)| {
            let head = RecordHead {
                owner,
                kind: RecordKind::from_wire(kind),
                shard,
                version: RecordVersion { epoch: life.epoch, version },
                schema: 1,
                ttl_s: 0,
                statement: credential_hash(CREDENTIAL),
            };
            Message::Record([&head.to_bytes(&payload).unwrap()[..], &[3; 64]].concat().into())
        },
    )
}

/// Documents of few names in few batches, revocations of few nodes, and all that is said about them.
fn any_operators_word() -> impl Strategy<Value = Message> {
    let all = (0..3_u8, 1..4_u64, 0..4_u8, 1..12_u32, any::<bool>());
    (all, 0..5_u8).prop_map(|((name, number, id, key, kept), form)| {
        let of = if id == 0 { None } else { batch(id, u16::from(id)) };
        let document = document_by(key, &format!("d{name}"), number, of, "x");
        let digest = SignedDocument::read(&document).unwrap().digest();
        match form {
            0 => Message::Document(document),
            1 => Message::Revocation(revocation(["p2", "m1", "m2"][usize::from(name)], number, &[u8::from(kept)])),
            2 => Message::HaveDocument(digest),
            3 => Message::Hashes(vec![digest]),
            _ => Message::WantHashes(vec![digest.hash]),
        }
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let nonce = 0..4_u64;
    prop_oneof![
        3 => any_word(),
        3 => any_operators_word(),
        2 => any_record(),
        2 => any_name().prop_map(|owner| Message::Credential { owner, bytes: Bytes::from_static(CREDENTIAL) }),
        2 => (any_name(), any_life(), any_name(), any::<bool>(), 0..2_u64).prop_map(
            |(subject, life, accuser, dead, proof)| {
                let state = if dead { MemberState::Dead } else { MemberState::Suspect };
                Message::Accusation(Accusation { state, subject, life, proof, accuser })
            }
        ),
        1 => nonce.clone().prop_map(|nonce| Message::Ping { nonce }),
        1 => nonce.clone().prop_map(|nonce| Message::Ack { nonce, roots: Roots::default(), health: 255 }),
        1 => nonce.clone().prop_map(|nonce| Message::Nack { nonce }),
        1 => nonce.clone().prop_map(|nonce| Message::RelayedAck { nonce }),
        1 => (nonce, any_name(), any::<u32>())
            .prop_map(|(nonce, target, wait_ms)| Message::PingReq { nonce, target, wait_ms }),
        1 => Just(Message::SyncOpen { roots: Roots::default() }),
        1 => Just(Message::Buckets(vec![7; 256])),
        1 => (any_name(), any_life(), 1..5_usize).prop_map(|(name, life, state)| {
            let state = MemberState::ALL[state];
            Message::Members(vec![MemberDigest { name, life, state, proof: 0, credential: 0 }])
        }),
        1 => (any_name(), any_life()).prop_map(|(owner, life)| {
            let version = RecordVersion { epoch: life.epoch, version: 1 };
            Message::Records(vec![RecordDigest { owner, kind: RecordKind::Status, shard: 0, version }])
        }),
        1 => Just(Message::DigestEnd { buckets: [0xff; 32] }),
        1 => any_name().prop_map(|name| {
            Message::Want(vec![Want::Member(name.clone()), Want::Credential(name, [1; 32])])
        }),
        1 => Just(Message::LeaveAck),
        1 => Just(Message::Busy),
        1 => Just(Message::Done),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Any well-formed words, in any order, from any peer, signed by whom they say: no panic, all bounds hold, lives
    /// only rise, and we stay alive.
    #[test]
    fn no_history_breaks_the_machine(
        steps in prop::collection::vec((any_message(), any::<bool>(), any::<bool>(), 0..400_u64), 1..120)
    ) {
        let mut swim = machine();
        let mut now = base();
        let mut lives: BTreeMap<NodeName, Life> = BTreeMap::new();
        let mut own = swim.me().life;
        for (message, as_datagram, first, wait) in steps {
            now += MS(wait);
            let from = node(if first { "p1" } else { "p2" });
            let fits = wire::message(&message).unwrap().len() <= wire::DATAGRAM_MESSAGE_MAX;
            if as_datagram && fits {
                let _ = swim.handle_datagram(&from, &datagram(&message), now);
            } else {
                let frame = frame(Envelope::Sync, &message);
                let _ = swim.handle_sync(&from, ExchangeId(ExchangeId::INBOUND | (wait % 3)), &frame, now);
                let _ = swim.handle_sync(&from, ExchangeId(wait % 5), &frame, now);
            }
            swim.handle_timeout(now);
            while let Some(action) = swim.poll_action() {
                match action {
                    Action::Verify { ticket, claim: SignedClaim::Credential { .. } } => {
                        let verdict = Verdict::Credential { record_key: [1; 32], epoch: BootEpoch(0) };
                        swim.handle_verdict(ticket, verdict, now);
                    }
                    Action::Verify { ticket, .. } => swim.handle_verdict(ticket, Verdict::Valid, now),
                    Action::Sign { ticket, .. } => swim.handle_signature(ticket, Signature([3; 64]), now),
                    Action::SendDatagram { payload, .. } => {
                        prop_assert!(payload.len() <= crate::limits::DATAGRAM_BYTES_MAX);
                    }
                    Action::Emit(Event::Member(view)) => {
                        prop_assert!(view.name != node("me"));
                        let held = lives.insert(view.name.clone(), view.life);
                        prop_assert!(held.is_none_or(|held| held <= view.life), "a life fell");
                    }
                    Action::SendSync { .. }
                    | Action::Dial { .. }
                    | Action::Close { .. }
                    | Action::Persist(_)
                    | Action::Emit(_) => {}
                }
            }
            check_bounds(&swim);
            prop_assert!(swim.me().life >= own);
            own = swim.me().life;
            prop_assert_eq!(swim.me().state, MemberState::Alive);
        }
    }
}
