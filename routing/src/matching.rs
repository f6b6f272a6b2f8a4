//! Does one match of a route hold for one request? And which of many matches wins?
//!
//! Gateway API lets the *match* compete, not the rule: all matches of all routes of a group stand in one list, best
//! [`Rank`] first, and the first that holds wins. The path index only skips matches whose path cannot hold; live
//! traffic, explanations and tests ask [`Conditions::holds`].

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};
use http::{HeaderValue, Method};
use starling_config::Pattern;
use starling_config::documents::grpc_route::GrpcMatch;
use starling_config::documents::http_route::{HeaderMatch, HttpMatch, PathMatch, QueryMatch, TextMatch};

mod index;
mod told;

pub(crate) use index::PathIndex;
pub use told::Missed;

/// What of an HTTP request a route may look at, as it stands after hardening.
#[derive(Clone, Copy, Debug)]
pub struct HttpFacts<'a> {
    /// Case-sensitive.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The Host header or the absolute target's authority, as sent.
    pub authority: &'a str,
    /// As sent, never decoded: route, policy and upstream see the same string.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    /// All of them.
    pub headers: &'a HeaderMap,
}

fn text_holds(want: &TextMatch, text: &[u8]) -> bool {
    match want {
        TextMatch::Exact(want) => want.as_bytes() == text,
        TextMatch::Pattern(pattern) => pattern.holds(text),
    }
}

fn text_chars(text: &TextMatch) -> u32 {
    match text {
        TextMatch::Exact(text) => chars(text),
        TextMatch::Pattern(pattern) => chars(pattern.as_str()),
    }
}

fn chars(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

/// What a match asks of the path, ready to be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathCondition {
    /// The whole path.
    Exact(String),
    /// Whole path elements: `/v2` holds for `/v2`, `/v2/` and `/v2/x`, never for `/v2example`.
    Prefix(PathPrefix),
    /// The whole path, by pattern.
    Pattern(Pattern),
    /// A gRPC call `/service/method`; an absent part holds for every one.
    Grpc {
        /// With its package.
        service: Option<TextMatch>,
        /// Its name alone.
        method: Option<TextMatch>,
    },
}

/// A path prefix without the trailing slash, which the standard ignores; empty for `/`, which every path has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// Takes the prefix as written.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim_end_matches('/').to_owned())
    }

    /// Without the trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the prefix, with its own leading slash; `None` where the prefix does not hold.
    #[must_use]
    pub fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.0.as_str())?;
        (self.0.is_empty() || rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

impl From<&PathMatch> for PathCondition {
    fn from(path: &PathMatch) -> Self {
        match path {
            PathMatch::Exact(path) => Self::Exact(path.clone()),
            PathMatch::Prefix(prefix) => Self::Prefix(PathPrefix::new(prefix)),
            PathMatch::Pattern(pattern) => Self::Pattern(pattern.clone()),
        }
    }
}

impl PathCondition {
    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(want) => want == path,
            Self::Prefix(prefix) => prefix.rest(path).is_some(),
            Self::Pattern(pattern) => pattern.holds(path.as_bytes()),
            Self::Grpc { service, method } => {
                let Some((called, name)) = grpc_call(path) else { return false };
                service.as_ref().is_none_or(|want| text_holds(want, called.as_bytes()))
                    && method.as_ref().is_none_or(|want| text_holds(want, name.as_bytes()))
            }
        }
    }
}

/// Service and method of a gRPC call's path.
#[must_use]
pub fn grpc_call(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

fn header_holds(want: &HeaderMatch, headers: &HeaderMap) -> bool {
    value_of(headers, &want.name).is_some_and(|value| text_holds(&want.value, &value))
}

/// A header's value; one given several times counts as its values joined by `", "` (RFC 9110, 5.3).
fn value_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    match values.next() {
        None => Some(Cow::Borrowed(first)),
        Some(second) => {
            let all: Vec<&[u8]> = [first, second].into_iter().chain(values).collect();
            Some(Cow::Owned(all.join(&b", "[..])))
        }
    }
}

