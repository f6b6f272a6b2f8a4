//! Random histories of two ends, and bytes that no peer of ours would send.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::super::frame::Kind;
use super::super::limits::ACCEPT_STREAMS_MAX;
use super::super::{Event, Mux, ReadOutcome, ResetCode, Role, StreamId};
use super::{assert_accounts, frame, start};

#[derive(Clone, Debug)]
enum Step {
    Open {
        end: usize,
    },
    Send {
        end: usize,
        stream: usize,
        length: usize,
    },
    Read {
        end: usize,
        stream: usize,
        length: usize,
    },
    Finish {
        end: usize,
        stream: usize,
    },
    Reset {
        end: usize,
        stream: usize,
    },
    Release {
        end: usize,
        stream: usize,
    },
    /// The network takes what is ready.
    Write {
        end: usize,
        length: usize,
    },
    /// The network delivers.
    Deliver {
        end: usize,
        length: usize,
    },
    GoAway {
        end: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let end = 0..2_usize;
    let stream = 0..8_usize;
    let length = prop_oneof![1..50_usize, 1_000..70_000_usize];
    prop_oneof![
        3 => end.clone().prop_map(|end| Step::Open { end }),
        12 => (end.clone(), stream.clone(), length.clone())
            .prop_map(|(end, stream, length)| Step::Send { end, stream, length }),
        12 => (end.clone(), stream.clone(), length.clone())
            .prop_map(|(end, stream, length)| Step::Read { end, stream, length }),
        2 => (end.clone(), stream.clone()).prop_map(|(end, stream)| Step::Finish { end, stream }),
        1 => (end.clone(), stream.clone()).prop_map(|(end, stream)| Step::Reset { end, stream }),
        1 => (end.clone(), stream).prop_map(|(end, stream)| Step::Release { end, stream }),
        8 => (end.clone(), length.clone()).prop_map(|(end, length)| Step::Write { end, length }),
        8 => (end.clone(), length).prop_map(|(end, length)| Step::Deliver { end, length }),
        1 => end.prop_map(|end| Step::GoAway { end }),
    ]
}

/// One direction of one stream: what was taken from its writer, what its reader got.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    sent: usize,
    read: usize,
    finished: bool,
    ended: bool,
    released: bool,
    broken: bool,
}

/// Byte `at` of a direction: tells streams, directions and places apart.
fn pattern(from: usize, stream: StreamId, at: usize) -> u8 {
    let mixed = at.wrapping_mul(31).wrapping_add(at >> 8).wrapping_add(stream.0 as usize * 7 + from * 101);
    mixed.to_le_bytes()[0]
}

struct World {
    ends: [Mux; 2],
    wires: [VecDeque<u8>; 2],
    /// Streams each end holds.
    held: [Vec<StreamId>; 2],
    /// By the end that writes.
    flows: BTreeMap<(usize, StreamId), Flow>,
    has_goaway: bool,
}

impl World {
    fn new() -> Self {
        let ends = [Mux::new(Role::Dialler, 6, start()), Mux::new(Role::Acceptor, 6, start())];
        Self { ends, wires: Default::default(), held: Default::default(), flows: BTreeMap::new(), has_goaway: false }
    }

    fn flow(&mut self, from: usize, stream: StreamId) -> &mut Flow {
        self.flows.entry((from, stream)).or_default()
    }

    fn pick(&self, end: usize, stream: usize) -> Option<StreamId> {
        let held = &self.held[end];
        held.get(stream % held.len().max(1)).copied()
    }

    fn break_both(&mut self, stream: StreamId) {
        for from in 0..2 {
            self.flow(from, stream).broken = true;
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Open { end } => {
                if let Ok(stream) = self.ends[end].open(b"h", start()) {
                    self.held[end].push(stream);
                }
            }
            Step::Send { end, stream, length } => {
                let Some(stream) = self.pick(end, stream) else { return };
                let sent = self.flow(end, stream).sent;
                let bytes: Vec<u8> = (sent..sent + length).map(|at| pattern(end, stream, at)).collect();
                match self.ends[end].send(stream, &bytes) {
                    Ok(taken) => self.flow(end, stream).sent += taken,
                    Err(_) if self.flow(end, stream).finished => {}
                    Err(_) => self.break_both(stream),
                }
            }
            Step::Read { end, stream, length } => {
                let Some(stream) = self.pick(end, stream) else { return };
                self.read(end, stream, length);
            }
            Step::Finish { end, stream } => {
                let Some(stream) = self.pick(end, stream) else { return };
                self.ends[end].finish(stream);
                self.flow(end, stream).finished = true;
            }
            Step::Reset { end, stream } => {
                let Some(stream) = self.pick(end, stream) else { return };
                self.ends[end].reset(stream, ResetCode::Error);
                self.break_both(stream);
            }
            Step::Release { end, stream } => {
                let Some(stream) = self.pick(end, stream) else { return };
                self.release(end, stream);
            }
            Step::Write { end, length } => {
                self.ends[end].fill();
                let length = length.min(self.ends[end].output().len());
                let bytes = self.ends[end].output()[..length].to_vec();
                self.ends[end].sent(length, start());
                self.wires[end].extend(bytes);
            }
            Step::Deliver { end, length } => {
                let length = length.min(self.wires[end].len());
                let bytes: Vec<u8> = self.wires[end].drain(..length).collect();
                let verdict = self.ends[1 - end].handle_input(&bytes, start());
                assert_eq!(verdict, Ok(()), "our own machine violates its protocol");
            }
            Step::GoAway { end } => {
                self.has_goaway = true;
                self.ends[end].goaway();
            }
        }
        for end in 0..2 {
            while let Some(event) = self.ends[end].poll_event() {
                if let Event::Opened { stream, header } = event {
                    assert_eq!(&header[..], b"h");
                    self.held[end].push(stream);
                }
            }
            assert_accounts(&self.ends[end]);
        }
    }

