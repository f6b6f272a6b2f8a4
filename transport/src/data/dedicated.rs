//! One stream with a connection of its own (`starling-data/1`, `docs/data.md`): an `open` in one direction, its answer in
//! the other, and from then on nothing but the stream's bytes in both.
//!
//! The opener sends no byte before the answer, so whatever was refused can go elsewhere whole. A direction ends by TLS
//! `close_notify`; one that ends without it was broken. The connection ends with its stream: it has no age.
//!
//! Reading order: [`DedicatedStream`], [`Places`] (who holds which connection, and the way to cut it), `dial.rs`,
//! `accept.rs`.

pub(super) mod accept;
pub(super) mod dial;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket, TcpKeepalive};
use starling_identity::PeerIdentity;
use starling_model::NodeName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::Notify;

use super::stream::to_io;
use super::tcp::Tls;
use crate::mux::{Fault, ResetCode};

/// Dedicated connections that one data thread dials to one node.
pub const DEDICATED_DIALLED_PER_PEER_MAX: usize = 32;

/// Dedicated connections of one node that a data thread serves: all that a correct one dials on its four data threads may
/// be served by one here.
pub const DEDICATED_ACCEPTED_PER_PEER_MAX: usize = 4 * DEDICATED_DIALLED_PER_PEER_MAX;

/// Dedicated connections of a data thread in all, in each direction. Each holds its socket's kernel buffers, two
/// descriptors, some 20 KiB here while it is idle, and half a MiB at most where neither side takes what the other says.
pub const DEDICATED_MAX: usize = 512;

const _: () = assert!(DEDICATED_ACCEPTED_PER_PEER_MAX <= DEDICATED_MAX);

/// Bytes that a dedicated stream takes with one write: eight TLS records, one system call. It is also what TLS holds
/// back at most while the socket takes nothing.
pub const DEDICATED_WRITE_BYTES: usize = 128 * 1024;

/// A host that says nothing is asked after so long, and so often (as on shared connections: 15 s in all). The kernel asks
/// only while nothing of ours is on its way; for that see [`Places::cut_stuck`].
const KEEPALIVE_AFTER: Duration = Duration::from_secs(6);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;

/// A stream that moved nothing for so long is stuck, if its host is silent elsewhere too.
const STUCK_AFTER: Duration = Duration::from_secs(15);

const _: () = assert!(
    KEEPALIVE_AFTER.as_secs() + KEEPALIVE_INTERVAL.as_secs() * KEEPALIVE_RETRIES as u64 == STUCK_AFTER.as_secs()
);

/// What a stream, and whoever may cut it, share.
#[derive(Debug)]
struct Held {
    peer: PeerIdentity,
    is_cut: Cell<bool>,
    moved_at: Cell<Instant>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    /// A second handle of its socket: a cut closes it though nobody looks at the stream. `None` where there was no
    /// descriptor left; then the cut is seen when the stream is next looked at.
    socket: Option<Socket>,
    /// The connection of a stream that was dropped before it was answered, and what to answer.
    unanswered: RefCell<Option<(Box<Tls>, ResetCode)>>,
}

impl Held {
    fn cut(&self) {
        self.is_cut.set(true);
        if let Some(socket) = &self.socket {
            // No end: TLS says none, and what the peer sends from here on is answered with a reset.
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Both);
        }
        let wakers = [self.reader.take(), self.writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// The dedicated connections of one thread in one direction.
#[derive(Default)]
pub(super) struct Places {
    held: RefCell<BTreeMap<u64, Rc<Held>>>,
    next: Cell<u64>,
    /// Told whenever a place is free again.
    freed: Notify,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("held", &self.len()).finish_non_exhaustive()
    }
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.held.borrow().len()
    }

    /// Waits until the next place is free again. The future counts from its making.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// False where a connection with `node` would be one too many.
    fn has_room(&self, node: &NodeName, per_peer_max: usize) -> bool {
        let held = self.held.borrow();
        held.len() < DEDICATED_MAX && held.values().filter(|held| held.peer.node == *node).count() < per_peer_max
    }

    fn take(self: &Rc<Self>, io: &Tls, peer: PeerIdentity) -> Rc<Place> {
        let held = Rc::new(Held {
            socket: SockRef::from(io.get_ref().0.socket()).try_clone().ok(),
            peer,
            is_cut: Cell::new(false),
            moved_at: Cell::new(Instant::now()),
            reader: RefCell::default(),
            writer: RefCell::default(),
            unanswered: RefCell::default(),
        });
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.held.borrow_mut().insert(number, Rc::clone(&held));
        Rc::new(Place { places: Rc::clone(self), number, held })
    }

    fn cut_where(&self, unwanted: impl Fn(&Held) -> bool) -> usize {
        let chosen: Vec<_> = self.held.borrow().values().filter(|held| unwanted(held)).map(Rc::clone).collect();
        chosen.iter().for_each(|held| held.cut());
        chosen.len()
    }

    /// Breaks at once the streams whose peer `keep` does not want; how many.
    pub(super) fn cut_unless(&self, keep: impl Fn(&PeerIdentity) -> bool) -> usize {
        self.cut_where(|held| !held.is_cut.get() && !keep(&held.peer))
    }

    /// Breaks the streams with `node` that have moved nothing for [`STUCK_AFTER`]. For when a shared connection with it
    /// was given up as silent: bytes of ours that nobody acknowledges keep a socket for a quarter of an hour.
    pub(super) fn cut_stuck(&self, node: &NodeName, now: Instant) -> usize {
        let stuck = |held: &Held| now.saturating_duration_since(held.moved_at.get()) >= STUCK_AFTER;
        self.cut_where(|held| !held.is_cut.get() && held.peer.node == *node && stuck(held))
    }
}

