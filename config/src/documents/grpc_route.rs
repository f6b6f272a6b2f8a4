//! `GRPCRoute`: which calls go where (Gateway API v1).
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use starling_model::Weight;

use super::fields::Fields;
use super::filter::{self, Filters, Place};
use super::http_route::{HeaderMatch, TEXT_FORMS, TextForm, TextMatch, header_match, keep_first};
use super::limits::{
    BACKENDS_MAX, HEADERS_MAX, MATCH_VALUE_BYTES_MAX, MATCHES_PER_ROUTE_MAX, MATCHES_PER_RULE_MAX, RULES_MAX,
};
use super::route::{self, BackendRef, ParentRef};
use super::rule_policy::{self, SessionPersistence};
use super::text;
use crate::pattern::Pattern;
use crate::schema::Bad;
use crate::tree::Node;
use crate::values::{bounded, one_of};

/// The `spec` of a GRPCRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcRoute {
    /// What it is attached to; at least one.
    pub parents: Vec<ParentRef>,
    /// Count for Gateways only.
    pub hostnames: Vec<String>,
    /// At least one.
    pub rules: Vec<GrpcRule>,
}

/// One rule. The standard has neither timeouts nor retries for gRPC, which has deadlines of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcRule {
    /// Unique in its route.
    pub name: Option<String>,
    /// One of them must hold; empty takes every call.
    pub matches: Vec<GrpcMatch>,
    /// For all backends; neither CORS nor redirect nor rewrite.
    pub filters: Filters,
    /// Where calls go.
    pub backends: Vec<GrpcBackend>,
    /// Keeps a client at one endpoint.
    pub session_persistence: Option<SessionPersistence>,
}

/// A backend with filters of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcBackend {
    /// Target and weight.
    pub backend: BackendRef,
    /// Only for calls that go there.
    pub filters: Filters,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcMatch {
    /// With its package; a pattern must hold for the whole name.
    pub service: Option<TextMatch>,
    /// Its name alone; a pattern must hold for the whole name.
    pub method: Option<TextMatch>,
    /// Of equal names the first counts.
    pub headers: Vec<HeaderMatch>,
}

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<GrpcRoute> {
    let parents = route::parents(fields);
    let hostnames = route::hostnames(fields);
    fields.demand("rules");
    let rules = fields.tables("rules", RULES_MAX, rule);
    fields.unique("rules", "name");
    let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    if matches > MATCHES_PER_ROUTE_MAX {
        let message = format!("have {matches} matches in all, at most {MATCHES_PER_ROUTE_MAX} are allowed");
        fields.bad("rules", Bad::new(message));
    }
    Some(GrpcRoute { parents, hostnames, rules })
}

fn rule(fields: &mut Fields<'_, '_>) -> Option<GrpcRule> {
    let name = fields.optional("name", text::rule_name);
    let matches = fields.tables("matches", MATCHES_PER_RULE_MAX, call_match);
    let filters = filter::read(fields, Place::Grpc);
    let backends = fields.tables("backendRefs", BACKENDS_MAX, |fields| {
        let backend = route::backend(fields);
        let filters = filter::read(fields, Place::Grpc);
        Some(GrpcBackend { backend: backend?, filters })
    });
    let session_persistence = fields.table("sessionPersistence", rule_policy::session_persistence);
    if !fields.has_errors() {
        let weights: Vec<Weight> = backends.iter().map(|backend| backend.backend.weight).collect();
        route::warn_of_no_backend(fields, &weights);
    }
    Some(GrpcRule { name, matches, filters, backends, session_persistence })
}

fn call_match(fields: &mut Fields<'_, '_>) -> Option<GrpcMatch> {
    let present = fields.has("method");
    let method = fields.table("method", method);
    let mut headers = fields.tables("headers", HEADERS_MAX, header_match);
    fields.unique("headers", "name");
    keep_first(&mut headers, |header| header.name.clone());
    if present && method.is_none() {
        return None;
    }
    let (service, method) = method.unwrap_or_default();
    Some(GrpcMatch { service, method, headers })
}

type Method = (Option<TextMatch>, Option<TextMatch>);

fn method(fields: &mut Fields<'_, '_>) -> Option<Method> {
    let default = if fields.has("type") { None } else { Some(TextForm::Exact) };
    let form = fields.optional("type", one_of(TEXT_FORMS)).or(default);
    if !fields.has("service") && !fields.has("method") {
        fields.bad_table(Bad::new("names neither `service` nor `method`"));
    }
    let mut part = |key: &'static str, parse: fn(&Node) -> Result<String, Bad>| match form {
        Some(TextForm::Exact) => fields.optional(key, parse).map(TextMatch::Exact),
        Some(TextForm::Pattern) if fields.has(key) => {
            fields.pattern(key, MATCH_VALUE_BYTES_MAX, Pattern::whole).map(TextMatch::Pattern)
        }
        Some(TextForm::Pattern) | None => {
            fields.ignored(&[key]);
            None
        }
    };
    let service = part("service", service_name);
    let method = part("method", method_name);
    form.map(|_| (service, method))
}

fn is_identifier(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && text.starts_with(|c: char| !c.is_ascii_digit())
}

fn service_name(node: &Node) -> Result<String, Bad> {
    let text = bounded(MATCH_VALUE_BYTES_MAX)(node)?;
    if text.split('.').all(is_identifier) {
        return Ok(text.to_owned());
    }
    Err(Bad::new("is not the name of a gRPC service, like shop.v1.Orders"))
}

fn method_name(node: &Node) -> Result<String, Bad> {
    let text = bounded(MATCH_VALUE_BYTES_MAX)(node)?;
    if is_identifier(text) { Ok(text.to_owned()) } else { Err(Bad::new("is not the name of a gRPC method")) }
}
