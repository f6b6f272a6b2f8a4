//! The door in front of hyper. The first byte says how the rest is cut.
//!
//! However a connection is cut, the same bytes pass. And hyper, given one request as the door delimits it, sees exactly one
//! request, whose body ends where the door says: the two never disagree about a boundary.
#![no_main]

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{Request, Response};
use libfuzzer_sys::fuzz_target;
use starling_fuzz::Input;
use starling_proxy::http::harden::HeadRefused;
use starling_proxy::http::scan::Scan;
use starling_proxy::limits::HTTP_BUFFER_BYTES;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let piece = usize::from(input.byte()).max(1);
    let bytes = input.rest();

    let mut whole = Scan::default();
    let once = whole.feed(bytes);
    assert!(once.approved <= bytes.len());

    // As the door does: what was not approved is given again, with more.
    let (mut scan, mut held, mut approved, mut heads, mut refused) = (Scan::default(), Vec::new(), 0, 0, None);
    for part in bytes.chunks(piece) {
        held.extend_from_slice(part);
        let progress = scan.feed(&held);
        held.drain(..progress.approved);
        approved += progress.approved;
        heads += progress.heads;
        refused = refused.or(progress.refused);
    }
    // A head that asks for a switch is refused together with what comes behind it too early; it passes where it comes
    // alone, since nobody knows what follows.
    let alone = once.refused == Some(HeadRefused::Early) && heads == once.heads + 1 && approved > once.approved;
    assert!(alone || (approved, heads) == (once.approved, once.heads), "cutting decides what passes");
    assert!(refused.is_none() || once.refused.is_some(), "cutting makes {refused:?}");
    assert!(!scan.is_refused() || scan.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").approved == 0);

    // Byte by byte, to learn where requests end.
    let (mut scan, mut held, mut begin) = (Scan::default(), Vec::new(), 0);
    let (mut heads, mut passed) = (0, 0);
    for (at, byte) in bytes.iter().enumerate().take(once.approved) {
        held.push(*byte);
        let progress = scan.feed(&held);
        held.drain(..progress.approved);
        passed += progress.approved;
        heads += progress.heads;
        if progress.approved > 0 && scan.at_boundary() {
            assert_eq!((heads, passed), (1, at + 1 - begin), "a request is one head and its body");
            one_request(&bytes[begin..=at]);
            (begin, heads, passed) = (at + 1, 0, 0);
        }
    }
});

/// hyper sees one request in these bytes, reads its body to the end, and is left with nothing. It may refuse more than the
/// door does, but then it serves nothing that follows either.
fn one_request(bytes: &[u8]) {
    let seen = serve(bytes);
    let shown = String::from_utf8_lossy(bytes);
    match seen.ended {
        Some(_) if seen.requests == 0 || (seen.requests == 1 && seen.refused == 1) => {
            let more = serve(&[bytes, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
            assert_eq!(more.requests, seen.requests, "hyper goes on after it has refused {shown:?}");
        }
        // Bytes that hyper takes for the begin of another request would make the end an error.
        Some(well) => assert!(well && (seen.requests, seen.bodies) == (1, 1), "hyper sees {seen:?} in {shown:?}"),
        None => panic!("hyper waits for more of {shown:?}: {seen:?}"),
    }
}

#[derive(Debug)]
struct Seen {
    requests: usize,
    /// Bodies that were read to their end.
    bodies: usize,
    /// Bodies that ended in an error before the connection did.
    refused: usize,
    /// The connection ended, well or with an error.
    ended: Option<bool>,
}

fn serve(bytes: &[u8]) -> Seen {
    let (requests, bodies, refused) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let service = service_fn(|request: Request<Incoming>| {
        requests.set(requests.get() + 1);
        let (bodies, refused) = (&bodies, &refused);
        async move {
            let outcome = if request.into_body().collect().await.is_ok() { bodies } else { refused };
            outcome.set(outcome.get() + 1);
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(HTTP_BUFFER_BYTES).auto_date_header(false).half_close(false);
    let ended = Cell::new(false);
    let mut connection = pin!(builder.serve_connection(Memory { bytes, ended: &ended }, service));
    let mut context = Context::from_waker(Waker::noop());
    let mut poll = || {
        (0..64).find_map(|_| match connection.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => Some(outcome.is_ok()),
            Poll::Pending => None,
        })
    };
    // While the peer waits for its answer the connection is open; a body that hyper takes for longer is not over then.
    let early = poll();
    let seen = Seen { requests: requests.get(), bodies: bodies.get(), refused: refused.get(), ended: None };
    let end = early.or_else(|| {
        ended.set(true);
        poll()
    });
    Seen { ended: end, ..seen }
}

/// All bytes at once, and the end when it is time.
struct Memory<'a> {
    bytes: &'a [u8],
    ended: &'a Cell<bool>,
}

impl Read for Memory<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() && !self.ended.get() {
            return Poll::Pending;
        }
        let (head, rest) = self.bytes.split_at(self.bytes.len().min(into.remaining()));
        into.put_slice(head);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
