//! The dialling side: at most two connections per peer that take streams, dialled when needed, left when doubtful.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_identity::tls::{self, Clock};
use starling_identity::{CurrentIdentity, PeerIdentity, PeerRefused};
use starling_model::NodeName;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tracing::{debug, info};

use super::connection::{Connection, Driver, Ended};
use super::dedicated::DedicatedStream;
use super::dedicated::dial::{Dialler, NotDedicated};
use super::stream::MuxStream;
use super::tcp::Protocol;
use super::{
    BACKOFF_MAX, BACKOFF_MIN, CONNECTIONS_MAX, OpenError, REDIAL_WITHIN, SECOND_CONNECTION_STREAMS, random_age, tcp,
};
use crate::error::DialError;
use crate::mux::{CannotOpen, ResetCode, Role};

/// Peers a thread remembers; those without connection and failure are forgotten first. Twice the largest mesh planned.
const PEERS_MAX: usize = 2_048;

/// Connections per peer with those that only finish their old streams; beyond it the oldest is cut. In 6 h a pair makes
/// three at most (a leaf on either side, and age), so a session that is opened in each of them lives for two days at least.
pub(super) const CONNECTIONS_WITH_OLD_MAX: usize = 32;

/// How often an open waits for a dial before it gives up: a connection can break between dial and open.
const ATTEMPTS_MAX: usize = 3;

/// What a pool has done, as plain counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Dials that led to a connection.
    pub dials: u64,
    /// Dials that did not.
    pub dials_failed: u64,
    /// Streams that failed at once because a dial had failed a moment before.
    pub opens_remembered: u64,
    /// Connections that broke, with or without streams.
    pub connections_broken: u64,
    /// Connections closed for a violation of the protocol by the peer.
    pub violations: u64,
    /// Connections that took no more streams because of their age.
    pub connections_aged: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Streams opened.
    pub streams_opened: u64,
    /// Streams open now.
    pub streams_open: u64,
    /// Payload bytes received and sent on shared connections.
    pub bytes: (u64, u64),
    /// Streams that got a connection of their own.
    pub dedicated_opened: u64,
    /// Of these, open now.
    pub dedicated_open: u64,
}

/// The connections that one data thread dials.
#[derive(Clone)]
pub struct DataClient {
    pool: Rc<Pool>,
}

struct Pool {
    current: CurrentIdentity,
    clock: Clock,
    age_max: Duration,
    peers: RefCell<BTreeMap<NodeName, Peer>>,
    dedicated: Dialler,
    is_draining: Cell<bool>,
    /// Told whenever a connection ends.
    ended: Notify,
    past: RefCell<PoolStats>,
}

struct Peer {
    config: Arc<rustls::ClientConfig>,
    connections: Vec<Rc<Connection>>,
    dialling: Option<Rc<Dialling>>,
    failure: Option<Failure>,
    address: SocketAddr,
    used: Instant,
}

/// A dial that is under way, for all who wait for it.
struct Dialling {
    outcome: RefCell<Option<Result<(), DialError>>>,
    done: Notify,
}

struct Failure {
    address: SocketAddr,
    until: Instant,
    delay: Duration,
    error: DialError,
}

/// What an open finds in the pool.
enum Found {
    Stream(MuxStream),
    Wait(Rc<Dialling>),
}

impl fmt::Debug for DataClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataClient").field("peers", &self.pool.peers.borrow().len()).finish_non_exhaustive()
    }
}

impl DataClient {
    /// An empty pool that shows `current`, and whose connections take new streams for `age_max`, give or take a fifth. It
    /// must be used inside a `LocalSet`.
    #[must_use]
    pub fn new(current: CurrentIdentity, clock: Clock, age_max: Duration) -> Self {
        let pool = Pool {
            current,
            clock,
            age_max,
            peers: RefCell::default(),
            dedicated: Dialler::default(),
            is_draining: Cell::new(false),
            ended: Notify::new(),
            past: RefCell::default(),
        };
        Self { pool: Rc::new(pool) }
    }

    /// Opens a stream to `node`, over a connection there is or after dialling `address`. With a connection at hand it
    /// returns at once: `open` and the first data leave together. Dropping the future leaves the dial to others.
    ///
    /// # Errors
    /// [`OpenError`]; in every case nothing was processed.
    pub async fn open(&self, node: &NodeName, address: SocketAddr, header: Bytes) -> Result<MuxStream, OpenError> {
        for _ in 0..ATTEMPTS_MAX {
            let dialling = match self.pool.find(node, address, &header)? {
                Found::Stream(stream) => return Ok(stream),
                Found::Wait(dialling) => dialling,
            };
            // Created before the outcome is looked at, so the end of the dial cannot be missed.
            let done = dialling.done.notified();
            if dialling.outcome.borrow().is_none() {
                done.await;
            }
            if let Some(Err(source)) = dialling.outcome.borrow().clone() {
                return Err(OpenError::Dial { node: node.clone(), source });
            }
        }
        Err(OpenError::Stream { node: node.clone(), source: CannotOpen::GoingAway })
    }

