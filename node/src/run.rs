//! The whole agent on one page: identity, store, listeners, tasks, and the ordered end.
//!
//! Everything but the data plane runs on one small runtime; the data plane has threads of its own. The agent ends with
//! an error only for an unusable configuration, identity, state folder or port. A seed that is down, a broken store, a
//! file of `services.d` that cannot be read: it says so and serves.

mod doors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use starling_config::{AgentConfig, Loaded, Setting};
use starling_identity::Revoked;
use starling_model::{BootEpoch, SpiffeId, codes};
use starling_proxy::{AccessLog, AccessLogFigures, DataPlane, ProxyShared};
use starling_transport::quic::GossipNet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;
use tracing::{error, info, warn};

use self::doors::{Doors, bind_api, bind_gossip, guard, plane_error, read_session_key};
use crate::api::operations::Operations;
use crate::api::server::Server;
use crate::api::views::{Listeners, UpstreamListener};
use crate::api::{ApiState, router};
use crate::channel::Queue;
use crate::crypto::wall_clock;
use crate::events::Events;
use crate::lower;
use crate::mesh_view::MeshView;
use crate::shutdown::{DRAIN_DEADLINE, DRAIN_SPREAD, LEAVE_DEADLINE, Left, Lifecycle, Phase, STOP_DEADLINE};
use crate::store::{self, OpenRefused, StoreHandle};
use crate::supervise::{self, Health};
use crate::tasks::gossip::{self, MeshCommand};
use crate::tasks::identity::{self, Identity, chain_of};
use crate::tasks::instances::{self, InstanceCommand, Instances};
use crate::tasks::own::OwnRecords;
use crate::tasks::routes::{self, LeftBehind, Routes};
use crate::telemetry::access::AccessWriter;
use crate::telemetry::log::{self, FilterHandle};
use crate::telemetry::metrics::{Metrics, Sources};
use crate::telemetry::notify;
use crate::telemetry::startup::{Block, ready_line};

/// Threads of the small runtime: gossip and API; their work is short.
const WORKERS_MAX: usize = 2;
/// Threads for blocking work: names, files.
const BLOCKING_THREADS_MAX: usize = 8;
/// Below this soft limit of open files a warning is due (ST0712); each connection of the data plane takes one or two.
pub(crate) const OPEN_FILES_MIN: u64 = 4_096;
/// How long the look-up of the first seed may delay the start.
const SEED_LOOK_UP: Duration = Duration::from_secs(1);
/// How long API answers may take to reach their askers at the end.
const API_GRACE: Duration = Duration::from_millis(500);
/// How long closing the gossip connections may take; the network's own limit is a second.
const NET_GRACE: Duration = Duration::from_millis(1_200);
/// How often the service manager is told the status.
const STATUS_PAUSE: Duration = Duration::from_secs(5);

/// Reads the configuration again as at the start: same files, environment and flags. The error is rendered for people.
pub type Reload = Box<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// What the command line gives the agent.
pub struct AgentOptions {
    /// The configuration, with origins and warnings.
    pub loaded: Loaded,
    /// How to read it again, for SIGHUP.
    pub reload: Reload,
    /// Time from one leaf key to the next.
    pub rekey_interval: Duration,
    /// How long a connection to another agent is used, give or take a fifth, before a new one takes its place.
    pub connection_age: Duration,
}

impl std::fmt::Debug for AgentOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentOptions").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

/// Why the agent did not start or could not go on: unusable configuration, identity or ports. Print it as
/// `error[CODE]: what`, then `cause:` and `help:`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct AgentError {
    /// Entry of the catalogue.
    pub code: starling_model::Code,
    /// What happened, with particulars.
    pub what: String,
    /// Why, as the system said it.
    pub cause: Option<String>,
    /// What to do; the catalogue's help unless something better is known.
    pub help: String,
}

