//! The shapes of the local API, exactly as they stand in JSON: the server writes them, the command line reads them.
//!
//! Keys are camelCase; times are RFC 3339 in UTC; ids and 64-bit counters are strings; absent values are `null`, never
//! missing, unless a field says otherwise. Within `/v1` fields are only ever added, so readers ignore unknown ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The API group of every answer.
pub const API_VERSION: &str = "starling/v1";

/// Most names that `agreement.behind` lists; `behindCount` counts all.
pub const BEHIND_NAMES_MAX: usize = 20;

/// The kinds of things that an answer can be.
pub mod kind {
    /// `GET /v1/status`.
    pub const STATUS: &str = "Status";
    /// `GET /v1/members`.
    pub const MEMBER_LIST: &str = "MemberList";
    /// `GET /v1/members/{node}`.
    pub const MEMBER: &str = "Member";
    /// `GET /v1/services`.
    pub const SERVICE_LIST: &str = "ServiceList";
    /// `GET /v1/services/{namespace}/{service}`.
    pub const SERVICE: &str = "Service";
    /// `GET /v1/routes[/{namespace}/{service}]`.
    pub const ROUTE_TABLE: &str = "RouteTable";
    /// `GET /v1/instances`.
    pub const INSTANCE_LIST: &str = "InstanceList";
    /// `GET`, `PUT` and `DELETE /v1/instances/{name}`.
    pub const INSTANCE: &str = "Instance";
    /// `GET /v1/certs`.
    pub const CERTIFICATE_LIST: &str = "CertificateList";
    /// `POST /v1/join`, `/v1/leave`; `GET /v1/operations/{id}`.
    pub const OPERATION: &str = "Operation";
}

/// Every read: what it is, whose view it is, then the thing's own fields (`items` for lists).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<T> {
    /// [`API_VERSION`].
    pub api_version: String,
    /// One of [`kind`].
    pub kind: String,
    /// Whose view, of when, and whether the others agree.
    pub view: View,
    /// The thing itself.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Envelope<T> {
    /// Puts a thing into its envelope.
    #[must_use]
    pub fn new(kind: &str, view: View, body: T) -> Self {
        Self { api_version: API_VERSION.to_owned(), kind: kind.to_owned(), view, body }
    }
}

/// Body of every list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Items<T> {
    /// The things, in their documented order.
    pub items: Vec<T>,
}

/// A list of members, by name.
pub type MemberList = Envelope<Items<Member>>;
/// A list of services, by namespace and name.
pub type ServiceList = Envelope<Items<Service>>;
/// Rows of the route table, by service and order.
pub type RouteTable = Envelope<Items<RouteRow>>;
/// What this host announces, by name.
pub type InstanceList = Envelope<Items<Instance>>;
/// Certificates, from root to leaf.
pub type CertificateList = Envelope<Items<Certificate>>;

/// Whose view an answer is, and whether the other members agree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The answering node.
    pub node: String,
    /// Its boot epoch.
    pub boot_epoch: String,
    /// Counts changes of this node's view since its boot epoch.
    pub revision: u64,
    /// When the view was taken.
    pub as_of: String,
    /// Digest of the documents in use at the node.
    pub digest: String,
    /// Whether the others use the same.
    pub agreement: Agreement,
}

/// How many members use the same documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agreement {
    /// Live members, this one included.
    pub alive: u64,
    /// Of these, how many use the same documents.
    pub same: u64,
    /// Names of those that do not, at most [`BEHIND_NAMES_MAX`].
    pub behind: Vec<String>,
    /// How many do not.
    pub behind_count: u64,
}

/// This node in ten lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node's name.
    pub name: String,
    /// Its SPIFFE id.
    pub spiffe_id: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// The mesh's fingerprint, `SHA256:b7e1 03c8 …`.
    pub fingerprint: String,
    /// Release of the agent.
    pub version: String,
    /// `starting`, `ready`, `draining` or `leaving`.
    pub state: String,
    /// Why it is not ready; empty when it is.
    pub waiting_for: Vec<String>,
    /// When this agent started.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// Process id of the agent.
    pub pid: u32,
    /// Members by state.
    pub members: MemberCounts,
    /// Documents in use.
    pub config: StatusConfig,
    /// Services this node knows.
    pub services: StatusServices,
    /// Requests and connections that passed this node.
    pub traffic: StatusTraffic,
    /// Our own credentials.
    pub identity: StatusIdentity,
    /// Where the agent listens.
    pub listeners: Listeners,
    /// Condition of the store.
    pub store: StatusStore,
    /// Lifeguard's local health score; 0 is good.
    pub health_score: u8,
    /// True while this node believes that it is cut off.
    pub isolated: bool,
    /// What somebody should look at, worst first.
    pub problems: Vec<StatusProblem>,
}

