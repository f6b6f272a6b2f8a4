//! Refuses what two HTTP implementations could read differently, before anything else looks at it.
//!
//! Each hop does it again: a peer's cleaning proves nothing. What is refused is refused whole, never repaired: the
//! string that is authorised is the string that is forwarded. Judged on the raw head, since a parser that has already
//! merged lengths or cut a fragment (hyper does both) no longer shows what was sent. Rules and the attacks behind them:
//! request smuggling by both framings (RFC 9112, 6.1), path confusion by `%00`, `#` and `\`, and identity headers
//! smuggled in with `_` for `-`.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};

use crate::http::codec;
use crate::limits::HEADERS_MAX;

/// Headers that end at each hop (RFC 9110, 7.6.1), the ones named by `Connection` aside. `te` is set anew at each
/// hop where the caller takes trailers ([`takes_trailers`]). `trailer` names them for whoever reads the end of the message
/// (RFC 9110, 6.6.2), and passes.
fn ends_here(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::TE | header::TRANSFER_ENCODING | header::UPGRADE | header::PROXY_AUTHENTICATE
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// What HTTP/2 has no use for (RFC 9113, 8.2.2); a head that has it was made to be translated by somebody careless.
static CONNECTION_SPECIFIC: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Who is calling, by URI of its SPIFFE id; set by the receiver only.
pub static XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Set by a receiving agent on its own answers, never by an application: the error type of RFC 9209.
pub static STARLING_ERROR: HeaderName = HeaderName::from_static("x-starling-error");

/// Set by a receiving agent on its own answers: the request reached nobody, so another endpoint may be tried.
pub static STARLING_UNPROCESSED: HeaderName = HeaderName::from_static("x-starling-unprocessed");

/// Why a request is refused at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadRefused {
    /// Not HTTP/1, or not well formed.
    Malformed,
    /// Over 64 KiB, or over 100 lines.
    HeadTooLarge,
    /// The request line alone is over 64 KiB.
    TargetTooLong,
    /// `Content-Length` and `Transfer-Encoding` together.
    BothFramings,
    /// Several lengths, or none that is a number.
    ContentLength,
    /// `Transfer-Encoding` other than exactly `chunked`.
    TransferCoding,
    /// `Transfer-Encoding` in HTTP/1.0, which has none.
    TransferCodingInHttp10,
    /// A chunk size or a chunk's end is wrong.
    Chunk,
    /// `%00`, `#` or `\` in the target, or a form that the method does not have.
    Target,
    /// No `Host` in HTTP/1.1, several, or one that the absolute target contradicts.
    Host,
    /// `x_forwarded_for` and the like, which some servers read as the real name.
    Disguised,
    /// HTTP/2 with prior knowledge, where only HTTP/1.1 is spoken.
    Http2,
    /// `CONNECT` where no tunnel is opened: only the HTTP outbound opens them.
    Connect,
    /// `Upgrade` with several protocols, or with a body.
    Upgrade,
    /// Bytes behind a request to switch protocols, before it was answered (CVE-2025-64763).
    Early,
    /// It took longer than 10 s from its first byte.
    Slow,
}

impl HeadRefused {
    /// The status to answer with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Slow => 408,
            Self::HeadTooLarge => 431,
            Self::TargetTooLong => 414,
            Self::TransferCoding | Self::Http2 | Self::Connect | Self::Upgrade => 501,
            Self::Malformed
            | Self::BothFramings
            | Self::ContentLength
            | Self::TransferCodingInHttp10
            | Self::Chunk
            | Self::Target
            | Self::Host
            | Self::Disguised
            | Self::Early => 400,
        }
    }

    /// The rule that was broken, for the person who wrote the client.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Malformed => "the head is not well-formed HTTP/1.1",
            Self::HeadTooLarge => "the head is over 64 KiB or has over 100 headers",
            Self::TargetTooLong => "the request target is over 64 KiB",
            Self::BothFramings => "Content-Length and Transfer-Encoding exclude each other",
            Self::ContentLength => "there is not exactly one decimal Content-Length",
            Self::TransferCoding => "the only transfer coding served is chunked",
            Self::TransferCodingInHttp10 => "HTTP/1.0 has no Transfer-Encoding",
            Self::Chunk => "the chunked body is malformed",
            Self::Target => "the target holds %00, # or a backslash, or has a form that its method does not take",
            Self::Host => "there is not exactly one Host, or it contradicts the absolute target",
            Self::Disguised => "a forwarding header is written with '_' for '-'",
            Self::Http2 => "HTTP/2 is not served here",
            Self::Connect => "CONNECT is not served here",
            Self::Upgrade => "Upgrade is served with one protocol and without a body",
            Self::Early => "a request to switch protocols has no body, and nothing follows it before its answer",
            Self::Slow => "the head was not complete within 10 s",
        }
    }
}

