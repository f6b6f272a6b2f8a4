//! Cross-origin requests of browsers (Fetch standard, 3.2): who may, and what the answer says about it.

use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use starling_config::documents::cors::Cors;

use crate::matching::HttpFacts;

/// Allowed on every cross-origin request (Fetch: CORS-safelisted methods).
const SAFE_METHODS: [&str; 3] = ["GET", "HEAD", "POST"];

/// One entry of `allowOrigins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `*`.
    Any,
    /// Scheme, host and port.
    Exact(String),
    /// `https://*.example.com`: one or more labels stand for the star.
    Wild {
        /// Before the star, `https://`.
        before: String,
        /// After it, with the port.
        after: String,
    },
}

impl Origin {
    /// Reads one entry.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.split_once('*') {
            _ if text == "*" => Self::Any,
            Some((before, after)) => Self::Wild { before: before.to_owned(), after: after.to_owned() },
            None => Self::Exact(text),
        }
    }

    fn holds(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(want) => want.eq_ignore_ascii_case(origin),
            Self::Wild { before, after } => {
                let origin = origin.to_ascii_lowercase();
                let labels = origin.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
                labels.is_some_and(|labels| {
                    !labels.is_empty() && labels.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
                })
            }
        }
    }
}

/// True for the question that a browser asks before the request itself.
#[must_use]
pub fn is_preflight(request: &HttpFacts<'_>) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(ORIGIN)
        && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The headers of the 204 that answers a preflight; none for a foreign origin.
pub(super) fn preflight(cors: &Cors, origins: &[Origin], request: &HttpFacts<'_>) -> HeaderMap {
    let Some(mut answer) = allowed(cors, origins, request.headers) else { return HeaderMap::new() };
    let mut methods: Vec<&str> = SAFE_METHODS.to_vec();
    methods.extend(cors.allow_methods.iter().map(String::as_str).filter(|m| !SAFE_METHODS.contains(m)));
    let asked = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    put(&mut answer, ACCESS_CONTROL_ALLOW_METHODS, list(cors, &methods, asked));
    let headers: Vec<&str> = cors.allow_headers.iter().map(String::as_str).collect();
    let asked = request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    put(&mut answer, ACCESS_CONTROL_ALLOW_HEADERS, list(cors, &headers, asked));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()));
    answer
}

/// What is added to the response of the request itself; nothing for a foreign or absent origin.
pub(super) fn response(cors: &Cors, origins: &[Origin], request: &HeaderMap) -> HeaderMap {
    let Some(mut answer) = allowed(cors, origins, request) else { return HeaderMap::new() };
    let names: Vec<&str> = cors.expose_headers.iter().map(String::as_str).collect();
    // With credentials a star would be a header of that name, and nobody said which are meant.
    put(&mut answer, ACCESS_CONTROL_EXPOSE_HEADERS, list(cors, &names, None));
    answer
}

/// `None` unless the request has an allowed origin.
fn allowed(cors: &Cors, origins: &[Origin], request: &HeaderMap) -> Option<HeaderMap> {
    let origin = request.get(ORIGIN)?;
    let text = origin.to_str().ok()?;
    if !origins.iter().any(|allowed| allowed.holds(text)) {
        return None;
    }
    let mut answer = HeaderMap::new();
    if origins.contains(&Origin::Any) && !cors.allow_credentials {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(VARY, HeaderValue::from_static("Origin"));
    }
    if cors.allow_credentials {
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    Some(answer)
}

/// The names as one value; a star among them is sent as such only without credentials, else `asked` is echoed.
fn list(cors: &Cors, names: &[&str], asked: Option<&HeaderValue>) -> Option<HeaderValue> {
    if names.contains(&"*") {
        return if cors.allow_credentials { asked.cloned() } else { Some(HeaderValue::from_static("*")) };
    }
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value);
    }
}
