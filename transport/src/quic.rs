//! The gossip network: one UDP socket, one QUIC connection per pair of nodes that talk, each end proven by certificate.
//!
//! [`GossipNet`] dials and accepts on the same socket (ALPN `starling-gossip/1`). Both ends say hello first; only then a
//! peer is reported [`Up`](NetEvent::Up). Datagrams carry probes and news and may be lost anywhere; sync exchanges are
//! streams with framed messages and wait for their reader. What ends a connection is reported with its reason: a
//! restarted peer answers old packets with a stateless reset, because its keys outlive the restart.
//!
//! Everything goes to one bounded inbox. Datagrams that find it full are dropped and counted; connection changes wait,
//! in the order in which they happened.
//!
//! Reading order: this file, `peer.rs` (a connection's life), `table.rs` (which of two connections stays), `close.rs` (why
//! one ends), `dial.rs`, `accept.rs`, `trust.rs` (questions of anybody), `exchange.rs`, `frame.rs`, `hello.rs`, `tuning.rs`,
//! `limits.rs`.
//!
//! Not here: what datagrams and frames mean, whom to dial, who is alive.

mod accept;
mod close;
mod dial;
mod exchange;
pub mod frame;
pub mod hello;
#[cfg(test)]
mod hostile_tests;
mod keys;
#[cfg(test)]
mod limit_tests;
pub mod limits;
mod peer;
mod socket;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod trust;
#[cfg(test)]
mod trust_tests;
mod tuning;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::TokioRuntime;
use starling_identity::CurrentIdentity;
use starling_identity::tls::{self, Clock};
use starling_model::{MeshId, NodeName};
use tokio::sync::{Notify, Semaphore, mpsc};

pub use crate::error::{CertificateRefusal, DialError};
pub use close::{CloseCode, DownReason};
pub use exchange::INBOUND_BIT;
pub use hello::{PROTOCOL_MAX, PROTOCOL_MIN};
pub use keys::QuicKeys;
pub use limits::{AGE_MAX, DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX};
pub use stats::NetStats;
pub use trust::TrustAnswers;

use accept::Sources;
use exchange::Outlet;
use limits::{DATAGRAMS_OUT_BYTES, DIALS_MAX, STRANGERS_MAX};
use socket::{CountedSocket, Traffic};
use stats::Counters;
use table::Table;

/// How long a shutdown waits for peers to hear of it.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// What keeps a connection open while nobody probes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Probes alone: within a site nothing forgets a path.
    ByProbes,
    /// A packet every [`limits::KEEP_ALIVE`]: between sites are routers that forget one after half a minute.
    BetweenSites,
}

/// What an endpoint is told at its start.
#[derive(Clone, Debug)]
pub struct NetSettings {
    /// Where it listens, on UDP.
    pub listen: SocketAddr,
    /// Keys that outlive a restart.
    pub keys: QuicKeys,
    /// Our mesh.
    pub mesh: MeshId,
    /// Whether connections say something by themselves.
    pub keep_alive: KeepAlive,
    /// Mean age at which a connection is replaced, give or take a fifth; [`AGE_MAX`] outside of tests.
    pub age_max: Duration,
}

/// Where a connection leads, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathFacts {
    /// The peer's address as seen here.
    pub address: SocketAddr,
    /// Largest UDP payload that the path takes.
    pub mtu: u16,
}

/// What a dial was for, given back with its outcome.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialTag(pub String);

/// What an [`Up`](NetEvent::Up) changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The pair was not connected.
    New,
    /// It was, and still is: a dial found it so, or its connection was replaced. What ran goes on.
    Same,
}

