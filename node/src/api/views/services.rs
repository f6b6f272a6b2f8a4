//! `GET /v1/services` and `/v1/routes`: where requests can go, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Envelope, Items, ServiceRef};

/// A list of services, by namespace and name.
pub type ServiceList = Envelope<Items<Service>>;

/// Rows of the route table, by service and order.
pub type RouteTable = Envelope<Routes>;

/// A service as this node routes to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Where the name holds.
    pub namespace: String,
    /// The service's name there.
    pub name: String,
    /// `orders.mesh.internal`.
    pub hostname: String,
    /// This host's loopback address for the service; `null` where it has none.
    pub vip: Option<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its endpoints, by id.
    pub endpoints: Vec<Endpoint>,
    /// Names of the routes attached to it.
    pub routes: Vec<String>,
    /// How its endpoints are chosen and what its requests may cost, by documents or as built in; absent from an agent of
    /// a release that does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ServicePolicy>,
    /// What passed this node; `null` when nothing has.
    pub traffic: Option<Traffic>,
}

/// What holds for all requests to a service. Deadlines and retries are those of rules: `/v1/routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePolicy {
    /// The BackendTrafficPolicy, `NAMESPACE/NAME`; `null`: none targets it.
    pub document: Option<String>,
    /// `peak-ewma`, `maglev by header x-user`.
    pub load_balancing: String,
    /// For how long the share of a new endpoint rises; `0s`: it does not.
    pub slow_start: String,
    /// Retries per hundred requests of the interval.
    pub retry_budget_percent: u32,
    /// What that looks back on.
    pub retry_budget_interval: String,
    /// Retries that are always there, `10 in 1s`.
    pub retry_budget_floor: String,
    /// The cookie that keeps a client at one endpoint; `null`: none.
    pub session_cookie: Option<String>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// Its number on the service's own address; `null` where none is given.
    pub port: Option<u16>,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
}

/// One instance on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `vm-3/default/orders-v2`.
    pub id: String,
    /// Where it runs.
    pub node: String,
    /// Its name there.
    pub instance: String,
    /// Which port it serves.
    pub port: String,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Subsets it belongs to.
    pub subsets: Vec<String>,
    /// `healthy`, `unhealthy`, `ejected`, `draining` or `ungranted`.
    pub health: String,
    /// Why it is not used, or used in spite of doubts.
    pub reason: Option<Reason>,
    /// Configured weight.
    pub weight: u32,
    /// Share of new requests that this node sends there, 0 to 1.
    pub share: f64,
    /// Requests of this node that run there.
    pub in_flight: u32,
    /// Peak EWMA of the latency that this node measures; `null` while unknown.
    pub latency_ewma_ms: Option<f64>,
    /// Since when its health is as it is, by our clock; `null` while unknown.
    pub since: Option<String>,
}

/// Why an endpoint is in its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// A word of a closed set, e.g. `consecutive_5xx`, `member_failed`, `health_check`.
    pub code: String,
    /// For people.
    pub detail: String,
    /// When it ends by itself.
    pub until: Option<String>,
}

/// Traffic of a service through this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Length of the window, `1m`.
    pub window: String,
    /// Requests (or connections) per second.
    pub rps: f64,
    /// Requests (or connections) in the window.
    pub requests: u64,
    /// Share that succeeded; `null` without any.
    pub success_rate: Option<f64>,
    /// Median latency, milliseconds.
    pub p50_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
}

/// The route table in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// Row by row, in the order in which they are tried.
    pub items: Vec<RouteRow>,
    /// What of the documents does not come out as written, and where they lead to no endpoint now.
    #[serde(default)]
    pub problems: Vec<DocumentProblem>,
}

/// What is the matter with a document among the others and the services there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentProblem {
    /// What it is: `HTTPRoute`.
    pub document_kind: String,
    /// Where its name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ST0433`.
    pub code: String,
    /// The reason of the Gateway API's condition, `BackendNotFound`.
    pub reason: String,
    /// Which value, as a JSON pointer.
    pub pointer: Option<String>,
    /// What is the matter with it.
    pub detail: String,
}

/// One row of the route table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// Which service the row belongs to.
    pub service: ServiceRef,
    /// Of which of its ports; `null` where the row holds for all of them.
    #[serde(default)]
    pub port: Option<String>,
    /// Callers of this namespace only, for whom its rows replace the others; `null`: all callers.
    #[serde(default)]
    pub callers: Option<String>,
    /// Order in which rows are tried, from 1 for each port and group of callers.
    pub order: u32,
    /// The route document's name; `null` for the built-in route.
    pub route: Option<String>,
    /// The rule's name there; `null` where it has none.
    pub rule: Option<String>,
    /// What it matches, for people: `everything`, `path prefix /cart`.
    #[serde(rename = "match")]
    pub matches: String,
    /// What is done to matching requests, in the words of the Gateway API: `RequestRedirect`.
    #[serde(default)]
    pub filters: Vec<String>,
    /// Where matching requests go.
    pub backends: Vec<RouteBackend>,
    /// Time to the end of the answer, or to its head for the built-in route: a duration such as `15s`.
    pub timeout: String,
    /// How often it is tried again.
    pub retries: u32,
    /// Where the row comes from.
    pub source: RouteSource,
}

/// Where a matching request goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteBackend {
    /// Namespace of the service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which subset; `null` for all instances.
    pub subset: Option<String>,
    /// Share, 0 to 1.
    pub share: f64,
    /// Why its share is answered with an error, `BackendNotFound`; its names are empty then.
    #[serde(default)]
    pub invalid: Option<String>,
}

/// Where a row comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteSource {
    /// `built in`, or the document's kind.
    pub kind: String,
    /// The document's generation; `null` for the built-in route.
    pub generation: Option<String>,
    /// Who signed it; `null` for the built-in route.
    pub key_id: Option<String>,
}
