//! What every document begins with: `apiVersion`, `kind`, `metadata`; and which kinds there are.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet};

use starling_model::codes;
use starling_model::{DocumentKey, DocumentKind, DocumentName, Namespace};

use super::fields::Fields;
use super::limits::METADATA_ENTRIES_MAX;
use super::{
    Spec, gateway, grant, grpc_route, http_route, l4_route, mesh_config, service, starling_service, text,
    traffic_policy,
};
use crate::schema::{Bad, clip};
use crate::suggest::suggest;
use crate::tree::Node;
use crate::values;

/// Whose rules a document follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// `gateway.networking.k8s.io/v1`.
    Gateway,
    /// `v1`, the core of Kubernetes.
    Core,
    /// `starling/v1`: what Gateway API has and fields of our own.
    Starling,
}

impl ApiVersion {
    /// As documents write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway.networking.k8s.io/v1",
            Self::Core => "v1",
            Self::Starling => "starling/v1",
        }
    }
}

const VERSIONS: [ApiVersion; 3] = [ApiVersion::Gateway, ApiVersion::Core, ApiVersion::Starling];

/// Whether fields of our own may stand in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Only what the standard has: the document stays portable.
    Standard,
    /// `starling/v1`.
    Starling,
}

/// How the `spec` of a kind is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    TlsRoute,
    CoreService,
    StarlingService,
    BackendTrafficPolicy,
    ServiceGrant,
    MeshConfig,
    Gateway,
    /// Ours, for a later release: kept and not read.
    Unread,
    /// The standard's, for a later release: refused by name.
    Later,
}

const KINDS: &[(ApiVersion, &str, Kind)] = &[
    (ApiVersion::Gateway, "HTTPRoute", Kind::HttpRoute),
    (ApiVersion::Gateway, "GRPCRoute", Kind::GrpcRoute),
    (ApiVersion::Gateway, "TCPRoute", Kind::TcpRoute),
    (ApiVersion::Gateway, "TLSRoute", Kind::TlsRoute),
    (ApiVersion::Gateway, "UDPRoute", Kind::Later),
    (ApiVersion::Gateway, "Gateway", Kind::Later),
    (ApiVersion::Gateway, "GatewayClass", Kind::Later),
    (ApiVersion::Gateway, "ReferenceGrant", Kind::Later),
    (ApiVersion::Gateway, "BackendTLSPolicy", Kind::Later),
    (ApiVersion::Gateway, "ListenerSet", Kind::Later),
    (ApiVersion::Core, "Service", Kind::CoreService),
    (ApiVersion::Starling, "HTTPRoute", Kind::HttpRoute),
    (ApiVersion::Starling, "GRPCRoute", Kind::GrpcRoute),
    (ApiVersion::Starling, "TCPRoute", Kind::TcpRoute),
    (ApiVersion::Starling, "TLSRoute", Kind::TlsRoute),
    (ApiVersion::Starling, "Service", Kind::StarlingService),
    (ApiVersion::Starling, "BackendTrafficPolicy", Kind::BackendTrafficPolicy),
    (ApiVersion::Starling, "AuthorizationPolicy", Kind::Unread),
    (ApiVersion::Starling, "RateLimitPolicy", Kind::Unread),
    (ApiVersion::Starling, "FaultInjectionPolicy", Kind::Unread),
    (ApiVersion::Starling, "Rollout", Kind::Unread),
    (ApiVersion::Starling, "ServiceGrant", Kind::ServiceGrant),
    (ApiVersion::Starling, "MeshConfig", Kind::MeshConfig),
    (ApiVersion::Starling, "ExternalService", Kind::Unread),
    (ApiVersion::Starling, "Gateway", Kind::Gateway),
];

/// Every kind that is taken, once each, in the order of the alphabet.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    let taken = KINDS.iter().filter(|(_, _, kind)| *kind != Kind::Later).map(|(_, name, _)| *name);
    taken.collect::<BTreeSet<_>>().into_iter()
}

/// What a cluster writes into `metadata` by itself, so that an exported object is read as it stands.
const CLUSTER_FIELDS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Everything of a document but its text.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) version: ApiVersion,
    pub(super) key: DocumentKey,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) spec: Spec,
}

