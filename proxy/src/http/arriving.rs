//! The body of a request as it arrives.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http::body::BodyError;

/// Where the body of an HTTP/1.1 request comes from: its connection.
pub(crate) trait Wire {
    /// Its next piece; `None` at its end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;
    /// True when all of it has come.
    fn is_over(&self) -> bool;
    /// Bytes that are still to come, if anybody knows.
    fn left(&self) -> Option<u64>;
    /// Nobody wants the rest.
    fn abandon(&mut self);
}

/// A body that comes from whoever asks.
#[derive(Debug)]
pub(crate) enum Arriving {
    /// There is none.
    Empty,
    Http1(Reading),
    Http2(hyper::body::Incoming),
}

/// Reads a body off its connection.
pub(crate) struct Reading(Rc<RefCell<dyn Wire>>);

impl Reading {
    pub(crate) fn new(wire: Rc<RefCell<dyn Wire>>) -> Self {
        Self(wire)
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reading").finish_non_exhaustive()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.borrow_mut().abandon();
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Http1(Reading(wire)) => {
                let polled = wire.borrow_mut().poll_piece(cx);
                let is_over = wire.borrow().is_over();
                if is_over {
                    // Whoever keeps this holds the connection no longer, which goes on to its next request.
                    *this = Self::Empty;
                }
                polled
            }
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(Reading(wire)) => wire.borrow().is_over(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(Reading(wire)) => wire.borrow().left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}