/// One connection among the [`Places`], until this is dropped.
#[derive(Debug)]
struct Place {
    places: Rc<Places>,
    number: u64,
    held: Rc<Held>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let gone = self.places.held.borrow_mut().remove(&self.number);
        // Outside the borrow: a waker's drop may run foreign code.
        drop(gone);
        self.places.freed.notify_waiters();
    }
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The acceptor has not answered.
    Unanswered,
    /// Bytes pass.
    Taken,
}

/// A stream of bytes in both directions on a connection of its own; each direction ends by itself (half close).
///
/// Writes may leave ciphertext behind that the socket did not take: flush before waiting for an answer. Dropping it before
/// both directions have ended breaks the connection, and the peer sees a break and no end.
pub struct DedicatedStream {
    // Boxed: what can be either lane should not be as large as this one.
    io: Option<Box<Tls>>,
    place: Rc<Place>,
    stage: Stage,
    answer: Cell<ResetCode>,
    is_broken: Cell<bool>,
    read_ended: bool,
    write_ended: bool,
    /// What went wrong behind bytes that were read.
    failed: Option<io::Error>,
}

impl fmt::Debug for DedicatedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedicatedStream").field("peer", self.peer()).field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl DedicatedStream {
    fn new(mut io: Tls, place: Rc<Place>, stage: Stage) -> Self {
        match &mut io {
            Tls::Client(io) => io.get_mut().1.set_buffer_limit(Some(DEDICATED_WRITE_BYTES)),
            Tls::Server(io) => io.get_mut().1.set_buffer_limit(Some(DEDICATED_WRITE_BYTES)),
        }
        // Best effort: a kernel that does not ask notices later.
        let ask = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        let _ = SockRef::from(io.get_ref().0.socket()).set_tcp_keepalive(&ask);
        Self {
            io: Some(Box::new(io)),
            place,
            stage,
            answer: Cell::new(ResetCode::Error),
            is_broken: Cell::new(false),
            read_ended: false,
            write_ended: false,
            failed: None,
        }
    }

    /// The node at the other end, proven.
    #[must_use]
    pub fn peer(&self) -> &PeerIdentity {
        &self.place.held.peer
    }

    /// True once this side closed it at once (revoked, shutdown).
    #[cfg(test)]
    pub(super) fn is_cut(&self) -> bool {
        self.place.held.is_cut.get()
    }

    /// The acceptor takes the stream: only from here on does its opener send, and only here may bytes be written.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn accept(&mut self) -> io::Result<()> {
        if self.stage == Stage::Unanswered {
            self.stage = Stage::Taken;
            self.write_all(&wire::taken()).await?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Breaks it off in both directions. Before it was accepted the peer is told whether anything was processed.
    pub fn reset(&self, code: ResetCode) {
        self.answer.set(code);
        self.is_broken.set(true);
    }

    /// The connection, unless it is over.
    fn io(&mut self) -> io::Result<Pin<&mut Tls>> {
        if self.place.held.is_cut.get() {
            return Err(to_io(Fault::Lost));
        }
        if self.is_broken.get() {
            return Err(to_io(Fault::Local));
        }
        match &mut self.io {
            Some(io) => Ok(Pin::new(&mut **io)),
            None => Err(to_io(Fault::Local)),
        }
    }

    fn moved(&self) {
        self.place.held.moved_at.set(Instant::now());
    }

    /// Looks at what became of a write, and has a cut wake whoever waits.
    fn seen<T>(&self, polled: Poll<io::Result<T>>, cx: &Context<'_>) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Pending => park(&self.place.held.writer, cx),
            Poll::Ready(Ok(_)) => self.moved(),
            Poll::Ready(Err(_)) => self.is_broken.set(true),
        }
        polled
    }
}

fn park(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut slot = slot.borrow_mut();
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

impl AsyncRead for DedicatedStream {
    /// Takes as many records as are there and fit, so that what is written from them is written at once.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            this.is_broken.set(true);
            return Poll::Ready(Err(error));
        }
        let before = into.filled().len();
        while into.remaining() > 0 {
            let start = into.filled().len();
            let polled = this.io()?.poll_read(cx, into);
            match polled {
                Poll::Ready(Ok(())) if into.filled().len() > start => {}
                Poll::Ready(Ok(())) => {
                    // The end is there again at the next read.
                    this.read_ended |= start == before;
                    break;
                }
                Poll::Ready(Err(error)) if start > before => {
                    this.failed = Some(error);
                    break;
                }
                Poll::Ready(Err(error)) => {
                    this.is_broken.set(true);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending if start > before => break,
                Poll::Pending => {
                    park(&this.place.held.reader, cx);
                    return Poll::Pending;
                }
            }
        }
        this.moved();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for DedicatedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.io()?.poll_write(cx, bytes);
        this.seen(polled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = this.io()?.poll_flush(cx);
        this.seen(polled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = this.io()?.poll_shutdown(cx);
        this.write_ended |= matches!(polled, Poll::Ready(Ok(())));
        this.seen(polled, cx)
    }
}

impl Drop for DedicatedStream {
    fn drop(&mut self) {
        let held = &self.place.held;
        let Some(io) = self.io.take() else { return };
        if self.stage == Stage::Unanswered && !held.is_cut.get() {
            *held.unanswered.borrow_mut() = Some((io, self.answer.get()));
            return;
        }
        if self.is_broken.get() || held.is_cut.get() || !self.read_ended || !self.write_ended {
            // A reset, which no other end can take for an end.
            break_off(&io);
        }
    }
}

fn break_off(io: &Tls) {
    let _ = io.get_ref().0.socket().set_zero_linger();
}
