//! What matches ask for and what requests have instead, in words for people.

use std::fmt;

use http::Method;
use starling_config::documents::http_route::TextMatch;

use super::{Conditions, HttpFacts, Miss, PathCondition, parameter, value_of};
use crate::limits::TOLD_CHARS_MAX;

/// One condition of a match that a request does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which condition failed first.
    pub miss: Miss,
    /// What was looked at: `path`, `method`, `header x-canary`, `query parameter page`.
    pub matcher: String,
    /// What it should be: `always`, `prefix /admin`, `pattern ^a`.
    pub want: String,
    /// What it is, at most [`TOLD_CHARS_MAX`] characters of it; `None`: there is none.
    pub got: Option<String>,
}

impl fmt::Display for Missed {
    /// `header x-canary is absent (needs "always")`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { miss, matcher, want, got } = self;
        match (miss, got) {
            (Miss::Path | Miss::Method, _) => {
                write!(f, "{matcher} is {} (needs {want})", got.as_deref().unwrap_or("-"))
            }
            (Miss::ServerName, None) => write!(f, "the client names no server (needs {want})"),
            (Miss::ServerName, Some(got)) => write!(f, "{matcher} is {got} (needs {want})"),
            (Miss::Header(_) | Miss::Query(_), None) => write!(f, "{matcher} is absent (needs {})", quoted(want)),
            (Miss::Header(_) | Miss::Query(_), Some(got)) => {
                write!(f, "{matcher} is \"{got}\" (needs {})", quoted(want))
            }
        }
    }
}

/// Patterns are told without quotes.
fn quoted(want: &str) -> String {
    if want.starts_with(PATTERN) { want.to_owned() } else { format!("\"{want}\"") }
}

const PATTERN: &str = "pattern ";

fn wanted(text: &TextMatch) -> String {
    match text {
        TextMatch::Exact(text) => text.clone(),
        TextMatch::Pattern(pattern) => format!("{PATTERN}{}", pattern.as_str()),
    }
}

/// Text of a request, which may be anything: bounded, and readable.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(TOLD_CHARS_MAX).collect();
    if text.chars().nth(TOLD_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

impl PathCondition {
    fn wanted(&self) -> String {
        match self {
            Self::Exact(path) => format!("exactly {path}"),
            Self::Prefix(prefix) if prefix.as_str().is_empty() => "prefix /".to_owned(),
            Self::Prefix(prefix) => format!("prefix {}", prefix.as_str()),
            Self::Pattern(pattern) => format!("{PATTERN}{}", pattern.as_str()),
            Self::Grpc { service, method } => {
                let part = |part: &Option<TextMatch>| part.as_ref().map_or_else(|| "any".to_owned(), wanted);
                format!("a gRPC call of service {} and method {}", part(service), part(method))
            }
        }
    }
}

impl Conditions {
    /// The condition that failed, with what the request has in its place.
    #[must_use]
    pub fn missed(&self, miss: Miss, request: &HttpFacts<'_>) -> Missed {
        let (matcher, want, got) = match miss {
            Miss::Path => ("path".to_owned(), self.path.wanted(), Some(shown(request.path.as_bytes()))),
            // Not a condition of requests.
            Miss::ServerName => ("server name".to_owned(), String::new(), None),
            Miss::Method => {
                let want = self.method.as_ref().map_or("any", Method::as_str);
                ("method".to_owned(), want.to_owned(), Some(shown(request.method.as_str().as_bytes())))
            }
            Miss::Header(at) => match self.headers.get(at) {
                Some(one) => {
                    let got = value_of(request.headers, &one.name).map(|value| shown(&value));
                    (format!("header {}", one.name), wanted(&one.value), got)
                }
                None => (String::new(), String::new(), None),
            },
            Miss::Query(at) => match self.query.get(at) {
                Some(one) => {
                    let got = parameter(request.query, &one.name).map(|value| shown(&value));
                    (format!("query parameter {}", one.name), wanted(&one.value), got)
                }
                None => (String::new(), String::new(), None),
            },
        };
        Missed { miss, matcher, want, got }
    }
}

impl fmt::Display for Conditions {
    /// `path prefix / and x-canary = "always"`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            PathCondition::Grpc { .. } => f.write_str(&self.path.wanted())?,
            PathCondition::Exact(_) | PathCondition::Prefix(_) | PathCondition::Pattern(_) => {
                write!(f, "path {}", self.path.wanted())?;
            }
        }
        if let Some(method) = &self.method {
            write!(f, " and method {method}")?;
        }
        let value = |value: &TextMatch| match value {
            TextMatch::Exact(text) => format!("= \"{text}\""),
            TextMatch::Pattern(pattern) => format!("~ {}", pattern.as_str()),
        };
        for header in &self.headers {
            write!(f, " and {} {}", header.name, value(&header.value))?;
        }
        for parameter in &self.query {
            write!(f, " and query {} {}", parameter.name, value(&parameter.value))?;
        }
        Ok(())
    }
}
