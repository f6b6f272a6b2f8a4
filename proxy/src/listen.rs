//! Listeners: each connection is accepted once, given a permit, and handed to the least-loaded data thread; one of a peer
//! once it is proven.
//!
//! Under `SO_REUSEPORT` a hash would decide, and two busy connections could share a thread while another idles. What
//! is over a limit is refused at once and counted; nobody waits in a queue that nobody serves.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};
use starling_model::{Code, codes};
use starling_transport::data::Proven;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use crate::config::ListenAddress;
use crate::gateways::{self, GatewayDoors};
use crate::handshakes::Handshakes;
use crate::l4::tune_local;
use crate::limits::{ACCEPT_BACKOFF, CONNECTIONS_MAX, CONNECTIONS_PER_LISTENER_MAX};
use crate::metrics::{ProxyMetrics, Turned};
use crate::watch::Watched;
use crate::worker::Phase;

/// Connections that the kernel holds for us while the accept task is busy; the usual `somaxconn`.
const BACKLOG: i32 = 4096;

/// How often each data thread is asked how late it is: 600 samples a minute, at a few microseconds each.
const LAG_LOOK: Duration = Duration::from_millis(100);

/// What a connection came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Another agent's traffic.
    Peers,
    /// The HTTP outbound.
    Http,
    /// The entrance of this number in the configuration.
    Upstream(usize),
    /// A listener of a Gateway.
    Gateway(NonZeroU16),
}

/// A socket between two threads.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What is on its way to a data thread.
#[derive(Debug)]
pub(crate) enum Handover {
    Connection(Connection),
    /// A peer that is proven.
    Peer(Box<Proven>, Permit),
    /// A request that somebody watches.
    Watched(Watched),
    /// When this was sent: how late it is taken is how late the thread is.
    Clock(Instant),
}

/// A connection on its way to a data thread.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    pub(crate) entry: Entry,
    pub(crate) permit: Permit,
}

/// A place among the connections of a listener, of all listeners and of a thread; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    counts: [Arc<AtomicUsize>; 3],
}

impl Drop for Permit {
    fn drop(&mut self) {
        for count in &self.counts {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The accepting end of one data thread.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) handovers: mpsc::Sender<Handover>,
    pub(crate) load: Arc<AtomicUsize>,
    /// The thread's runtime, which waits for its sockets.
    pub(crate) home: Handle,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Traffic of other nodes' agents.
    Peers,
    /// The HTTP outbound.
    HttpOutbound,
    /// A fixed local entrance.
    Upstream,
    /// A listener of a Gateway.
    Gateway,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peers => "peers' traffic",
            Self::HttpOutbound => "the HTTP outbound",
            Self::Upstream => "an upstream",
            Self::Gateway => "a Gateway",
        })
    }
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{purpose} cannot listen on {address}")]
pub struct ListenError {
    /// Whose address it is.
    pub purpose: Purpose,
    /// The address that was wanted.
    pub address: ListenAddress,
    /// What the system said.
    pub source: io::Error,
}

impl ListenError {
    /// The catalogue's entry.
    #[must_use]
    pub fn code(&self) -> Code {
        if self.source.kind() == io::ErrorKind::PermissionDenied { codes::PORT_FORBIDDEN } else { codes::PORT_TAKEN }
    }
}

/// A listener that is bound, not served yet.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: Listener,
    entry: Entry,
    pub(crate) address: ListenAddress,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds one listener.
pub(crate) fn bind(purpose: Purpose, address: &ListenAddress, entry: Entry) -> Result<Bound, ListenError> {
    let bound = match address {
        ListenAddress::Tcp(wanted) => bind_tcp(*wanted, entry).and_then(|listener| {
            let address = ListenAddress::Tcp(listener.local_addr()?);
            Ok(Bound { listener: Listener::Tcp(listener), entry, address })
        }),
        ListenAddress::Unix(path) => bind_unix(path).map(|listener| Bound {
            listener: Listener::Unix(listener),
            entry,
            address: address.clone(),
        }),
    };
    bound.map_err(|source| ListenError { purpose, address: address.clone(), source })
}

