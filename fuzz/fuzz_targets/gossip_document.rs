//! Bytes as a signed document, and bytes as the text of one: what is read is what would be written, and whatever changes
//! the signed form changes its hash.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use starling_fuzz::Input;
use starling_gossip::golden::read_document;
use starling_model::envelope::SCHEMA;
use starling_model::{Document, DocumentKey, Generation, KeyId};

fuzz_target!(|bytes: &[u8]| {
    look(&Bytes::copy_from_slice(bytes));
    let mut input = Input(bytes);
    let (deleted, generation, key) = (input.byte() & 1 == 1, input.byte(), input.byte());
    let Some(generation) = Generation::new(generation.into()) else { return };
    let head = Document {
        schema: SCHEMA,
        key: DocumentKey::parse("HTTPRoute", "default", "a").expect("a key"),
        signer: KeyId(key.into()),
        generation,
        signed_at: 0,
        deleted,
        batch: None,
    };
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    if let Ok(body) = head.to_body(text) {
        let envelope = Bytes::from([&body[..], &[3; 64]].concat());
        let (key, version, read) = read_document(&envelope).expect("what was written is read");
        assert_eq!((key, version.generation, &read[..]), (head.key, generation, text.as_bytes()));
    }
});

/// What is read of a form of this release's schema is the whole of it.
fn look(envelope: &Bytes) {
    let Ok((_, version, text)) = read_document(envelope) else { return };
    let body = &envelope[..envelope.len() - 64];
    let (head, _) = Document::read(body).expect("read before");
    if head.schema == SCHEMA {
        let text = std::str::from_utf8(&text).expect("a text");
        assert_eq!(head.to_body(text).as_deref(), Ok(body), "two forms of one document");
        let mut longer = envelope.to_vec();
        longer.push(0);
        assert!(read_document(&longer.into()).is_err(), "bytes after a document are ignored");
    } else {
        let longer = Bytes::from([body, &[0], &envelope[body.len()..]].concat());
        if let Ok((_, other, _)) = read_document(&longer) {
            assert_ne!(other.hash, version.hash, "newer fields are not covered");
        }
    }
}
