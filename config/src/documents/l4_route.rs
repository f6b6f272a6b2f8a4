//! `TCPRoute` and `TLSRoute` (passthrough): one rule each, without conditions, drawn per connection.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use starling_model::Weight;

use super::fields::Fields;
use super::meta::Dialect;
use super::route::{self, BackendRef, ParentRef};
use super::text;

/// The `spec` of a TCPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    /// What it is attached to; at least one.
    pub parents: Vec<ParentRef>,
    /// The name of its only rule.
    pub rule: Option<String>,
    /// Where connections go.
    pub backends: Vec<BackendRef>,
}

/// The `spec` of a TLSRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRoute {
    /// What it is attached to; at least one.
    pub parents: Vec<ParentRef>,
    /// Count for Gateways only, where they are compared with the client's SNI.
    pub hostnames: Vec<String>,
    /// The name of its only rule.
    pub rule: Option<String>,
    /// Where connections go, still encrypted.
    pub backends: Vec<BackendRef>,
}

pub(super) fn read_tcp(fields: &mut Fields<'_, '_>) -> Option<TcpRoute> {
    let parents = route::parents(fields);
    let (rule, backends) = only_rule(fields)?;
    Some(TcpRoute { parents, rule, backends })
}

pub(super) fn read_tls(fields: &mut Fields<'_, '_>) -> Option<TlsRoute> {
    let parents = route::parents(fields);
    if fields.dialect() == Dialect::Standard {
        fields.demand("hostnames");
    }
    let hostnames = route::hostnames(fields);
    let (rule, backends) = only_rule(fields)?;
    Some(TlsRoute { parents, hostnames, rule, backends })
}

type Rule = (Option<String>, Vec<BackendRef>);

/// Nothing tells two rules apart, so there is one.
fn only_rule(fields: &mut Fields<'_, '_>) -> Option<Rule> {
    fields.demand("rules");
    let mut rules = fields.tables("rules", 1, |fields| {
        let name = fields.optional("name", text::rule_name);
        fields.demand("backendRefs");
        let backends = route::backends(fields);
        if fields.has("backendRefs") && !fields.has_errors() {
            let weights: Vec<Weight> = backends.iter().map(|backend| backend.weight).collect();
            route::warn_of_no_backend(fields, &weights);
        }
        Some((name, backends))
    });
    rules.pop()
}
