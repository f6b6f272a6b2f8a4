//! `GET /v1/status`: this node in one answer.

use serde::{Deserialize, Serialize};

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
    /// How many of the mesh's documents this node cannot use in their newest version (ST0414).
    #[serde(default)]
    pub held_back: u64,
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
