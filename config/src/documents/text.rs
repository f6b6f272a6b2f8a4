//! What single values of documents may be, beyond those that agent settings have too.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use starling_model::names::is_label;
use starling_model::{Labels, Weight};

use super::limits::{HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, PATH_BYTES_MAX, RULE_NAME_BYTES_MAX};
use crate::duration;
use crate::schema::Bad;
use crate::tree::{Node, Value};
use crate::values::{bounded, number, wrong};

/// Longest DNS name in text form.
const HOST_BYTES_MAX: usize = 253;

/// Headers that frame a message or belong to one hop (RFC 9110, 7.6.1; RFC 9112, 6): an edit would change where the
/// message ends, or what the next hop is.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Any text without bounds of its own: the document is bounded.
pub(super) fn free(node: &Node) -> Result<String, Bad> {
    match &node.value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Boolean(_) => Err(wrong(node, "a string").note("put it in double quotes")),
        Value::Other(..) | Value::Array(_) | Value::Table(_) => Err(wrong(node, "a string")),
    }
}

pub(super) fn flag(node: &Node) -> Result<bool, Bad> {
    match &node.value {
        Value::Boolean(flag) => Ok(*flag),
        Value::String(_) | Value::Integer(_) | Value::Other(..) | Value::Array(_) | Value::Table(_) => {
            Err(wrong(node, "true or false"))
        }
    }
}

pub(super) fn port(node: &Node) -> Result<NonZeroU16, Bad> {
    let number = number(1, u16::MAX.into())(node)?;
    u16::try_from(number).ok().and_then(NonZeroU16::new).ok_or_else(|| Bad::new("is no port"))
}

pub(super) fn weight(node: &Node) -> Result<Weight, Bad> {
    let number = number(0, starling_model::limits::WEIGHT_MAX)(node)?;
    Weight::new(number).map_err(Bad::new)
}

/// A duration of GEP-2257 from `low` to `high`.
pub(super) fn period(low: Duration, high: Duration) -> impl Fn(&Node) -> Result<Duration, Bad> {
    crate::values::period(low, high)
}

/// Any duration of GEP-2257.
pub(super) fn any_period(node: &Node) -> Result<Duration, Bad> {
    period(Duration::ZERO, duration::LONGEST)(node)
}

/// A duration that is not zero.
pub(super) fn some_period(node: &Node) -> Result<Duration, Bad> {
    period(Duration::from_millis(1), duration::LONGEST)(node)
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= HOST_BYTES_MAX && text.split('.').all(is_label)
}

/// `SectionName`: a DNS subdomain.
pub(super) fn rule_name(node: &Node) -> Result<String, Bad> {
    let text = bounded(RULE_NAME_BYTES_MAX)(node)?;
    if is_subdomain(text) {
        return Ok(text.to_owned());
    }
    let lower = text.to_lowercase().replace(['_', ' '], "-");
    let bad = Bad::new("is not a name: labels of a-z, 0-9 and '-', joined by dots");
    Err(if is_subdomain(&lower) { bad.note(format!("did you mean `{lower}`?")) } else { bad })
}

/// A host name without port, in lower case; no address.
pub(super) fn precise_hostname(node: &Node) -> Result<String, Bad> {
    let text = bounded(HOST_BYTES_MAX)(node)?;
    if text.parse::<IpAddr>().is_ok() {
        return Err(Bad::new("is an address, not a host name"));
    }
    if is_subdomain(text) {
        return Ok(text.to_owned());
    }
    let bad = Bad::new("is not a host name: lower case, no port, no scheme");
    let lower = text.to_lowercase();
    Err(if is_subdomain(&lower) { bad.note(format!("did you mean `{lower}`?")) } else { bad })
}

