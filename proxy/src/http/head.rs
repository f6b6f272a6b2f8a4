//! The head of a request on its way out: as it came, and as the filters of a rule send it on.

use http::header::{self, HeaderValue};
use http::{Method, Request, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use starling_model::ServiceKey;
use starling_routing::Choice;
use starling_routing::filters::NotAUri;
use starling_routing::matching::HttpFacts;

use crate::answers::Answer;
use crate::http::asked::Asked;
use crate::http::body::RequestBody;

/// The head as it came. Copied for a try only when it may be wanted again.
#[derive(Debug)]
pub(crate) struct Head {
    /// `None` when the last try has it.
    parts: Option<Asked>,
    /// RFC 9110, 9.2.1: a second run changes nothing.
    pub(crate) safe: bool,
}

/// Whether a head is wanted once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    Keep,
    GiveAway,
}

impl Head {
    /// Strips what ends here; what was approved is otherwise forwarded byte for byte.
    pub(crate) fn new(domain: &str, service: &ServiceKey, request: &mut Request<Incoming>) -> Result<Self, Answer> {
        let method = std::mem::take(request.method_mut());
        let (uri, headers) = (std::mem::take(request.uri_mut()), std::mem::take(request.headers_mut()));
        let mut parts = Asked::new((domain, service), method, uri, headers)?;
        if !request.body().is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            // Said aloud, since hyper would otherwise take a GET's body away.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        Ok(Self { parts: Some(parts), safe })
    }

    /// What routes look at; `None` once the last try has it.
    pub(crate) fn facts(&self) -> Option<HttpFacts<'_>> {
        self.parts.as_ref().map(Asked::facts)
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
        Ok(Some(sent(parts, body)))
    }

    /// A copy for a mirror: with the headers of the rule, under the path that was asked for.
    pub(crate) fn copied(&self, body: RequestBody, choice: &Choice) -> Option<Request<RequestBody>> {
        let mut parts = self.parts.clone()?;
        choice.filters().for_each(|chain| chain.edit_request(&mut parts.headers));
        Some(sent(parts, body))
    }

    /// Takes back what was not sent, unless it is kept. Only heads that nothing edits are given away.
    pub(crate) fn restore(&mut self, request: Request<RequestBody>) {
        self.parts.get_or_insert_with(|| {
            let (parts, _) = request.into_parts();
            Asked { method: parts.method, uri: parts.uri, headers: parts.headers }
        });
    }
}

fn sent(asked: Asked, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = asked.method;
    *request.uri_mut() = asked.uri;
    *request.headers_mut() = asked.headers;
    *request.version_mut() = Version::HTTP_11;
    request
}
