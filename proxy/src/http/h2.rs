//! HTTP/2 with prior knowledge: from applications, and to instances that speak gRPC ([`client`]).
//!
//! A connection of an application that begins with the preface is served here. Each of its requests is judged, decided and
//! tried as any other, and travels to the peer as HTTP/1.1 on a stream of its own, its trailers included: one
//! machine of frames and windows between two agents is enough, and what one request does, no other feels. The owner's agent
//! writes HTTP/2 again where the instance speaks that. Bodies pass frame by frame, held back by the windows at both ends.
//!
//! An application that gives up more than [`H2_CANCELS_MAX`](crate::limits::H2_CANCELS_MAX) requests in a while loses its
//! connection (CVE-2023-44487); what h2 itself bounds is set in [`Settings`].

pub(crate) mod client;

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::debug;

use crate::http::arriving::Arriving;
use crate::http::body::ResponseBody;
use crate::http::door::{Door, Verdict};
use crate::http::ends;
use crate::http::harden;
use crate::http::outbound::{self, Entrance};
use crate::l4::Tunnelled;
use crate::limits::{
    H2_CANCELS_MAX, H2_CANCELS_PERIOD, H2_CONNECTION_WINDOW, H2_ERROR_RESETS_MAX, H2_HEADER_LIST_BYTES_MAX,
    H2_PENDING_RESETS_MAX, H2_SEND_BUFFER_BYTES, H2_STREAM_WINDOW, H2_STREAMS_MAX, IDLE_TIMEOUT,
};
use crate::through::writes_through;
use crate::worker::Phase;

/// Runs the tasks of hyper's servers on the data thread of their connection, with which they end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnThread;

impl<F: Future + 'static> Executor<F> for OnThread {
    fn execute(&self, task: F) {
        // On the heap first: it is some KiB, and every layer of a task around it would move it, and hold it twice.
        drop(tokio::task::spawn_local(ends::until_end(Box::pin(task))));
    }
}

type Server = hyper::server::conn::http2::Builder<OnThread>;

/// The settings of all HTTP/2 connections that a thread serves.
#[derive(Debug)]
pub(crate) struct Settings(Server);

impl Settings {
    pub(crate) fn new() -> Self {
        let mut server = Server::new(OnThread);
        server
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
            .max_local_error_reset_streams(H2_ERROR_RESETS_MAX)
            .max_header_list_size(H2_HEADER_LIST_BYTES_MAX)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_send_buf_size(H2_SEND_BUFFER_BYTES)
            .auto_date_header(false);
        Self(server)
    }
}

/// Counts requests that their client gave up before they were answered.
#[derive(Debug)]
struct Cancels {
    count: Cell<u32>,
    since: Cell<Instant>,
    too_many: Notify,
}

/// One request that was not answered yet.
struct Unanswered<'a>(Option<&'a Cancels>);

impl Cancels {
    fn new() -> Self {
        Self { count: Cell::new(0), since: Cell::new(Instant::now()), too_many: Notify::new() }
    }

    fn cancelled(&self) {
        let now = Instant::now();
        if now - self.since.get() >= H2_CANCELS_PERIOD {
            self.since.set(now);
            self.count.set(0);
        }
        self.count.set(self.count.get().saturating_add(1));
        if self.count.get() > H2_CANCELS_MAX {
            self.too_many.notify_one();
        }
    }
}

impl Unanswered<'_> {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(cancels) = self.0 {
            cancels.cancelled();
        }
    }
}

fn verdict(request: &Request<Incoming>) -> Verdict {
    match harden::check_http2(request) {
        Ok(()) => Verdict::Approved,
        Err(refused) => Verdict::Refused(refused),
    }
}

/// Serves one connection of an application until it ends. Owns it; dropping this at any `.await` closes it.
pub(crate) async fn serve<S: Tunnelled>(entrance: Rc<Entrance>, stream: Rewound<S>) {
    let cancels = Rc::new(Cancels::new());
    let worker = entrance.worker.clone();
    let door = entrance.door.clone();
    let service = {
        let cancels = cancels.clone();
        service_fn(move |request: Request<Incoming>| {
            let (entrance, cancels) = (entrance.clone(), cancels.clone());
            async move {
                let unanswered = Unanswered(Some(&cancels));
                let verdict = verdict(&request);
                let response = outbound::answer(&entrance, request.map(Arriving::Http2), verdict).await;
                unanswered.answered();
                response
            }
        })
    };
    let mut connection = pin!(worker.http2.0.serve_connection(TokioIo::new(stream), service));
    let mut phase = worker.phase.clone();
    let mut closing = pin!(closing(&mut phase));
    let mut is_closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "an application's HTTP/2 connection broke");
                }
                return;
            }
            () = closing.as_mut(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = cancels.too_many.notified() => {
                debug!("an application gave up too many requests of one HTTP/2 connection");
                return;
            }
            () = idle(&door) => return,
        }
    }
}

async fn closing(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Closing).await;
}

/// Ready when a connection has had no request for too long.
async fn idle(door: &Door) {
    loop {
        let now = Instant::now();
        let due = if door.is_busy() { now + IDLE_TIMEOUT } else { door.last_active() + IDLE_TIMEOUT };
        if due <= now {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}

/// What HTTP/2 does not take of an answer (RFC 9113, 8.2.2).
pub(crate) fn pass_on(response: &mut http::Response<ResponseBody>) {
    harden::strip_hop_by_hop(response.headers_mut());
}

/// A stream with what was read of it put back.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    read: Vec<u8>,
    inner: S,
}

impl<S: Tunnelled> Tunnelled for Rewound<S> {
    fn break_off(&self) {
        self.inner.break_off();
    }
}

impl<S> Rewound<S> {
    pub(crate) fn new(read: Vec<u8>, inner: S) -> Self {
        Self { read, inner }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let count = this.read.len().min(buf.remaining());
        buf.put_slice(this.read.get(..count).unwrap_or_default());
        this.read.drain(..count);
        if this.read.is_empty() {
            this.read = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    writes_through!(inner);

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
