//! Documents and trust: what operators signed.

use serde::{Deserialize, Serialize};

/// A signed form as it travels through the API: what `PUT` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedForm {
    /// `starling-document/1` or `starling-revocation/1`.
    pub format: String,
    /// Base64 of the signed bytes.
    pub payload: String,
    /// Who signed; the payload says it, too.
    pub key_id: String,
    /// Base64 of the 64 bytes of the signature.
    pub signature: String,
}

/// Body of `PUT /v1/config`: the documents of one `apply`, used together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplyRequest {
    /// At least one; more than one are exactly one batch.
    pub documents: Vec<SignedForm>,
}

/// Body of `POST /v1/config/dry-run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DryRunRequest {
    /// Documents as a file holds them: YAML, several apart by `---`.
    pub source: String,
}

/// What an `apply` of some documents would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRun {
    /// In the order of the source.
    pub items: Vec<PlannedDocument>,
    /// What is right and hardly meant.
    pub warnings: Vec<super::ProblemPart>,
    /// What would not come out as written among the documents and services there are.
    #[serde(default)]
    pub problems: Vec<super::DocumentProblem>,
    /// Endpoints that would get no traffic any more because their node would not be granted the service.
    #[serde(default)]
    pub removes: Vec<RemovedEndpoints>,
}

/// Endpoints of one service that documents take out of use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedEndpoints {
    /// The document that does it: the first of those that name the service, or the MeshConfig.
    pub document_kind: String,
    /// Where the document's name holds.
    pub document_namespace: String,
    /// The document's name.
    pub document_name: String,
    /// Where the service's name holds.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// Ids, at most [`REMOVED_LISTED_MAX`].
    pub endpoints: Vec<String>,
    /// How many these are in all.
    pub count: u64,
    /// Why: `vm-3 no longer granted`.
    pub detail: String,
}

/// Endpoints that are listed of one service: beyond, their number says enough.
pub const REMOVED_LISTED_MAX: usize = 64;

/// One document of a dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedDocument {
    /// What it is: `HTTPRoute`.
    pub document_kind: String,
    /// Where its name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation in use, which may be a deletion; `null` when there is none.
    pub generation: Option<u64>,
    /// The generation that it would get; the one in use when it is unchanged.
    pub next: u64,
    /// True when the document in use has this very source: it would not be signed again.
    pub unchanged: bool,
    /// Values that would change; `null` when there is nothing in use to compare with, or this release cannot read it.
    pub changes: Option<Vec<FieldChange>>,
}

/// One value that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// `spec.rules[1].backendRefs[0].weight`.
    pub path: String,
    /// What is in use, as people read it; `null` for nothing.
    pub before: Option<String>,
    /// What would be; `null` for nothing.
    pub after: Option<String>,
}

/// Body of `PUT /v1/trust`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustRequest {
    /// A revocation of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<SignedForm>,
    /// An update of the trust bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleForm>,
    /// A list of renewed node certificates, for an update that follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<BundleForm>,
}

/// Something that carries its signatures itself: a trust bundle, or certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleForm {
    /// `starling-bundle/1` or `starling-certificates/1`.
    pub format: String,
    /// The bundle's file with its armour, or the list, in base64.
    pub payload: String,
}

/// Who signed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signer {
    /// `k1`.
    pub key_id: String,
    /// The operator's name by the bundle in force; `null` for a key that it does not know any more.
    pub name: Option<String>,
}

/// How many members are in the same state as this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InUse {
    /// Members that are alive, this one included.
    pub alive: u64,
    /// Of these, how many agree.
    pub same: u64,
}

/// The batch of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentBatch {
    /// Its hash, shortened.
    pub hash: String,
    /// How many documents it has.
    pub count: u16,
}