fn bind_tcp(address: SocketAddr, entry: Entry) -> io::Result<TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted agent must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if entry != Entry::Peers {
        // Accepted sockets inherit these, which saves two system calls per connection.
        tune_local(&SockRef::from(&socket));
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket file that nobody answers at, left by an agent that was killed.
fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// What the accept thread needs.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) handshakes: Handshakes,
    pub(crate) metrics: ProxyMetrics,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// Serves all listeners, and those of Gateways, until the data plane closes. Runs on a thread of its own, so that a busy data thread delays no
/// other one's connections.
pub(crate) fn run(bound: Vec<Bound>, doors: Option<GatewayDoors>, acceptor: Acceptor) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            warn!(%error, "no listener is served: the accept thread has no runtime");
            return;
        }
    };
    let acceptor = Arc::new(acceptor);
    let total = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(ask_how_late(acceptor.lanes.clone(), acceptor.phase.clone()));
        for Bound { listener, entry, address } in bound {
            let own = Own::new(entry, &total, &acceptor);
            match listener {
                Listener::Tcp(listener) => tasks.spawn(accept_all(listener, own)),
                Listener::Unix(listener) => tasks.spawn(async move {
                    accept_all(listener, own).await;
                    if let ListenAddress::Unix(path) = address {
                        let _ = fs::remove_file(path);
                    }
                }),
            };
        }
        if let Some(doors) = doors {
            tasks.spawn(gateways::follow(doors, total.clone(), acceptor.clone()));
        }
        while tasks.join_next().await.is_some() {}
    });
}

/// Asks each data thread again and again how late it is, until the data plane closes. A thread whose queue is full says so by
/// what it turns away.
async fn ask_how_late(lanes: Vec<Lane>, mut phase: watch::Receiver<Phase>) {
    let mut look = tokio::time::interval(LAG_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                for lane in &lanes {
                    let _ = lane.handovers.try_send(Handover::Clock(Instant::now()));
                }
            }
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => return,
        }
    }
}

/// Serves one listener more, until the data plane closes. Dropping this closes it; what came by it lives on. `count` is what
/// it has open together with others.
pub(crate) async fn serve(bound: Bound, count: Arc<AtomicUsize>, total: Arc<AtomicUsize>, acceptor: Arc<Acceptor>) {
    let own = Own { count, ..Own::new(bound.entry, &total, &acceptor) };
    match bound.listener {
        Listener::Tcp(listener) => accept_all(listener, own).await,
        Listener::Unix(listener) => accept_all(listener, own).await,
    }
}

/// One listener's counters and where it hands over.
#[derive(Debug)]
struct Own {
    entry: Entry,
    count: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
    acceptor: Arc<Acceptor>,
}

/// The two kinds of listener, which differ in what they yield.
trait Accept: AsRawFd + Send + Sync + 'static {
    /// The next connection, which no reactor knows yet: it is for another thread's.
    fn take(&self) -> io::Result<Socket>;
}

impl Accept for TcpListener {
    fn take(&self) -> io::Result<Socket> {
        let (stream, _) = self.accept()?;
        stream.set_nonblocking(true)?;
        Ok(Socket::Tcp(stream))
    }
}

impl Accept for UnixListener {
    fn take(&self) -> io::Result<Socket> {
        let (stream, _) = self.accept()?;
        stream.set_nonblocking(true)?;
        Ok(Socket::Unix(stream))
    }
}

