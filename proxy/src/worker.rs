//! A data thread: one current-thread runtime that serves the connections handed to it, and owns all it needs for that.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use starling_identity::{PeerIdentity, TrustView};
use starling_model::{NodeName, ServiceKey};
use starling_routing::{Caller, Decision, Draws, EndpointIndex, RequestFacts, UnixSeconds};
use starling_transport::data::{DataClient, DataServer, Handshaker, Proven};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tracing::{debug, info};

use crate::access_log::{HttpRecord, Record};
use crate::callers::{Asking, Owner};
use crate::config::{ProxyConfig, Upstream};
use crate::http::h2::Settings;
use crate::http::outbound::{self, Wanted};
use crate::http::pool::Pool;
use crate::http::routed::Budgets;
use crate::l4;
use crate::limits::SWEEP_INTERVAL;
use crate::listen::{Connection, Entry, Handover, Permit, Socket};
use crate::metrics::{Direction, Edges, Retired, Turned};
use crate::peers::{self, Counted};
use crate::snapshot::ProxyShared;
use crate::watch::Watched;

/// How often a thread looks whose last proof is too old; a day is what that takes.
const PROOF_LOOK: Duration = Duration::from_secs(60);

/// How often a thread looks whether somebody was revoked: of the two seconds in which a revocation is to be in force
/// everywhere, most is for its way there. A look compares two pointers.
const TRUST_LOOK: Duration = Duration::from_millis(100);

/// Where the data plane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Open,
    /// Peers may open nothing new; what is under way goes on.
    Draining,
    /// Applications' connections end after the request they have.
    Closing,
    /// Everything ends now.
    Stopped,
}

/// Requests and tunnels under way, of all threads.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    pub(crate) inbound: AtomicUsize,
    pub(crate) outbound: AtomicUsize,
}

/// Which counter of [`UnderWay`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Inbound,
    Outbound,
}

impl UnderWay {
    fn counter(&self, side: Side) -> &AtomicUsize {
        match side {
            Side::Inbound => &self.inbound,
            Side::Outbound => &self.outbound,
        }
    }
}

/// One request or tunnel under way.
#[derive(Debug)]
pub(crate) struct Active {
    under_way: Arc<UnderWay>,
    side: Side,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.under_way.counter(self.side).fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all tasks of one data thread share. Not `Send`, so nothing in it is locked.
pub(crate) struct Worker {
    pub(crate) shared: Arc<ProxyShared>,
    pub(crate) config: Arc<ProxyConfig>,
    pub(crate) edges: Edges,
    pub(crate) pool: Pool,
    pub(crate) client: DataClient,
    pub(crate) server_of_peers: DataServer,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) http2: Settings,
    /// Retries that services may still cost.
    pub(crate) budgets: Budgets,
    /// Copies of requests under way.
    pub(crate) mirroring: Cell<usize>,
    asking: Asking,
    under_way: Arc<UnderWay>,
    draw: Cell<u64>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("phase", &*self.phase.borrow()).finish_non_exhaustive()
    }
}

/// What a thread is started with.
#[derive(Debug)]
pub(crate) struct WorkerSeed {
    pub(crate) shared: Arc<ProxyShared>,
    pub(crate) config: Arc<ProxyConfig>,
    pub(crate) under_way: Arc<UnderWay>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) handovers: mpsc::Receiver<Handover>,
    pub(crate) handshaker: Handshaker,
}

impl Worker {
    fn new(seed: WorkerSeed) -> (Rc<Self>, mpsc::Receiver<Handover>) {
        let worker = Rc::new(Self {
            edges: Edges::new(&seed.shared.metrics),
            pool: Pool::default(),
            client: DataClient::with_handshaker(
                seed.shared.current.clone(),
                seed.shared.clock,
                seed.config.connection_age,
                seed.handshaker,
            ),
            server_of_peers: DataServer::new(
                seed.shared.current.clone(),
                seed.shared.clock,
                seed.config.connection_age,
            ),
            phase: seed.phase,
            http2: Settings::new(),
            budgets: Budgets::default(),
            mirroring: Cell::new(0),
            asking: Asking::default(),
            under_way: seed.under_way,
            // The standard library's own entropy; draws need to differ, not to be secret.
            draw: Cell::new(RandomState::new().hash_one(0u8)),
            shared: seed.shared,
            config: seed.config,
        });
        (worker, seed.handovers)
    }

