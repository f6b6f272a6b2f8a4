//! What is written is read, newer forms are read as far as they are known, and nothing else passes.

use proptest::prelude::*;

use super::*;

fn document() -> Document {
    Document {
        schema: SCHEMA,
        key: DocumentKey::parse("HTTPRoute", "default", "orders").unwrap(),
        signer: KeyId(1),
        generation: Generation::new(14).unwrap(),
        signed_at: 1_795_361_517_301,
        deleted: false,
        batch: Some(Batch { id: BatchId([9; 32]), count: NonZeroU16::new(5).unwrap() }),
    }
}

fn revocation() -> Revocation {
    Revocation {
        schema: SCHEMA,
        node: NodeName::new("vm-3").unwrap(),
        signer: KeyId(2),
        number: 3,
        signed_at: 5,
        kept: vec![[1; 32], [2; 32]],
        reason: "stolen".to_owned(),
    }
}

#[test]
fn a_document_survives_its_bytes() {
    for deleted in [false, true] {
        for batch in [None, document().batch] {
            let head = Document { deleted, batch, ..document() };
            let body = head.to_body("kind: HTTPRoute # kept\n").unwrap();
            assert_eq!(Document::read(&body), Ok((head, "kind: HTTPRoute # kept\n")));
        }
    }
}

/// security.md, 12: the form, field by field.
#[test]
fn the_bytes_of_a_document_are_as_documented() {
    let body = document().to_body("a: 1\n").unwrap();
    let want: Vec<u8> = [
        &[1, 0][..],
        b"\x09HTTPRoute\x07default\x06orders\x02k1",
        &[14, 0, 0, 0, 0, 0, 0, 0],
        &1_795_361_517_301_i64.to_le_bytes(),
        &[0],
        &[9; 32],
        &[5, 0],
        &[5, 0, 0, 0],
        b"a: 1\n",
    ]
    .concat();
    assert_eq!(body, want);
}

#[test]
fn the_bytes_of_a_revocation_are_as_documented() {
    let body = revocation().to_body().unwrap();
    let want: Vec<u8> = [
        &[1, 0][..],
        b"\x04vm-3\x02k2",
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0],
        &[2],
        &[1; 32],
        &[2; 32],
        b"\x06stolen",
    ]
    .concat();
    assert_eq!(body, want);
    assert_eq!(Revocation::read(&body), Ok(revocation()));
}

/// gossip.md, S24: a newer schema begins like this one and goes on.
#[test]
fn newer_fields_are_passed_over_and_older_forms_have_none() {
    let newer = Document { schema: 2, ..document() };
    let mut body = newer.to_body("a: 1\n").unwrap();
    body.extend_from_slice(b"what comes later");
    assert_eq!(Document::read(&body), Ok((newer, "a: 1\n")));
    let mut body = document().to_body("a: 1\n").unwrap();
    body.push(0);
    assert_eq!(Document::read(&body), Err(EnvelopeInvalid::Trailing));

    let newer = Revocation { schema: 2, ..revocation() };
    let mut body = newer.to_body().unwrap();
    body.push(7);
    assert_eq!(Revocation::read(&body), Ok(newer));
    let mut body = revocation().to_body().unwrap();
    body.push(7);
    assert_eq!(Revocation::read(&body), Err(EnvelopeInvalid::Trailing));
}

#[test]
fn every_prefix_is_refused() {
    let body = document().to_body("a: 1\n").unwrap();
    assert!((0..body.len()).all(|len| Document::read(&body[..len]).is_err()));
    let body = revocation().to_body().unwrap();
    assert!((0..body.len()).all(|len| Revocation::read(&body[..len]).is_err()));
}

