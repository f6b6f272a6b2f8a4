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