    /// Counts a request or tunnel until the guard is dropped.
    pub(crate) fn active(&self, side: Side) -> Active {
        self.under_way.counter(side).fetch_add(1, Ordering::Relaxed);
        Active { under_way: self.under_way.clone(), side }
    }

    /// A fresh draw per request. [`Draws`] spreads the bits.
    pub(crate) fn draws(&self) -> Draws {
        let next = self.draw.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.draw.set(next);
        Draws::from_seed(next)
    }

    /// What the access log will be told of something that begins now; `None`: nothing.
    pub(crate) fn record(
        &self,
        direction: Direction,
        caller: impl FnOnce() -> Caller,
        http: impl FnOnce() -> Option<HttpRecord>,
    ) -> Option<Box<Record>> {
        let log = self.config.access_log.as_ref()?;
        let begun = || Record::new(direction, caller(), self.shared.table.load().digest(), http());
        log.begin(|| self.draws().sample(), begun)
    }

    /// One decision by the table of this moment, to be acted on: where endpoints take turns, one is taken.
    pub(crate) fn decide(&self, request: &RequestFacts<'_>, now: Instant, draws: Draws) -> Decision {
        let decision = self.foresee(request, now, draws);
        if let Decision::Forward(choice) = &decision
            && let Some(counter) = choice.turn
        {
            self.shared.loads.turned(counter);
        }
        decision
    }

    /// One decision that nobody acts on.
    pub(crate) fn foresee(&self, request: &RequestFacts<'_>, now: Instant, draws: Draws) -> Decision {
        let loads = |index: EndpointIndex| self.shared.loads.load(index, now);
        self.shared.table.load().decide(request, now, draws, &loads)
    }

    /// The time that clients' sessions are judged by.
    pub(crate) fn wall(&self) -> UnixSeconds {
        UnixSeconds((self.shared.clock)().0)
    }

    /// The service that a local call counts as, by our own table: its source where that is granted to this node. The
    /// receiver decides for itself.
    pub(crate) fn counts_as<'a>(&self, source: Option<&'a ServiceKey>) -> Option<&'a ServiceKey> {
        let node = &self.config.node;
        source.filter(|source| self.shared.table.load().grants().standing(source, node).is_accepted())
    }

    /// Whom the source that a stream names makes its caller; `Err` says in a word why a claim counts for nothing.
    pub(crate) fn caller(&self, node: &NodeName, source: Option<&ServiceKey>) -> Result<Caller, &'static str> {
        if source.is_some() && !self.shared.knows_grants() {
            return Err("not_known");
        }
        let table = self.shared.table.load();
        let caller = table.accept_source(node, source);
        match source.filter(|_| caller.service.is_none()) {
            Some(claimed) => Err(table.grants().standing(claimed, node).as_str()),
            None => Ok(caller),
        }
    }

    /// The service that a connection calls as. `entrance` is the one that the entrance carries.
    async fn source(&self, entrance: Option<&ServiceKey>, owner: Option<Owner>) -> Option<ServiceKey> {
        let instances = self.shared.instances.load_full();
        let callers = instances.callers();
        let cgroup = owner.and_then(|owner| owner.cgroup).filter(|_| callers.ask_unit());
        match cgroup {
            Some(cgroup) => callers.source(entrance, owner, self.asking.unit(cgroup).await.as_deref()),
            None => callers.source(entrance, owner, None),
        }
    }

    /// Whose an application's socket is, where that matters.
    fn owner(&self, of: impl FnOnce(&Asking) -> Option<Owner>) -> Option<Owner> {
        let asks = self.shared.instances.load().callers().ask_owner();
        if asks { of(&self.asking) } else { None }
    }

    /// True if the table knows the service, so that its name may stand in a label.
    pub(crate) fn knows(&self, service: &ServiceKey) -> bool {
        self.shared.table.load().service(service).is_some()
    }
}

