//! One decision: route, then split, then endpoint. The live path and explanations run this one function.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, StatusCode, header};
use starling_model::PortName;

use crate::balance::{Balancing, ChosenBy};
use crate::decision::{Choice, Decision, Destination, DirectResponse, Draws, MirrorTo, Refusal, RequestFacts};
use crate::explain::{Explanation, RouteStep};
use crate::filters::FilterChain;
use crate::matching::HttpFacts;
use crate::pick::{self, Field, Load, Wish};
use crate::rules::{Attached, RouteKind, Rule, Sessions};
use crate::session::{Began, Kept, Session, SessionKey};
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
    /// `None`: a Gateway.
    service: Option<(u32, &'a Arc<Service>)>,
    /// `None`: the request names none of several.
    port: Option<u16>,
}

impl<'a> Frontend<'a> {
    /// The number that `Location` may need: the port's, else what the caller wrote.
    fn number(&self, http: &HttpFacts<'_>) -> Option<u16> {
        let declared = self.port().and_then(|port| port.number).map(NonZeroU16::get);
        declared.or_else(|| http.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()))
    }

    fn port(&self) -> Option<&'a ServicePort> {
        self.service.zip(self.port).and_then(|((_, service), at)| service.ports.get(usize::from(at)))
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
    let destination = match request.destination {
        Destination::Service(service) => service,
        Destination::Gateway { port, name } => return at_gateway(view, request, (port, name), record),
    };
    let Some((at, service)) = view.table.at(destination) else {
        return refuse(Refusal::NoService, None);
    };
    let port = match request.port {
        Some(name) => match service.port_named(name) {
            Some(port) => Some(port),
            None => return refuse(Refusal::NoPort, None),
        },
        None => (service.ports.len() == 1).then_some(0),
    };
    let frontend = Frontend { service: Some((at, service)), port };
    let name = frontend.port().map(|port| &port.name);
    let rules = view.table.front_at(at).map(|front| front.rules(name, service.ports.len()));
    let caller = request.source.map(|source| &source.namespace);
    let attached = rules.and_then(|rules| rules.for_caller(caller));
    if let Some(record) = record.as_deref_mut() {
        record.frontend(service, name);
    }
    match (attached, request.http) {
        (None, _) => own(view, (at, service, port), request, record),
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
        (Some((_, Attached::Matches(..))), None) => own(view, (at, service, port), request, record),
        (Some((side, Attached::Only(kind, rule))), _) => {
            if let Some(record) = record.as_deref_mut() {
                record.route = Some(RouteStep::only(side, *kind, rule));
            }
            by_rule(view, frontend, request, (*kind, rule, record))
        }
    }
}

/// A connection from outside: its listener by the server name, then the route by it.
fn at_gateway(
    view: &View<'_>,
    request: &RequestFacts<'_>,
    (port, name): (NonZeroU16, Option<&str>),
    mut record: Record<'_>,
) -> Decision {
    let listener = request.node.and_then(|node| view.table.gateways().listener(node, port, name));
    let Some(listener) = listener else { return refuse(Refusal::NoListener, None) };
    let rule = listener.routes.get(name);
    if let Some(record) = record.as_deref_mut() {
        record.route = Some(RouteStep::by_name(listener, rule, name));
        record.listener = Some(Arc::clone(listener));
    }
    let Some(rule) = rule else { return refuse(Refusal::NoRule, None) };
    by_rule(view, Frontend { service: None, port: None }, request, (RouteKind::Tls, rule, record))
}

fn refuse(why: Refusal, rule: Option<&Arc<Rule>>) -> Decision {
    Decision::Refuse { why, rule: rule.cloned() }
}

/// Where the request's session is.
#[derive(Clone, Copy)]
enum Seat {
    /// Nobody keeps sessions, or it is a connection of bytes.
    Free,
    /// At the endpoint of this position.
    Held(u32),
    /// Nowhere yet.
    New(Began),
}

impl Seat {
    /// What the cookie of a session that begins is sealed with.
    fn key(self, table: &RouteTable) -> Option<Arc<SessionKey>> {
        match self {
            Self::Free | Self::Held(_) => None,
            Self::New(_) => table.session_key.clone(),
        }
    }

    fn kept(self, request: &RequestFacts<'_>) -> Option<Kept> {
        match self {
            Self::Free => None,
            Self::Held(_) => Some(Kept::Yes),
            Self::New(why) => Some(Kept::New { at: request.wall, why }),
        }
    }
}

