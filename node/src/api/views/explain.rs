//! `GET` and `POST /v1/explain`: one request's whole decision.

use serde::{Deserialize, Serialize};

use starling_routing::Snapshot;

use super::Reason;

/// `GET /v1/snapshot`, and the file that `starling snapshot save` writes: a table's inputs, and who is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotBody {
    /// Of the mesh.
    pub trust_domain: String,
    /// What runs on the node.
    pub local: Vec<SnapshotInstance>,
    /// The table's inputs.
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

/// One instance on the snapshot's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInstance {
    /// `default/web`.
    pub service: String,
    /// Its name.
    pub name: String,
}

/// Every share is sent to an endpoint.
pub const EXPLAINED_FORWARD: &str = "forward";
/// A rule answers by itself.
pub const EXPLAINED_ANSWER: &str = "answer";
/// Refused.
pub const EXPLAINED_REFUSE: &str = "refuse";
/// Shares end differently.
pub const EXPLAINED_MIXED: &str = "mixed";

/// Body of `POST /v1/explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainRequest {
    /// `http://orders.mesh.internal/cart`.
    pub url: String,
    /// `GET` unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// `x-user: 7`, each.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The service that calls, `web` or `shop/web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// A whole SPIFFE id in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// What is drawn by: a number as a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// Sends it, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
}

/// The decision of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `forward`, `answer`, `refuse`; `mixed` where shares end differently.
    pub decision: String,
    /// What was asked about.
    pub request: ExplainedRequest,
    /// How it came about, in order; a step that is not reached is left out.
    pub steps: Vec<ExplainedStep>,
    /// Deadlines, tries and what is done to the request; `null` where it is refused before a rule is found.
    pub policies: Option<ExplainedPolicies>,
    /// All that may become of the request; shares sum to 1.
    pub outcomes: Vec<ExplainedOutcome>,
    /// What the seed gives; `null` where none was asked for.
    pub draw: Option<ExplainedDraw>,
    /// What happened to a request that was sent; `null`: none was.
    pub observed: Option<ExplainedObserved>,
}

/// What happened to a request that was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedObserved {
    /// What its sender was told.
    pub status: Option<u16>,
    /// How a gRPC call ended; `null`: it is none.
    pub grpc_status: Option<String>,
    /// Why the mesh answered or how the way broke (RFC 9209); `null`: the application answered.
    pub error: Option<String>,
    /// Whether one of the outcomes has this endpoint, or this status of the mesh's own.
    pub as_foreseen: bool,
    /// Where it was sent last; `null`: nowhere.
    pub endpoint: Option<String>,
    /// The route that took it.
    pub route: Option<String>,
    /// The rule, by name or place.
    pub rule: Option<String>,
    /// Of the backend that was drawn.
    pub subset: Option<String>,
    /// Tries.
    pub tries: u32,
    /// From its head to the last byte of the answer.
    pub duration_ms: f64,
    /// From the last try to the head of its answer.
    pub upstream_duration_ms: Option<f64>,
    /// Of the answer's body.
    pub response_bytes: String,
    /// Digest of the documents that decided.
    pub digest: String,
}

impl Explanation {
    /// The backends that were drawn among; none without a rule.
    #[must_use]
    pub fn backends(&self) -> &[ExplainedBackend] {
        self.steps
            .iter()
            .find_map(|step| if let ExplainedStep::Split { result } = step { Some(&result[..]) } else { None })
            .unwrap_or_default()
    }

    /// The rule that takes the request.
    #[must_use]
    pub fn rule(&self) -> Option<&ExplainedRule> {
        self.steps
            .iter()
            .find_map(|step| if let ExplainedStep::Route { result, .. } = step { result.as_ref() } else { None })
    }
}

/// The request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedRequest {
    /// Its verb.
    pub method: String,
    /// As asked.
    pub url: String,
    /// `x-user: 7`, each.
    pub headers: Vec<String>,
}

