//! `GET /v1/members`: who is here, as this node sees it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Envelope, Items};

/// A list of members, by name.
pub type MemberList = Envelope<Items<Member>>;

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
    /// Those of them that it may not serve: they get no traffic. Left out where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ungranted: Vec<ServiceRef>,
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
    /// How many documents of the mesh it does not use as the mesh has them. Left out where it is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held_back_count: u64,
    /// The first of these, those that are quarantined before all others, at most
    /// [`HELD_BACK_TOLD_MAX`](starling_model::limits::HELD_BACK_TOLD_MAX).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_back: Vec<MemberHeldBack>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A document that a member does not use as the mesh has it, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberHeldBack {
    /// `HTTPRoute default/orders`; `null` where this node does not know the hash.
    pub document: Option<String>,
    /// The generation that it does not use; `null` as above.
    pub generation: Option<u64>,
    /// Its hash, shortened.
    pub digest: String,
    /// The generation that it uses in its place; `null`: none.
    pub used: Option<u64>,
    /// Why, see [`MemberConvergence::held_back`](super::MemberConvergence::held_back).
    pub why: String,
    /// True for contents with which no route table came about there.
    pub quarantined: bool,
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
    /// The key exchange of our last handshake with it, e.g. `X25519MLKEM768`; `null` while there was none.
    #[serde(default)]
    pub key_exchange: Option<String>,
}
