//! `HTTPRoute`: which requests go where, and what happens to them on the way (Gateway API v1).
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use http::{HeaderName, Method};
use starling_model::Weight;
use starling_model::codes;

use super::fields::Fields;
use super::filter::{self, Filters, PathFilter, Place};
use super::limits::{
    BACKENDS_MAX, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, MATCH_VALUE_BYTES_MAX,
    MATCHES_PER_ROUTE_MAX, MATCHES_PER_RULE_MAX, PATH_BYTES_MAX, RULES_MAX,
};
use super::route::{self, BackendRef, ParentRef};
use super::rule_policy::{self, Retry, SessionPersistence, Timeouts};
use super::text;
use crate::pattern::Pattern;
use crate::schema::Bad;
use crate::tree::Node;
use crate::values::{bounded, one_of};

/// The `spec` of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    /// What it is attached to; at least one.
    pub parents: Vec<ParentRef>,
    /// Count for Gateways only: in the mesh the route follows from the destination.
    pub hostnames: Vec<String>,
    /// At least one. Gateway API lets a route without `rules` stand for one that answers every request with 404; here it is
    /// refused, since it is hardly meant.
    pub rules: Vec<HttpRule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// Unique in its route.
    pub name: Option<String>,
    /// One of them must hold; empty takes everything.
    pub matches: Vec<HttpMatch>,
    /// For all backends, before those of the backend.
    pub filters: Filters,
    /// Where requests go.
    pub backends: Vec<HttpBackend>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// What is tried again.
    pub retry: Option<Retry>,
    /// Keeps a client at one endpoint.
    pub session_persistence: Option<SessionPersistence>,
}

/// A backend with filters of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpBackend {
    /// Target and weight.
    pub backend: BackendRef,
    /// Only for requests that go there.
    pub filters: Filters,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpMatch {
    /// Prefix `/` unless said otherwise.
    pub path: PathMatch,
    /// Of equal names the first counts.
    pub headers: Vec<HeaderMatch>,
    /// Of equal names the first counts.
    pub query: Vec<QueryMatch>,
    /// Any unless said otherwise.
    pub method: Option<Method>,
}

/// A condition on the path. Values begin with `/` and hold nothing that a client or proxy would have resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path, byte for byte.
    Exact(String),
    /// Whole path elements; a `/` at the end does not count.
    Prefix(String),
    /// The whole path, by pattern.
    Pattern(Pattern),
}

/// A condition on one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// Byte for byte.
    Exact(String),
    /// By pattern.
    Pattern(Pattern),
}

/// A condition on one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// In any case.
    pub name: HeaderName,
    /// A pattern may hold anywhere in the value.
    pub value: TextMatch,
}

/// A condition on one query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Exact.
    pub name: String,
    /// A pattern may hold anywhere in the value.
    pub value: TextMatch,
}

/// How a text is compared; the word of `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextForm {
    Exact,
    Pattern,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathForm {
    Exact,
    Prefix,
    Pattern,
}

const PATH_FORMS: &[(&str, PathForm)] =
    &[("Exact", PathForm::Exact), ("PathPrefix", PathForm::Prefix), ("RegularExpression", PathForm::Pattern)];
pub(super) const TEXT_FORMS: &[(&str, TextForm)] =
    &[("Exact", TextForm::Exact), ("RegularExpression", TextForm::Pattern)];

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<HttpRoute> {
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
    Some(HttpRoute { parents, hostnames, rules })
}

fn rule(fields: &mut Fields<'_, '_>) -> Option<HttpRule> {
    let name = fields.optional("name", text::rule_name);
    let matches = fields.tables("matches", MATCHES_PER_RULE_MAX, http_match);
    let filters = filter::read(fields, Place::HttpRule);
    let backends = fields.tables("backendRefs", BACKENDS_MAX, |fields| {
        let backend = route::backend(fields);
        let filters = filter::read(fields, Place::HttpBackend);
        Some(HttpBackend { backend: backend?, filters })
    });
    let timeouts = fields.table("timeouts", rule_policy::timeouts).unwrap_or_default();
    let retry = fields.table("retry", rule_policy::retry);
    let session_persistence = fields.table("sessionPersistence", rule_policy::session_persistence);

    let redirects = matches!(filters.path, Some(PathFilter::Redirect(_)));
    if redirects && !backends.is_empty() {
        fields.bad_key("backendRefs", Bad::new("stand beside a RequestRedirect, which answers every request itself"));
    }
    let edits_prefix = filters.replaces_prefix() || backends.iter().any(|backend| backend.filters.replaces_prefix());
    // Without matches the rule holds for the prefix `/`. What could not be read is told already.
    let has_one_prefix = match matches.as_slice() {
        [] => fields.len("matches") == 0,
        [HttpMatch { path, .. }] => matches!(path, PathMatch::Prefix(_)),
        _ => false,
    };
    if edits_prefix && !has_one_prefix && fields.len("matches") == matches.len() {
        let bad = Bad::new("replaces a prefix, so it needs one match at most, with a path of type PathPrefix");
        fields.bad_table(bad.note("ReplaceFullPath needs no match"));
    }
    if !redirects && !fields.has_errors() {
        let weights: Vec<Weight> = backends.iter().map(|backend| backend.backend.weight).collect();
        route::warn_of_no_backend(fields, &weights);
    }
    warn_of_retried_writes(fields, &matches, retry.as_ref());
    Some(HttpRule { name, matches, filters, backends, timeouts, retry, session_persistence })
}

