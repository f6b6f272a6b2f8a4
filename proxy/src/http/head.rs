//! The head of a request on its way out: as it came, and as the filters of a rule send it on.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use starling_model::{Protocol, ServiceKey};
use starling_routing::filters::NotAUri;
use starling_routing::matching::HttpFacts;
use starling_routing::{Choice, Endpoint};

use crate::answers::Answer;
use crate::header::Carry;
use crate::http::arriving::Arriving;
use crate::http::asked::Asked;
use crate::http::door::Verdict;
use crate::http::grpc::Spoken;
use crate::http::harden;
use crate::http::upgrade;

/// The target of an HTTP/2 request, whose authority stands there and in no `Host`.
pub(crate) fn absolute(uri: &Uri, headers: &mut HeaderMap) -> Result<Uri, NotAUri> {
    let host = headers.remove(header::HOST);
    let authority = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Uri::builder().scheme("http").authority(authority).path_and_query(path).build().map_err(|_| NotAUri)
}

/// Says on one HTTP/1.1 hop that trailers are read (RFC 9110, 10.1.4).
pub(crate) fn take_trailers(headers: &mut HeaderMap) {
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
}

/// Makes an HTTP/2 head look as HTTP/1 has it, for everyone behind: the authority in `Host`, and one `Cookie` (RFC 9113,
/// 8.2.3).
pub(crate) fn from_http2<B>(request: &mut Request<B>) {
    let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let headers = request.headers_mut();
    if let Some(host) = authority {
        headers.insert(header::HOST, host);
    }
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

/// The head as it came. A try has it, and gives it back if another one may follow; where filters edit it, a try has a copy.
#[derive(Debug)]
pub(crate) struct Head {
    /// `None` while a try has it.
    asked: Option<Asked>,
    /// RFC 9110, 9.2.1: a second run changes nothing.
    pub(crate) safe: bool,
    /// The protocol that it asks for instead of HTTP.
    pub(crate) upgrade: Option<HeaderValue>,
    /// How it came.
    pub(crate) spoken: Spoken,
    /// The caller takes trailers (`te: trailers`), as gRPC does.
    trailers: bool,
}

/// Whether a head is wanted as it came while a try has it.
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
        request: &mut Request<Arriving>,
        verdict: Verdict,
    ) -> Result<Self, Answer> {
        let spoken = Spoken::of(request);
        if request.version() == Version::HTTP_2 {
            from_http2(request);
        }
        let trailers = harden::takes_trailers(request.headers());
        let method = std::mem::take(request.method_mut());
        let (uri, headers) = (std::mem::take(request.uri_mut()), std::mem::take(request.headers_mut()));
        let upgrade = match verdict {
            Verdict::MaySwitch => upgrade::wanted(&headers),
            Verdict::Approved | Verdict::Refused(_) => None,
        };
        let asked = Asked::new((domain, service), method, uri, headers)?;
        let safe = matches!(asked.0.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        Ok(Self { asked: Some(asked), safe, upgrade, spoken, trailers })
    }

    /// What it is for an endpoint: as that speaks, and gRPC HTTP/2 always, since it has no other form.
    pub(crate) fn carry_to(&self, endpoint: &Endpoint) -> Carry {
        match (self.spoken, endpoint.protocol) {
            // The client knows its server, where nobody says what that speaks.
            (Spoken::Grpc, _) | (_, Protocol::Grpc) | (Spoken::Http2, Protocol::Detect) => Carry::Http2,
            (Spoken::Http1, Protocol::Detect) => Carry::Http1,
            (Spoken::Http1 | Spoken::Http2, Protocol::Http | Protocol::Tcp) => Carry::Http1,
        }
    }

    /// What routes look at; `None` while a try has it.
    pub(crate) fn facts(&self) -> Option<HttpFacts<'_>> {
        self.asked.as_ref().map(Asked::facts)
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.asked.is_some()
    }

    /// The head of one try, as the filters of the choice have it; `None` while an earlier one has it.
    pub(crate) fn of_try(
        &mut self,
        copies: Copies,
        choice: &Choice,
        carry: Carry,
    ) -> Result<Option<Box<Parts>>, NotAUri> {
        let asked = match copies {
            Copies::Keep => self.asked.clone(),
            Copies::GiveAway => self.asked.take(),
        };
        let Some(mut asked) = asked else { return Ok(None) };
        asked.edit(choice)?;
        self.say_for_hop(&mut asked.0.headers, carry);
        Ok(Some(asked.0))
    }

    /// A copy for a mirror: with the headers of the rule, under the path that was asked for.
    pub(crate) fn copied(&self, choice: &Choice, carry: Carry) -> Option<Box<Parts>> {
        // Two cannot talk to one client.
        let mut parts = self.asked.clone().filter(|_| self.upgrade.is_none())?.0;
        choice.filters().for_each(|chain| chain.edit_request(&mut parts.headers));
        self.say_for_hop(&mut parts.headers, carry);
        Some(parts)
    }

    /// What is said anew at each hop, behind all filters.
    fn say_for_hop(&self, headers: &mut HeaderMap, carry: Carry) {
        match (carry, &self.upgrade) {
            (Carry::Http1 | Carry::Bytes, Some(protocol)) => upgrade::announce(headers, protocol.clone()),
            (Carry::Http1 | Carry::Bytes, None) if self.trailers => take_trailers(headers),
            // For the instance: the hop itself carries trailers in any case.
            (Carry::Http2, _) if self.trailers => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            (Carry::Http1 | Carry::Bytes | Carry::Http2, _) => {}
        }
        if carry == Carry::Http2 && headers.contains_key(header::TRAILER) {
            // HTTP/2 has a length beside trailers, a message on the hop has chunks or none.
            headers.remove(header::CONTENT_LENGTH);
        }
    }

    /// Takes back what a try had, unless it is kept. Only heads that nothing edits are given away.
    pub(crate) fn restore(&mut self, parts: Option<Box<Parts>>) {
        if let (None, Some(mut parts)) = (&self.asked, parts) {
            // Said for the hop of that try alone.
            harden::strip_hop_by_hop(&mut parts.headers);
            self.asked = Some(Asked(parts));
        }
    }
}