/// Runs the agent until it is told to stop. Builds its own runtimes; call it from the main thread, outside of any.
///
/// # Errors
/// [`AgentError`] when configuration, identity or ports are unusable.
#[expect(clippy::needless_pass_by_value, reason = "the agent owns its options until it ends")]
pub fn run_agent(options: AgentOptions) -> Result<(), AgentError> {
    let config = &options.loaded.config;
    let filter = log::start(&config.log.filter, config.log.format).map_err(|what| AgentError {
        code: codes::BAD_SETTING,
        what,
        cause: None,
        help: "write it like \"info,starling_gossip=debug\"".to_owned(),
    })?;
    host_limits();
    let identity = Arc::new(identity::load(config)?);
    let store = store::open(&config.state, identity.node.mesh_id()).map_err(|refused| locked(&refused))?;
    let epoch = store.next_epoch();
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WORKERS_MAX));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("starling-main")
        .enable_all()
        .build()
        .map_err(|failure| AgentError {
            code: codes::FILE_LIMIT,
            what: "the runtime could not be started".to_owned(),
            cause: Some(failure.to_string()),
            help: "look at the limits of threads and open files".to_owned(),
        })?;
    let outcome = runtime.block_on(agent(&options, &filter, (identity, store.clone(), epoch)));
    store.close();
    runtime.shutdown_timeout(API_GRACE);
    routes::ends_in_order(&store);
    outcome
}

/// Raises the soft limit of open files to the hard one; switches core dumps off, because they would hold keys.
fn host_limits() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warn!(%error, "core dumps could not be switched off");
    }
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        warn!(soft, hard, "the limit of open files could not be raised");
    }
    if hard < OPEN_FILES_MIN {
        let code = codes::FILE_LIMIT;
        warn!(limit = hard, %code, help = code.help, "the limit of open files is low");
    }
}

fn locked(refused: &OpenRefused) -> AgentError {
    match refused {
        OpenRefused::Locked { .. } => AgentError {
            code: codes::STATE_LOCKED,
            what: refused.to_string(),
            cause: None,
            help: codes::STATE_LOCKED.help.to_owned(),
        },
        OpenRefused::Folder { .. } => AgentError {
            code: codes::STORE_DEGRADED,
            what: "the state folder cannot be used".to_owned(),
            cause: Some(chain_of(refused)),
            help: "let the agent's user write there, or name another place with --state-dir".to_owned(),
        },
    }
}

/// Who stops the agent from outside.
struct Signals {
    stop: StopSignals,
    hangup: Signal,
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, AgentError> {
        let listen = |kind: SignalKind| {
            signal(kind).map_err(|failure| AgentError {
                code: codes::FILE_LIMIT,
                what: "signals cannot be received".to_owned(),
                cause: Some(failure.to_string()),
                help: "look at the limits of open files".to_owned(),
            })
        };
        let stop =
            StopSignals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? };
        Ok(Self { stop, hangup: listen(SignalKind::hangup())? })
    }
}

