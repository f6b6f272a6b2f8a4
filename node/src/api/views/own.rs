//! What this node itself announces, holds and does: instances, certificates, operations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Envelope, Items, Problem, Reason};

/// What this host announces, by name.
pub type InstanceList = Envelope<Items<Instance>>;

/// Certificates, from root to leaf.
pub type CertificateList = Envelope<Items<Certificate>>;

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
    /// Of the leaf in use: the key exchanges of the last handshakes with all nodes, e.g. `X25519MLKEM768`, each once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_exchange: Option<Vec<String>>,
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
