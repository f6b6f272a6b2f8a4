//! What a rule or a backend does to a request and its response, as pure functions on `http` types.
//!
//! The order is fixed: CORS, request headers, mirrors, redirect or rewrite; response headers on the way back. The
//! filters of the rule come before those of the chosen backend. A request that is redirected goes nowhere, so it is not
//! mirrored either.

use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use starling_config::documents::cors::Cors;
use starling_config::documents::filter::{
    Filters, HeaderEdits, Mirror, PathEdit, PathFilter, Redirect, Rewrite, Scheme,
};

use crate::decision::Draws;
use crate::matching::{HttpFacts, PathPrefix};
use crate::split::Target;

pub mod cors;

use cors::Origin;

/// All filters of one rule or one backend, with what compiling knows beyond the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterChain {
    /// As the document says it.
    said: Filters,
    /// What `ReplacePrefixMatch` replaces: the prefix of the rule's only match.
    prefix: PathPrefix,
    /// The origins of the CORS filter, read.
    origins: Vec<Origin>,
    /// The host of a rewrite.
    host: Option<HeaderValue>,
    /// Mirrors that lead somewhere, with their place among those of the document.
    mirrors: Vec<(u32, Target)>,
    /// The document says nothing; asked at every request.
    is_empty: bool,
}

impl FilterChain {
    /// Readies the filters of a document. `mirrors` has the target of each mirror, in their order; one without is left
    /// out, since a copy answers nobody.
    #[must_use]
    pub fn new(said: &Filters, prefix: PathPrefix, mirrors: impl IntoIterator<Item = Option<Target>>) -> Self {
        let origins = said.cors.iter().flat_map(|cors| &cors.allow_origins).map(|text| Origin::new(text)).collect();
        let hostname = match &said.path {
            Some(PathFilter::Rewrite(rewrite)) => rewrite.hostname.as_deref(),
            Some(PathFilter::Redirect(_)) | None => None,
        };
        let host = hostname.and_then(|host| HeaderValue::from_str(host).ok());
        let mirrors = (0u32..).zip(mirrors).filter_map(|(at, target)| Some((at, target?))).collect();
        Self { said: said.clone(), prefix, origins, host, mirrors, is_empty: *said == Filters::default() }
    }

    /// As the document says it.
    #[must_use]
    pub fn said(&self) -> &Filters {
        &self.said
    }

    /// True when nothing is done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The headers of the 204 that answers a preflight; `None` unless the request is one and there is a CORS filter.
    #[must_use]
    pub fn preflight(&self, request: &HttpFacts<'_>) -> Option<HeaderMap> {
        let cors = self.said.cors.as_ref().filter(|_| cors::is_preflight(request))?;
        Some(cors::preflight(cors, &self.origins, request))
    }

    /// What CORS adds to the response of a request with these headers.
    #[must_use]
    pub fn cors_response(&self, request: &HeaderMap) -> HeaderMap {
        let answer = |cors: &Cors| cors::response(cors, &self.origins, request);
        self.said.cors.as_ref().map(answer).unwrap_or_default()
    }

    /// Edits the headers on the way there.
    pub fn edit_request(&self, headers: &mut HeaderMap) {
        if let Some(edits) = &self.said.request_headers {
            edit(edits, headers);
        }
    }

    /// Edits the headers on the way back.
    pub fn edit_response(&self, headers: &mut HeaderMap) {
        if let Some(edits) = &self.said.response_headers {
            edit(edits, headers);
        }
    }

    /// Targets of the mirrors that take this request. `first` is how many mirrors stand before this chain's, so that
    /// each has a draw of its own.
    pub fn mirrors(&self, draws: Draws, first: u32) -> impl Iterator<Item = &Target> {
        self.mirrors.iter().filter_map(move |(at, target)| {
            let mirror = self.said.mirrors.get(*at as usize)?;
            is_mirrored(mirror, draws, first.saturating_add(*at)).then_some(target)
        })
    }

    /// Targets of the mirrors that take any request at all, with their places in the document.
    pub fn mirror_targets(&self) -> impl Iterator<Item = (u32, &Target)> {
        let takes = |at: u32| self.said.mirrors.get(at as usize).is_some_and(|mirror| mirror.numerator > 0);
        self.mirrors.iter().filter(move |(at, _)| takes(*at)).map(|(at, target)| (*at, target))
    }

