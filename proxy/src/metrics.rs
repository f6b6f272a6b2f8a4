//! Metric families of the data plane, with a cap on series, and handles that a data thread resolves once.
//!
//! A family is a map behind a lock. A data thread therefore asks it once per combination of labels and keeps the handle
//! (`Edge`); from then on counting is an atomic add. Labels are closed words or names that the mesh declared, never
//! anything a request carries. A family over its cap counts under `other`, and says so.

use std::cell::{OnceCell, RefCell};
use std::fmt::Debug;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use starling_model::ServiceKey;
use starling_transport::lane::LaneKind;

use crate::Map;
use crate::answers::ErrorType;
use crate::http::grpc::{GrpcStatus, Spoken};
use crate::limits::SERIES_MAX;
use crate::traffic::{Traffic, TrafficBook, Window};

mod histogram;
mod reasons;
pub use histogram::Latency;
pub(crate) use reasons::Retired;
pub use reasons::Turned;

/// Which side of the mesh a request or connection is seen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From a local application to a peer.
    Outbound,
    /// From a peer to a local instance.
    Inbound,
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

/// Label sets that can be folded into one when there are too many.
trait Fold: Clone + Hash + Eq + EncodeLabelSet + Debug + Send + Sync + 'static {
    fn fold(&mut self);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EdgeLabels {
    direction: Direction,
    source_service: Arc<str>,
    source_namespace: Arc<str>,
    destination_service: Arc<str>,
    destination_namespace: Arc<str>,
}

impl EdgeLabels {
    fn new(direction: Direction, source: Option<&ServiceKey>, destination: Option<&ServiceKey>) -> Self {
        let name = |key: Option<&ServiceKey>| key.map_or("unknown", |key| key.name.as_str()).into();
        let namespace = |key: Option<&ServiceKey>| key.map_or("unknown", |key| key.namespace.as_str()).into();
        Self {
            direction,
            source_service: name(source),
            source_namespace: namespace(source),
            destination_service: name(destination),
            destination_namespace: namespace(destination),
        }
    }
}

impl Fold for EdgeLabels {
    fn fold(&mut self) {
        let other: Arc<str> = "other".into();
        self.source_service = other.clone();
        self.source_namespace = other.clone();
        self.destination_service = other.clone();
        self.destination_namespace = other;
    }
}

macro_rules! labels {
    ($name:ident { $($field:ident: $type:ty),* }) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name {
            #[prometheus(flatten)]
            edge: EdgeLabels,
            $($field: $type,)*
        }
        impl Fold for $name {
            fn fold(&mut self) {
                self.edge.fold();
            }
        }
    };
}

