#![expect(clippy::arithmetic_side_effects, reason = "tests count in small numbers")]

use proptest::prelude::*;
use starling_model::BootEpoch;
use starling_model::limits::ADDRESSES_MAX;

use super::*;
use crate::bundles::BundleHead;
use crate::limits::RECORD_PAYLOAD_BYTES_MAX;
use crate::testing::{document, node, revocation};

const MESH: [u8; 8] = *b"meshhead";

fn sample_life() -> Life {
    life(7, 3)
}

fn sample_alive() -> Alive {
    Alive {
        name: node("vm-1"),
        life: sample_life(),
        credential: [9; 32],
        tag: 42,
        protocol: (1, 2),
        features: 5,
        region: "eu".to_owned(),
        release: "0.1.0".to_owned(),
        addresses: vec!["10.0.0.1:7740".parse().unwrap(), "[fd00::1]:7740".parse().unwrap()],
    }
}

fn sample_record(kind: RecordKind, payload: &[u8]) -> Bytes {
    let version = RecordVersion { epoch: BootEpoch(7), version: 2 };
    let head = RecordHead { owner: node("vm-1"), kind, shard: 1, version, schema: 1, ttl_s: 60, statement: [8; 32] };
    [&head.to_bytes(payload).unwrap()[..], &[5; SIGNATURE_BYTES][..]].concat().into()
}

fn signed_digest() -> SignedDigest {
    SignedDigest { kind: OperatorClaim::Document, in_batch: false, subject: 0x0102, number: 3, hash: [4; 32] }
}

fn every_message() -> Vec<Message> {
    let digest = RecordDigest {
        owner: node("vm-2"),
        kind: RecordKind::Health,
        shard: 0,
        version: RecordVersion { epoch: BootEpoch(1), version: 2 },
    };
    let member =
        MemberDigest { name: node("vm-3"), life: sample_life(), state: MemberState::Dead, proof: 4, credential: 5 };
    let roots = Roots { documents: 1, state: 2 };
    vec![
        Message::Ping { nonce: 1 },
        Message::Ack { nonce: 2, roots, health: 3 },
        Message::PingReq { nonce: 3, target: node("vm-9"), wait_ms: 400 },
        Message::Nack { nonce: 4 },
        Message::RelayedAck { nonce: 5 },
        Message::Life(SignedLife { body: sample_alive().to_bytes(), signature: [1; 64] }),
        Message::Accusation(Accusation {
            state: MemberState::Suspect,
            subject: node("vm-4"),
            life: sample_life(),
            proof: 77,
            accuser: node("vm-5"),
        }),
        Message::Record(sample_record(RecordKind::Services, b"payload")),
        Message::Have(digest.clone()),
        Message::SyncOpen { roots },
        Message::Buckets((0..BUCKETS as u64).collect()),
        Message::Members(vec![member]),
        Message::Records(vec![digest]),
        Message::DigestEnd { buckets: [3; BUCKETS / 8] },
        Message::Want(vec![
            Want::Member(node("a")),
            Want::Record(node("b"), RecordKind::Unknown(77), 9),
            Want::Credential(node("c"), [6; 32]),
        ]),
        Message::Credential { owner: node("d"), bytes: Bytes::from_static(b"credential") },
        Message::LeaveAck,
        Message::Busy,
        Message::Done,
        Message::Document(document("a", 1, None)),
        Message::Revocation(revocation("vm-6", 1, &[4])),
        Message::HaveDocument(signed_digest()),
        Message::WantUpdates(Bytes::from_static(&[7; 1_000])),
        Message::Updates(Bytes::from_static(&[7; 1_200])),
        Message::Hashes(vec![
            signed_digest(),
            SignedDigest { kind: OperatorClaim::Revocation, ..signed_digest() },
            SignedDigest { in_batch: true, ..signed_digest() },
        ]),
        Message::WantHashes(vec![[1; 32], [2; 32]]),
        Message::Bundle(BundleHead { sequence: 3, hash: [5; 32] }),
    ]
}

fn sync_frame(messages: &[Message]) -> Bytes {
    let encoded: Vec<Bytes> = messages.iter().map(|one| message(one).unwrap()).collect();
    frame(Envelope::Sync, &MESH, &encoded)
}

#[test]
fn every_message_survives_the_wire() {
    let bytes = sync_frame(&every_message());
    assert_eq!(read_frame(Envelope::Sync, &MESH, &bytes), Ok(Frame::Ours(every_message(), 0)));
}