/// One step of the decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ExplainedStep {
    /// Who calls.
    Source {
        /// Its SPIFFE id.
        result: String,
        /// Instances of that service on the asked node.
        instances: Vec<String>,
    },
    /// What is called.
    Service {
        /// Which, as this node knows it.
        result: ExplainedService,
    },
    /// Which listener of a Gateway took the connection.
    Gateway {
        /// Where it is, and for which names.
        result: ExplainedGateway,
    },
    /// Which rule takes it.
    Route {
        /// `null`: no route is attached, or no rule of those that are matches.
        result: Option<ExplainedRule>,
        /// Routes that were asked, `producer` or `consumer NAMESPACE`; `null`: none is attached.
        side: Option<String>,
        /// Better matches that do not hold, best first.
        rejected: Vec<ExplainedMatch>,
        /// How many of these are not listed.
        rejected_more: usize,
        /// Where nothing holds: the match that came nearest.
        nearest: Option<ExplainedMatch>,
    },
    /// Among which backends is drawn.
    Split {
        /// In the order of the document.
        result: Vec<ExplainedBackend>,
    },
    /// Whether the client comes back to where it was; left out where nobody keeps sessions.
    Session {
        /// By which cookie, and what becomes of it.
        result: ExplainedSession,
    },
    /// Among which endpoints.
    Endpoints {
        /// Of every backend with a weight, in their order.
        result: Vec<ExplainedEndpoint>,
        /// How many are not listed.
        more: usize,
    },
    /// How it gets there.
    Transport {
        /// Whom the connection must prove to lead to, and what it opens.
        result: ExplainedTransport,
    },
    /// May it?
    Authorize {
        /// `allow` or `deny`.
        result: String,
        /// The policy that says so; `null`: none is in force.
        by: Option<serde_json::Value>,
    },
}

/// The called service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedService {
    /// Where the name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub protocol: String,
    /// The name of the port; `null`: the request names none of several.
    pub port: Option<String>,
    /// Its number; `null`: no document says it.
    pub number: Option<u16>,
    /// Its Service document; `null`: it exists by announcement.
    pub document: Option<ExplainedDocument>,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedGateway {
    /// The Gateway.
    pub document: ExplainedDocument,
    /// The listener's name in it.
    pub listener: String,
    /// Where clients connect to.
    pub port: u16,
    /// For which server names; `null`: all.
    pub hostname: Option<String>,
}

/// A document in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedDocument {
    /// What it is.
    pub kind: String,
    /// Where its name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which write of it.
    pub generation: u64,
    /// Who signed it.
    pub key_id: String,
}

/// The rule that takes the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedRule {
    /// What the route is: `HTTPRoute`.
    pub kind: String,
    /// Where the route's name holds.
    pub namespace: String,
    /// The route's name.
    pub name: String,
    /// Which write of it.
    pub generation: u64,
    /// Who signed it.
    pub key_id: String,
    /// The rule's name, or its place in the route.
    pub rule: String,
    /// What the match asks for.
    #[serde(rename = "match")]
    pub asks: String,
}

/// A match that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedMatch {
    /// `namespace/name` of the route.
    pub route: String,
    /// The rule's name, or its place in the route.
    pub rule: String,
    /// What the match asks for.
    #[serde(rename = "match")]
    pub asks: String,
    /// The first condition that fails.
    pub because: Vec<ExplainedMiss>,
}

/// A condition that a request does not meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedMiss {
    /// `path`, `method`, `header x-canary`, `query parameter page`.
    pub matcher: String,
    /// What it should be.
    pub want: String,
    /// What it is; `null`: it is absent.
    pub got: Option<String>,
    /// Both in a sentence.
    pub detail: String,
}

/// One backend of the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedBackend {
    /// `default/orders:80 {canary}`, or why it cannot be used.
    pub backend: String,
    /// Which subset; `null`: all of its endpoints.
    pub subset: Option<String>,
    /// As the document has it.
    pub weight: u64,
    /// Of all requests that this rule takes.
    pub share: f64,
}

