//! An HTTP/1.1 client: one stream to a peer or one connection to an instance, which carries one request after the other.
//!
//! It has no task of its own. Whoever sends a request moves its bytes, whoever reads the answer moves those, and an idle
//! client costs nothing; so a request passes an agent without a hand-over from task to task. Only where an answer begins
//! before the request's body has ended, a task takes the rest of that body on.
//!
//! What a client was given up on is closed: dropping an answer before its end, or [`Sending`] with its client, ends the
//! connection, as nobody knows where it stands.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use starling_transport::data::fault_of;
use starling_transport::mux::Fault;
use tokio::io::AsyncWrite;

use crate::http::body::{BodyError, RequestBody};
use crate::http::buffers::{self, WRITE_BYTES, return_buffer, take_buffer};
use crate::http::codec::Malformed;
use crate::http::codec::body::{Body, Piece};
use crate::http::codec::framing::Framing;
use crate::http::codec::read_answer::{AnswerHead, end_of_head, take_head};
use crate::http::codec::write_request::write_head;
use crate::http::h2;
use crate::http::upgrade::Far;

/// Why no answer came.
#[derive(Debug)]
pub(crate) struct SendFailed {
    /// Certainly nobody read a byte of the request. Its body may be used up.
    pub(crate) is_unsent: bool,
    /// The head of the request, where it was kept.
    pub(crate) head: Option<Box<Parts>>,
    /// Said by whoever answers: it has not looked at the request.
    pub(crate) is_refused: bool,
    /// For logs.
    pub(crate) error: BodyError,
}

impl SendFailed {
    fn new(is_unsent: bool, head: Option<Box<Parts>>, error: BodyError) -> Self {
        Self { is_unsent, head, is_refused: false, error }
    }
}

/// A client, by whoever keeps it.
#[derive(Debug)]
pub(crate) struct Http1(Rc<RefCell<Connection>>);

#[derive(Debug)]
struct Connection {
    /// `None` once nobody can use it any more.
    far: Option<Far>,
    /// Read and not yet used.
    input: BytesMut,
    /// To be written, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// A byte of the request was sent.
    has_sent: bool,
    /// The rest of the request's body.
    upload: Option<Upload>,
    /// The rest of the answer's body; `None`: no answer is under way.
    answer: Option<Body>,
    /// A request was sent, and its answer's head is awaited.
    is_asked: bool,
    /// Another request may follow.
    keeps: bool,
    /// Why a stream to a peer ended, once it has.
    fault: Rc<Cell<Option<Fault>>>,
    /// Whoever moves a body on beside its answer, and whoever reads that answer meanwhile: each learns when the other ends
    /// the connection.
    uploader: Option<Waker>,
    reader: Option<Waker>,
}

#[derive(Debug)]
struct Upload {
    body: RequestBody,
    framing: Framing,
    has_ended: bool,
}

/// What moving a request's bytes on met.
#[derive(Debug)]
enum Trouble {
    /// Nobody takes them.
    Closed(io::Error),
    /// The body itself is at fault.
    Body(BodyError),
}

impl Http1 {
    pub(crate) fn new(far: Far, fault: Rc<Cell<Option<Fault>>>) -> Self {
        Self(Rc::new(RefCell::new(Connection {
            far: Some(far),
            input: BytesMut::new(),
            output: Vec::new(),
            written: 0,
            has_sent: false,
            upload: None,
            answer: None,
            is_asked: false,
            keeps: true,
            fault,
            uploader: None,
            reader: None,
        })))
    }

