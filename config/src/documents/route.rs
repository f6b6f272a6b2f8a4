//! What all kinds of routes share: parents, host names, backends, and rules that several kinds have.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::num::NonZeroU16;

use starling_model::codes;
use starling_model::{Labels, Namespace, ServiceKey, ServiceName, SubsetName, Weight};

use super::fields::Fields;
use super::limits::{BACKENDS_MAX, HOSTNAMES_MAX, PARENTS_MAX};
use super::text;
use crate::schema::Bad;
use crate::tree::{Node, Value};
use crate::values;

/// The group that references have unless they say otherwise.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    /// A Service of the mesh, or a Gateway.
    pub kind: ParentKind,
    /// Where the parent's name holds; the route's own unless said otherwise.
    pub namespace: Namespace,
    /// The parent's name.
    pub name: ServiceName,
    /// Only this port of it (a Gateway: of its listeners); `None`: all.
    pub port: Option<NonZeroU16>,
    /// Only the port (a Gateway: the listener) of this name; `None`: all.
    pub section: Option<String>,
}

/// Which kinds can be parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentKind {
    /// Callers within the mesh (GEP-1294).
    Service,
    /// What comes in from outside.
    Gateway,
}

/// One backend of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// Where requests go.
    pub target: BackendTarget,
    /// Its share, relative to the sum; 1 unless said otherwise, 0 for nothing.
    pub weight: Weight,
}

/// What a backend or a mirror points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// A service, or a subset of it.
    Service(ServiceTarget),
    /// Of a kind that is not known here. The standard accepts it and answers its share with 500.
    Unknown {
        /// `multicluster.x-k8s.io`
        group: String,
        /// `ServiceImport`
        kind: String,
        /// Its name.
        name: String,
    },
}

/// A service as a document points to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTarget {
    /// In the route's own namespace unless said otherwise.
    pub service: ServiceKey,
    /// The Service's port. A cluster demands it; here a service with one port needs none.
    pub port: Option<NonZeroU16>,
    /// Only a part of its instances; `None`: all. Only in `starling/v1`.
    pub subset: Option<Subset>,
}

/// A part of a service's instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subset {
    /// By the name in the Service's `subsets`.
    Named(SubsetName),
    /// Those that have all of these labels.
    Labels(Labels),
}

pub(super) fn parents(fields: &mut Fields<'_, '_>) -> Vec<ParentRef> {
    fields.demand("parentRefs");
    let parents = fields.tables("parentRefs", PARENTS_MAX, parent);
    fields.later("useDefaultGateways");
    let again = |(at, parent): &(usize, &ParentRef)| parents.iter().take(*at).any(|earlier| earlier == *parent);
    // Places are those of the document only while each of its parents could be read.
    if parents.len() == fields.len("parentRefs")
        && let Some((at, _)) = parents.iter().enumerate().find(again)
    {
        let bad = Bad::new("names a parent that an earlier one names");
        fields.bad("parentRefs", Bad { part: Some(at.to_string()), ..bad });
    }
    parents
}

fn parent(fields: &mut Fields<'_, '_>) -> Option<ParentRef> {
    let group = fields.optional("group", text::free);
    let word = fields.optional("kind", |node| values::text(node)).unwrap_or("Gateway");
    let kind = match (word, group.as_deref()) {
        // The standard's default group is the Gateway's; for a Service everybody means the core.
        ("Service", None | Some("" | "core")) => Some(ParentKind::Service),
        ("Gateway", None | Some(GATEWAY_GROUP | "starling")) => Some(ParentKind::Gateway),
        ("Service", Some(_)) => {
            fields.bad("group", Bad::new("has no Service").note("write group: \"\", or leave it out"));
            None
        }
        ("Gateway", Some(_)) => {
            fields.bad("group", Bad::new("has no Gateway"));
            None
        }
        _ => {
            let near = crate::suggest::suggest(word, ["Service", "Gateway"]);
            let bad = Bad::new("is no kind that routes attach to: Service or Gateway");
            fields.bad(
                "kind",
                match near {
                    Some(near) => bad.note(format!("did you mean `{near}`?")),
                    None => bad,
                },
            );
            None
        }
    };
    let own = fields.namespace();
    let namespace = fields.optional("namespace", values::name(Namespace::new)).unwrap_or(own);
    let name = fields.required("name", values::name(ServiceName::new));
    let port = fields.optional("port", text::port);
    let section = fields.optional("sectionName", text::rule_name);
    Some(ParentRef { kind: kind?, namespace, name: name?, port, section })
}

pub(super) fn hostnames(fields: &mut Fields<'_, '_>) -> Vec<String> {
    fields.values("hostnames", HOSTNAMES_MAX, text::hostname)
}

/// Backends without filters, as TCP and TLS have them.
pub(super) fn backends(fields: &mut Fields<'_, '_>) -> Vec<BackendRef> {
    fields.tables("backendRefs", BACKENDS_MAX, backend)
}

pub(super) fn backend(fields: &mut Fields<'_, '_>) -> Option<BackendRef> {
    let target = target(fields);
    let weight = fields.optional("weight", text::weight).or_else(|| Weight::new(1).ok());
    Some(BackendRef { target: target?, weight: weight? })
}

/// The fields that name a backend, without weight and filters.
pub(super) fn target(fields: &mut Fields<'_, '_>) -> Option<BackendTarget> {
    let group = fields.optional("group", text::free).unwrap_or_default();
    let kind = fields.optional("kind", |node| values::text(node)).unwrap_or("Service").to_owned();
    let own = fields.namespace();
    let namespace = fields.optional("namespace", values::name(Namespace::new)).unwrap_or(own);
    let port = fields.optional("port", text::port);
    fields.starling_only("subset");
    let subset = fields.optional("subset", subset);
    if kind == "Service" && matches!(group.as_str(), "" | "core") {
        let name = fields.required("name", values::name(ServiceName::new));
        let service = ServiceKey::new(namespace, name?);
        return Some(BackendTarget::Service(ServiceTarget { service, port, subset }));
    }
    let name = fields.required("name", |node| values::text(node).map(str::to_owned));
    let message = format!("kind {} is not known here: its share is answered with 500", crate::schema::clip(&kind));
    fields.warn("kind", codes::UNKNOWN_REFERENCE, message);
    Some(BackendTarget::Unknown { group, kind, name: name? })
}

fn subset(node: &Node) -> Result<Subset, Bad> {
    match &node.value {
        Value::Table(_) => text::labels(node).map(Subset::Labels),
        Value::String(_) => values::name(SubsetName::new)(node).map(Subset::Named),
        other @ (Value::Integer(_) | Value::Boolean(_) | Value::Other(..) | Value::Array(_)) => {
            Err(Bad::new(format!("must be a name or a table of labels, not {}", other.kind())))
        }
    }
}

/// Warns where a rule's backends can never take a request and nothing else answers.
pub(super) fn warn_of_no_backend(fields: &mut Fields<'_, '_>, weights: &[Weight]) {
    let message = match weights {
        [] => "without backendRefs every request is answered with an error",
        all if all.iter().all(|weight| weight.get() == 0) => {
            "all weights are 0, so every request is answered with an error"
        }
        _ => return,
    };
    fields.warn("backendRefs", codes::RULE_ANSWERS_ERROR, message);
}
