//! The half of a table that documents make: which rule takes a request that is sent to a service's port.
//!
//! Nothing here knows endpoints, so a flapping instance changes none of it. What a rule leads to is named, and looked up
//! in the other half at the moment of the decision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use starling_config::documents::starling_service::LoadBalancing;
use starling_model::{DocumentKey, DocumentVersion, Labels, Namespace, PortName, Protocol, ServiceKey};

use crate::filters::FilterChain;
use crate::gateways::Gateways;
use crate::grants::Grants;
use crate::group::RouteGroup;
use crate::policy::{Policy, ServicePolicy};
use crate::problem::{Finding, Reason};
use crate::session::Session;
use crate::split::Split;
use crate::table::Endpoint;

/// Each instance has its announced service as a label, too; what it says itself under this key does not count.
pub(crate) const SERVICE_LABEL: &str = "service";

/// Names a rule for people and breaks ties.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId {
    /// The route as `namespace/name`.
    pub route: Arc<str>,
    /// The rule's place in it.
    pub rule: u16,
}

/// One rule of a route, ready to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its route and place.
    pub id: RuleId,
    /// Its name in the route.
    pub name: Option<String>,
    /// The route.
    pub route: DocumentKey,
    /// Which version of the route.
    pub version: DocumentVersion,
    /// Name of the operator who signed it.
    pub signer: Arc<str>,
    /// What is done to requests and responses.
    pub filters: FilterChain,
    /// Where requests go.
    pub split: Split,
    /// Effective deadlines and tries.
    pub policy: Policy,
    /// Whether clients are kept at one endpoint.
    pub sessions: Sessions,
}

/// Who keeps a client at one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sessions {
    /// Nobody.
    #[default]
    None,
    /// The rule, whatever services it leads to.
    OfRule(Box<Session>),
    /// The policies of some of the services that it leads to.
    OfServices,
}

impl Sessions {
    /// Those of the rule itself.
    #[must_use]
    pub fn of_rule(&self) -> Option<&Session> {
        match self {
            Self::OfRule(session) => Some(session),
            Self::None | Self::OfServices => None,
        }
    }
}

impl fmt::Display for Rule {
    /// `HTTPRoute default/orders rule 2`, or its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule ", self.route)?;
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.id.rule),
        }
    }
}

#[cfg(test)]
impl Rule {
    /// One that does nothing, under a name.
    pub(crate) fn bare(id: RuleId) -> Self {
        use starling_config::documents::filter::Filters;
        use starling_model::{Digest, Generation, KeyId};
        Self {
            id,
            name: None,
            route: DocumentKey::parse("HTTPRoute", "default", "a").unwrap(),
            version: DocumentVersion { generation: Generation::FIRST, signer: KeyId(1), hash: Digest::default() },
            signer: Arc::from("ada"),
            filters: FilterChain::new(&Filters::default(), crate::matching::PathPrefix::new("/"), []),
            split: Split::default(),
            policy: Policy::BUILT_IN,
            sessions: Sessions::None,
        }
    }
}

/// Kinds of routes; the earlier one has a port when several are attached to it (GEP-1294).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// gRPC calls.
    Grpc,
    /// HTTP requests.
    Http,
    /// TLS connections, passed on as they are.
    Tls,
    /// TCP connections.
    Tcp,
}

impl RouteKind {
    /// True where its rules look at requests, which a port of bytes does not carry.
    #[must_use]
    pub fn reads_requests(self) -> bool {
        match self {
            Self::Grpc | Self::Http => true,
            Self::Tls | Self::Tcp => false,
        }
    }

    /// The kind as documents write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }
}

/// Routes of one kind that answer together.
#[derive(Clone, Debug)]
pub(crate) enum Attached {
    /// Of HTTPRoutes or GRPCRoutes: the best match wins.
    Matches(RouteKind, Arc<RouteGroup>),
    /// The one rule of a TLSRoute or TCPRoute.
    Only(RouteKind, Arc<Rule>),
}

impl Attached {
    /// The kind of its routes.
    pub(crate) fn kind(&self) -> RouteKind {
        match self {
            Self::Matches(kind, _) | Self::Only(kind, _) => *kind,
        }
    }
}

/// What is attached to one port of a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortRules {
    /// Routes of the Service's own namespace: for all callers...
    pub(crate) producer: Option<Attached>,
    /// ...but those of namespaces that have routes of their own for it.
    pub(crate) consumers: BTreeMap<Namespace, Attached>,
}

/// Whose routes took a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those of the Service's namespace.
    Producer,
    /// Those of the caller's namespace.
    Consumer(Namespace),
    /// Those at a Gateway.
    Gateway(DocumentKey),
}

