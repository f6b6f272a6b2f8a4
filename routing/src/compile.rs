//! Registry to table. Pools of services that did not change are shared with the table before.

use std::collections::HashMap;
use std::sync::Arc;

use starling_model::{Digest, EndpointId, Protocol, ServiceKey};

use crate::limits::ENDPOINTS_PER_SERVICE_MAX;
use crate::registry::Registry;
use crate::table::{Endpoint, RouteTable, Service, ServicePort};

/// What a table takes from this node's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// DNS domain of the mesh, lower case, `mesh.internal`.
    pub domain: String,
}

/// Builds the whole table. `previous` only saves work: the result is the same without it.
#[must_use]
pub fn compile(registry: &Registry, settings: &TableSettings, previous: Option<&RouteTable>) -> RouteTable {
    let mut table = RouteTable {
        services: Vec::new(),
        by_key: HashMap::new(),
        by_host: HashMap::new(),
        digest: Digest::default(),
        revision: registry.revision(),
        domain: settings.domain.clone(),
    };
    for key in registry.service_keys() {
        let revision = registry.service_revision(key);
        let shared = previous.and_then(|table| table.service(key)).filter(|held| held.revision == revision);
        let service = shared.cloned().unwrap_or_else(|| Arc::new(compile_service(registry, key, revision)));
        let Ok(at) = u32::try_from(table.services.len()) else { break };
        table.by_host.insert(key.host(&settings.domain), at);
        table.by_host.insert(format!("{}.{}.{}", key.name, key.namespace, settings.domain), at);
        table.by_key.insert(key.clone(), at);
        table.services.push(service);
    }
    table
}

fn compile_service(registry: &Registry, key: &ServiceKey, revision: u64) -> Service {
    let mut ports: Vec<ServicePort> = Vec::new();
    let mut endpoints = Vec::new();
    for facts in registry.endpoints(key).take(ENDPOINTS_PER_SERVICE_MAX) {
        let announced = facts.announcement;
        match ports.iter_mut().find(|p| p.name == announced.port) {
            None => ports.push(ServicePort { name: announced.port.clone(), protocol: announced.protocol }),
            // Instances disagree: only bytes are certain to be understood by both.
            Some(port) if port.protocol != announced.protocol => port.protocol = Protocol::Tcp,
            Some(_) => {}
        }
        endpoints.push(Endpoint {
            id: EndpointId {
                node: facts.node.clone(),
                namespace: key.namespace.clone(),
                instance: announced.instance.clone(),
            },
            index: facts.index,
            birth: facts.birth,
            address: facts.address,
            port: announced.port.clone(),
            protocol: announced.protocol,
            labels: announced.labels.clone(),
            weight: announced.weight,
            readiness: facts.readiness,
            member: facts.member,
        });
    }
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    let mut sum = 0;
    let mut admissible = Vec::new();
    for (position, endpoint) in (0u32..).zip(&endpoints) {
        if endpoint.admissible() {
            sum += u64::from(endpoint.weight.get());
            admissible.push((position, sum));
        }
    }
    Service { key: key.clone(), ports, endpoints, admissible, revision }
}
