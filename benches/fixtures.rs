//! Fixtures shared by the benches: a mesh of a stated size as a registry and as a table.

pub mod hub;
pub mod machines;

use std::net::SocketAddr;

use starling_model::{
    Announcement, HealthEntry, HealthRecord, InstanceName, Labels, MemberState, Namespace, NodeName, PortName,
    Protocol, Readiness, ServiceKey, ServiceName, ServicesRecord, Weight,
};
use starling_routing::{Documents, MemberFact, Registry, RouteTable, TableSettings, compile};

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
