//! The immutable table that every request reads once: services, their ports and endpoint pools, and host names.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use starling_model::{
    Digest, EndpointId, InstanceName, Labels, MemberState, NodeName, PortName, Protocol, Readiness, ServiceKey, Weight,
};

use crate::authz::Caller;
use crate::balance::{Balancing, ChosenBy, gcd, point_of_turn};
use crate::compile::{Selected, Source};
use crate::decide::{self, View};
use crate::decision::{Decision, Draws, RequestFacts};
use crate::documents::Documents;
use crate::explain::Explanation;
use crate::gateways::Gateways;
use crate::grants::{Ruling, Standing};
use crate::pick::{self, Load};
use crate::policy::ServicePolicy;
use crate::problem::Finding;
use crate::rules::{Front, Rules, ServiceSpec, SubsetSpec};
use crate::session::{Mark, SessionKey};

/// Places of services by a name of theirs. Its hash is seeded anew in each process, so that no member finds names that
/// collide, and faster than the standard library's: each request looks here.
pub(crate) type Map<K> = std::collections::HashMap<K, u32, foldhash::quality::RandomState>;

/// Number of an endpoint, stable as long as the endpoint exists; loads are kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointIndex(pub u32);

/// One instance on one node, with all that a pick needs. Peers reach it through its node's agent, never directly.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `node/namespace/instance`.
    pub id: EndpointId,
    /// What it announced itself as: streams to it name this, by whatever Service it was found.
    pub service: ServiceKey,
    /// Where its loads are kept.
    pub index: EndpointIndex,
    /// Tells two endpoints that were given the same index one after the other apart.
    pub birth: u64,
    /// Its node's traffic address (7740/tcp); `None` until known.
    pub address: Option<SocketAddr>,
    /// The port that it announced.
    pub port: PortName,
    /// What it speaks.
    pub protocol: Protocol,
    /// Choose subsets and localities.
    pub labels: Labels,
    /// As announced.
    pub weight: Weight,
    /// What its owner says.
    pub readiness: Readiness,
    /// What membership says of its node.
    pub member: MemberState,
    /// Whether its node may serve the service.
    pub standing: Standing,
}

impl Endpoint {
    /// The node that runs it, and that its certificate must name.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.id.node
    }

    /// Its name on that node.
    #[must_use]
    pub fn instance(&self) -> &InstanceName {
        &self.id.instance
    }

    /// False when nothing may ever be sent to it now: its owner or its own leave says so, nobody knows where it is, or its
    /// node is not granted the service.
    #[must_use]
    pub fn admissible(&self) -> bool {
        self.readiness == Readiness::Ready
            && self.member != MemberState::Left
            && self.address.is_some()
            && self.weight.get() > 0
            && self.standing.is_accepted()
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, `http` say; where its document has none, its number.
    pub name: PortName,
    /// What applications connect to; only documents say it.
    pub number: Option<NonZeroU16>,
    /// What it speaks; where no document says it and instances disagree, plain bytes.
    pub protocol: Protocol,
}

impl ServicePort {
    /// Whether a configuration that names a port means this one.
    fn is(&self, name: &PortName) -> bool {
        self.name == *name || self.number.is_some_and(|number| name.as_str().parse() == Ok(number.get()))
    }
}

/// Positions of endpoints that are admissible, in order, and the running sum of their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pool {
    entries: Vec<(u32, u64)>,
    /// The greatest number that all weights are multiples of.
    unit: u64,
    /// Some weights differ.
    unequal: bool,
}

impl Pool {
    pub(crate) fn push(&mut self, position: u32, weight: u64) {
        let sum = self.total() + weight;
        self.unequal |= self.unit != 0 && self.unit != weight;
        self.unit = gcd(self.unit, weight);
        self.entries.push((position, sum));
    }

    /// The endpoint whose turn it is.
    pub(crate) fn in_turn(&self, turn: u32) -> Option<u32> {
        self.at(point_of_turn(turn, (self.total(), self.unit), !self.unequal))
    }

    pub(crate) fn first(&self) -> Option<u32> {
        self.entries.first().map(|(position, _)| *position)
    }

