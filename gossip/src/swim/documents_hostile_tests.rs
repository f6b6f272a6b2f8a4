//! What a member may do about operators' words that lies, floods or repeats: it changes nothing and fills nothing.

use std::time::Duration;

use bytes::Bytes;

use super::Swim;
use super::hostile_tests::{datagram, frame, machine};
use super::test_mesh::{MESH_HEAD, MS, Mesh};
use crate::action::{
    Action, Alarm, Command, Event, ExchangeId, OperatorClaim, Roots, SignedClaim, SubmitId, Ticket, Verdict, Void,
};
use crate::anti_entropy::LISTING_MAX;
use crate::config::SwimConfig;
use crate::documents::SignedDocument;
use crate::limits::{
    DIGEST_ITEMS_MAX, FETCHES_PER_PEER_MAX, REFUSED_MAX, SYNC_FRAME_BYTES_MAX, WAITING_BYTES_PER_PEER_MAX,
    WANT_ITEMS_MAX,
};
use crate::stats::Drop;
use crate::testing::{base, document, document_by, node, revocation};
use crate::wire::{self, Envelope, Message, SignedDigest};

const IN: fn(u64) -> ExchangeId = |at| ExchangeId(ExchangeId::INBOUND | at);

fn word(envelope: &Bytes) -> SignedDocument {
    SignedDocument::read(envelope).unwrap()
}

fn open() -> Message {
    Message::SyncOpen { roots: Roots::default() }
}

fn sync(messages: &[Message]) -> Bytes {
    let encoded: Vec<Bytes> = messages.iter().map(|one| wire::message(one).unwrap()).collect();
    wire::frame(Envelope::Sync, &MESH_HEAD, &encoded)
}

/// What the machine asks verdicts for, in the order of its questions.
fn questions(swim: &mut Swim) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    while let Some(action) = swim.poll_action() {
        if let Action::Verify { ticket, claim: SignedClaim::Operator { .. } } = action {
            tickets.push(ticket);
        }
    }
    tickets
}

/// Our question for a document goes out on a stream; its id.
fn fetched(swim: &mut Swim, peer: &str) -> Vec<ExchangeId> {
    let mut ids = Vec::new();
    while let Some(action) = swim.poll_action() {
        if let Action::SendSync { to, exchange, .. } = action
            && to == node(peer)
        {
            ids.push(exchange);
        }
    }
    ids
}

#[test]
fn documents_that_nobody_asked_for_are_dropped_unjudged() {
    let mut swim = machine();
    let message = Message::Document(document("a", 1, None));
    let from = node("p1");
    swim.handle_datagram(&from, &datagram(&message), base()).unwrap();
    swim.handle_sync(&from, IN(1), &frame(Envelope::Sync, &message), base()).unwrap();
    assert_eq!((questions(&mut swim).len(), swim.stats().dropped(Drop::StrayFrame)), (0, 2));
    // Asked for one, given another.
    let have = Message::HaveDocument(word(&document("a", 1, None)).digest());
    swim.handle_datagram(&from, &datagram(&have), base()).unwrap();
    let asked = fetched(&mut swim, "p1");
    assert_eq!(asked.len(), 1);
    let other = Message::Document(document("b", 1, None));
    swim.handle_sync(&from, asked[0], &frame(Envelope::Sync, &other), base()).unwrap();
    assert_eq!((questions(&mut swim).len(), swim.stats().dropped(Drop::UnaskedAnswer)), (0, 1));
    swim.handle_sync(&from, asked[0], &frame(Envelope::Sync, &message), base()).unwrap();
    assert_eq!(questions(&mut swim).len(), 1);
}

/// A peer that brings one forged document after another is told of once a minute for each reason.
#[test]
fn words_refused_from_a_peer_are_told_with_its_name_once_a_minute() {
    let mut swim = machine();
    let tell = |swim: &mut Swim, peer: &str, generation: u64, after: u64| {
        let (from, now) = (node(peer), base() + Duration::from_secs(after));
        swim.handle_timeout(now);
        let forged = [open(), Message::Document(document("a", generation, None))];
        swim.handle_sync(&from, IN(generation), &sync(&forged), now).unwrap();
        for ticket in questions(swim) {
            swim.handle_verdict(ticket, Verdict::Void(Void::Role), now);
        }
        let mut told = Vec::new();
        while let Some(action) = swim.poll_action() {
            if let Action::Emit(Event::Alarm(alarm)) = action {
                told.push(alarm);
            }
        }
        told
    };
    let alarm = |peer: &str| Alarm::WordRefused { from: node(peer), kind: OperatorClaim::Document, why: Void::Role };
    assert_eq!(tell(&mut swim, "p1", 1, 0), [alarm("p1")]);
    assert_eq!(alarm("p1").code(), Some(starling_model::codes::ROLE_MISSING));
    assert_eq!(tell(&mut swim, "p1", 2, 1), []);
    assert_eq!(tell(&mut swim, "p2", 3, 2), [alarm("p2")]);
    assert_eq!(tell(&mut swim, "p1", 4, 61), [alarm("p1")]);
}

