//! The shapes of the local API, exactly as they stand in JSON: the server writes them, the command line reads them.
//!
//! Keys are camelCase; times are RFC 3339 in UTC; ids and 64-bit counters are strings; absent values are `null`, never
//! missing, unless a field says otherwise. Within `/v1` fields are only ever added, so readers ignore unknown ones.

mod checks;
mod config;
mod events;
mod explain;
mod members;
mod own;
mod ping;
mod services;
mod status;

use serde::{Deserialize, Serialize};

pub use checks::{CheckLine, CheckReport};
pub use config::{
    ApplyRequest, BundleForm, Convergence, DeletedDocument, Document, DocumentBatch, DocumentConvergence, DocumentPage,
    DocumentVersion, DryRun, DryRunRequest, FieldChange, InUse, MemberConvergence, OpenedService, PlannedDocument,
    REMOVED_LISTED_MAX, RemovedEndpoints, SignedForm, Signer, Trust, TrustOperator, TrustRequest, TrustRevocation,
};
pub use events::{Event, EventList, EventPage};
pub use explain::{
    EXPLAINED_ANSWER, EXPLAINED_FORWARD, EXPLAINED_MIXED, EXPLAINED_REFUSE, ExplainRequest, ExplainedBackend,
    ExplainedDocument, ExplainedDraw, ExplainedEndpoint, ExplainedGateway, ExplainedGrant, ExplainedMatch,
    ExplainedMiss, ExplainedObserved, ExplainedOpen, ExplainedOutcome, ExplainedPolicies, ExplainedRequest,
    ExplainedRule, ExplainedService, ExplainedSession, ExplainedStep, ExplainedTarget, ExplainedTransport, Explanation,
    GrantRole, SnapshotBody, SnapshotInstance,
};
pub use members::{
    Member, MemberCertificate, MemberConfig, MemberHeldBack, MemberList, MemberTrust, ProtocolRange, Rtt, ServiceRef,
    Suspicion,
};
pub use own::{Certificate, CertificateList, Check, Instance, InstanceList, InstanceSource, JoinRequest, Operation};
pub use ping::{Ping, PingReply, PingTimes};
pub use services::{
    DocumentProblem, Endpoint, Reason, RouteBackend, RouteRow, RouteSource, RouteTable, Routes, Service, ServiceList,
    ServicePolicy, ServicePort, Traffic,
};
pub use status::{
    Flow, Listeners, MemberCounts, Status, StatusConfig, StatusIdentity, StatusProblem, StatusServices, StatusStore,
    StatusTraffic, UpstreamListener,
};

/// The API group of every answer.
pub const API_VERSION: &str = "starling/v1";

/// Most names that `agreement.behind` lists; `behindCount` counts all.
pub const BEHIND_NAMES_MAX: usize = 20;

/// The kinds of things that an answer can be.
pub mod kind {
    /// `GET /v1/status`.
    pub const STATUS: &str = "Status";
    /// `GET /v1/checks`.
    pub const CHECK_REPORT: &str = "CheckReport";
    /// `GET /v1/members`.
    pub const MEMBER_LIST: &str = "MemberList";
    /// `GET /v1/members/{node}`.
    pub const MEMBER: &str = "Member";
    /// `GET /v1/members/{node}/ping`.
    pub const PING: &str = "Ping";
    /// `GET /v1/events`.
    pub const EVENT_LIST: &str = "EventList";
    /// `GET /v1/services`.
    pub const SERVICE_LIST: &str = "ServiceList";
    /// `GET /v1/services/{namespace}/{service}`.
    pub const SERVICE: &str = "Service";
    /// `GET /v1/routes[/{namespace}/{service}]`.
    pub const ROUTE_TABLE: &str = "RouteTable";
    /// `GET` and `POST /v1/explain`.
    pub const EXPLANATION: &str = "Explanation";
    /// `GET /v1/snapshot`.
    pub const SNAPSHOT: &str = "Snapshot";
    /// `GET /v1/instances`.
    pub const INSTANCE_LIST: &str = "InstanceList";
    /// `GET`, `PUT` and `DELETE /v1/instances/{name}`.
    pub const INSTANCE: &str = "Instance";
    /// `GET /v1/config`; the answer to what was put there.
    pub const DOCUMENT_LIST: &str = "DocumentList";
    /// `GET /v1/config/{kind}/{namespace}/{name}`.
    pub const DOCUMENT: &str = "Document";
    /// `GET /v1/config/convergence`.
    pub const CONVERGENCE: &str = "Convergence";
    /// `POST /v1/config/dry-run`.
    pub const DRY_RUN: &str = "DryRun";
    /// `GET` and `PUT /v1/trust`.
    pub const TRUST: &str = "Trust";
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

impl Agreement {
    /// Share of live members that use the same documents, from 0 to 1; 1 while nobody is known.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "members are counted in thousands")]
    pub fn share(&self) -> f64 {
        if self.alive == 0 { 1.0 } else { self.same as f64 / self.alive as f64 }
    }
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
    /// False when it was done, but is not on disk; left out otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
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
