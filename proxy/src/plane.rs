//! The data plane as the node sees it: started with its listeners bound, drained, stopped.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use starling_model::{Code, codes};
use starling_transport::data::{Handshaker, Prover};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::config::{ListenAddress, ProxyConfig};
use crate::gateways::GatewayDoors;
use crate::handshakes::Handshakes;
use crate::limits::{HANDOVER_MAX, THREADS_MAX};
use crate::listen::{self, Acceptor, Bound, Entry, Lane, ListenError, Purpose};
use crate::snapshot::ProxyShared;
use crate::watch::Asker;
use crate::worker::{self, Phase, UnderWay, WorkerSeed};

/// How often a drain looks whether it is over.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// How long applications' requests may take to end once the agent stops, when their drain is over.
const CLOSING_MAX: Duration = Duration::from_millis(500);

/// Why the data plane did not start. Nothing is left behind: sockets bound so far are closed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread could not be started.
    #[error("no data thread can be started")]
    Thread(#[source] io::Error),
}

impl ProxyError {
    /// The catalogue's entry.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Listen(error) => error.code(),
            Self::Thread(_) => codes::FILE_LIMIT,
        }
    }
}

/// Where the listeners wait; ports that were asked for as 0 are known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Peers' traffic.
    pub data: SocketAddr,
    /// The HTTP outbound.
    pub http: Option<SocketAddr>,
    /// The entrances, in the order of the configuration.
    pub upstreams: Vec<ListenAddress>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing of peers is under way any more.
    Quiet,
    /// The deadline came; so many requests and tunnels of peers go on.
    Busy(usize),
}

/// The running data plane. Dropping it stops it at once.
#[derive(Debug)]
pub struct DataPlane {
    phase: watch::Sender<Phase>,
    under_way: Arc<UnderWay>,
    addresses: Addresses,
    loads: Vec<Arc<AtomicUsize>>,
    lanes: Vec<Lane>,
    threads: Vec<JoinHandle<()>>,
    /// Does the handshakes of all data threads.
    handshakes: Option<Runtime>,
}

impl DataPlane {
    /// Binds every listener and starts the data threads. When this returns, all of it is served.
    ///
    /// # Errors
    /// [`ProxyError`] names the address and who holds it.
    pub fn start(config: ProxyConfig, shared: Arc<ProxyShared>) -> Result<Self, ProxyError> {
        let (bound, addresses) = bind_all(&config)?;
        let (phase, watched) = watch::channel(Phase::Open);
        let under_way = Arc::new(UnderWay::default());
        let config = Arc::new(config);
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = thread_count(config.threads, cores);
        let handshakes = handshake_runtime(threads)?;
        let handshakes_on = handshakes.handle().clone();
        let handshaker = Handshaker::on(handshakes_on.clone());
        let mut plane = Self {
            phase,
            under_way: under_way.clone(),
            addresses,
            loads: Vec::new(),
            lanes: Vec::new(),
            threads: Vec::new(),
            handshakes: Some(handshakes),
        };
        let mut lanes = Vec::new();
        for number in 0..threads {
            let (sender, handovers) = mpsc::channel(HANDOVER_MAX);
            let seed = WorkerSeed {
                shared: shared.clone(),
                config: config.clone(),
                under_way: under_way.clone(),
                phase: watched.clone(),
                handovers,
                handshaker: handshaker.clone(),
            };
            let runtime = data_runtime()?;
            lanes.push(Lane { handovers: sender, load: Arc::default(), home: runtime.handle().clone() });
            plane.spawn(&format!("data-{number}"), move || worker::run(runtime, seed))?;
        }
        plane.loads = lanes.iter().map(|lane| lane.load.clone()).collect();
        plane.lanes = lanes.clone();
        let prover = Prover::new(shared.current.clone(), shared.clock);
        let handshakes = Handshakes::new(handshakes_on, prover, shared.metrics.clone());
        let acceptor = Acceptor { lanes, handshakes, metrics: shared.metrics.clone(), phase: watched };
        let doors = config.gateway_listen.map(|address| GatewayDoors { address, node: config.node.clone(), shared });
        plane.spawn("accept", move || listen::run(bound, doors, acceptor))?;
        Ok(plane)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ProxyError> {
        let thread = thread::Builder::new().name(format!("starling-{name}")).spawn(body);
        self.threads.push(thread.map_err(ProxyError::Thread)?);
        Ok(())
    }

    /// Where the listeners wait.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Connections that each data thread serves now.
    #[must_use]
    pub fn connections(&self) -> Vec<usize> {
        self.loads.iter().map(|load| load.load(Ordering::Relaxed)).collect()
    }

    /// Hands single requests to the data threads.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker { lanes: self.lanes.clone() }
    }

