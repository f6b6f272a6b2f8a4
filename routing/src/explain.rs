//! The record of one decision: what was asked of it, what lost and why, what was drawn, what came out.
//!
//! It is written by the deciding function itself, so it cannot differ from what live traffic meets.

use std::sync::Arc;

use starling_model::{EndpointId, PortName, ServiceKey};

use crate::group::{Candidate, RouteGroup};
use crate::limits::EXPLAINED_MAX;
use crate::matching::{HttpFacts, Miss};
use crate::pick::{Condition, Field, Load, condition, pool_shares};
use crate::rules::{RouteKind, Rule, RuleId, Side};
use crate::split::{Backend, Split};
use crate::table::{Part, Service};

/// One decision, told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// The addressed service; `None`: nobody knows it.
    pub service: Option<ServiceKey>,
    /// Its port; `None`: the request names none of several.
    pub port: Option<PortName>,
    /// Which routes were asked; `None`: none is attached, or the connection is bytes and only matches are.
    pub route: Option<RouteStep>,
    /// Among which backends was drawn.
    pub split: Option<SplitStep>,
    /// Among which endpoints.
    pub endpoints: Option<EndpointStep>,
    /// Where copies go.
    pub mirrors: Vec<EndpointId>,
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
}

/// A match that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loser {
    /// Whose.
    pub matched: Matched,
    /// The first condition that fails.
    pub miss: Miss,
    /// What it asks for.
    pub wanted: String,
}

/// The draw among backends.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitStep {
    /// Each backend, with its share; `invalid` and the reason for one that cannot be used.
    pub shares: Vec<(String, f64)>,
    /// The place of the one that was drawn; `None`: all weights are 0, or there is none.
    pub drawn: Option<usize>,
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
    /// Those that may be picked at all, at most [`EXPLAINED_MAX`].
    pub candidates: Vec<CandidateEndpoint>,
    /// Candidates that are not listed.
    pub unlisted: usize,
    /// The one that was picked.
    pub picked: Option<EndpointId>,
}

/// One endpoint as the pick saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateEndpoint {
    /// Which.
    pub id: EndpointId,
    /// Share of new requests.
    pub share: f64,
    /// How it stands.
    pub condition: Condition,
    /// What was read of it.
    pub load: Load,
}

impl RouteStep {
    pub(crate) fn matches(side: Side, kind: RouteKind, group: &RouteGroup, http: &HttpFacts<'_>) -> Self {
        let mut losers = group.losers(http).map(|(candidate, miss)| Loser::new(candidate, miss));
        let listed: Vec<Loser> = losers.by_ref().take(EXPLAINED_MAX).collect();
        let losers_unlisted = losers.count();
        let winner = group.find(http).map(|won| Matched::new(won.rule, won.at));
        let nearest = if winner.is_some() { None } else { group.nearest_miss(http) };
        let nearest = nearest.map(|(candidate, miss)| Loser::new(candidate, miss));
        Self { side, kind, winner, losers: listed, losers_unlisted, nearest }
    }

    pub(crate) fn only(side: Side, kind: RouteKind, rule: &Rule) -> Self {
        let winner = Some(Matched::new(rule, 0));
        Self { side, kind, winner, losers: Vec::new(), losers_unlisted: 0, nearest: None }
    }
}

impl Matched {
    fn new(rule: &Rule, at: u16) -> Self {
        Self { rule: rule.id.clone(), name: rule.name.clone(), at }
    }
}

impl Loser {
    fn new(candidate: Candidate<'_>, miss: Miss) -> Self {
        let wanted = candidate.conditions.describe(miss);
        Self { matched: Matched::new(candidate.rule, candidate.at), miss, wanted }
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

    pub(crate) fn endpoints(&mut self, field: Field<'_>, part: Part, picked: Option<u32>) {
        let Field { service, pool, now, loads } = field;
        let shares = pool_shares(field);
        let candidate = |position: u32| {
            let endpoint = service.endpoints.get(position as usize)?;
            let load = loads(endpoint.index);
            let share = shares.iter().find(|(at, _)| *at == position).map_or(0.0, |(_, share)| *share);
            let condition = condition(endpoint, &load, now);
            Some(CandidateEndpoint { id: endpoint.id.clone(), share, condition, load })
        };
        let candidates: Vec<CandidateEndpoint> = pool.positions().take(EXPLAINED_MAX).filter_map(candidate).collect();
        let port = part.port.and_then(|at| service.ports.get(usize::from(at))).map(|port| port.name.clone());
        let subset = part.subset.and_then(|at| service.subsets().get(usize::from(at)));
        self.endpoints = Some(EndpointStep {
            service: service.key.clone(),
            port,
            subset: subset.map(|subset| Arc::clone(&subset.name)),
            unlisted: pool.len() - candidates.len(),
            candidates,
            picked: picked.and_then(|at| service.endpoints.get(at as usize)).map(|endpoint| endpoint.id.clone()),
        });
    }
}
