//! Service documents, of both versions, and the policies that target services.

use std::sync::Arc;

use starling_config::documents::Spec;
use starling_config::documents::service::{Affinity, CorePort, CoreService, TargetPort};
use starling_config::documents::starling_service::{LoadBalancing, StarlingPort, StarlingService};
use starling_config::documents::traffic_policy::BackendTrafficPolicy;
use starling_model::{DocumentKey, PortName, Protocol, ServiceKey, ServiceName, codes};

use crate::documents::{Documents, InUse};
use crate::policy::ServicePolicy;
use crate::problem::{Finding, Reason};
use crate::rules::{PortSpec, Rules, ServiceSpec, port_text};

/// The service that a Service document describes.
pub(super) fn key_of(document: &DocumentKey) -> Option<ServiceKey> {
    // Both are labels of one grammar.
    ServiceName::new(document.name.as_str()).ok().map(|name| ServiceKey::new(document.namespace.clone(), name))
}

/// Reads all Service documents and policies into `rules`.
pub(super) fn compile(documents: &Documents, rules: &mut Rules) {
    for one in documents.iter() {
        let document = &one.document.key;
        let spec = match &one.document.spec {
            Spec::CoreService(service) => core(one, service),
            Spec::StarlingService(service) => starling(one, service),
            Spec::BackendTrafficPolicy(policy) => {
                targets(document, policy, rules);
                continue;
            }
            Spec::HttpRoute(_)
            | Spec::GrpcRoute(_)
            | Spec::TcpRoute(_)
            | Spec::TlsRoute(_)
            | Spec::ServiceGrant(_)
            | Spec::MeshConfig(_)
            | Spec::Gateway(_)
            | Spec::Unread => continue,
        };
        let Some(key) = key_of(document) else { continue };
        if matches!(&one.document.spec, Spec::CoreService(service) if service.affinity == Affinity::ClientIp) {
            rules.affine.insert(key.clone());
        }
        if let Some((label, value)) = spec.selector.as_ref().and_then(|selector| selector.iter().next()) {
            let by_label = rules.selectors.entry(key.namespace.clone()).or_default();
            by_label.entry((label.to_owned(), value.to_owned())).or_default().push(key.clone());
        }
        rules.specs.insert(key, Arc::new(spec));
    }
    for key in &rules.affine {
        if let Some(policy) = rules.policies.get_mut(key).filter(|policy| policy.session.is_some()) {
            rules.findings.push(both_keep(&policy.document, "/spec/sessionPersistence".to_owned(), key));
            Arc::make_mut(policy).session = None;
            rules.sessions.remove(key);
        }
    }
}

/// GEP-1619: sessions and a Service's own affinity are incompatible.
pub(super) fn both_keep(document: &DocumentKey, pointer: String, service: &ServiceKey) -> Finding {
    let message = format!("Service {service} asks for sessionAffinity ClientIP: no session is kept beside it");
    Finding::new(document, (Reason::UnsupportedValue, codes::DOCUMENT_COVERED), pointer, message)
}

/// Of several policies for one service the first by name counts: documents come in that order.
fn targets(document: &DocumentKey, policy: &BackendTrafficPolicy, rules: &mut Rules) {
    for (place, name) in policy.targets.iter().enumerate() {
        let key = ServiceKey::new(document.namespace.clone(), name.clone());
        if let Some(held) = rules.policies.get(&key) {
            let message = format!("{} holds for {key} already: the first by name counts", held.document);
            let pointer = format!("/spec/targetRefs/{place}");
            let why = (Reason::Conflicted, codes::DOCUMENT_COVERED);
            rules.findings.push(Finding::new(document, why, pointer, message));
        } else {
            if policy.session_persistence.is_some() {
                rules.sessions.insert(key.clone());
            }
            rules.policies.insert(key.clone(), Arc::new(ServicePolicy::new(document, policy, &key)));
        }
    }
}

fn core(in_use: &InUse, service: &CoreService) -> ServiceSpec {
    let alone = service.ports.len() == 1;
    let port = |port: &CorePort| {
        let protocol = port.app_protocol.as_deref().and_then(spoken);
        let target = match &port.target {
            TargetPort::Number(number) => port_text(*number),
            TargetPort::Name(name) => Some(name.clone()),
        };
        let number = port_text(port.port);
        let name = port.name.clone().or_else(|| number.clone())?;
        let announced = announced(&name, [number, target], alone);
        Some(PortSpec { name, number: port.port, protocol, announced })
    };
    ServiceSpec {
        document: in_use.document.key.clone(),
        version: in_use.version,
        selector: service.selector.clone(),
        ports: service.ports.iter().filter_map(port).collect(),
        load_balancing: LoadBalancing::default(),
        slow_start: None,
    }
}

fn starling(in_use: &InUse, service: &StarlingService) -> ServiceSpec {
    let alone = service.ports.len() == 1;
    let port = |port: &StarlingPort| PortSpec {
        name: port.name.clone(),
        number: port.port,
        protocol: Some(port.protocol),
        announced: announced(&port.name, [port_text(port.port), None], alone),
    };
    ServiceSpec {
        document: in_use.document.key.clone(),
        version: in_use.version,
        selector: service.selector.clone(),
        ports: service.ports.iter().map(port).collect(),
        load_balancing: service.load_balancing.clone(),
        slow_start: service.slow_start,
    }
}

/// Names under which instances announce a port: its name, its number, its target. Of a Service with one port also the
/// names that an instance's port has when its owner gave it none.
fn announced(name: &PortName, others: [Option<PortName>; 2], alone: bool) -> Vec<PortName> {
    let unsaid = [Protocol::Http, Protocol::Grpc, Protocol::Tcp, Protocol::Detect].into_iter().filter(|_| alone);
    let unsaid = unsaid.filter_map(|protocol| PortName::new(protocol.as_str()).ok());
    let mut names: Vec<PortName> = [Some(name.clone())].into_iter().chain(others).flatten().chain(unsaid).collect();
    names.sort();
    names.dedup();
    names
}

/// What an `appProtocol` means here; of one that is not known, instances say it.
fn spoken(app_protocol: &str) -> Option<Protocol> {
    match app_protocol {
        "http" | "kubernetes.io/h2c" | "kubernetes.io/ws" => Some(Protocol::Http),
        "grpc" => Some(Protocol::Grpc),
        "tcp" | "tls" | "https" | "kubernetes.io/wss" => Some(Protocol::Tcp),
        _ => None,
    }
}