    /// True when it takes a request.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.borrow().is_idle()
    }

    /// True when it never takes a request again: it broke, or whoever answers has ended it while it was idle.
    pub(crate) fn is_closed(&self) -> bool {
        let connection = self.0.borrow();
        match &connection.far {
            None => true,
            Some(far) => !connection.is_under_way() && (!connection.keeps || !far.is_quiet()),
        }
    }

    /// Ends the connection, whatever is under way on it: nobody wants the rest.
    pub(crate) fn abandon(&self) {
        self.0.borrow_mut().close();
    }

    /// What carries bytes both ways once an answer has switched protocols, and what came behind that answer.
    pub(crate) fn take_far(&self) -> Option<(Far, Bytes)> {
        let mut connection = self.0.borrow_mut();
        let far = connection.far.take()?;
        Some((far, connection.input.split().freeze()))
    }

    /// Sends one request; its answer's head. 1xx other than 101 pass unseen (RFC 9110, 15.2). The request's head is on the
    /// heap: it goes from hand to hand, and what waits for the answer stays small.
    pub(crate) fn send(&self, head: Box<Parts>, body: RequestBody) -> Sending {
        let (connection, method) = (self.0.clone(), head.method.clone());
        Sending { connection, head: Some(head), body: Some(body), method, trouble: None, searched: 0 }
    }
}

/// One request up to the head of its answer. Small and without a task: it lies in the future of whoever asks.
#[derive(Debug)]
pub(crate) struct Sending {
    connection: Rc<RefCell<Connection>>,
    /// Kept to the end: another try may want it.
    head: Option<Box<Parts>>,
    /// Until the first poll.
    body: Option<RequestBody>,
    method: Method,
    /// The request cannot be sent to its end; an answer may still be there.
    trouble: Option<io::Error>,
    searched: usize,
}

impl Future for Sending {
    type Output = Result<Response<Reply>, SendFailed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let head = ready!(this.poll_head(cx))?;
        Poll::Ready(Ok(begun(&this.connection, head)))
    }
}

