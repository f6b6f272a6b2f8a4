//! Streams between two nodes over mutual TLS on TCP: many on one connection (`starling-mux/1`), or one that moves much on
//! a connection of its own (`starling-data/1`).
//!
//! A [`DataClient`] belongs to one data thread and keeps that thread's connections; a [`DataServer`] serves what peers
//! dial. Each connection is one task on its thread: it owns the socket, and every wake-up reads what is there, tells the
//! streams, and writes everything that all of them have ready in one go. Streams and connection share one `RefCell`, no
//! lock. Nothing here is `Send`; both must be used inside a `tokio::task::LocalSet`.
//!
//! Reading order: [`stream`](MuxStream), `connection.rs` (the driver), `tcp.rs` (TLS on a socket), `handshaker.rs`
//! and `pool.rs` (who dials), `prover.rs` and `server.rs` (who accepts); `dedicated.rs` for streams with a connection of their own.
//!
//! Not here: what a stream's header means, retries, the hand-over of sockets to threads.

mod connection;
mod dedicated;
mod handshaker;
mod pool;
mod prover;
mod server;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;

use std::time::Duration;

use starling_model::{Code, NodeName, codes};

pub use crate::error::{CertificateRefusal, DialError};
pub use crate::mux::{CannotOpen, Fault, ResetCode};
pub use dedicated::dial::{NO_ROOM_MEMORY, NotDedicated, OLDER_PEER_MEMORY};
pub use dedicated::{
    DEDICATED_ACCEPTED_PER_PEER_MAX, DEDICATED_DIALLED_PER_PEER_MAX, DEDICATED_MAX, DEDICATED_WRITE_BYTES,
    DedicatedStream,
};
pub use handshaker::Handshaker;
pub use pool::{DataClient, PoolStats};
pub use prover::{Proven, Prover};
pub use server::{CONNECTIONS_PER_PEER_MAX, DataServer, OpenRequest, ServeEnd, ServerStats};
pub use stream::{DataStream, Lane, MuxStream, fault_of};

/// Deadline of a dial: TCP and TLS together.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(3);

/// Connections per peer node and data thread that take new streams.
pub const CONNECTIONS_MAX: usize = 2;

/// Streams on one connection above which a second one is dialled: before that they share records and system calls.
pub const SECOND_CONNECTION_STREAMS: usize = 64;

/// A failed dial is remembered this long, twice as long at each further failure; meanwhile streams fail at once and go
/// elsewhere.
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest that a failed dial is remembered.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A connection takes no new streams after this long, give or take a fifth, so that certificates are shown anew. The usual
/// value: who makes a pool or a server says which.
pub const AGE_MAX: Duration = Duration::from_secs(6 * 3600);

/// A connection without streams is closed by the side that dialled after this long.
pub const IDLE_MAX: Duration = Duration::from_secs(600);

/// A peer that was used this recently is dialled again at once when its last connection breaks.
pub const REDIAL_WITHIN: Duration = Duration::from_secs(10);

const _: () = assert!(BACKOFF_MIN.as_millis() < BACKOFF_MAX.as_millis());
const _: () = assert!(SECOND_CONNECTION_STREAMS < crate::mux::limits::OPEN_STREAMS_MAX);

/// Why no stream could be opened. In every case nothing was processed, so another endpoint may be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The node could not be reached now.
    #[error("{node} was not reached")]
    Dial {
        /// Whom we dialled.
        node: NodeName,
        /// Why.
        source: DialError,
    },
    /// The node was not dialled because a dial failed a moment ago.
    #[error("{node} was not reached a moment ago")]
    Remembered {
        /// Whom we would have dialled.
        node: NodeName,
        /// Why the last dial failed.
        source: DialError,
    },
    /// The connection took no stream.
    #[error("the connection to {node} took no stream")]
    Stream {
        /// The peer.
        node: NodeName,
        /// Why.
        source: CannotOpen,
    },
    /// This thread's pool is shutting down.
    #[error("this agent is draining")]
    Draining,
}

impl OpenError {
    /// The catalogue entry that a person should see.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Dial { source, .. } | Self::Remembered { source, .. } => match source {
                DialError::PeerCertificate(_) => codes::PEER_CERTIFICATE,
                DialError::Timeout => codes::UPSTREAM_TIMEOUT,
                DialError::Unreachable(_)
                | DialError::OurCertificate(_)
                | DialError::OtherProtocol
                | DialError::OtherMesh(_)
                | DialError::NoCommonVersion { .. }
                | DialError::OurOwnName(_)
                | DialError::Handshake(_)
                | DialError::Closed(_)
                | DialError::NotDialled(_) => codes::UPSTREAM_FAILED,
            },
            Self::Stream { .. } | Self::Draining => codes::UPSTREAM_FAILED,
        }
    }

    /// The certificate refusal behind it, if that is what it was: the peer is not the node that was dialled, or proves
    /// no node at all.
    #[must_use]
    pub fn peer_refused(&self) -> Option<&CertificateRefusal> {
        match self {
            Self::Dial { source: DialError::PeerCertificate(refused), .. }
            | Self::Remembered { source: DialError::PeerCertificate(refused), .. } => Some(refused),
            Self::Dial { .. } | Self::Remembered { .. } | Self::Stream { .. } | Self::Draining => None,
        }
    }
}

/// A number nobody can predict, for jitter.
fn random_u64() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library's keys come from the operating system.
    std::hash::RandomState::new().build_hasher().finish()
}

/// This age give or take a fifth.
fn random_age(mean: Duration) -> Duration {
    let fifth = mean / 5;
    let spread = u64::try_from(2 * fifth.as_millis()).unwrap_or(u64::MAX);
    mean - fifth + Duration::from_millis(random_u64() % spread.max(1))
}
