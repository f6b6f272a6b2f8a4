//! The multiplexer: frame headers, and bytes through two machines joined in memory.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use starling_transport::mux::frame::{Header, Kind};
use starling_transport::mux::limits::ACCEPT_STREAMS_MAX;
use starling_transport::mux::{Event, Mux, ReadOutcome, Role, StreamId};

/// Two ends and a wire without loss or delay.
struct Pair {
    dialler: Mux,
    acceptor: Mux,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let (dialler, acceptor) = (Mux::new(Role::Dialler, 0, now), Mux::new(Role::Acceptor, ACCEPT_STREAMS_MAX, now));
        Self { dialler, acceptor, now }
    }

    fn settle(&mut self) {
        while carry(&mut self.dialler, &mut self.acceptor, self.now)
            | carry(&mut self.acceptor, &mut self.dialler, self.now)
        {}
    }
}

fn carry(from: &mut Mux, to: &mut Mux, now: Instant) -> bool {
    from.fill();
    let length = from.output().len();
    if length > 0 {
        to.handle_input(from.output(), now).expect("our own frames are correct");
        from.sent(length, now);
    }
    while let Some(event) = to.poll_event() {
        black_box(&event);
    }
    length > 0
}

fn read_all(mux: &mut Mux, stream: StreamId, buffer: &mut [u8]) -> usize {
    let mut all = 0;
    while let Ok(ReadOutcome::Bytes(length)) = mux.read(stream, buffer) {
        all += length;
    }
    all
}

fn headers(criterion: &mut Criterion) {
    let header = Header { kind: Kind::Data, length: 128, stream: StreamId(77) };
    let mut group = criterion.benchmark_group("mux/header");
    group.bench_function("encode", |bench| bench.iter(|| black_box(header).encode()));
    let bytes = header.encode();
    group.bench_function("decode", |bench| bench.iter(|| Header::decode(black_box(bytes))));
    group.finish();
}

/// A request and its answer on a stream of their own, as the HTTP path does it: open, data, end, both ways.
fn exchanges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mux/exchange");
    for at_once in [1_usize, 32] {
        group.throughput(Throughput::Elements(at_once as u64));
        group.bench_with_input(BenchmarkId::new("128 B, streams at once", at_once), &at_once, |bench, at_once| {
            let mut pair = Pair::new();
            let (header, body) = ([1; 96], [2; 128]);
            let mut buffer = [0; 1_024];
            let mut streams = Vec::new();
            bench.iter(|| {
                for _ in 0..*at_once {
                    let stream = pair.dialler.open(&header, pair.now).expect("the connection takes streams");
                    let _ = pair.dialler.send(stream, &body).expect("the stream is open");
                    pair.dialler.finish(stream);
                    streams.push(stream);
                }
                pair.dialler.fill();
                let length = pair.dialler.output().len();
                pair.acceptor.handle_input(pair.dialler.output(), pair.now).expect("our own frames are correct");
                pair.dialler.sent(length, pair.now);
                while let Some(event) = pair.acceptor.poll_event() {
                    let Event::Opened { stream, .. } = event else { continue };
                    black_box(read_all(&mut pair.acceptor, stream, &mut buffer));
                    let _ = pair.acceptor.send(stream, &body).expect("the stream is open");
                    pair.acceptor.finish(stream);
                    pair.acceptor.release(stream);
                }
                pair.settle();
                for stream in streams.drain(..) {
                    assert_eq!(read_all(&mut pair.dialler, stream, &mut buffer), body.len());
                    pair.dialler.release(stream);
                }
            });
        });
    }
    group.finish();
}

/// Long streams in one direction, read as they come.
fn bulk(criterion: &mut Criterion) {
    const ROUND_BYTES: usize = 1024 * 1024;
    let mut group = criterion.benchmark_group("mux/bulk");
    group.throughput(Throughput::Bytes(ROUND_BYTES as u64));
    for streams in [1_usize, 16] {
        group.bench_with_input(BenchmarkId::new("1 MiB, streams", streams), &streams, |bench, streams| {
            let mut pair = Pair::new();
            let ids: Vec<StreamId> = (0..*streams)
                .map(|_| pair.dialler.open(b"bulk", pair.now).expect("the connection takes streams"))
                .collect();
            pair.settle();
            let body = vec![3; 16 * 1024];
            let mut buffer = vec![0; 64 * 1024];
            bench.iter(|| {
                let mut moved = 0;
                while moved < ROUND_BYTES {
                    for id in &ids {
                        let _ = pair.dialler.send(*id, &body).expect("the stream is open");
                    }
                    pair.settle();
                    for id in &ids {
                        moved += read_all(&mut pair.acceptor, *id, &mut buffer);
                    }
                    pair.settle();
                }
                moved
            });
        });
    }
    group.finish();
}

criterion_group!(benches, headers, exchanges, bulk);
criterion_main!(benches);