impl PortRules {
    /// The routes for all callers, then those of namespaces for their own.
    pub(crate) fn every(&self) -> impl Iterator<Item = &Attached> {
        self.producer.iter().chain(self.consumers.values())
    }

    /// The routes for a caller of this namespace; `None` where none is attached.
    pub(crate) fn for_caller(&self, caller: Option<&Namespace>) -> Option<(Side, &Attached)> {
        let own = caller.filter(|_| !self.consumers.is_empty()).and_then(|caller| self.consumers.get_key_value(caller));
        match own {
            Some((namespace, attached)) => Some((Side::Consumer(namespace.clone()), attached)),
            None => self.producer.as_ref().map(|attached| (Side::Producer, attached)),
        }
    }
}

/// Rules by the name of a port.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByPort {
    pub(crate) named: Vec<(PortName, PortRules)>,
    /// For every other port, and for requests that name none of several.
    pub(crate) other: PortRules,
}

impl ByPort {
    fn get(&self, port: Option<&PortName>) -> &PortRules {
        let named = port.and_then(|port| self.named.iter().find(|(name, _)| name == port));
        named.map_or(&self.other, |(_, rules)| rules)
    }
}

/// All that is attached to one service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Front {
    pub(crate) ports: ByPort,
    /// Where the service has one port and no document gives it a number: it then takes any number.
    pub(crate) alone: Option<ByPort>,
}

impl Front {
    /// What is attached to the port, of a service that has `ports` of them.
    pub(crate) fn rules(&self, port: Option<&PortName>, ports: usize) -> &PortRules {
        self.alone.as_ref().filter(|_| ports == 1).unwrap_or(&self.ports).get(port)
    }

    /// All that is attached anywhere, whatever ports the service has; what is attached to several ports comes several times.
    pub(crate) fn every(&self) -> impl Iterator<Item = &Attached> {
        let lists = std::iter::once(&self.ports).chain(&self.alone);
        let rules =
            lists.flat_map(|list| list.named.iter().map(|(_, rules)| rules).chain(std::iter::once(&list.other)));
        rules.flat_map(PortRules::every)
    }
}

/// A Service as its document has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// The document.
    pub document: DocumentKey,
    /// Which version of it.
    pub version: DocumentVersion,
    /// All of these labels must be an instance's; `None`: the instances that announce the Service's name.
    pub selector: Option<Labels>,
    /// Empty: the ports that instances announce.
    pub ports: Vec<PortSpec>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// For how long a new endpoint's share rises; `None`: as built in.
    pub slow_start: Option<Duration>,
}

/// One port of a Service document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name; where it has none, its number.
    pub name: PortName,
    /// What applications connect to.
    pub number: NonZeroU16,
    /// What is spoken there; `None`: as instances announce it.
    pub protocol: Option<Protocol>,
    /// Names under which instances announce it.
    pub(crate) announced: Vec<PortName>,
}

/// A part of a service's instances that documents speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetSpec {
    /// Its name, or `k=v`.
    pub name: Arc<str>,
    /// All of these labels must be an instance's.
    pub labels: Labels,
}

impl SubsetSpec {
    /// Does an endpoint belong to it?
    #[must_use]
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        self.labels.iter().all(|(key, value)| match key {
            SERVICE_LABEL => endpoint.service.name.as_str() == value,
            _ => endpoint.labels.get(key) == Some(value),
        })
    }
}

/// A service that a document names, so that one that nobody knows is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) document: DocumentKey,
    pub(crate) service: ServiceKey,
    pub(crate) reason: Reason,
    pub(crate) pointer: String,
}

/// All that documents say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) fronts: BTreeMap<ServiceKey, Arc<Front>>,
    pub(crate) specs: BTreeMap<ServiceKey, Arc<ServiceSpec>>,
    pub(crate) subsets: BTreeMap<ServiceKey, Arc<[SubsetSpec]>>,
    pub(crate) policies: BTreeMap<ServiceKey, Arc<ServicePolicy>>,
    /// Services whose endpoints sessions may be kept with.
    pub(crate) sessions: BTreeSet<ServiceKey>,
    /// Services that ask for affinity by the client's address, beside which no session is kept.
    pub(crate) affine: BTreeSet<ServiceKey>,
    /// Services with a selector, by namespace and by one label that they ask for.
    pub(crate) selectors: BTreeMap<Namespace, BTreeMap<(String, String), Vec<ServiceKey>>>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) gateways: Gateways,
    pub(crate) references: Vec<Reference>,
    pub(crate) findings: Vec<Finding>,
}

/// A number as the name of a port.
pub(crate) fn port_text(number: NonZeroU16) -> Option<PortName> {
    PortName::new(&number.to_string()).ok()
}