/// Owns the listener; ends when the data plane closes.
async fn accept_all<L: Accept>(listener: L, own: Own) {
    #[expect(deprecated, reason = "it is unsound only for what may swap its descriptor, which no listener does")]
    let registered = AsyncFd::with_interest(listener, Interest::READABLE);
    let listener = match registered {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "a listener cannot be served");
            return;
        }
    };
    let mut phase = own.acceptor.phase.clone();
    let mut closing = pin!(phase.wait_for(|phase| *phase >= Phase::Closing));
    loop {
        let taken = tokio::select! {
            taken = listener.async_io(Interest::READABLE, L::take) => taken,
            _ = &mut closing => return,
        };
        match taken {
            Ok(socket) => own.hand_over(socket),
            // The client gave up before we looked: the next one may be well.
            Err(error) if is_passing(&error) => debug!(%error, "a connection was gone before it was accepted"),
            Err(error) => {
                own.acceptor.metrics.turned_away(Turned::System);
                warn!(%error, "no connection can be accepted for a moment");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

impl Own {
    fn new(entry: Entry, total: &Arc<AtomicUsize>, acceptor: &Arc<Acceptor>) -> Self {
        Self { entry, count: Arc::default(), total: total.clone(), acceptor: acceptor.clone() }
    }

    fn hand_over(&self, socket: Socket) {
        let metrics = &self.acceptor.metrics;
        let Some(lane) = self.acceptor.lanes.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed)) else {
            return;
        };
        if self.count.load(Ordering::Relaxed) >= CONNECTIONS_PER_LISTENER_MAX
            || self.total.load(Ordering::Relaxed) >= CONNECTIONS_MAX
        {
            // Dropping the socket closes it.
            return metrics.turned_away(Turned::Limit);
        }
        let counts = [self.count.clone(), self.total.clone(), lane.load.clone()];
        for count in &counts {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let permit = Permit { counts };
        let socket = match (self.entry, socket) {
            (Entry::Peers, Socket::Tcp(socket)) => return self.acceptor.handshakes.begin(socket, lane.clone(), permit),
            (_, socket) => socket,
        };
        let connection = Connection { socket, entry: self.entry, permit };
        if lane.handovers.try_send(Handover::Connection(connection)).is_err() {
            metrics.turned_away(Turned::Handover);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_that_names_purpose_and_address() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ListenAddress::Tcp(held.local_addr().unwrap());
        let error = bind(Purpose::Peers, &address, Entry::Peers).unwrap_err();
        assert_eq!(error.code(), codes::PORT_TAKEN);
        assert!(error.to_string().starts_with("peers' traffic cannot listen on 127.0.0.1:"), "{error}");
    }

    #[tokio::test]
    async fn what_is_over_a_limit_is_refused_and_counted() {
        let (sender, mut handed) = mpsc::channel(1);
        let lanes = vec![Lane { handovers: sender, load: Arc::default(), home: Handle::current() }];
        let metrics = ProxyMetrics::new();
        let (_phase, phase) = watch::channel(Phase::Open);
        let handshakes = Handshakes::new(Handle::current(), crate::tests::prover(), metrics.clone());
        let acceptor = Arc::new(Acceptor { lanes, handshakes, metrics: metrics.clone(), phase });
        let own = Own { entry: Entry::Http, count: Arc::default(), total: Arc::default(), acceptor };
        let socket = || Socket::Unix(UnixStream::pair().unwrap().0);
        own.hand_over(socket());
        own.hand_over(socket());
        assert_eq!(metrics.turned_count(Turned::Handover), 1, "the thread has one waiting");
        let counts = || [&own.count, &own.total].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts(), [1, 1], "the refused one holds no place");
        drop(handed.try_recv());
        assert_eq!(counts(), [0, 0]);
        own.count.store(CONNECTIONS_PER_LISTENER_MAX, Ordering::Relaxed);
        own.hand_over(socket());
        own.count.store(0, Ordering::Relaxed);
        own.total.store(CONNECTIONS_MAX, Ordering::Relaxed);
        own.hand_over(socket());
        assert_eq!(metrics.turned_count(Turned::Limit), 2);
        assert!(handed.try_recv().is_err());
    }

    #[test]
    fn a_socket_file_of_a_killed_agent_is_replaced_and_a_living_one_is_not() {
        let path = std::env::temp_dir().join(format!("starling-proxy-test-{}.sock", std::process::id()));
        let _ = fs::remove_file(&path);
        let address = ListenAddress::Unix(path.clone());
        let first = bind(Purpose::Upstream, &address, Entry::Upstream(0)).unwrap();
        assert!(bind(Purpose::Upstream, &address, Entry::Upstream(0)).is_err(), "it is served");
        drop(first);
        assert!(bind(Purpose::Upstream, &address, Entry::Upstream(0)).is_ok(), "nobody serves it");
        fs::write(path.with_extension("txt"), "").unwrap();
        let file = ListenAddress::Unix(path.with_extension("txt"));
        assert!(bind(Purpose::Upstream, &file, Entry::Upstream(0)).is_err(), "no other file is ever removed");
        for left in [path.clone(), path.with_extension("txt")] {
            let _ = fs::remove_file(left);
        }
    }
}