#[test]
fn one_past_each_limit_is_refused() {
    let longest = "x".repeat(DOCUMENT_TEXT_BYTES_MAX);
    assert!(document().to_body(&longest).is_ok());
    assert_eq!(document().to_body(&format!("{longest}x")), Err(EnvelopeInvalid::TooLong));

    // Fields of newer schemas have room, and an end.
    let mut newer = Document { schema: 2, ..document() }.to_body(&longest).unwrap();
    newer.resize(DOCUMENT_BODY_BYTES_MAX, 0);
    assert!(Document::read(&newer).is_ok());
    newer.push(0);
    assert_eq!(Document::read(&newer), Err(EnvelopeInvalid::TooLong));

    let of = |count| Some(Batch { id: BatchId([1; 32]), count: NonZeroU16::new(count).unwrap() });
    assert!(Document { batch: of(BATCH_DOCUMENTS_MAX), ..document() }.to_body("").is_ok());
    let over = Document { batch: of(BATCH_DOCUMENTS_MAX + 1), ..document() };
    assert_eq!(over.to_body(""), Err(EnvelopeInvalid::Field("batch")));

    let kept = |count: usize| (0..count).map(|at| [u8::try_from(at).unwrap(); 32]).collect::<Vec<_>>();
    assert!(Revocation { kept: kept(KEPT_KEYS_MAX), ..revocation() }.to_body().is_ok());
    let over = Revocation { kept: kept(KEPT_KEYS_MAX + 1), ..revocation() };
    assert_eq!(over.to_body(), Err(EnvelopeInvalid::Field("kept")));

    let reason = |len| Revocation { reason: "r".repeat(len), ..revocation() };
    assert!(reason(REASON_BYTES_MAX).to_body().is_ok());
    assert_eq!(reason(REASON_BYTES_MAX + 1).to_body(), Err(EnvelopeInvalid::Field("reason")));

    let mut newer = Revocation { schema: 2, ..revocation() }.to_body().unwrap();
    newer.resize(REVOCATION_BODY_BYTES_MAX, 0);
    assert!(Revocation::read(&newer).is_ok());
    newer.push(0);
    assert_eq!(Revocation::read(&newer), Err(EnvelopeInvalid::TooLong));
}

#[test]
fn the_longest_header_leaves_room_for_newer_fields() {
    let long = "n".repeat(NAME_BYTES_MAX);
    let key = DocumentKey::parse(&format!("K{}", "k".repeat(NAME_BYTES_MAX - 1)), &long, &long).unwrap();
    let body = Document { key, signer: KeyId(u32::MAX), ..document() }.to_body("").unwrap();
    let room = DOCUMENT_BODY_BYTES_MAX - DOCUMENT_TEXT_BYTES_MAX - body.len();
    assert!(room >= crate::limits::DOCUMENT_EXTENSION_BYTES_MIN, "{room}");
}

#[test]
fn fields_that_cannot_be_are_refused() {
    let good = document().to_body("a").unwrap();
    let check = |at: usize, byte: u8, what: &'static str| {
        let mut bent = good.clone();
        bent[at] = byte;
        assert_eq!(Document::read(&bent), Err(EnvelopeInvalid::Field(what)), "{at}");
    };
    check(0, 0, "schema");
    check(3, b'h', "kind");
    check(13, b'-', "namespace");
    check(21, b'-', "name");
    check(28, b'j', "key id");
    check(30, 0, "generation");
    check(46, 3, "flags");
    check(79, 0, "batch");
    check(85, 0xff, "text");

    let mut kept = revocation();
    kept.kept.reverse();
    assert_eq!(kept.to_body(), Err(EnvelopeInvalid::Field("kept")), "one order, so one form");
    let control = Revocation { reason: "a\u{1b}[31m".to_owned(), ..revocation() };
    assert_eq!(control.to_body(), Err(EnvelopeInvalid::Field("reason")));
}

#[test]
fn a_signature_is_the_last_64_bytes() {
    let whole: Vec<u8> = (0..70).collect();
    assert_eq!(split_signature(&whole).map(|(body, _)| body), Some(&[0, 1, 2, 3, 4, 5][..]));
    assert_eq!(split_signature(&whole[..63]), None);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Document::read(&bytes);
        let _ = Revocation::read(&bytes);
    }

    #[test]
    fn damaged_documents_never_panic(at in 0_usize..86, byte in any::<u8>()) {
        let mut body = document().to_body("a: 1").unwrap();
        if let Some(place) = body.get_mut(at) {
            *place = byte;
        }
        if let Ok((head, text)) = Document::read(&body)
            && head.schema == SCHEMA
        {
            prop_assert_eq!(head.to_body(text).unwrap(), body);
        }
    }
}
