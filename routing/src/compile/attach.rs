//! Which routes answer for which port of which service, and for whom (GEP-1294).
//!
//! A route in the Service's namespace is a *producer* route, for all callers; one of another namespace is a *consumer*
//! route, for callers of its own namespace, to whom it replaces the producer's. The two never merge. Within a group
//! routes of one kind merge, and one kind has the port.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use starling_config::documents::route::{ParentKind, ParentRef};
use starling_model::{DocumentKey, Namespace, PortName, ServiceKey, codes};

use super::gateways::{ByServerName, Outside};
use crate::documents::InUse;
use crate::group::RouteGroup;
use crate::matching::Conditions;
use crate::problem::{Finding, Reason};
use crate::rules::{Attached, ByPort, Front, PortRules, Reference, RouteKind, Rule, Rules, ServiceSpec, port_text};

/// A compiled route on its way to its parents.
#[derive(Debug)]
pub(super) struct Route<'a> {
    document: &'a DocumentKey,
    kind: RouteKind,
    parents: &'a [ParentRef],
    rules: Vec<(Arc<Rule>, Vec<Conditions>)>,
    by_name: Option<ByServerName>,
}

impl<'a> Route<'a> {
    pub(super) fn new(
        in_use: &'a InUse,
        kind: RouteKind,
        parents: &'a [ParentRef],
        rules: Vec<(Arc<Rule>, Vec<Conditions>)>,
    ) -> Self {
        Self { document: &in_use.document.key, kind, parents, rules, by_name: None }
    }

    /// What it is for callers from outside, too.
    pub(super) fn by_name(self, by_name: Option<ByServerName>) -> Self {
        Self { by_name, ..self }
    }
}

/// A route's name as ties are broken by it: `namespace/name`.
pub(super) fn route_id(document: &DocumentKey) -> Arc<str> {
    Arc::from(format!("{}/{}", document.namespace, document.name))
}

/// One attachment: a route, by its place in the list, and for which ports.
#[derive(Clone, Copy, Debug)]
struct Binding<'a> {
    route: usize,
    number: Option<NonZeroU16>,
    section: Option<&'a str>,
}

/// A port as attachments are compared with it. Of a service without ports in a document these are all that attachments
/// tell apart.
#[derive(Clone, Copy, Debug)]
enum Facing<'a> {
    /// Of a Service document.
    Declared { name: &'a PortName, number: NonZeroU16 },
    /// As instances announce it; the only one of the service takes any number.
    Announced { name: &'a PortName, alone: bool },
    /// One that no attachment names.
    Other { alone: bool },
}

impl Facing<'_> {
    fn takes(self, binding: &Binding<'_>) -> bool {
        let by_number = |own: Option<&str>, alone: bool| {
            binding.number.is_none_or(|number| alone || own == Some(number.to_string().as_str()))
        };
        let by_section = |own: Option<&str>| binding.section.is_none_or(|section| own == Some(section));
        match self {
            Self::Declared { name, number } => {
                binding.number.is_none_or(|want| want == number) && by_section(Some(name.as_str()))
            }
            Self::Announced { name, alone } => by_number(Some(name.as_str()), alone) && by_section(Some(name.as_str())),
            Self::Other { alone } => by_number(None, alone) && by_section(None),
        }
    }
}

/// The routes that name Gateways, once for each.
pub(super) fn outside<'a>(routes: &'a [Route<'a>]) -> Vec<Outside<'a>> {
    let of = |route: &'a Route<'a>| {
        let parents = route.parents.iter().enumerate().filter(|(_, parent)| parent.kind == ParentKind::Gateway);
        parents.map(|(place, parent)| Outside {
            document: route.document,
            kind: route.kind,
            parent,
            place,
            by_name: route.by_name.as_ref(),
        })
    };
    routes.iter().flat_map(of).collect()
}

/// Attaches all routes to the Services that they name.
pub(super) fn attach(routes: &[Route<'_>], rules: &mut Rules) {
    let mut by_service: BTreeMap<ServiceKey, Vec<Binding<'_>>> = BTreeMap::new();
    for (at, route) in routes.iter().enumerate() {
        for (place, parent) in route.parents.iter().enumerate() {
            let pointer = format!("/spec/parentRefs/{place}");
            if parent.kind == ParentKind::Gateway {
                continue;
            }
            let service = ServiceKey::new(parent.namespace.clone(), parent.name.clone());
            let binding = Binding { route: at, number: parent.port, section: parent.section.as_deref() };
            if let Some(spec) = rules.specs.get(&service).filter(|spec| !spec.ports.is_empty()) {
                let mut ports = spec.ports.iter();
                if !ports.any(|port| Facing::Declared { name: &port.name, number: port.number }.takes(&binding)) {
                    let why = (Reason::NoMatchingParent, codes::UNKNOWN_REFERENCE);
                    let message = format!("Service {service} has no port that this names");
                    rules.findings.push(Finding::new(route.document, why, pointer, message));
                    continue;
                }
            }
            rules.references.push(Reference {
                document: route.document.clone(),
                service: service.clone(),
                reason: Reason::NoMatchingParent,
                pointer,
            });
            by_service.entry(service).or_default().push(binding);
        }
    }
    for (service, bindings) in by_service {
        let spec = rules.specs.get(&service).cloned();
        let mut builder = Builder { service: &service, routes, bindings: &bindings, groups: BTreeMap::new() };
        let front = builder.front(spec.as_deref());
        builder.tell(&mut rules.findings);
        rules.fronts.insert(service, Arc::new(front));
    }
}

/// Makes the groups of one service; ports with the same routes share one.
struct Builder<'a> {
    service: &'a ServiceKey,
    routes: &'a [Route<'a>],
    bindings: &'a [Binding<'a>],
    groups: BTreeMap<Vec<usize>, Attached>,
}

