//! What the data plane shares with the rest of the agent: snapshots that others publish, loads and metrics it keeps.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use starling_identity::CurrentIdentity;
use starling_identity::tls::Clock;
use starling_model::{InstanceName, PortName, Protocol, Readiness, ServiceKey};
use starling_routing::{RouteTable, SessionKey};
use starling_transport::lane::LaneHistory;
use tokio::sync::Notify;

use crate::callers::{LocalCallers, Process};
use crate::gateways::GatewayPort;
use crate::loads::Loads;
use crate::metrics::ProxyMetrics;

/// One instance on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalInstance {
    /// What it is an instance of.
    pub service: ServiceKey,
    /// Which port of the service it serves.
    pub port: PortName,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: SocketAddr,
    /// New streams are taken while it is ready; those it has live on when it drains.
    pub readiness: Readiness,
    /// The only processes that may call as the service, as far as this instance says so.
    pub callers: Option<Process>,
}

/// Everything that runs here, by name. Immutable; published whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalInstances {
    instances: BTreeMap<(InstanceName, PortName), LocalInstance>,
    callers: LocalCallers,
}

impl LocalInstances {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one; of two with the same name and port the later counts.
    pub fn insert(&mut self, name: InstanceName, instance: LocalInstance) {
        let place = (name, instance.port.clone());
        if let Some(process) = instance.callers.clone().filter(|_| !self.instances.contains_key(&place)) {
            self.callers.add(&instance.service, process);
        }
        let replaced = self.instances.insert(place, instance);
        if replaced.is_some() {
            self.callers = LocalCallers::default();
            let named = self.instances.values().filter_map(|one| Some((&one.service, one.callers.clone()?)));
            named.for_each(|(service, process)| self.callers.add(service, process));
        }
    }

    /// Who may call as which of the services.
    #[must_use]
    pub fn callers(&self) -> &LocalCallers {
        &self.callers
    }

    /// The instance of this name, if it serves this port of this service.
    #[must_use]
    pub fn find(&self, name: &InstanceName, service: &ServiceKey, port: &PortName) -> Option<&LocalInstance> {
        self.instances.get(&(name.clone(), port.clone())).filter(|instance| instance.service == *service)
    }

    /// All of them, by name and port.
    pub fn iter(&self) -> impl Iterator<Item = (&InstanceName, &LocalInstance)> {
        self.instances.iter().map(|((name, _), instance)| (name, instance))
    }
}

impl FromIterator<(InstanceName, LocalInstance)> for LocalInstances {
    fn from_iter<I: IntoIterator<Item = (InstanceName, LocalInstance)>>(instances: I) -> Self {
        let mut all = Self::new();
        for (name, instance) in instances {
            all.insert(name, instance);
        }
        all
    }
}

/// Shared by all data threads and the rest of the agent. A request reads each snapshot once per decision and never waits.
#[derive(Debug)]
pub struct ProxyShared {
    /// Where requests go. Publish through [`Self::publish`].
    pub table: ArcSwap<RouteTable>,
    /// Who we are and whom we believe.
    pub current: CurrentIdentity,
    /// The wall time, for certificates.
    pub clock: Clock,
    /// What runs here.
    pub instances: ArcSwap<LocalInstances>,
    /// What our own traffic knows of endpoints.
    pub loads: Loads,
    /// What tunnels to each service moved, and so which lane the next one takes.
    pub(crate) lanes: LaneHistory,
    /// What is counted.
    pub metrics: ProxyMetrics,
    /// Where this node listens for Gateways, and where it cannot.
    pub gateway_ports: ArcSwap<Vec<GatewayPort>>,
    /// Told of each table that is put into use.
    pub(crate) published: Notify,
    grants_known: AtomicBool,
    session_key: OnceLock<Arc<SessionKey>>,
}

impl ProxyShared {
    /// With an empty table and nothing running here.
    #[must_use]
    pub fn new(current: CurrentIdentity, clock: Clock) -> Self {
        Self {
            table: ArcSwap::default(),
            current,
            clock,
            instances: ArcSwap::default(),
            loads: Loads::new(),
            lanes: LaneHistory::default(),
            metrics: ProxyMetrics::new(),
            gateway_ports: ArcSwap::default(),
            published: Notify::new(),
            grants_known: AtomicBool::new(false),
            session_key: OnceLock::new(),
        }
    }

    /// From now on the table has all grants that this node held when it started. Before, a caller counts as its bare node:
    /// a claim that one of them denies must not pass in the moment of a restart.
    pub fn know_grants(&self) {
        self.grants_known.store(true, Ordering::Release);
    }

    pub(crate) fn knows_grants(&self) -> bool {
        self.grants_known.load(Ordering::Acquire)
    }

    /// Seals sessions' cookies from the next table on; of two keys the first counts.
    pub fn seal_sessions(&self, key: SessionKey) {
        let _ = self.session_key.set(Arc::new(key));
    }

    /// Puts a table into use, with the loads fitted to it first.
    pub fn publish(&self, mut table: Arc<RouteTable>) {
        if let Some(key) = self.session_key.get() {
            table = Arc::new(Arc::unwrap_or_clone(table).sealed(Arc::clone(key)));
        }
        self.loads.adopt(&table, Instant::now());
        self.table.store(table);
        self.published.notify_one();
    }
}
