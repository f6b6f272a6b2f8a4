//! The accepting side: one inbound connection after the other, each on the thread that calls.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_identity::tls::{self, Clock};
use starling_identity::{CurrentIdentity, PeerIdentity};
use starling_model::NodeName;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tracing::{debug, info};

use super::connection::{Connection, Driver, Ended};
use super::dedicated::Places;
use super::dedicated::accept::{self, Mood, Served};
use super::prover::Proven;
use super::stream::{DataStream, MuxStream};
use super::tcp::Protocol;
use super::{random_age, tcp};
use crate::error::DialError;
use crate::mux::Role;

/// Connections of one node per thread. A correct one holds at most 32 on each of its four data threads, the old ones
/// included, and all of them may be served by one thread here. Beyond it the oldest is cut, so that one member cannot
/// take the places of all.
pub const CONNECTIONS_PER_PEER_MAX: usize = 128;
const _: () = assert!(CONNECTIONS_PER_PEER_MAX == 4 * super::pool::CONNECTIONS_WITH_OLD_MAX);

/// What a peer says when it opens a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// The header of the `open` frame, opaque to this crate, at most `OPEN_BYTES_MAX` bytes.
    pub header: Bytes,
}

/// How serving one connection ended. Nothing in it needs an action; it is for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServeEnd {
    /// What the peer showed does not hold any more, or it refused what we showed.
    NotProven(DialError),
    /// The last stream after a goaway is over.
    Drained,
    /// The peer closed, or the network broke.
    Closed,
    /// The peer did not answer for 15 s.
    Silent,
    /// The peer broke the protocol.
    Violated(crate::mux::Violation),
    /// We closed it at once.
    Cut,
}

/// What a server has done, as plain counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Connections whose peer was proven.
    pub connections_accepted: u64,
    /// Connections that took no more streams because of their age.
    pub connections_aged: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections closed for a violation of the protocol.
    pub violations: u64,
    /// Connections cut because their node had [`CONNECTIONS_PER_PEER_MAX`].
    pub connections_surplus: u64,
    /// Streams handed to the handler.
    pub streams_accepted: u64,
    /// Streams open now.
    pub streams_open: u64,
    /// Streams refused because a connection had too many.
    pub streams_refused: u64,
    /// Payload bytes received and sent on shared connections.
    pub bytes: (u64, u64),
    /// Proven peers that came for a stream with a connection of its own.
    pub dedicated_accepted: u64,
    /// Of these, those for whom there was no room.
    pub dedicated_refused: u64,
    /// Dedicated connections open now.
    pub dedicated_open: u64,
}

/// Serves the connections of one data thread.
#[derive(Clone)]
pub struct DataServer {
    inner: Rc<Inner>,
}

struct Inner {
    current: CurrentIdentity,
    clock: Clock,
    age_max: Duration,
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    dedicated: Rc<Places>,
    next: Cell<u64>,
    is_draining: Cell<bool>,
    /// Told whenever a connection ends.
    ended: Notify,
    /// Counters of connections that are over.
    past: RefCell<ServerStats>,
}

impl fmt::Debug for DataServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataServer")
            .field("connections", &self.inner.connections.borrow().len())
            .finish_non_exhaustive()
    }
}

