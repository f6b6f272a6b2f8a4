//! The record of one decision: what was asked of it, what lost and why, what was drawn, what came out.
//!
//! It is written by the deciding function itself, so it cannot differ from what live traffic meets. Where a rule draws
//! among backends, the function is run to its end for each of them, not for the drawn one only: a person who asks where
//! requests go wants all of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use starling_config::documents::rule_policy::CookieLifetime;
use starling_model::{EndpointId, MemberState, PortName, ServiceKey};

use crate::balance::ChosenBy;
use crate::decision::Decision;
use crate::gateways::{Listener, holds};
use crate::group::{Candidate, RouteGroup};
use crate::limits::{EXPLAINED_MAX, TOLD_CHARS_MAX};
use crate::matching::{HttpFacts, Miss, Missed};
use crate::pick::{Condition, Field, Load, condition, pool_shares};
use crate::rules::{RouteKind, Rule, RuleId, Side};
use crate::session::{Kept, Session};
use crate::split::{Backend, Split};
use crate::table::{Endpoint, Part, Service};

/// One decision, told.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// The addressed service; `None`: nobody knows it.
    pub service: Option<ServiceKey>,
    /// Its port; `None`: the request names none of several.
    pub port: Option<PortName>,
    /// The listener of a Gateway that took the connection.
    pub listener: Option<Arc<Listener>>,
    /// Which routes were asked; `None`: none is attached, or the connection is bytes and only matches are.
    pub route: Option<RouteStep>,
    /// Among which backends was drawn.
    pub split: Option<SplitStep>,
    /// The client's session at what was drawn; `None`: none is kept there.
    pub session: Option<SessionStep>,
    /// Among which endpoints.
    pub endpoints: Option<EndpointStep>,
    /// Where copies go.
    pub mirrors: Vec<EndpointId>,
    /// All that may become of the request, with its share: shares sum to 1, one outcome for each backend with a weight.
    pub outcomes: Vec<Outcome>,
}

/// What becomes of a share of requests.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The backend's place in the rule; `None` where none is drawn.
    pub backend: Option<usize>,
    /// Of all requests like this one, above 0.
    pub share: f64,
    /// What comes out.
    pub decision: Decision,
    /// Among which endpoints, where it comes to that.
    pub endpoints: Option<EndpointStep>,
    /// What becomes of the client's session there; `None`: none is kept.
    pub session: Option<SessionStep>,
}

/// Which rule, and which came before it in vain.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteStep {
    /// Whose routes.
    pub side: Side,
    /// Of which kind.
    pub kind: RouteKind,
    /// The rule, its name, and the place of the match in it; `None`: no match holds.
    pub winner: Option<Matched>,
    /// Better matches that do not hold, best first, at most [`EXPLAINED_MAX`].
    pub losers: Vec<Loser>,
    /// Losers that are not listed.
    pub losers_unlisted: usize,
    /// The loser that failed latest; told where nothing holds.
    pub nearest: Option<Loser>,
}

/// A match by its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Which rule.
    pub rule: RuleId,
    /// Its name.
    pub name: Option<String>,
    /// The place of the match in it.
    pub at: u16,
    /// What it asks for: `path prefix /`. Of a rule that takes every connection: `everything`.
    pub asks: String,
}

/// A match that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loser {
    /// Whose.
    pub matched: Matched,
    /// The first condition that fails, and what the request has instead.
    pub missed: Missed,
}

/// The draw among backends.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitStep {
    /// Each backend, with its share; `invalid` and the reason for one that cannot be used.
    pub shares: Vec<(String, f64)>,
    /// The place of the one that was drawn; `None`: all weights are 0, or there is none.
    pub drawn: Option<usize>,
}

/// What becomes of the client's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStep {
    /// The cookie's name.
    pub cookie: String,
    /// After this it ends, used or not; `None`: it does not.
    pub absolute_timeout: Option<Duration>,
    /// When the client forgets the cookie.
    pub lifetime: CookieLifetime,
    /// Whether it goes on.
    pub kept: Kept,
}