/// One way of writing yields the bytes of the other; what does not fit leaves nothing behind.
#[test]
fn a_datagram_is_written_as_its_messages_are() {
    let mut writer = DatagramWriter::default();
    for _ in 0..2 {
        writer.begin(&MESH);
        let mut body = Vec::new();
        for one in every_message() {
            let encoded = message(&one).unwrap();
            let fits = encoded.len() <= writer.room();
            assert_eq!(writer.put(&one).is_ok(), fits, "{one:?}");
            body.extend(fits.then_some(encoded));
        }
        assert!(body.len() > 10 && body.len() < every_message().len());
        writer.append(&body[0]);
        body.push(body[0].clone());
        assert_eq!(writer.finish(), frame(Envelope::Datagram, &MESH, &body));
    }
    let life = |len| Message::Life(SignedLife { body: vec![7; len].into(), signature: [1; 64] });
    writer.begin(&MESH);
    assert_eq!(writer.put(&life(LIFE_BYTES_MAX + 1)), Err(WireError::TooLong));
    assert_eq!(writer.room(), DATAGRAM_MESSAGE_MAX);
    let record = |len| Message::Record(vec![7; len].into());
    assert_eq!(writer.put(&record(DATAGRAM_MESSAGE_MAX - MESSAGE_HEADER_BYTES + 1)), Err(WireError::TooLong));
    assert_eq!(writer.put(&record(DATAGRAM_MESSAGE_MAX - MESSAGE_HEADER_BYTES)), Ok(()));
    assert_eq!((writer.room(), writer.finish().len()), (0, DATAGRAM_BYTES_MAX));
}

