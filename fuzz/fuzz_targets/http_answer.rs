//! The head and the body of an answer. The first byte says what was asked and how the rest is cut.
//!
//! However an answer is cut, the same is read. And what is accepted, hyper's client accepts as well and reads alike: its
//! status, its headers, its body, its trailers and whether the connection may be used again. More may be refused here.
#![no_main]

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{HeaderMap, Method, Request, StatusCode};
use libfuzzer_sys::fuzz_target;
use starling_fuzz::Input;
use starling_proxy::http::codec::Malformed;
use starling_proxy::http::codec::read_answer::{end_of_head, take_head};
use starling_proxy::http::codec::body::Piece;
use starling_proxy::limits::HTTP_BUFFER_BYTES;

/// What was read of one answer, up to the end of the connection.
#[derive(Debug, PartialEq)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let first = input.byte();
    let method = if first & 1 == 1 { Method::HEAD } else { Method::GET };
    let bytes = input.rest();
    let whole = read(&method, bytes, bytes.len().max(1));
    let cut = read(&method, bytes, usize::from(first >> 1).max(1));
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => assert_eq!(whole, cut, "cutting decides what is read"),
        (Err(_), Err(_)) => {}
        (whole, cut) => panic!("cutting decides what is accepted: {whole:?}, {cut:?}"),
    }
    let Ok(Some(ours)) = whole else { return };
    match hyper(&method, bytes) {
        Some(theirs) => assert_eq!(ours, theirs, "in {:?}", String::from_utf8_lossy(bytes)),
        None => panic!("hyper refuses {:?}, read here as {ours:?}", String::from_utf8_lossy(bytes)),
    }
});

/// As the client reads it. `None`: an answer that switches protocols, which hyper reads by another way.
fn read(method: &Method, bytes: &[u8], piece: usize) -> Result<Option<Seen>, Malformed> {
    let (mut input, mut parts, mut searched) = (BytesMut::new(), bytes.chunks(piece), 0);
    let head = loop {
        match end_of_head(&input, searched)? {
            Some(end) => {
                searched = 0;
                let head = take_head(&mut input, end, method)?;
                if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Ok(None);
                }
                if !head.status.is_informational() {
                    break head;
                }
            }
            None => {
                searched = input.len();
                input.extend_from_slice(parts.next().ok_or(Malformed::BrokeOff)?);
            }
        }
    };
    let (mut body, mut data) = (head.body, Vec::new());
    assert!(!(head.keeps && body.is_until_end()), "nothing follows such a body");
    let trailers = loop {
        match body.next(&mut input)? {
            Piece::Data(bytes) => data.extend_from_slice(&bytes),
            Piece::Trailers(trailers) => break Some(trailers),
            Piece::End => break None,
            Piece::More => match parts.next() {
                Some(part) => input.extend_from_slice(part),
                None => body.end()?,
            },
        }
    };
    Ok(Some(Seen { status: head.status, headers: head.headers, body: data, trailers }))
}

/// As hyper's client reads it; `None` if it does not.
fn hyper(method: &Method, bytes: &[u8]) -> Option<Seen> {
    let asked = Rc::new(Cell::new(false));
    let memory = Memory { bytes: bytes.to_vec(), at: 0, asked: asked.clone() };
    let seen = RefCell::new(None);
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(HTTP_BUFFER_BYTES);
    let mut context = Context::from_waker(Waker::noop());
    let mut shaken = pin!(builder.handshake::<_, Empty<Bytes>>(memory));
    let Poll::Ready(Ok((mut sender, connection))) = shaken.as_mut().poll(&mut context) else { return None };
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::new()).ok()?;
    let mut reading = pin!(async {
        let answer = sender.send_request(request).await.ok()?;
        let (head, body) = answer.into_parts();
        let collected = body.collect().await.ok()?;
        let trailers = collected.trailers().cloned();
        *seen.borrow_mut() = Some(Seen {
            status: head.status,
            headers: head.headers,
            body: collected.to_bytes().to_vec(),
            trailers,
        });
        Some(())
    });
    let mut connection = pin!(connection);
    let (mut is_over, mut is_read) = (false, false);
    for _ in 0..10_000 {
        is_over = is_over || connection.as_mut().poll(&mut context).is_ready();
        is_read = is_read || reading.as_mut().poll(&mut context).is_ready();
        if is_read {
            break;
        }
    }
    assert!(is_read, "hyper waits for ever");
    seen.take()
}

/// All bytes at once, behind the request, and then the end.
struct Memory {
    bytes: Vec<u8>,
    at: usize,
    asked: Rc<Cell<bool>>,
}

impl Read for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.asked.get() {
            return Poll::Pending;
        }
        let rest = &self.bytes[self.at..];
        let length = rest.len().min(into.remaining());
        into.put_slice(&rest[..length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked.set(true);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
