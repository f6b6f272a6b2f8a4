//! Documents and registry to table, in two halves that are joined by `Arc`s.
//!
//! The *rules* ([`crate::rules`]) are made whole from all documents and shared as long as the digest of the documents is
//! the same. A service's *pool* is made whole when a record of one of its instances changes, or its Service document, and
//! shared otherwise. So an instance that flaps costs one pool, however many routes there are.

use std::sync::Arc;

use foldhash::quality::RandomState;

use starling_config::documents::Spec;
use starling_model::{ServiceKey, codes};

use crate::documents::{Documents, InUse};
use crate::grants::Grants;
use crate::problem::{Finding, Reason};
use crate::registry::Registry;
use crate::rules::{Reference, RouteKind, Rules};
use crate::table::{Directory, Map, RouteTable, Service};

mod attach;
mod backends;
mod gateways;
mod grpc;
pub mod guard;
mod http;
mod l4;
mod pools;
mod services;

pub(crate) use pools::{Selected, Source};

/// What a table takes from this node's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// DNS domain of the mesh, lower case, `mesh.internal`.
    pub domain: String,
}

/// Builds the whole table. `previous` only saves work: the result is the same without it. What of the documents does not
/// come out as written is in [`RouteTable::findings`].
#[must_use]
pub fn compile(
    documents: &Documents,
    registry: &Registry,
    settings: &TableSettings,
    previous: Option<&RouteTable>,
) -> RouteTable {
    // Equal digests mean equal documents.
    let same_rules = previous.filter(|table| table.documents().is_like(documents));
    let rules = match same_rules {
        Some(table) => Arc::clone(&table.rules),
        None => {
            let grants = Grants::compile(documents);
            // Shared while they are the same: whoever holds them sees by that that nothing changed.
            let held = previous.map(RouteTable::grants).filter(|held| ***held == grants);
            let grants = held.map_or_else(|| Arc::new(grants), Arc::clone);
            Arc::new(Rules { grants, ..rules(documents) })
        }
    };
    let (selected, sources) = pools::select(registry, &rules, same_rules.map(|table| &table.selected));
    let services = pools::services(registry, &rules, &sources, previous);
    let same_names = previous.filter(|table| {
        table.domain == settings.domain
            && table.services.len() == services.len()
            && table.services.iter().zip(&services).all(|(a, b)| Arc::ptr_eq(a, b) || a.key == b.key)
    });
    let directory = match (same_names, same_rules) {
        (Some(table), Some(_)) => Arc::clone(&table.directory),
        _ => Arc::new(directory(&services, &rules, &settings.domain)),
    };
    let findings = match (same_names, same_rules) {
        (Some(table), Some(_)) => Arc::clone(&table.findings),
        _ => findings(&rules, &directory),
    };
    RouteTable {
        services,
        directory,
        rules,
        selected,
        findings,
        documents: documents.clone(),
        revision: registry.revision(),
        domain: settings.domain.clone(),
        session_key: previous.and_then(|table| table.session_key.clone()),
    }
}

/// The half that documents make.
fn rules(documents: &Documents) -> Rules {
    let mut rules = Rules::default();
    services::compile(documents, &mut rules);
    let mut routes = Vec::new();
    let mut resolver = backends::Resolver::new(documents, &mut rules);
    for one in documents.iter() {
        routes.push(match &one.document.spec {
            Spec::HttpRoute(route) => http::compile(one, route, &mut resolver),
            Spec::GrpcRoute(route) => grpc::compile(one, route, &mut resolver),
            Spec::TcpRoute(route) => {
                let (parents, rule, backends) = (&route.parents[..], route.rule.as_ref(), &route.backends[..]);
                let route = l4::L4Route { kind: RouteKind::Tcp, parents, hostnames: &[], rule, backends };
                l4::compile(one, route, &mut resolver)
            }
            Spec::TlsRoute(route) => {
                let (parents, rule, backends) = (&route.parents[..], route.rule.as_ref(), &route.backends[..]);
                let route = l4::L4Route { kind: RouteKind::Tls, parents, hostnames: &route.hostnames, rule, backends };
                l4::compile(one, route, &mut resolver)
            }
            Spec::CoreService(_)
            | Spec::StarlingService(_)
            | Spec::BackendTrafficPolicy(_)
            | Spec::ServiceGrant(_)
            | Spec::MeshConfig(_)
            | Spec::Gateway(_)
            | Spec::Unread => continue,
        });
    }
    resolver.finish();
    attach::attach(&routes, &mut rules);
    gateways::compile(documents, &attach::outside(&routes), &mut rules);
    rules.references.extend(documents.iter().flat_map(granted));
    rules
}

/// The services that a grant names: one that nobody knows may be a slip, and leaves the one that was meant to anybody.
fn granted(one: &InUse) -> Vec<Reference> {
    let Spec::ServiceGrant(grant) = &one.document.spec else { return Vec::new() };
    let reference = |(at, service): (usize, &ServiceKey)| Reference {
        document: one.document.key.clone(),
        service: service.clone(),
        reason: Reason::TargetNotFound,
        pointer: format!("/spec/services/{at}"),
    };
    grant.services.iter().enumerate().map(reference).collect()
}

fn directory(services: &[Arc<Service>], rules: &Rules, domain: &str) -> Directory {
    let mut by_key: Map<ServiceKey> = Map::with_capacity_and_hasher(services.len(), RandomState::default());
    let mut by_host: Map<String> = Map::with_capacity_and_hasher(2 * services.len(), RandomState::default());
    for (at, service) in (0u32..).zip(services) {
        let key = &service.key;
        by_host.insert(key.host(domain), at);
        by_host.insert(format!("{}.{}.{domain}", key.name, key.namespace), at);
        by_key.insert(key.clone(), at);
    }
    let fronts = services.iter().map(|service| rules.fronts.get(&service.key).cloned()).collect();
    let policies = services.iter().map(|service| rules.policies.get(&service.key).cloned()).collect();
    Directory { by_key, by_host, fronts, policies }
}

/// Those of the documents alone, and references to services that neither a document nor an instance knows.
fn findings(rules: &Rules, directory: &Directory) -> Arc<[Finding]> {
    let unknown = rules.references.iter().filter(|one| !directory.by_key.contains_key(&one.service));
    let unknown = unknown.map(|one| {
        let message = format!("no document and no instance knows a service {}", one.service);
        Finding::new(&one.document, (one.reason, codes::UNKNOWN_REFERENCE), one.pointer.clone(), message)
    });
    let mut all: Vec<Finding> = rules.findings.iter().cloned().chain(unknown).collect();
    all.sort_by(|a, b| (&a.document, &a.problem.pointer, a.reason).cmp(&(&b.document, &b.problem.pointer, b.reason)));
    Arc::from(all)
}
