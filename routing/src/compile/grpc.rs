//! GRPCRoute: the standard has neither timeouts nor retries for it, since gRPC has deadlines of its own.

use std::sync::Arc;

use starling_config::documents::grpc_route::GrpcRoute;

use super::attach::{Route, route_id};
use super::backends::{At, Owner, Resolver};
use crate::documents::InUse;
use crate::matching::{Conditions, PathPrefix};
use crate::policy::Policy;
use crate::rules::{RouteKind, Rule, RuleId};

pub(super) fn compile<'a>(in_use: &'a InUse, route: &'a GrpcRoute, resolver: &mut Resolver<'_>) -> Route<'a> {
    let name = route_id(&in_use.document.key);
    let prefix = PathPrefix::new("/");
    let mut rules = Vec::with_capacity(route.rules.len());
    for (place, rule) in route.rules.iter().enumerate() {
        let at = At { document: &in_use.document.key, kind: RouteKind::Grpc, rule: place };
        let mut matches: Vec<Conditions> = rule.matches.iter().map(Conditions::grpc).collect();
        if matches.is_empty() {
            matches.push(Conditions::every_call());
        }
        let pairs = rule.backends.iter().map(|backend| (&backend.backend, Some(&backend.filters)));
        let split = resolver.split(at, pairs, &prefix);
        let owner = Owner { route: &in_use.document.key, name: rule.name.as_deref(), place };
        let compiled = Rule {
            id: RuleId { route: Arc::clone(&name), rule: u16::try_from(place).unwrap_or(u16::MAX) },
            name: rule.name.clone(),
            route: in_use.document.key.clone(),
            version: in_use.version,
            signer: Arc::clone(&in_use.signer),
            filters: resolver.chain(at, &rule.filters, &prefix, &format!("/spec/rules/{place}")),
            sessions: resolver.sessions(&owner, rule.session_persistence.as_ref(), &split),
            split,
            policy: Policy::BUILT_IN,
        };
        rules.push((Arc::new(compiled), matches));
    }
    Route::new(in_use, RouteKind::Grpc, &route.parents, rules)
}
