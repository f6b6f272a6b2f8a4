//! HTTP/1.1 as it is read and written (RFC 9112), towards whoever asks and whoever answers. Pure: bytes in, bytes out.
//!
//! Either side may be broken or hostile. What hyper refuses is refused here too (some of what it takes as well: bounds are
//! narrower, and requests are held to [`super::harden`]), and the two never disagree about where a message ends: fuzz
//! targets hold them against each other.
//!
//! Reading order: [`read_request`] and [`write_answer`] (the side of a server), [`write_request`] and [`read_answer`] (the
//! side of a client), [`body`] and [`framing`] (what follows a head, as it is read and written), [`chunk`] (the framing that
//! bodies of unknown length have).
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod body;
pub(crate) mod chunk;
pub mod framing;
pub mod read_answer;
pub mod read_request;
pub mod write_answer;
pub mod write_request;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::http::harden::has;

/// What makes no HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head is not well formed.
    #[error("the head of the answer is malformed")]
    Head,
    /// The head is over 72 KiB, or over 100 lines.
    #[error("the head of the answer is over 72 KiB or has over 100 headers")]
    HeadTooLarge,
    /// Lengths that contradict each other, or that are no numbers.
    #[error("the answer has no single decimal Content-Length")]
    ContentLength,
    /// `Transfer-Encoding` that is no list of tokens, or in HTTP/1.0, which has none.
    #[error("the Transfer-Encoding of the answer is no coding")]
    TransferCoding,
    /// A chunk's size or end is wrong, or trailers are.
    #[error("the chunked body is malformed")]
    Chunk,
    /// The connection ended before the body did.
    #[error("the message broke off")]
    BrokeOff,
    /// A body is longer or shorter than its head says.
    #[error("the body is not as long as its Content-Length")]
    Length,
}

/// Digits alone, unlike [`str::parse`], which takes a sign.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit & 0x0f))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Where the head at the front of `input` ends, its empty line included, looking only behind the first `searched` bytes;
/// `None`: not yet.
fn end_of_head(input: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    let rest = input.get(from..).unwrap_or_default();
    for at in memchr::memchr_iter(b'\n', rest) {
        let behind = rest.get(at.saturating_add(1)..).unwrap_or_default();
        let blank = match behind {
            [b'\n', ..] => 1_usize,
            [b'\r', b'\n', ..] => 2,
            _ => continue,
        };
        return Some(from.saturating_add(at).saturating_add(1).saturating_add(blank));
    }
    None
}

/// Whether a message leaves its connection open for another one (RFC 9112, 9.3).
fn keeps(headers: &HeaderMap, is_http10: bool) -> bool {
    if !has(headers, &header::CONNECTION) {
        return !is_http10;
    }
    let says = |word: &[u8]| {
        let mut lines = headers.get_all(header::CONNECTION).into_iter();
        lines.any(|line| {
            line.as_bytes().split(|byte| *byte == b',').any(|said| said.trim_ascii().eq_ignore_ascii_case(word))
        })
    };
    !says(b"close") && (!is_http10 || says(b"keep-alive"))
}

fn write_line(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
}
