//! `ServiceGrant` of `starling/v1`: which nodes may announce a service, and call as it.
//!
//! Names only: a node by its name or by the beginning of it, a service by its whole name. What an instance says of itself
//! (labels, addresses) grants nothing, since any node could say it.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use starling_model::limits::NAME_BYTES_MAX;
use starling_model::{Namespace, NodeName, ServiceKey, ServiceName};

use super::fields::Fields;
use super::limits::{GRANT_NODES_MAX, GRANT_SERVICES_MAX};
use crate::schema::Bad;
use crate::source::Source;
use crate::tree::{Node, Value};
use crate::{values, yaml};

/// The `spec` of a ServiceGrant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceGrant {
    /// Who is granted; at least one.
    pub nodes: Vec<NodePattern>,
    /// What, each once; at least one. In the grant's own namespace unless said otherwise.
    pub services: Vec<ServiceKey>,
}

/// Nodes by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodePattern {
    /// `vm-1`
    Exactly(NodeName),
    /// `vm-*`: names that begin so; alone, `*` is every node.
    Beginning(String),
}

impl NodePattern {
    /// Is this node meant?
    #[must_use]
    pub fn holds(&self, node: &NodeName) -> bool {
        match self {
            Self::Exactly(name) => name == node,
            Self::Beginning(beginning) => node.as_str().starts_with(beginning.as_str()),
        }
    }
}

impl fmt::Display for NodePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => f.write_str(name.as_str()),
            Self::Beginning(beginning) => write!(f, "{beginning}*"),
        }
    }
}

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<ServiceGrant> {
    fields.demand("nodes");
    let nodes = fields.tables("nodes", GRANT_NODES_MAX, node);
    fields.unique("nodes", "node");
    fields.demand("services");
    let services = fields.tables("services", GRANT_SERVICES_MAX, service);
    let mut seen = BTreeSet::new();
    // Places are those of the document only while each of its services could be read.
    if services.len() == fields.len("services")
        && let Some(at) = services.iter().position(|service| !seen.insert(service))
    {
        let bad = Bad::new("names a service that an earlier one names");
        fields.bad("services", Bad { part: Some(at.to_string()), ..bad });
    }
    (!nodes.is_empty() && !services.is_empty()).then_some(ServiceGrant { nodes, services })
}

/// An entry of a list of nodes.
pub(super) fn node(fields: &mut Fields<'_, '_>) -> Option<NodePattern> {
    fields.required("node", node_pattern)
}

fn service(fields: &mut Fields<'_, '_>) -> Option<ServiceKey> {
    let own = fields.namespace();
    let namespace = fields.optional("namespace", values::name(Namespace::new)).unwrap_or(own);
    let name = fields.required("service", values::name(ServiceName::new));
    Some(ServiceKey::new(namespace, name?))
}

fn node_pattern(node: &Node) -> Result<NodePattern, Bad> {
    let text = values::text(node)?;
    let Some(beginning) = text.strip_suffix('*') else {
        if text.contains('*') {
            return Err(Bad::new("has a `*` elsewhere than last"));
        }
        return values::name(NodeName::new)(node).map(NodePattern::Exactly);
    };
    // Some name must begin so, else the entry means nobody.
    let fits =
        beginning.is_empty() || beginning.len() < NAME_BYTES_MAX && NodeName::new(&format!("{beginning}0")).is_ok();
    if fits {
        return Ok(NodePattern::Beginning(beginning.to_owned()));
    }
    Err(Bad::new("is not the beginning of a node's name: a-z, 0-9 and '-', then one `*`"))
}

/// What a grant names that cannot be read as a whole: it is denied as long as the grant stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// The services that could be made out.
    pub services: BTreeSet<ServiceKey>,
    /// False where there may be others: then nobody knows what else is meant.
    pub complete: bool,
}

/// Makes out the services of a ServiceGrant of `namespace` in a text that [`super::parse`] refuses.
#[must_use]
pub fn targets(text: &str, namespace: &Namespace) -> Targets {
    let source = Arc::new(Source::file("grant", text));
    let Ok(root) = yaml::parse(&source, text, &(0..text.len())) else { return Targets::default() };
    let table = |node: &Node, key: &str| match &node.value {
        Value::Table(table) => table.get(key).map(|entry| entry.node.clone()),
        Value::String(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(..) | Value::Array(_) => None,
    };
    let Some(list) = table(&root, "spec").and_then(|spec| table(&spec, "services")) else { return Targets::default() };
    let Value::Array(entries) = &list.value else { return Targets::default() };
    let read: Vec<Option<ServiceKey>> = entries.iter().map(|entry| target(entry, namespace)).collect();
    let complete = !read.is_empty() && read.iter().all(Option::is_some);
    Targets { services: read.into_iter().flatten().collect(), complete }
}

fn target(node: &Node, own: &Namespace) -> Option<ServiceKey> {
    let Value::Table(fields) = &node.value else { return None };
    // A key without a value counts as absent, as everywhere.
    let given = |key: &str| fields.get(key).map(|entry| &entry.node).filter(|node| !node.value.is_nothing());
    let name = ServiceName::new(values::text(given("service")?).ok()?).ok()?;
    let namespace = match given("namespace") {
        None => own.clone(),
        Some(node) => Namespace::new(values::text(node).ok()?).ok()?,
    };
    Some(ServiceKey::new(namespace, name))
}