impl StopSignals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn agent(
    options: &AgentOptions,
    filter: &FilterHandle,
    (identity, store, epoch): (Arc<Identity>, StoreHandle, BootEpoch),
) -> Result<(), AgentError> {
    let (began, started) = (Instant::now(), SystemTime::now());
    let config = &options.loaded.config;
    let mut signals = Signals::new()?;
    let health = Health::default();
    let lifecycle = Lifecycle::default();

    // Who is revoked is refused, from the first handshake on.
    let revoked = gossip::revocations_on_disk(store.state(), &identity.bundle());
    identity.current.revoke(Revoked::new(revoked));

    // Listeners first: a port that is taken ends the start before anybody hears of us.
    let (net_events, net_inbox) = mpsc::channel(gossip::INBOX_LEN_MAX);
    let net = bind_gossip(config, &identity, options.connection_age, net_events)?;
    let shared = Arc::new(ProxyShared::new(identity.current.clone(), wall_clock));
    if let Some(path) = &config.outbound.session_key_file {
        shared.seal_sessions(read_session_key(path)?);
    }
    let access_figures: Arc<AccessLogFigures> = Arc::default();
    let (access_log, access) = access_log(config, &identity, &access_figures)?.unzip();
    let plane = lower::proxy(config, &identity, access_log, options.connection_age);
    let data = DataPlane::start(plane, Arc::clone(&shared)).map_err(|failure| plane_error(&failure))?;
    let doors = bind_api(config).await?;
    let guard = guard(config)?;

    // Snapshots and mailboxes.
    let node = identity.node.node().clone();
    let view = Arc::new(ArcSwap::from_pointee(MeshView::empty(node, epoch, began)));
    let own = OwnRecords::default();
    let events = Events::new(epoch);
    let routes = Routes {
        inbox: routes::RoutesInbox::default(),
        documents: Arc::new(watch::Sender::new(routes::Meant::default())),
        applied: routes::AppliedCell::default(),
        own: own.clone(),
        shared: Arc::clone(&shared),
        settings: lower::table(config),
        ages: Arc::default(),
        figures: Arc::default(),
        left_behind: LeftBehind::default(),
        events: events.clone(),
        store: Some(store.clone()),
        node: identity.node.node().clone(),
    };
    own.change_status(|status| {
        status.release = crate::RELEASE.to_owned();
        status.labels = config.mesh.labels.clone();
    });
    identity.publish(&own);

    // What runs here is known before the mesh hears of us.
    let local = instances::LocalViewCell::default();
    let instances = Instances::load(instances::Context {
        folder: config.services_dir(),
        store: store.clone(),
        own: own.clone(),
        shared: Arc::clone(&shared),
        view: Arc::clone(&local),
        health: health.clone(),
    });
    let (instance_commands, instance_inbox) = mpsc::channel(instances::COMMANDS_LEN_MAX);
    let (mesh_commands, mesh_inbox) = Queue::new("mesh", gossip::COMMANDS_LEN_MAX);
    let advertised = advertised(config, net.local_addr().unwrap_or(config.mesh.listen)).await;
    let context = gossip::Context {
        settings: Arc::new(gossip::Settings {
            swim: lower::swim(config.mesh.preset),
            seeds: lower::other_seeds(&config.mesh, advertised),
            addresses: vec![advertised],
            region: lower::region(&config.mesh),
        }),
        identity: Arc::clone(&identity),
        net: net.clone(),
        store: store.clone(),
        own: own.clone(),
        routes: routes.inbox.clone(),
        documents: Arc::clone(&routes.documents),
        applied: Arc::clone(&routes.applied),
        view: Arc::clone(&view),
        events: events.clone(),
        lifecycle: lifecycle.clone(),
    };
    let metrics = Metrics::new(
        &shared.metrics,
        Sources {
            view: Arc::clone(&view),
            identity: Arc::clone(&identity),
            store: store.clone(),
            routes_inbox: routes.inbox.clone(),
            routes: Arc::clone(&routes.figures),
            left_behind: routes.left_behind.clone(),
            access_log: access_figures,
            net: net.clone(),
        },
    );
    let (closing, closed) = watch::channel(false);
    let state = Arc::new(ApiState {
        identity: Arc::clone(&identity),
        view: Arc::clone(&view),
        shared: Arc::clone(&shared),
        ages: Arc::clone(&routes.ages),
        local: Arc::clone(&local),
        lifecycle: lifecycle.clone(),
        mesh: mesh_commands.clone(),
        instances: instance_commands.clone(),
        store: store.clone(),
        health: health.clone(),
        metrics,
        listeners: listeners(config, &data, &doors, advertised),
        domain: config.dns.domain.clone(),
        started,
        events: events.clone(),
        followers: Default::default(),
        operations: Operations::default(),
        left_behind: routes.left_behind.clone(),
        bench: Default::default(),
        asker: data.asker(),
    });
    let server = Server::new(router(Arc::clone(&state)), guard, closed);
    crate::cli::message(&block(config, &state, advertised).render());

    // Tasks.
    let spread = spread();
    let inbox = Arc::new(Mutex::new(gossip::Inbox { net: net_inbox, commands: mesh_inbox }));
    let _routes = supervise::restarting(&health, "routes", {
        let routes = routes.clone();
        move |_| routes::run(routes.clone())
    });
    let _gossip = supervise::restarting(&health, "gossip", move |restarts| {
        gossip::run(context.clone(), Arc::clone(&inbox), epoch, restarts)
    });
    let rekeying = identity::Rekeying { interval: options.rekey_interval, spread };
    let _identity = supervise::restarting(&health, "identity", {
        let (identity, own) = (Arc::clone(&identity), own.clone());
        move |_| identity::run(Arc::clone(&identity), own.clone(), rekeying)
    });
    let _instances = supervise::once(&health, "instances", instances.run(instance_inbox));
    let _socket = supervise::once(&health, "api socket", server.clone().serve_socket(doors.socket));
    let _tcp = doors.tcp.map(|tcp| supervise::once(&health, "api tcp", server.clone().serve_tcp(tcp)));
    let _readiness =
        supervise::once(&health, "readiness", readiness(Arc::clone(&state), config.mesh.ready_timeout, began));

    // Until somebody asks for the end.
    let cause = loop {
        tokio::select! {
            cause = lifecycle.stopped() => break cause,
            cause = signals.stop.next() => break cause.to_owned(),
            _ = signals.hangup.recv() => {
                if let Some(access) = &access {
                    access.reopen();
                }
                reload(options, filter, &instance_commands);
            }
        }
    };
    let end = Ending { state: &state, data: &data, net: &net, server: &server, closing: &closing };
    tokio::select! {
        ended = timeout(STOP_DEADLINE, end.in_order(&cause)) => {
            if ended.is_err() {
                error!("the ordered end took over 10 s; ending now");
            }
        }
        again = signals.stop.next() => warn!(signal = again, "ending at once"),
    }
    data.shutdown();
    if let Some(access) = &access {
        access.finish();
    }
    // Whoever starts next finds no socket that nobody serves; missing is as good.
    let _ = std::fs::remove_file(&config.api.socket);
    Ok(())
}