/// One version of a document, in few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentVersion {
    /// Which write of it.
    pub generation: u64,
    /// True when it removes the document.
    pub deleted: bool,
    /// Who signed it.
    pub signer: Signer,
    /// When, by the signer's clock.
    pub signed_at: String,
    /// Its hash, shortened.
    pub digest: String,
    /// True for the one in use here.
    pub in_use: bool,
    /// True when its generation was written in more than one way.
    pub conflict: bool,
    /// The YAML as written, where a conflict is shown in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One version of one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// What it is: `HTTPRoute`.
    pub document_kind: String,
    /// Where its name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which write of it.
    pub generation: u64,
    /// True when this version removes it.
    pub deleted: bool,
    /// With which others it was applied.
    pub batch: Option<DocumentBatch>,
    /// Who signed it.
    pub signer: Signer,
    /// When, by the signer's clock.
    pub signed_at: String,
    /// Its hash, shortened.
    pub digest: String,
    /// How many live members are known to use this generation or a later one.
    pub in_use: InUse,
    /// All contents of this generation, the winner first; `null` unless it was written in more than one way (ST0413).
    pub conflict: Option<Vec<DocumentVersion>>,
    /// Why this agent cannot read the document, which therefore has no effect here (ST0414). Left out where it can, and
    /// of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<String>,
    /// Versions that this node holds, the newest first: the last ten generations, and those that wait for their batch.
    /// Left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<DocumentVersion>>,
    /// The YAML as written; left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The signed form; left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<SignedForm>,
}

/// An operator's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustOperator {
    /// `k1`.
    pub key_id: String,
    /// Whose it is.
    pub name: String,
    /// `admin, config, issue, revoke`.
    pub roles: String,
    /// Its Ed25519 key, 64 hex digits: whoever holds the private half finds its number by it.
    #[serde(default)]
    pub public_key: String,
}

/// A revocation in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustRevocation {
    /// Whose issuing keys are out.
    pub node: String,
    /// The highest number counts.
    pub number: u64,
    /// Issuing keys that it keeps.
    pub kept: usize,
    /// For people.
    pub reason: String,
    /// Who signed it.
    pub signer: Signer,
    /// When, by the signer's clock.
    pub signed_at: String,
}

/// What this node believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// Which mesh; every signature is for one. 64 hex digits.
    #[serde(default)]
    pub mesh_id: String,
    /// Sequence of the bundle.
    pub bundle_sequence: u64,
    /// SHA-256 of its signed body, 64 hex digits: of two bundles with one sequence, which.
    #[serde(default)]
    pub bundle_hash: String,
    /// Keys that may sign.
    pub operators: Vec<TrustOperator>,
    /// Who is out.
    pub revocations: Vec<TrustRevocation>,
    /// Live members that hold the documents and revocations that this node holds, whatever of it they can use.
    #[serde(default)]
    pub holding: Option<super::Agreement>,
}

/// One page of documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentPage {
    /// By kind, namespace and name.
    pub items: Vec<Document>,
    /// The cursor of the next page; `null` on the last one.
    pub next: Option<String>,
}

/// Body of `GET /v1/config/convergence`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Convergence {
    /// This node's root over its documents and trust, 16 hex digits.
    pub documents_root: String,
    /// Share of live members that hold and use the same, from 0 to 1: the metric `starling_gossip_agreement_ratio`.
    pub share: f64,
    /// The same in members: what `view.agreement` says.
    pub in_use: InUse,
    /// Names of live members that do not, at most [`super::BEHIND_NAMES_MAX`].
    pub behind: Vec<String>,
    /// How many these are.
    pub behind_count: u64,
    /// Live members that hold what this node holds, whatever of it they can use: where a deletion is held it is in force.
    #[serde(default)]
    pub holding: Option<super::Agreement>,
    /// Documents in use here, by kind, namespace and name.
    pub items: Vec<DocumentConvergence>,
    /// The cursor of the next page; `null` on the last one.
    pub next: Option<String>,
}

/// Who uses one document in the generation that is in use here, or a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentConvergence {
    /// What it is: `HTTPRoute`.
    pub document_kind: String,
    /// Where its name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// In use here.
    pub generation: u64,
    /// Its hash, shortened.
    pub digest: String,
    /// How many live members are known to use it.
    pub in_use: InUse,
    /// Those that do not, or of which it is not known, at most [`super::BEHIND_NAMES_MAX`].
    pub behind: Vec<MemberConvergence>,
    /// How many these are.
    pub behind_count: u64,
}

/// One member that is not known to use a document as we do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberConvergence {
    /// Who.
    pub node: String,
    /// `behind`: it holds what this node held before. `unknown`: it holds something that this node never held, or tells
    /// no root.
    pub state: String,
    /// Which generation it uses; `null` when it has none, or when that is unknown.
    pub generation: Option<u64>,
    /// Since when it holds what it holds, as seen here; `null` while it tells no root.
    pub since: Option<String>,
}