/// Bytes of the first wire version; they never change under this envelope.
#[test]
fn the_bytes_of_a_ping_are_fixed() {
    let bytes = frame(Envelope::Datagram, &MESH, &[message(&Message::Ping { nonce: 0x0102 }).unwrap()]);
    let mut want = b"S1\x01\x00meshhead\x0b\x00\x00\x00".to_vec();
    want.extend_from_slice(&[1, 8, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes, want);
}

#[test]
fn the_bytes_of_operators_words_are_fixed() {
    let check = |said: &Message, want: &[u8]| assert_eq!(&message(said).unwrap()[..], want);
    check(&Message::Document(Bytes::from_static(b"abc")), b"\x80\x03\0\0\0abc");
    check(&Message::Revocation(Bytes::from_static(b"abc")), b"\x0a\x03\0abc");
    let digest = [&b"\x01\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"[..], &[4; 32]].concat();
    check(&Message::HaveDocument(signed_digest()), &[&b"\x0b\x31\0"[..], &digest].concat());
    check(&Message::Hashes(vec![signed_digest()]), &[&b"\x1a\x35\0\x01\0\0\0"[..], &digest].concat());
    let head = BundleHead { sequence: 3, hash: [5; 32] };
    check(&Message::Bundle(head), &[&b"\x0c\x28\0\x03\0\0\0\0\0\0\0"[..], &[5; 32]].concat());
    check(&Message::WantUpdates(Bytes::from_static(b"abc")), b"\x1c\x03\0abc");
    check(&Message::Updates(Bytes::from_static(b"abc")), b"\x81\x03\0\0\0abc");
    check(&Message::WantHashes(vec![[7; 32]]), &[&b"\x1b\x24\0\x01\0\0\0"[..], &[7; 32]].concat());
}

#[test]
fn the_largest_document_and_revocation_travel_and_larger_ones_do_not() {
    let document = |len| Message::Document(vec![7; len].into());
    let bytes = sync_frame(&[document(DOCUMENT_BYTES_MAX), Message::Done]);
    let want = vec![document(DOCUMENT_BYTES_MAX), Message::Done];
    assert_eq!(read_frame(Envelope::Sync, &MESH, &bytes), Ok(Frame::Ours(want, 0)));
    assert_eq!(message(&document(DOCUMENT_BYTES_MAX + 1)), Err(WireError::TooLong));
    let mut longer = message(&document(DOCUMENT_BYTES_MAX)).unwrap().to_vec();
    longer.push(7);
    longer[1..5].copy_from_slice(&u32::try_from(DOCUMENT_BYTES_MAX + 1).unwrap().to_le_bytes());
    let longer = frame(Envelope::Sync, &MESH, &[longer.into()]);
    assert_eq!(read_frame(Envelope::Sync, &MESH, &longer), Err(WireError::TooLong));

    let revocation = |len| message(&Message::Revocation(vec![7; len].into()));
    assert!(revocation(REVOCATION_BYTES_MAX).unwrap().len() <= DATAGRAM_MESSAGE_MAX);
    assert_eq!(revocation(REVOCATION_BYTES_MAX + 1), Err(WireError::TooLong));
    let request = |len| message(&Message::WantUpdates(vec![7; len].into()));
    assert!(request(UPDATES_REQUEST_BYTES_MAX).is_ok());
    assert_eq!(request(UPDATES_REQUEST_BYTES_MAX + 1), Err(WireError::TooLong));
    let updates = |len| message(&Message::Updates(vec![7; len].into()));
    let most = frame(Envelope::Sync, &MESH, &[updates(UPDATES_BYTES_MAX).unwrap()]);
    assert!(most.len() <= SYNC_FRAME_BYTES_MAX && read_frame(Envelope::Sync, &MESH, &most).is_ok());
    assert_eq!(updates(UPDATES_BYTES_MAX + 1), Err(WireError::TooLong));
}

/// What a newer release lists of kinds that it knows is passed over, long messages of unknown kinds are skipped.
#[test]
fn kinds_of_a_newer_release_are_passed_over() {
    let mut have = message(&Message::HaveDocument(signed_digest())).unwrap().to_vec();
    have[3] = 9;
    let long = Bytes::from_static(&[200, 2, 0, 0, 0, 1, 2]);
    let bytes = frame(Envelope::Sync, &MESH, &[have.into(), long, message(&Message::Done).unwrap()]);
    assert_eq!(read_frame(Envelope::Sync, &MESH, &bytes), Ok(Frame::Ours(vec![Message::Done], 2)));
}

#[test]
fn another_mesh_is_refused_unread() {
    let mut bytes = sync_frame(&[Message::Done]).to_vec();
    bytes.extend_from_slice(b"whatever comes behind");
    assert_eq!(read_frame(Envelope::Sync, b"othermsh", &bytes), Ok(Frame::Foreign));
}

#[test]
fn frames_that_lie_about_themselves_are_refused() {
    let good = sync_frame(&every_message()).to_vec();
    let check = |bytes: &[u8], which, want| assert_eq!(read_frame(which, &MESH, bytes), Err(want));
    for cut in 1..good.len().min(400) {
        assert!(read_frame(Envelope::Sync, &MESH, &good[..cut]).is_err(), "cut at {cut}");
    }
    check(&[&good[..], &[0]].concat(), Envelope::Sync, WireError::Trailing);
    check(&good[..100], Envelope::Datagram, WireError::BadMagic);
    check(&[0; DATAGRAM_BYTES_MAX + 1], Envelope::Datagram, WireError::TooLong);
    check(&vec![0; SYNC_FRAME_BYTES_MAX + 1], Envelope::Sync, WireError::TooLong);
    check(b"", Envelope::Sync, WireError::Truncated);
    check(b"S2..............", Envelope::Sync, WireError::BadMagic);
}

#[test]
fn a_message_kind_of_a_newer_release_is_skipped() {
    let unknown = Bytes::from_static(&[127, 2, 0, 1, 2]);
    let ping = message(&Message::Ping { nonce: 1 }).unwrap();
    let bytes = frame(Envelope::Datagram, &MESH, &[unknown, ping]);
    assert_eq!(read_frame(Envelope::Datagram, &MESH, &bytes), Ok(Frame::Ours(vec![Message::Ping { nonce: 1 }], 1)));
}

#[test]
fn a_life_survives_and_so_do_fields_of_a_newer_release() {
    let alive = sample_alive();
    assert_eq!(read_life(&alive.to_bytes()), Ok(LifeClaim::Alive(alive.clone())));
    let leave = Leave { name: node("vm-1"), life: sample_life(), credential: [9; 32] };
    assert_eq!(read_life(&leave.to_bytes()), Ok(LifeClaim::Leave(leave)));

    let mut newer = alive.to_bytes().to_vec();
    newer.truncate(newer.len() - 2);
    newer.extend_from_slice(&[3, 0, b'n', b'e', b'w']);
    newer[1] = 2;
    assert_eq!(read_life(&newer), Ok(LifeClaim::Alive(alive)));
    newer.push(0);
    assert_eq!(read_life(&newer), Err(WireError::Trailing));
}

#[test]
fn a_life_with_control_bytes_or_too_much_is_refused() {
    let check = |alive: &Alive| assert!(read_life(&alive.to_bytes()).is_err());
    check(&Alive { region: "a\u{1b}[31m".to_owned(), ..sample_alive() });
    let mut bytes = sample_alive().to_bytes().to_vec();
    bytes[3] = b'A';
    assert_eq!(read_life(&bytes), Err(WireError::BadField("name")));
    assert_eq!(read_life(&[1; LIFE_BYTES_MAX + 1]), Err(WireError::TooLong));
    let five = Alive { addresses: vec!["10.0.0.1:1".parse().unwrap(); 5], ..sample_alive() };
    let Ok(LifeClaim::Alive(read)) = read_life(&five.to_bytes()) else { panic!("our own writer cuts to the limit") };
    assert_eq!(read.addresses.len(), ADDRESSES_MAX);
}

#[test]
fn the_largest_life_fits_a_datagram() {
    let alive = Alive {
        name: node(&"x".repeat(63)),
        region: "r".repeat(63),
        release: "v".repeat(63),
        addresses: vec!["[fd00::1]:7740".parse().unwrap(); 4],
        ..sample_alive()
    };
    let signed = SignedLife { body: alive.to_bytes(), signature: [0; 64] };
    assert!(message(&Message::Life(signed)).unwrap().len() <= DATAGRAM_MESSAGE_MAX);
}

#[test]
fn a_record_keeps_its_bytes_and_its_signature_covers_all_before_it() {
    let bytes = sample_record(RecordKind::Unknown(200), b"from the future");
    let parts = read_record(&bytes).unwrap();
    assert_eq!((&parts.payload[..], parts.signature), (&b"from the future"[..], [5; 64]));
    assert_eq!([&parts.signed[..], &parts.signature[..]].concat(), bytes);
    assert_eq!(parts.head.to_bytes(&parts.payload).unwrap(), parts.signed);
    assert_eq!(read_record(&bytes.slice(..bytes.len() - 1)), Err(WireError::Truncated));
    let longer: Bytes = [&bytes[..], &[0]].concat().into();
    assert_eq!(read_record(&longer), Err(WireError::Trailing));
    assert_eq!(parts.head.to_bytes(&vec![0; RECORD_PAYLOAD_BYTES_MAX + 1]), Err(WireError::TooLong));
    assert!(parts.head.to_bytes(&vec![0; RECORD_PAYLOAD_BYTES_MAX]).is_ok());
}

#[test]
fn the_writer_refuses_what_a_reader_would() {
    let member =
        MemberDigest { name: node("m"), life: sample_life(), state: MemberState::Alive, proof: 0, credential: 0 };
    assert!(message(&Message::Members(vec![member.clone(); DIGEST_ITEMS_MAX])).is_ok());
    assert!(message(&Message::Members(vec![member; DIGEST_ITEMS_MAX + 1])).is_err());
    assert!(message(&Message::Want(vec![Want::Member(node("m")); WANT_ITEMS_MAX + 1])).is_err());
    let bytes = Bytes::from(vec![0; CREDENTIAL_BYTES_MAX + 1]);
    assert!(message(&Message::Credential { owner: node("m"), bytes }).is_err());
    let long = node(&"x".repeat(63));
    let member = MemberDigest { name: long, life: sample_life(), state: MemberState::Alive, proof: 0, credential: 0 };
    assert!(message(&Message::Members(vec![member; DIGEST_ITEMS_MAX])).is_ok(), "full lists of long names fit");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = read_frame(Envelope::Datagram, &MESH, &bytes);
        let _ = read_life(&bytes);
        let _ = read_record(&bytes.into());
    }

    /// Behind a valid envelope, any kind with any payload: refused or read, and what is read is no larger than its input
    /// can justify.
    #[test]
    fn no_payload_panics(kind in 0_u8..30, payload in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut encoded = vec![kind];
        encoded.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
        encoded.extend_from_slice(&payload);
        if let Ok(Frame::Ours(messages, _)) = read_frame(Envelope::Sync, &MESH, &frame(Envelope::Sync, &MESH, &[encoded.into()])) {
            for read in messages {
                let elements = if let Message::Members(list) = &read {
                    list.len() * 30
                } else if let Message::Records(list) = &read {
                    list.len() * 19
                } else if let Message::Want(list) = &read {
                    list.len() * 9
                } else {
                    0
                };
                prop_assert!(elements <= payload.len());
                // Reading and writing agree, but for bytes that writing would refuse.
                prop_assert!(message(&read).is_ok());
            }
        }
    }

    #[test]
    fn flipped_bits_never_panic(at in 0_usize..2_000, bit in 0_u8..8) {
        let mut bytes = sync_frame(&every_message()).to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = read_frame(Envelope::Sync, &MESH, &bytes);
    }
}