    pub(crate) fn holds(&self, position: u32) -> bool {
        self.entries.binary_search_by_key(&position, |(position, _)| *position).is_ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Sum of all weights.
    pub(crate) fn total(&self) -> u64 {
        self.entries.last().map_or(0, |(_, sum)| *sum)
    }

    /// The endpoint that stands at this point of the sum.
    pub(crate) fn at(&self, point: u64) -> Option<u32> {
        let at = self.entries.partition_point(|(_, sum)| *sum <= point);
        self.entries.get(at).map(|(position, _)| *position)
    }

    pub(crate) fn positions(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().map(|(position, _)| *position)
    }
}

/// What documents say of a service, as far as its pool depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) spec: Option<Arc<ServiceSpec>>,
    pub(crate) subsets: Arc<[SubsetSpec]>,
    /// Sessions may be kept with its endpoints.
    pub(crate) sessions: bool,
}

impl Shape {
    pub(crate) fn is(
        &self,
        spec: Option<&Arc<ServiceSpec>>,
        subsets: Option<&Arc<[SubsetSpec]>>,
        sessions: bool,
    ) -> bool {
        let same_spec = match (&self.spec, spec) {
            (Some(held), Some(spec)) => Arc::ptr_eq(held, spec) || held == spec,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_spec
            && self.sessions == sessions
            && subsets.map_or(self.subsets.is_empty(), |new| Arc::ptr_eq(&self.subsets, new) || self.subsets == *new)
    }
}

/// Which endpoints of a service are meant: of one port or any, of a subset or all. Names a pool of its service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// Place in the service's ports.
    pub(crate) port: Option<u16>,
    /// Place in the service's subsets.
    pub(crate) subset: Option<u16>,
}

/// A service with its endpoints and who of them may be picked.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// As its document has them; without one, what instances announce, in order of names.
    pub ports: Vec<ServicePort>,
    /// In order of their ids.
    pub endpoints: Vec<Endpoint>,
    /// Of each port, whether it carries nothing but bytes: a document says so, or all instances that announce it.
    pub(crate) bytes: Vec<bool>,
    /// For any port and each port, of all and of each subset.
    pub(crate) pools: Vec<Pool>,
    pub(crate) sources: Vec<Source>,
    /// Of the service, then of each source.
    pub(crate) rulings: Vec<Ruling>,
    pub(crate) shape: Shape,
    pub(crate) balancing: Balancing,
    /// By what cookies call its endpoints, in order; empty where no session is kept.
    pub(crate) marks: Vec<(Mark, u32)>,
    /// For how long a new endpoint's share rises; zero: it does not.
    pub(crate) slow_start: Duration,
}

impl Service {
    /// What the service speaks: the named port's protocol, or its only or first port's.
    #[must_use]
    pub fn protocol(&self, port: Option<&PortName>) -> Protocol {
        let at = match port {
            Some(name) => self.port_named(name),
            None => Some(0),
        };
        at.and_then(|at| self.ports.get(usize::from(at))).map_or(Protocol::Tcp, |port| port.protocol)
    }

    /// What its document says; `None` for a service that exists by announcement alone.
    #[must_use]
    pub fn spec(&self) -> Option<&ServiceSpec> {
        self.shape.spec.as_deref()
    }

    /// Parts of it that documents speak of.
    #[must_use]
    pub fn subsets(&self) -> &[SubsetSpec] {
        &self.shape.subsets
    }

    /// How an endpoint is chosen.
    #[must_use]
    pub fn chosen_by(&self) -> ChosenBy {
        self.balancing.way()
    }

    /// For how long the share of a new endpoint rises; zero: it does not.
    #[must_use]
    pub fn slow_start(&self) -> Duration {
        self.slow_start
    }

    /// Endpoints that may be used at all, before loads and membership are weighed.
    #[must_use]
    pub fn admissible_len(&self) -> usize {
        self.pool(Part::default()).map_or(0, Pool::len)
    }

    /// Share of new requests that each endpoint gets now, in the order of `endpoints`; sums to 1, or all are 0.
    pub fn shares(&self, now: Instant, loads: &dyn Fn(EndpointIndex) -> Load) -> Vec<f64> {
        pick::shares(self, now, loads)
    }

    /// Whether the port at this place is known to carry nothing but bytes.
    pub(crate) fn is_bytes(&self, port: u16) -> bool {
        self.bytes.get(usize::from(port)).copied().unwrap_or(false)
    }

    pub(crate) fn pool(&self, part: Part) -> Option<&Pool> {
        let place = |at: Option<u16>| at.map_or(0, |at| 1 + usize::from(at));
        let columns = 1 + self.shape.subsets.len();
        self.pools.get(place(part.port) * columns + place(part.subset))
    }