    fn read(&mut self, end: usize, stream: StreamId, length: usize) -> bool {
        let mut buffer = vec![0; length];
        let from = 1 - end;
        match self.ends[end].read(stream, &mut buffer) {
            Ok(ReadOutcome::Bytes(length)) => {
                let flow = self.flow(from, stream);
                let at = flow.read;
                flow.read += length;
                assert!(flow.read <= flow.sent, "bytes from nowhere");
                for (index, byte) in buffer[..length].iter().enumerate() {
                    assert_eq!(*byte, pattern(from, stream, at + index), "{stream:?} at {}", at + index);
                }
                length > 0
            }
            Ok(ReadOutcome::Empty) => false,
            Ok(ReadOutcome::End) => {
                let flow = self.flow(from, stream);
                assert!(flow.finished && flow.read == flow.sent, "an end before the last byte: {flow:?}");
                flow.ended = true;
                false
            }
            Err(_) => {
                self.break_both(stream);
                false
            }
        }
    }

    fn release(&mut self, end: usize, stream: StreamId) {
        self.ends[end].release(stream);
        self.held[end].retain(|held| *held != stream);
        let flow = self.flow(end, stream);
        flow.released = true;
        if !flow.finished {
            self.break_both(stream);
        }
        // What the other side sends from here on may be reset, and nobody reads it.
        self.flow(1 - end, stream).broken = true;
    }

    /// Everybody finishes, reads to the end and lets go.
    fn finish(&mut self) {
        for end in 0..2 {
            for stream in self.held[end].clone() {
                self.apply(&Step::Finish { end, stream: self.held[end].iter().position(|at| *at == stream).unwrap() });
            }
        }
        let mut moved = true;
        while moved {
            moved = false;
            for end in 0..2 {
                self.apply(&Step::Write { end, length: usize::MAX });
                moved |= !self.wires[end].is_empty();
                self.apply(&Step::Deliver { end, length: usize::MAX });
                for stream in self.held[end].clone() {
                    // Streams that arrived after the first pass are finished too.
                    self.ends[end].finish(stream);
                    self.flow(end, stream).finished = true;
                    while self.read(end, stream, 40_000) {
                        moved = true;
                    }
                }
                moved |= self.ends[end].has_output();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_history_delivers_each_streams_bytes_in_order(steps in prop::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
        }
        world.finish();
        for ((from, stream), flow) in &world.flows {
            if !flow.broken && world.ends[*from].fault(*stream).is_none() && !flow.released {
                prop_assert_eq!(flow.read, flow.sent, "{:?} from {}", stream, from);
                prop_assert!(flow.ended, "{:?} from {}: {:?}", stream, from, flow);
            }
        }
        for end in 0..2 {
            for stream in world.held[end].clone() {
                world.release(end, stream);
            }
        }
        for _ in 0..4 {
            for end in 0..2 {
                world.apply(&Step::Write { end, length: usize::MAX });
                world.apply(&Step::Deliver { end, length: usize::MAX });
            }
        }
        for end in &world.ends {
            prop_assert_eq!(end.streams_len(), 0);
            prop_assert_eq!(end.given + end.consumed, super::super::limits::CONNECTION_WINDOW);
            prop_assert!(!world.has_goaway || end.is_drained());
        }
    }

    #[test]
    fn no_bytes_panic(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..64)) {
        let mut mux = Mux::new(Role::Acceptor, ACCEPT_STREAMS_MAX, start());
        for part in parts {
            if mux.handle_input(&part, start()).is_err() {
                mux.connection_lost();
            }
        }
    }

    /// Frames that are well formed and mean nothing, mixed with what a user of the machine does.
    #[test]
    fn no_frames_panic(frames in prop::collection::vec((1..9_u8, 0..12_u32, any::<[u8; 8]>(), 0..60_u64), 0..200)) {
        let mut mux = Mux::new(Role::Acceptor, 4, start());
        let mut now = start();
        let mut buffer = [0; 100];
        for (kind, stream, payload, wait) in frames {
            now += Duration::from_millis(wait * wait);
            let bytes = match kind {
                1 => frame(Kind::Open, stream, &payload),
                2 => frame(Kind::Data, stream, &payload),
                3 => frame(Kind::Window, stream, &payload[..4]),
                4 => frame(Kind::End, stream, b""),
                5 => frame(Kind::Reset, stream, &[payload[0] % 3]),
                6 => frame(Kind::GoAway, stream, b""),
                7 => frame(Kind::Ping, 0, &payload),
                _ => frame(Kind::Pong, 0, &payload),
            };
            // A violation is looked past here, to reach states that a closed connection would hide.
            let _ = mux.handle_input(&bytes, now);
            mux.handle_timeout(now);
            let id = StreamId(u32::from(payload[0] % 12));
            match payload[1] % 7 {
                0 => drop(mux.read(id, &mut buffer)),
                1 => drop(mux.send(id, &buffer)),
                2 => mux.finish(id),
                3 => mux.reset(id, ResetCode::Refused),
                4 => mux.release(id),
                5 => drop(mux.open(&buffer, now)),
                _ => mux.goaway(),
            }
            mux.fill();
            mux.sent(usize::from(payload[2]), now);
            while mux.poll_event().is_some() {}
        }
    }
}
