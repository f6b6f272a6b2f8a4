//! The head of an answer as it is written to whoever asked (RFC 9110, 8.6 and 9.3; RFC 9112, 6 and 9).

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::framing::Framing;
use super::{Malformed, read_answer, write_line};
use crate::http::harden;

/// What of a request decides how its answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerTo {
    /// `HEAD`: the answer has the head of one with a body, and none.
    pub is_head: bool,
    /// `CONNECT`: behind a good answer comes no body, but a tunnel.
    pub is_connect: bool,
    /// HTTP/1.0: no chunks, and the connection is kept only where both say so.
    pub is_http10: bool,
    /// The connection is kept for another request, unless the answer says no.
    pub keeps: bool,
    /// The caller reads trailers.
    pub takes_trailers: bool,
}

impl AnswerTo {
    /// To a request with this method and these headers.
    #[must_use]
    pub fn new(method: &Method, headers: &HeaderMap, is_http10: bool, keeps: bool) -> Self {
        let (is_head, is_connect) = (*method == Method::HEAD, *method == Method::CONNECT);
        Self { is_head, is_connect, is_http10, keeps, takes_trailers: harden::takes_trailers(headers) }
    }

    /// To what was no request: nothing follows.
    pub const REFUSED: Self =
        Self { is_head: false, is_connect: false, is_http10: false, keeps: false, takes_trailers: false };

    /// True where this status makes the connection a tunnel.
    #[must_use]
    pub fn switches(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success())
    }
}

/// What a head said that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How the body follows; `None`: there is none in any case.
    pub body: Option<Framing>,
    /// Another request may follow.
    pub keeps: bool,
}

/// Writes a head to the end of `out`. `length` are the bytes of the body, where they are known; `reason` stands in the place
/// of the usual words behind the status.
///
/// # Errors
/// [`Malformed::ContentLength`] for a header that contradicts the body, with nothing of it to be sent.
pub fn write_head(
    out: &mut Vec<u8>,
    (status, reason, headers): (StatusCode, Option<&[u8]>, &HeaderMap),
    length: Option<u64>,
    to: &AnswerTo,
) -> Result<Written, Malformed> {
    let has_no_length =
        status.is_informational() || status == StatusCode::NO_CONTENT || (to.is_connect && status.is_success());
    let is_empty = has_no_length || to.is_head || status == StatusCode::NOT_MODIFIED;
    let said = if has_no_length { None } else { read_answer::length(headers)? };
    let framing = match (said, length) {
        _ if is_empty => Framing::Length(0),
        (Some(said), Some(length)) if said != length => return Err(Malformed::ContentLength),
        (Some(length), _) | (None, Some(length)) => Framing::Length(length),
        (None, None) if to.is_http10 => Framing::UntilEnd,
        (None, None) => Framing::Chunked,
    };
    let keeps = to.keeps && framing != Framing::UntilEnd && super::keeps(headers, false);
    out.extend_from_slice(if to.is_http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().as_bytes()));
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        // A length is said once, however often it came.
        if name != header::TRANSFER_ENCODING && name != header::CONTENT_LENGTH {
            write_line(out, name, value);
        }
    }
    let written = match framing {
        Framing::Length(length) if !is_empty => Some(length),
        Framing::Length(_) | Framing::Chunked | Framing::UntilEnd => said,
    };
    if let Some(length) = written {
        for part in [&b"content-length: "[..], itoa::Buffer::new().format(length).as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    if framing == Framing::Chunked {
        write_line(out, &header::TRANSFER_ENCODING, &HeaderValue::from_static("chunked"));
    }
    if !to.switches(status) && !harden::has(headers, &header::CONNECTION) {
        let word = match (keeps, to.is_http10) {
            (false, false) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) | (false, true) => None,
        };
        if let Some(word) = word {
            write_line(out, &header::CONNECTION, &HeaderValue::from_static(word));
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(Written { body: (!is_empty).then_some(framing), keeps })
}

#[cfg(test)]
mod tests;
