//! Fixtures shared by the benches: a mesh of a stated size as a registry and as a table.

pub mod hub;
pub mod judge;
pub mod machines;
pub mod planes;

use std::net::SocketAddr;
use std::sync::Arc;

use starling_config::documents::parse;
use starling_model::{
    Announcement, Digest, DocumentVersion, Generation, HealthEntry, HealthRecord, InstanceName, KeyId, Labels,
    MemberState, Namespace, NodeName, PortName, Protocol, Readiness, ServiceKey, ServiceName, ServicesRecord, Weight,
};
use starling_routing::{Documents, InUse, MemberFact, Registry, RouteTable, TableSettings, compile};

/// The key of service number `at` in [`registry`].
///
/// # Panics
/// Never: the names are well formed.
#[must_use]
pub fn service_key(at: usize) -> ServiceKey {
    let name = ServiceName::new(&format!("service-{at}")).expect("a label");
    ServiceKey::new(Namespace::default(), name)
}

/// `nodes` nodes, each with one instance of every one of `services` services, all alive and ready.
///
/// # Panics
/// Never: the names are well formed.
#[must_use]
pub fn registry(services: usize, nodes: usize) -> Registry {
    let mut registry = Registry::new();
    for node in 0..nodes {
        let name = NodeName::new(&format!("vm-{node}")).expect("a label");
        let last = u8::try_from(node % 250).unwrap_or(0) + 1;
        let address = Some(SocketAddr::from(([127, 0, 0, last], 7740)));
        registry.member(&MemberFact { node: name.clone(), state: MemberState::Alive, address });
        let instances: Vec<Announcement> = (0..services)
            .map(|at| Announcement {
                instance: InstanceName::new(&format!("instance-{at}")).expect("a label"),
                service: service_key(at),
                port: PortName::new("http").expect("a label"),
                protocol: Protocol::Http,
                labels: Labels::default(),
                weight: Weight::default(),
            })
            .collect();
        let entries = instances
            .iter()
            .map(|a| HealthEntry { instance: a.instance.clone(), readiness: Readiness::Ready })
            .collect();
        registry.services(&name, &ServicesRecord { instances });
        registry.health(&name, &HealthRecord { entries });
    }
    registry
}

/// The settings of every fixture.
#[must_use]
pub fn settings() -> TableSettings {
    TableSettings { domain: "mesh.internal".to_owned() }
}

/// The table of [`registry`].
#[must_use]
pub fn table(services: usize, nodes: usize) -> RouteTable {
    compile(&Documents::default(), &registry(services, nodes), &settings(), None)
}

/// Documents in use, made of one YAML text each.
///
/// # Panics
/// When a text is no document.
#[must_use]
pub fn documents(texts: impl IntoIterator<Item = String>) -> Documents {
    let all = (0u32..).zip(texts).flat_map(|(at, text)| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&at.to_be_bytes());
        let version = DocumentVersion { generation: Generation::FIRST, signer: KeyId(1), hash: Digest(hash) };
        let parsed = parse("bench.yaml", &text).unwrap_or_else(|told| panic!("{text}\n{told:?}"));
        let in_use = move |document| InUse { document: Arc::new(document), version, signer: Arc::from("ada") };
        parsed.into_iter().map(in_use)
    });
    Documents::new(all)
}

/// A route `route-N` that is attached to service number `to`: what `matches` says goes nine to one to this service and
/// the next one.
#[must_use]
pub fn route(number: usize, to: usize, matches: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: route-{number:04}}}\nspec:\n  parentRefs: [{{kind: Service, group: \"\", name: service-{to}}}]\n  rules:\n    - matches: [{matches}]\n      timeouts: {{request: 2s}}\n      backendRefs: [{{name: service-{to}, port: 80, weight: 9}}, {{name: service-{}, port: 80}}]\n",
        to + 1
    )
}

/// A core Service that selects the instances of service number `at`.
#[must_use]
pub fn selecting(at: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: front-{at}}}\nspec: {{selector: {{service: service-{at}}}, ports: [{{port: 80}}]}}\n"
    )
}
