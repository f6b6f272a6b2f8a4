//! HTTP/1.1 as it is written to whoever answers, and read back from them (RFC 9112). Pure: bytes in, bytes out.
//!
//! Answers come from local instances and from peers' agents; either may be broken or hostile. What hyper's client refuses
//! is refused here too (some of what it takes as well: bounds are narrower), and the two never disagree about where an
//! answer ends: a fuzz target holds them against each other. Requests of applications do not come this way; [`super::scan`] and hyper read those.
//!
//! Reading order: [`answer`] (a head), [`body`] (what follows it), [`request`] (what was asked), [`chunk`] (the framing
//! that bodies of unknown length have).
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod answer;
pub mod body;
pub(crate) mod chunk;
pub mod request;

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
    #[error("the chunked body of the answer is malformed")]
    Chunk,
    /// The connection ended before the body did.
    #[error("the answer broke off")]
    BrokeOff,
    /// A request's body is longer or shorter than it says.
    #[error("the request's body is not as long as its Content-Length")]
    RequestLength,
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