labels!(RequestLabels {
    route: &'static str,
    subset: &'static str,
    protocol: &'static str,
    status_code: u16,
    grpc_status: &'static str,
    error: &'static str,
    security: &'static str
});
labels!(RouteLabels { route: &'static str, subset: &'static str });
labels!(TunnelLabels { security: &'static str });
labels!(ClosedLabels { security: &'static str, error: &'static str });
labels!(RetryLabels { route: &'static str, result: &'static str });

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    direction: Direction,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetiredLabels {
    direction: Direction,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedLabels {
    reason: Turned,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabels {
    direction: Direction,
    lane: &'static str,
}

/// Of what is labelled by a reason alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabels {
    family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    namespace: Arc<str>,
    service: Arc<str>,
    subset: &'static str,
    health: &'static str,
}

impl EndpointLabels {
    fn new(service: &ServiceKey, health: &'static str) -> Self {
        let (namespace, name) = (service.namespace.as_str().into(), service.name.as_str().into());
        Self { namespace, service: name, subset: NO_SUBSET, health }
    }
}

impl Fold for EndpointLabels {
    fn fold(&mut self) {
        self.namespace = "other".into();
        self.service = "other".into();
    }
}

/// Requests and tries without a route document, and instances without a subset, are labelled so.
const DEFAULT_ROUTE: &str = "default";
const NO_SUBSET: &str = "none";
const MTLS: &str = "mtls";

/// A family with a cap.
#[derive(Clone, Debug)]
struct Capped<L: Fold, M> {
    family: Family<L, M>,
    /// Series so far. Two threads that make the same one at once count it twice, which only moves the cap.
    series: Arc<AtomicUsize>,
    name: &'static str,
    dropped: Family<FamilyLabels, Counter>,
}

impl<L: Fold, M: Clone + Default> Capped<L, M> {
    fn new(name: &'static str, dropped: &Family<FamilyLabels, Counter>) -> Self {
        Self { family: Family::default(), series: Arc::default(), name, dropped: dropped.clone() }
    }

    fn handle(&self, mut labels: L) -> M {
        let known = self.family.get(&labels).is_some();
        if !known && self.series.load(Ordering::Relaxed) >= SERIES_MAX {
            self.dropped.get_or_create_owned(&FamilyLabels { family: self.name }).inc();
            labels.fold();
        } else if !known {
            self.series.fetch_add(1, Ordering::Relaxed);
        }
        self.family.get_or_create_owned(&labels)
    }
}

/// All families of the data plane. Cheap to clone: every clone counts into the same series.
#[derive(Clone, Debug)]
pub struct ProxyMetrics {
    requests: Capped<RequestLabels, Counter>,
    duration: Capped<RouteLabels, Latency>,
    in_flight: Capped<EdgeLabels, Gauge>,
    retries: Capped<RetryLabels, Counter>,
    request_bytes: Capped<EdgeLabels, Counter>,
    response_bytes: Capped<EdgeLabels, Counter>,
    opened: Capped<TunnelLabels, Counter>,
    closed: Capped<ClosedLabels, Counter>,
    open: Capped<TunnelLabels, Gauge>,
    sent: Capped<TunnelLabels, Counter>,
    received: Capped<TunnelLabels, Counter>,
    turned: Family<TurnedLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    retired: Family<RetiredLabels, Counter>,
    sources_refused: Family<RefusedLabels, Counter>,
    lanes: Family<LaneLabels, Counter>,
    lane_fallbacks: Family<RefusedLabels, Counter>,
    endpoints: Capped<EndpointLabels, Gauge>,
    dropped: Family<FamilyLabels, Counter>,
    /// How long a data thread lets wait what is handed to it.
    pub(crate) lag: Latency,
    traffic: Arc<TrafficBook>,
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ProxyMetrics {
    /// Families without series.
    #[must_use]
    pub fn new() -> Self {
        let dropped = Family::default();
        Self {
            requests: Capped::new("starling_http_requests", &dropped),
            duration: Capped::new("starling_http_request_duration_seconds", &dropped),
            in_flight: Capped::new("starling_http_requests_in_flight", &dropped),
            retries: Capped::new("starling_http_retries", &dropped),
            request_bytes: Capped::new("starling_http_request_bytes", &dropped),
            response_bytes: Capped::new("starling_http_response_bytes", &dropped),
            opened: Capped::new("starling_tcp_connections_opened", &dropped),
            closed: Capped::new("starling_tcp_connections_closed", &dropped),
            open: Capped::new("starling_tcp_connections_open", &dropped),
            sent: Capped::new("starling_tcp_sent_bytes", &dropped),
            received: Capped::new("starling_tcp_received_bytes", &dropped),
            turned: Family::default(),
            handshakes: Family::default(),
            retired: Family::default(),
            sources_refused: Family::default(),
            lanes: Family::default(),
            lane_fallbacks: Family::default(),
            endpoints: Capped::new("starling_endpoints", &dropped),
            dropped,
            lag: Latency::short(),
            traffic: Arc::default(),
        }
    }

    /// Adds every family to the node's registry. The registry itself appends `_total` to counters.
    pub fn register(&self, registry: &mut Registry) {
        macro_rules! family {
            ($name:literal, $help:literal, $metric:expr) => {
                registry.register($name, $help, $metric.clone())
            };
        }
        family!("starling_http_requests", "HTTP requests answered", self.requests.family);
        family!(
            "starling_http_request_duration_seconds",
            "Time from a request's head to its answer's end",
            self.duration.family
        );
        family!("starling_http_requests_in_flight", "HTTP requests under way", self.in_flight.family);
        family!("starling_http_retries", "Further tries of a request, by result", self.retries.family);
        family!("starling_http_request_bytes", "Bytes of request bodies", self.request_bytes.family);
        family!("starling_http_response_bytes", "Bytes of response bodies", self.response_bytes.family);
        family!("starling_tcp_connections_opened", "Tunnels opened", self.opened.family);
        family!("starling_tcp_connections_closed", "Tunnels closed, by error", self.closed.family);
        family!("starling_tcp_connections_open", "Tunnels open", self.open.family);
        family!("starling_tcp_sent_bytes", "Bytes towards the destination service", self.sent.family);
        family!("starling_tcp_received_bytes", "Bytes from the destination service", self.received.family);
        family!("starling_tcp_turned_away", "Connections and streams not served, by reason", self.turned);
        family!("starling_tcp_lane_streams", "L4 streams between agents, by lane", self.lanes);
        family!("starling_tcp_lane_fallbacks", "Bulk streams that share a connection, by reason", self.lane_fallbacks);
        family!("starling_tls_handshakes", "TLS handshakes of traffic connections", self.handshakes);
        family!("starling_tls_connections_retired", "Traffic connections left to their present streams", self.retired);
        family!(
            "starling_authorization_sources_refused",
            "Streams whose source counts for nothing, by reason",
            self.sources_refused
        );
        family!("starling_endpoints", "Endpoints known, by health as seen from here", self.endpoints.family);
        family!("starling_loop_lag_seconds", "How late data threads take what is handed to them", self.lag);
        family!("starling_metrics_dropped_series", "Series counted under other, by family", self.dropped);
    }

    /// Publishes how many endpoints a service has in one state of health; the node calls it after each new table.
    pub fn set_endpoints(&self, service: &ServiceKey, health: &'static str, count: usize) {
        let labels = EndpointLabels::new(service, health);
        self.endpoints.handle(labels).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Forgets the endpoint series of a service that is gone.
    pub fn remove_endpoints(&self, service: &ServiceKey, health: &'static str) {
        if self.endpoints.family.remove(&EndpointLabels::new(service, health)) {
            self.endpoints.series.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A service's traffic of the last minute as this node saw it.
    #[must_use]
    pub fn traffic(&self, direction: Direction, service: &ServiceKey, now: Instant) -> Traffic {
        self.traffic.read(direction, service, now)
    }

    /// Counts something turned away. Rare, so it may take the family's lock.
    pub(crate) fn turned_away(&self, reason: Turned) {
        self.turned.get_or_create_owned(&TurnedLabels { reason }).inc();
    }

    /// Counts a stream whose caller counts as its bare node, whatever it claims. Rare, too.
    pub(crate) fn source_refused(&self, reason: &'static str) {
        self.sources_refused.get_or_create_owned(&RefusedLabels { reason }).inc();
    }

    /// Counts a tunnel's stream by its lane.
    pub(crate) fn lane(&self, direction: Direction, lane: LaneKind) {
        self.lanes.get_or_create_owned(&LaneLabels { direction, lane: lane.as_str() }).inc();
    }

    /// Counts a stream that was to have a connection of its own, and shares one.
    pub(crate) fn lane_fallback(&self, reason: &'static str) {
        self.lane_fallbacks.get_or_create_owned(&RefusedLabels { reason }).inc();
    }

    /// Counts one TLS handshake.
    pub(crate) fn handshake(&self, direction: Direction, result: &'static str) {
        self.handshakes.get_or_create_owned(&HandshakeLabels { direction, result }).inc();
    }

    /// Counts dials of a thread's pool, in bulk.
    pub(crate) fn dials(&self, good: u64, failed: u64) {
        for (result, count) in [("success", good), ("failure", failed)] {
            if count > 0 {
                let labels = HandshakeLabels { direction: Direction::Outbound, result };
                self.handshakes.get_or_create_owned(&labels).inc_by(count);
            }
        }
    }

    /// Counts connections that take no new streams from here on.
    pub(crate) fn retired(&self, direction: Direction, reason: Retired, count: u64) {
        if count > 0 {
            let labels = RetiredLabels { direction, reason: reason.as_str() };
            self.retired.get_or_create_owned(&labels).inc_by(count);
        }
    }

    #[cfg(test)]
    pub(crate) fn turned_count(&self, reason: Turned) -> u64 {
        self.turned.get_or_create_owned(&TurnedLabels { reason }).get()
    }
}

/// The error label of requests and connections without one.
const NO_ERROR: &str = "none";

/// All handles of one (direction, source, destination), owned by one data thread.
#[derive(Debug)]
pub(crate) struct Edge {
    metrics: ProxyMetrics,
    labels: EdgeLabels,
    duration: Latency,
    in_flight: Gauge,
    request_bytes: Counter,
    response_bytes: Counter,
    window: Option<Arc<Window>>,
    /// A handful per edge: searching them is cheaper than hashing.
    statuses: RefCell<Vec<(Outcome, Counter)>>,
    tunnel: OnceCell<Tunnel>,
}

#[derive(Debug)]
struct Tunnel {
    opened: Counter,
    open: Gauge,
    sent: Counter,
    received: Counter,
}

/// What tells the request counters of an edge apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    status: u16,
    error: Option<ErrorType>,
    spoken: Spoken,
    grpc_status: Option<GrpcStatus>,
}

/// How a request ended, for [`Edge::request_ended`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestEnd {
    pub(crate) status: u16,
    pub(crate) error: Option<ErrorType>,
    pub(crate) spoken: Spoken,
    pub(crate) grpc_status: Option<GrpcStatus>,
    pub(crate) duration: Duration,
    pub(crate) now: Instant,
}

impl Edge {
    pub(crate) fn request_began(&self) {
        self.in_flight.inc();
    }

    pub(crate) fn request_ended(&self, end: RequestEnd) {
        self.in_flight.dec();
        self.duration.observe(end.duration);
        let RequestEnd { status, error, spoken, grpc_status, duration, now } = end;
        self.outcome(Outcome { status, error, spoken, grpc_status });
        if let Some(window) = &self.window {
            let failed = status >= 500 || error.is_some() || grpc_status.is_some_and(GrpcStatus::is_failure);
            window.record(duration, failed, now);
        }
    }

    pub(crate) fn retried(&self, result: &'static str) {
        let edge = self.labels.clone();
        self.metrics.retries.handle(RetryLabels { edge, route: DEFAULT_ROUTE, result }).inc();
    }

    pub(crate) fn request_bytes(&self, bytes: u64) {
        self.request_bytes.inc_by(bytes);
    }

    pub(crate) fn response_bytes(&self, bytes: u64) {
        self.response_bytes.inc_by(bytes);
    }

    pub(crate) fn tunnel_opened(&self) {
        let tunnel = self.tunnel();
        tunnel.opened.inc();
        tunnel.open.inc();
    }

    pub(crate) fn tunnel_closed(&self, error: Option<ErrorType>) {
        self.tunnel().open.dec();
        let (edge, error) = (self.labels.clone(), error.map_or(NO_ERROR, ErrorType::as_str));
        self.metrics.closed.handle(ClosedLabels { edge, security: MTLS, error }).inc();
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.tunnel().sent.inc_by(bytes);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.tunnel().received.inc_by(bytes);
    }

    fn tunnel(&self) -> &Tunnel {
        self.tunnel.get_or_init(|| {
            let labels = TunnelLabels { edge: self.labels.clone(), security: MTLS };
            Tunnel {
                opened: self.metrics.opened.handle(labels.clone()),
                open: self.metrics.open.handle(labels.clone()),
                sent: self.metrics.sent.handle(labels.clone()),
                received: self.metrics.received.handle(labels),
            }
        })
    }

    fn outcome(&self, outcome: Outcome) {
        let mut statuses = self.statuses.borrow_mut();
        if let Some((_, counter)) = statuses.iter().find(|(known, _)| *known == outcome) {
            counter.inc();
            return;
        }
        let counter = self.metrics.requests.handle(RequestLabels {
            edge: self.labels.clone(),
            route: DEFAULT_ROUTE,
            subset: NO_SUBSET,
            protocol: outcome.spoken.as_str(),
            status_code: outcome.status,
            grpc_status: outcome.grpc_status.map_or("", GrpcStatus::as_str),
            error: outcome.error.map_or(NO_ERROR, ErrorType::as_str),
            security: MTLS,
        });
        counter.inc();
        // Statuses without a name are an application's to choose: they count, and are not remembered one by one.
        if outcome.grpc_status.is_none_or(|status| status.as_str() != "other") {
            statuses.push((outcome, counter));
        }
    }
}

type EdgeKey = (Direction, Option<ServiceKey>, Option<ServiceKey>);

/// One data thread's edges.
#[derive(Debug)]
pub(crate) struct Edges {
    metrics: ProxyMetrics,
    known: RefCell<Map<EdgeKey, Rc<Edge>>>,
}

impl Edges {
    pub(crate) fn new(metrics: &ProxyMetrics) -> Self {
        Self { metrics: metrics.clone(), known: RefCell::default() }
    }

    /// The handles of an edge, resolved at its first use on this thread.
    pub(crate) fn edge(
        &self,
        direction: Direction,
        source: Option<&ServiceKey>,
        destination: Option<&ServiceKey>,
    ) -> Rc<Edge> {
        let key = (direction, source.cloned(), destination.cloned());
        if let Some(edge) = self.known.borrow().get(&key) {
            return edge.clone();
        }
        let labels = EdgeLabels::new(direction, source, destination);
        let metrics = &self.metrics;
        let route = RouteLabels { edge: labels.clone(), route: DEFAULT_ROUTE, subset: NO_SUBSET };
        let edge = Rc::new(Edge {
            duration: metrics.duration.handle(route),
            in_flight: metrics.in_flight.handle(labels.clone()),
            request_bytes: metrics.request_bytes.handle(labels.clone()),
            response_bytes: metrics.response_bytes.handle(labels.clone()),
            window: destination.and_then(|key| metrics.traffic.window(direction, key)),
            statuses: RefCell::default(),
            tunnel: OnceCell::new(),
            metrics: metrics.clone(),
            labels,
        });
        let mut known = self.known.borrow_mut();
        // A thread remembers as many edges as a family has series; what is beyond is resolved each time.
        if known.len() < SERIES_MAX {
            known.insert(key, edge.clone());
        }
        edge
    }
}

#[cfg(test)]
mod tests;
