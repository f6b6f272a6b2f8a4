//! Bytes of a peer on a data connection, cut anywhere, while this side opens, sends, reads, resets and leaves. After a
//! violation the connection is lost and everything must come to rest.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use starling_fuzz::Input;
use starling_transport::mux::frame::{HEADER_BYTES, Header};
use starling_transport::mux::limits::{ANSWERS_MAX, OPEN_STREAMS_MAX, OUTPUT_TARGET};
use starling_transport::mux::{Event, Mux, ReadOutcome, ResetCode, Role, StreamId, Violation};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What this side sends. The sanitizer keeps freed memory for a while, so a copy for each step would look like a leak.
static SPACE: [u8; 1 << 16] = [7; 1 << 16];

/// One input makes at most so many frames of its own.
const OWN_FRAMES_BYTES_MAX: usize = 512 * 4096;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let first = input.byte();
    let role = if first & 1 == 0 { Role::Acceptor } else { Role::Dialler };
    let accept_max = usize::from(first >> 4);
    let mut end = End { mux: Mux::new(role, accept_max, *START), now: *START, held: Vec::new() };
    if first & 2 != 0 {
        // Everything after the first byte is what the peer sends, at once.
        if end.mux.handle_input(input.rest(), end.now).is_err() {
            end.mux.connection_lost();
        }
        end.look(accept_max);
    }
    for _ in 0..512 {
        if input.is_empty() {
            break;
        }
        if end.step(&mut input).is_err() {
            end.mux.connection_lost();
            assert!(end.mux.is_dead() && end.mux.output().is_empty());
        }
        end.look(accept_max);
    }
    end.mux.connection_lost();
    end.look(accept_max);
    for stream in std::mem::take(&mut end.held) {
        end.mux.release(stream);
    }
    assert_eq!(end.mux.streams_len(), 0, "streams are left that nobody holds");
});

struct End {
    mux: Mux,
    now: Instant,
    held: Vec<StreamId>,
}

impl End {
    fn step(&mut self, input: &mut Input<'_>) -> Result<(), Violation> {
        let op = input.byte();
        let stream = self.held.get(usize::from(op >> 4) % self.held.len().max(1)).copied().unwrap_or(StreamId(0));
        match op & 0x0f {
            0..=4 if self.mux.wants_input() => {
                let bytes = if op & 0x0f < 3 { input.counted_short() } else { input.counted() };
                return self.mux.handle_input(bytes, self.now);
            }
            0..=4 => {}
            5 => {
                if let Ok(stream) = self.mux.open(input.counted_short(), self.now) {
                    self.held.push(stream);
                }
            }
            6 => {
                let _ = self.mux.send(stream, &SPACE[..usize::from(input.short())]);
            }
            7 => {
                let mut place = [0; 4096];
                let place = &mut place[..usize::from(input.short()) % 4097];
                if let Ok(ReadOutcome::Bytes(length)) = self.mux.read(stream, place) {
                    assert!(length <= place.len());
                }
            }
            8 => self.mux.finish(stream),
            9 => self.mux.reset(stream, if op & 0x10 == 0 { ResetCode::Refused } else { ResetCode::Error }),
            10 => {
                self.mux.release(stream);
                self.held.retain(|held| *held != stream);
            }
            11 if op == 0xfb => self.mux.goaway(),
            11 => assert_eq!(self.mux.fault(stream), self.mux.watch(stream)),
            12 => {
                self.now += Duration::from_millis(u64::from(input.byte()) * 100);
                self.mux.handle_timeout(self.now);
            }
            13 if op == 0xfd => self.mux.connection_refused(),
            _ => self.write(),
        }
        Ok(())
    }

    /// The network takes all that is ready, and it is whole frames.
    fn write(&mut self) {
        self.mux.fill();
        let mut output = self.mux.output();
        let length = output.len();
        while let Some((header, rest)) = output.split_first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(*header).expect("we write frames that we would read");
            output = rest.get(usize::from(header.length)..).expect("we write whole frames");
        }
        assert!(output.is_empty(), "we write whole frames");
        self.mux.sent(length, self.now);
        assert!(self.mux.output().is_empty(), "what was sent is still there");
    }

    fn look(&mut self, accept_max: usize) {
        while let Some(event) = self.mux.poll_event() {
            if let Event::Opened { stream, .. } = event {
                assert!(!self.held.contains(&stream), "a stream was opened twice");
                self.held.push(stream);
            }
        }
        let accepted = self.mux.stats().streams_accepted;
        assert!(
            self.mux.streams_len() <= self.held.len() + OPEN_STREAMS_MAX.min(512) + accept_max,
            "{accepted} accepted"
        );
        assert!(self.mux.output().len() <= OUTPUT_TARGET + 2 * ANSWERS_MAX + OWN_FRAMES_BYTES_MAX);
        let _ = (self.mux.is_drained(), self.mux.is_settled(), self.mux.may_open(self.now), self.mux.poll_timeout());
    }
}
