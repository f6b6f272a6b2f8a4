//! Bytes as a whole record, and as the payload of a record of each kind.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use starling_fuzz::{Input, frames};
use starling_gossip::golden::read_record;

fuzz_target!(|bytes: &[u8]| {
    let _ = read_record(&Bytes::copy_from_slice(bytes));
    let mut input = Input(bytes);
    let (kind, shard, schema) = (input.byte(), input.byte(), u16::from(input.byte()));
    let payload = input.rest();
    if payload.len() < 1 << 16 {
        let record = Bytes::from(frames::record("n", kind, shard, (1, 1), schema, payload));
        if let Ok((owner, version, _)) = read_record(&record) {
            assert_eq!((owner.as_str(), version.version), ("n", 1));
        }
        let mut longer = record.to_vec();
        longer.push(0);
        assert!(read_record(&longer.into()).is_err(), "bytes after a record are ignored");
    }
});
