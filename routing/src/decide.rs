//! One decision: route, then split, then endpoint. The live path and explanations run this one function.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, StatusCode, header};
use starling_model::PortName;

use crate::decision::{Choice, Decision, DirectResponse, Draws, MirrorTo, Refusal, RequestFacts};
use crate::explain::{Explanation, RouteStep};
use crate::filters::FilterChain;
use crate::matching::HttpFacts;
use crate::pick::{self, Field, Load};
use crate::rules::{Attached, RouteKind, Rule};
use crate::split::{Backend, Target};
use crate::table::{EndpointIndex, Part, RouteTable, Service, ServicePort};

/// What a decision is made from, besides the request.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) table: &'a RouteTable,
    pub(crate) now: Instant,
    pub(crate) draws: Draws,
    pub(crate) loads: &'a dyn Fn(EndpointIndex) -> Load,
}

/// Where a request is addressed.
#[derive(Clone, Copy)]
struct Frontend<'a> {
    service: &'a Arc<Service>,
    at: u32,
    /// `None`: the request names none of several.
    port: Option<u16>,
}

impl<'a> Frontend<'a> {
    /// The number that `Location` may need: the port's, else what the caller wrote.
    fn number(&self, http: &HttpFacts<'_>) -> Option<u16> {
        let declared = self.port().and_then(|port| port.number).map(std::num::NonZeroU16::get);
        declared.or_else(|| http.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()))
    }

    fn port(&self) -> Option<&'a ServicePort> {
        self.port.and_then(|at| self.service.ports.get(usize::from(at)))
    }
}

/// Whoever listens; the live path does not.
type Record<'r> = Option<&'r mut Explanation>;

pub(crate) fn run(view: &View<'_>, request: &RequestFacts<'_>, mut record: Record<'_>) -> Decision {
    let decision = route(view, request, record.as_deref_mut());
    if let Some(record) = record {
        record.decided(&decision);
    }
    decision
}

fn route(view: &View<'_>, request: &RequestFacts<'_>, mut record: Record<'_>) -> Decision {
    let Some((at, service)) = view.table.at(request.destination) else {
        return refuse(Refusal::NoService, None);
    };
    let port = match request.port {
        Some(name) => match service.port_named(name) {
            Some(port) => Some(port),
            None => return refuse(Refusal::NoPort, None),
        },
        None => (service.ports.len() == 1).then_some(0),
    };
    let frontend = Frontend { service, at, port };
    let name = frontend.port().map(|port| &port.name);
    let rules = view.table.front_at(at).map(|front| front.rules(name, service.ports.len()));
    let caller = request.source.map(|source| &source.namespace);
    let attached = rules.and_then(|rules| rules.for_caller(caller));
    if let Some(record) = record.as_deref_mut() {
        record.frontend(service, name);
    }
    match (attached, request.http) {
        (None, _) => own(view, frontend, request, record),
        (Some((side, Attached::Matches(kind, group))), Some(http)) => {
            let won = group.find(http);
            if let Some(record) = record.as_deref_mut() {
                record.route = Some(RouteStep::matches(side, *kind, group, http));
            }
            match won {
                Some(won) => by_rule(view, frontend, request, (*kind, won.rule, record)),
                None => refuse(Refusal::NoRule, None),
            }
        }
        // Bytes: what is asked for in them cannot be seen, so such routes do not hold.
        (Some((_, Attached::Matches(..))), None) => own(view, frontend, request, record),
        (Some((side, Attached::Only(kind, rule))), _) => {
            if let Some(record) = record.as_deref_mut() {
                record.route = Some(RouteStep::only(side, *kind, rule));
            }
            by_rule(view, frontend, request, (*kind, rule, record))
        }
    }
}

fn refuse(why: Refusal, rule: Option<&Arc<Rule>>) -> Decision {
    Decision::Refuse { why, rule: rule.cloned() }
}

