//! One stream in the hands of its user: of many on a connection, or the only one.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use starling_identity::PeerIdentity;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;
use super::dedicated::DedicatedStream;
use crate::lane::LaneKind;
use crate::mux::{CannotOpen, Fault, ResetCode, StreamId};

/// A stream of bytes in both directions, each of which ends by itself (half close).
///
/// Writes are taken into the connection's next batch, so there is nothing to flush. Dropping it before
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) resets it; after that, what was written is still delivered.
#[derive(Debug)]
pub struct MuxStream {
    connection: Rc<Connection>,
    id: StreamId,
}

impl MuxStream {
    pub(super) const fn new(connection: Rc<Connection>, id: StreamId) -> Self {
        Self { connection, id }
    }

    /// The node at the other end, proven.
    #[must_use]
    pub fn peer(&self) -> &PeerIdentity {
        self.connection.peer()
    }

    /// Its number on its connection.
    #[must_use]
    pub const fn id(&self) -> StreamId {
        self.id
    }

    /// Why it is broken, if it is.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.connection.fault(self.id)
    }

    /// True while it is open and nothing waits to be read. Wakes nobody.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.connection.is_quiet(self.id)
    }

    /// Ready once it is broken, whatever still waits to be read: how whoever cannot take more of it learns that nobody wants
    /// the rest done. The last caller alone is woken.
    pub fn poll_broken(&self, cx: &Context<'_>) -> Poll<()> {
        self.connection.poll_broken(self.id, cx)
    }

    /// A handle on the connection that carries it.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane(self.connection.clone())
    }

    /// Breaks it off in both directions and tells the peer whether anything was processed.
    pub fn reset(&self, code: ResetCode) {
        self.connection.reset(self.id, code);
    }
}

/// Asks about the connection under a stream, for whoever keeps streams for later work.
#[derive(Clone, Debug)]
pub struct Lane(Rc<Connection>);

impl Lane {
    /// False once the connection is dead, going away, or its peer has not answered for 3 s: work that can go elsewhere
    /// should, though what is under way may still end well.
    #[must_use]
    pub fn takes_work(&self, now: Instant) -> bool {
        matches!(self.0.may_open(now), Ok(()) | Err(CannotOpen::Full))
    }

    /// True while the peer has not answered for 3 s: it may be gone, or only slow.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        matches!(self.0.may_open(Instant::now()), Err(CannotOpen::Stalled))
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        self.connection.release(self.id);
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_read(self.id, cx, into).map_err(to_io)
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.connection.poll_write(self.id, cx, bytes).map_err(to_io)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.finish(self.id);
        Poll::Ready(Ok(()))
    }
}

/// A stream on either lane.
#[derive(Debug)]
pub enum DataStream {
    /// One of many on its connection.
    Shared(MuxStream),
    /// The only one.
    Dedicated(DedicatedStream),
}

impl DataStream {
    /// The node at the other end, proven.
    #[must_use]
    pub fn peer(&self) -> &PeerIdentity {
        match self {
            Self::Shared(stream) => stream.peer(),
            Self::Dedicated(stream) => stream.peer(),
        }
    }

    /// Which lane it took.
    #[must_use]
    pub const fn lane_kind(&self) -> LaneKind {
        match self {
            Self::Shared(_) => LaneKind::Shared,
            Self::Dedicated(_) => LaneKind::Dedicated,
        }
    }

    /// The acceptor takes the stream; nothing may be written before. The opener of a dedicated one waits for it.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn accept(&mut self) -> io::Result<()> {
        match self {
            Self::Shared(_) => Ok(()),
            Self::Dedicated(stream) => stream.accept().await,
        }
    }

    /// Breaks it off in both directions and tells the peer whether anything was processed, as far as it can still be told.
    pub fn reset(&self, code: ResetCode) {
        match self {
            Self::Shared(stream) => stream.reset(code),
            Self::Dedicated(stream) => stream.reset(code),
        }
    }
}

impl AsyncRead for DataStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Shared(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Dedicated(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for DataStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Shared(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Dedicated(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Shared(stream) => Pin::new(stream).poll_flush(cx),
            Self::Dedicated(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Shared(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Dedicated(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The fault behind an IO error of a [`DataStream`] or [`MuxStream`].
#[must_use]
pub fn fault_of(error: &io::Error) -> Option<Fault> {
    error.get_ref()?.downcast_ref().copied()
}

pub(super) fn to_io(fault: Fault) -> io::Error {
    let kind = match fault {
        Fault::Refused | Fault::Unprocessed => io::ErrorKind::ConnectionRefused,
        Fault::Reset => io::ErrorKind::ConnectionReset,
        Fault::Lost => io::ErrorKind::ConnectionAborted,
        Fault::Local => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, fault)
}
