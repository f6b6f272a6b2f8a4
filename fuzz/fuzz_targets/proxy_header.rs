//! The header of an `open` frame: what is read is what would be written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_proxy::header::OpenHeader;

fuzz_target!(|bytes: &[u8]| {
    match OpenHeader::decode(bytes) {
        Ok(header) => {
            let written = header.encode();
            assert!(bytes.starts_with(&written), "only extensions may be dropped");
            assert_eq!(OpenHeader::decode(&written), Ok(header));
        }
        Err(refused) => drop(refused.to_string()),
    }
});
