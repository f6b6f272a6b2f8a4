//! The head of a request on its way out: as it came, and as the filters of a rule send it on.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use starling_model::ServiceKey;
use starling_routing::Choice;
use starling_routing::filters::NotAUri;
use starling_routing::matching::HttpFacts;

use crate::answers::{Answer, ErrorType};
use crate::http::body::RequestBody;
use crate::http::guard::Verdict;
use crate::http::{harden, upgrade};

/// Everything but the body.
#[derive(Clone, Debug)]
struct Parts {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// The protocol that the request wants instead of HTTP.
    upgrade: Option<HeaderValue>,
}

impl Parts {
    fn facts(&self) -> HttpFacts<'_> {
        HttpFacts {
            method: &self.method,
            scheme: "http",
            authority: self.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
            path: self.uri.path(),
            query: self.uri.query(),
            headers: &self.headers,
        }
    }

    /// What the filters of the rule and of its backend make of it; response headers come later.
    fn edit(&mut self, choice: &Choice) -> Result<(), NotAUri> {
        for chain in choice.filters() {
            chain.edit_request(&mut self.headers);
            if let Some(uri) = chain.rewritten(&self.facts())? {
                self.uri = uri;
            }
            if let Some(host) = chain.rewritten_host() {
                self.headers.insert(header::HOST, host.clone());
            }
        }
        Ok(())
    }

    fn into_request(mut self, body: RequestBody) -> Request<RequestBody> {
        if let Some(protocol) = self.upgrade {
            // Anew at each hop, behind all filters.
            upgrade::announce(&mut self.headers, protocol);
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        *request.version_mut() = Version::HTTP_11;
        request
    }
}

/// The head as it came. Copied for a try only when it may be wanted again.
#[derive(Debug)]
pub(crate) struct Head {
    /// `None` when the last try has it.
    parts: Option<Parts>,
    /// RFC 9110, 9.2.1: a second run changes nothing.
    pub(crate) safe: bool,
    /// It asks for another protocol.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Whether a head is wanted once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    Keep,
    GiveAway,
}

impl Head {
    /// Strips what ends here; what was approved is otherwise forwarded byte for byte.
    pub(crate) fn new(
        domain: &str,
        service: &ServiceKey,
        request: &mut Request<Incoming>,
        verdict: Verdict,
    ) -> Result<Self, Answer> {
        let mut headers = std::mem::take(request.headers_mut());
        let upgrade = match verdict {
            Verdict::MaySwitch => upgrade::wanted(&headers),
            Verdict::Approved | Verdict::Refused(_) => None,
        };
        harden::strip_hop_by_hop(&mut headers);
        harden::strip_ours(&mut headers);
        // This hop answers `100 Continue` itself, when the body is first asked for.
        headers.remove(header::EXPECT);
        let uri = std::mem::take(request.uri_mut());
        if let Some(authority) = uri.authority() {
            // RFC 9112, 3.2.2; the door has seen that an own Host agrees.
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|_| Answer::new(ErrorType::HttpRequestError, "the target's host is no header value"))?;
            headers.insert(header::HOST, host);
        } else if !headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(&service.host(domain))
        {
            headers.insert(header::HOST, host);
        }
        let uri = match uri.into_parts().path_and_query {
            Some(path) => Uri::from(path),
            None => Uri::from_static("/"),
        };
        if !request.body().is_end_stream() && !headers.contains_key(header::CONTENT_LENGTH) {
            // Said aloud, since hyper would otherwise take a GET's body away.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let method = std::mem::take(request.method_mut());
        let safe = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        Ok(Self { parts: Some(Parts { method, uri, headers, upgrade: upgrade.clone() }), safe, upgrade })
    }

    /// What routes look at; `None` once the last try has it.
    pub(crate) fn facts(&self) -> Option<HttpFacts<'_>> {
        self.parts.as_ref().map(Parts::facts)
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.parts.is_some()
    }

    /// The request of one try, as the filters of the choice have it; `None` when an earlier one took the head.
    pub(crate) fn request(
        &mut self,
        body: RequestBody,
        copies: Copies,
        choice: &Choice,
    ) -> Result<Option<Request<RequestBody>>, NotAUri> {
        let parts = match copies {
            Copies::Keep => self.parts.clone(),
            Copies::GiveAway => self.parts.take(),
        };
        let Some(mut parts) = parts else { return Ok(None) };
        parts.edit(choice)?;
        Ok(Some(parts.into_request(body)))
    }

    /// A copy for a mirror: with the headers of the rule, under the path that was asked for.
    pub(crate) fn copied(&self, body: RequestBody, choice: &Choice) -> Option<Request<RequestBody>> {
        // Two cannot talk to one client.
        let mut parts = self.parts.clone().filter(|parts| parts.upgrade.is_none())?;
        choice.filters().for_each(|chain| chain.edit_request(&mut parts.headers));
        Some(parts.into_request(body))
    }

    /// Takes back what was not sent, unless it is kept. Only heads that nothing edits are given away.
    pub(crate) fn restore(&mut self, request: Request<RequestBody>) {
        let upgrade = self.upgrade.clone();
        self.parts.get_or_insert_with(|| {
            let (parts, _) = request.into_parts();
            Parts { method: parts.method, uri: parts.uri, headers: parts.headers, upgrade }
        });
    }
}