/// Members by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberCounts {
    /// Seen, not yet verified.
    pub joining: u64,
    /// Answering.
    pub alive: u64,
    /// Doubted.
    pub suspect: u64,
    /// Did not refute in time.
    pub failed: u64,
    /// Left by their own word.
    pub left: u64,
}

/// Documents in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusConfig {
    /// How many.
    pub documents: u64,
    /// Their digest.
    pub digest: String,
}

/// Services this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusServices {
    /// How many.
    pub total: u64,
    /// Those with an instance on this node, `namespace/name`.
    pub local: Vec<String>,
    /// Endpoints of all services.
    pub endpoints: u64,
    /// Of these, how many take traffic.
    pub endpoints_healthy: u64,
}

/// Traffic of the last minute through this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusTraffic {
    /// Length of the window, `1m`.
    pub window: String,
    /// Towards local instances.
    pub inbound: Flow,
    /// From local callers.
    pub outbound: Flow,
    /// 99th percentile over both, milliseconds; `null` without traffic.
    pub p99_ms: Option<f64>,
    /// Share of traffic between nodes that is secured by mutual TLS: always 1 when there was any, else `null`.
    pub mtls_share: Option<f64>,
}

/// One direction of traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Requests (or connections) per second.
    pub rps: f64,
    /// Requests (or connections) in the window.
    pub requests: u64,
    /// Share of these that succeeded; `null` without any.
    pub success_rate: Option<f64>,
}

/// Our own credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusIdentity {
    /// End of the node's issuing certificate.
    pub certificate_not_after: String,
    /// End of the leaf in use.
    pub leaf_not_after: String,
    /// When that leaf was made.
    pub leaf_since: String,
    /// Sequence of the trust bundle in use.
    pub bundle_sequence: u64,
    /// How many live members use the same bundle, this one included.
    pub bundle_same: u64,
    /// True when identities come from a shared issuer (ST0604).
    pub shared_issuer: bool,
    /// Head of the hash of the root that our chain ends in.
    pub root: String,
}

/// Where the agent listens; `null` is off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listeners {
    /// Gossip (UDP) and service traffic (TCP).
    pub mesh: String,
    /// Local API, Unix socket.
    pub api_socket: Option<String>,
    /// Local API, loopback TCP.
    pub api: Option<String>,
    /// Outbound HTTP proxy.
    pub http: Option<String>,
    /// Fixed local entrances, each with its service.
    pub upstreams: Vec<UpstreamListener>,
}

/// One fixed local entrance to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamListener {
    /// `namespace/name`.
    pub service: String,
    /// Address or `unix:` path.
    pub listen: String,
}

/// Condition of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusStore {
    /// False in memory mode (ST0716).
    pub durable: bool,
    /// Why it is not durable.
    pub reason: Option<String>,
}

/// Something that somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusProblem {
    /// `ST0604`.
    pub code: String,
    /// `error` or `warning`.
    pub level: String,
    /// What is the matter.
    pub detail: String,
    /// What to do.
    pub help: String,
}

/// One member as this node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Node name: the member id.
    pub name: String,
    /// Where it gossips and takes service traffic; `null` when unknown.
    pub address: Option<String>,
    /// `joining`, `alive`, `suspect`, `failed` or `left`.
    pub state: String,
    /// Which start of its agent.
    pub boot_epoch: String,
    /// Which refutation within it.
    pub incarnation: u32,
    /// Since when it is in this state, by our clock.
    pub since: String,
    /// When we last heard from it directly; `null` for ourselves and for members never heard.
    pub last_seen: Option<String>,
    /// True for the answering node.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Round trip; `null` for ourselves and while unknown.
    pub rtt: Option<Rtt>,
    /// Release of its agent; `null` while unknown.
    pub version: Option<String>,
    /// Gossip protocol versions it speaks.
    pub protocol: ProtocolRange,
    /// Its labels (zone, rack).
    pub labels: BTreeMap<String, String>,
    /// Services with an instance there, by key.
    pub services: Vec<ServiceRef>,
    /// Documents in use there; `null` while unknown.
    pub config: Option<MemberConfig>,
    /// Its trust bundle; `null` while unknown.
    pub trust: Option<MemberTrust>,
    /// Who doubts it and until when it may refute.
    pub suspicion: Option<Suspicion>,
    /// Its certificates; `null` while unknown.
    pub certificate: Option<MemberCertificate>,
}

/// Round-trip time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rtt {
    /// Smoothed, milliseconds.
    pub ms: f64,
    /// Its variation, milliseconds; `null` while unknown.
    pub jitter_ms: Option<f64>,
}