    /// Opens a stream only if a connection takes it now, without dialling.
    #[must_use]
    pub fn try_open(&self, node: &NodeName, header: &[u8]) -> Option<MuxStream> {
        let peers = self.pool.peers.borrow();
        let connection = peers.get(node)?.best()?;
        let id = connection.open(header).ok()?;
        Some(MuxStream::new(Rc::clone(connection), id))
    }

    /// Opens a stream to `node` with a connection of its own, which the peer has taken when this returns: until then no
    /// byte of the stream has left. Dropping the future gives the dial up.
    ///
    /// # Errors
    /// [`NotDedicated`]; nothing was processed, and unless the stream was refused it may share a connection.
    pub async fn open_dedicated(
        &self,
        node: &NodeName,
        address: SocketAddr,
        header: &[u8],
    ) -> Result<DedicatedStream, NotDedicated> {
        let Pool { current, clock, dedicated, is_draining, past, .. } = &*self.pool;
        if is_draining.get() {
            return Err(NotDedicated::Limit);
        }
        let opened = dedicated.open((current, *clock), (node, address), header).await;
        let mut past = past.borrow_mut();
        match &opened {
            Ok(_) => {
                past.dials += 1;
                past.dedicated_opened += 1;
            }
            Err(NotDedicated::Refused | NotDedicated::PeerLimit | NotDedicated::OlderPeer) => past.dials += 1,
            Err(NotDedicated::Failed) => past.dials_failed += 1,
            Err(NotDedicated::Limit | NotDedicated::Remembered) => {}
        }
        opened
    }

    /// Opens no more streams; those there are go on, and their connections close after the last one.
    pub fn drain(&self) {
        self.pool.is_draining.set(true);
        let _ = self.retire_all();
    }

    /// Leaves all connections there are to their present streams; new ones go to new connections (a new leaf, for one). Says how
    /// many took new ones before.
    pub fn retire_all(&self) -> usize {
        self.all().iter().filter(|connection| connection.goaway()).count()
    }

    /// Waits until no connection is left. Meant for after [`drain`](Self::drain), under the caller's deadline.
    pub async fn drained(&self) {
        loop {
            let (ended, freed) = (self.pool.ended.notified(), self.pool.dedicated.places.freed());
            if self.all().is_empty() && self.pool.dedicated.places.len() == 0 {
                return;
            }
            tokio::select! {
                () = ended => {}
                () = freed => {}
            }
        }
    }

    /// Closes every connection to `node` at once, with its streams: its key is revoked. Says how many.
    pub fn close_node(&self, node: &NodeName) -> usize {
        self.close_unless(|peer| peer.node != *node)
    }

    /// Closes at once every connection whose peer `keep` does not want.
    pub fn close_unless(&self, keep: impl Fn(&PeerIdentity) -> bool) -> usize {
        let dedicated = self.pool.dedicated.places.cut_unless(&keep);
        Connection::cut_unless(self.all(), keep) + dedicated
    }

    /// Streams that are open now.
    #[must_use]
    pub fn streams_len(&self) -> usize {
        let shared: usize = self.all().iter().map(|connection| connection.streams_len()).sum();
        shared + self.pool.dedicated.places.len()
    }

    /// Counters of this thread's pool.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let mut stats = *self.pool.past.borrow();
        for connection in self.all() {
            add(&mut stats, &connection);
            stats.connections_open += 1;
            stats.streams_open += connection.streams_len() as u64;
        }
        stats.dedicated_open = self.pool.dedicated.places.len() as u64;
        stats
    }

    #[cfg(test)]
    pub(super) fn dedicated_places(&self) -> &super::dedicated::Places {
        &self.pool.dedicated.places
    }

    fn all(&self) -> Vec<Rc<Connection>> {
        self.pool.peers.borrow().values().flat_map(|peer| peer.connections.iter().cloned()).collect()
    }
}

impl Peer {
    fn new(config: Arc<rustls::ClientConfig>, address: SocketAddr) -> Self {
        Self { config, connections: Vec::new(), dialling: None, failure: None, address, used: Instant::now() }
    }

    /// The connection with the fewest streams among those that take new ones.
    fn best(&self) -> Option<&Rc<Connection>> {
        let now = Instant::now();
        let open = self.connections.iter().filter(|connection| connection.may_open(now).is_ok());
        open.min_by_key(|connection| connection.streams_len())
    }

    fn open_len(&self) -> usize {
        let now = Instant::now();
        self.connections.iter().filter(|connection| connection.may_open(now).is_ok()).count()
    }

