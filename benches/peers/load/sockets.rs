//! Sockets as the bench wants them: no delay, deep accept queues, deadlines on every blocking read.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Bursts of new connections must not be lost in the accept queue.
const BACKLOG: i32 = 4_096;
/// No answer within this is a failure.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// A blocking connection.
pub(crate) fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, READ_DEADLINE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_DEADLINE))?;
    stream.set_write_timeout(Some(READ_DEADLINE))?;
    Ok(stream)
}

/// A connection for an event loop: connected already, not blocking from here on.
pub(crate) fn connect_for_loop(target: SocketAddr) -> io::Result<mio::net::TcpStream> {
    let stream = TcpStream::connect_timeout(&target, READ_DEADLINE)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(mio::net::TcpStream::from_std(stream))
}

/// A listener for an event loop.
pub(crate) fn listen(address: SocketAddr) -> io::Result<mio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(mio::net::TcpListener::from_std(socket.into()))
}

/// True for "try again later", which is no failure.
pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
