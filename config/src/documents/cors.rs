//! The `CORS` filter (GEP-1767): which pages of other origins may read answers.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::time::Duration;

use super::fields::Fields;
use super::limits::{CORS_ENTRIES_MAX, ORIGIN_BYTES_MAX};
use super::{http_route, text};
use crate::schema::Bad;
use crate::tree::{Node, Value};
use crate::values::{bounded, number};

/// How long browsers keep the answer to a preflight unless said otherwise (Fetch standard).
const MAX_AGE_DEFAULT: u32 = 5;
/// Longest such time: browsers cap it at a day or less.
const MAX_AGE_MAX: u32 = 86_400;

/// The filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `*`, or origins whose host may begin with `*.`; empty allows none.
    pub allow_origins: Vec<String>,
    /// `*`, or methods; GET, HEAD and POST always are.
    pub allow_methods: Vec<String>,
    /// `*`, or header names.
    pub allow_headers: Vec<String>,
    /// `*`, or header names.
    pub expose_headers: Vec<String>,
    /// Whether cookies may come along.
    pub allow_credentials: bool,
    /// How long the answer to a preflight holds.
    pub max_age: Duration,
}

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<Cors> {
    let allow_origins = list(fields, "allowOrigins", origin);
    let allow_methods = list(fields, "allowMethods", |node| http_route::method(node).map(|method| method.to_string()));
    let allow_headers = list(fields, "allowHeaders", |node| text::header_name(node).map(|name| name.to_string()));
    let expose_headers = list(fields, "exposeHeaders", |node| text::header_name(node).map(|name| name.to_string()));
    let allow_credentials = fields.optional("allowCredentials", text::flag).unwrap_or(false);
    let max_age = fields.optional("maxAge", number(1, MAX_AGE_MAX)).unwrap_or(MAX_AGE_DEFAULT);
    let max_age = Duration::from_secs(max_age.into());
    Some(Cors { allow_origins, allow_methods, allow_headers, expose_headers, allow_credentials, max_age })
}

/// A list in which `*` stands alone or not at all.
fn list(fields: &mut Fields<'_, '_>, key: &'static str, parse: impl Fn(&Node) -> Result<String, Bad>) -> Vec<String> {
    let all = fields.values(key, CORS_ENTRIES_MAX, |node| {
        let star = matches!(&node.value, Value::String(text) if text == "*");
        if star { Ok("*".to_owned()) } else { parse(node) }
    });
    if all.len() > 1 && all.iter().any(|entry| entry == "*") {
        fields.bad(key, Bad::new("has `*` beside other entries, which it contains"));
    }
    all
}

/// `https://*.example.com:8443`
fn origin(node: &Node) -> Result<String, Bad> {
    let text = bounded(ORIGIN_BYTES_MAX)(node)?;
    let bad = || Bad::new("is not an origin like https://example.com, without path");
    let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let name = host.strip_prefix("*.").unwrap_or(host);
    let name_fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    if scheme_fits && port_fits && name_fits { Ok(text.to_owned()) } else { Err(bad()) }
}
