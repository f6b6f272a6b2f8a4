//! The head of an answer: its status and headers, where its body ends, and whether the connection can be used again.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use hyper::ext::ReasonPhrase;

use super::body::Body;
use super::{Malformed, decimal, keeps};
use crate::http::harden::has;
use crate::limits::{HEADERS_MAX, HTTP_BUFFER_BYTES};

/// A head that was read.
#[derive(Debug)]
pub struct AnswerHead {
    /// Its status; 1xx too.
    pub status: StatusCode,
    /// The words behind the status, where they are not the usual ones.
    pub reason: Option<ReasonPhrase>,
    /// As they came.
    pub headers: HeaderMap,
    /// What follows.
    pub body: Body,
    /// Another request may follow on this connection.
    pub keeps: bool,
}

/// Where the head at the front of `input` ends, looking only behind the first `searched` bytes; `None`: not yet.
///
/// # Errors
/// [`Malformed::HeadTooLarge`].
pub fn end_of_head(input: &[u8], searched: usize) -> Result<Option<usize>, Malformed> {
    let end = super::end_of_head(input, searched);
    if end.unwrap_or(input.len()) > HTTP_BUFFER_BYTES { Err(Malformed::HeadTooLarge) } else { Ok(end) }
}

/// Takes the head of `end` bytes ([`end_of_head`]) off `input`; it answers a request with `method`.
///
/// # Errors
/// What is wrong with it.
pub fn take_head(input: &mut BytesMut, end: usize, method: &Method) -> Result<AnswerHead, Malformed> {
    let bytes = input.split_to(end.min(input.len())).freeze();
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, &bytes, &mut lines);
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::HeadTooLarge),
        Ok(_) | Err(_) => return Err(Malformed::Head),
    }
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Head)?;
    let is_http10 = answer.version == Some(0);
    let words = answer.reason.filter(|words| status.canonical_reason() != Some(*words));
    let reason = words.and_then(|words| ReasonPhrase::try_from(bytes.slice_ref(words.as_bytes())).ok());
    let mut headers = HeaderMap::with_capacity(answer.headers.len());
    for line in &*answer.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed::Head)?;
        // No copy: values share the head's bytes.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).map_err(|_| Malformed::Head)?;
        headers.try_append(name, value).map_err(|_| Malformed::HeadTooLarge)?;
    }
    let body = body_of(&headers, (status, method), is_http10)?;
    let keeps = keeps(&headers, is_http10) && !body.is_until_end();
    Ok(AnswerHead { status, reason, headers, body, keeps })
}

/// RFC 9112, 6.3.
fn body_of(headers: &HeaderMap, (status, method): (StatusCode, &Method), is_http10: bool) -> Result<Body, Malformed> {
    let is_coded = has(headers, &header::TRANSFER_ENCODING);
    if is_coded && is_http10 {
        return Err(Malformed::TransferCoding);
    }
    let length = length(headers)?;
    let is_empty = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if is_empty || *method == Method::HEAD {
        return Ok(Body::EMPTY);
    }
    let coding = is_coded.then(|| headers.get_all(header::TRANSFER_ENCODING).iter().next_back()).flatten();
    match coding {
        Some(coding) => Ok(if is_chunked(coding)? { Body::CHUNKED } else { Body::UNTIL_END }),
        None => Ok(length.map_or(Body::UNTIL_END, Body::length)),
    }
}

/// True where the last coding of the last line is `chunked`. Codings are tokens: other bytes make no coding.
fn is_chunked(coding: &HeaderValue) -> Result<bool, Malformed> {
    let codings = coding.to_str().map_err(|_| Malformed::TransferCoding)?;
    let last = codings.rsplit(',').next().unwrap_or_default();
    Ok(last.trim_ascii().eq_ignore_ascii_case("chunked"))
}

/// The one length that all lines agree upon.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut found = None;
    for (_, line) in headers.iter().filter(|(name, _)| *name == header::CONTENT_LENGTH) {
        if let (None, Some(length)) = (found, decimal(line.as_bytes())) {
            found = Some(length);
            continue;
        }
        for part in line.as_bytes().split(|byte| *byte == b',') {
            let length = decimal(part.trim_ascii()).ok_or(Malformed::ContentLength)?;
            if *found.get_or_insert(length) != length {
                return Err(Malformed::ContentLength);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests count small numbers")]
mod tests;