impl Sending {
    /// Its head, which is kept to its end.
    pub(crate) fn take_head(&mut self) -> Option<Box<Parts>> {
        self.head.take()
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, SendFailed>> {
        let mut held = self.connection.borrow_mut();
        let connection = &mut *held;
        if let (Some(head), Some(body)) = (&self.head, self.body.take())
            && let Err(error) = connection.begin(head, body)
        {
            return Poll::Ready(Err(SendFailed::new(false, self.head.take(), error.into())));
        }
        match connection.poll_upload(cx) {
            Poll::Ready(Err(Trouble::Body(error))) => {
                connection.close();
                return Poll::Ready(Err(SendFailed::new(false, self.head.take(), error)));
            }
            Poll::Ready(Err(Trouble::Closed(error))) => {
                if !connection.has_sent {
                    connection.close();
                    return Poll::Ready(Err(SendFailed::new(true, self.head.take(), error.into())));
                }
                connection.upload = None;
                connection.output = Vec::new();
                connection.keeps = false;
                self.trouble = Some(error);
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match ready!(connection.poll_head(cx, &self.method, &mut self.searched)) {
            Ok(head) => Poll::Ready(Ok(head)),
            Err(error) => {
                let left_behind = connection.fault.get() == Some(Fault::Unprocessed);
                connection.close();
                // What kept the request from being sent says more than that no answer came.
                let error = self.trouble.take().map_or(error, BodyError::from);
                Poll::Ready(Err(SendFailed::new(left_behind, self.head.take(), error)))
            }
        }
    }
}

/// An answer whose head has come.
fn begun(connection: &Rc<RefCell<Connection>>, head: AnswerHead) -> Response<Reply> {
    let AnswerHead { status, reason, headers, body, keeps } = head;
    let mut held = connection.borrow_mut();
    held.is_asked = false;
    held.keeps &= keeps && status != StatusCode::SWITCHING_PROTOCOLS;
    held.answer = Some(body);
    if held.upload.is_some() {
        // Nobody will drive it here any more.
        drop(tokio::task::spawn_local(Uploading(connection.clone())));
    }
    held.settle();
    drop(held);
    let mut answer = Response::new(Reply::Http1(Reading(connection.clone())));
    (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
    *answer.version_mut() = Version::HTTP_11;
    if let Some(reason) = reason {
        answer.extensions_mut().insert(reason);
    }
    answer
}

impl Drop for Connection {
    /// Where nothing is under way, a stream to a peer ends and is not broken off.
    fn drop(&mut self) {
        if !self.is_under_way()
            && let Some(Far::Peer(stream)) = &mut self.far
        {
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Connection {
    fn is_idle(&self) -> bool {
        self.keeps && !self.is_under_way() && self.far.is_some()
    }

    /// A request or its answer has not come to its end.
    fn is_under_way(&self) -> bool {
        self.is_asked || self.answer.is_some() || self.upload.is_some()
    }

    fn close(&mut self) {
        self.far = None;
        self.upload = None;
        self.keeps = false;
        (self.input, self.output) = (BytesMut::new(), Vec::new());
        for other in [self.uploader.take(), self.reader.take()].into_iter().flatten() {
            other.wake();
        }
    }

    /// Looks whether all is over that was under way.
    fn settle(&mut self) {
        if self.answer.is_some_and(|body| body.is_done()) {
            self.answer = None;
            // From now on the rest of the request alone sees the end of the connection.
            if let Some(uploader) = self.uploader.take() {
                uploader.wake();
            }
            if !self.input.is_empty() {
                // Said unasked: whatever it is, it answers nothing of ours.
                self.keeps = false;
            } else {
                self.input = BytesMut::new();
            }
        }
    }

    fn begin(&mut self, head: &Parts, body: RequestBody) -> Result<(), Malformed> {
        let has_body = !body.is_end_stream();
        self.output = take_buffer();
        (self.written, self.has_sent) = (0, false);
        let framing = write_head(&mut self.output, (&head.method, &head.uri, &head.headers), has_body)?;
        self.upload = Some(Upload { body, framing, has_ended: !has_body });
        self.is_asked = true;
        Ok(())
    }

    /// Moves the request on until all of it is written.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        loop {
            let Some(upload) = &mut self.upload else { return Poll::Ready(Ok(())) };
            let mut waits = false;
            // The head and what is there of the body go out together.
            while !upload.has_ended && self.output.len() < WRITE_BYTES {
                match Pin::new(&mut upload.body).poll_frame(cx) {
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                    Poll::Ready(frame) => upload.take(&mut self.output, frame).map_err(Trouble::Body)?,
                }
            }
            if self.written == self.output.len() {
                if waits {
                    return Poll::Pending;
                }
                // All of it, or more would have been written behind it.
                return_buffer(std::mem::take(&mut self.output));
                self.written = 0;
                self.upload = None;
                return Poll::Ready(Ok(()));
            }
            let Some(far) = &mut self.far else { return Poll::Ready(Err(closed(io::ErrorKind::BrokenPipe.into()))) };
            let rest = self.output.get(self.written..).unwrap_or_default();
            match ready!(Pin::new(far).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(closed(io::ErrorKind::WriteZero.into()))),
                Ok(length) => {
                    self.written += length;
                    self.has_sent = true;
                }
                Err(error) => {
                    self.note(&error);
                    return Poll::Ready(Err(closed(error)));
                }
            }
            if self.written == self.output.len() && !upload.has_ended {
                self.output.clear();
                self.written = 0;
            }
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        searched: &mut usize,
    ) -> Poll<Result<AnswerHead, BodyError>> {
        loop {
            if let Some(end) = end_of_head(&self.input, *searched)? {
                *searched = 0;
                let head = take_head(&mut self.input, end, method)?;
                if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
                    continue;
                }
                return Poll::Ready(Ok(head));
            }
            *searched = self.input.len();
            if ready!(self.poll_more(cx))? == 0 {
                return Poll::Ready(Err(Malformed::BrokeOff.into()));
            }
        }
    }

    /// Reads once; 0 at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(far) = &mut self.far else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        // As much as is still to come, within reason.
        let left = self.answer.and_then(|body| body.left());
        let read = ready!(buffers::poll_read(Pin::new(far), cx, &mut self.input, left));
        if let Err(error) = &read {
            self.note(error);
        }
        Poll::Ready(read)
    }

    fn note(&self, error: &io::Error) {
        if let Some(fault) = fault_of(error) {
            self.fault.set(Some(fault));
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(body) = &mut self.answer else { return Poll::Ready(None) };
            match body.next(&mut self.input) {
                Ok(Piece::Data(data)) => {
                    self.settle();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::Trailers(trailers)) => {
                    self.settle();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::End) => {
                    self.settle();
                    return Poll::Ready(None);
                }
                Ok(Piece::More) => {}
                Err(error) => return self.fail(error.into()),
            }
            self.reader = self.upload.is_some().then(|| cx.waker().clone());
            match ready!(self.poll_more(cx)) {
                Ok(0) => match self.answer.as_mut().map_or(Ok(()), Body::end) {
                    Ok(()) => {
                        self.settle();
                        self.keeps = false;
                        return Poll::Ready(None);
                    }
                    Err(error) => return self.fail(error.into()),
                },
                Ok(_) => {}
                Err(error) => return self.fail(error.into()),
            }
        }
    }

    fn fail<T>(&mut self, error: BodyError) -> Poll<Option<Result<T, BodyError>>> {
        self.close();
        self.answer = None;
        Poll::Ready(Some(Err(error)))
    }
}

fn closed(error: io::Error) -> Trouble {
    Trouble::Closed(error)
}

impl Upload {
    /// Takes what the body yielded.
    fn take(&mut self, output: &mut Vec<u8>, frame: Option<Result<Frame<Bytes>, BodyError>>) -> Result<(), BodyError> {
        match frame.transpose()?.map(Frame::into_data) {
            None => {
                self.framing.write_end(output, None)?;
                self.has_ended = true;
            }
            Some(Ok(data)) => {
                self.framing.write_data(output, &data)?;
                self.has_ended = self.framing.is_full();
            }
            Some(Err(frame)) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.framing.write_end(output, Some(&trailers))?;
                    self.has_ended = true;
                }
            }
        }
        Ok(())
    }
}

/// Takes a request's body on whose answer has begun.
struct Uploading(Rc<RefCell<Connection>>);

impl Future for Uploading {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut held = self.0.borrow_mut();
        let connection = &mut *held;
        if connection.far.is_none() {
            return Poll::Ready(());
        }
        connection.uploader = Some(cx.waker().clone());
        let uploaded = match connection.poll_upload(cx) {
            // With the answer read to its end, the end of the connection is seen here.
            Poll::Pending if connection.answer.is_none() && connection.poll_more(cx).is_ready() => {
                connection.close();
                return Poll::Ready(());
            }
            Poll::Pending => return Poll::Pending,
            Poll::Ready(uploaded) => uploaded,
        };
        match uploaded {
            Ok(()) => {}
            // The answer goes on; what is left of the request cannot be told any more.
            Err(Trouble::Closed(_)) => (connection.upload, connection.keeps) = (None, false),
            // Whoever reads the request must not take it for complete.
            Err(Trouble::Body(_)) => connection.close(),
        }
        connection.uploader = None;
        Poll::Ready(())
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Http1(Reading),
    Http2(h2::client::Reading),
}

/// Reads an answer's body off its connection.
#[derive(Debug)]
pub(crate) struct Reading(Rc<RefCell<Connection>>);

impl Drop for Reading {
    fn drop(&mut self) {
        let mut connection = self.0.borrow_mut();
        // A tunnel is taken out of it by then.
        if connection.answer.is_some() {
            connection.close();
            connection.answer = None;
        }
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(Reading(connection)) => connection.borrow_mut().poll_piece(cx),
            Self::Http2(reading) => Pin::new(reading).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(Reading(connection)) => connection.borrow().answer.is_none(),
            Self::Http2(reading) => reading.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(Reading(connection)) => match connection.borrow().answer.map(|body| body.left()) {
                None => SizeHint::with_exact(0),
                Some(Some(left)) => SizeHint::with_exact(left),
                Some(None) => SizeHint::default(),
            },
            Self::Http2(reading) => reading.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests;
