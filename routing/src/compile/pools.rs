//! The half that records make: each service with its ports, its endpoints and who of them may be picked.

use std::collections::BTreeMap;
use std::sync::Arc;

use starling_model::{Announcement, EndpointId, Labels, PortName, Protocol, ServiceKey};

use crate::balance::{Balancing, marks};
use crate::grants::{Grants, Names, Ruling, Standing};
use crate::limits::{ENDPOINTS_PER_SERVICE_MAX, SLOW_START};
use crate::registry::{EndpointFacts, Registry};
use crate::rules::{PortSpec, Rules, SERVICE_LABEL, ServiceSpec, SubsetSpec};
use crate::table::{Endpoint, Part, Pool, RouteTable, Service, ServicePort, Shape};

/// An announced service as a source of a pool: changes of its instances change the revision.
pub(crate) type Source = (ServiceKey, u64);

/// Which Services select instances of which announced service, whatever name these announce; in order of the latter.
pub(crate) type Selected = Arc<[Feed]>;

/// One announced service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Feed {
    announced: Source,
    /// The Services that select some of its instances.
    fed: Arc<[ServiceKey]>,
}

/// The sources of Services with a selector, where they may have changed.
#[derive(Debug, Default)]
pub(super) struct Sources {
    changed: BTreeMap<ServiceKey, Vec<Source>>,
}

/// Looks through what changed since `previous`, which is of the same rules; without it, through everything.
pub(super) fn select(registry: &Registry, rules: &Rules, previous: Option<&Selected>) -> (Selected, Sources) {
    let mut before = previous.map_or(&[][..], |held| held).iter().peekable();
    let mut feeds: Vec<Feed> = Vec::with_capacity(before.len());
    let mut changed: BTreeMap<ServiceKey, Vec<Source>> = BTreeMap::new();
    if previous.is_none() {
        let selecting = rules.selectors.values().flat_map(BTreeMap::values).flatten();
        changed.extend(selecting.map(|service| (service.clone(), Vec::new())));
    }
    let mut touch = |fed: &[ServiceKey]| {
        for service in fed {
            changed.entry(service.clone()).or_default();
        }
    };
    for (namespace, by_label) in &rules.selectors {
        for (announced, revision) in registry.services_of(namespace) {
            while let Some(gone) = before.next_if(|held| held.announced.0 < *announced) {
                touch(&gone.fed);
            }
            let held = before.next_if(|held| held.announced.0 == *announced);
            if let Some(held) = held.filter(|held| held.announced.1 == revision) {
                feeds.push(held.clone());
                continue;
            }
            let fed = fed(registry, rules, by_label, announced);
            held.iter().for_each(|held| touch(&held.fed));
            touch(&fed);
            feeds.push(Feed { announced: (announced.clone(), revision), fed });
        }
    }
    before.for_each(|gone| touch(&gone.fed));
    if !changed.is_empty() {
        for feed in &feeds {
            for service in feed.fed.iter() {
                if let Some(sources) = changed.get_mut(service) {
                    sources.push(feed.announced.clone());
                }
            }
        }
    }
    (Arc::from(feeds), Sources { changed })
}