/// What the network reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// A datagram of a proven peer.
    Datagram {
        /// The peer.
        from: NodeName,
        /// Its bytes.
        payload: Bytes,
    },
    /// A frame of a sync exchange.
    Sync {
        /// The peer.
        from: NodeName,
        /// The exchange; [`INBOUND_BIT`] is set when the peer began it.
        exchange: u64,
        /// The frame, at most [`FRAME_BYTES_MAX`].
        frame: Bytes,
    },
    /// The pair is connected.
    Up {
        /// The peer.
        peer: NodeName,
        /// Its address as seen here.
        address: SocketAddr,
        /// Whether it was before.
        pair: Pair,
        /// The dial this answers, if it does.
        dialled: Option<DialTag>,
        /// QUIC's first estimate of the round trip.
        rtt: Duration,
    },
    /// The pair is no longer connected.
    Down {
        /// The peer.
        peer: NodeName,
        /// Why.
        reason: DownReason,
    },
    /// A dial came to nothing.
    DialFailed {
        /// The dial.
        tag: DialTag,
        /// Whom it expected.
        expected: Option<NodeName>,
        /// Why.
        reason: DialError,
    },
}

/// Why the network could not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The socket could not be bound.
    #[error("cannot bind {address}")]
    Bind {
        /// The address of the configuration.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Our own certificate names no node.
    #[error("our own certificate names no node")]
    Identity,
    /// The TLS settings lack the suite that QUIC begins with.
    #[error("the TLS settings do not fit QUIC")]
    NoInitialSuite,
}

struct Inner {
    endpoint: quinn::Endpoint,
    transport: Arc<quinn::TransportConfig>,
    traffic: Arc<Traffic>,
    age_max: Duration,
    current: CurrentIdentity,
    clock: Clock,
    mesh: MeshId,
    me: NodeName,
    instance: u64,
    inbox: mpsc::Sender<NetEvent>,
    table: Mutex<Table>,
    /// Told whenever the table has something to report.
    changed: Notify,
    sources: Mutex<Sources>,
    exchanges: Mutex<BTreeMap<(NodeName, u64), Outlet>>,
    exchange_number: AtomicU64,
    strangers: Mutex<BTreeSet<IpAddr>>,
    dials: Arc<Semaphore>,
    trust: trust::Desk,
    /// The endpoint accepts no more: what is left to report is the end of what there was.
    is_closed: AtomicBool,
    counters: Counters,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while one of these is held ends one connection's task; the tables stay whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        lock(&self.sources)
    }

    fn exchanges(&self) -> MutexGuard<'_, BTreeMap<(NodeName, u64), Outlet>> {
        lock(&self.exchanges)
    }

    fn next_exchange(&self) -> u64 {
        self.exchange_number.fetch_add(1, Ordering::Relaxed)
    }

    fn is_first_stranger(&self, ip: IpAddr) -> bool {
        let mut strangers = lock(&self.strangers);
        strangers.len() < STRANGERS_MAX && strangers.insert(ip)
    }
}

/// Closes the socket when the last handle is dropped.
struct Guard(quinn::Endpoint);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close(CloseCode::Shutdown.number(), CloseCode::Shutdown.word());
    }
}

/// A handle on the gossip network; cheap to clone. Nothing it does waits.
#[derive(Clone)]
pub struct GossipNet {
    inner: Arc<Inner>,
    _guard: Arc<Guard>,
}