    fn is_idle(&self, now: Instant) -> bool {
        let failed = self.failure.as_ref().is_some_and(|failure| failure.until > now);
        self.connections.is_empty() && self.dialling.is_none() && !failed
    }
}

impl Pool {
    /// One look at the pool: a stream, a dial to wait for, or a reason why not.
    fn find(self: &Rc<Self>, node: &NodeName, address: SocketAddr, header: &[u8]) -> Result<Found, OpenError> {
        if self.is_draining.get() {
            return Err(OpenError::Draining);
        }
        let now = Instant::now();
        let mut peers = self.peers.borrow_mut();
        if !peers.contains_key(node) {
            make_room(&mut peers, now);
            let config = tls::data_client(&self.current, node.clone(), self.clock);
            peers.insert(node.clone(), Peer::new(config, address));
        }
        let Some(peer) = peers.get_mut(node) else {
            return Err(OpenError::Draining);
        };
        (peer.used, peer.address) = (now, address);
        if let Some(connection) = peer.best() {
            let id = connection.open(header).map_err(|source| OpenError::Stream { node: node.clone(), source })?;
            let stream = MuxStream::new(Rc::clone(connection), id);
            let is_crowded = connection.streams_len() > SECOND_CONNECTION_STREAMS;
            if is_crowded && peer.open_len() < CONNECTIONS_MAX && self.may_dial(peer, now).is_ok() {
                self.dial(node, peer);
            }
            return Ok(Found::Stream(stream));
        }
        if peer.connections.iter().any(|connection| connection.may_open(now) == Err(CannotOpen::Full))
            && peer.connections.len() >= CONNECTIONS_MAX
        {
            return Err(OpenError::Stream { node: node.clone(), source: CannotOpen::Full });
        }
        if let Some(dialling) = &peer.dialling {
            return Ok(Found::Wait(Rc::clone(dialling)));
        }
        if let Err(source) = self.may_dial(peer, now) {
            self.past.borrow_mut().opens_remembered += 1;
            return Err(OpenError::Remembered { node: node.clone(), source });
        }
        Ok(Found::Wait(self.dial(node, peer)))
    }

