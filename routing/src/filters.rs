//! What a rule or a backend does to a request and its response, as data and pure functions on `http` types.
//!
//! The order is fixed: CORS, request headers, mirrors, redirect or rewrite; response headers on the way back. The
//! filters of the rule come before those of the chosen backend.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};

use crate::decision::Draws;
use crate::matching::{HttpFacts, PathPrefix};
use crate::split::Target;

mod cors;

pub use cors::{Cors, Origin};

/// All filters of one rule or one backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Answers preflight and adds headers for browsers.
    pub cors: Option<Cors>,
    /// On the way there.
    pub request: HeaderEdits,
    /// Copies that nobody waits for.
    pub mirrors: Vec<Mirror>,
    /// Where else, or as what.
    pub path: Option<PathFilter>,
    /// On the way back.
    pub response: HeaderEdits,
    /// A filter that is not known or cannot be resolved: whoever meets it gets 500, for it must not be skipped.
    pub broken: bool,
}

/// Redirect or rewrite; one excludes the other.
#[derive(Clone, Debug, PartialEq)]
pub enum PathFilter {
    /// Answered here with `Location`.
    Redirect(Redirect),
    /// Sent on as something else.
    Rewrite(Rewrite),
}

/// Set, then add, then remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replace all values.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Append to the values there are, with a comma.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Take away.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// True when nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Edits `headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            let mut values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            values.push(value.as_bytes());
            // Cookies are the one field whose lines must not be joined (RFC 6265, 3).
            match HeaderValue::from_bytes(&values.join(&b", "[..])) {
                Ok(joined) if *name != header::SET_COOKIE => {
                    headers.insert(name.clone(), joined);
                }
                Ok(_) | Err(_) => {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// What becomes of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// Everything is replaced.
    Full(String),
    /// The matched prefix is replaced; the rest stays with its own leading slash.
    Prefix {
        /// Of the rule's only match.
        prefix: PathPrefix,
        /// Without its trailing slash.
        replacement: String,
    },
}

impl PathEdit {
    /// `ReplacePrefixMatch`.
    #[must_use]
    pub fn prefix(prefix: PathPrefix, replacement: &str) -> Self {
        Self::Prefix { prefix, replacement: replacement.trim_end_matches('/').to_owned() }
    }

    /// The new path; never empty.
    #[must_use]
    pub fn apply(&self, path: &str) -> String {
        let new = match self {
            Self::Full(new) => new.clone(),
            Self::Prefix { prefix, replacement } => {
                format!("{replacement}{}", prefix.rest(path).unwrap_or(path))
            }
        };
        if new.is_empty() { "/".to_owned() } else { new }
    }
}

/// `URLRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The new Host.
    pub hostname: Option<HeaderValue>,
    /// The new path.
    pub path: Option<PathEdit>,
}

impl Rewrite {
    /// The path and query to send on; `None` where they stay as they are.
    ///
    /// # Errors
    /// [`NotAUri`] when the result cannot be written as a request target.
    pub fn target(&self, request: &HttpFacts<'_>) -> Result<Option<Uri>, NotAUri> {
        let Some(edit) = &self.path else { return Ok(None) };
        let target = with_query(edit.apply(request.path), request.query);
        target.parse().map(Some).map_err(|_| NotAUri)
    }
}

/// A rewritten target or a `Location` is no URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rewritten target is no URI")]
pub struct NotAUri;

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// `RequestRedirect`; what is absent is taken from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host without port.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathEdit>,
    /// Else the scheme's well-known port where a scheme is given, else the frontend's.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl Redirect {
    /// The value of `Location`. The query stays; a port that the scheme implies is left out.
    ///
    /// # Errors
    /// [`NotAUri`] when the result is no header value, which only a request's own odd bytes can cause.
    pub fn location(&self, request: &HttpFacts<'_>, frontend_port: Option<u16>) -> Result<HeaderValue, NotAUri> {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = self.hostname.as_deref().unwrap_or_else(|| host_of(request.authority));
        let well_known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
        let implied = if self.scheme.is_some() { Some(well_known(scheme)) } else { frontend_port };
        let port = self.port.or(implied).filter(|port| *port != well_known(scheme));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = match &self.path {
            Some(edit) => edit.apply(request.path),
            None => request.path.to_owned(),
        };
        HeaderValue::from_str(&format!("{scheme}://{host}{port}{}", with_query(path, request.query)))
            .map_err(|_| NotAUri)
    }
}

/// The host of an authority: `[::1]:80` gives `[::1]`.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// `RequestMirror`: one copy, for a share of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where the copy goes; one endpoint of it.
    pub target: Target,
    /// So many...
    pub numerator: u32,
    /// ...of so many; at least 1.
    pub denominator: u32,
}

impl Mirror {
    /// Whether the mirror at place `at` of its filters takes this request.
    #[must_use]
    pub fn drawn(&self, draws: Draws, at: u32) -> bool {
        Draws::below(draws.mirror(at), u64::from(self.denominator)) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests;