/// How the end of a request's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunk after chunk.
    Chunked,
    /// There is none, and its answer may make the connection a tunnel (`CONNECT`, `Upgrade`): nothing may follow before.
    Switch,
}

/// Judges one complete head. The framing it returns is the only one that a reader can then come to.
///
/// # Errors
/// [`HeadRefused`]: the first rule broken, framing first.
pub fn check_head(head: &httparse::Request<'_, '_>) -> Result<Framing, HeadRefused> {
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Err(HeadRefused::Malformed);
    };
    let mut length: Option<&[u8]> = None;
    let mut lengths = 0u32;
    let mut coding: Option<&[u8]> = None;
    let mut codings = 0u32;
    let mut host: Option<&[u8]> = None;
    let mut hosts = 0u32;
    let mut upgrade: Option<&[u8]> = None;
    let mut upgrades = 0u32;
    let mut wants_upgrade = false;
    for line in head.headers.iter() {
        let name = line.name;
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(line.value);
            lengths += 1;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            coding = Some(line.value);
            codings += 1;
        } else if name.eq_ignore_ascii_case("host") {
            host = Some(line.value);
            hosts += 1;
        } else if name.eq_ignore_ascii_case("upgrade") {
            upgrade = Some(line.value.trim_ascii());
            upgrades += 1;
        } else if name.eq_ignore_ascii_case("connection") {
            wants_upgrade |=
                line.value.split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
        } else if is_disguised(name) {
            return Err(HeadRefused::Disguised);
        }
    }
    if lengths > 0 && codings > 0 {
        return Err(HeadRefused::BothFramings);
    }
    if lengths > 1 {
        return Err(HeadRefused::ContentLength);
    }
    let framing = match (length, coding) {
        (None, None) => Framing::Empty,
        (Some(text), _) => match parse_length(text)? {
            0 => Framing::Empty,
            bytes => Framing::Length(bytes),
        },
        (None, Some(_)) if minor == 0 => return Err(HeadRefused::TransferCodingInHttp10),
        (None, Some(text)) if codings == 1 && text.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        (None, Some(_)) => return Err(HeadRefused::TransferCoding),
    };
    if hosts > 1 || (hosts == 0 && minor == 1) {
        return Err(HeadRefused::Host);
    }
    if method == "CONNECT" {
        return check_connect(target, host, lengths + codings);
    }
    check_target(method, target)?;
    if let (Some(host), Some(authority)) = (host, authority_of(target))
        && !same_authority(host, authority.as_bytes())
    {
        return Err(HeadRefused::Host);
    }
    match upgrade {
        // Without `Connection: upgrade`, or in HTTP/1.0, it asks for nothing (RFC 9110, 7.8).
        Some(protocol) if wants_upgrade && minor == 1 => check_upgrade(protocol, upgrades, framing),
        Some(_) | None => Ok(framing),
    }
}

/// RFC 9110, 9.3.6: the target is host and port, and a body has no meaning.
fn check_connect(target: &str, host: Option<&[u8]>, framings: u32) -> Result<Framing, HeadRefused> {
    let (name, port) = target.rsplit_once(':').ok_or(HeadRefused::Target)?;
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let named = literal.is_none() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let address = literal.is_some_and(|name| name.parse::<std::net::Ipv6Addr>().is_ok());
    let numbered = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if name.is_empty() || !(named || address) || !numbered {
        return Err(HeadRefused::Target);
    }
    // Clients write the target as it is, or without its port.
    let agrees = |host: &[u8]| [target, name].iter().any(|text| host.eq_ignore_ascii_case(text.as_bytes()));
    if host.is_some_and(|host| !agrees(host.trim_ascii())) {
        return Err(HeadRefused::Host);
    }
    if framings > 0 { Err(HeadRefused::Early) } else { Ok(Framing::Switch) }
}

/// One protocol, `name` or `name/version`, and no body.
fn check_upgrade(protocol: &[u8], lines: u32, framing: Framing) -> Result<Framing, HeadRefused> {
    if lines == 1 && protocol.eq_ignore_ascii_case(b"h2c") {
        // An offer that may be ignored (RFC 9110, 7.8), and common clients make it unasked. Never forwarded: behind it
        // nobody would look at requests.
        return Ok(framing);
    }
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let is_token = |text: &[u8]| !text.is_empty() && text.iter().all(token);
    let is_one = protocol.splitn(2, |b| *b == b'/').all(is_token);
    if lines == 1 && is_one && framing == Framing::Empty { Ok(Framing::Switch) } else { Err(HeadRefused::Upgrade) }
}

fn parse_length(text: &[u8]) -> Result<u64, HeadRefused> {
    // 19 digits are the most that surely fit; no sign, no blank, no list.
    codec::decimal(text).filter(|_| text.len() <= 19).ok_or(HeadRefused::ContentLength)
}