    /// How many mirrors the document has here.
    #[must_use]
    pub fn mirrors_len(&self) -> u32 {
        u32::try_from(self.said.mirrors.len()).unwrap_or(u32::MAX)
    }

    /// Whether requests are redirected.
    #[must_use]
    pub fn redirects(&self) -> bool {
        matches!(self.said.path, Some(PathFilter::Redirect(_)))
    }

    /// Status and `Location` where the request is redirected.
    ///
    /// # Errors
    /// [`NotAUri`] as [`location`] has it.
    pub fn redirect(
        &self,
        request: &HttpFacts<'_>,
        frontend_port: Option<u16>,
    ) -> Option<Result<(StatusCode, HeaderValue), NotAUri>> {
        match &self.said.path {
            Some(PathFilter::Redirect(redirect)) => {
                let location = location(redirect, &self.prefix, request, frontend_port);
                Some(location.map(|location| (redirect.status, location)))
            }
            Some(PathFilter::Rewrite(_)) | None => None,
        }
    }

    /// The path and query to send on; `None` where they stay as they are.
    ///
    /// # Errors
    /// [`NotAUri`] when the result cannot be written as a request target.
    pub fn rewritten(&self, request: &HttpFacts<'_>) -> Result<Option<Uri>, NotAUri> {
        match &self.said.path {
            Some(PathFilter::Rewrite(rewrite)) => rewritten(rewrite, &self.prefix, request),
            Some(PathFilter::Redirect(_)) | None => Ok(None),
        }
    }

    /// The Host to send on, where it changes.
    #[must_use]
    pub fn rewritten_host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }
}

/// Edits `headers`: set, then add, then remove.
pub fn edit(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for (name, value) in &edits.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &edits.add {
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
    for name in &edits.remove {
        headers.remove(name);
    }
}

/// The new path; never empty. `prefix` is what the rule's match asked for.
#[must_use]
pub fn edited_path(edit: &PathEdit, prefix: &PathPrefix, path: &str) -> String {
    let new = match edit {
        PathEdit::Full(new) => new.clone(),
        PathEdit::Prefix(replacement) => {
            format!("{}{}", replacement.trim_end_matches('/'), prefix.rest(path).unwrap_or(path))
        }
    };
    if new.is_empty() { "/".to_owned() } else { new }
}

/// The path and query of a `URLRewrite`; `None` where they stay as they are.
///
/// # Errors
/// [`NotAUri`] when the result cannot be written as a request target.
pub fn rewritten(rewrite: &Rewrite, prefix: &PathPrefix, request: &HttpFacts<'_>) -> Result<Option<Uri>, NotAUri> {
    let Some(edit) = &rewrite.path else { return Ok(None) };
    let target = with_query(edited_path(edit, prefix, request.path), request.query);
    target.parse().map(Some).map_err(|_| NotAUri)
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

/// The value of `Location` for a `RequestRedirect`. The query stays; a port that the scheme implies is left out. Without
/// a port of its own it has the scheme's well-known one where a scheme is given, else the frontend's.
///
/// # Errors
/// [`NotAUri`] when the result is no header value, which only a request's own odd bytes can cause.
pub fn location(
    redirect: &Redirect,
    prefix: &PathPrefix,
    request: &HttpFacts<'_>,
    frontend_port: Option<u16>,
) -> Result<HeaderValue, NotAUri> {
    let scheme = match redirect.scheme {
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
        None => request.scheme,
    };
    let host = redirect.hostname.as_deref().unwrap_or_else(|| host_of(request.authority));
    let well_known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let implied = if redirect.scheme.is_some() { Some(well_known(scheme)) } else { frontend_port };
    let port = redirect.port.map(std::num::NonZeroU16::get).or(implied).filter(|port| *port != well_known(scheme));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let path = match &redirect.path {
        Some(edit) => edited_path(edit, prefix, request.path),
        None => request.path.to_owned(),
    };
    HeaderValue::from_str(&format!("{scheme}://{host}{port}{}", with_query(path, request.query))).map_err(|_| NotAUri)
}

/// The host of an authority: `[::1]:80` gives `[::1]`.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Whether the mirror at place `at` takes this request.
#[must_use]
pub fn is_mirrored(mirror: &Mirror, draws: Draws, at: u32) -> bool {
    Draws::below(draws.mirror(at), u64::from(mirror.denominator.get())) < u64::from(mirror.numerator)
}

#[cfg(test)]
mod tests;