    /// The place of the port of this name or number, else of the one that instances announce by this name: a document
    /// that comes later must not take the port from whoever named it so.
    pub(crate) fn port_named(&self, name: &PortName) -> Option<u16> {
        let announced = || self.spec()?.ports.iter().position(|port| port.announced.contains(name));
        let found = self.ports.iter().position(|port| port.is(name)).or_else(announced)?;
        u16::try_from(found).ok()
    }
}

/// Where each service of a table stands, and what documents say of it. Shared while neither names nor rules change.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) by_key: Map<ServiceKey>,
    pub(crate) by_host: Map<String>,
    /// In the order of services, as are the policies.
    pub(crate) fronts: Vec<Option<Arc<Front>>>,
    pub(crate) policies: Vec<Option<Arc<ServicePolicy>>>,
}

/// Everything a request needs to be decided. Immutable; published whole.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) selected: Selected,
    pub(crate) findings: Arc<[Finding]>,
    pub(crate) documents: Documents,
    pub(crate) revision: u64,
    pub(crate) domain: String,
    pub(crate) session_key: Option<Arc<SessionKey>>,
}

impl RouteTable {
    /// Digest of the documents in use; endpoints are not in it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.documents.digest()
    }

    /// The documents that it was made of: those in use here.
    #[must_use]
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// The registry's revision that the table was built from.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The DNS domain of the mesh, `mesh.internal`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What of the documents does not come out as written, in order of documents.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The same table with sealed sessions: cookies are taken and given by this key. It is in no snapshot and no
    /// digest.
    #[must_use]
    pub fn sealed(self, key: Arc<SessionKey>) -> Self {
        Self { session_key: Some(key), ..self }
    }

    pub(crate) fn session_key(&self) -> Option<&SessionKey> {
        self.session_key.as_deref()
    }

    /// Where connections from outside the mesh come in.
    #[must_use]
    pub fn gateways(&self) -> &Gateways {
        &self.rules.gateways
    }

    /// All services in order of their keys.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.at(key).map(|(_, service)| service)
    }

    /// What a BackendTrafficPolicy says of a service.
    #[must_use]
    pub fn service_policy(&self, key: &ServiceKey) -> Option<&Arc<ServicePolicy>> {
        self.at(key).and_then(|(at, _)| self.policy_at(at))
    }

    /// The service that a Host header names: any case, port and final dot ignored.
    #[must_use]
    pub fn resolve_host(&self, host: &str) -> Option<&Arc<Service>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let name: Cow<'_, str> = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        self.directory.by_host.get(&*name).and_then(|at| self.services.get(*at as usize))
    }

    /// Decides one request or connection: which endpoint, under which policy, or what to answer instead.
    ///
    /// Pure: the same arguments give the same decision. `loads` is asked for the few candidates that are looked at.
    #[must_use]
    pub fn decide(
        &self,
        request: &RequestFacts<'_>,
        now: Instant,
        draws: Draws,
        loads: &dyn Fn(EndpointIndex) -> Load,
    ) -> Decision {
        decide::run(&View { table: self, now, draws, loads }, request, None)
    }

    /// Decides, and tells how: the same function with somebody listening.
    #[must_use]
    pub fn explain(
        &self,
        request: &RequestFacts<'_>,
        now: Instant,
        draws: Draws,
        loads: &dyn Fn(EndpointIndex) -> Load,
    ) -> (Decision, Explanation) {
        let mut explanation = Explanation::default();
        let decision = decide::run(&View { table: self, now, draws, loads }, request, Some(&mut explanation));
        (decision, explanation)
    }

    /// Whom a stream's claim of a source service makes the caller: the workload where the claim is granted to the proven
    /// node, or no grant is needed for it; else the bare node.
    #[must_use]
    pub fn accept_source(&self, node: &NodeName, source: Option<&ServiceKey>) -> Caller {
        let accepted = source.filter(|service| self.grants().standing(service, node).is_accepted());
        Caller { node: node.clone(), service: accepted.cloned() }
    }

    pub(crate) fn at(&self, key: &ServiceKey) -> Option<(u32, &Arc<Service>)> {
        let at = *self.directory.by_key.get(key)?;
        self.services.get(at as usize).map(|service| (at, service))
    }

    pub(crate) fn front_at(&self, at: u32) -> Option<&Front> {
        self.directory.fronts.get(at as usize)?.as_deref()
    }

    pub(crate) fn policy_at(&self, at: u32) -> Option<&Arc<ServicePolicy>> {
        self.directory.policies.get(at as usize)?.as_ref()
    }
}