fn check_target(method: &str, target: &str) -> Result<(), HeadRefused> {
    let form = target.starts_with('/') || authority_of(target).is_some() || (target == "*" && method == "OPTIONS");
    let bytes = target.as_bytes();
    let clean = !bytes.iter().any(|b| matches!(b, b'#' | b'\\')) && !bytes.windows(3).any(|w| w == b"%00");
    if form && clean { Ok(()) } else { Err(HeadRefused::Target) }
}

/// The authority of an absolute-form target (`http://orders.mesh.internal:80/x`); none of any other form or scheme.
#[must_use]
pub fn authority_of(target: &str) -> Option<&str> {
    let head = target.get(..7)?;
    if !head.eq_ignore_ascii_case("http://") {
        return None;
    }
    let rest = target.get(7..)?;
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    (!authority.is_empty() && !authority.contains('@')).then_some(authority)
}

/// Hosts are compared without case and without port 80, which is what `http` means by none.
fn same_authority(one: &[u8], two: &[u8]) -> bool {
    let bare = |text: &[u8]| text.trim_ascii().strip_suffix(b":80").unwrap_or(text.trim_ascii()).to_ascii_lowercase();
    bare(one) == bare(two)
}

/// `X_Forwarded_For`: not our name, but a CGI server would read it as ours.
fn is_disguised(name: &str) -> bool {
    name.contains('_') && {
        let plain = name.to_ascii_lowercase().replace('_', "-");
        plain.starts_with("x-forwarded-") || plain.starts_with("x-starling-") || plain == "forwarded"
    }
}

/// Judges one HTTP/2 head, which has no framing to be ambiguous about, by the same rules as far as they apply (RFC 9113,
/// 8.2 and 8.3). h2 has checked field characters, pseudo-headers and that a body is as long as its head says.
///
/// # Errors
/// [`HeadRefused`]: the first rule broken.
pub fn check_http2<B>(request: &Request<B>) -> Result<(), HeadRefused> {
    let headers = request.headers();
    // The next hop reads so many lines, with those for the authority and the coding.
    if headers.len() > HEADERS_MAX - 2 {
        return Err(HeadRefused::HeadTooLarge);
    }
    if CONNECTION_SPECIFIC.iter().any(|name| headers.contains_key(name)) {
        return Err(HeadRefused::Malformed);
    }
    if headers.keys().any(|name| is_disguised(name.as_str())) {
        return Err(HeadRefused::Disguised);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        parse_length(length.as_bytes())?;
    }
    if lengths.next().is_some() {
        return Err(HeadRefused::ContentLength);
    }
    if request.method() == Method::CONNECT {
        return Err(HeadRefused::Connect);
    }
    let uri = request.uri();
    if !matches!(uri.scheme_str(), Some("http" | "https") | None) {
        return Err(HeadRefused::Target);
    }
    check_target(request.method().as_str(), uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str))?;
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadRefused::Host);
    }
    match (uri.authority(), host) {
        (Some(authority), _) if authority.as_str().contains('@') => Err(HeadRefused::Host),
        (Some(authority), Some(host)) if !same_authority(host.as_bytes(), authority.as_str().as_bytes()) => {
            Err(HeadRefused::Host)
        }
        (Some(_), _) | (None, Some(_)) => Ok(()),
        (None, None) => Err(HeadRefused::Host),
    }
}

/// Takes off trailers what would change a message, its way or its sender if a receiver merged it into the head (RFC
/// 9110, 6.5.1).
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    strip_ours(trailers);
    for name in [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE, header::EXPECT] {
        trailers.remove(name);
    }
}

/// Whether a head has such a line. For those that few have: to look at each of its few lines costs less than to hash one name.
#[must_use]
pub fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|held| held == name)
}

/// The first such line; like [`has`], for lines that few heads have.
#[must_use]
pub fn find<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if has(headers, name) { headers.get(name) } else { None }
}

/// True where a caller says that it reads trailers (RFC 9110, 10.1.4).
#[must_use]
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    if !has(headers, &header::TE) {
        return false;
    }
    let mut codings = headers.get_all(header::TE).into_iter().flat_map(|te| te.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Removes what ends at this hop, in either direction: hop-by-hop headers and those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One look at what is there costs less than a look-up of each that could be.
    if !headers.keys().any(ends_here) {
        return;
    }
    if has(headers, &header::CONNECTION) {
        // What most name goes in any case.
        let goes = |token: &&str| ["keep-alive", "te", "upgrade"].iter().any(|word| token.eq_ignore_ascii_case(word));
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|token| !goes(token))
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            // Naming an end-to-end header here must not delete what authorises the request (CVE-2022-1388).
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH) && *name != XFCC)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    while let Some(name) = headers.keys().find(|name| ends_here(name)).cloned() {
        headers.remove(name);
    }
}

/// Removes every header that only agents may set. Called on requests from applications, on requests from peers (before
/// the receiver sets its own) and on answers of instances.
pub fn strip_ours(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| **name == XFCC || name.as_str().starts_with("x-starling-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
