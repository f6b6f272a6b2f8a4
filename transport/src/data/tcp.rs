//! Mutual TLS on a TCP socket, and the read-ahead that keeps rustls from reading 4 KiB at a time.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use starling_identity::{CurrentIdentity, tls};
use starling_model::NodeName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::DIAL_DEADLINE;
use super::handshaker::Handshaker;
use crate::error::{DialError, of_io};

/// Bytes of the largest TLS record on the wire: 16 KiB, the header, the kind of content, and AES-GCM's tag (RFC 8446, 5.2).
const RECORD_WIRE_BYTES: usize = 16 * 1024 + 5 + 1 + 16;

/// Bytes taken from a socket at once: eight TLS records, one system call. Whole ones, or each batch of a sender would take
/// a second call for its last bytes.
const READ_AHEAD_BYTES: usize = 8 * RECORD_WIRE_BYTES;

/// Read-ahead buffers a thread keeps; a connection holds one only while ciphertext waits in it.
const SPARE_BUFFERS_MAX: usize = 2;

thread_local! {
    static SPARE_BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Box<[u8]> {
    SPARE_BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ_AHEAD_BYTES].into_boxed_slice())
}

fn return_buffer(buffer: Box<[u8]>) {
    SPARE_BUFFERS.with_borrow_mut(|spare| {
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    });
}

/// A socket whose reads fetch a lot at once, and which owns no buffer while nothing waits.
#[derive(Debug)]
pub(super) struct ReadAhead {
    socket: TcpStream,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadAhead {
    pub(super) const fn new(socket: TcpStream) -> Self {
        Self { socket, waiting: None }
    }

    pub(super) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Lets `home` wait for the socket, instead of the runtime that has until now. Its thread has nothing to do for it.
    ///
    /// # Errors
    /// There are no more file descriptors, or `home` has ended.
    pub(super) fn move_to(&mut self, home: &Handle) -> io::Result<()> {
        // A runtime keeps its own hold of a socket until that is dropped, so there are two for a moment.
        let socket = self.socket.as_fd().try_clone_to_owned()?;
        let _home = home.enter();
        self.socket = TcpStream::from_std(socket.into())?;
        Ok(())
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            let mut buffer = take_buffer();
            let mut fresh = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut this.socket).poll_read(cx, &mut fresh);
            let end = fresh.filled().len();
            match read {
                Poll::Ready(Ok(())) if end > 0 => this.waiting = Some(Waiting { buffer, start: 0, end }),
                nothing @ (Poll::Ready(_) | Poll::Pending) => {
                    return_buffer(buffer);
                    return nothing;
                }
            }
        }
        if let Some(waiting) = &mut this.waiting {
            let bytes = waiting.buffer.get(waiting.start..waiting.end).unwrap_or_default();
            let length = bytes.len().min(into.remaining());
            into.put_slice(bytes.get(..length).unwrap_or_default());
            waiting.start += length;
            if waiting.start == waiting.end
                && let Some(empty) = this.waiting.take()
            {
                return_buffer(empty.buffer);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

/// A mutual TLS connection.
pub(super) type Tls = TlsStream<ReadAhead>;

/// Connects and shakes hands within [`DIAL_DEADLINE`]. In TLS 1.3 this succeeds before the server has judged our
/// certificate; its refusal comes with the first read. Whoever calls looks at the [`protocol`].
pub(super) async fn dial(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    handshaker: &Handshaker,
) -> Result<Tls, DialError> {
    let dial = async move {
        let socket = TcpStream::connect(address).await.map_err(|error| of_io(&error))?;
        // Batches are ours to make; the kernel must not wait for more.
        socket.set_nodelay(true).map_err(|error| of_io(&error))?;
        let connect = TlsConnector::from(config).connect(tls::server_name(), ReadAhead::new(socket));
        connect.await.map_err(|error| of_io(&error))
    };
    let dial = async { Ok(tokio::time::timeout(DIAL_DEADLINE, dial).await.map_err(|_| DialError::Timeout)??.into()) };
    handshaker.shake(dial).await
}

/// What the two sides agreed to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `starling-mux/1`.
    Mux,
    /// `starling-data/1`.
    Dedicated,
}

/// The protocol that was agreed upon.
///
/// # Errors
/// [`DialError::OtherProtocol`] for none, and for others than ours.
pub(super) fn protocol(stream: &Tls) -> Result<Protocol, DialError> {
    match stream.get_ref().1.alpn_protocol() {
        Some(tls::ALPN_MUX) => Ok(Protocol::Mux),
        Some(tls::ALPN_DATA) => Ok(Protocol::Dedicated),
        Some(_) | None => Err(DialError::OtherProtocol),
    }
}

/// Shakes hands with a client within [`DIAL_DEADLINE`]. Whoever calls looks at the [`protocol`].
pub(super) async fn accept(socket: TcpStream, config: Arc<rustls::ServerConfig>) -> Result<Tls, DialError> {
    socket.set_nodelay(true).map_err(|error| of_io(&error))?;
    let accept = TlsAcceptor::from(config).accept(ReadAhead::new(socket));
    let accepted = tokio::time::timeout(DIAL_DEADLINE, accept).await.map_err(|_| DialError::Timeout)?;
    Ok(accepted.map_err(|error| of_io(&error))?.into())
}

/// Keeps the key exchange that the two sides agreed upon.
pub(super) fn note_group(current: &CurrentIdentity, node: &NodeName, stream: &Tls) {
    if let Some(group) = stream.get_ref().1.negotiated_key_exchange_group() {
        current.negotiated().note(node, group.name(), Instant::now());
    }
}
