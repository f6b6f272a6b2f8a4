//! What a request asks for: its service, and its head as routes see it and as the filters of a rule send it on. Pure, so
//! that an explanation reads a request as the data path does.

use std::sync::Arc;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri};
use starling_model::ServiceKey;
use starling_routing::filters::NotAUri;
use starling_routing::matching::HttpFacts;
use starling_routing::{Choice, RouteTable, Service};

use crate::answers::{Answer, ErrorType};
use crate::http::codec::read_request::take_request;
use crate::http::harden::{self, HeadRefused};

/// A head that ends here and goes on from here: its target is path and query alone, its lines are without those that end
/// at this hop, and with a `Host`. On the heap, since it goes from hand to hand.
#[derive(Clone, Debug)]
pub struct Asked(pub(crate) Box<Parts>);

impl Asked {
    /// Strips what ends here; what was approved is otherwise forwarded byte for byte. `(domain, service)` names the host
    /// of a request that names none.
    ///
    /// # Errors
    /// The answer to a target whose host is no header value.
    pub fn new(
        (domain, service): (&str, &ServiceKey),
        method: Method,
        uri: Uri,
        mut headers: HeaderMap,
    ) -> Result<Self, Answer> {
        harden::strip_hop_by_hop(&mut headers);
        harden::strip_ours(&mut headers);
        // This hop answers `100 Continue` itself, when the body is first asked for.
        if harden::has(&headers, &header::EXPECT) {
            headers.remove(header::EXPECT);
        }
        if let Some(authority) = uri.authority() {
            // RFC 9112, 3.2.2; the door has seen that an own Host agrees.
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|_| Answer::new(ErrorType::HttpRequestError, "the target's host is no header value"))?;
            headers.insert(header::HOST, host);
        } else if !harden::has(&headers, &header::HOST)
            && let Ok(host) = HeaderValue::from_str(&service.host(domain))
        {
            headers.insert(header::HOST, host);
        }
        let uri = match uri.into_parts().path_and_query {
            Some(path) => Uri::from(path),
            None => Uri::from_static("/"),
        };
        let (mut parts, ()) = Request::new(()).into_parts();
        (parts.method, parts.uri, parts.headers) = (method, uri, headers);
        Ok(Self(Box::new(parts)))
    }

    /// What routes look at.
    #[must_use]
    pub fn facts(&self) -> HttpFacts<'_> {
        let Parts { method, uri, headers, .. } = &*self.0;
        HttpFacts {
            method,
            scheme: "http",
            authority: headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
            path: uri.path(),
            query: uri.query(),
            headers,
        }
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &Uri {
        &self.0.uri
    }

    /// What the filters of the rule and of its backend make of it; response headers come later.
    ///
    /// # Errors
    /// [`NotAUri`] when the request's own bytes make no target under this rule.
    pub fn edit(&mut self, choice: &Choice) -> Result<(), NotAUri> {
        for chain in choice.filters().filter(|chain| !chain.is_empty()) {
            chain.edit_request(&mut self.0.headers);
            if let Some(uri) = chain.rewritten(&self.facts())? {
                self.0.uri = uri;
            }
            if let Some(host) = chain.rewritten_host() {
                self.0.headers.insert(header::HOST, host.clone());
            }
        }
        Ok(())
    }
}

/// The service that the HTTP entrance takes a host for. `absolute`: the target itself named it, as clients of an HTTP
/// proxy do.
///
/// # Errors
/// The answer to a host that is none of the mesh, or that this release does not serve.
pub fn by_host<'a>(
    table: &'a RouteTable,
    domain: &str,
    host: Option<&str>,
    absolute: bool,
) -> Result<&'a Arc<Service>, Answer> {
    let Some(host) = host else {
        let detail = "the request names no host";
        return Err(Answer::new(ErrorType::HttpRequestError, detail));
    };
    if let Some(service) = table.resolve_host(host) {
        return Ok(service);
    }
    if let Some(service) = ServiceKey::from_host(host, domain) {
        return Err(Answer::new(ErrorType::DestinationNotFound, format!("no node announces {service}")));
    }
    if absolute {
        let detail = format!("{host} is not of the mesh, and passing other hosts through is off");
        return Err(Answer::new(ErrorType::HttpRequestDenied, detail));
    }
    let detail = format!("{host} is not a host of {domain}");
    Err(Answer::new(ErrorType::DestinationNotFound, detail))
}

/// Reads one complete head of a request, as the server does.
///
/// # Errors
/// The first rule broken.
pub fn read_head(head: &[u8]) -> Result<(Method, Uri, HeaderMap), HeadRefused> {
    let mut input = BytesMut::from(head);
    let head = take_request(&mut input, &mut 0)?.filter(|_| input.is_empty()).ok_or(HeadRefused::Malformed)?;
    Ok((head.method, head.uri, head.headers))
}
