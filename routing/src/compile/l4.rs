//! TCPRoute and TLSRoute: one rule without conditions.

use std::sync::Arc;

use starling_config::documents::filter::Filters;
use starling_config::documents::route::{BackendRef, ParentRef};

use super::attach::{Route, route_id};
use super::backends::{At, Resolver};
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
    Route::new(in_use, route.kind, route.parents, vec![(Arc::new(compiled), Vec::new())])
}
