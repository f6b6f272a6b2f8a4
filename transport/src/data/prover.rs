//! The accepting side of a handshake: who is it that has connected?

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use starling_identity::tls::{self, Clock};
use starling_identity::{CurrentIdentity, PeerIdentity, TrustView};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::tcp::{self, Protocol};
use crate::error::{DialError, of_io};

/// Shakes hands with whoever connects, on the thread that calls: best on one that serves no requests, since a handshake is
/// half a millisecond of arithmetic in one piece.
#[derive(Clone)]
pub struct Prover {
    config: Arc<rustls::ServerConfig>,
    current: CurrentIdentity,
    clock: Clock,
}

impl fmt::Debug for Prover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prover").finish_non_exhaustive()
    }
}

/// A connection with a proven peer, on its way to the [`DataServer`](super::DataServer) of the thread that will serve it.
pub struct Proven {
    pub(super) protocol: Protocol,
    pub(super) stream: tcp::Tls,
    pub(super) peer: PeerIdentity,
    pub(super) address: Option<SocketAddr>,
    /// What it was judged by.
    pub(super) trust: Arc<TrustView>,
}

impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proven").field("node", &self.peer.node).field("address", &self.address).finish_non_exhaustive()
    }
}

impl Prover {
    /// One that shows `current` and lets any node of our trust domain in.
    #[must_use]
    pub fn new(current: CurrentIdentity, clock: Clock) -> Self {
        let config = tls::data_server(&current, clock);
        Self { config, current, clock }
    }

    /// One of a release that knows no dedicated connections.
    #[cfg(test)]
    pub(super) fn older(current: CurrentIdentity, clock: Clock, config: rustls::ServerConfig) -> Self {
        Self { config: Arc::new(config), current, clock }
    }

    /// Shakes hands within [`DIAL_DEADLINE`](super::DIAL_DEADLINE). Dropping the future closes the socket.
    ///
    /// # Errors
    /// Nobody is proven: garbage, a foreign certificate, another protocol, silence.
    pub async fn prove(&self, socket: TcpStream) -> Result<Proven, DialError> {
        let address = socket.peer_addr().ok();
        let stream = tcp::accept(socket, Arc::clone(&self.config)).await?;
        let protocol = tcp::protocol(&stream)?;
        let trust = self.current.trust();
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = tls::peer_of(certificates, &self.current, self.clock)
            .map_err(|refused| DialError::PeerCertificate((&refused).into()))?;
        tcp::note_group(&self.current, &peer.node, &stream);
        Ok(Proven { protocol, stream, peer, address, trust })
    }
}

impl Proven {
    /// Lets `home` wait for the socket, instead of the runtime that has until now. Its thread has nothing to do for it.
    ///
    /// # Errors
    /// There are no more file descriptors, or `home` has ended. The connection is of no use then.
    pub fn move_to(&mut self, home: &Handle) -> Result<(), DialError> {
        self.stream.get_mut().0.move_to(home).map_err(|error| of_io(&error))
    }
}