/// Without a route: to the service itself.
fn own(
    view: &View<'_>,
    (at, service, port): (u32, &Arc<Service>, Option<u16>),
    request: &RequestFacts<'_>,
    mut record: Record<'_>,
) -> Decision {
    let part = Part { port, subset: None };
    let policy = view.table.policy_at(at);
    let session = policy.and_then(|policy| policy.session.as_ref());
    let seat = session.map_or(Seat::Free, |session| seat_at(view, request, session, (service, part)));
    if let (Some(session), Some(kept), Some(record)) = (session, seat.kept(request), record.as_deref_mut()) {
        record.session(session, kept);
    }
    match endpoint(view, (service, part), request, (seat, record)) {
        None => refuse(Refusal::NoEndpoint, None),
        Some((endpoint, turn)) => Decision::Forward(Choice {
            service: Arc::clone(service),
            endpoint,
            part,
            rule: None,
            backend: None,
            service_policy: policy.cloned(),
            mirrors: Vec::new(),
            session: seat.kept(request),
            session_key: seat.key(view.table),
            turn,
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
    // A session comes before weights, even weight 0; it may be with a backend that nothing else goes to.
    let seat = match held(view, frontend, request, (kind, rule)) {
        Ok((at, position)) => {
            if let Some(record) = record.as_deref_mut() {
                record.split(&rule.split, Some(at));
            }
            let Some(backend) = rule.split.backends().nth(at) else { return refuse(Refusal::NoBackend, Some(rule)) };
            return by_backend(view, frontend, request, (kind, rule, (at, backend), record), Seat::Held(position));
        }
        Err(seat) => seat,
    };
    let drawn = rule.split.draw(view.draws);
    if let Some(record) = record.as_deref_mut() {
        record.split(&rule.split, drawn.map(|(at, _)| at));
        let weighed = rule.split.backends().zip(rule.split.shares()).enumerate();
        for (at, (backend, share)) in weighed.filter(|(_, (_, share))| *share > 0.0) {
            let mut told = Explanation::default();
            let decision = by_backend(view, frontend, request, (kind, rule, (at, backend), Some(&mut told)), seat);
            record.outcome(at, share, (decision, told));
        }
    }
    match drawn {
        None => refuse(Refusal::NoBackend, Some(rule)),
        Some(drawn) => by_backend(view, frontend, request, (kind, rule, drawn, record), seat),
    }
}

/// The backend and the endpoint that the request's session is with, or that there is none.
fn held(
    view: &View<'_>,
    frontend: Frontend<'_>,
    request: &RequestFacts<'_>,
    (kind, rule): (RouteKind, &Rule),
) -> Result<(usize, u32), Seat> {
    let Some(http) = request.http else { return Err(Seat::Free) };
    let places = || {
        rule.split.backends().enumerate().filter_map(|(at, backend)| match backend {
            Backend::To { target, .. } => {
                let found = locate(view.table, frontend, target).filter(|found| carries(kind, found))?;
                Some((at, found))
            }
            Backend::Invalid(_) => None,
        })
    };
    match &rule.sessions {
        Sessions::None => Err(Seat::Free),
        Sessions::OfRule(session) => {
            let leads = |mark| {
                places().find_map(|(at, (_, service, part))| {
                    let position = service.marked(mark)?;
                    may_take(view, request, (service, part), position).then_some((at, position))
                })
            };
            session.find(http.headers, (request.wall, view.table.session_key()), leads).map_err(Seat::New)
        }
        Sessions::OfServices => {
            let seats = places().filter_map(|(at, (place, service, part))| {
                let session = view.table.policy_at(place)?.session.as_ref()?;
                match seat_at(view, request, session, (service, part)) {
                    Seat::Held(position) => Some((at, position)),
                    Seat::Free | Seat::New(_) => None,
                }
            });
            // Which service begins a session is drawn first.
            seats.take(1).last().ok_or(Seat::Free)
        }
    }
}

/// Where the request's session with this part of a service is.
fn seat_at(view: &View<'_>, request: &RequestFacts<'_>, session: &Session, (service, part): (&Service, Part)) -> Seat {
    let Some(http) = request.http else { return Seat::Free };
    let leads = |mark| service.marked(mark).filter(|at| may_take(view, request, (service, part), *at));
    session.find(http.headers, (request.wall, view.table.session_key()), leads).map_or_else(Seat::New, Seat::Held)
}

fn may_take(view: &View<'_>, request: &RequestFacts<'_>, (service, part): (&Service, Part), position: u32) -> bool {
    let Some(pool) = service.pool(part) else { return false };
    pick::may_take(Field { service, pool, now: view.now, loads: view.loads }, request.avoid, position)
}

/// After the draw.
fn by_backend(
    view: &View<'_>,
    frontend: Frontend<'_>,
    request: &RequestFacts<'_>,
    (kind, rule, (at, backend), mut record): (RouteKind, &Arc<Rule>, (usize, &Backend), Record<'_>),
    seat: Seat,
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
    let policy = view.table.policy_at(place);
    let session = match &rule.sessions {
        Sessions::None => None,
        Sessions::OfRule(session) => Some(&**session),
        Sessions::OfServices => policy.and_then(|policy| policy.session.as_ref()),
    };
    let seat = match (seat, session) {
        // Only the backend that was drawn tells whether its service keeps sessions.
        (Seat::Free, Some(session)) => seat_at(view, request, session, (service, part)),
        (Seat::Free | Seat::Held(_) | Seat::New(_), _) => seat,
    };
    if let (Some(session), Some(kept), Some(record)) = (session, seat.kept(request), record.as_deref_mut()) {
        record.session(session, kept);
    }
    let Some((endpoint, turn)) = endpoint(view, (service, part), request, (seat, record.as_deref_mut())) else {
        return refuse(Refusal::NoEndpoint, Some(rule));
    };
    let choice = Choice {
        service: Arc::clone(service),
        endpoint,
        part,
        rule: Some(Arc::clone(rule)),
        backend: Some(at),
        service_policy: policy.cloned(),
        // A request is copied once, however often it is tried.
        mirrors: match request.avoid {
            [] => mirrors(view, frontend, request, (&rule.filters, filters)),
            _ => Vec::new(),
        },
        session: seat.kept(request),
        session_key: seat.key(view.table),
        turn,
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
    let own = frontend.service.filter(|(_, service)| service.key == target.service);
    let (at, service) = own.or_else(|| table.at(&target.service))?;
    let own = frontend.port.filter(|_| own.is_some());
    let port = port_of(service, target, own, frontend.port().map(|port| &port.name))?;
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

/// The endpoint, and the one that counts the turns where endpoints take them.
#[inline(always)]
fn endpoint(
    view: &View<'_>,
    (service, part): (&Service, Part),
    request: &RequestFacts<'_>,
    (seat, record): (Seat, Record<'_>),
) -> Option<(u32, Option<EndpointIndex>)> {
    let pool = service.pool(part)?;
    let field = Field { service, pool, now: view.now, loads: view.loads };
    let picked = match seat {
        Seat::Held(position) => Some((position, None)),
        Seat::Free | Seat::New(_) => {
            let wish = Wish { avoid: request.avoid, draws: view.draws, hashed: None, copy: None };
            match &service.balancing {
                Balancing::PeakEwma | Balancing::LeastRequest | Balancing::Random => {
                    pick::pick(field, &wish).map(|position| (position, None))
                }
                Balancing::RoundRobin => pick::pick(field, &wish).map(|position| (position, pick::turn_counter(field))),
                Balancing::Maglev(_) => {
                    let hashed = service.balancing.hashed(request);
                    pick::pick(field, &Wish { hashed, ..wish }).map(|position| (position, None))
                }
            }
        }
    };
    if let Some(record) = record {
        tell(record, (field, part), request, (seat, picked.map(|(position, _)| position)));
    }
    picked
}

#[cold]
fn tell(
    record: &mut Explanation,
    (field, part): (Field<'_>, Part),
    request: &RequestFacts<'_>,
    (seat, picked): (Seat, Option<u32>),
) {
    let by = match seat {
        Seat::Held(_) => ChosenBy::Session,
        Seat::Free | Seat::New(_) => field.service.balancing.chosen_by(request),
    };
    record.endpoints(field, part, (picked, by));
}

/// One endpoint per copy that is drawn; a target without one is left out, since a copy answers nobody.
fn mirrors(
    view: &View<'_>,
    frontend: Frontend<'_>,
    request: &RequestFacts<'_>,
    (of_rule, of_backend): (&FilterChain, Option<&FilterChain>),
) -> Vec<MirrorTo> {
    let first = of_rule.mirrors_len();
    let after = of_backend.into_iter().flat_map(|chain| chain.mirrors(view.draws, first));
    let drawn = of_rule.mirrors(view.draws, 0).chain(after);
    let to = |(at, target): (u32, &Target)| {
        // Only rules that read requests copy any.
        let found = locate(view.table, frontend, target).filter(|found| carries(RouteKind::Http, found));
        let (_, service, part) = found?;
        let field = Field { service, pool: service.pool(part)?, now: view.now, loads: view.loads };
        let hashed = service.balancing.hashed(request);
        let endpoint = pick::pick(field, &Wish { avoid: &[], draws: view.draws, hashed, copy: Some(at) })?;
        Some(MirrorTo { service: Arc::clone(service), endpoint })
    };
    (0u32..).zip(drawn).filter_map(to).collect()
}