fn query_holds(want: &QueryMatch, query: Option<&str>) -> bool {
    parameter(query, &want.name).is_some_and(|value| text_holds(&want.value, &value))
}

/// A parameter's value; of a repeated one the first counts. Names and values are compared decoded.
fn parameter<'q>(query: Option<&'q str>, wanted: &str) -> Option<Cow<'q, [u8]>> {
    let mut pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(name, _)| *decoded(name) == *wanted.as_bytes()).map(|(_, value)| decoded(value))
}

/// Undoes percent coding and `+`; allocates only where there is some. A broken escape stands for itself.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex_digit(*high).zip(hex_digit(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    Cow::Owned(bytes)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// One match: all of it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Always there: without one, the prefix `/`.
    pub path: PathCondition,
    /// Case-sensitive.
    pub method: Option<Method>,
    /// Of equal names only the first was kept.
    pub headers: Vec<HeaderMatch>,
    /// Of equal names only the first was kept.
    pub query: Vec<QueryMatch>,
}

/// Which condition of a match failed first, in the order path, method, headers, query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Miss {
    /// The path.
    Path,
    /// The method.
    Method,
    /// The header condition at this place.
    Header(usize),
    /// The query condition at this place.
    Query(usize),
    /// The server name of a TLS connection at a Gateway.
    ServerName,
}

impl Conditions {
    /// What a rule without `matches` asks for: everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { path: PathCondition::Prefix(PathPrefix::new("/")), method: None, headers: Vec::new(), query: Vec::new() }
    }

    /// One match of an HTTPRoute.
    #[must_use]
    pub fn http(one: &HttpMatch) -> Self {
        let HttpMatch { path, headers, query, method } = one;
        Self { path: path.into(), method: method.clone(), headers: headers.clone(), query: query.clone() }
    }

    /// One match of a GRPCRoute.
    #[must_use]
    pub fn grpc(one: &GrpcMatch) -> Self {
        let GrpcMatch { service, method, headers } = one;
        let path = PathCondition::Grpc { service: service.clone(), method: method.clone() };
        Self { path, method: None, headers: headers.clone(), query: Vec::new() }
    }

    /// What a GRPCRoute's rule without `matches` asks for: any call.
    #[must_use]
    pub fn every_call() -> Self {
        let path = PathCondition::Grpc { service: None, method: None };
        Self { path, method: None, headers: Vec::new(), query: Vec::new() }
    }

    /// Judges one request.
    ///
    /// # Errors
    /// The first condition that does not hold.
    pub fn holds(&self, request: &HttpFacts<'_>) -> Result<(), Miss> {
        if !self.path.holds(request.path) {
            return Err(Miss::Path);
        }
        if self.method.as_ref().is_some_and(|method| method != request.method) {
            return Err(Miss::Method);
        }
        if let Some(at) = self.headers.iter().position(|want| !header_holds(want, request.headers)) {
            return Err(Miss::Header(at));
        }
        match self.query.iter().position(|want| !query_holds(want, request.query)) {
            Some(at) => Err(Miss::Query(at)),
            None => Ok(()),
        }
    }

    /// Where this match stands among all of its group.
    #[must_use]
    pub fn rank(&self) -> Rank {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (headers, query) = (count(self.headers.len()), count(self.query.len()));
        let method = u32::from(self.method.is_some());
        Rank(match &self.path {
            // Two exact paths that hold for one request are equal, so their length decides nothing.
            PathCondition::Exact(_) => [3, 0, method, headers, query],
            PathCondition::Pattern(pattern) => [2, chars(pattern.as_str()), method, headers, query],
            PathCondition::Prefix(prefix) => [1, chars(&prefix.0), method, headers, query],
            PathCondition::Grpc { service, method } => {
                let chars = |text: &Option<TextMatch>| text.as_ref().map_or(0, text_chars);
                [chars(service), chars(method), headers, 0, 0]
            }
        })
    }
}

/// Precedence of a match as one key; the greater is tried first. HTTP: exact path, then pattern, then prefix, the
/// longer first; method present; most headers; most query parameters. gRPC: most characters in the service, in the
/// method; most headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank([u32; 5]);

#[cfg(test)]
mod tests;
