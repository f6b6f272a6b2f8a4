//! The immutable table that every request reads once: services, their ports and endpoint pools, and host names.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use starling_model::{
    Digest, EndpointId, InstanceName, Labels, MemberState, NodeName, PortName, Protocol, Readiness, ServiceKey, Weight,
};

use crate::authz::Caller;
use crate::decision::{Choice, Decision, Draws, Policy, Refusal, RequestFacts};
use crate::pick::{self, Load};

/// Number of an endpoint, stable as long as the endpoint exists; loads are kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointIndex(pub u32);

/// One instance on one node, with all that a pick needs. Peers reach it through its node's agent, never directly.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `node/namespace/instance`.
    pub id: EndpointId,
    /// Where its loads are kept.
    pub index: EndpointIndex,
    /// Tells two endpoints that were given the same index one after the other apart.
    pub birth: u64,
    /// Its node's traffic address (7740/tcp); `None` until known.
    pub address: Option<SocketAddr>,
    /// Which port of the service it serves.
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

    /// False when nothing may ever be sent to it now: its owner or its own leave says so, or nobody knows where it is.
    #[must_use]
    pub fn admissible(&self) -> bool {
        self.readiness == Readiness::Ready
            && self.member != MemberState::Left
            && self.address.is_some()
            && self.weight.get() > 0
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, `http` say.
    pub name: PortName,
    /// What it speaks; where instances disagree, plain bytes.
    pub protocol: Protocol,
}

/// A service with its pool of endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// In order of their names.
    pub ports: Vec<ServicePort>,
    /// In order of their ids.
    pub endpoints: Vec<Endpoint>,
    /// Positions in `endpoints` that are admissible, and the running sum of their weights.
    pub(crate) admissible: Vec<(u32, u64)>,
    pub(crate) revision: u64,
}

impl Service {
    /// What the service speaks: the named port's protocol, or its only or first port's.
    #[must_use]
    pub fn protocol(&self, port: Option<&PortName>) -> Protocol {
        let found = match port {
            Some(name) => self.ports.iter().find(|p| p.name == *name),
            None => self.ports.first(),
        };
        found.map_or(Protocol::Tcp, |p| p.protocol)
    }

    /// Endpoints that may be used at all, before loads and membership are weighed.
    #[must_use]
    pub fn admissible_len(&self) -> usize {
        self.admissible.len()
    }

    /// Share of new requests that each endpoint gets now, in the order of `endpoints`; sums to 1, or all are 0.
    pub fn shares(&self, now: Instant, loads: &dyn Fn(EndpointIndex) -> Load) -> Vec<f64> {
        pick::shares(self, now, loads)
    }
}

/// Everything a request needs to be decided. Immutable; published whole.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) by_key: HashMap<ServiceKey, u32>,
    pub(crate) by_host: HashMap<String, u32>,
    pub(crate) digest: Digest,
    pub(crate) revision: u64,
    pub(crate) domain: String,
}

impl RouteTable {
    /// Digest of the documents in use; endpoints are not in it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
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

    /// All services in order of their keys.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key).and_then(|at| self.services.get(*at as usize))
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
        self.by_host.get(&*name).and_then(|at| self.services.get(*at as usize))
    }

    /// Decides one request or connection: which endpoint, under which policy, or why none.
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
        let Some(service) = self.service(request.destination) else {
            return Decision::Refuse(Refusal::NoService);
        };
        if request.port.is_some_and(|port| !service.ports.iter().any(|p| p.name == *port)) {
            return Decision::Refuse(Refusal::NoPort);
        }
        match pick::pick(service, request, now, draws, loads) {
            Some(endpoint) => {
                Decision::Forward(Choice { service: service.clone(), endpoint, policy: Policy::BUILT_IN })
            }
            None => Decision::Refuse(Refusal::NoEndpoint),
        }
    }

    /// Whom a stream's claim of a source service makes the caller: the workload where the claim is accepted, else the
    /// bare node. No grant document exists yet, so every claim is accepted and shown as ungranted.
    #[must_use]
    pub fn accept_source(&self, node: &NodeName, source: Option<&ServiceKey>) -> Caller {
        Caller { node: node.clone(), service: source.cloned() }
    }
}
