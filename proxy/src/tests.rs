//! Data planes of several nodes in one process: real identities, real sockets, real backends; only gossip is played by
//! hand, as a registry that all nodes compile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use starling_identity::issue::{IssuingCa, create_trust_domain};
use starling_identity::node::new_record_key;
use starling_identity::{CurrentIdentity, NodeIdentity, TrustBundle, TrustView, UnixTime};
use starling_model::{
    Announcement, Digest, DocumentVersion, Generation, HealthEntry, HealthRecord, InstanceName, KeyId, Labels,
    MemberState, Namespace, NodeName, PortName, Protocol, Readiness, ServiceKey, ServicesRecord, TrustDomain, Weight,
};
use starling_routing::{Documents, InUse, MemberFact, Registry, TableSettings, compile};
use starling_transport::data::Prover;

use crate::{AccessLog, DataPlane, ListenAddress, LocalInstance, LocalInstances, ProxyConfig, ProxyShared, Upstream};

mod access_log;
mod backend;
mod failures;
mod garbage;
mod gateways;
mod grants;
mod grpc;
mod hostile;
mod http2;
mod lanes;
mod load;
mod requests;
mod routes;
mod sessions;
mod trailers;
mod tunnels;
mod upgrades;
mod watch;

const NOW: UnixTime = UnixTime(1_795_000_000);

fn clock() -> UnixTime {
    NOW
}

/// One for a node of a mesh of its own.
pub(crate) fn prover() -> Prover {
    Prover::new(Mesh::new(0).identity(&NodeName::new("vm-1").unwrap()), clock)
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::parse(name, &Namespace::default()).unwrap()
}

/// One agent's data plane.
struct Node {
    name: NodeName,
    plane: Option<DataPlane>,
    shared: Arc<ProxyShared>,
    data: SocketAddr,
    http: SocketAddr,
    /// Entrances: to `orders` on behalf of `web`, to `echo`.
    orders: SocketAddr,
    echo: SocketAddr,
    instances: LocalInstances,
}

/// All of them, and what each would know by gossip.
struct Mesh {
    ca: IssuingCa,
    bundle: TrustBundle,
    registry: Registry,
    documents: Documents,
    /// Of nodes that are started from now on.
    grants_known: bool,
    /// The same: how long their connections take new streams.
    connection_age: Duration,
    nodes: Vec<Node>,
    announced: BTreeMap<NodeName, (ServicesRecord, HealthRecord)>,
}

impl Mesh {
    fn new(nodes: u8) -> Self {
        let domain = TrustDomain::new("prod.internal").unwrap();
        let made = create_trust_domain(&domain, "alice", false, NOW).unwrap();
        let ca = IssuingCa::load(&made.bundle, &made.issuer_key_pem).unwrap();
        let mut mesh = Self {
            ca,
            bundle: made.bundle,
            registry: Registry::new(),
            documents: Documents::default(),
            grants_known: true,
            connection_age: starling_transport::data::AGE_MAX,
            nodes: Vec::new(),
            announced: BTreeMap::new(),
        };
        for number in 1..=nodes {
            mesh.start(&format!("vm-{number}"));
        }
        mesh
    }

