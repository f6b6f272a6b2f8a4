//! What a gossip peer writes on its streams: the hello, and the frames of an exchange, cut anywhere. A hello survives its
//! own bytes; frames are the bytes of the stream without their lengths, however it was cut, and memory follows what came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_fuzz::Input;
use starling_transport::quic::FRAME_BYTES_MAX;
use starling_transport::quic::frame::FrameReader;
use starling_transport::quic::hello::Hello;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let first = input.byte();
    if first & 1 == 0 {
        hello(input.rest());
    } else {
        frames(input.rest(), usize::from(first >> 1).max(1));
    }
});

fn hello(bytes: &[u8]) {
    if let Some(hello) = Hello::decode(bytes) {
        let written = hello.encode();
        assert!(written.len() <= bytes.len(), "a hello of a later version may only be longer");
        assert_eq!(Hello::decode(&written), Some(hello));
        let _ = hello.is_understood();
    }
}

fn frames(stream: &[u8], piece: usize) {
    let (mut reader, mut rest, mut rebuilt) = (FrameReader::default(), stream, Vec::new());
    while !rest.is_empty() {
        let (bytes, later) = rest.split_at(reader.wants().min(piece).min(rest.len()));
        rest = later;
        match reader.take(bytes) {
            Ok(Some(frame)) => {
                assert!(!frame.is_empty() && frame.len() <= FRAME_BYTES_MAX);
                rebuilt.extend_from_slice(&u32::try_from(frame.len()).expect("a short frame").to_le_bytes());
                rebuilt.extend_from_slice(&frame);
                assert!(reader.is_between_frames());
            }
            Ok(None) => assert!(!reader.is_between_frames(), "bytes vanished"),
            Err(_) => break,
        }
    }
    assert!(stream.starts_with(&rebuilt), "frames are not what was sent");
    if rest.is_empty() && reader.is_between_frames() {
        assert_eq!(rebuilt, stream);
    }
}