impl std::fmt::Debug for GossipNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GossipNet").field("me", &self.inner.me).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl GossipNet {
    /// Binds the socket and begins to accept. Must be called inside a tokio runtime, which then runs its tasks.
    ///
    /// # Errors
    /// [`NetError`], before anything was started.
    pub fn bind(
        settings: NetSettings,
        current: CurrentIdentity,
        clock: Clock,
        inbox: mpsc::Sender<NetEvent>,
    ) -> Result<Self, NetError> {
        // Whether peers believe it is theirs to say: who missed a change of trust starts, and asks for what it missed.
        let me = tls::own_name(&current).ok_or(NetError::Identity)?;
        let NetSettings { listen, keys, mesh, keep_alive, age_max } = settings;
        let bind = |source| NetError::Bind { address: listen, source };
        let socket = std::net::UdpSocket::bind(listen).map_err(bind)?;
        let transport = tuning::transport(keep_alive);
        let server = tuning::server(&current, clock, &transport)?;
        let (runtime, traffic) = (Arc::new(TokioRuntime), Arc::new(Traffic::default()));
        let socket = CountedSocket::new(socket, &*runtime, Arc::clone(&traffic)).map_err(bind)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(tuning::endpoint(keys), Some(server), socket, runtime);
        let endpoint = endpoint.map_err(bind)?;
        let mut instance = [0; 8];
        // Zeros would only make two lives of this process look like one.
        let _ = aws_lc_rs::rand::fill(&mut instance);
        let inner = Arc::new(Inner {
            endpoint: endpoint.clone(),
            transport,
            traffic,
            age_max,
            current,
            clock,
            mesh,
            instance: u64::from_le_bytes(instance),
            inbox,
            table: Mutex::new(Table::new(me.clone())),
            me,
            changed: Notify::new(),
            sources: Mutex::default(),
            exchanges: Mutex::default(),
            exchange_number: AtomicU64::new(1),
            strangers: Mutex::default(),
            dials: Arc::new(Semaphore::new(DIALS_MAX)),
            trust: trust::Desk::default(),
            is_closed: AtomicBool::new(false),
            counters: Counters::default(),
        });
        tokio::spawn(accept::run(Arc::clone(&inner)));
        tokio::spawn(report(Arc::clone(&inner)));
        Ok(Self { inner, _guard: Arc::new(Guard(endpoint)) })
    }

    /// Hands a datagram to QUIC. False when it was dropped here: no connection, larger than [`DATAGRAM_BYTES_MAX`], or
    /// the congestion window has no room. True says nothing about its arrival.
    #[must_use]
    pub fn send_datagram(&self, to: &NodeName, payload: Bytes) -> bool {
        let (length, counters) = (payload.len(), &self.inner.counters);
        let table = self.inner.table();
        // quinn would drop the oldest waiting datagram for this one; an old ack is worth more than a new probe.
        let is_sent = table.current(to).is_some_and(|link| {
            link.connection.datagram_send_buffer_space() >= length && link.connection.send_datagram(payload).is_ok()
        });
        drop(table);
        if is_sent {
            counters.datagrams_sent.add(1);
            counters.datagram_bytes_sent.add(length as u64);
        } else {
            counters.datagrams_dropped_out.add(1);
        }
        is_sent
    }

    /// Sends a frame on an exchange with `to`. An unknown number without [`INBOUND_BIT`] begins an exchange; `last`
    /// finishes our half, after an empty frame too. What cannot be sent is dropped and counted.
    pub fn send_sync(&self, to: &NodeName, exchange: u64, frame: Bytes, last: bool) {
        exchange::send(&self.inner, to, exchange, frame, last);
    }

    /// Dials `addresses`, the first that answers wins. Exactly one `Up` or `DialFailed` gives `tag` back. Without
    /// `expected`, any node of our trust domain may answer.
    pub fn dial(&self, expected: Option<NodeName>, tag: DialTag, addresses: Vec<SocketAddr>) {
        dial::start(&self.inner, expected, tag, addresses);
    }

    /// Closes the connection with `peer` and tells it why.
    pub fn close(&self, peer: &NodeName, code: CloseCode) {
        self.inner.table().close(peer, code);
        self.inner.changed.notify_one();
    }

    /// The path of the connection with `peer`.
    #[must_use]
    pub fn path(&self, peer: &NodeName) -> Option<PathFacts> {
        let table = self.inner.table();
        let connection = &table.current(peer)?.connection;
        let mtu = connection.stats().path.current_mtu;
        Some(PathFacts { address: table::canonical(connection.remote_address()), mtu })
    }

    /// QUIC's current estimate of the round trip to `peer`.
    #[must_use]
    pub fn rtt(&self, peer: &NodeName) -> Option<Duration> {
        self.inner.table().current(peer).map(|link| link.connection.rtt())
    }

    /// Who is connected.
    #[must_use]
    pub fn peers(&self) -> Vec<(NodeName, SocketAddr)> {
        let table = self.inner.table();
        let address = |link: &table::Link| table::canonical(link.connection.remote_address());
        table.peers().map(|(peer, link)| (peer.clone(), address(link))).collect()
    }

    /// How full the way out is, in per cent: of each connection the datagrams that wait for its congestion window, and of
    /// these the lower median. A peer that is dead or slow fills its own queue only; when half of all are full, it is us.
    /// Zero with fewer than two connections, where nobody can tell which end it is.
    #[must_use]
    pub fn send_queue_percent(&self) -> u8 {
        let table = self.inner.table();
        let space = |link: &table::Link| link.connection.datagram_send_buffer_space();
        fullness(table.peers().map(|(_, link)| space(link)).collect())
    }

    /// Addresses of known members, which the caps per source do not hit once they are validated.
    pub fn set_known_addresses(&self, known: impl IntoIterator<Item = IpAddr>) {
        self.inner.sources().set_known(known);
    }

    /// The bound address.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.endpoint.local_addr()
    }

    /// Closes every connection whose peer showed what leads to no root any more, or is revoked, by the trust in use now.
    /// Returns how many. What comes later is judged by it anyway.
    pub fn sweep(&self) -> u64 {
        let trust = self.inner.current.trust();
        let keep = |peer: &NodeName, shown: &table::Shown| trust.stands(peer, &shown.issuing_key_hash, shown.root);
        let closed = self.inner.table().close_unless(keep);
        self.inner.counters.swept.add(closed);
        self.inner.changed.notify_one();
        closed
    }

    /// From now on questions about trust are answered by this, on the thread of their connection.
    pub fn set_trust_answers(&self, answers: TrustAnswers) {
        self.inner.trust.set(answers);
    }

    /// Asks whoever is at this address about trust: one question, one answer, without a word on who we are.
    ///
    /// # Errors
    /// [`DialError`] when nobody answers, or not in this protocol.
    pub fn ask_trust(
        &self,
        address: SocketAddr,
        question: Bytes,
    ) -> impl Future<Output = Result<Bytes, DialError>> + Send + 'static {
        let inner = Arc::clone(&self.inner);
        async move { trust::ask(&inner, address, question).await }
    }

    /// Our own name, as our certificate has it.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.inner.me
    }

    /// Plain counters since the start.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        let table = self.inner.table();
        let (connections, duplicates, ended) = (table.links_len() as u64, table.duplicates, table.ended);
        drop(table);
        NetStats { connections, duplicates, ended, ..self.inner.counters.read(&self.inner.traffic) }
    }

    /// Closes everything and waits up to a second for the peers to hear of it. A node that leaves closes its
    /// connections with [`CloseCode::Leaving`] before.
    pub async fn shutdown(&self) {
        self.inner.endpoint.close(CloseCode::Shutdown.number(), CloseCode::Shutdown.word());
        let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, self.inner.endpoint.wait_idle()).await;
    }
}

/// See [`GossipNet::send_queue_percent`]; `spaces` are the bytes that are free.
fn fullness(mut spaces: Vec<usize>) -> u8 {
    if spaces.len() < 2 {
        return 0;
    }
    // The one with more room of the two in the middle.
    let middle = spaces.len() / 2;
    let (_, space, _) = spaces.select_nth_unstable(middle);
    let free = (*space).min(DATAGRAMS_OUT_BYTES);
    u8::try_from((DATAGRAMS_OUT_BYTES - free) * 100 / DATAGRAMS_OUT_BYTES).unwrap_or(100)
}

/// Brings the table's reports to the inbox, in order. Ends with the inbox, or with the last connection of a closed
/// endpoint; dropping it loses reports only.
async fn report(inner: Arc<Inner>) {
    loop {
        let changed = inner.changed.notified();
        let (next, is_empty) = {
            let mut table = inner.table();
            (table.next_change(), table.links_len() == 0)
        };
        match next {
            Some(event) => {
                if inner.inbox.send(event).await.is_err() {
                    return;
                }
            }
            None if is_empty && inner.is_closed.load(Ordering::Relaxed) => return,
            None => tokio::select! {
                () = changed => {}
                () = inner.inbox.closed() => return,
            },
        }
    }
}
