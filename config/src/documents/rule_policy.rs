//! Deadlines, retries and sessions of a rule (GEP-1742, GEP-1731, GEP-1619).
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::num::NonZeroU32;
use std::time::Duration;

use super::fields::Fields;
use super::limits::{RETRIES_MAX, RETRY_CODES_MAX, SESSION_NAME_BYTES_MAX};
use super::text;
use crate::duration;
use crate::schema::Bad;
use crate::tree::Node;
use crate::values::{bounded, number, one_of};

/// Deadlines of a rule; what is absent is as built in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request to the end of the response, all retries included.
    pub request: Option<Timeout>,
    /// For one try; at most the request's.
    pub backend_request: Option<Timeout>,
}

/// One deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// `0s`: none.
    Off,
    /// At least 1 ms.
    After(Duration),
}

/// What is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Retries, not tries; `None`: as built in.
    pub attempts: Option<NonZeroU32>,
    /// Statuses from 400 to 599 that are retried; connection errors always are.
    pub codes: Vec<u16>,
    /// Shortest wait before a retry; `None`: as built in.
    pub backoff: Option<Duration>,
}

/// Keeps a client at one endpoint, by cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// The cookie's name; `None`: one is derived.
    pub session_name: Option<String>,
    /// After this the session ends, used or not.
    pub absolute_timeout: Option<Duration>,
    /// When the client forgets the cookie.
    pub lifetime: CookieLifetime,
}

/// When a client forgets a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CookieLifetime {
    /// With the client's session.
    #[default]
    Session,
    /// With the absolute timeout.
    Permanent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionType {
    Cookie,
    Header,
}

pub(super) fn timeouts(fields: &mut Fields<'_, '_>) -> Option<Timeouts> {
    let request = fields.optional("request", timeout);
    let backend_request = fields.optional("backendRequest", timeout);
    if let (Some(Timeout::After(whole)), Some(Timeout::After(one))) = (request, backend_request)
        && one > whole
    {
        let whole = duration::format(whole);
        fields.bad("backendRequest", Bad::new(format!("is longer than the whole request may take, {whole}")));
    }
    Some(Timeouts { request, backend_request })
}

fn timeout(node: &Node) -> Result<Timeout, Bad> {
    let period = text::any_period(node)?;
    Ok(if period.is_zero() { Timeout::Off } else { Timeout::After(period) })
}

pub(super) fn retry(fields: &mut Fields<'_, '_>) -> Option<Retry> {
    let attempts = fields.optional("attempts", number(1, RETRIES_MAX)).and_then(NonZeroU32::new);
    let codes: Vec<u32> = fields.values("codes", RETRY_CODES_MAX, number(400, 599));
    let again = |(at, code): &(usize, &u32)| codes.iter().take(*at).any(|earlier| earlier == *code);
    // Places are those of the document only while each of its codes could be read.
    if codes.len() == fields.len("codes")
        && let Some((at, _)) = codes.iter().enumerate().find(again)
    {
        fields.bad("codes", Bad { part: Some(at.to_string()), ..Bad::new("stands here twice") });
    }
    let backoff = fields.optional("backoff", text::some_period);
    let codes = codes.into_iter().filter_map(|code| u16::try_from(code).ok()).collect();
    Some(Retry { attempts, codes, backoff })
}

pub(super) fn session_persistence(fields: &mut Fields<'_, '_>) -> Option<SessionPersistence> {
    let session_name = fields.optional("sessionName", cookie_name);
    let form = fields.optional("type", one_of(&[("Cookie", SessionType::Cookie), ("Header", SessionType::Header)]));
    if form == Some(SessionType::Header) {
        fields.bad("type", Bad::new("is a kind of session that this release does not have").note("Cookie is"));
    }
    let absolute_timeout = fields.optional("absoluteTimeout", text::some_period);
    let lifetime = fields
        .table("cookieConfig", |fields| {
            const LIFETIMES: &[(&str, CookieLifetime)] =
                &[("Session", CookieLifetime::Session), ("Permanent", CookieLifetime::Permanent)];
            Some(fields.optional("lifetimeType", one_of(LIFETIMES)).unwrap_or_default())
        })
        .unwrap_or_default();
    if lifetime == CookieLifetime::Permanent && !fields.has("absoluteTimeout") {
        fields.bad_table(Bad::new("needs `absoluteTimeout`, since its cookie is permanent"));
    }
    Some(SessionPersistence { session_name, absolute_timeout, lifetime })
}

/// A token (RFC 6265, 4.1.1).
fn cookie_name(node: &Node) -> Result<String, Bad> {
    let text = bounded(SESSION_NAME_BYTES_MAX)(node)?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.bytes().all(token) { Ok(text.to_owned()) } else { Err(Bad::new("is not the name of a cookie")) }
}
