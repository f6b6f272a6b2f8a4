//! What the machine promises, case by case; whole random histories are in `tests/histories.rs`.

#![expect(clippy::arithmetic_side_effects, reason = "an overflow in a test is a failed test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::frame::{DATA_BYTES_MAX, HEADER_BYTES, Header, Kind, OPEN_BYTES_MAX};
use super::limits::{
    ACCEPT_STREAMS_MAX, CONNECTION_WINDOW, OPEN_STREAMS_MAX, OUTPUT_TARGET, SEND_BUFFER_MAX, STREAM_ID_MAX,
    STREAM_WINDOW_INITIAL, STREAM_WINDOW_MAX, WINDOW_GROWTH_MAX,
};
use super::stream::{Incoming, Outgoing};
use super::{
    CLOSED_AFTER, CannotOpen, Event, Fault, Mux, PING_AFTER, PING_IDLE, ReadOutcome, ResetCode, Role, STALLED_AFTER,
    StreamId, Violation,
};

mod histories;
mod hostile;

/// Two ends and a wire that delivers at once.
struct Pair {
    dialler: Mux,
    acceptor: Mux,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = start();
        let dialler = Mux::new(Role::Dialler, 0, now);
        let acceptor = Mux::new(Role::Acceptor, ACCEPT_STREAMS_MAX, now);
        Self { dialler, acceptor, now }
    }

    /// Moves bytes until neither end has any.
    fn settle(&mut self) {
        while carry(&mut self.dialler, &mut self.acceptor, self.now)
            | carry(&mut self.acceptor, &mut self.dialler, self.now)
        {}
    }

    fn open(&mut self) -> StreamId {
        self.dialler.open(b"header", self.now).expect("an open connection takes streams")
    }
}

fn start() -> Instant {
    Instant::now()
}

fn carry(from: &mut Mux, to: &mut Mux, now: Instant) -> bool {
    from.fill();
    let bytes = from.output().to_vec();
    from.sent(bytes.len(), now);
    to.handle_input(&bytes, now).expect("correct peers do not violate");
    assert_accounts(from);
    assert_accounts(to);
    !bytes.is_empty()
}

/// The books of credit add up, and no buffer is beyond its bound.
fn assert_accounts(mux: &Mux) {
    let (mut held, mut grown) = (0, 0);
    for (id, stream) in mux.streams.iter().collect::<BTreeMap<_, _>>() {
        held += stream.inbox.len();
        grown += stream.window - STREAM_WINDOW_INITIAL;
        if stream.incoming == Incoming::Open && stream.held {
            let accounted = stream.given as usize + stream.inbox.len() + stream.consumed as usize;
            // A data frame whose header has come and whose bytes have not is in neither.
            assert!(accounted <= stream.window as usize, "{id:?}: {stream:?}");
        }
        assert!(stream.outbox.len() <= SEND_BUFFER_MAX);
        assert!(stream.outgoing == Outgoing::Open || !stream.writer_waits);
        assert_eq!(stream.in_ring, mux.ring.contains(id), "{id:?}");
    }
    assert!(held + mux.given as usize + mux.consumed as usize <= CONNECTION_WINDOW as usize);
    assert_eq!(grown + mux.growth, WINDOW_GROWTH_MAX);
    assert_eq!(mux.own_streams + mux.peer_streams, mux.streams.len());
}

fn events(mux: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}

fn read_all(mux: &mut Mux, stream: StreamId) -> (Vec<u8>, Result<ReadOutcome, Fault>) {
    let mut all = Vec::new();
    let mut buffer = [0; 5_000];
    loop {
        match mux.read(stream, &mut buffer) {
            Ok(ReadOutcome::Bytes(length)) => all.extend_from_slice(&buffer[..length]),
            end => return (all, end),
        }
    }
}

fn frame(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, length: u16::try_from(payload.len()).unwrap(), stream: StreamId(stream) };
    [&header.encode()[..], payload].concat()
}

/// Feeds frames of a peer that dialled into a fresh accepting end.
fn check_violation(frames: &[Vec<u8>], want: Violation) {
    let mut mux = Mux::new(Role::Acceptor, ACCEPT_STREAMS_MAX, start());
    assert_eq!(mux.handle_input(&frames.concat(), start()), Err(want));
}

