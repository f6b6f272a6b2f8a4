//! Bytes as a signed revocation: what is read is what would be written, and it never keeps more than it may.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use starling_gossip::golden::read_revocation;
use starling_model::envelope::SCHEMA;
use starling_model::limits::KEPT_KEYS_MAX;

fuzz_target!(|bytes: &[u8]| {
    let envelope = Bytes::copy_from_slice(bytes);
    let Ok((said, hash)) = read_revocation(&envelope) else { return };
    assert!(said.kept.len() <= KEPT_KEYS_MAX && said.kept.is_sorted());
    let body = &bytes[..bytes.len() - 64];
    if said.schema == SCHEMA {
        assert_eq!(said.to_body().as_deref(), Ok(body), "two forms of one revocation");
    }
    let longer = Bytes::from([body, &[0], &bytes[body.len()..]].concat());
    match read_revocation(&longer) {
        Ok((_, other)) => assert!(said.schema != SCHEMA && other != hash, "bytes after a revocation are ignored"),
        Err(_) => {}
    }
});