/// Runs one data thread, on its `runtime`, until [`Phase::Stopped`], then drops every connection it has.
#[expect(clippy::needless_pass_by_value, reason = "the runtime ends with its thread")]
pub(crate) fn run(runtime: Runtime, seed: WorkerSeed) {
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let (worker, handovers) = Worker::new(seed);
        serve(worker, handovers).await;
    });
    // Tasks hold the worker and the worker's pool holds tasks' ends; both go with the set.
    drop(local);
}

async fn serve(worker: Rc<Worker>, mut handovers: mpsc::Receiver<Handover>) {
    let mut phase = worker.phase.clone();
    let mut counted = Counted::default();
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut proofs = tokio::time::interval(PROOF_LOOK);
    proofs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut look = tokio::time::interval(TRUST_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut trust, mut leaf) = (worker.shared.current.trust(), worker.shared.current.leaf_number());
    loop {
        tokio::select! {
            handover = handovers.recv() => match handover {
                Some(Handover::Connection(connection)) => begin(&worker, connection),
                Some(Handover::Peer(proven, permit)) => begin_peer(&worker, *proven, permit),
                Some(Handover::Watched(watched)) => watch_one(&worker, watched),
                Some(Handover::Clock(sent)) => worker.shared.metrics.lag.observe(sent.elapsed()),
                None => return,
            },
            _ = sweep.tick() => {
                let now = Instant::now();
                worker.pool.sweep(now);
                follow_leaf(&worker, &mut leaf);
                counted.count(&worker);
            }
            _ = look.tick() => cut_untrusted(&worker, &mut trust),
            _ = proofs.tick() => cut_stale(&worker, Instant::now()),
            changed = phase.changed() => {
                let now = if changed.is_ok() { *phase.borrow_and_update() } else { Phase::Stopped };
                if now >= Phase::Draining {
                    worker.server_of_peers.drain();
                }
                if now == Phase::Stopped {
                    worker.pool.clear();
                    return;
                }
            }
        }
    }
}

/// Closes the connections of whoever was revoked since the last look, or showed what leads to no root any more, with all
/// that runs on them.
fn cut_untrusted(worker: &Worker, known: &mut Arc<TrustView>) {
    let trust = worker.shared.current.trust();
    if Arc::ptr_eq(&trust, known) {
        return;
    }
    known.clone_from(&trust);
    let keep = |peer: &PeerIdentity| trust.stands(&peer.node, &peer.issuing_key_hash, peer.root);
    let closed = worker.client.close_unless(keep) + worker.server_of_peers.close_unless(keep);
    if closed > 0 {
        info!(closed, "connections of nodes that are revoked, or under a root that went, are closed");
    }
}

/// Closes the connections of nodes that did not prove themselves anywhere for a day: streams outlive certificates that their
/// node could show again, and no others.
fn cut_stale(worker: &Worker, now: Instant) {
    let proofs = worker.shared.current.negotiated();
    let keep = |peer: &PeerIdentity| proofs.is_fresh(&peer.node, now);
    let closed = worker.client.close_unless(keep) + worker.server_of_peers.close_unless(keep);
    if closed > 0 {
        info!(closed, "connections of nodes that have not proved themselves for a day are closed");
    }
}

/// With a new leaf of ours, connections that show the old one are left to their present streams: what a certificate says now
/// is seen within seconds, and not when the oldest connection happens to end.
fn follow_leaf(worker: &Worker, known: &mut u64) {
    let number = worker.shared.current.leaf_number();
    if number != *known {
        *known = number;
        let (dialled, accepted) = (worker.client.retire_all(), worker.server_of_peers.retire_all());
        let metrics = &worker.shared.metrics;
        metrics.retired(Direction::Outbound, Retired::Leaf, dialled as u64);
        metrics.retired(Direction::Inbound, Retired::Leaf, accepted as u64);
    }
}