#[test]
fn a_frame_of_many_small_messages_is_refused() {
    let small = message(&Message::Done).unwrap();
    let read = |count: u32| {
        let all = vec![small.clone(); usize::try_from(count).unwrap()];
        read_frame(Envelope::Sync, &[7; 8], &frame(Envelope::Sync, &[7; 8], &all))
    };
    assert!(matches!(read(MESSAGES_MAX), Ok(Frame::Ours(..))));
    assert_eq!(read(MESSAGES_MAX + 1), Err(WireError::TooLong));
}

/// Messages keep their order; no frame is larger than it must be, and what cannot be sent is left out.
#[test]
fn messages_fill_frames_up_to_the_target() {
    let message = |len: usize| Message::Record(vec![7; len].into());
    let check = |lens: &[usize], frames: &[&[usize]]| {
        let messages: Vec<Message> = lens.iter().copied().map(message).collect();
        let mut writer = FrameWriter::new(&MESH, &messages);
        for (message, len) in messages.iter().zip(lens) {
            assert_eq!(writer.put(message).is_err(), *len > RECORD_BYTES_MAX, "{len}");
        }
        let read: Vec<Frame> =
            writer.finish().iter().map(|bytes| read_frame(Envelope::Sync, &MESH, bytes).unwrap()).collect();
        let want: Vec<Frame> =
            frames.iter().map(|lens| Frame::Ours(lens.iter().copied().map(message).collect(), 0)).collect();
        assert_eq!(read, want, "{lens:?}");
    };
    let most = 8_000;
    let six = crate::limits::SYNC_FRAME_BYTES_TARGET - 6 * (most + MESSAGE_HEADER_BYTES) - MESSAGE_HEADER_BYTES;
    check(&[], &[]);
    check(&[10, RECORD_BYTES_MAX + 1, 20], &[&[10, 20]]);
    check(&[RECORD_BYTES_MAX + 1], &[]);
    check(&[most; 13], &[&[most; 6], &[most; 6], &[most]]);
    check(&[most, most, most, most, most, most, six], &[&[most, most, most, most, most, most, six]]);
    check(&[most, most, most, most, most, most, six + 1], &[&[most; 6], &[six + 1]]);
}

