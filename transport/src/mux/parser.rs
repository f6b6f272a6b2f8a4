//! Cuts received bytes into frames, however the network cut them before.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::frame::{HEADER_BYTES, Header, Kind, StreamId, Violation};

/// Remembers what of a frame has arrived: its header, and the payload of small frames. Bytes of `data` frames pass
/// through at once.
#[derive(Debug, Default)]
pub(super) struct Parser {
    header: [u8; HEADER_BYTES],
    header_len: usize,
    body: Body,
}

#[derive(Debug, Default)]
enum Body {
    /// Between frames, or inside a header.
    #[default]
    None,
    /// Inside the payload of a `data` frame.
    Data { stream: StreamId, missing: usize },
    /// Inside the payload of any other frame, at most `OPEN_BYTES_MAX`.
    Small { header: Header, payload: Vec<u8> },
}

/// What the parser found next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A `data` frame begins: its length is to be checked against the credit before any byte is kept.
    DataBegins { stream: StreamId, length: usize },
    /// Bytes of the `data` frame that began last.
    Data { stream: StreamId, bytes: &'a [u8] },
    /// Any other frame, whole.
    Frame { header: Header, payload: &'a [u8] },
}

impl Parser {
    /// Takes the next piece off `input` and hands it to `then`; `Ok(false)` when `input` holds no further piece.
    pub(super) fn next(
        &mut self,
        input: &mut &[u8],
        then: impl FnOnce(Piece<'_>) -> Result<(), Violation>,
    ) -> Result<bool, Violation> {
        if input.is_empty() {
            return Ok(false);
        }
        match &mut self.body {
            Body::None => self.read_header(input, then),
            Body::Data { stream, missing } => {
                let bytes = take(input, *missing);
                *missing = missing.saturating_sub(bytes.len());
                let stream = *stream;
                if *missing == 0 {
                    self.body = Body::None;
                }
                then(Piece::Data { stream, bytes })?;
                Ok(true)
            }
            Body::Small { header, payload } => {
                let missing = usize::from(header.length).saturating_sub(payload.len());
                payload.extend_from_slice(take(input, missing));
                if payload.len() < usize::from(header.length) {
                    return Ok(false);
                }
                let (header, payload) = (*header, std::mem::take(payload));
                self.body = Body::None;
                then(Piece::Frame { header, payload: &payload })?;
                Ok(true)
            }
        }
    }

    fn read_header(
        &mut self,
        input: &mut &[u8],
        then: impl FnOnce(Piece<'_>) -> Result<(), Violation>,
    ) -> Result<bool, Violation> {
        let part = take(input, HEADER_BYTES.saturating_sub(self.header_len));
        let (at, end) = (self.header_len, self.header_len.saturating_add(part.len()));
        if let Some(place) = self.header.get_mut(at..end) {
            place.copy_from_slice(part);
        }
        self.header_len = end;
        if self.header_len < HEADER_BYTES {
            return Ok(false);
        }
        self.header_len = 0;
        let header = Header::decode(self.header)?;
        let length = usize::from(header.length);
        if header.kind == Kind::Data {
            self.body = Body::Data { stream: header.stream, missing: length };
            then(Piece::DataBegins { stream: header.stream, length })?;
            return Ok(true);
        }
        // Nearly always the payload is there too, and nothing is copied.
        if input.len() >= length {
            then(Piece::Frame { header, payload: take(input, length) })?;
            return Ok(true);
        }
        self.body = Body::Small { header, payload: Vec::with_capacity(length) };
        // True, because the caller asks again until `input` is empty.
        Ok(true)
    }
}

/// At most `limit` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], limit: usize) -> &'a [u8] {
    let (head, tail) = input.split_at(input.len().min(limit));
    *input = tail;
    head
}