/// The standard's listed codes hold for every method; of a POST that was processed a second run is a second order.
fn warn_of_retried_writes(fields: &mut Fields<'_, '_>, matches: &[HttpMatch], retry: Option<&Retry>) {
    let writes = |method: &Method| *method == Method::POST || *method == Method::PATCH;
    let any = matches.is_empty() || matches.iter().any(|one| one.method.as_ref().is_none_or(writes));
    if any && retry.is_some_and(|retry| !retry.codes.is_empty()) {
        let message = "the listed codes are retried for POST and PATCH, too, which may then run twice";
        fields.warn("retry", codes::RETRIES_WRITES, message);
    }
}

fn http_match(fields: &mut Fields<'_, '_>) -> Option<HttpMatch> {
    let path = match fields.has("path") {
        true => fields.table("path", path_match),
        false => {
            fields.ignored(&["path"]);
            Some(PathMatch::Prefix("/".to_owned()))
        }
    };
    let mut headers = fields.tables("headers", HEADERS_MAX, header_match);
    fields.unique("headers", "name");
    // Names that differ in case alone are one header; the standard keeps the first.
    keep_first(&mut headers, |header| header.name.clone());
    let query = fields.tables("queryParams", HEADERS_MAX, query_match);
    fields.unique("queryParams", "name");
    let method = fields.optional("method", method);
    Some(HttpMatch { path: path?, headers, query, method })
}

/// Drops what has the key of an earlier one.
pub(super) fn keep_first<T, K: PartialEq>(all: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let mut seen = Vec::new();
    all.retain(|one| {
        let key = key(one);
        let first = !seen.contains(&key);
        seen.push(key);
        first
    });
}

fn path_match(fields: &mut Fields<'_, '_>) -> Option<PathMatch> {
    let form = if fields.has("type") { None } else { Some(PathForm::Prefix) };
    let form = fields.optional("type", one_of(PATH_FORMS)).or(form);
    match form {
        Some(PathForm::Pattern) => fields.pattern("value", PATH_BYTES_MAX, Pattern::whole).map(PathMatch::Pattern),
        Some(PathForm::Exact) => path_value(fields).map(PathMatch::Exact),
        Some(PathForm::Prefix) => path_value(fields).map(PathMatch::Prefix),
        None => {
            fields.ignored(&["value"]);
            None
        }
    }
}

fn path_value(fields: &mut Fields<'_, '_>) -> Option<String> {
    let default = if fields.has("value") { None } else { Some("/".to_owned()) };
    fields.optional("value", text::matched_path).or(default)
}

/// `type` and `value` of a condition on a text.
pub(super) fn text_match(
    fields: &mut Fields<'_, '_>,
    bytes_max: usize,
    compile: fn(&str) -> Result<Pattern, String>,
) -> Option<TextMatch> {
    let default = if fields.has("type") { None } else { Some(TextForm::Exact) };
    match fields.optional("type", one_of(TEXT_FORMS)).or(default) {
        Some(TextForm::Exact) => {
            fields.required("value", |node| bounded(bytes_max)(node).map(|text| TextMatch::Exact(text.to_owned())))
        }
        Some(TextForm::Pattern) => fields.pattern("value", bytes_max, compile).map(TextMatch::Pattern),
        None => {
            fields.ignored(&["value"]);
            None
        }
    }
}

pub(super) fn header_match(fields: &mut Fields<'_, '_>) -> Option<HeaderMatch> {
    let name = fields.required("name", text::header_name);
    let value = text_match(fields, HEADER_VALUE_BYTES_MAX, Pattern::anywhere);
    Some(HeaderMatch { name: name?, value: value? })
}

fn query_match(fields: &mut Fields<'_, '_>) -> Option<QueryMatch> {
    let name = fields.required("name", |node| bounded(HEADER_NAME_BYTES_MAX)(node).map(str::to_owned));
    let value = text_match(fields, MATCH_VALUE_BYTES_MAX, Pattern::anywhere);
    Some(QueryMatch { name: name?, value: value? })
}

pub(super) fn method(node: &Node) -> Result<Method, Bad> {
    let text = crate::values::text(node)?;
    let bad = || Bad::new(format!("is not one of {}", METHODS.join(", ")));
    if !METHODS.contains(&text) {
        return Err(match crate::suggest::suggest(text, METHODS.iter().copied()) {
            Some(near) => bad().note(format!("did you mean `{near}`?")),
            None => bad(),
        });
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| bad())
}
