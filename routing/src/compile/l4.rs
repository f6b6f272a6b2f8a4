//! TCPRoute and TLSRoute: one rule without conditions; a TLSRoute's host names count for callers from outside.

use std::sync::Arc;

use starling_config::documents::filter::Filters;
use starling_config::documents::route::{BackendRef, ParentKind, ParentRef};

use super::attach::{Route, route_id};
use super::backends::{At, Resolver};
use super::gateways::ByServerName;
use crate::documents::InUse;
use crate::filters::FilterChain;
use crate::matching::PathPrefix;
use crate::policy::Policy;
use crate::rules::{RouteKind, Rule, RuleId, Sessions};

/// What both kinds have.
#[derive(Clone, Copy, Debug)]
pub(super) struct L4Route<'a> {
    pub(super) kind: RouteKind,
    pub(super) parents: &'a [ParentRef],
    /// Of a TLSRoute.
    pub(super) hostnames: &'a [String],
    pub(super) rule: Option<&'a String>,
    pub(super) backends: &'a [BackendRef],
}

pub(super) fn compile<'a>(in_use: &'a InUse, route: L4Route<'a>, resolver: &mut Resolver<'_>) -> Route<'a> {
    let prefix = PathPrefix::new("/");
    let at = At { document: &in_use.document.key, kind: route.kind, rule: 0 };
    let compiled = Rule {
        id: RuleId { route: route_id(&in_use.document.key), rule: 0 },
        name: route.rule.cloned(),
        route: in_use.document.key.clone(),
        version: in_use.version,
        signer: Arc::clone(&in_use.signer),
        split: resolver.split(at, route.backends.iter().map(|backend| (backend, None)), &prefix),
        filters: FilterChain::new(&Filters::default(), prefix, []),
        policy: Policy::BUILT_IN,
        sessions: Sessions::None,
    };
    let is_outside = route.kind == RouteKind::Tls && route.parents.iter().any(|one| one.kind == ParentKind::Gateway);
    let by_name = is_outside.then(|| {
        let split = resolver.at_gateways(at, &compiled.split);
        ByServerName { hostnames: route.hostnames.to_vec(), rule: Arc::new(Rule { split, ..compiled.clone() }) }
    });
    let rules = vec![(Arc::new(compiled), Vec::new())];
    Route::new(in_use, route.kind, route.parents, rules).by_name(by_name)
}