/// The access log's two ends; `None` where it is off.
fn access_log(
    config: &AgentConfig,
    identity: &Identity,
    figures: &Arc<AccessLogFigures>,
) -> Result<Option<(AccessLog, AccessWriter)>, AgentError> {
    let Some((only, formatter)) = lower::access_log(&config.access_log, identity) else { return Ok(None) };
    let (log, records) = AccessLog::new(only, Arc::clone(figures));
    let writer = AccessWriter::start(&config.access_log.to, formatter, records, Arc::clone(figures));
    writer.map(|writer| Some((log, writer))).map_err(|failure| AgentError {
        code: codes::FILE_LIMIT,
        what: "the access log has no thread".to_owned(),
        cause: Some(failure.to_string()),
        help: "look at the limits of threads".to_owned(),
    })
}

/// Where others reach us; the first seed's address tells which of our addresses leads there.
async fn advertised(config: &AgentConfig, bound: SocketAddr) -> SocketAddr {
    let seed = match lower::seeds(&config.mesh.seeds).first() {
        Some(seed) if config.mesh.advertise.is_none() && bound.ip().is_unspecified() => {
            timeout(SEED_LOOK_UP, gossip::resolve(&seed.0)).await.ok().and_then(Result::ok)
        }
        Some(_) | None => None,
    };
    lower::advertised(&config.mesh, bound, seed.and_then(|found| found.first().copied()))
}

fn listeners(config: &AgentConfig, data: &DataPlane, doors: &Doors, advertised: SocketAddr) -> Listeners {
    Listeners {
        mesh: advertised.to_string(),
        api_socket: Some(config.api.socket.display().to_string()),
        api: doors.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()).map(|address| address.to_string()),
        http: data.addresses().http.map(|address| address.to_string()),
        upstreams: config
            .upstreams
            .iter()
            .map(|upstream| UpstreamListener {
                service: upstream.service.to_string(),
                listen: upstream.listen.to_string(),
            })
            .collect(),
    }
}

fn block(config: &AgentConfig, state: &ApiState, advertised: SocketAddr) -> Block {
    let node = &state.identity.node;
    let bundle = state.identity.bundle();
    let local = state.local.load();
    let services = local
        .instances
        .iter()
        .map(|held| (held.spec.key().to_string(), held.spec.labels.to_string(), held.spec.address.to_string()));
    Block {
        node: node.node().to_string(),
        trust_domain: node.trust_domain().to_string(),
        bundle: bundle.sequence,
        spiffe_id: SpiffeId::node(node.trust_domain(), node.node()).to_string(),
        certificate_left: wall_clock().until(node.certificate_not_after()),
        shared_issuer: bundle.shared_issuer,
        mesh: advertised.to_string(),
        api_socket: Some(config.api.socket.display().to_string()),
        api: state.listeners.api.clone(),
        http: state.listeners.http.clone(),
        upstreams: state
            .listeners
            .upstreams
            .iter()
            .map(|entry| (entry.listen.clone(), entry.service.clone()))
            .collect(),
        services: services.collect(),
    }
}

/// A number from 0 to 1 that differs from node to node.
fn spread() -> f64 {
    let mut byte = [0_u8; 1];
    // Zero is as good a spread as any.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    f64::from(byte) / 255.0
}