/// The pick among endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointStep {
    /// Of which service.
    pub service: ServiceKey,
    /// Of which of its ports; `None`: any.
    pub port: Option<PortName>,
    /// Of which subset; `None`: all.
    pub subset: Option<Arc<str>>,
    /// Those that may be picked at all, then those that are left out, at most [`EXPLAINED_MAX`].
    pub candidates: Vec<CandidateEndpoint>,
    /// Candidates that are not listed.
    pub unlisted: usize,
    /// The one that was picked.
    pub picked: Option<EndpointId>,
    /// By what rule.
    pub by: ChosenBy,
}

/// One endpoint as the pick saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateEndpoint {
    /// Which.
    pub id: EndpointId,
    /// What it announced itself as: what a stream to it names.
    pub service: ServiceKey,
    /// Its node's traffic address.
    pub address: Option<SocketAddr>,
    /// What membership says of its node.
    pub member: MemberState,
    /// Share of new requests to these endpoints.
    pub share: f64,
    /// How it stands.
    pub condition: Condition,
    /// What was read of it.
    pub load: Load,
}

impl RouteStep {
    pub(crate) fn matches(side: Side, kind: RouteKind, group: &RouteGroup, http: &HttpFacts<'_>) -> Self {
        let loser = |(candidate, miss): (Candidate<'_>, Miss)| Loser::new(candidate, miss, http);
        // Ends at the winner, for good.
        let mut losers = group.losers(http).fuse();
        let listed: Vec<Loser> = losers.by_ref().take(EXPLAINED_MAX).map(loser).collect();
        let losers_unlisted = losers.count();
        let winner = group.find(http).map(Matched::of);
        let nearest = if winner.is_some() { None } else { group.nearest_miss(http) };
        Self { side, kind, winner, losers: listed, losers_unlisted, nearest: nearest.map(loser) }
    }

    pub(crate) fn only(side: Side, kind: RouteKind, rule: &Rule) -> Self {
        let asks = "everything".to_owned();
        let winner = Some(Matched { rule: rule.id.clone(), name: rule.name.clone(), at: 0, asks });
        Self { side, kind, winner, losers: Vec::new(), losers_unlisted: 0, nearest: None }
    }
}

impl RouteStep {
    /// At a Gateway: by the server name, of all that the listener leads somewhere.
    pub(crate) fn by_name(listener: &Listener, rule: Option<&Arc<Rule>>, name: Option<&str>) -> Self {
        let asks = |hostname: Option<String>| match hostname {
            Some(hostname) => format!("server name {hostname}"),
            None => "every server name".to_owned(),
        };
        let matched =
            |rule: &Rule, asks: String| Matched { rule: rule.id.clone(), name: rule.name.clone(), at: 0, asks };
        let mut winner = None;
        let mut losers = Vec::new();
        for (hostname, other) in listener.routes() {
            let wins = rule.is_some_and(|rule| Arc::ptr_eq(rule, other)) && holds(hostname.as_deref(), name);
            let missed = Missed {
                miss: Miss::ServerName,
                matcher: "server name".to_owned(),
                want: hostname.clone().unwrap_or_default(),
                got: name.map(|name| name.chars().take(TOLD_CHARS_MAX).collect()),
            };
            match (wins, &winner) {
                // Of several names of one route the most special comes first.
                (true, None) => winner = Some(matched(other, asks(hostname))),
                (true, Some(_)) => {}
                (false, _) if holds(hostname.as_deref(), name) => {}
                (false, _) => losers.push(Loser { matched: matched(other, asks(hostname)), missed }),
            }
        }
        // What leads elsewhere says something where nothing leads on.
        if winner.is_some() {
            losers.clear();
        }
        let losers_unlisted = losers.len().saturating_sub(EXPLAINED_MAX);
        losers.truncate(EXPLAINED_MAX);
        let side = Side::Gateway(listener.gateway.clone());
        Self { side, kind: RouteKind::Tls, winner, losers, losers_unlisted, nearest: None }
    }
}

impl Matched {
    fn of(candidate: Candidate<'_>) -> Self {
        let Candidate { rule, at, conditions } = candidate;
        Self { rule: rule.id.clone(), name: rule.name.clone(), at, asks: conditions.to_string() }
    }
}

impl Loser {
    fn new(candidate: Candidate<'_>, miss: Miss, request: &HttpFacts<'_>) -> Self {
        Self { missed: candidate.conditions.missed(miss, request), matched: Matched::of(candidate) }
    }
}

impl Explanation {
    pub(crate) fn frontend(&mut self, service: &Service, port: Option<&PortName>) {
        self.service = Some(service.key.clone());
        self.port = port.cloned();
    }