pub(super) fn document(fields: &mut Fields<'_, '_>) -> Option<Read> {
    let version = fields.required("apiVersion", api_version);
    let word = fields.required("kind", |node| values::text(node));
    let kind = version.zip(word).and_then(|(version, word)| kind(fields, version, word));
    fields.demand("metadata");
    let metadata = fields.table("metadata", metadata);
    fields.ignored(&["status"]);
    let dialect = if version == Some(ApiVersion::Starling) { Dialect::Starling } else { Dialect::Standard };
    let namespace = metadata.as_ref().map(|metadata| metadata.namespace.clone()).unwrap_or_default();
    fields.set(dialect, namespace);
    fields.demand("spec");
    let spec = match kind {
        Some(Kind::HttpRoute) => fields.table("spec", http_route::read).map(Spec::HttpRoute),
        Some(Kind::GrpcRoute) => fields.table("spec", grpc_route::read).map(Spec::GrpcRoute),
        Some(Kind::TcpRoute) => fields.table("spec", l4_route::read_tcp).map(Spec::TcpRoute),
        Some(Kind::TlsRoute) => fields.table("spec", l4_route::read_tls).map(Spec::TlsRoute),
        Some(Kind::CoreService) => fields.table("spec", service::read).map(Spec::CoreService),
        Some(Kind::StarlingService) => fields.table("spec", starling_service::read).map(Spec::StarlingService),
        Some(Kind::BackendTrafficPolicy) => fields.table("spec", traffic_policy::read).map(Spec::BackendTrafficPolicy),
        Some(Kind::ServiceGrant) => fields.table("spec", grant::read).map(Spec::ServiceGrant),
        Some(Kind::MeshConfig) => {
            only_one(fields, metadata.as_ref());
            fields.table("spec", mesh_config::read).map(Spec::MeshConfig)
        }
        Some(Kind::Gateway) => fields.table("spec", gateway::read).map(Spec::Gateway),
        Some(Kind::Unread) => {
            fields.ignored(&["spec"]);
            let message = format!("{} is kept, but has no effect in this release", word.unwrap_or_default());
            fields.warn("kind", codes::DOCUMENT_IDLE, message);
            Some(Spec::Unread)
        }
        Some(Kind::Later) | None => {
            fields.ignored(&["spec"]);
            None
        }
    };
    let Metadata { name, namespace, labels, annotations } = metadata?;
    let kind = DocumentKind::new(word?).ok()?;
    Some(Read { version: version?, key: DocumentKey { kind, namespace, name }, labels, annotations, spec: spec? })
}

fn api_version(node: &Node) -> Result<ApiVersion, Bad> {
    let text = values::text(node)?;
    if let Some(version) = VERSIONS.into_iter().find(|version| version.as_str() == text) {
        return Ok(version);
    }
    let known = VERSIONS.map(ApiVersion::as_str);
    let bad = Bad::new(format!("is not one of {}", known.join(", ")));
    let near = suggest(text, known).or_else(|| {
        // An alpha or beta of the same group, and groups without their version.
        let group = text.split('/').next().unwrap_or_default();
        known.into_iter().find(|known| known.split_once('/').is_some_and(|(known, _)| known == group))
    });
    Err(match near {
        Some(near) => bad.note(format!("did you mean `{near}`?")),
        None => bad,
    })
}

fn kind(fields: &mut Fields<'_, '_>, version: ApiVersion, word: &str) -> Option<Kind> {
    match KINDS.iter().find(|(of, name, _)| *of == version && *name == word) {
        Some((_, _, Kind::Later)) => {
            fields.bad("kind", Bad::new("is a kind that this release does not have"));
            return None;
        }
        Some((_, _, kind)) => return Some(*kind),
        None => {}
    }
    let bad = Bad::new(format!("is no kind of {}", version.as_str()));
    let names =
        || KINDS.iter().filter(|(of, _, kind)| *of == version && *kind != Kind::Later).map(|(_, name, _)| *name);
    let elsewhere = || KINDS.iter().find(|(_, name, _)| *name == word).map(|(of, _, _)| of.as_str());
    let bad = match (suggest(word, names()), elsewhere()) {
        (_, Some(version)) => bad.note(format!("it is one of {version}")),
        (Some(near), None) => bad.note(format!("did you mean `{near}`?")),
        (None, None) => bad.note(format!("known: {}", clip(&names().collect::<Vec<_>>().join(", ")))),
    };
    fields.bad("kind", bad);
    None
}

/// Two of a kind that there is once would have to be put in order; so the other one has no name.
fn only_one(fields: &mut Fields<'_, '_>, metadata: Option<&Metadata>) {
    let Some(metadata) = metadata else { return };
    let part = if metadata.name.as_str() != mesh_config::NAME {
        "name"
    } else if metadata.namespace != Namespace::default() {
        "namespace"
    } else {
        return;
    };
    let bad = Bad::new("is not that of the one MeshConfig").note("there is one: `mesh` of namespace `default`");
    fields.bad("metadata", Bad { part: Some(part.to_owned()), ..bad });
}

struct Metadata {
    name: DocumentName,
    namespace: Namespace,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn metadata(fields: &mut Fields<'_, '_>) -> Option<Metadata> {
    let name = fields.required("name", values::name(DocumentName::new));
    let namespace = fields.optional("namespace", values::name(Namespace::new)).unwrap_or_default();
    let labels = text::collect(fields.map("labels", METADATA_ENTRIES_MAX, text::pair));
    let annotations = text::collect(fields.map("annotations", METADATA_ENTRIES_MAX, text::pair));
    fields.ignored(CLUSTER_FIELDS);
    Some(Metadata { name: name?, namespace, labels, annotations })
}
