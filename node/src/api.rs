//! The local API: what people, scripts and the command line ask an agent.
//!
//! [`server`] takes connections on the Unix socket and on loopback TCP, [`guard`] judges each request's head, the files
//! named after resources answer, [`views`] are the shapes, [`problem`] the errors. Reads look at snapshots only, so
//! nothing that an asker does slows down traffic or gossip; writes are commands to the task that owns the thing.

pub mod answer;
pub mod bench;
pub mod body;
pub mod certs;
pub mod checks;
pub mod config;
pub mod convergence;
pub mod events;
pub mod explain;
pub mod guard;
pub mod instances;
pub mod members;
pub mod operations;
pub mod ping;
pub mod probes;
pub mod problem;
pub mod query;
pub mod routes;
pub mod server;
pub mod services;
pub mod status;
pub mod views;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::routing::{get, post};
use starling_proxy::{Asker, ProxyShared};
use tokio::sync::mpsc;

use crate::channel::Queue;
use crate::events::Events;
use crate::mesh_view::MeshViewCell;
use crate::shutdown::Lifecycle;
use crate::store::StoreHandle;
use crate::supervise::Health;
use crate::tasks::gossip::MeshCommand;
use crate::tasks::identity::Identity;
use crate::tasks::instances::{InstanceCommand, LocalViewCell};
use crate::tasks::routes::{EndpointAges, LeftBehind};
use crate::telemetry::metrics::Metrics;

/// Everything that answers read, and the queues that writes go into.
pub struct ApiState {
    /// Who we are.
    pub identity: Arc<Identity>,
    /// The mesh.
    pub view: MeshViewCell,
    /// Table, loads and traffic figures.
    pub shared: Arc<ProxyShared>,
    /// Ages of endpoints.
    pub ages: EndpointAges,
    /// What runs here.
    pub local: LocalViewCell,
    /// The agent's life.
    pub lifecycle: Lifecycle,
    /// Commands to the mesh.
    pub mesh: Queue<MeshCommand>,
    /// Commands about instances.
    pub instances: mpsc::Sender<InstanceCommand>,
    /// Condition of the store.
    pub store: StoreHandle,
    /// What became of tasks.
    pub health: Health,
    /// All metrics.
    pub metrics: Metrics,
    /// Where the agent listens.
    pub listeners: views::Listeners,
    /// DNS domain of the mesh.
    pub domain: String,
    /// When the agent started.
    pub started: SystemTime,
    /// What happened lately.
    pub events: Events,
    /// Who follows it.
    pub followers: events::Followers,
    /// Long operations.
    pub operations: operations::Operations,
    /// Threads that hang in a compile step.
    pub left_behind: LeftBehind,
    /// Where documents are read for an answer.
    pub bench: bench::Bench,
    /// Sends single requests through the data plane.
    pub asker: Asker,
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiState")
    }
}

/// A handle that each handler gets.
pub type Shared = Arc<ApiState>;

/// Every path of the API.
pub fn router(state: Shared) -> Router {
    Router::new()
        .route("/livez", get(probes::live))
        .route("/live", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/ready", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .route("/v1/status", get(status::get))
        .route("/v1/checks", get(checks::get))
        .route("/v1/members", get(members::list))
        .route("/v1/members/{node}", get(members::get))
        .route("/v1/members/{node}/ping", get(ping::get))
        .route("/v1/events", get(events::list))
        .route("/v1/services", get(services::list))
        .route("/v1/services/{namespace}/{service}", get(services::get))
        .route("/v1/routes", get(routes::list))
        .route("/v1/routes/{namespace}/{service}", get(routes::get))
        .route("/v1/explain", get(explain::get).post(explain::post))
        .route("/v1/snapshot", get(explain::snapshot))
        .route("/v1/instances", get(instances::list))
        .route("/v1/instances/{name}", get(instances::get).put(instances::put).delete(instances::delete))
        .route("/v1/config", get(config::list).put(config::apply))
        .route("/v1/config/convergence", get(convergence::get))
        .route("/v1/config/dry-run", post(config::dry_run::post))
        .route("/v1/config/{kind}/{namespace}/{name}", get(config::get).put(config::put))
        .route("/v1/trust", get(config::trust).put(config::put_trust))
        .route("/v1/certs", get(certs::list))
        .route("/v1/join", post(operations::join))
        .route("/v1/leave", post(operations::leave))
        .route("/v1/operations/{id}", get(operations::get))
        .with_state(state)
}
