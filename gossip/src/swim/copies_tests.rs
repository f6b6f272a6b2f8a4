//! What a peer repeats word for word is known at first sight: it counts as before, and nothing else passes for it.

use bytes::Bytes;

use super::Swim;
use super::hostile_tests::datagram;
use super::test_mesh::{MESH_HEAD, MS, Mesh};
use crate::action::{Action, OwnRecord, Rejected};
use crate::broadcasts::{Class, Parcel, Subject};
use crate::config::SwimConfig;
use crate::stats::Drop;
use crate::testing::node;
use crate::wire::{self, Envelope, Leave, Message, SignedLife, WireError};
use starling_model::{RecordKind, StatusRecord};

/// Three members, seen from `n1`; `n3` has a status.
fn mesh() -> Mesh {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    mesh.command("n3", crate::action::Command::Put(OwnRecord::Status(StatusRecord::default())));
    mesh.run(MS(5_000));
    mesh
}

fn swim(mesh: &mut Mesh) -> &mut Swim {
    &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim
}

fn held_life(swim: &Swim) -> SignedLife {
    swim.members.get(&node("n3")).unwrap().announced().signed()
}

/// The news that a life of `n3` with this hash exists.
fn news(swim: &Swim, proof: u64) -> Message {
    let name = node("n3");
    let digest = swim.members.get(&name).unwrap().digest(&name);
    Message::Members(vec![wire::MemberDigest { proof, ..digest }])
}

fn held_record(swim: &Swim) -> Bytes {
    swim.records.get(&node("n3"), RecordKind::Status, 0).unwrap().bytes.clone()
}

/// As if the machine were telling of it.
fn tell(swim: &mut Swim, subject: &Subject) {
    swim.broadcasts.push(subject.clone(), Class::Life, Parcel::Datagram(vec![0; 20].into()), None);
}

fn questions(swim: &mut Swim) -> usize {
    std::iter::from_fn(|| swim.poll_action()).filter(|action| matches!(action, Action::Verify { .. })).count()
}

#[test]
fn a_copy_is_a_duplicate_that_is_not_judged_again_and_its_sender_needs_no_telling() {
    let mut mesh = mesh();
    let now = mesh.now;
    let swim = swim(&mut mesh);
    let cases = [
        (Message::Life(held_life(swim)), Subject::Life(node("n3"))),
        (news(swim, held_life(swim).hash()), Subject::Life(node("n3"))),
        (Message::Record(held_record(swim)), Subject::Record(node("n3"), RecordKind::Status, 0)),
    ];
    for (message, subject) in cases {
        tell(swim, &subject);
        let before = swim.stats().dropped(Drop::Duplicate);
        swim.handle_datagram(&node("n2"), &datagram(&message), now).unwrap();
        assert_eq!(swim.stats().dropped(Drop::Duplicate), before + 1, "{subject:?}");
        assert!(swim.broadcasts.was_told(&subject, &node("n2")), "{subject:?}");
        assert_eq!(questions(swim), 0, "{subject:?}");
    }
}

#[test]
fn a_life_that_differs_in_any_byte_is_no_copy() {
    let mut mesh = mesh();
    let now = mesh.now;
    let swim = swim(&mut mesh);
    let held = wire::message(&Message::Life(held_life(swim))).unwrap();
    let before = swim.stats().dropped(Drop::Duplicate);
    for at in wire::MESSAGE_HEADER_BYTES..held.len() {
        let mut other = held.to_vec();
        other[at] ^= 1;
        let bytes = wire::frame(Envelope::Datagram, &MESH_HEAD, &[other.into()]);
        swim.handle_datagram(&node("n2"), &bytes, now).unwrap();
        assert_eq!(swim.stats().dropped(Drop::Duplicate), before, "byte {at}");
    }
    // A flipped signature is judged like any other word.
    assert!(questions(swim) >= crate::limits::SIGNATURE_BYTES);
}