/// The client's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedSession {
    /// The cookie's name.
    pub cookie: String,
    /// It goes on where it is; else one begins, and the answer sets the cookie.
    pub kept: bool,
    /// Why one begins; `null`: none does.
    pub because: Option<String>,
    /// After this it ends, used or not; `null`: it does not.
    pub absolute_timeout: Option<String>,
    /// `session` or `permanent`: when the client forgets the cookie.
    pub lifetime: String,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedEndpoint {
    /// `vm-3/default/orders-v2`.
    pub id: String,
    /// Where it runs.
    pub node: String,
    /// Its name there.
    pub instance: String,
    /// The backend's place in the rule; `null` without a route.
    pub backend: Option<usize>,
    /// Which subset; `null`: all.
    pub subset: Option<String>,
    /// Of all requests like this one.
    pub share: f64,
    /// Of those that come to its backend.
    pub share_within: f64,
    /// `healthy`, `unhealthy`, `ejected`, `draining` or `ungranted`.
    pub health: String,
    /// Why.
    pub reason: Option<Reason>,
    /// Requests of this node that run there.
    pub in_flight: u32,
    /// Peak EWMA; `null` while unknown.
    pub latency_ewma_ms: Option<f64>,
    /// How it is chosen among those of its backend: `peak-ewma`, `maglev by header x-user`, `session`.
    pub chosen_by: String,
}

/// The way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedTransport {
    /// Identities, one of which the peer must prove.
    pub peers: Vec<String>,
    /// `vm-2:7740`, each.
    pub addresses: Vec<String>,
    /// What the stream names.
    pub open: ExplainedOpen,
    /// Whether the receiver takes the source for what it says.
    pub source_granted: bool,
    /// How the caller and the nodes that may take the request stand to the services that the stream names.
    #[serde(default)]
    pub grants: Vec<ExplainedGrant>,
}

/// How a node stands to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedGrant {
    /// Which node.
    pub node: String,
    /// As what.
    pub role: GrantRole,
    /// `default/web`
    pub service: String,
    /// `granted`; `unnamed`: no grant names the service, and none is needed; `not_granted`, `no_grant`, `held_back`: it may
    /// not.
    pub standing: String,
    /// The grant that says so.
    pub document: Option<ExplainedDocument>,
}

/// What a node does with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GrantRole {
    /// Calls as it.
    Call,
    /// Serves it.
    Serve,
}

/// What a stream names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedOpen {
    /// The calling service; `null`: the bare node calls.
    pub source: Option<String>,
    /// The services that endpoints announced themselves as.
    pub destinations: Vec<String>,
}

/// What holds for the request besides where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedPolicies {
    /// To the end of the answer, or to its head where it is built in; `0s`: none.
    pub timeout: String,
    /// `rule` or `built in`.
    pub timeout_origin: String,
    /// Of one try; `null`: none of its own.
    pub try_timeout: Option<String>,
    /// How often it is tried again at most.
    pub retries: u32,
    /// `rule` or `built in`.
    pub retries_origin: String,
    /// Statuses that are tried again.
    pub retry_codes: Vec<u16>,
    /// Retries for a hundred requests.
    pub budget_percent: u32,
    /// The policy that says so; `null`: it is built in.
    pub budget_by: Option<String>,
    /// What the rule does to the request and to its response, in words.
    pub filters: Vec<String>,
}

/// What becomes of a share of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedOutcome {
    /// The backend's place in the rule; `null` where none is drawn.
    pub backend: Option<usize>,
    /// Of all requests like this one.
    pub share: f64,
    /// `forward`, `answer` or `refuse`.
    pub decision: String,
    /// What is answered; `null`: what the endpoint answers.
    pub status: Option<u16>,
    /// The error type of RFC 9209; `null`: it is no error.
    pub error: Option<String>,
    /// Why it is refused.
    pub detail: Option<String>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// Which endpoints it may be sent to.
    pub endpoints: Vec<String>,
    /// What is asked there; `null` where nothing is sent.
    pub sent: Option<ExplainedTarget>,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedTarget {
    /// Path and query.
    pub target: String,
    /// Host.
    pub host: String,
}

/// What one seed gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedDraw {
    /// The seed, as asked.
    pub seed: String,
    /// The backend's place in the rule.
    pub backend: Option<usize>,
    /// The endpoint that is picked.
    pub endpoint: Option<String>,
    /// Where copies go.
    pub mirrors: Vec<String>,
}
