//! Backends and mirrors of rules that cannot be used as things are: what documents alone do not show, since instances
//! decide it.

use std::sync::Arc;

use starling_model::PortName;

use crate::decide::port_of;
use crate::filters::FilterChain;
use crate::rules::{Attached, Front, RouteKind, Rule};
use crate::split::{Backend, Target};
use crate::table::{Part, RouteTable, Service};

/// What is the matter with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The port speaks bytes, which the route's kind cannot use: its share is answered with an error (500), a copy is not
    /// sent.
    Bytes,
    /// The service has no such port: likewise.
    NoPort,
    /// It has no endpoint that may be used now: 503.
    NoEndpoint,
}

/// What of a rule leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LedBy {
    /// The backend at this place.
    Backend(usize),
    /// A mirror: of the backend at this place or, with `None`, of the rule; by its own place among those.
    Mirror(Option<usize>, u32),
}

impl LedBy {
    /// Where it stands in a document whose rule has this place (RFC 6901).
    #[must_use]
    pub fn pointer(self, rule: u16) -> String {
        match self {
            Self::Backend(at) | Self::Mirror(Some(at), _) => format!("/spec/rules/{rule}/backendRefs/{at}"),
            Self::Mirror(None, _) => format!("/spec/rules/{rule}/filters"),
        }
    }
}

/// One backend or mirror in trouble.
#[derive(Clone, Copy, Debug)]
pub struct TroubledBackend<'a> {
    /// Of this rule.
    pub rule: &'a Arc<Rule>,
    /// The kind of its route.
    pub kind: RouteKind,
    /// What of it.
    pub by: LedBy,
    /// Where it leads.
    pub target: &'a Target,
    /// Why that is of no use.
    pub trouble: Trouble,
}

impl RouteTable {
    /// All of them that take anything, in order of routes and rules. A service that nobody knows is a
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
        for listener in self.gateways().iter() {
            found.extend(listener.routes().flat_map(|(_, rule)| self.of_rule(RouteKind::Tls, rule, None, None)));
        }
        // A rule comes once for each match and each port that it holds for; what is worst of a backend is told.
        found.sort_by_key(|one| (&one.rule.route, &one.rule.id, one.by, one.trouble));
        found.dedup_by_key(|one| (&one.rule.route, &one.rule.id, one.by));
        found
    }

    fn of<'a>(
        &'a self,
        attached: &'a Attached,
        service: Option<&'a Arc<Service>>,
        port: Option<&'a PortName>,
    ) -> impl Iterator<Item = TroubledBackend<'a>> {
        let kind = attached.kind();
        attached.rules().flat_map(move |rule| self.of_rule(kind, rule, service, port))
    }

    fn of_rule<'a>(
        &'a self,
        kind: RouteKind,
        rule: &'a Arc<Rule>,
        service: Option<&'a Arc<Service>>,
        port: Option<&'a PortName>,
    ) -> impl Iterator<Item = TroubledBackend<'a>> {
        let backends = rule.split.targets().map(|(at, target)| (LedBy::Backend(at), target));
        let mirrors = rule.filters.mirror_targets().map(|(at, target)| (LedBy::Mirror(None, at), target));
        let of_backends = rule.split.backends().enumerate().flat_map(|(backend, one)| {
            let chain = match one {
                Backend::To { filters, .. } => filters.as_deref(),
                Backend::Invalid(_) => None,
            };
            let targets = chain.into_iter().flat_map(FilterChain::mirror_targets);
            targets.map(move |(at, target)| (LedBy::Mirror(Some(backend), at), target))
        });
        backends.chain(mirrors).chain(of_backends).filter_map(move |(by, target)| {
            let trouble = self.trouble(service.map(|service| &**service), port, kind, target)?;
            Some(TroubledBackend { rule, kind, by, target, trouble })
        })
    }

    /// What is the matter with a backend or a mirror of a route of this kind, for requests to this port of a service.
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
