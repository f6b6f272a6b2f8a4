//! Bytes as a datagram, as a frame of a sync stream, and as the messages of a frame with a right head.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_fuzz::frames::{Envelope, MESH, frame};
use starling_gossip::golden::{read_datagram, read_life, read_sync_frame};

fuzz_target!(|bytes: &[u8]| {
    let _ = read_datagram(&MESH, bytes);
    let _ = read_sync_frame(&MESH, bytes);
    let _ = read_life(bytes);
    if bytes.len() < 1 << 16 {
        let _ = read_datagram(&MESH, &frame(Envelope::Datagram, bytes));
        let _ = read_sync_frame(&MESH, &frame(Envelope::Sync, bytes));
    }
});