impl DataServer {
    /// A server whose connections take new streams for `age_max`, give or take a fifth.
    #[must_use]
    pub fn new(current: CurrentIdentity, clock: Clock, age_max: Duration) -> Self {
        let inner = Inner {
            current,
            clock,
            age_max,
            connections: RefCell::default(),
            dedicated: Rc::default(),
            next: Cell::new(0),
            is_draining: Cell::new(false),
            ended: Notify::new(),
            past: RefCell::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Drives one proven connection to its end on the current thread, and calls `handler` for each stream of a shared
    /// connection in a task of its own, for the one of a dedicated connection in this one. Must run inside a `LocalSet` of
    /// the runtime that waits for the socket. Dropping the future cuts the connection.
    pub async fn serve<H, F>(&self, proven: Proven, handler: H) -> ServeEnd
    where
        H: Fn(PeerIdentity, OpenRequest, DataStream) -> F,
        F: Future<Output = ()> + 'static,
    {
        let peer = match self.judge(&proven) {
            Ok(peer) => peer,
            Err(error) => {
                debug!(member = %proven.peer.node, address = ?proven.address, %error, "data connection refused");
                return ServeEnd::NotProven(error);
            }
        };
        let Proven { protocol, stream, address, .. } = proven;
        if protocol == Protocol::Dedicated {
            // On the heap: a shared connection must not be as large as this one.
            return Box::pin(self.serve_dedicated((stream, peer), address, handler)).await;
        }
        let connection = Connection::new(Role::Acceptor, peer);
        let registered = self.register(Rc::clone(&connection));
        if self.inner.is_draining.get() {
            connection.goaway();
        }
        let age = random_age(self.inner.age_max);
        let ended = Driver::new(Rc::clone(&connection), stream, age)
            .run(|id, header| {
                let stream = MuxStream::new(Rc::clone(&connection), id);
                let stream = DataStream::Shared(stream);
                spawn_local(handler(connection.peer().clone(), OpenRequest { header }, stream));
            })
            .await;
        drop(registered);
        self.report(&connection, address, ended)
    }

    async fn serve_dedicated<H, F>(
        &self,
        (stream, peer): (tcp::Tls, PeerIdentity),
        address: Option<SocketAddr>,
        handler: H,
    ) -> ServeEnd
    where
        H: Fn(PeerIdentity, OpenRequest, DataStream) -> F,
        F: Future<Output = ()> + 'static,
    {
        let mood = || if self.inner.is_draining.get() { Mood::Draining } else { Mood::Open };
        let member = peer.node.clone();
        self.inner.past.borrow_mut().dedicated_accepted += 1;
        let handle = |open, stream: super::DedicatedStream| {
            self.inner.past.borrow_mut().streams_accepted += 1;
            handler(stream.peer().clone(), open, DataStream::Dedicated(stream))
        };
        match accept::serve(&self.inner.dedicated, (stream, peer), mood, handle).await {
            Served::Over | Served::NotOpened => ServeEnd::Closed,
            Served::Cut => ServeEnd::Cut,
            Served::NoRoom => {
                self.inner.past.borrow_mut().dedicated_refused += 1;
                info!(%member, ?address, "dedicated data connection refused: there are too many");
                ServeEnd::Closed
            }
            Served::Violated(violation) => {
                self.inner.past.borrow_mut().violations += 1;
                info!(%member, ?address, error = %violation, "data connection closed: the peer broke the protocol");
                ServeEnd::Violated(violation)
            }
        }
    }

    /// Whom the connection proves by what we believe now: trust may have changed while it came here.
    fn judge(&self, proven: &Proven) -> Result<PeerIdentity, DialError> {
        if Arc::ptr_eq(&proven.trust, &self.inner.current.trust()) {
            return Ok(proven.peer.clone());
        }
        let certificates = proven.stream.get_ref().1.peer_certificates().unwrap_or_default();
        tls::peer_of(certificates, &self.inner.current, self.inner.clock)
            .map_err(|refused| DialError::PeerCertificate((&refused).into()))
    }

    /// Takes a connection into the table. One of a node that has too many goes for it, the oldest.
    fn register(&self, connection: Rc<Connection>) -> Registered {
        let surplus = {
            let connections = self.inner.connections.borrow();
            let mut same = connections.values().filter(|held| held.peer().node == connection.peer().node);
            let oldest = same.next().cloned();
            oldest.filter(|_| same.count() + 1 >= CONNECTIONS_PER_PEER_MAX)
        };
        if let Some(oldest) = surplus {
            self.inner.past.borrow_mut().connections_surplus += 1;
            info!(member = %oldest.peer().node, "data connection cut: its node has too many");
            oldest.cut();
        }
        let number = self.inner.next.get();
        self.inner.next.set(number.wrapping_add(1));
        self.inner.past.borrow_mut().connections_accepted += 1;
        self.inner.connections.borrow_mut().insert(number, connection);
        Registered { server: Rc::clone(&self.inner), number }
    }

    fn report(&self, connection: &Connection, address: Option<SocketAddr>, ended: Ended) -> ServeEnd {
        let member = &connection.peer().node;
        match ended {
            Ended::Violated(violation) => {
                self.inner.past.borrow_mut().violations += 1;
                info!(%member, ?address, error = %violation, "data connection closed: the peer broke the protocol");
                ServeEnd::Violated(violation)
            }
            Ended::Silent => {
                let _ = self.inner.dedicated.cut_stuck(member, Instant::now());
                info!(%member, ?address, "data connection closed: the peer does not answer");
                ServeEnd::Silent
            }
            Ended::Cut => ServeEnd::Cut,
            Ended::Drained => ServeEnd::Drained,
            Ended::Closed => ServeEnd::Closed,
            Ended::Broken(error) => {
                debug!(%member, ?address, %error, "data connection broke");
                ServeEnd::Closed
            }
            Ended::Refused(error) => ServeEnd::NotProven(error),
        }
    }

    /// Takes no new streams, on any connection, from here on; what runs goes on.
    pub fn drain(&self) {
        self.inner.is_draining.set(true);
        let _ = self.retire_all();
    }

    /// Says goaway on all connections there are, so that peers dial new ones (a new leaf, for one). Says how many
    /// took streams before.
    pub fn retire_all(&self) -> usize {
        self.all().iter().filter(|connection| connection.goaway()).count()
    }

    /// Waits until no connection is left. Meant for after [`drain`](Self::drain), under the caller's deadline.
    pub async fn drained(&self) {
        loop {
            let (ended, freed) = (self.inner.ended.notified(), self.inner.dedicated.freed());
            if self.inner.connections.borrow().is_empty() && self.inner.dedicated.len() == 0 {
                return;
            }
            tokio::select! {
                () = ended => {}
                () = freed => {}
            }
        }
    }

    /// Closes every connection of `node` at once, with its streams: its key is revoked. Says how many.
    pub fn close_node(&self, node: &NodeName) -> usize {
        self.close_unless(|peer| peer.node != *node)
    }

    /// Closes at once every connection whose peer `keep` does not want.
    pub fn close_unless(&self, keep: impl Fn(&PeerIdentity) -> bool) -> usize {
        let dedicated = self.inner.dedicated.cut_unless(&keep);
        Connection::cut_unless(self.all(), keep) + dedicated
    }

    /// Streams that are open now.
    #[must_use]
    pub fn streams_len(&self) -> usize {
        let shared: usize = self.inner.connections.borrow().values().map(|connection| connection.streams_len()).sum();
        shared + self.inner.dedicated.len()
    }

    /// Counters of this thread's server.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let mut stats = *self.inner.past.borrow();
        for connection in self.inner.connections.borrow().values() {
            add(&mut stats, connection);
            stats.connections_open += 1;
            stats.streams_open += connection.streams_len() as u64;
        }
        stats.dedicated_open = self.inner.dedicated.len() as u64;
        stats
    }

    fn all(&self) -> Vec<Rc<Connection>> {
        self.inner.connections.borrow().values().cloned().collect()
    }
}

fn add(stats: &mut ServerStats, connection: &Connection) {
    let more = connection.stats();
    stats.connections_aged += u64::from(connection.is_aged());
    stats.streams_accepted += more.streams_accepted;
    stats.streams_refused += more.streams_refused;
    stats.bytes.0 += more.bytes_received;
    stats.bytes.1 += more.bytes_sent;
}

/// Takes a connection off the table, also when its task is dropped.
struct Registered {
    server: Rc<Inner>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let gone = self.server.connections.borrow_mut().remove(&self.number);
        if let Some(connection) = gone {
            add(&mut self.server.past.borrow_mut(), &connection);
        }
        self.server.ended.notify_waiters();
    }
}
