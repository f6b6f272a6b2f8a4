//! The requests of one connection. The first byte says how the rest is cut.
//!
//! However a connection is cut, the same is read. And hyper's server, given the bytes of one request that is accepted here,
//! reads that one request alike: method, target, headers, body and trailers, and waits for nothing. More may be refused
//! here; nothing behind what is refused is read.
#![no_main]

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, Uri, Version};
use libfuzzer_sys::fuzz_target;
use starling_fuzz::Input;
use starling_proxy::http::codec::body::{Body, Piece};
use starling_proxy::http::codec::read_request::take_request;
use starling_proxy::http::harden::{Framing, HeadRefused};
use starling_proxy::limits::HTTP_BUFFER_BYTES;

/// One request that was read to its end.
#[derive(Debug, PartialEq)]
struct Seen {
    method: Method,
    uri: Uri,
    is_http10: bool,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// What was read of a connection.
#[derive(Debug, PartialEq)]
struct All {
    /// Each request, and where it ends.
    seen: Vec<(Seen, usize)>,
    ends: Ends,
}

/// What ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// More is needed.
    More,
    /// A head is refused, for this reason.
    Head(HeadRefused),
    /// A body is.
    Body,
    /// A request is the last by its own words, or what follows depends on its answer.
    Last,
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let piece = usize::from(input.byte()).max(1);
    let bytes = input.rest();
    let whole = read(bytes, bytes.len().max(1));
    let cut = read(bytes, piece);
    // A request that asks for a switch is refused together with what comes behind it too early; it is read where it comes
    // alone, since nobody knows what follows.
    let alone = whole.ends == Ends::Head(HeadRefused::Early) && cut.ends == Ends::Last;
    if !alone {
        assert_eq!(whole.seen, cut.seen, "cutting decides what is read");
        // Of two rules that are broken either may be told.
        let kind = |ends| matches!(ends, Ends::Head(_));
        let alike = whole.ends == cut.ends || (kind(whole.ends) && kind(cut.ends));
        // What is no HTTP may be seen at its first bytes only.
        assert!(alike || (kind(whole.ends) && cut.ends == Ends::More), "{:?}, cut {:?}", whole.ends, cut.ends);
    }
    let mut begin = 0;
    for (ours, end) in &whole.seen {
        let request = &bytes[begin..*end];
        assert_eq!(hyper(request).iter().collect::<Vec<_>>(), [ours], "in {:?}", String::from_utf8_lossy(request));
        begin = *end;
    }
});

/// As the server reads it.
fn read(bytes: &[u8], piece: usize) -> All {
    let (mut input, mut searched, mut at) = (BytesMut::new(), 0, 0);
    let mut seen = Vec::new();
    loop {
        let more = |input: &mut BytesMut, at: &mut usize| {
            let part = &bytes[*at..bytes.len().min(*at + piece)];
            input.extend_from_slice(part);
            *at += part.len();
            !part.is_empty()
        };
        let head = loop {
            match take_request(&mut input, &mut searched) {
                Ok(Some(head)) => break head,
                Ok(None) if more(&mut input, &mut at) => {}
                Ok(None) => return All { seen, ends: Ends::More },
                Err(refused) => return All { seen, ends: Ends::Head(refused) },
            }
        };
        let (mut body, mut data) = match head.framing {
            Framing::Empty | Framing::Switch => (Body::EMPTY, Vec::new()),
            Framing::Length(length) => (Body::length(length), Vec::new()),
            Framing::Chunked => (Body::CHUNKED, Vec::new()),
        };
        let trailers = loop {
            match body.next(&mut input) {
                Ok(Piece::Data(bytes)) => data.extend_from_slice(&bytes),
                Ok(Piece::Trailers(trailers)) => break Some(trailers),
                Ok(Piece::End) => break None,
                Ok(Piece::More) if more(&mut input, &mut at) => {}
                Ok(Piece::More) => return All { seen, ends: Ends::More },
                Err(_) => return All { seen, ends: Ends::Body },
            }
        };
        let is_last = !head.keeps || head.framing == Framing::Switch;
        let (method, uri, is_http10, headers) = (head.method, head.uri, head.is_http10, head.headers);
        seen.push((Seen { method, uri, is_http10, headers, body: data, trailers }, at - input.len()));
        if is_last {
            return All { seen, ends: Ends::Last };
        }
    }
}

/// As hyper's server reads it; what it refuses is missing.
fn hyper(bytes: &[u8]) -> Vec<Seen> {
    let seen = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| {
        let seen = &seen;
        async move {
            let (head, body) = request.into_parts();
            if let Ok(collected) = body.collect().await {
                let trailers = collected.trailers().cloned();
                seen.borrow_mut().push(Seen {
                    method: head.method,
                    uri: head.uri,
                    is_http10: head.version == Version::HTTP_10,
                    headers: head.headers,
                    body: collected.to_bytes().to_vec(),
                    trailers,
                });
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(HTTP_BUFFER_BYTES).auto_date_header(false).half_close(false);
    let ended = Cell::new(false);
    let mut connection = pin!(builder.serve_connection(Memory { bytes, ended: &ended }, service));
    let mut context = Context::from_waker(Waker::noop());
    let mut poll = || (0..10_000).any(|_| connection.as_mut().poll(&mut context).is_ready());
    // While the peer waits for its answer the connection is open; a body that hyper takes for longer is not over then.
    if !poll() {
        let so_far = seen.borrow().len();
        ended.set(true);
        poll();
        assert_eq!(so_far, seen.borrow().len(), "hyper waits for more of a body");
    }
    seen.take()
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