#[test]
fn forged_words_are_counted_by_reason_and_not_fetched_again() {
    let mut swim = machine();
    let from = node("p1");
    swim.handle_sync(&from, IN(1), &sync(&[open()]), base()).unwrap();
    let roots = swim.roots();
    for (at, void) in [(1, Void::UnknownKey), (2, Void::Role), (3, Void::BadSignature)] {
        let forged = [Message::Document(document("a", at, None)), Message::Revocation(revocation("x", at, &[]))];
        swim.handle_sync(&from, IN(1), &sync(&forged), base()).unwrap();
        let asked = questions(&mut swim);
        assert_eq!(asked.len(), 2);
        asked.into_iter().for_each(|ticket| swim.handle_verdict(ticket, Verdict::Void(void), base()));
    }
    assert_eq!((swim.roots(), swim.documents().count(), swim.revocations().count()), (roots, 0, 0));
    for why in [Drop::UnknownSigner, Drop::SignerRole, Drop::BadOperatorSignature] {
        assert_eq!(swim.stats().dropped(why), 2, "{why:?}");
    }
    let have = Message::HaveDocument(word(&document("a", 1, None)).digest());
    swim.handle_datagram(&from, &datagram(&have), base()).unwrap();
    assert!(fetched(&mut swim, "p1").is_empty());
    let again = [Message::Document(document("a", 1, None)), Message::Revocation(revocation("x", 1, &[]))];
    swim.handle_sync(&from, IN(1), &sync(&again), base()).unwrap();
    assert!(questions(&mut swim).is_empty());
    // The bundle may know the key later on.
    swim.handle_timeout(base() + Duration::from_secs(11));
    while swim.poll_action().is_some() {}
    swim.handle_datagram(&from, &datagram(&have), base() + Duration::from_secs(11)).unwrap();
    assert_eq!(fetched(&mut swim, "p1").len(), 1);
}

#[test]
fn what_is_remembered_of_forgeries_is_bounded() {
    let mut swim = machine();
    let from = node("p1");
    swim.handle_sync(&from, IN(1), &sync(&[open()]), base()).unwrap();
    for at in 0..=REFUSED_MAX as u64 {
        let forged = Message::Revocation(revocation("x", at, &[]));
        swim.handle_sync(&from, IN(1), &sync(&[forged]), base()).unwrap();
        for ticket in questions(&mut swim) {
            swim.handle_verdict(ticket, Verdict::Void(Void::BadSignature), base());
        }
    }
    let known = |at: u64| {
        let hash = crate::trust::SignedRevocation::read(&revocation("x", at, &[])).unwrap().hash;
        swim.operators.is_refused(&hash)
    };
    assert!(known(0) && known(REFUSED_MAX as u64 - 1) && !known(REFUSED_MAX as u64));
}

/// Bodies by the thousand, whose verdicts never come.
#[test]
fn a_flood_of_bodies_takes_its_senders_share_and_no_more() {
    let mut swim = machine();
    let text = "x".repeat(60 << 10);
    swim.handle_sync(&node("p1"), IN(1), &sync(&[open()]), base()).unwrap();
    for at in 0..400 {
        let body = Message::Document(document_by(1, &format!("d{at}"), 1, None, &text));
        swim.handle_sync(&node("p1"), IN(1), &sync(&[body]), base()).unwrap();
        while swim.poll_action().is_some() {}
    }
    assert!(swim.room.bytes() <= WAITING_BYTES_PER_PEER_MAX);
    assert!(swim.stats().dropped(Drop::WaitingFull) > 200);
    swim.handle_sync(&node("p2"), IN(1), &sync(&[open()]), base()).unwrap();
    let body = Message::Document(document_by(1, "another", 1, None, &text));
    swim.handle_sync(&node("p2"), IN(1), &sync(&[body]), base()).unwrap();
    assert_eq!(questions(&mut swim).len(), 1, "the other peer has its own share");
    swim.handle_timeout(base() + Duration::from_secs(12));
    assert_eq!((swim.room.bytes(), swim.room.len()), (0, 0));
}