/// Only what its reader would take, and only one digest alone.
#[test]
fn an_announcement_is_known_at_first_sight() {
    let digest =
        MemberDigest { name: node("vm-3"), life: sample_life(), state: MemberState::Alive, proof: 4, credential: 5 };
    let payload = |list: Vec<MemberDigest>| message(&Message::Members(list)).unwrap().slice(MESSAGE_HEADER_BYTES..);
    let one = payload(vec![digest.clone()]);
    assert_eq!(Glimpse::of_announcement(&one), Some(Glimpse::Announcement { owner: "vm-3", proof: 4 }));
    assert_eq!(
        message(&Message::Members(vec![digest.clone()])).unwrap().len(),
        expected_len(&Message::Members(vec![digest.clone()]))
    );
    assert_eq!(Glimpse::of_announcement(&payload(vec![digest.clone(), digest])), None);
    (0..one.len()).for_each(|end| assert_eq!(Glimpse::of_announcement(&one[..end]), None));
    let longer = [&one[..], &[0]].concat();
    assert_eq!(Glimpse::of_announcement(&longer), None);
    let state_at = 4 + 1 + 4 + 8 + 4;
    for (state, known) in [(0, false), (1, true), (4, true), (5, false)] {
        let mut other = one.to_vec();
        other[state_at] = state;
        assert_eq!(Glimpse::of_announcement(&other).is_some(), known, "{state}");
        let frame = frame(
            Envelope::Datagram,
            &MESH,
            &[[&[18, u8::try_from(one.len()).unwrap(), 0][..], &other].concat().into()],
        );
        assert_eq!(read_frame(Envelope::Datagram, &MESH, &frame).is_ok(), known, "{state}");
    }
}
