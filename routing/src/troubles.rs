//! Backends of rules that cannot be used as things are: what documents alone do not show, since instances decide it.

use std::sync::Arc;

use starling_model::PortName;

use crate::decide::port_of;
use crate::rules::{Attached, Front, RouteKind, Rule};
use crate::split::Target;
use crate::table::{Part, RouteTable, Service};

/// What is the matter with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The port speaks bytes, which the route's kind cannot use: its share is answered with an error (500).
    Bytes,
    /// The service has no such port: likewise.
    NoPort,
    /// It has no endpoint that may be used now: 503.
    NoEndpoint,
}

/// One backend in trouble.
#[derive(Clone, Copy, Debug)]
pub struct TroubledBackend<'a> {
    /// Of this rule.
    pub rule: &'a Arc<Rule>,
    /// The kind of its route.
    pub kind: RouteKind,
    /// The place of the backend in it.
    pub at: usize,
    /// Where it leads.
    pub target: &'a Target,
    /// Why that is of no use.
    pub trouble: Trouble,
}

impl RouteTable {
    /// All of them that have a share, in order of routes and rules. A service that nobody knows is a
    /// [finding](Self::findings) instead.
    #[must_use]
    pub fn troubled_backends(&self) -> Vec<TroubledBackend<'_>> {
        let mut found = Vec::new();
        for (key, front) in &self.rules.fronts {
            let service = self.service(key);
            match service.map(|service| (service, &service.ports[..])) {
                Some((service, ports @ [_, ..])) => {
                    for port in ports {
                        let attached = front.rules(Some(&port.name), ports.len()).every();
                        found.extend(attached.flat_map(|one| self.of(one, Some(service), Some(&port.name))));
                    }
                }
                Some(_) | None => found.extend(Front::every(front).flat_map(|one| self.of(one, service, None))),
            }
        }
        // A rule comes once for each match and each port that it holds for; what is worst of a backend is told.
        found.sort_by_key(|one| (&one.rule.route, &one.rule.id, one.at, one.trouble));
        found.dedup_by_key(|one| (&one.rule.route, &one.rule.id, one.at));
        found
    }

    fn of<'a>(
        &'a self,
        attached: &'a Attached,
        service: Option<&'a Arc<Service>>,
        port: Option<&'a PortName>,
    ) -> impl Iterator<Item = TroubledBackend<'a>> {
        let kind = attached.kind();
        attached.rules().flat_map(move |rule| {
            rule.split.targets().filter_map(move |(at, target)| {
                let trouble = self.trouble(service.map(|service| &**service), port, kind, target)?;
                Some(TroubledBackend { rule, kind, at, target, trouble })
            })
        })
    }

    /// What is the matter with a backend of a route of this kind, for requests to this port of a service.
    #[must_use]
    pub fn trouble(
        &self,
        service: Option<&Service>,
        port: Option<&PortName>,
        kind: RouteKind,
        target: &Target,
    ) -> Option<Trouble> {
        let backend = self.service(&target.service)?;
        let own = service.filter(|service| service.key == target.service);
        let own = own.zip(port).and_then(|(service, port)| service.port_named(port));
        let Some(place) = port_of(backend, target, own, port) else { return Some(Trouble::NoPort) };
        if kind.reads_requests() && place.is_some_and(|place| backend.is_bytes(place)) {
            return Some(Trouble::Bytes);
        }
        let part = Part { port: place, subset: target.subset.as_ref().map(|subset| subset.at) };
        backend.pool(part).is_none_or(|pool| pool.len() == 0).then_some(Trouble::NoEndpoint)
    }
}