#[test]
fn a_flood_of_announcements_takes_few_fetches() {
    let mut swim = machine();
    let digest =
        |at: u64, hash| SignedDigest { kind: OperatorClaim::Document, in_batch: false, subject: at, number: 1, hash };
    for at in 0..5_000_u64 {
        let have = Message::HaveDocument(digest(at, crate::hash::sha256(&[&at.to_le_bytes()])));
        swim.handle_datagram(&node("p1"), &datagram(&have), base()).unwrap();
        while swim.poll_action().is_some() {}
    }
    assert!(swim.operators.fetches.len() <= FETCHES_PER_PEER_MAX);
    let have = Message::HaveDocument(word(&document("a", 1, None)).digest());
    swim.handle_datagram(&node("p2"), &datagram(&have), base()).unwrap();
    assert_eq!(fetched(&mut swim, "p2").len(), 1, "others are served");
}

/// Who announces first and then says nothing delays the document by one short wait.
#[test]
fn a_silent_announcer_is_passed_over() {
    let mut swim = machine();
    let have = Message::HaveDocument(word(&document("a", 1, None)).digest());
    for peer in ["p1", "p2"] {
        swim.handle_datagram(&node(peer), &datagram(&have), base()).unwrap();
    }
    assert!(fetched(&mut swim, "p2").is_empty());
    let (at, _) = swim.poll_timeout().unwrap();
    assert!(at <= base() + crate::fetches::FETCH_PATIENCE);
    swim.handle_timeout(base() + crate::fetches::FETCH_PATIENCE);
    assert!(!fetched(&mut swim, "p2").is_empty());
}

#[test]
fn old_words_played_again_are_stale_and_move_no_root() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1_000), "a pair", Mesh::is_complete);
    for generation in 1..=30 {
        let documents = vec![document("a", generation, None)];
        mesh.command("n1", Command::SubmitDocuments { submit: SubmitId(generation), documents });
    }
    for number in 1..=2 {
        let revocation = revocation("x", number, &[]);
        mesh.command("n1", Command::SubmitRevocation { submit: SubmitId(number), revocation });
    }
    mesh.run(MS(500));
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    let (before, stale) = (swim.roots().documents, swim.stats().dropped(Drop::Stale));
    let have = Message::HaveDocument(word(&document("a", 3, None)).digest());
    swim.handle_datagram(&node("n2"), &datagram(&have), now).unwrap();
    let played = [open(), Message::Document(document("a", 3, None)), Message::Revocation(revocation("x", 1, &[]))];
    swim.handle_sync(&node("n2"), IN(77), &sync(&played), now).unwrap();
    assert_eq!((swim.roots().documents, swim.stats().dropped(Drop::Stale)), (before, stale + 3));
}

#[test]
fn a_listing_of_words_without_end_is_cut_off() {
    let mut swim = machine();
    swim.handle_sync(&node("p1"), IN(1), &sync(&[open()]), base()).unwrap();
    let one = word(&document("a", 1, None)).digest();
    let full = sync(&[Message::Hashes(vec![one; DIGEST_ITEMS_MAX])]);
    for _ in 0..LISTING_MAX / DIGEST_ITEMS_MAX {
        swim.handle_sync(&node("p1"), IN(1), &full, base()).unwrap();
    }
    assert_eq!(swim.exchanges.len(), 1);
    swim.handle_sync(&node("p1"), IN(1), &full, base()).unwrap();
    assert!(swim.exchanges.is_empty());
}

/// A small frame asks for the same large document ten thousand times.
#[test]
fn what_is_asked_for_by_hash_is_not_given_without_end() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1_000), "a pair", Mesh::is_complete);
    let large = document_by(1, "a", 1, None, &"x".repeat(60 << 10));
    mesh.command("n1", Command::SubmitDocuments { submit: SubmitId(1), documents: vec![large.clone()] });
    let want = Message::WantHashes(vec![word(&large).version.hash.0; WANT_ITEMS_MAX]);
    let len = wire::message(&want).unwrap().len();
    for (exchange, opening) in [(1, None), (2, Some(open()))] {
        let mut messages: Vec<Message> = opening.into_iter().collect();
        messages.extend((0..SYNC_FRAME_BYTES_MAX / len - 2).map(|_| want.clone()));
        let now = mesh.now;
        let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
        let before = swim.stats().sent_sync_bytes;
        swim.handle_sync(&node("n2"), IN(exchange), &sync(&messages), now).unwrap();
        let given = swim.stats().sent_sync_bytes - before;
        assert!((16 << 20..17 << 20).contains(&given), "{given} bytes");
        mesh.turn(&node("n1"));
    }
}