/// The Services that select an instance of `announced`; found by one label that each of them asks for.
fn fed(
    registry: &Registry,
    rules: &Rules,
    by_label: &BTreeMap<(String, String), Vec<ServiceKey>>,
    announced: &ServiceKey,
) -> Arc<[ServiceKey]> {
    let mut found: Vec<&ServiceKey> = Vec::new();
    for facts in registry.endpoints(announced) {
        let own = facts.announcement.labels.iter().filter(|(key, _)| *key != SERVICE_LABEL);
        for (key, value) in own.chain([(SERVICE_LABEL, announced.name.as_str())]) {
            for service in by_label.get(&(key.to_owned(), value.to_owned())).into_iter().flatten() {
                let selector = rules.specs.get(service).and_then(|spec| spec.selector.as_ref());
                if selector.is_some_and(|selector| has_all(facts.announcement, selector)) {
                    found.push(service);
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().cloned().collect()
}

fn has_all(announced: &Announcement, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| match key {
        SERVICE_LABEL => announced.service.name.as_str() == value,
        _ => announced.labels.get(key) == Some(value),
    })
}

/// Every service that a document describes or an instance announces, in order of keys.
pub(super) fn services(
    registry: &Registry,
    rules: &Rules,
    selected: &Sources,
    previous: Option<&RouteTable>,
) -> Vec<Arc<Service>> {
    let mut before = previous.map_or(&[][..], |table| &table.services).iter().peekable();
    let mut all = Vec::with_capacity(before.len());
    let mut announced = registry.revisions().peekable();
    let mut described = rules.specs.iter().peekable();
    loop {
        // Both lists rise; a key that stands in both is one service.
        let (key, own, spec) = match (announced.peek().copied(), described.peek().copied()) {
            (None, None) => return all,
            (Some((key, revision)), None) => (key, Some(revision), None),
            (None, Some((key, spec))) => (key, None, Some(spec)),
            (Some((key, revision)), Some((named, spec))) => match key.cmp(named) {
                std::cmp::Ordering::Less => (key, Some(revision), None),
                std::cmp::Ordering::Equal => (key, Some(revision), Some(spec)),
                std::cmp::Ordering::Greater => (named, None, Some(spec)),
            },
        };
        if own.is_some() {
            announced.next();
        }
        if spec.is_some() {
            described.next();
        }
        while before.next_if(|held| held.key < *key).is_some() {}
        let held = before.next_if(|held| held.key == *key);
        let subsets = rules.subsets.get(key);
        let sessions = rules.sessions.contains(key);
        let selects = spec.is_some_and(|spec| spec.selector.is_some());
        // A Service with a selector that did not change has the sources it had.
        let unchanged = held.map_or(&[][..], |held| &held.sources);
        let of_selector = selects.then(|| selected.changed.get(key).map_or(unchanged, Vec::as_slice));
        let same_sources = held.is_some_and(|held| match of_selector {
            Some(sources) => held.sources == sources,
            None => match (held.sources.as_slice(), own) {
                ([], None) => true,
                ([(from, revision)], Some(own)) => *from == *key && *revision == own,
                _ => false,
            },
        });
        let as_granted = |held: &&Arc<Service>| {
            let names = std::iter::once(key).chain(held.sources.iter().map(|(announced, _)| announced));
            names.zip(&held.rulings).all(|(name, ruling)| rules.grants.ruling(name) == *ruling)
        };
        let usable = held.filter(|held| same_sources && held.shape.is(spec, subsets, sessions)).filter(as_granted);
        all.push(match usable {
            Some(held) => Arc::clone(held),
            None => {
                let sources = match of_selector {
                    Some(sources) => sources.to_vec(),
                    None => own.map(|own| (key.clone(), own)).into_iter().collect(),
                };
                let shape = Shape { spec: spec.cloned(), subsets: subsets.cloned().unwrap_or_default(), sessions };
                let before = held.map(|held| &held.balancing);
                Arc::new(service(registry, &rules.grants, (key, sources, shape), before))
            }
        });
    }
}

/// Makes one; `before` is how its endpoints were chosen, which only saves work.
fn service(
    registry: &Registry,
    grants: &Grants,
    (key, sources, shape): (&ServiceKey, Vec<Source>, Shape),
    before: Option<&Balancing>,
) -> Service {
    let own = grants.ruling(key);
    let rulings: Vec<Ruling> =
        std::iter::once(own).chain(sources.iter().map(|(announced, _)| grants.ruling(announced))).collect();
    let selector = shape.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let fits = |facts: &EndpointFacts<'_>| selector.is_none_or(|selector| has_all(facts.announcement, selector));
    let announced = sources.iter().zip(rulings.iter().skip(1)).flat_map(|((announced, _), ruling)| {
        let names = Names { found: rulings.first().unwrap_or(ruling), announced: ruling };
        registry.endpoints(announced).map(move |facts| (names.standing(facts.node), facts))
    });
    let mut facts: Vec<(Standing, EndpointFacts<'_>)> = announced.filter(|(_, facts)| fits(facts)).collect();
    if facts.len() > ENDPOINTS_PER_SERVICE_MAX {
        // Whoever is not granted takes nobody's place.
        facts.sort_by_key(|(standing, _)| !standing.is_accepted());
        facts.truncate(ENDPOINTS_PER_SERVICE_MAX);
    }
    if !facts.is_sorted_by_key(|(_, one)| (one.node, &one.announcement.instance)) {
        facts.sort_by_key(|(_, one)| (one.node, &one.announcement.instance));
    }
    let mut ports = ports(shape.spec.as_deref());
    let declared = !ports.is_empty();
    let mut endpoints = Vec::with_capacity(facts.len());
    let mut served: Vec<Vec<u16>> = Vec::with_capacity(facts.len());
    // What the service speaks is not for those to say who may not serve it, unless nobody may.
    let anybody = facts.iter().any(|(standing, _)| standing.is_accepted());
    for (standing, facts) in facts {
        served.push(if anybody && !standing.is_accepted() {
            Vec::new()
        } else if declared {
            serves(&mut ports, facts.announcement)
        } else {
            vec![announced_port(&mut ports, facts.announcement)]
        });
        endpoints.push(endpoint(&facts, standing));
    }
    if !declared {
        let order = sort_ports(&mut ports);
        for at in served.iter_mut().flatten() {
            *at = order.get(usize::from(*at)).copied().unwrap_or(*at);
        }
    }
    let ports: Vec<ServicePort> = ports.into_iter().map(Draft::finish).collect();
    let pools = pools(&ports, &shape.subsets, &endpoints, &served);
    let spec = shape.spec.as_deref();
    let balancing =
        spec.map_or_else(Balancing::default, |spec| Balancing::new(&spec.load_balancing.policy, &endpoints, before));
    let marks = if shape.sessions { marks(&endpoints) } else { Vec::new() };
    let slow_start = spec.and_then(|spec| spec.slow_start).unwrap_or(SLOW_START);
    Service { key: key.clone(), ports, endpoints, pools, sources, rulings, shape, balancing, marks, slow_start }
}

/// A port whose protocol is not settled yet.
struct Draft {
    port: ServicePort,
    announced: Vec<PortName>,
    /// A document says it.
    pinned: bool,
    seen: Option<Protocol>,
}

impl Draft {
    /// Where instances disagree, only bytes are certain to be understood by both, unless one of them does not say: then
    /// each connection tells.
    fn see(&mut self, protocol: Protocol) {
        self.seen = Some(match (self.seen, protocol) {
            (None, protocol) => protocol,
            (Some(Protocol::Detect), _) | (_, Protocol::Detect) => Protocol::Detect,
            (Some(seen), protocol) if seen == protocol => seen,
            (Some(_), _) => Protocol::Tcp,
        });
    }

    fn finish(self) -> ServicePort {
        let protocol = if self.pinned { self.port.protocol } else { self.seen.unwrap_or(Protocol::Tcp) };
        ServicePort { protocol, ..self.port }
    }
}

fn ports(spec: Option<&ServiceSpec>) -> Vec<Draft> {
    let draft = |port: &PortSpec| Draft {
        port: ServicePort {
            name: port.name.clone(),
            number: Some(port.number),
            protocol: port.protocol.unwrap_or(Protocol::Tcp),
        },
        announced: port.announced.clone(),
        pinned: port.protocol.is_some(),
        seen: None,
    };
    spec.map(|spec| spec.ports.iter().map(draft).collect()).unwrap_or_default()
}

/// The places of all ports that an instance serves.
fn serves(ports: &mut [Draft], announced: &Announcement) -> Vec<u16> {
    let mut found = Vec::new();
    for (at, draft) in (0u16..).zip(ports) {
        if draft.announced.contains(&announced.port) {
            draft.see(announced.protocol);
            found.push(at);
        }
    }
    found
}

/// The place of the port that an instance announces, which is made if it is new.
fn announced_port(ports: &mut Vec<Draft>, announced: &Announcement) -> u16 {
    let at = ports.iter().position(|draft| draft.port.name == announced.port).unwrap_or_else(|| {
        let port = ServicePort { name: announced.port.clone(), number: None, protocol: announced.protocol };
        ports.push(Draft { port, announced: Vec::new(), pinned: false, seen: None });
        ports.len() - 1
    });
    if let Some(draft) = ports.get_mut(at) {
        draft.see(announced.protocol);
    }
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// Brings ports into the order of their names; returns where each went.
fn sort_ports(ports: &mut [Draft]) -> Vec<u16> {
    let names: Vec<PortName> = ports.iter().map(|draft| draft.port.name.clone()).collect();
    ports.sort_by(|a, b| a.port.name.cmp(&b.port.name));
    let place =
        |name: &PortName| ports.iter().position(|draft| draft.port.name == *name).and_then(|at| u16::try_from(at).ok());
    names.iter().map(|name| place(name).unwrap_or(u16::MAX)).collect()
}

fn endpoint(facts: &EndpointFacts<'_>, standing: Standing) -> Endpoint {
    let announced = facts.announcement;
    Endpoint {
        id: EndpointId {
            node: facts.node.clone(),
            namespace: announced.service.namespace.clone(),
            instance: announced.instance.clone(),
        },
        service: announced.service.clone(),
        index: facts.index,
        birth: facts.birth,
        address: facts.address,
        port: announced.port.clone(),
        protocol: announced.protocol,
        labels: announced.labels.clone(),
        weight: announced.weight,
        readiness: facts.readiness,
        member: facts.member,
        standing,
    }
}

impl Service {
    /// Whether an endpoint of this service is of this part, were it fit to be picked.
    pub(crate) fn is_of(&self, endpoint: &Endpoint, part: Part) -> bool {
        let declared = self.spec().map(|spec| &spec.ports[..]).filter(|ports| !ports.is_empty());
        let serves = match (declared, part.port) {
            (None, None) => true,
            (None, Some(at)) => self.ports.get(usize::from(at)).is_some_and(|port| port.name == endpoint.port),
            (Some(ports), None) => ports.iter().any(|port| port.announced.contains(&endpoint.port)),
            (Some(ports), Some(at)) => {
                ports.get(usize::from(at)).is_some_and(|port| port.announced.contains(&endpoint.port))
            }
        };
        let subset = part.subset.map(|at| self.subsets().get(usize::from(at)));
        serves && subset.is_none_or(|subset| subset.is_some_and(|subset| subset.holds(endpoint)))
    }
}

/// Who may be picked, for any port and each one, of all instances and of each subset.
fn pools(ports: &[ServicePort], subsets: &[SubsetSpec], endpoints: &[Endpoint], served: &[Vec<u16>]) -> Vec<Pool> {
    let columns = 1 + subsets.len();
    let mut pools: Vec<Pool> = vec![Pool::default(); (1 + ports.len()) * columns];
    for (position, (endpoint, served)) in (0u32..).zip(endpoints.iter().zip(served)) {
        // A Service's port list says what it offers; an instance's other ports are not reached through it.
        if served.is_empty() || !endpoint.admissible() {
            continue;
        }
        let weight = u64::from(endpoint.weight.get());
        let rows = || [0].into_iter().chain(served.iter().map(|port| 1 + usize::from(*port)));
        let hits = subsets.iter().enumerate().filter(|(_, subset)| subset.holds(endpoint)).map(|(at, _)| 1 + at);
        for column in [0].into_iter().chain(hits) {
            for row in rows() {
                if let Some(pool) = pools.get_mut(row * columns + column) {
                    pool.push(position, weight);
                }
            }
        }
    }
    pools
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_speaks_what_its_instances_agree_on() {
        let check = |instances: &[Protocol], want| {
            let name = PortName::new("main").unwrap();
            let port = ServicePort { name, number: None, protocol: Protocol::Tcp };
            let mut draft = Draft { port, announced: Vec::new(), pinned: false, seen: None };
            instances.iter().for_each(|protocol| draft.see(*protocol));
            assert_eq!(draft.finish().protocol, want, "{instances:?}");
        };
        check(&[], Protocol::Tcp);
        check(&[Protocol::Grpc, Protocol::Grpc], Protocol::Grpc);
        check(&[Protocol::Http, Protocol::Grpc], Protocol::Tcp);
        check(&[Protocol::Http, Protocol::Detect], Protocol::Detect);
        check(&[Protocol::Http, Protocol::Tcp, Protocol::Detect, Protocol::Http], Protocol::Detect);
    }
}
