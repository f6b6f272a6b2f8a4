//! HTTPRoute: rules with their matches.

use std::sync::Arc;

use starling_config::documents::http_route::{HttpRoute, HttpRule};

use super::attach::{Route, route_id};
use super::backends::{At, Owner, Resolver};
use crate::documents::InUse;
use crate::matching::{Conditions, PathCondition, PathPrefix};
use crate::policy::Policy;
use crate::rules::{RouteKind, Rule, RuleId};

pub(super) fn compile<'a>(in_use: &'a InUse, route: &'a HttpRoute, resolver: &mut Resolver<'_>) -> Route<'a> {
    let name = route_id(&in_use.document.key);
    let mut rules = Vec::with_capacity(route.rules.len());
    for (place, rule) in route.rules.iter().enumerate() {
        let at = At { document: &in_use.document.key, kind: RouteKind::Http, rule: place };
        let matches: Vec<Conditions> = rule.matches.iter().map(Conditions::http).collect();
        let prefix = replaced_prefix(&matches);
        let HttpRule { name: rule_name, filters, backends, timeouts, retry, session_persistence, matches: _ } = rule;
        let pairs = backends.iter().map(|backend| (&backend.backend, Some(&backend.filters)));
        let split = resolver.split(at, pairs, &prefix);
        let owner = Owner { route: &in_use.document.key, name: rule_name.as_deref(), place };
        let compiled = Rule {
            id: RuleId { route: Arc::clone(&name), rule: u16::try_from(place).unwrap_or(u16::MAX) },
            name: rule_name.clone(),
            route: in_use.document.key.clone(),
            version: in_use.version,
            signer: Arc::clone(&in_use.signer),
            filters: resolver.chain(at, filters, &prefix, &format!("/spec/rules/{place}")),
            sessions: resolver.sessions(&owner, session_persistence.as_ref(), &split),
            split,
            policy: Policy::of_rule(*timeouts, retry.as_ref()),
        };
        rules.push((Arc::new(compiled), matches));
    }
    Route::new(in_use, RouteKind::Http, &route.parents, rules)
}

/// What `ReplacePrefixMatch` replaces: the prefix of the rule's only match. Without matches that is `/`.
fn replaced_prefix(matches: &[Conditions]) -> PathPrefix {
    match matches {
        [Conditions { path: PathCondition::Prefix(prefix), .. }] => prefix.clone(),
        _ => PathPrefix::new("/"),
    }
}
