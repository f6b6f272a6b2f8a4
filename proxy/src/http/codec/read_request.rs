//! The head of a request: judged as it was sent ([`crate::http::harden`]), then taken apart.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use super::{end_of_head, keeps};
use crate::http::harden::{self, Framing, HeadRefused};
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};

/// Blank bytes tolerated before a request line (RFC 9112, 2.2): one or two empty lines.
const LEADING_BLANKS_MAX: usize = 4;

/// What opens an HTTP/2 connection begins with this line (RFC 9113, 3.4).
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// A head that was read.
#[derive(Debug)]
pub struct RequestHead {
    /// Case-sensitive.
    pub method: Method,
    /// As it came: a path, an absolute target, an authority (`CONNECT`), or `*`.
    pub uri: Uri,
    /// As they came.
    pub headers: HeaderMap,
    /// HTTP/1.0, not 1.1.
    pub is_http10: bool,
    /// What follows.
    pub framing: Framing,
    /// Another request may follow on this connection.
    pub keeps: bool,
}

impl RequestHead {
    /// True where the sender may wait for `100 Continue` before it sends the body (RFC 9110, 10.1.1).
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        let has_body = matches!(self.framing, Framing::Length(_) | Framing::Chunked);
        let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        has_body && !self.is_http10 && self.headers.get(header::EXPECT).is_some_and(expects)
    }
}

/// Takes the head at the front of `input`, which holds no end of it in its first `searched` bytes; `None` leaves all of it:
/// more is needed, and the next search begins where this one ended.
///
/// # Errors
/// The first rule broken; nothing behind such a head is to be read.
pub fn take_request(input: &mut BytesMut, searched: &mut usize) -> Result<Option<RequestHead>, HeadRefused> {
    let blanks = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if blanks > LEADING_BLANKS_MAX {
        return Err(HeadRefused::Malformed);
    }
    if input.starts_with(PREFACE_LINE) {
        return Err(HeadRefused::Http2);
    }
    let rest = input.get(blanks..).unwrap_or_default();
    let Some(end) = end_of_head(rest, searched.saturating_sub(blanks)) else {
        // The first bytes already show what is no HTTP; later ones are judged when all of them are there, so a head that
        // drips in byte by byte costs one pass.
        if *searched == 0 {
            parse(input, |_| Ok(()))?;
        }
        *searched = input.len();
        return unfinished(input).map(|()| None);
    };
    let end = blanks.saturating_add(end);
    if end > HEAD_BYTES_MAX {
        return Err(too_large(input));
    }
    *searched = 0;
    let bytes = input.split_to(end.min(input.len())).freeze();
    let head = parse(&bytes, |request| {
        let framing = harden::check_head(request)?;
        let (Some(method), Some(target)) = (request.method, request.path) else { return Err(HeadRefused::Malformed) };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadRefused::Malformed)?;
        // No copy: the target and values share the head's bytes.
        let uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).map_err(|_| HeadRefused::Malformed)?;
        let mut headers = HeaderMap::with_capacity(request.headers.len());
        for line in &*request.headers {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeadRefused::Malformed)?;
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value));
            let value = value.map_err(|_| HeadRefused::Malformed)?;
            headers.try_append(name, value).map_err(|_| HeadRefused::HeadTooLarge)?;
        }
        let is_http10 = request.version == Some(0);
        let keeps = keeps(&headers, is_http10);
        Ok(RequestHead { method, uri, headers, is_http10, framing, keeps })
    })?;
    match head {
        // The end that was found is not that of the head.
        None => Err(HeadRefused::Malformed),
        Some((length, _)) if length != bytes.len() => Err(HeadRefused::Malformed),
        Some((_, head)) if head.framing == Framing::Switch && !input.is_empty() => Err(HeadRefused::Early),
        Some((_, head)) => Ok(Some(head)),
    }
}

/// What `read` makes of the head at the front of `bytes`, and how long that head is; `None` where it is not complete.
fn parse<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&httparse::Request<'_, 'a>) -> Result<T, HeadRefused>,
) -> Result<Option<(usize, T)>, HeadRefused> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete(length)) => read(&request).map(|read| Some((length, read))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(HeadRefused::HeadTooLarge),
        Err(
            httparse::Error::HeaderName
            | httparse::Error::HeaderValue
            | httparse::Error::NewLine
            | httparse::Error::Status
            | httparse::Error::Token
            | httparse::Error::Version,
        ) => Err(HeadRefused::Malformed),
    }
}

fn unfinished(bytes: &[u8]) -> Result<(), HeadRefused> {
    if bytes.len() <= HEAD_BYTES_MAX { Ok(()) } else { Err(too_large(bytes)) }
}

/// What of a head over its limit is too long: its first line alone, or all of it.
fn too_large(bytes: &[u8]) -> HeadRefused {
    let first = bytes.get(LEADING_BLANKS_MAX..HEAD_BYTES_MAX).unwrap_or_default();
    if first.contains(&b'\n') { HeadRefused::HeadTooLarge } else { HeadRefused::TargetTooLong }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests count small numbers")]
mod tests;
