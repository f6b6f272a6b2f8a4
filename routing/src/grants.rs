//! Who may serve a service, and call as it: what operators granted to nodes.
//!
//! A name is a promise that somebody else relies on, so a service that any ServiceGrant names belongs to the granted nodes
//! alone. What no grant names is anybody's (`Open`) or nobody's (`Strict`), by the MeshConfig. A document that cannot be
//! read here denies: what was meant by it is not known, and might have been to take something away.
//!
//! Compiled once from the documents; asked when a pool is made, and by the receiver of each stream. Nothing here allocates
//! when it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use starling_config::documents::grant::NodePattern;
use starling_config::documents::{GrantMode, Spec};
use starling_model::{DocumentKey, DocumentVersion, EndpointId, Namespace, NodeName, ServiceKey};

use crate::documents::{Denied, Documents};
use crate::table::RouteTable;

/// How a node stands to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// A grant names both.
    Granted,
    /// No grant names the service, and the mesh is open to such.
    Unnamed,
    /// Grants name the service, and other nodes.
    NotGranted,
    /// No grant names the service, and the mesh is strict.
    NoGrant,
    /// A document that would say it cannot be read here.
    HeldBack,
    /// This node has just started, and does not know all documents yet.
    NotKnown,
}

impl Standing {
    /// May it serve the service, and call as it?
    #[must_use]
    pub fn is_accepted(self) -> bool {
        match self {
            Self::Granted | Self::Unnamed => true,
            Self::NotGranted | Self::NoGrant | Self::HeldBack | Self::NotKnown => false,
        }
    }

    /// A word of a closed set.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Unnamed => "unnamed",
            Self::NotGranted => "not_granted",
            Self::NoGrant => "no_grant",
            Self::HeldBack => "held_back",
            Self::NotKnown => "not_known",
        }
    }

    /// That of an endpoint which has two names: both count.
    #[must_use]
    fn and(self, other: Self) -> Self {
        // The variants stand in the order of what outweighs what.
        self.max(other)
    }
}

/// A document that grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedBy {
    /// Which.
    pub document: DocumentKey,
    /// Which version of it.
    pub version: DocumentVersion,
}

/// The nodes that may serve one service, by all grants that name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    exactly: BTreeMap<NodeName, Arc<GrantedBy>>,
    beginnings: Vec<(String, Arc<GrantedBy>)>,
}

impl Nodes {
    fn add(&mut self, pattern: &NodePattern, by: &Arc<GrantedBy>) {
        match pattern {
            NodePattern::Exactly(node) => {
                self.exactly.entry(node.clone()).or_insert_with(|| Arc::clone(by));
            }
            NodePattern::Beginning(beginning) => self.beginnings.push((beginning.clone(), Arc::clone(by))),
        }
    }

    fn grant(&self, node: &NodeName) -> Option<&Arc<GrantedBy>> {
        let begins = |(beginning, _): &&(String, Arc<GrantedBy>)| node.as_str().starts_with(beginning.as_str());
        self.exactly.get(node).or_else(|| self.beginnings.iter().find(begins).map(|(_, by)| by))
    }
}

/// What holds for one service, whatever the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// All nodes stand alike.
    All(Standing),
    /// The granted ones are accepted.
    Granted(Arc<Nodes>),
}

impl Ruling {
    pub(crate) fn standing(&self, node: &NodeName) -> Standing {
        match self {
            Self::All(standing) => *standing,
            Self::Granted(nodes) if nodes.grant(node).is_some() => Standing::Granted,
            Self::Granted(_) => Standing::NotGranted,
        }
    }
}

/// An instance under the name by which it is found, and under the one by which it was announced: both must be its node's.
/// A label is self-announced, so being selected by it grants nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) found: &'a Ruling,
    pub(crate) announced: &'a Ruling,
}

impl Names<'_> {
    pub(crate) fn standing(self, node: &NodeName) -> Standing {
        self.found.standing(node).and(self.announced.standing(node))
    }
}

/// All grants of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    mode: GrantMode,
    named: BTreeMap<ServiceKey, Arc<Nodes>>,
    /// By documents that cannot be read here.
    denied: BTreeMap<ServiceKey, DocumentKey>,
    /// Whole namespaces, where not even the services can be made out.
    denied_namespaces: BTreeMap<Namespace, DocumentKey>,
    /// The MeshConfig, if it is the one that cannot be read.
    denied_unnamed: Option<DocumentKey>,
    /// Documents may be missing.
    is_partial: bool,
}