/// Versions of a protocol, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProtocolRange {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

/// Names a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Where the name holds.
    pub namespace: String,
    /// The service's name there.
    pub name: String,
}

/// Documents in use at a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberConfig {
    /// How many.
    pub documents: u64,
    /// Their digest.
    pub digest: String,
}

/// Trust in use at a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberTrust {
    /// Sequence of its bundle.
    pub bundle_sequence: u64,
    /// True when its identity comes from a shared issuer.
    pub shared_issuer: bool,
}

/// A doubt in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspicion {
    /// Who doubts it.
    pub accusers: Vec<String>,
    /// When it is declared failed unless it refutes.
    pub until: String,
}

/// A member's certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberCertificate {
    /// Its SPIFFE id.
    pub spiffe_id: String,
    /// End of its issuing certificate.
    pub not_after: String,
    /// End of the leaf in use there; `null` while unknown.
    pub leaf_not_after: Option<String>,
    /// Head of the hash of the root that its chain ends in.
    pub root: String,
}

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
    /// What passed this node; `null` when nothing has.
    pub traffic: Option<Traffic>,
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

/// One row of the route table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// Which service the row belongs to.
    pub service: ServiceRef,
    /// Order in which rows are tried, from 1.
    pub order: u32,
    /// The route document's name; `null` for the built-in route.
    pub route: Option<String>,
    /// The rule's name there; `null` where it has none.
    pub rule: Option<String>,
    /// What it matches, for people: `everything`, `path prefix /cart`.
    #[serde(rename = "match")]
    pub matches: String,
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

/// One instance that this host announces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Unique on this node.
    pub name: String,
    /// Namespace of its service.
    pub namespace: String,
    /// Its service.
    pub service: String,
    /// Which port of the service it serves.
    pub port: String,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// Where it listens on this host.
    pub address: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its share among instances.
    pub weight: u32,
    /// `healthy`, `unhealthy` or `draining`.
    pub health: String,
    /// What the last check said; `null` when it is healthy or has no check.
    pub reason: Option<Reason>,
    /// Its check; `null` when it has none.
    pub check: Option<Check>,
    /// Who announced it.
    pub source: InstanceSource,
    /// Only for an answer to `PUT`: true when the announcement survives a crash of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
}

/// How an instance is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// `http` or `tcp`.
    pub kind: String,
    /// The path for `http`.
    pub path: Option<String>,
    /// Pause between checks.
    pub interval: String,
    /// Time that one check may take.
    pub timeout: String,
    /// Failures in a row that make it unhealthy.
    pub unhealthy: u32,
    /// Successes in a row that make it healthy again.
    pub healthy: u32,
}

/// Who announced an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceSource {
    /// `file` or `api`.
    pub kind: String,
    /// The file's path; `null` for `api`.
    pub path: Option<String>,
}

/// One certificate, from the bundle or our own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// `root CA`, `issuing CA`, `node CA` or `leaf`.
    pub what: String,
    /// Its subject.
    pub subject: String,
    /// The SPIFFE id it names; `null` for authorities.
    pub spiffe_id: Option<String>,
    /// Its serial number, hex.
    pub serial: String,
    /// Valid from.
    pub not_before: String,
    /// Valid until.
    pub not_after: String,
    /// `P-256` or another key type.
    pub key: String,
}

/// Something that takes longer than a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Names it in `/v1/operations/{id}`.
    pub id: String,
    /// `join` or `leave`.
    pub verb: String,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
    /// For people: what was done.
    pub detail: Option<String>,
    /// For `leave`: how many peers acknowledged.
    pub acknowledged: Option<u64>,
    /// For `leave`: services withdrawn, `namespace/name`.
    pub withdrawn: Vec<String>,
    /// Why it failed.
    pub problem: Option<Problem>,
}

/// Body of `POST /v1/join`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// Seeds to dial, `host:port`.
    pub seeds: Vec<String>,
}

/// An error as RFC 9457 writes it, `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `urn:starling:error:ST0306`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, without particulars.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// `ST0306`.
    pub code: String,
    /// What happened here.
    pub detail: String,
    /// The path that was asked.
    pub instance: String,
    /// What to do.
    pub help: String,
    /// Each single mistake, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemPart>,
}

/// One mistake among several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemPart {
    /// JSON pointer to the place, `#/health/http`; `null` where it has none.
    pub pointer: Option<String>,
    /// Line of a text; `null` where it has none.
    pub line: Option<u32>,
    /// Column of a text; `null` where it has none.
    pub column: Option<u32>,
    /// What is wrong there.
    pub detail: String,
}

#[cfg(test)]
mod tests;