impl Builder<'_> {
    fn front(&mut self, spec: Option<&ServiceSpec>) -> Front {
        if let Some(spec) = spec.filter(|spec| !spec.ports.is_empty()) {
            let named = spec
                .ports
                .iter()
                .map(|port| (port.name.clone(), self.port(Facing::Declared { name: &port.name, number: port.number })));
            let named = named.collect();
            return Front { ports: ByPort { named, other: self.port(Facing::Other { alone: false }) }, alone: None };
        }
        let mut names: BTreeSet<PortName> = BTreeSet::new();
        for binding in self.bindings {
            names.extend(binding.number.and_then(port_text));
            names.extend(binding.section.and_then(|section| PortName::new(section).ok()));
        }
        let ports = self.announced(&names, false);
        let alone = self.bindings.iter().any(|binding| binding.number.is_some());
        Front { ports, alone: alone.then(|| self.announced(&names, true)) }
    }

    fn announced(&mut self, names: &BTreeSet<PortName>, alone: bool) -> ByPort {
        let named = names.iter().map(|name| (name.clone(), self.port(Facing::Announced { name, alone })));
        let named = named.collect();
        ByPort { named, other: self.port(Facing::Other { alone }) }
    }

    fn port(&mut self, facing: Facing<'_>) -> PortRules {
        let taken: BTreeSet<usize> =
            self.bindings.iter().filter(|binding| facing.takes(binding)).map(|binding| binding.route).collect();
        let mut sides: BTreeMap<Option<&Namespace>, Vec<usize>> = BTreeMap::new();
        for at in taken {
            let Some(route) = self.routes.get(at) else { continue };
            let own = &route.document.namespace;
            let consumer = Some(own).filter(|own| **own != self.service.namespace);
            sides.entry(consumer).or_default().push(at);
        }
        let mut rules = PortRules::default();
        for (side, routes) in sides {
            let Some(attached) = self.group(routes) else { continue };
            match side {
                None => rules.producer = Some(attached),
                Some(namespace) => {
                    rules.consumers.insert(namespace.clone(), attached);
                }
            }
        }
        rules
    }

    /// One kind has the port; of its routes, those without conditions leave room for one.
    fn group(&mut self, routes: Vec<usize>) -> Option<Attached> {
        if let Some(held) = self.groups.get(&routes) {
            return Some(held.clone());
        }
        let kind = routes.iter().filter_map(|at| self.routes.get(*at)).map(|route| route.kind).min()?;
        let of_kind = || routes.iter().filter_map(|at| self.routes.get(*at)).filter(|route| route.kind == kind);
        let attached = match kind {
            RouteKind::Grpc | RouteKind::Http => {
                let rules = of_kind().flat_map(|route| route.rules.iter().cloned());
                Attached::Matches(kind, Arc::new(RouteGroup::new(rules)))
            }
            RouteKind::Tls | RouteKind::Tcp => {
                let rules = of_kind().flat_map(|route| &route.rules).map(|(rule, _)| rule);
                Attached::Only(kind, rules.min_by(|a, b| a.id.cmp(&b.id)).cloned()?)
            }
        };
        self.groups.insert(routes, attached.clone());
        Some(attached)
    }

    /// Tells which routes, and which matches, never answer.
    fn tell(&self, findings: &mut Vec<Finding>) {
        let mut told: BTreeSet<(&DocumentKey, String, String)> = BTreeSet::new();
        for (routes, attached) in &self.groups {
            match attached {
                Attached::Only(kind, winner) => {
                    for loser in routes.iter().filter_map(|at| self.routes.get(*at)) {
                        if loser.kind == *kind && *loser.document != winner.route {
                            let message = format!(
                                "{} has a port of Service {} already: the first {} by name counts",
                                winner.route,
                                self.service,
                                kind.as_str()
                            );
                            told.insert((loser.document, "/spec/parentRefs".to_owned(), message));
                        }
                    }
                }
                Attached::Matches(_, group) => {
                    for (won, lost, at) in group.overlaps() {
                        let message = format!("{} asks for the same and comes before it by name", won.route);
                        told.insert((&lost.route, format!("/spec/rules/{}/matches/{at}", lost.id.rule), message));
                    }
                }
            }
            let kind = match attached {
                Attached::Only(kind, _) | Attached::Matches(kind, _) => *kind,
            };
            for loser in routes.iter().filter_map(|at| self.routes.get(*at)).filter(|route| route.kind != kind) {
                let message = format!(
                    "a {} has the port of Service {}, and one kind of route has a port",
                    kind.as_str(),
                    self.service
                );
                told.insert((loser.document, "/spec/parentRefs".to_owned(), message));
            }
        }
        findings.extend(told.into_iter().map(|(document, pointer, message)| {
            Finding::new(document, (Reason::Conflicted, codes::DOCUMENT_COVERED), pointer, message)
        }));
    }
}