/// Without a route: to the service itself.
fn own(view: &View<'_>, frontend: Frontend<'_>, request: &RequestFacts<'_>, record: Record<'_>) -> Decision {
    let part = Part { port: frontend.port, subset: None };
    match endpoint(view, frontend.service, part, request, record) {
        None => refuse(Refusal::NoEndpoint, None),
        Some(endpoint) => Decision::Forward(Choice {
            service: Arc::clone(frontend.service),
            endpoint,
            part,
            rule: None,
            backend: None,
            service_policy: view.table.policy_at(frontend.at).cloned(),
            mirrors: Vec::new(),
        }),
    }
}

fn by_rule(
    view: &View<'_>,
    frontend: Frontend<'_>,
    request: &RequestFacts<'_>,
    (kind, rule, mut record): (RouteKind, &Arc<Rule>, Record<'_>),
) -> Decision {
    if let Some(answer) = request.http.and_then(|http| answered(&rule.filters, http, frontend)) {
        return answer.finish(rule);
    }
    let drawn = rule.split.draw(view.draws);
    if let Some(record) = record.as_deref_mut() {
        record.split(&rule.split, drawn.map(|(at, _)| at));
        let weighed = rule.split.backends().zip(rule.split.shares()).enumerate();
        for (at, (backend, share)) in weighed.filter(|(_, (_, share))| *share > 0.0) {
            let mut told = Explanation::default();
            let decision = by_backend(view, frontend, request, (kind, rule, (at, backend), Some(&mut told)));
            record.outcome(at, share, (decision, told));
        }
    }
    match drawn {
        None => refuse(Refusal::NoBackend, Some(rule)),
        Some(drawn) => by_backend(view, frontend, request, (kind, rule, drawn, record)),
    }
}

/// After the draw.
fn by_backend(
    view: &View<'_>,
    frontend: Frontend<'_>,
    request: &RequestFacts<'_>,
    (kind, rule, (at, backend), mut record): (RouteKind, &Arc<Rule>, (usize, &Backend), Record<'_>),
) -> Decision {
    let (target, filters) = match backend {
        Backend::Invalid(_) => return refuse(Refusal::InvalidBackend, Some(rule)),
        Backend::To { target, filters } => (target, filters.as_deref()),
    };
    let Some((place, service, part)) = locate(view.table, frontend, target).filter(|found| carries(kind, found)) else {
        return refuse(Refusal::InvalidBackend, Some(rule));
    };
    let answer = filters.zip(request.http).and_then(|(filters, http)| answered(filters, http, frontend));
    if let Some(answer) = answer {
        return answer.finish(rule);
    }
    let Some(endpoint) = endpoint(view, service, part, request, record.as_deref_mut()) else {
        return refuse(Refusal::NoEndpoint, Some(rule));
    };
    let choice = Choice {
        service: Arc::clone(service),
        endpoint,
        part,
        rule: Some(Arc::clone(rule)),
        backend: Some(at),
        service_policy: view.table.policy_at(place).cloned(),
        // A request is copied once, however often it is tried.
        mirrors: match request.avoid {
            [] => mirrors(view, frontend, &rule.filters, filters),
            _ => Vec::new(),
        },
    };
    if let Some(record) = record {
        record.mirrors = choice.mirrors.iter().map(|mirror| mirror.endpoint().id.clone()).collect();
    }
    Decision::Forward(choice)
}

/// Whether the port that was found carries what rules of this kind are about.
fn carries(kind: RouteKind, (_, service, part): &(u32, &Arc<Service>, Part)) -> bool {
    !kind.reads_requests() || part.port.is_none_or(|port| !service.is_bytes(port))
}

/// An answer that no endpoint is needed for, or why it cannot be given.
enum Answered {
    Directly(StatusCode, HeaderMap),
    NoLocation,
}

impl Answered {
    fn finish(self, rule: &Arc<Rule>) -> Decision {
        match self {
            Self::Directly(status, headers) => {
                Decision::Answer(DirectResponse { status, headers, rule: Arc::clone(rule) })
            }
            Self::NoLocation => refuse(Refusal::NoLocation, Some(rule)),
        }
    }
}

fn answered(filters: &FilterChain, http: &HttpFacts<'_>, frontend: Frontend<'_>) -> Option<Answered> {
    if let Some(headers) = filters.preflight(http) {
        return Some(Answered::Directly(StatusCode::NO_CONTENT, headers));
    }
    if !filters.redirects() {
        return None;
    }
    Some(match filters.redirect(http, frontend.number(http))? {
        Ok((status, location)) => {
            let mut headers = filters.cors_response(http.headers);
            headers.insert(header::LOCATION, location);
            Answered::Directly(status, headers)
        }
        Err(_) => Answered::NoLocation,
    })
}

/// The part of a service that a target means in this table; `None` where there is no such service or port.
fn locate<'a>(table: &'a RouteTable, frontend: Frontend<'a>, target: &Target) -> Option<(u32, &'a Arc<Service>, Part)> {
    let own = target.service == frontend.service.key;
    let (at, service) = if own { (frontend.at, frontend.service) } else { table.at(&target.service)? };
    let port = port_of(service, target, frontend.port.filter(|_| own), frontend.port().map(|port| &port.name))?;
    Some((at, service, Part { port, subset: target.subset.as_ref().map(|subset| subset.at) }))
}

/// The place of the port that a target means: `own` is the frontend's, where the target is that very service, `named` its
/// name. `None`: it has none such; of a service whose ports are not known, none is needed.
pub(crate) fn port_of(
    service: &Service,
    target: &Target,
    own: Option<u16>,
    named: Option<&PortName>,
) -> Option<Option<u16>> {
    let Some(number) = target.port else {
        return match service.ports.len() {
            0 => Some(None),
            1 => Some(Some(0)),
            _ if own.is_some() => Some(own),
            _ => service.port_named(named?).map(Some),
        };
    };
    if service.ports.is_empty() {
        return Some(None);
    }
    let by_number = service.ports.iter().position(|port| port.number == Some(number));
    let found = by_number.or_else(|| match service.ports.as_slice() {
        // A service that no document gives numbers takes any with its only port.
        [only] if only.number.is_none() => Some(0),
        ports => {
            let named = |port: &ServicePort| port.name.as_str().parse() == Ok(number.get());
            ports.iter().position(|port| port.number.is_none() && named(port))
        }
    })?;
    u16::try_from(found).ok().map(Some)
}

fn endpoint(
    view: &View<'_>,
    service: &Service,
    part: Part,
    request: &RequestFacts<'_>,
    record: Record<'_>,
) -> Option<u32> {
    let pool = service.pool(part)?;
    let field = Field { service, pool, now: view.now, loads: view.loads };
    let picked = pick::pick(field, request.avoid, |n| view.draws.pick(n));
    if let Some(record) = record {
        record.endpoints(field, part, picked);
    }
    picked
}

/// One endpoint per copy that is drawn; a target without one is left out, since a copy answers nobody.
fn mirrors(
    view: &View<'_>,
    frontend: Frontend<'_>,
    of_rule: &FilterChain,
    of_backend: Option<&FilterChain>,
) -> Vec<MirrorTo> {
    let first = of_rule.mirrors_len();
    let after = of_backend.into_iter().flat_map(|chain| chain.mirrors(view.draws, first));
    let drawn = of_rule.mirrors(view.draws, 0).chain(after);
    let to = |(at, target): (u32, &Target)| {
        // Only rules that read requests copy any.
        let found = locate(view.table, frontend, target).filter(|found| carries(RouteKind::Http, found));
        let (_, service, part) = found?;
        let field = Field { service, pool: service.pool(part)?, now: view.now, loads: view.loads };
        let endpoint = pick::pick(field, &[], |n| view.draws.mirror_pick(at, n))?;
        Some(MirrorTo { service: Arc::clone(service), endpoint })
    };
    (0u32..).zip(drawn).filter_map(to).collect()
}
