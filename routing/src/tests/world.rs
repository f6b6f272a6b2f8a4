//! A mesh with documents in a few lines of text, and what it answers.

use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use starling_model::{
    Announcement, Digest, DocumentVersion, Generation, HealthEntry, HealthRecord, InstanceName, KeyId, Labels,
    MemberState, Namespace, NodeName, PortName, Protocol, Readiness, ServiceKey, ServicesRecord, Weight,
};

use super::{base, settings};

/// The wall time of every request.
pub(super) const NOW: u64 = 1_700_000_000;
use crate::documents::{Documents, InUse};
use crate::*;

/// Everything is alive and ready unless said otherwise.
#[derive(Default)]
pub(super) struct World {
    pub(super) registry: Registry,
    pub(super) documents: Vec<InUse>,
}

pub(super) fn key(text: &str) -> ServiceKey {
    ServiceKey::parse(text, &Namespace::default()).unwrap()
}

pub(super) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// `orders-1 orders:http version=v1,zone=a`, the port and labels as wanted; `tcp` and `grpc` are the ports that speak so.
fn announcement(text: &str) -> Announcement {
    let mut words = text.split(' ');
    let instance = InstanceName::new(words.next().unwrap()).unwrap();
    let service = words.next().unwrap();
    let (service, port) = service.split_once(':').unwrap_or((service, "http"));
    let pairs = words.next().into_iter().flat_map(|labels| labels.split(','));
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap());
    let labels = Labels::new(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()).unwrap();
    let protocol = port.parse().unwrap_or(Protocol::Http);
    let port = PortName::new(port).unwrap();
    Announcement { instance, service: key(service), port, protocol, labels, weight: Weight::default() }
}

pub(super) fn in_use(yaml: &str) -> Vec<InUse> {
    let parsed = starling_config::documents::parse("a.yaml", yaml);
    let parsed = parsed.unwrap_or_else(|told| panic!("{yaml}\n{}", starling_config::render(&told)));
    let version = |text: &str| DocumentVersion {
        generation: Generation::FIRST,
        signer: KeyId(1),
        hash: Digest(Sha256::digest(text.as_bytes()).into()),
    };
    let one = |document: starling_config::documents::Document| InUse {
        version: version(&document.text),
        document: Arc::new(document),
        signer: Arc::from("ada"),
    };
    parsed.into_iter().map(one).collect()
}

impl World {
    pub(super) fn new(yaml: &str) -> Self {
        Self { documents: in_use(yaml), ..Self::default() }
    }

    /// Says all that a node runs.
    pub(super) fn node(mut self, name: &str, instances: &[&str]) -> Self {
        let member = MemberFact { node: node(name), state: MemberState::Alive, address: "127.0.0.1:7740".parse().ok() };
        self.registry.member(&member);
        let instances: Vec<Announcement> = instances.iter().map(|text| announcement(text)).collect();
        let ready = |a: &Announcement| HealthEntry { instance: a.instance.clone(), readiness: Readiness::Ready };
        let entries = instances.iter().map(ready).collect();
        self.registry.services(&node(name), &ServicesRecord { instances });
        self.registry.health(&node(name), &HealthRecord { entries });
        self
    }

    /// Nothing on the node is ready any more.
    pub(super) fn unready(&mut self, name: &str) {
        self.registry.health(&node(name), &HealthRecord::default());
    }

    pub(super) fn set(&self) -> Documents {
        Documents::new(self.documents.iter().cloned())
    }

    pub(super) fn table(&self) -> RouteTable {
        compile(&self.set(), &self.registry, &settings(), None)
    }

    pub(super) fn table_after(&self, previous: &RouteTable) -> RouteTable {
        compile(&self.set(), &self.registry, &settings(), Some(previous))
    }
}

/// A request in a few words.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    service: ServiceKey,
    port: Option<PortName>,
    source: Option<ServiceKey>,
    method: Method,
    target: String,
    headers: HeaderMap,
    bytes: bool,
}

impl Ask {
    /// `GET /cart?page=2` of `shop/orders`.
    pub(super) fn new(service: &str, words: &str) -> Self {
        let (method, target) = words.split_once(' ').unwrap();
        Self {
            service: key(service),
            port: None,
            source: None,
            method: method.parse().unwrap(),
            target: target.to_owned(),
            headers: HeaderMap::new(),
            bytes: false,
        }
    }

    /// A connection that nobody reads.
    pub(super) fn bytes(service: &str) -> Self {
        Self { bytes: true, ..Self::new(service, "GET /") }
    }

    pub(super) fn from(self, source: &str) -> Self {
        Self { source: Some(key(source)), ..self }
    }

    pub(super) fn port(self, port: &str) -> Self {
        Self { port: Some(PortName::new(port).unwrap()), ..self }
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }

    pub(super) fn with<R>(&self, run: impl FnOnce(&RequestFacts<'_>) -> R) -> R {
        let (path, query) =
            self.target.split_once('?').map_or((&*self.target, None), |(path, query)| (path, Some(query)));
        let (method, headers) = (&self.method, &self.headers);
        let facts = HttpFacts { method, scheme: "http", authority: "orders.mesh.internal", path, query, headers };
        run(&RequestFacts {
            destination: Destination::Service(&self.service),
            port: self.port.as_ref(),
            source: self.source.as_ref(),
            http: Some(&facts).filter(|_| !self.bytes),
            avoid: &[],
            node: None,
            wall: UnixSeconds(NOW),
        })
    }

    pub(super) fn decide(&self, table: &RouteTable, seed: u64) -> Decision {
        self.with(|request| table.decide(request, base(), Draws::from_seed(seed), &|_| Load::default()))
    }

    pub(super) fn explain(&self, table: &RouteTable, seed: u64) -> (Decision, Explanation) {
        self.with(|request| table.explain(request, base(), Draws::from_seed(seed), &|_| Load::default()))
    }

    /// The decision of seed 1 in words.
    pub(super) fn told(&self, table: &RouteTable) -> String {
        told(&self.decide(table, 1))
    }
}

/// `default/orders #1 -> vm-1/default/orders-1`: rule and endpoint, or what is answered instead.
pub(super) fn told(decision: &Decision) -> String {
    let by = |rule: Option<&Arc<Rule>>| match rule {
        Some(rule) => format!("{} #{} ", rule.id.route, rule.id.rule),
        None => String::new(),
    };
    match decision {
        Decision::Forward(choice) => format!("{}-> {}", by(choice.rule.as_ref()), choice.endpoint().id),
        Decision::Answer(answer) => {
            let headers: Vec<String> =
                answer.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            format!("{}{} {}", by(Some(&answer.rule)), answer.status.as_u16(), headers.join(", "))
        }
        Decision::Refuse { why, rule } => format!("{}{why:?} {}", by(rule.as_ref()), why.status()),
    }
}

/// Reasons and sentences of all findings.
pub(super) fn findings(table: &RouteTable) -> Vec<String> {
    let one = |one: &Finding| {
        let pointer = one.problem.pointer.as_deref().unwrap_or_default();
        format!("{} {pointer}: {} {}: {}", one.document, one.problem.code, one.reason, one.problem.message)
    };
    table.findings().iter().map(one).collect()
}

/// An HTTPRoute of one namespace, with this `spec` below `parentRefs` of the Service.
pub(super) fn http_route(name: &str, service: &str, rules: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let service = key(service);
    format!(
        "---\napiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  parentRefs: [{{kind: Service, name: {}, namespace: {}}}]\n  rules: {rules}\n",
        service.name, service.namespace
    )
}
