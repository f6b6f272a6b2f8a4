//! TCP through the mesh: one tunnel, top to bottom, at the caller's side ([`outbound`]) and at the owner's
//! ([`inbound`]); [`copy`] moves the bytes. From outside the mesh a connection comes through a [`gateway`].

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use starling_routing::limits::CONNECT_TIMEOUT;
use starling_transport::data::{DataStream, MuxStream, ResetCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

pub(crate) mod copy;
pub(crate) mod gateway;
pub(crate) mod hello;
pub(crate) mod inbound;
pub(crate) mod outbound;

/// One side of a tunnel.
pub(crate) trait Tunnelled: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Makes closing it a reset, so that the other end sees a failure and not an end.
    fn break_off(&self);

    /// Ready once the other end has broken it off, where that can be seen although what it sent before is not read.
    fn poll_broken(&self, _cx: &Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Tunnelled for TcpStream {
    fn break_off(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl Tunnelled for UnixStream {
    fn break_off(&self) {}
}

impl Tunnelled for Box<dyn Tunnelled> {
    fn break_off(&self) {
        (**self).break_off();
    }

    fn poll_broken(&self, cx: &Context<'_>) -> Poll<()> {
        (**self).poll_broken(cx)
    }
}

impl Tunnelled for MuxStream {
    fn break_off(&self) {
        self.reset(ResetCode::Error);
    }

    fn poll_broken(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_broken(cx)
    }
}

impl Tunnelled for DataStream {
    fn break_off(&self) {
        self.reset(ResetCode::Error);
    }
}

/// Connects to a local instance.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    tune_local(&SockRef::from(&socket));
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Options of sockets between agent and application. Best effort: a kernel without them is slower, not wrong.
pub(crate) fn tune_local(socket: &SockRef<'_>) {
    let _ = socket.set_tcp_nodelay(true);
    // The host's default may pace even loopback (bbr does).
    let _ = socket.set_tcp_congestion(b"cubic");
}

#[cfg(test)]
impl Tunnelled for tokio::io::DuplexStream {
    fn break_off(&self) {}
}