    /// Requests and tunnels of peers that are under way here.
    #[must_use]
    pub fn inbound_under_way(&self) -> usize {
        self.under_way.inbound.load(Ordering::Relaxed)
    }

    /// Tells peers to open nothing new (`goaway`) and waits until what they have under way is over, or the deadline.
    /// Announce the instances as draining first, and give the mesh a moment: this is the second step. Applications of
    /// this host are served on.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.advance(Phase::Draining);
        let until = Instant::now() + deadline;
        let mut quiet = 0;
        loop {
            let left = self.inbound_under_way();
            // Twice in a row: a request may be between two hands.
            quiet = if left == 0 { quiet + 1 } else { 0 };
            if quiet >= 2 {
                return Drained::Quiet;
            }
            if Instant::now() >= until {
                info!(left, "drain ended by its deadline");
                return Drained::Busy(left);
            }
            tokio::time::sleep(DRAIN_STEP).await;
        }
    }

    /// Stops the data plane: closes the listeners, lets applications' requests end for a moment, then ends everything.
    /// Blocks for at most about half a second; call it last, or from a blocking thread.
    pub fn shutdown(mut self) {
        self.advance(Phase::Closing);
        let until = Instant::now() + CLOSING_MAX;
        while self.under_way.outbound.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            thread::sleep(DRAIN_STEP);
        }
        self.stop();
    }

    fn stop(&mut self) {
        self.advance(Phase::Stopped);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
        if let Some(handshakes) = self.handshakes.take() {
            // Nobody waits for one any more.
            handshakes.shutdown_background();
        }
    }

    fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|held| {
            let later = phase > *held;
            if later {
                *held = phase;
            }
            later
        });
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

/// As many as are wanted; by itself half of the cores, for the other half is the applications'. Requests that share a thread
/// share its wake-ups and system calls, so fewer threads do the same for less, as long as they have time left.
fn thread_count(wanted: usize, cores: usize) -> usize {
    let threads = if wanted == 0 { cores.div_ceil(2) } else { wanted };
    threads.clamp(1, THREADS_MAX)
}

fn data_runtime() -> Result<Runtime, ProxyError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProxyError::Thread)
}

/// Where handshakes are done: apart, so that no request waits for one, and on half as many threads as requests have, so that
/// a mesh that comes back all at once leaves them the rest.
fn handshake_runtime(data_threads: usize) -> Result<Runtime, ProxyError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(data_threads.div_ceil(2))
        .thread_name("starling-handshake")
        .enable_all()
        .build()
        .map_err(ProxyError::Thread)
}

fn bind_all(config: &ProxyConfig) -> Result<(Vec<Bound>, Addresses), ProxyError> {
    let tcp = |purpose, address: SocketAddr, entry| -> Result<(Bound, SocketAddr), ProxyError> {
        let bound = listen::bind(purpose, &ListenAddress::Tcp(address), entry)?;
        let at = match &bound.address {
            ListenAddress::Tcp(at) => *at,
            ListenAddress::Unix(_) => address,
        };
        Ok((bound, at))
    };
    let (data, data_at) = tcp(Purpose::Peers, config.data_listen, Entry::Peers)?;
    let mut bound = vec![data];
    let mut http_at = None;
    if let Some(address) = config.http_listen {
        let (http, at) = tcp(Purpose::HttpOutbound, address, Entry::Http)?;
        bound.push(http);
        http_at = Some(at);
    }
    let mut upstreams = Vec::new();
    for (at, upstream) in config.upstreams.iter().enumerate() {
        let listener = listen::bind(Purpose::Upstream, &upstream.listen, Entry::Upstream(at))?;
        upstreams.push(listener.address.clone());
        bound.push(listener);
    }
    Ok((bound, Addresses { data: data_at, http: http_at, upstreams }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_cores_move_traffic() {
        let threads = |wanted| [1, 2, 3, 4, 8, 64].map(|cores| thread_count(wanted, cores));
        assert_eq!(threads(0), [1, 1, 2, 2, 4, 4]);
        assert_eq!(threads(3), [3; 6], "who says how many gets them");
        assert_eq!(threads(9), [THREADS_MAX; 6]);
    }
}