/// Tells people and the service manager when the agent is ready, and what it is like afterwards.
async fn readiness(state: Arc<ApiState>, patience: Duration, began: Instant) {
    if timeout(patience, state.lifecycle.reached(Phase::Ready)).await.is_err() {
        // A dead seed must not block a boot.
        warn!(waited = ?patience, "no seed let us in yet: serving alone, and trying on");
        state.lifecycle.advance(Phase::Ready);
    }
    if state.lifecycle.phase() != Phase::Ready {
        return;
    }
    // The snapshot with the news is published within 20 ms of it.
    tokio::time::sleep(Duration::from_millis(25)).await;
    let view = state.view.load_full();
    let alive = view.counts().alive;
    let via = view.via.as_deref().filter(|_| alive > 1);
    let table = state.shared.table.load_full();
    let documents = (table.documents().len(), table.digest());
    crate::cli::message(&format!("{}\n", ready_line(via, alive, documents, began.elapsed())));
    notify::ready(&status_line(&state));
    let mut told = String::new();
    while state.lifecycle.phase() == Phase::Ready {
        let line = status_line(&state);
        if line != told {
            notify::status(&line);
            told = line;
        }
        tokio::time::sleep(STATUS_PAUSE).await;
    }
}

/// `ready: 3 members, 3 services, config 9f2c41d0`.
fn status_line(state: &ApiState) -> String {
    let view = state.view.load();
    let services = state.shared.table.load().services().len();
    let degraded = if state.store.degraded().is_some() { ", store: degraded" } else { "" };
    format!("ready: {} members, {services} services, config {}{degraded}", view.counts().alive, view.applied.digest)
}

/// SIGHUP: reads everything again; what can change while running does, the rest is named.
fn reload(options: &AgentOptions, filter: &FilterHandle, instances: &mpsc::Sender<InstanceCommand>) {
    let loaded = match (options.reload)() {
        Ok(loaded) => loaded,
        Err(problems) => {
            error!("reload: nothing changed, the configuration has problems:\n{}", problems.trim_end());
            return;
        }
    };
    // The folder of services is read again in any case; a full queue means that this is under way.
    let _ = instances.try_send(InstanceCommand::Reload);
    let before = |setting: &Setting| {
        let held = options.loaded.origins.iter().find(|held| held.key == setting.key);
        held.map_or_else(|| "unset".to_owned(), |held| held.value.clone())
    };
    let changed: Vec<&Setting> = loaded.origins.iter().filter(|setting| before(setting) != setting.value).collect();
    // The filter is compared with the start's, not with the last reload's: setting it again is harmless.
    match filter.set(&loaded.config.log.filter) {
        Ok(()) => {}
        Err(reason) => error!(reason, "reload: the log filter stays as it is"),
    }
    if changed.is_empty() {
        info!("reload: settings are as at the start; services.d is read again");
    }
    for setting in changed {
        let (key, new) = (&setting.key, &setting.value);
        if key == "log.filter" {
            info!("reload: {key} {} → {new}", before(setting));
        } else {
            warn!("reload: {key} changed: needs a restart");
        }
    }
}

/// The ordered end.
struct Ending<'a> {
    state: &'a ApiState,
    data: &'a DataPlane,
    net: &'a GossipNet,
    server: &'a Server,
    closing: &'a watch::Sender<bool>,
}

impl Ending<'_> {
    async fn in_order(&self, cause: &str) {
        let state = self.state;
        info!(cause, "draining");
        state.lifecycle.advance(Phase::Draining);
        notify::stopping("draining");
        // Others hear that our instances drain, and choose elsewhere.
        let has_peers = state.view.load().counts().alive > 1;
        let offers = !state.local.load().instances.is_empty();
        if state.instances.send(InstanceCommand::Drain).await.is_ok() && has_peers && offers {
            tokio::time::sleep(DRAIN_SPREAD).await;
        }
        // Requests in flight finish; nothing new is taken.
        self.data.drain(DRAIN_DEADLINE).await;
        let left = async {
            if state.mesh.offer(MeshCommand::Leave) {
                state.lifecycle.leave_done().await;
            }
        };
        if timeout(LEAVE_DEADLINE, left).await.is_err() {
            warn!("the leave was not confirmed in time");
            state.lifecycle.tell_left(Left::default());
        }
        state.lifecycle.advance(Phase::Gone);
        self.closing.send_replace(true);
        self.server.finish(API_GRACE).await;
        if timeout(NET_GRACE, self.net.shutdown()).await.is_err() {
            warn!("gossip connections did not close in time");
        }
        info!("stopped");
    }
}