    /// Unless the same address failed a moment ago, or a dial is under way.
    fn may_dial(&self, peer: &Peer, now: Instant) -> Result<(), DialError> {
        if peer.dialling.is_some() || self.is_draining.get() {
            return Err(DialError::NotDialled("another dial is under way"));
        }
        match &peer.failure {
            Some(failure) if failure.address == peer.address && now < failure.until => Err(failure.error.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// Starts a dial. Its task holds the pool, and becomes the connection's task when it succeeds.
    fn dial(self: &Rc<Self>, node: &NodeName, peer: &mut Peer) -> Rc<Dialling> {
        let dialling = Rc::new(Dialling { outcome: RefCell::new(None), done: Notify::new() });
        peer.dialling = Some(Rc::clone(&dialling));
        let (pool, node, address) = (Rc::clone(self), node.clone(), peer.address);
        let config = Arc::clone(&peer.config);
        let finish = FinishDial { pool: Rc::clone(self), node: node.clone(), dialling: Rc::clone(&dialling) };
        spawn_local(async move {
            match pool.connect(&node, address, config).await {
                Ok((stream, connection)) => {
                    pool.add(&node, Rc::clone(&connection));
                    finish.with(Ok(()));
                    let refuse = |id, _header| connection.reset(id, ResetCode::Refused);
                    let ended = Driver::new(Rc::clone(&connection), stream, random_age(pool.age_max)).run(refuse).await;
                    pool.ended(&node, address, &connection, &ended);
                }
                Err(error) => {
                    debug!(member = %node, %address, reason = error.reason(), %error, "data dial failed");
                    pool.failed(&node, address, error.clone());
                    finish.with(Err(error));
                }
            }
        });
        dialling
    }

    async fn connect(
        &self,
        node: &NodeName,
        address: SocketAddr,
        config: Arc<rustls::ClientConfig>,
    ) -> Result<(tcp::Tls, Rc<Connection>), DialError> {
        let stream = tcp::dial(address, config).await?;
        if tcp::protocol(&stream)? != Protocol::Mux {
            return Err(DialError::OtherProtocol);
        }
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let refused = |refused: PeerRefused| DialError::PeerCertificate((&refused).into());
        let peer = tls::peer_of(certificates, &self.current, self.clock).map_err(refused)?;
        // The verifier has compared it; a pool that hands out streams to `node` does not rest on that alone.
        if peer.node != *node {
            let (expected, found) = (node.clone(), peer.node);
            return Err(refused(PeerRefused::UnexpectedPeer { expected, found }));
        }
        tcp::note_group(&self.current, node, &stream);
        Ok((stream, Connection::new(Role::Dialler, peer)))
    }

    fn add(&self, node: &NodeName, connection: Rc<Connection>) {
        self.past.borrow_mut().dials += 1;
        if self.is_draining.get() {
            connection.goaway();
        }
        if let Some(peer) = self.peers.borrow_mut().get_mut(node) {
            peer.failure = None;
            peer.connections.push(connection);
            if peer.connections.len() > CONNECTIONS_WITH_OLD_MAX
                && let Some(oldest) = peer.connections.first()
            {
                info!(member = %node, "data connection cut: too many old ones");
                oldest.cut();
            }
        }
    }

    fn failed(&self, node: &NodeName, address: SocketAddr, error: DialError) {
        self.past.borrow_mut().dials_failed += 1;
        if let Some(peer) = self.peers.borrow_mut().get_mut(node) {
            let before = peer.failure.take().filter(|failure| failure.address == address);
            let delay = before.map_or(BACKOFF_MIN, |failure| (failure.delay * 2).min(BACKOFF_MAX));
            peer.failure = Some(Failure { address, until: Instant::now() + delay, delay, error });
        }
    }

    /// Takes a connection off the table, and dials again at once if it broke while in use.
    fn ended(self: &Rc<Self>, node: &NodeName, address: SocketAddr, connection: &Rc<Connection>, ended: &Ended) {
        {
            let mut past = self.past.borrow_mut();
            add(&mut past, connection);
            match ended {
                Ended::Broken(_) | Ended::Closed | Ended::Silent | Ended::Refused(_) => past.connections_broken += 1,
                Ended::Violated(_) => past.violations += 1,
                Ended::Drained | Ended::Cut => {}
            }
        }
        debug!(member = %node, ?ended, "data connection ended");
        if matches!(ended, Ended::Silent) {
            let closed = self.dedicated.places.cut_stuck(node, Instant::now());
            debug!(member = %node, closed, "dedicated connections that moved nothing either are cut");
        }
        let mut peers = self.peers.borrow_mut();
        if let Some(peer) = peers.get_mut(node) {
            peer.connections.retain(|held| !Rc::ptr_eq(held, connection));
            let now = Instant::now();
            let broke = match ended {
                Ended::Broken(_) | Ended::Closed | Ended::Silent => true,
                Ended::Refused(error) => {
                    // The dial looked like a success, but the peer does not want us.
                    peer.failure =
                        Some(Failure { address, until: now + BACKOFF_MIN, delay: BACKOFF_MIN, error: error.clone() });
                    false
                }
                Ended::Violated(_) | Ended::Drained | Ended::Cut => false,
            };
            let is_wanted = now.saturating_duration_since(peer.used) < REDIAL_WITHIN;
            if broke && is_wanted && peer.open_len() == 0 && self.may_dial(peer, now).is_ok() {
                let _ = self.dial(node, peer);
            }
        }
        drop(peers);
        self.ended.notify_waiters();
    }
}

/// Ends a dial for all who wait, also when its task is dropped.
struct FinishDial {
    pool: Rc<Pool>,
    node: NodeName,
    dialling: Rc<Dialling>,
}

impl FinishDial {
    fn with(self, outcome: Result<(), DialError>) {
        *self.dialling.outcome.borrow_mut() = Some(outcome);
    }
}

impl Drop for FinishDial {
    fn drop(&mut self) {
        let mut outcome = self.dialling.outcome.borrow_mut();
        let _ = outcome.get_or_insert(Err(DialError::NotDialled("this agent is shutting down")));
        drop(outcome);
        if let Some(peer) = self.pool.peers.borrow_mut().get_mut(&self.node)
            && peer.dialling.as_ref().is_some_and(|held| Rc::ptr_eq(held, &self.dialling))
        {
            peer.dialling = None;
        }
        self.dialling.done.notify_waiters();
    }
}

fn add(stats: &mut PoolStats, connection: &Connection) {
    let more = connection.stats();
    stats.connections_aged += u64::from(connection.is_aged());
    stats.streams_opened += more.streams_opened;
    stats.bytes.0 += more.bytes_received;
    stats.bytes.1 += more.bytes_sent;
}

/// Forgets peers that nothing is known about when the table is full.
fn make_room(peers: &mut BTreeMap<NodeName, Peer>, now: Instant) {
    if peers.len() >= PEERS_MAX {
        peers.retain(|_, peer| !peer.is_idle(now));
    }
    if peers.len() >= PEERS_MAX
        && let Some(oldest) = peers.iter().min_by_key(|(_, peer)| peer.used).map(|(node, _)| node.clone())
        && let Some(peer) = peers.remove(&oldest)
    {
        peer.connections.iter().for_each(|connection| _ = connection.goaway());
    }
}