#[test]
fn frames_have_these_bytes() {
    let check = |kind, stream, payload: &[u8], want: &[u8]| assert_eq!(frame(kind, stream, payload), want, "{kind:?}");
    check(Kind::Open, 1, b"hdr", &[1, 0, 3, 0, 1, 0, 0, 0, b'h', b'd', b'r']);
    check(Kind::Data, 0x0102_0304, b"x", &[2, 0, 1, 0, 4, 3, 2, 1, b'x']);
    check(Kind::Window, 0, &0x0001_0000_u32.to_le_bytes(), &[3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    check(Kind::End, 3, b"", &[4, 0, 0, 0, 3, 0, 0, 0]);
    check(Kind::Reset, 3, &[1], &[5, 0, 1, 0, 3, 0, 0, 0, 1]);
    check(Kind::GoAway, 7, b"", &[6, 0, 0, 0, 7, 0, 0, 0]);
    check(Kind::Ping, 0, b"12345678", &[7, 0, 8, 0, 0, 0, 0, 0, b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8']);
    check(Kind::Pong, 0, b"12345678", &[8, 0, 8, 0, 0, 0, 0, 0, b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8']);
}

#[test]
fn a_whole_exchange_has_these_bytes() {
    let mut pair = Pair::new();
    let stream = pair.open();
    assert_eq!(pair.dialler.send(stream, b"hi"), Ok(2));
    pair.dialler.finish(stream);
    let want = [&[1, 0, 6, 0, 1, 0, 0, 0][..], b"header", &[2, 0, 2, 0, 1, 0, 0, 0], b"hi", &[4, 0, 0, 0, 1, 0, 0, 0]]
        .concat();
    assert_eq!(pair.dialler.output(), want);
}

#[test]
fn a_stream_carries_both_ways_and_ends() {
    let mut pair = Pair::new();
    let stream = pair.open();
    assert_eq!(pair.dialler.send(stream, b"question"), Ok(8));
    pair.dialler.finish(stream);
    pair.settle();
    let header = bytes::Bytes::from_static(b"header");
    assert_eq!(events(&mut pair.acceptor), [Event::Opened { stream, header }]);
    assert_eq!(read_all(&mut pair.acceptor, stream), (b"question".to_vec(), Ok(ReadOutcome::End)));
    assert_eq!(pair.dialler.read(stream, &mut [0; 9]), Ok(ReadOutcome::Empty));
    assert_eq!(pair.acceptor.send(stream, b"answer"), Ok(6));
    pair.acceptor.finish(stream);
    pair.acceptor.release(stream);
    pair.settle();
    assert_eq!(events(&mut pair.dialler), [Event::Readable(stream)]);
    assert_eq!(read_all(&mut pair.dialler, stream), (b"answer".to_vec(), Ok(ReadOutcome::End)));
    pair.dialler.release(stream);
    assert_eq!((pair.dialler.streams_len(), pair.acceptor.streams_len()), (0, 0));
}

#[test]
fn any_cut_of_the_wire_gives_the_same_history() {
    let mut pair = Pair::new();
    let stream = pair.open();
    let text: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    assert_eq!(pair.dialler.send(stream, &text), Ok(text.len()));
    pair.dialler.finish(stream);
    pair.dialler.fill();
    for cut in [1, 2, 7, 8, 9, 1_000, 16_384] {
        let mut acceptor = Mux::new(Role::Acceptor, 1, pair.now);
        for part in pair.dialler.output().chunks(cut) {
            acceptor.handle_input(part, pair.now).unwrap();
        }
        assert_eq!(read_all(&mut acceptor, stream), (text.clone(), Ok(ReadOutcome::End)), "cut {cut}");
    }
}

#[test]
fn a_sender_stops_at_its_window_and_goes_on_with_credit() {
    let mut pair = Pair::new();
    let stream = pair.open();
    let lots = vec![7; 1_000_000];
    let mut sent = 0;
    loop {
        match pair.dialler.send(stream, &lots).unwrap() {
            0 => break,
            taken => sent += taken,
        }
        pair.settle();
    }
    assert_eq!(sent, STREAM_WINDOW_INITIAL as usize + SEND_BUFFER_MAX);
    assert!(!pair.dialler.has_output());
    let mut read = 0;
    let mut buffer = vec![0; 10_000];
    while let Ok(ReadOutcome::Bytes(length)) = pair.acceptor.read(stream, &mut buffer) {
        read += length;
        pair.settle();
    }
    assert_eq!(read, sent);
    assert_eq!(events(&mut pair.dialler), [Event::Writable(stream)]);
}

#[test]
fn a_reader_that_keeps_up_gets_a_larger_window_and_gives_it_back() {
    let mut pair = Pair::new();
    let stream = pair.open();
    let lots = vec![7; 64 * 1024];
    for _ in 0..200 {
        let _ = pair.dialler.send(stream, &lots).unwrap();
        pair.settle();
        let _ = read_all(&mut pair.acceptor, stream);
        pair.settle();
    }
    assert_eq!(pair.acceptor.streams[&stream].window, STREAM_WINDOW_MAX);
    pair.dialler.release(stream);
    pair.settle();
    pair.acceptor.release(stream);
    assert_accounts(&pair.acceptor);
    assert_eq!(pair.acceptor.streams_len(), 0);
}

#[test]
fn streams_take_turns_frame_by_frame() {
    let mut pair = Pair::new();
    let streams: Vec<StreamId> = (0..3).map(|_| pair.open()).collect();
    pair.settle();
    // The first write fills the output; what the others write waits for its turn.
    let lots = vec![0; OUTPUT_TARGET];
    for stream in &streams {
        assert!(pair.dialler.send(*stream, &lots).unwrap() > 0);
    }
    let mut order = Vec::new();
    for _ in 0..3 {
        pair.dialler.fill();
        let bytes = pair.dialler.output().to_vec();
        pair.dialler.sent(bytes.len(), pair.now);
        let mut rest = &bytes[..];
        while let Some((header, tail)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(*header).unwrap();
            order.push(header.stream);
            rest = &tail[usize::from(header.length)..];
        }
    }
    let [first, second, third] = streams[..] else { unreachable!() };
    let turns: Vec<StreamId> = order.into_iter().skip_while(|stream| *stream == first).collect();
    assert_eq!(turns[..4], [second, third, second, third]);
}

#[test]
fn stalled_readers_do_not_starve_the_others() {
    let mut pair = Pair::new();
    let lots = vec![1; STREAM_WINDOW_INITIAL as usize + SEND_BUFFER_MAX];
    for _ in 0..100 {
        let stalled = pair.open();
        let _ = pair.dialler.send(stalled, &lots).unwrap();
        pair.settle();
    }
    let lively = pair.open();
    let mut read = 0;
    while read < 10 * STREAM_WINDOW_MAX as usize {
        let _ = pair.dialler.send(lively, &lots).unwrap();
        pair.settle();
        let (bytes, _) = read_all(&mut pair.acceptor, lively);
        assert!(!bytes.is_empty(), "after {read} bytes");
        read += bytes.len();
        pair.settle();
    }
}

#[test]
fn a_refused_stream_was_not_processed_and_a_reset_one_may_have_been() {
    for (code, fault) in [(ResetCode::Refused, Fault::Refused), (ResetCode::Error, Fault::Reset)] {
        let mut pair = Pair::new();
        let stream = pair.open();
        pair.settle();
        assert_eq!(pair.dialler.read(stream, &mut [0]), Ok(ReadOutcome::Empty));
        pair.acceptor.reset(stream, code);
        pair.acceptor.release(stream);
        pair.settle();
        assert_eq!(events(&mut pair.dialler), [Event::Readable(stream)]);
        assert_eq!(pair.dialler.read(stream, &mut [0]), Err(fault));
        assert_eq!(pair.dialler.send(stream, b"x"), Err(fault));
        assert_eq!(fault.nothing_was_processed(), code == ResetCode::Refused);
        pair.dialler.release(stream);
        assert_eq!((pair.dialler.streams_len(), pair.acceptor.streams_len()), (0, 0));
    }
}

#[test]
fn whoever_watches_a_stream_is_told_that_it_broke_though_it_is_not_read() {
    let mut pair = Pair::new();
    let stream = pair.open();
    pair.settle();
    assert_eq!(pair.acceptor.send(stream, b"not read"), Ok(8));
    pair.settle();
    assert_eq!(pair.dialler.watch(stream), None);
    assert_eq!(events(&mut pair.dialler), []);
    pair.acceptor.reset(stream, ResetCode::Error);
    pair.settle();
    assert_eq!(events(&mut pair.dialler), [Event::Broken(stream)]);
    assert_eq!(pair.dialler.watch(stream), Some(Fault::Reset));
    assert_eq!(events(&mut pair.dialler), [], "once");
}

#[test]
fn what_came_before_the_end_survives_a_reset() {
    let mut pair = Pair::new();
    let stream = pair.open();
    pair.settle();
    assert_eq!(pair.acceptor.send(stream, b"early answer"), Ok(12));
    pair.acceptor.finish(stream);
    // The handler leaves without having read the question: the asker is told to stop.
    pair.acceptor.release(stream);
    pair.settle();
    assert_eq!(pair.dialler.send(stream, b"more"), Err(Fault::Reset));
    assert_eq!(read_all(&mut pair.dialler, stream), (b"early answer".to_vec(), Ok(ReadOutcome::End)));
}

#[test]
fn a_dropped_stream_is_reset_unless_it_was_finished() {
    let mut pair = Pair::new();
    let (dropped, finished) = (pair.open(), pair.open());
    let _ = pair.dialler.send(finished, b"all of it").unwrap();
    pair.settle();
    pair.dialler.release(dropped);
    pair.dialler.finish(finished);
    pair.settle();
    assert_eq!(read_all(&mut pair.acceptor, dropped).1, Err(Fault::Reset));
    assert_eq!(read_all(&mut pair.acceptor, finished), (b"all of it".to_vec(), Ok(ReadOutcome::End)));
}

#[test]
fn a_finished_write_beyond_the_window_still_arrives_after_its_writer_has_gone() {
    let mut pair = Pair::new();
    let stream = pair.open();
    pair.settle();
    let lots = vec![9; STREAM_WINDOW_INITIAL as usize + 1_000];
    assert_eq!(pair.acceptor.send(stream, &lots), Ok(lots.len()));
    pair.dialler.finish(stream);
    pair.settle();
    pair.acceptor.finish(stream);
    pair.acceptor.release(stream);
    let mut got = 0;
    loop {
        pair.settle();
        let (bytes, end) = read_all(&mut pair.dialler, stream);
        got += bytes.len();
        if end == Ok(ReadOutcome::End) {
            break;
        }
    }
    assert_eq!(got, lots.len());
    assert_eq!(pair.acceptor.streams_len(), 0);
}

/// Found by the random histories: each side waited for credit that only a reader would have returned.
#[test]
fn two_writers_that_finished_and_left_do_not_wait_for_each_other() {
    let mut pair = Pair::new();
    let stream = pair.open();
    pair.settle();
    let lots = vec![9; STREAM_WINDOW_INITIAL as usize + SEND_BUFFER_MAX];
    for mux in [&mut pair.dialler, &mut pair.acceptor] {
        while mux.send(stream, &lots).unwrap() > 0 {}
        mux.finish(stream);
    }
    for mux in [&mut pair.dialler, &mut pair.acceptor] {
        mux.release(stream);
    }
    pair.settle();
    assert_eq!((pair.dialler.streams_len(), pair.acceptor.streams_len()), (0, 0));
}

#[test]
fn beyond_the_limit_streams_are_refused_one_by_one() {
    let mut pair = Pair::new();
    pair.acceptor.accept_max = 3;
    let streams: Vec<StreamId> = (0..4).map(|_| pair.open()).collect();
    pair.settle();
    assert_eq!(pair.dialler.fault(streams[2]), None);
    assert_eq!(pair.dialler.fault(streams[3]), Some(Fault::Refused));
    assert_eq!(pair.acceptor.stats().streams_refused, 1);
    // A stream counts until its handler lets go, however often the opener resets.
    pair.dialler.reset(streams[0], ResetCode::Error);
    let fifth = pair.open();
    pair.settle();
    assert_eq!(pair.dialler.fault(fifth), Some(Fault::Refused));
    pair.acceptor.release(streams[0]);
    let sixth = pair.open();
    pair.settle();
    assert_eq!(pair.dialler.fault(sixth), None);
}

#[test]
fn an_opener_stops_at_its_own_limits() {
    let mut pair = Pair::new();
    for _ in 0..OPEN_STREAMS_MAX {
        let _ = pair.open();
    }
    assert_eq!(pair.dialler.open(b"", pair.now), Err(CannotOpen::Full));
    let mut mux = Mux::new(Role::Dialler, 0, pair.now);
    assert_eq!(mux.open(&[0; OPEN_BYTES_MAX + 1], pair.now), Err(CannotOpen::HeaderTooLarge));
    assert_eq!(mux.open(&[0; OPEN_BYTES_MAX], pair.now), Ok(StreamId(1)));
    mux.next_own = STREAM_ID_MAX;
    assert_eq!(mux.open(b"", pair.now), Ok(StreamId(STREAM_ID_MAX)));
    assert_eq!(mux.open(b"", pair.now), Err(CannotOpen::GoingAway));
}

#[test]
fn goaway_lets_the_old_streams_live_and_gives_the_new_ones_back() {
    let mut pair = Pair::new();
    let old = pair.open();
    pair.settle();
    pair.acceptor.goaway();
    // This one crosses the goaway.
    let new = pair.open();
    let _ = pair.dialler.send(new, b"never looked at").unwrap();
    assert_eq!(pair.dialler.read(new, &mut [0]), Ok(ReadOutcome::Empty));
    pair.settle();
    assert_eq!(events(&mut pair.dialler), [Event::GoAway, Event::Readable(new)]);
    assert_eq!(pair.dialler.read(new, &mut [0]), Err(Fault::Unprocessed));
    assert!(Fault::Unprocessed.nothing_was_processed());
    assert_eq!(pair.acceptor.stats().streams_ignored, 1);
    assert_eq!(pair.dialler.open(b"", pair.now), Err(CannotOpen::GoingAway));
    pair.dialler.release(new);
    assert!(!pair.dialler.is_drained());
    for mux in [&mut pair.dialler, &mut pair.acceptor] {
        let _ = mux.send(old, b"to the end").unwrap();
        mux.finish(old);
    }
    pair.settle();
    for mux in [&mut pair.dialler, &mut pair.acceptor] {
        assert_eq!(read_all(mux, old), (b"to the end".to_vec(), Ok(ReadOutcome::End)));
        mux.release(old);
        assert!(mux.is_drained());
    }
}

#[test]
fn a_lost_connection_fails_its_streams_and_tells_which_never_left() {
    let mut pair = Pair::new();
    let left = pair.open();
    pair.settle();
    let stayed = pair.open();
    assert_eq!(pair.dialler.read(left, &mut [0]), Ok(ReadOutcome::Empty));
    pair.dialler.connection_lost();
    assert_eq!(events(&mut pair.dialler), [Event::Readable(left)]);
    assert_eq!(pair.dialler.fault(left), Some(Fault::Lost));
    assert_eq!(pair.dialler.fault(stayed), Some(Fault::Unprocessed));
    assert_eq!(pair.dialler.open(b"", pair.now), Err(CannotOpen::GoingAway));
    assert!(pair.dialler.is_dead());
}

#[test]
fn a_silent_peer_is_asked_then_avoided_then_left() {
    let mut pair = Pair::new();
    let stream = pair.open();
    let ms = Duration::from_millis;
    let mut check = |after: Duration, pings, may_open: Result<(), CannotOpen>, dead| {
        let now = pair.now + after;
        pair.dialler.handle_timeout(now);
        pair.dialler.fill();
        pair.dialler.sent(pair.dialler.output().len(), now);
        assert_eq!(pair.dialler.stats().pings_sent, pings, "{after:?}");
        assert_eq!(pair.dialler.may_open(now), may_open, "{after:?}");
        assert_eq!(pair.dialler.is_dead(), dead, "{after:?}");
    };
    check(ms(0), 0, Ok(()), false);
    check(PING_AFTER - ms(1), 0, Ok(()), false);
    check(PING_AFTER, 1, Ok(()), false);
    check(STALLED_AFTER - ms(1), 1, Ok(()), false);
    check(STALLED_AFTER, 1, Err(CannotOpen::Stalled), false);
    check(CLOSED_AFTER - ms(1), 1, Err(CannotOpen::Stalled), false);
    check(CLOSED_AFTER, 1, Err(CannotOpen::GoingAway), true);
    assert_eq!(pair.dialler.fault(stream), Some(Fault::Lost));
}

#[test]
fn any_answer_makes_a_peer_alive_again_and_quiet_ends_do_not_ping_for_ever() {
    let mut pair = Pair::new();
    let stream = pair.open();
    pair.dialler.sent(pair.dialler.output().len(), pair.now);
    let later = pair.now + STALLED_AFTER;
    assert_eq!(pair.dialler.may_open(later), Err(CannotOpen::Stalled));
    pair.dialler.handle_input(&frame(Kind::Pong, 0, &[0; 8]), later).unwrap();
    assert_eq!(pair.dialler.may_open(later), Ok(()));
    pair.dialler.release(stream);
    // An idle pair: whoever is due first asks, the other answers, and that is all until the next time.
    let mut pair = Pair::new();
    let end = pair.now + 10 * PING_IDLE;
    while pair.now < end {
        pair.now = pair.dialler.poll_timeout().min(pair.acceptor.poll_timeout());
        pair.dialler.handle_timeout(pair.now);
        pair.settle();
        pair.acceptor.handle_timeout(pair.now);
        pair.settle();
    }
    assert_eq!(pair.dialler.stats().pings_sent + pair.acceptor.stats().pings_sent, 10);
}

#[test]
fn violations_are_named() {
    let open = || frame(Kind::Open, 1, b"");
    let raw = |bytes: [u8; 8]| bytes.to_vec();
    check_violation(&[raw([0, 0, 0, 0, 0, 0, 0, 0])], Violation::Kind(0));
    check_violation(&[raw([9, 0, 0, 0, 0, 0, 0, 0])], Violation::Kind(9));
    check_violation(&[raw([1, 1, 0, 0, 1, 0, 0, 0])], Violation::Flags(1));
    let too_long = u16::try_from(DATA_BYTES_MAX + 1).unwrap();
    let [low, high] = too_long.to_le_bytes();
    check_violation(&[raw([2, 0, low, high, 1, 0, 0, 0])], Violation::Length { kind: Kind::Data, length: too_long });
    check_violation(&[raw([2, 0, 0, 0, 1, 0, 0, 0])], Violation::Length { kind: Kind::Data, length: 0 });
    let [low, high] = u16::try_from(OPEN_BYTES_MAX + 1).unwrap().to_le_bytes();
    let length = u16::from_le_bytes([low, high]);
    check_violation(&[raw([1, 0, low, high, 1, 0, 0, 0])], Violation::Length { kind: Kind::Open, length });
    let stream = StreamId(0);
    check_violation(&[frame(Kind::Open, 0, b"")], Violation::Stream { kind: Kind::Open, stream });
    let stream = StreamId(1);
    check_violation(&[frame(Kind::Ping, 1, &[0; 8])], Violation::Stream { kind: Kind::Ping, stream });
    for got in [2, 3, 5] {
        let violation = Violation::OutOfTurn { expected: StreamId(1), got: StreamId(got) };
        check_violation(&[frame(Kind::Open, got, b"")], violation);
    }
    let violation = Violation::OutOfTurn { expected: StreamId(3), got: StreamId(1) };
    check_violation(&[open(), open()], violation);
    for (kind, payload) in
        [(Kind::Data, &b"x"[..]), (Kind::Window, &[1, 0, 0, 0]), (Kind::End, b""), (Kind::Reset, &[2])]
    {
        for stream in [1, 2] {
            let violation = Violation::NeverOpened { kind, stream: StreamId(stream) };
            check_violation(&[frame(kind, stream, payload)], violation);
        }
    }
    check_violation(&[open(), frame(Kind::End, 1, b""), frame(Kind::Data, 1, b"x")], Violation::AfterEnd(StreamId(1)));
    check_violation(&[open(), frame(Kind::End, 1, b""), frame(Kind::End, 1, b"")], Violation::AfterEnd(StreamId(1)));
    check_violation(&[open(), frame(Kind::Window, 1, &[0; 4])], Violation::EmptyWindow(StreamId(1)));
    check_violation(&[open(), frame(Kind::Window, 1, &[255; 4])], Violation::WindowOverflow(StreamId(1)));
    let nearly = (u32::MAX >> 1) - CONNECTION_WINDOW;
    let raise = |by: u32| frame(Kind::Window, 0, &by.to_le_bytes());
    check_violation(&[raise(nearly), raise(1)], Violation::WindowOverflow(StreamId(0)));
    check_violation(&[open(), frame(Kind::Reset, 1, &[0])], Violation::ResetCode(0));
    check_violation(&[frame(Kind::GoAway, 1, b"")], Violation::GoAway(StreamId(1)));
    check_violation(&[frame(Kind::GoAway, 2, b"")], Violation::GoAway(StreamId(2)));
}

#[test]
fn a_second_goaway_takes_nothing_back() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        let _ = pair.open();
    }
    for last in [3, 3, 1] {
        pair.dialler.handle_input(&frame(Kind::GoAway, last, b""), pair.now).unwrap();
    }
    let rises = pair.dialler.handle_input(&frame(Kind::GoAway, 3, b""), pair.now);
    assert_eq!(rises, Err(Violation::GoAway(StreamId(3))));
}

#[test]
fn a_stream_that_overruns_its_window_ends_the_connection() {
    let mut frames = vec![frame(Kind::Open, 1, b"")];
    let full = STREAM_WINDOW_INITIAL as usize / DATA_BYTES_MAX;
    frames.extend((0..full).map(|_| frame(Kind::Data, 1, &[0; DATA_BYTES_MAX])));
    let rest = STREAM_WINDOW_INITIAL as usize % DATA_BYTES_MAX;
    frames.push(frame(Kind::Data, 1, &vec![0; rest]));
    let mut mux = Mux::new(Role::Acceptor, 1, start());
    assert_eq!(mux.handle_input(&frames.concat(), start()), Ok(()));
    frames.push(frame(Kind::Data, 1, b"x"));
    check_violation(&frames, Violation::StreamOverrun(StreamId(1)));
}

#[test]
fn a_connection_that_overruns_its_window_ends() {
    let mut mux = Mux::new(Role::Acceptor, ACCEPT_STREAMS_MAX, start());
    let whole: Vec<u8> = (0..4).flat_map(|_| frame(Kind::Data, 1, &[0; 16_000])).collect();
    let mut sent = 0;
    let mut stream = 1_u32;
    let mut verdict = Ok(());
    while verdict.is_ok() {
        assert!(sent <= CONNECTION_WINDOW as usize, "the window was never enforced");
        mux.handle_input(&frame(Kind::Open, stream, b""), start()).unwrap();
        let mut data = whole.clone();
        for at in 0..4 {
            data[at * 16_008 + 4..][..4].copy_from_slice(&stream.to_le_bytes());
        }
        verdict = mux.handle_input(&data, start());
        sent += 64_000;
        stream += 2;
    }
    assert_eq!(verdict, Err(Violation::ConnectionOverrun));
    assert!(mux.stats().bytes_received <= u64::from(CONNECTION_WINDOW));
}

#[test]
fn late_frames_of_a_stream_that_is_over_are_dropped_and_their_credit_returns() {
    let mut pair = Pair::new();
    let stream = pair.open();
    pair.settle();
    pair.acceptor.reset(stream, ResetCode::Error);
    pair.acceptor.release(stream);
    // All of these crossed the reset.
    let data = vec![0; 50_000];
    assert_eq!(pair.dialler.send(stream, &data), Ok(data.len()));
    pair.dialler.finish(stream);
    pair.settle();
    assert_eq!(pair.acceptor.stats().bytes_discarded, 50_000);
    assert_eq!(pair.acceptor.given + pair.acceptor.consumed, CONNECTION_WINDOW);
}