#[test]
fn a_copy_beside_something_malformed_is_refused_with_it() {
    let mut mesh = mesh();
    let now = mesh.now;
    let swim = swim(&mut mesh);
    let subject = Subject::Life(node("n3"));
    tell(swim, &subject);
    let copy = wire::message(&Message::Life(held_life(swim))).unwrap();
    let before = swim.stats().dropped(Drop::Duplicate);
    let bytes = wire::frame(Envelope::Datagram, &MESH_HEAD, &[copy, Bytes::from_static(&[1, 1, 0, 7])]);
    let refused = Err(Rejected::Malformed(WireError::Truncated));
    assert_eq!(swim.handle_datagram(&node("n2"), &bytes, now), refused);
    assert_eq!(swim.stats().dropped(Drop::Duplicate), before);
    assert!(!swim.broadcasts.was_told(&subject, &node("n2")));
}

#[test]
fn a_copy_of_a_leave_and_of_our_own_word_count_as_duplicates() {
    let mut mesh = mesh();
    mesh.command("n3", crate::action::Command::Leave);
    mesh.run(MS(3_000));
    let now = mesh.now;
    let swim = swim(&mut mesh);
    let leave = swim.members.get(&node("n3")).unwrap().newest();
    assert!(matches!(wire::read_life(&leave.body), Ok(wire::LifeClaim::Leave(Leave { .. }))));
    let own = swim.own_life.clone().unwrap();
    for word in [leave, own] {
        let before = swim.stats().dropped(Drop::Duplicate);
        swim.handle_datagram(&node("n2"), &datagram(&Message::Life(word)), now).unwrap();
        assert_eq!(swim.stats().dropped(Drop::Duplicate), before + 1);
        assert_eq!(questions(swim), 0);
    }
}

/// Of what is not held the sender is asked, however much of the announcement is as we have it.
#[test]
fn an_announcement_of_another_life_is_news() {
    let mut mesh = mesh();
    let now = mesh.now;
    let swim = swim(&mut mesh);
    let Message::Members(mut list) = news(swim, held_life(swim).hash() ^ 1) else { panic!("a list") };
    list[0].life = list[0].life.next().unwrap();
    let before = swim.stats().dropped(Drop::Duplicate);
    swim.handle_datagram(&node("n2"), &datagram(&Message::Members(list)), now).unwrap();
    swim.handle_timeout(now);
    assert_eq!(swim.stats().dropped(Drop::Duplicate), before);
    let asked = std::iter::from_fn(|| swim.poll_action()).any(|action| matches!(action, Action::SendSync { .. }));
    assert!(asked, "n2 is asked for the life");
}

/// A machine without a store says and does the same, but for what it would keep.
#[test]
fn without_a_store_nothing_is_to_be_kept() {
    let asks_to_keep = |mesh: &mut Mesh, storeless: bool| {
        let (now, body) = (mesh.now, held_leave(mesh).to_bytes());
        let swim = swim(mesh);
        swim.storeless = storeless;
        let leave = Message::Life(SignedLife { body, signature: [3; 64] });
        swim.handle_datagram(&node("n3"), &datagram(&leave), now).unwrap();
        let (mut kept, mut told) = (0, 0);
        while let Some(action) = swim.poll_action() {
            match action {
                Action::Verify { ticket, .. } => swim.handle_verdict(ticket, crate::action::Verdict::Valid, now),
                Action::Persist(_) => kept += 1,
                Action::Emit(_) => told += 1,
                Action::SendDatagram { .. }
                | Action::SendSync { .. }
                | Action::Dial { .. }
                | Action::Close { .. }
                | Action::Sign { .. } => {}
            }
        }
        (kept, told)
    };
    let (kept, told) = asks_to_keep(&mut mesh(), false);
    assert!(kept > 0 && told > 0);
    assert_eq!(asks_to_keep(&mut mesh(), true), (0, told));
}

fn held_leave(mesh: &mut Mesh) -> Leave {
    let member = swim(mesh).members.get(&node("n3")).unwrap();
    Leave { name: node("n3"), life: member.life(), credential: member.announced().credential() }
}