/// Spawns the one task of a connection. It owns the connection and its permit, and ends with it or with the thread.
fn begin(worker: &Rc<Worker>, connection: Connection) {
    let Connection { socket, entry, permit } = connection;
    let worker = worker.clone();
    match socket {
        Socket::Tcp(stream) => match TcpStream::from_std(stream) {
            Ok(stream) => drop(tokio::task::spawn_local(dispatch(worker, stream, entry, permit))),
            Err(error) => turn_away(&worker, &error),
        },
        Socket::Unix(stream) => match UnixStream::from_std(stream) {
            Ok(stream) => {
                let uid = |stream: &UnixStream| stream.peer_cred().ok().map(|peer| peer.uid());
                let owner = worker.owner(|_| uid(&stream).map(|uid| Owner { uid, cgroup: None }));
                drop(tokio::task::spawn_local(application(worker, stream, (entry, owner), permit)));
            }
            Err(error) => turn_away(&worker, &error),
        },
    }
}

/// The same for a proven peer.
fn begin_peer(worker: &Rc<Worker>, proven: Proven, permit: Permit) {
    let worker = worker.clone();
    drop(tokio::task::spawn_local(async move {
        peers::serve(worker, proven).await;
        drop(permit);
    }));
}

/// The same for a request that somebody watches: the one task ends with its connection, which its sender closes.
fn watch_one(worker: &Rc<Worker>, watched: Watched) {
    let Watched { stream, source, told } = watched;
    match UnixStream::from_std(stream) {
        Ok(stream) => {
            let route =
                outbound::Route::Watched(Rc::new(outbound::Watching { source, told: RefCell::new(Some(told)) }));
            drop(tokio::task::spawn_local(outbound::serve(worker.clone(), stream, route)));
        }
        Err(error) => turn_away(worker, &error),
    }
}

fn turn_away(worker: &Worker, error: &std::io::Error) {
    worker.shared.metrics.turned_away(Turned::System);
    debug!(%error, "a connection could not be taken over");
}

async fn dispatch(worker: Rc<Worker>, stream: TcpStream, entry: Entry, permit: Permit) {
    match entry {
        // They come when they are proven.
        Entry::Peers => {}
        Entry::Gateway(port) => {
            // On the heap: an idle connection of another kind must not carry it.
            Box::pin(l4::gateway::serve(worker, stream, port)).await;
            drop(permit);
        }
        Entry::Http | Entry::Upstream(_) => {
            let owner = worker.owner(|asking| asking.owner(&stream));
            application(worker, stream, (entry, owner), permit).await;
        }
    }
}

async fn application<S: l4::Tunnelled>(
    worker: Rc<Worker>,
    stream: S,
    (entry, owner): (Entry, Option<Owner>),
    permit: Permit,
) {
    match entry {
        Entry::Http => {
            let source = worker.source(None, owner).await;
            outbound::serve(worker, stream, outbound::Route::ByHost(source)).await;
        }
        Entry::Upstream(at) => {
            let Some(upstream) = worker.config.upstreams.get(at) else { return };
            let Upstream { service, port, source, listen: _ } = upstream;
            let source = worker.source(source.as_ref(), owner).await;
            let wanted = Wanted { service: service.clone(), port: port.clone(), source };
            outbound::enter(worker, stream, wanted).await;
        }
        Entry::Peers | Entry::Gateway(_) => {}
    }
    drop(permit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Requests keep their state on the heap while they run, so this is what an idle keep-alive connection holds here.
    #[test]
    fn an_idle_connection_is_small() {
        let size = size(dispatch);
        assert!(size <= 4_096, "{size} bytes");
    }
}