/// A host name; its first label may be `*`.
pub(super) fn hostname(node: &Node) -> Result<String, Bad> {
    let text = bounded(HOST_BYTES_MAX)(node)?;
    match text.strip_prefix("*.") {
        Some(rest) if is_subdomain(rest) => Ok(text.to_owned()),
        Some(_) => Err(Bad::new("is not a host name: lower case, no port, no scheme")),
        None if text.contains('*') => Err(Bad::new("has a `*` elsewhere than alone in the first label")),
        None => precise_hostname(node),
    }
}

pub(super) fn header_name(node: &Node) -> Result<HeaderName, Bad> {
    let text = bounded(HEADER_NAME_BYTES_MAX)(node)?;
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| Bad::new("is not the name of a header"))
}

/// A header that a filter may change.
pub(super) fn edited_header(node: &Node) -> Result<HeaderName, Bad> {
    let name = header_name(node)?;
    if FRAMING.contains(&name.as_str()) {
        return Err(Bad::new("frames the message or belongs to one connection, so no filter may change it"));
    }
    if name == http::header::HOST {
        return Err(Bad::new("is not changed as a header").note("urlRewrite.hostname does it"));
    }
    Ok(name)
}

pub(super) fn header_value(node: &Node) -> Result<HeaderValue, Bad> {
    let text = bounded(HEADER_VALUE_BYTES_MAX)(node)?;
    HeaderValue::from_str(text).map_err(|_| Bad::new("is not the value of a header"))
}

/// What may stand in a path besides escapes (RFC 3986, 3.3).
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte)
}

/// A path to compare with: as it will be asked for, so nothing that a client or proxy would have resolved.
pub(super) fn matched_path(node: &Node) -> Result<String, Bad> {
    let text = written_path(node)?;
    let lower = text.to_ascii_lowercase();
    if let Some(part) = ["//", "/./", "/../", "%2f"].iter().find(|part| lower.contains(**part)) {
        return Err(Bad::new(format!("holds `{part}`, which no path that is matched has")));
    }
    if text.ends_with("/.") || text.ends_with("/..") {
        return Err(Bad::new("ends in a dot segment, which no path that is matched has"));
    }
    Ok(text)
}

/// A path to write.
pub(super) fn written_path(node: &Node) -> Result<String, Bad> {
    let text = bounded(PATH_BYTES_MAX)(node)?;
    if !text.starts_with('/') {
        return Err(Bad::new("does not begin with `/`").note(format!("did you mean `/{}`?", crate::schema::clip(text))));
    }
    let mut rest = text.chars();
    while let Some(letter) = rest.next() {
        let escape = letter == '%' && [rest.next(), rest.next()].iter().flatten().all(char::is_ascii_hexdigit);
        if !escape && !u8::try_from(letter).is_ok_and(is_path_byte) {
            return Err(Bad::new(format!("holds {letter:?}, which stands in no path")));
        }
    }
    if text.rfind('%').is_some_and(|at| text.len().saturating_sub(at) < 3) {
        return Err(Bad::new("ends within an escape"));
    }
    Ok(text.to_owned())
}

/// `80%`.
pub(super) fn percent(node: &Node) -> Result<u8, Bad> {
    let bad = || Bad::new("is not a share like 80%, from 0% to 100%");
    match &node.value {
        Value::String(text) => text
            .strip_suffix('%')
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|share| *share <= 100)
            .ok_or_else(bad),
        Value::Integer(number) => Err(bad().note(format!("did you mean {number}%?"))),
        Value::Boolean(_) | Value::Other(..) | Value::Array(_) | Value::Table(_) => Err(bad()),
    }
}

/// Labels that instances are compared with; none at all would select everything.
pub(super) fn labels(node: &Node) -> Result<Labels, Bad> {
    let labels = crate::values::labels(node)?;
    if labels.is_empty() { Err(Bad::new("names no label, so it would take every instance")) } else { Ok(labels) }
}

/// One pair of a map of texts.
pub(super) fn pair(key: &str, node: &Node) -> Result<(String, String), Bad> {
    free(node).map(|value| (key.to_owned(), value))
}

pub(super) fn collect(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}