impl Grants {
    pub(crate) fn compile(documents: &Documents) -> Self {
        let mut all = Self { is_partial: documents.is_partial(), ..Self::default() };
        let mut named: BTreeMap<&ServiceKey, Nodes> = BTreeMap::new();
        for one in documents.iter() {
            match &one.document.spec {
                Spec::ServiceGrant(grant) => {
                    let by = Arc::new(GrantedBy { document: one.document.key.clone(), version: one.version });
                    for service in &grant.services {
                        let nodes = named.entry(service).or_default();
                        grant.nodes.iter().for_each(|pattern| nodes.add(pattern, &by));
                    }
                }
                Spec::MeshConfig(config) => all.mode = config.service_grants,
                Spec::HttpRoute(_)
                | Spec::GrpcRoute(_)
                | Spec::TcpRoute(_)
                | Spec::TlsRoute(_)
                | Spec::CoreService(_)
                | Spec::StarlingService(_)
                | Spec::BackendTrafficPolicy(_)
                | Spec::Gateway(_)
                | Spec::Unread => {}
            }
        }
        all.named = named.into_iter().map(|(service, nodes)| (service.clone(), Arc::new(nodes))).collect();
        for denial in documents.denials() {
            match &denial.what {
                Denied::Services { services, all_of } => {
                    let document = || denial.document.clone();
                    all.denied.extend(services.iter().map(|service| (service.clone(), document())));
                    all.denied_namespaces.extend(all_of.iter().map(|namespace| (namespace.clone(), document())));
                }
                Denied::Unnamed => all.denied_unnamed = Some(denial.document.clone()),
            }
        }
        all
    }

    /// What becomes of services that no grant names.
    #[must_use]
    pub fn mode(&self) -> GrantMode {
        self.mode
    }

    /// How a node stands to a service.
    #[must_use]
    pub fn standing(&self, service: &ServiceKey, node: &NodeName) -> Standing {
        if self.is_partial {
            return Standing::NotKnown;
        }
        if self.held_back(service).is_some() {
            return Standing::HeldBack;
        }
        match self.named.get(service) {
            Some(nodes) if nodes.grant(node).is_some() => Standing::Granted,
            Some(_) => Standing::NotGranted,
            None => self.unnamed(),
        }
    }

    /// The grant by which a node is accepted.
    #[must_use]
    pub fn by(&self, service: &ServiceKey, node: &NodeName) -> Option<&GrantedBy> {
        if self.is_partial || self.held_back(service).is_some() {
            return None;
        }
        self.named.get(service)?.grant(node).map(Arc::as_ref)
    }

    /// The document that cannot be read here and therefore denies a service.
    #[must_use]
    pub fn held_back(&self, service: &ServiceKey) -> Option<&DocumentKey> {
        let whole = || self.denied_namespaces.get(&service.namespace);
        self.denied.get(service).or_else(whole)
    }

    pub(crate) fn ruling(&self, service: &ServiceKey) -> Ruling {
        if self.is_partial {
            return Ruling::All(Standing::NotKnown);
        }
        if self.held_back(service).is_some() {
            return Ruling::All(Standing::HeldBack);
        }
        match self.named.get(service) {
            Some(nodes) => Ruling::Granted(Arc::clone(nodes)),
            None => Ruling::All(self.unnamed()),
        }
    }

    fn unnamed(&self) -> Standing {
        match self.mode {
            GrantMode::Open if self.denied_unnamed.is_some() => Standing::HeldBack,
            GrantMode::Open => Standing::Unnamed,
            GrantMode::Strict => Standing::NoGrant,
        }
    }
}

/// An endpoint that other documents take out of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Of which service.
    pub service: ServiceKey,
    /// Which.
    pub endpoint: EndpointId,
    /// Why.
    pub standing: Standing,
}

impl RouteTable {
    /// Who may serve what, and call as it.
    #[must_use]
    pub fn grants(&self) -> &Arc<Grants> {
        &self.rules.grants
    }

    /// The endpoints that are accepted here and would not be in `after`, by service and id.
    #[must_use]
    pub fn removed_in(&self, after: &Self) -> Vec<Removed> {
        let mut removed = Vec::new();
        for service in self.services() {
            let Some(then) = after.service(&service.key) else { continue };
            let out = |endpoint: &&crate::table::Endpoint| !endpoint.standing.is_accepted();
            let gone: BTreeMap<_, _> = then.endpoints.iter().filter(out).map(|one| (&one.id, one.standing)).collect();
            let accepted = service.endpoints.iter().filter(|one| one.standing.is_accepted());
            removed.extend(accepted.filter_map(|one| {
                let standing = *gone.get(&one.id)?;
                Some(Removed { service: service.key.clone(), endpoint: one.id.clone(), standing })
            }));
        }
        removed
    }

    /// Services that grants name here and none would name in `after`, which is open to such, with the nodes that announce
    /// them and are accepted only there.
    #[must_use]
    pub fn opened_in(&self, after: &Self) -> Vec<(ServiceKey, Vec<NodeName>)> {
        let before = &self.rules.grants.named;
        let opened = before.keys().filter(|key| after.rules.grants.ruling(key) == Ruling::All(Standing::Unnamed));
        let nodes = |key: &ServiceKey| -> BTreeSet<NodeName> {
            let then = after.service(key).into_iter().flat_map(|service| &service.endpoints);
            let ruling = self.rules.grants.ruling(key);
            then.map(|one| &one.id.node).filter(|node| !ruling.standing(node).is_accepted()).cloned().collect()
        };
        opened.map(|key| (key.clone(), nodes(key).into_iter().collect())).collect()
    }

    /// Services that some node serves though no grant names them, in order.
    #[must_use]
    pub fn unnamed(&self) -> BTreeSet<&ServiceKey> {
        let unnamed = |service: &&Arc<crate::table::Service>| {
            service.endpoints.iter().any(|endpoint| endpoint.standing == Standing::Unnamed)
        };
        self.services().filter(unnamed).map(|service| &service.key).collect()
    }
}