    pub(crate) fn split(&mut self, split: &Split, drawn: Option<usize>) {
        let name = |backend: &Backend| match backend {
            Backend::To { target, .. } => target.to_string(),
            Backend::Invalid(reason) => format!("invalid: {reason}"),
        };
        let shares = split.backends().map(name).zip(split.shares()).collect();
        self.split = Some(SplitStep { shares, drawn });
    }

    /// What becomes of a backend's share.
    pub(crate) fn outcome(&mut self, backend: usize, share: f64, of: (Decision, Self)) {
        let (decision, told) = of;
        self.outcomes.push(Outcome {
            backend: Some(backend),
            share,
            decision,
            endpoints: told.endpoints,
            session: told.session,
        });
    }

    /// The decision has come out: where nothing was drawn it is all that may become of the request.
    pub(crate) fn decided(&mut self, decision: &Decision) {
        if self.outcomes.is_empty() {
            // A session that is kept has a backend without a draw.
            let drawn = self.split.as_ref().and_then(|split| split.drawn);
            let (endpoints, session) = (self.endpoints.clone(), self.session.clone());
            self.outcomes.push(Outcome { backend: drawn, share: 1.0, decision: decision.clone(), endpoints, session });
        }
    }

    pub(crate) fn session(&mut self, session: &Session, kept: Kept) {
        self.session = Some(SessionStep {
            cookie: session.cookie().to_owned(),
            absolute_timeout: session.absolute_timeout(),
            lifetime: session.lifetime(),
            kept,
        });
    }

    pub(crate) fn endpoints(&mut self, field: Field<'_>, part: Part, (picked, by): (Option<u32>, ChosenBy)) {
        let Field { service, pool, now, loads } = field;
        // What no draw decides goes there wholly.
        let certain = picked.filter(|_| by.is_certain());
        let shares = certain.map_or_else(|| pool_shares(field), |position| vec![(position, 1.0)]);
        let candidate = |(position, endpoint): (Option<u32>, &Endpoint)| {
            // Looked for among thousands, but only for those that are listed.
            let share = shares.iter().find(|(at, _)| Some(*at) == position).map_or(0.0, |(_, share)| *share);
            let load = loads(endpoint.index);
            let condition = condition(endpoint, &load, now);
            let (id, service) = (endpoint.id.clone(), endpoint.service.clone());
            CandidateEndpoint {
                id,
                service,
                address: endpoint.address,
                member: endpoint.member,
                share,
                condition,
                load,
            }
        };
        let admitted = pool.positions().map(|position| (Some(position), service.endpoints.get(position as usize)));
        let admitted = admitted.filter_map(|(position, endpoint)| Some((position, endpoint?)));
        let left_out = service.endpoints.iter().filter(|one| !one.admissible() && service.is_of(one, part));
        let mut all = admitted.chain(left_out.map(|endpoint| (None, endpoint)));
        let candidates = all.by_ref().take(EXPLAINED_MAX).map(candidate).collect();
        let port = part.port.and_then(|at| service.ports.get(usize::from(at))).map(|port| port.name.clone());
        let subset = part.subset.and_then(|at| service.subsets().get(usize::from(at)));
        self.endpoints = Some(EndpointStep {
            service: service.key.clone(),
            port,
            subset: subset.map(|subset| Arc::clone(&subset.name)),
            unlisted: all.count(),
            candidates,
            picked: picked.and_then(|at| service.endpoints.get(at as usize)).map(|endpoint| endpoint.id.clone()),
            by,
        });
    }
}
