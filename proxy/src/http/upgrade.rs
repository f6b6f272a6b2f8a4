//! Connections that stop carrying HTTP: after `101 Switching Protocols`, and after the answer to `CONNECT`.
//!
//! Routes, filters and deadlines hold for the request up to that answer; then bytes pass both ways until both directions
//! have ended, one side breaks, or nothing moved for [`TUNNEL_IDLE_TIMEOUT`]. Such a connection never returns to a pool.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use starling_transport::data::MuxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tracing::debug;

use crate::http::exchange::Exchange;
use crate::http::outbound::Wanted;
use crate::l4::Tunnelled;
use crate::l4::copy::{Broken, Tally, Tunnel};
use crate::limits::TUNNEL_IDLE_TIMEOUT;

/// The far side of a connection that switched.
#[derive(Debug)]
pub(crate) enum Far {
    Peer(MuxStream),
    Instance(TcpStream),
}

/// What carries bytes both ways from now on, and what came behind the answer.
pub(crate) type Switched = (Far, Bytes);

/// What a connection becomes.
#[derive(Debug)]
pub(crate) enum Switch {
    /// A tunnel to whoever answered 101.
    Upgrade { exchange: Box<Exchange>, far: Switched },
    /// An entrance to a service, as `CONNECT` asks for.
    Entrance { exchange: Box<Exchange>, wanted: Wanted },
}

/// The protocol that a request asks for; only of one that the door let through as such.
pub(crate) fn wanted(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::UPGRADE).cloned()
}

/// Puts on what a request or its answer says about its connection.
pub(crate) fn announce(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Whether an answer switches to just what was asked for (RFC 9110, 15.2.2).
pub(crate) fn agrees<B>(answer: &Response<B>, wanted: Option<&HeaderValue>) -> bool {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return false;
    }
    let mut said = answer.headers().get_all(header::UPGRADE).iter();
    let only = said.next().filter(|_| said.next().is_none());
    only.zip(wanted).is_some_and(|(only, wanted)| only.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Passes bytes both ways until the end. Owns both sides; dropping this at any `.await` closes them.
pub(crate) async fn run<S: Tunnelled>(mut near: S, mut exchange: Box<Exchange>, (mut far, early): Switched) {
    let moved = Cell::new(Instant::now());
    let mut tunnel = Tunnel::answered(&early);
    exchange.response_bytes(early.len() as u64);
    let ran = {
        let mut tally = Passing { exchange: &exchange, moved: &moved };
        in_motion(tunnel.run(&mut near, &mut far, &mut tally), &moved).await
    };
    match ran {
        Some(Ok(())) => exchange.completed(),
        Some(Err(Broken::Client(error))) => {
            debug!(%error, "the caller broke a switched connection off");
            far.break_off();
        }
        Some(Err(Broken::Server(error))) => {
            debug!(%error, "the callee broke a switched connection off");
            exchange.broke_off();
            near.break_off();
        }
        None => {
            debug!("a switched connection moved nothing for too long");
            near.break_off();
            far.break_off();
        }
    }
}

/// The outcome of `work`; `None` once nothing moved for too long.
async fn in_motion<T>(work: impl Future<Output = T>, moved: &Cell<Instant>) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let due = moved.get() + TUNNEL_IDLE_TIMEOUT;
        if let Ok(done) = timeout_at(due.into(), poll_fn(|cx| work.as_mut().poll(cx))).await {
            return Some(done);
        }
        if moved.get() + TUNNEL_IDLE_TIMEOUT <= tokio::time::Instant::now().into_std() {
            return None;
        }
    }
}

/// Counts bytes for the request that opened the way.
struct Passing<'a> {
    exchange: &'a Exchange,
    moved: &'a Cell<Instant>,
}

impl Tally for Passing<'_> {
    fn sent(&mut self, bytes: usize) {
        self.moved.set(tokio::time::Instant::now().into_std());
        self.exchange.request_bytes(bytes as u64);
    }
    fn received(&mut self, bytes: usize) {
        self.moved.set(tokio::time::Instant::now().into_std());
        self.exchange.response_bytes(bytes as u64);
    }
}

impl Far {
    /// True while it is open and nothing has come.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Self::Peer(stream) => stream.is_quiet(),
            Self::Instance(socket) => {
                socket.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }
}

impl Tunnelled for Far {
    fn break_off(&self) {
        match self {
            Self::Peer(stream) => stream.break_off(),
            Self::Instance(socket) => socket.break_off(),
        }
    }
}

impl AsyncRead for Far {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Peer(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Instance(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Far {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Peer(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Instance(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Peer(stream) => Pin::new(stream).poll_flush(cx),
            Self::Instance(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Peer(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Instance(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status: u16, upgrade: &[&str]) -> Response<()> {
        let mut answer = Response::builder().status(status);
        for protocol in upgrade {
            answer = answer.header("upgrade", *protocol);
        }
        answer.body(()).unwrap()
    }

    #[test]
    fn an_answer_switches_to_what_was_asked_for_and_nothing_else() {
        let wanted = HeaderValue::from_static("websocket");
        assert!(agrees(&answer(101, &["WebSocket"]), Some(&wanted)));
        for (status, upgrade) in [(101, &["h2c"][..]), (101, &[]), (101, &["websocket", "h2c"]), (200, &["websocket"])]
        {
            assert!(!agrees(&answer(status, upgrade), Some(&wanted)), "{status} {upgrade:?}");
        }
        assert!(!agrees(&answer(101, &["websocket"]), None), "unasked");
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_lives_on_and_what_does_not_ends() {
        let moved = Cell::new(tokio::time::Instant::now().into_std());
        let work = async {
            for _ in 0..5 {
                tokio::time::sleep(TUNNEL_IDLE_TIMEOUT / 2).await;
                moved.set(tokio::time::Instant::now().into_std());
            }
        };
        assert_eq!(in_motion(work, &moved).await, Some(()));
        let silent = tokio::time::sleep(TUNNEL_IDLE_TIMEOUT + Duration::from_secs(1));
        assert_eq!(in_motion(silent, &moved).await, None);
    }
}
