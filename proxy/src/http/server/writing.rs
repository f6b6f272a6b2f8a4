//! One answer on its way to whoever asked.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http::response::Parts;
use http_body::{Body as _, Frame};
use hyper::ext::ReasonPhrase;
use tokio::io::AsyncWrite;

use super::wire::Wire;
use crate::http::body::{BodyError, ResponseBody};
use crate::http::buffers::{WRITE_BYTES, return_buffer, take_buffer};
use crate::http::codec::framing::Framing;
use crate::http::codec::write_answer::{AnswerTo, write_head};
use crate::l4::Tunnelled;

/// Bytes that are written from where they are, if the stream takes more than one piece; fewer are copied behind the head.
const WRITTEN_APART: usize = 4 * 1024;

/// Its head and its body, in the order in which they are written: `out`, then `data`.
#[derive(Debug)]
pub(super) struct Writing {
    /// `None` once it has ended: then its exchange is over.
    body: Option<ResponseBody>,
    framing: Framing,
    takes_trailers: bool,
    keeps: bool,
    out: Vec<u8>,
    written: usize,
    data: Bytes,
    /// Bytes of `data` that want an end behind them.
    behind: usize,
    /// The stream takes no more for now.
    is_stuck: bool,
}

impl Writing {
    /// Writes the head, behind what is still `owed`.
    ///
    /// # Errors
    /// The head contradicts the body.
    pub(super) fn begin(owed: &[u8], head: &Parts, body: ResponseBody, to: &AnswerTo) -> io::Result<Self> {
        let mut out = take_buffer();
        out.extend_from_slice(owed);
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        let reason = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
        let head = write_head(&mut out, (head.status, reason, &head.headers), length, to).map_err(io::Error::other)?;
        // A body that may not be written is not asked for either.
        let framing = head.body.unwrap_or(Framing::Length(0));
        let body = Some(body).filter(|body| head.body.is_some() && !body.is_end_stream());
        Ok(Self {
            body,
            framing,
            takes_trailers: to.takes_trailers,
            keeps: head.keeps,
            out,
            written: 0,
            data: Bytes::new(),
            behind: 0,
            is_stuck: false,
        })
    }

    /// Another request may follow.
    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// True while the stream takes no more.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// Ready when all of it is written, or cannot be.
    pub(super) fn poll<S: Tunnelled>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &Rc<RefCell<Wire<S>>>,
    ) -> Poll<io::Result<()>> {
        let is_vectored = wire.borrow().stream.is_write_vectored();
        loop {
            let mut waits = false;
            // The head and what is there of the body go out together.
            while self.data.is_empty() && self.out.len() < WRITE_BYTES {
                self.framing.write_behind(&mut self.out, std::mem::take(&mut self.behind));
                let Some(body) = &mut self.body else { break };
                match Pin::new(body).poll_frame(cx) {
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                    Poll::Ready(frame) => self.take(frame, is_vectored).map_err(io::Error::other)?,
                }
            }
            if self.written == self.out.len() && self.data.is_empty() {
                if self.body.is_none() {
                    return_buffer(std::mem::take(&mut self.out));
                    self.written = 0;
                    return Poll::Ready(Ok(()));
                }
                if waits {
                    return match wire.borrow_mut().poll_gone(cx, false) {
                        Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
            self.is_stuck = true;
            ready!(self.poll_write(cx, &mut wire.borrow_mut().stream, is_vectored))?;
            self.is_stuck = false;
        }
    }

    /// Writes once.
    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        is_vectored: bool,
    ) -> Poll<io::Result<()>> {
        let stream = Pin::new(stream);
        let out = self.out.get(self.written..).unwrap_or_default();
        let count = match (out.is_empty(), self.data.is_empty()) {
            (false, false) if is_vectored => {
                ready!(stream.poll_write_vectored(cx, &[IoSlice::new(out), IoSlice::new(&self.data)]))?
            }
            (true, _) => ready!(stream.poll_write(cx, &self.data))?,
            (false, _) => ready!(stream.poll_write(cx, out))?,
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_out = count.min(out.len());
        self.written = self.written.saturating_add(of_out);
        let of_data = count.saturating_sub(of_out);
        self.data.advance(of_data.min(self.data.len()));
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the body yielded.
    fn take(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>, is_vectored: bool) -> Result<(), BodyError> {
        match frame.transpose()?.map(Frame::into_data) {
            None => self.end(None)?,
            Some(Ok(data)) => {
                let is_large = data.len() >= WRITTEN_APART && is_vectored;
                if is_large || self.out.len().saturating_add(data.len()) > WRITE_BYTES {
                    self.framing.write_before(&mut self.out, data.len())?;
                    (self.behind, self.data) = (data.len(), data);
                } else {
                    self.framing.write_data(&mut self.out, &data)?;
                }
                // What ends a body of known length is nothing that is written.
                let may_end = self.data.is_empty() || self.framing.is_full();
                if may_end && self.body.as_ref().is_some_and(http_body::Body::is_end_stream) {
                    self.end(None)?;
                }
            }
            Some(Err(frame)) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.end(Some(&trailers).filter(|_| self.takes_trailers))?;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), BodyError> {
        self.framing.write_end(&mut self.out, trailers)?;
        self.body = None;
        Ok(())
    }
}
