//! An HTTP/2 client: one connection to a local instance, which requests share.
//!
//! The connection's frames are moved by a task of their own, as h2 wants it. A request has none: whoever sends it moves its
//! body on, whoever reads the answer reads it off h2, each held back by the windows of its stream. Only where an answer
//! begins before the request's body has ended, a task takes the rest of that body on; it ends with the answer's reader.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{Request, Response, Version};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tracing::debug;

use crate::http::body::{BodyError, RequestBody};
use crate::http::client::{Reply, SendFailed};
use crate::limits::{
    H2_ERROR_RESETS_MAX, H2_HEADER_LIST_BYTES_MAX, H2_INSTANCE_CONNECTION_WINDOW, H2_INSTANCE_STREAMS_MAX,
    H2_SEND_BUFFER_BYTES, H2_STREAM_WINDOW,
};

/// A handle on the connection, which ends when the last of them is gone and nothing is under way.
#[derive(Clone)]
pub(crate) struct Http2 {
    requests: SendRequest<Bytes>,
    is_over: Rc<Cell<bool>>,
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl Http2 {
    /// Takes a fresh connection, whose server need not have said anything yet.
    ///
    /// # Errors
    /// The preface could not be written.
    pub(crate) async fn begin<IO: AsyncRead + AsyncWrite + Unpin + 'static>(io: IO) -> io::Result<Self> {
        let shaken = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(H2_INSTANCE_STREAMS_MAX as usize)
            .max_local_error_reset_streams(Some(H2_ERROR_RESETS_MAX))
            .max_header_list_size(H2_HEADER_LIST_BYTES_MAX)
            .initial_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_INSTANCE_CONNECTION_WINDOW)
            .max_send_buffer_size(H2_SEND_BUFFER_BYTES)
            .handshake(io)
            .await;
        let (requests, connection) = shaken.map_err(io::Error::other)?;
        let is_over = Rc::new(Cell::new(false));
        let ends = is_over.clone();
        // Owns the connection; ends with it.
        drop(tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%error, "an HTTP/2 connection to a local instance broke");
            }
            ends.set(true);
        }));
        Ok(Self { requests, is_over })
    }

    /// True when it never takes a request again.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_over.get()
    }

    /// Requests that its server takes at a time.
    pub(crate) fn room(&self) -> u32 {
        u32::try_from(self.requests.current_max_send_streams()).unwrap_or(u32::MAX).min(H2_INSTANCE_STREAMS_MAX)
    }

    /// Sends one request, whose target is absolute; its answer's head. 1xx pass unseen.
    pub(crate) fn send(&self, head: Box<Parts>, body: RequestBody) -> Sending {
        Sending { requests: self.requests.clone(), request: Some((head, body)), answer: None, upload: None }
    }
}

/// One request up to the head of its answer. Dropping it cancels the request.
pub(crate) struct Sending {
    requests: SendRequest<Bytes>,
    /// Until there is room for it.
    request: Option<(Box<Parts>, RequestBody)>,
    answer: Option<ResponseFuture>,
    upload: Option<Upload>,
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("upload", &self.upload).finish_non_exhaustive()
    }
}

impl Future for Sending {
    type Output = Result<Response<Reply>, SendFailed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.request.is_some() {
            let ready = ready!(this.requests.poll_ready(cx));
            let Some((head, body)) = this.request.take() else { return Poll::Pending };
            match ready {
                Ok(()) => this.begin(*head, body).map_err(|error| failed(error, None))?,
                Err(error) => return Poll::Ready(Err(failed(error, Some(head)))),
            }
        }
        if let Some(upload) = &mut this.upload {
            match upload.poll(cx) {
                // Its answer, or why there is none, says more.
                Poll::Ready(Ok(()) | Err(Trouble::Closed)) => this.upload = None,
                Poll::Ready(Err(Trouble::Body(error))) => {
                    return Poll::Ready(Err(SendFailed { is_unsent: false, head: None, is_refused: false, error }));
                }
                Poll::Pending => {}
            }
        }
        let Some(answer) = &mut this.answer else { return Poll::Pending };
        let answer = ready!(Pin::new(answer).poll(cx)).map_err(|error| failed(error, None))?;
        let uploading = this.upload.take().map(|mut upload| {
            tokio::task::spawn_local(async move { drop(std::future::poll_fn(|cx| upload.poll(cx)).await) })
        });
        Poll::Ready(
            Ok(answer.map(|stream| Reply::Http2(Reading { stream, has_data: true, is_over: false, uploading }))),
        )
    }
}

impl Sending {
    fn begin(&mut self, mut head: Parts, body: RequestBody) -> Result<(), h2::Error> {
        head.version = Version::HTTP_2;
        let is_whole = body.is_end_stream();
        let (answer, stream) = self.requests.send_request(Request::from_parts(head, ()), is_whole)?;
        self.answer = Some(answer);
        self.upload = (!is_whole).then(|| Upload { body, stream, data: Bytes::new() });
        Ok(())
    }
}

/// `unsent` is the head of a request that was not even begun.
fn failed(error: h2::Error, unsent: Option<Box<Parts>>) -> SendFailed {
    // The server says that it has not looked at the request (RFC 9113, 8.7).
    // A stream ends with the server's GOAWAY only above the last one that it names (RFC 9113, 6.8).
    let is_refused = error.reason() == Some(Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote());
    SendFailed { is_unsent: unsent.is_some(), head: unsent, is_refused, error: error.into() }
}

/// What moving a request's body on met.
#[derive(Debug)]
enum Trouble {
    /// Nobody takes it.
    Closed,
    /// The body itself is at fault; the stream was reset.
    Body(BodyError),
}

/// The rest of a request's body.
#[derive(Debug)]
struct Upload {
    body: RequestBody,
    stream: SendStream<Bytes>,
    /// Taken of the body, waiting for room.
    data: Bytes,
}

impl Upload {
    /// Moves the body on until all of it is with h2.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        loop {
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Trouble::Closed));
            }
            while !self.data.is_empty() {
                let room = match self.stream.capacity() {
                    0 => match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(room)) => room,
                        Some(Err(_)) | None => return Poll::Ready(Err(Trouble::Closed)),
                    },
                    room => room,
                };
                let piece = self.data.split_to(room.min(self.data.len()));
                let is_last = self.data.is_empty() && self.body.is_end_stream();
                self.stream.send_data(piece, is_last).map_err(|_| Trouble::Closed)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose() {
                Ok(None) => {
                    let sent = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(sent.map_err(|_| Trouble::Closed));
                }
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.stream.reserve_capacity(data.len());
                        self.data = data;
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let sent = self.stream.send_trailers(trailers);
                        return Poll::Ready(sent.map_err(|_| Trouble::Closed));
                    }
                },
                Err(error) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(Trouble::Body(error)));
                }
            }
        }
    }
}

/// Reads an answer's body. Dropping it before its end cancels the request.
pub(crate) struct Reading {
    stream: RecvStream,
    has_data: bool,
    is_over: bool,
    /// What moves the rest of the request's body.
    uploading: Option<JoinHandle<()>>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.is_end_stream()
            && let Some(uploading) = &self.uploading
        {
            uploading.abort();
        }
    }
}

impl Body for Reading {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.has_data {
            if let Some(data) = ready!(this.stream.poll_data(cx)) {
                let data = data?;
                this.stream.flow_control().release_capacity(data.len())?;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            this.has_data = false;
        }
        let trailers = ready!(this.stream.poll_trailers(cx))?;
        this.is_over = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