    fn identity(&self, node: &NodeName) -> CurrentIdentity {
        let issued = self.ca.issue_node(node, 30, NOW).unwrap();
        let identity =
            NodeIdentity::load(&self.bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), NOW);
        CurrentIdentity::new(identity.unwrap().mint_leaf(NOW).unwrap(), TrustView::new(self.bundle.clone()))
    }

    fn start(&mut self, name: &str) {
        self.start_with(name, None);
    }

    /// With an access log.
    fn start_with(&mut self, name: &str, log: Option<Arc<AccessLog>>) {
        let node = NodeName::new(name).unwrap();
        let shared = Arc::new(ProxyShared::new(self.identity(&node), clock));
        if self.grants_known {
            shared.know_grants();
        }
        let free = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let upstream = |service: &str, source: Option<&str>| Upstream {
            service: key(service),
            port: None,
            listen: free.clone(),
            source: source.map(key),
        };
        let config = ProxyConfig {
            node: node.clone(),
            trust_domain: TrustDomain::new("prod.internal").unwrap(),
            domain: "mesh.internal".to_owned(),
            data_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            http_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            gateway_listen: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            upstreams: vec![upstream("orders", Some("web")), upstream("echo", None)],
            access_log: log,
            threads: 2,
            connection_age: self.connection_age,
        };
        let plane = DataPlane::start(config, shared.clone()).unwrap();
        let addresses = plane.addresses().clone();
        let tcp = |at: usize| match &addresses.upstreams[at] {
            ListenAddress::Tcp(address) => *address,
            ListenAddress::Unix(_) => unreachable!("only TCP was asked for"),
        };
        self.nodes.push(Node {
            name: node,
            plane: Some(plane),
            shared,
            data: addresses.data,
            http: addresses.http.unwrap(),
            orders: tcp(0),
            echo: tcp(1),
            instances: LocalInstances::new(),
        });
    }

    fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name.as_str() == name).unwrap()
    }

    /// Announces an instance and makes it known everywhere.
    fn serve(&mut self, node: &str, instance: &str, service: &str, protocol: Protocol, address: SocketAddr) {
        let node = self.nodes.iter_mut().find(|n| n.name.as_str() == node).unwrap();
        let (name, service) = (InstanceName::new(instance).unwrap(), key(service));
        let port = PortName::new("main").unwrap();
        let local = LocalInstance {
            service: service.clone(),
            port: port.clone(),
            protocol,
            address,
            readiness: Readiness::Ready,
            callers: None,
        };
        node.instances.insert(name.clone(), local);
        node.shared.instances.store(Arc::new(node.instances.clone()));
        let (services, health) = self.announced.entry(node.name.clone()).or_default();
        let (labels, weight) = (Labels::default(), Weight::default());
        services.instances.push(Announcement { instance: name.clone(), service, port, protocol, labels, weight });
        health.entries.push(HealthEntry { instance: name, readiness: Readiness::Ready });
        self.publish();
    }

    /// Only these processes may call as the instance's service.
    fn calls_as(&mut self, node: &str, instance: &str, process: &crate::Process) {
        let node = self.nodes.iter_mut().find(|n| n.name.as_str() == node).unwrap();
        let of = |(name, held): (&InstanceName, &LocalInstance)| {
            let callers = if name.as_str() == instance { Some(process.clone()) } else { held.callers.clone() };
            (name.clone(), LocalInstance { callers, ..held.clone() })
        };
        node.instances = node.instances.iter().map(of).collect();
        node.shared.instances.store(Arc::new(node.instances.clone()));
    }

    fn state(&mut self, node: &str, state: MemberState) {
        let node = NodeName::new(node).unwrap();
        self.registry.member(&MemberFact { node, state, address: None });
        self.compile();
    }

    fn publish(&mut self) {
        for node in &self.nodes {
            let fact = MemberFact { node: node.name.clone(), state: MemberState::Alive, address: Some(node.data) };
            self.registry.member(&fact);
            if let Some((services, health)) = self.announced.get(&node.name) {
                self.registry.services(&node.name, services);
                self.registry.health(&node.name, health);
            }
        }
        self.compile();
    }

    /// Puts these documents in use everywhere.
    fn apply(&mut self, text: &str) {
        let version = DocumentVersion { generation: Generation::FIRST, signer: KeyId(1), hash: Digest([1; 32]) };
        let used = InUse::read("a.yaml", text, version, "alice");
        self.documents = Documents::new(used.unwrap_or_else(|told| panic!("{told}")));
        self.compile();
    }

    fn compile(&self) {
        let settings = TableSettings { domain: "mesh.internal".to_owned() };
        let table = Arc::new(compile(&self.documents, &self.registry, &settings, None));
        for node in &self.nodes {
            node.shared.publish(table.clone());
        }
    }

    /// As `kill -9` would: every socket of the node is gone at once.
    fn kill(&mut self, node: &str) {
        let node = self.nodes.iter_mut().find(|n| n.name.as_str() == node).unwrap();
        drop(node.plane.take());
    }
}

/// Waits for a condition, at most 5 s.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < until, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The whole scrape of a node.
fn scrape(node: &Node) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    node.shared.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}
