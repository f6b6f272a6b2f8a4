//! A connection as whoever serves it and the body of the request under way share it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;

use crate::http::arriving;
use crate::http::body::BodyError;
use crate::http::buffers;
use crate::http::codec::Malformed;
use crate::http::codec::body::{Body, Piece};
use crate::http::harden::Framing;
use crate::l4::Tunnelled;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One connection. What of it is read stays in `input` until it is used.
#[derive(Debug)]
pub(super) struct Wire<S> {
    pub(super) stream: S,
    pub(super) input: BytesMut,
    /// What is still to come of the request's body.
    body: Body,
    /// What of `100 Continue` is to be said before more of the body is read.
    owed: &'static [u8],
    /// Nobody wants the rest of the body.
    is_abandoned: bool,
    /// The body did not come to its end, and never will.
    is_broken: bool,
    /// Whoever waits for the end of the body, while another reads it.
    waiter: Option<Waker>,
}

impl<S: Tunnelled> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        let (input, body) = (BytesMut::new(), Body::EMPTY);
        Self { stream, input, body, owed: &[], is_abandoned: false, is_broken: false, waiter: None }
    }

    /// A request begins whose body follows so.
    pub(super) fn begin(&mut self, framing: Framing, expects_continue: bool) {
        self.body = match framing {
            Framing::Empty | Framing::Switch => Body::EMPTY,
            Framing::Length(length) => Body::length(length),
            Framing::Chunked => Body::CHUNKED,
        };
        self.owed = if expects_continue { CONTINUE } else { &[] };
        self.is_abandoned = false;
    }

    /// The answer begins: who waited for leave to send the body gets it instead. Of a leave that was said in part, the rest
    /// goes in front of it.
    pub(super) fn answered(&mut self) -> &'static [u8] {
        let owed = std::mem::take(&mut self.owed);
        if owed.len() == CONTINUE.len() { &[] } else { owed }
    }

    /// Reads once; 0 at the end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = self.body.left().filter(|left| *left > 0);
        buffers::poll_read(Pin::new(&mut self.stream), cx, &mut self.input, left)
    }

    /// Ready when whoever asked has gone, or speaks where nothing may be said (`is_switching`). Pending wakes once more
    /// comes, but for what follows in good order.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>, is_switching: bool) -> Poll<()> {
        if !self.body.is_done() {
            // Whoever reads the body meets its end; but nobody may be able to take more of it.
            self.waiter = Some(cx.waker().clone());
            return self.stream.poll_broken(cx);
        }
        if !self.input.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_more(cx)) {
            Ok(1..) if !is_switching => Poll::Pending,
            Ok(_) | Err(_) => Poll::Ready(()),
        }
    }

    /// Ready once nobody reads the request's body any more: true when all of it has come.
    pub(super) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.is_broken {
            return Poll::Ready(false);
        }
        if self.body.is_done() {
            return Poll::Ready(true);
        }
        if self.is_abandoned {
            return Poll::Ready(self.skip(cx));
        }
        self.waiter = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Drops what is there of the body; true when that is the rest of it.
    fn skip(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_read = false;
        loop {
            match self.body.next(&mut self.input) {
                Ok(Piece::Data(_)) => {}
                Ok(Piece::Trailers(_) | Piece::End) => return true,
                Ok(Piece::More) if !has_read && matches!(self.poll_more(cx), Poll::Ready(Ok(1..))) => has_read = true,
                Ok(Piece::More) | Err(_) => return self.body.is_done(),
            }
        }
    }

    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.owed.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, self.owed))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.owed = self.owed.get(written..).unwrap_or_default();
        }
        Poll::Ready(Ok(()))
    }

    fn break_off<T>(&mut self, error: BodyError) -> Poll<Option<Result<T, BodyError>>> {
        self.is_broken = true;
        self.settle();
        Poll::Ready(Some(Err(error)))
    }

    fn settle(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl<S: Tunnelled> arriving::Wire for Wire<S> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_broken {
            return Poll::Ready(Some(Err(Malformed::BrokeOff.into())));
        }
        if let Err(error) = ready!(self.poll_continue(cx)) {
            return self.break_off(error.into());
        }
        loop {
            let piece = match self.body.next(&mut self.input) {
                Ok(Piece::More) => match ready!(self.poll_more(cx)) {
                    Ok(0) => return self.break_off(Malformed::BrokeOff.into()),
                    Ok(_) => continue,
                    Err(error) => return self.break_off(error.into()),
                },
                Ok(piece) => piece,
                Err(error) => return self.break_off(error.into()),
            };
            if self.body.is_done() {
                self.settle();
            }
            return Poll::Ready(match piece {
                Piece::Data(data) => Some(Ok(Frame::data(data))),
                Piece::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                Piece::End | Piece::More => None,
            });
        }
    }

    fn is_over(&self) -> bool {
        self.body.is_done()
    }

    fn left(&self) -> Option<u64> {
        self.body.left()
    }

    fn abandon(&mut self) {
        self.is_abandoned = true;
        if !self.body.is_done() {
            self.settle();
        }
    }
}
