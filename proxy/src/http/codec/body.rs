//! The body of an answer, piece by piece, and where it ends (RFC 9112, 6.3 and 7.1).

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;
use super::chunk::{Chunk, TRAILERS_MAX};
use crate::limits::HEADERS_MAX;

/// Bytes of all chunks' extensions of one body (hyper takes under 16 KiB).
const EXTENSIONS_MAX: u32 = 8 * 1_024;

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    framing: Framing,
    /// Bytes of chunks' extensions so far.
    extensions: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Done,
    Length(u64),
    Chunked(Chunk),
    UntilEnd,
}

/// What a body yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of it, never none.
    Data(Bytes),
    /// What follows the last chunk; then it is over.
    Trailers(HeaderMap),
    /// More input is needed.
    More,
    /// It is over. What is left of the input is not its.
    End,
}

impl Body {
    /// No body.
    pub const EMPTY: Self = Self::of(Framing::Done);
    /// As chunks.
    pub const CHUNKED: Self = Self::of(Framing::Chunked(Chunk::BEGIN));
    /// All that comes until the connection ends.
    pub const UNTIL_END: Self = Self::of(Framing::UntilEnd);

    const fn of(framing: Framing) -> Self {
        Self { framing, extensions: 0 }
    }

    /// So many bytes.
    #[must_use]
    pub const fn length(bytes: u64) -> Self {
        Self::of(if bytes == 0 { Framing::Done } else { Framing::Length(bytes) })
    }

    /// True when nothing is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.framing == Framing::Done
    }

    /// True when only the end of the connection ends it.
    #[must_use]
    pub fn is_until_end(&self) -> bool {
        self.framing == Framing::UntilEnd
    }

    /// Bytes that are left, if that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Done => Some(0),
            Framing::Length(left) => Some(left),
            Framing::Chunked(_) | Framing::UntilEnd => None,
        }
    }

    /// Takes the next piece from the front of `input`.
    ///
    /// # Errors
    /// [`Malformed::Chunk`].
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        match self.framing {
            Framing::Done => Ok(Piece::End),
            Framing::UntilEnd if input.is_empty() => Ok(Piece::More),
            Framing::UntilEnd => Ok(Piece::Data(input.split().freeze())),
            Framing::Length(_) if input.is_empty() => Ok(Piece::More),
            Framing::Length(left) => {
                let data = take(input, left);
                *self = Self::length(left.saturating_sub(data.len() as u64));
                Ok(Piece::Data(data))
            }
            Framing::Chunked(chunk) => self.next_chunk(chunk, input),
        }
    }

    /// The connection has ended, with nothing left to read.
    ///
    /// # Errors
    /// [`Malformed::BrokeOff`] where more was to come.
    pub fn end(&mut self) -> Result<(), Malformed> {
        match self.framing {
            Framing::Done | Framing::UntilEnd => {
                self.framing = Framing::Done;
                Ok(())
            }
            Framing::Length(_) | Framing::Chunked(_) => Err(Malformed::BrokeOff),
        }
    }

    fn next_chunk(&mut self, mut chunk: Chunk, input: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match chunk {
                Chunk::Data(_) if input.is_empty() => break,
                Chunk::Data(left) => {
                    let data = take(input, left);
                    let left = left.saturating_sub(data.len() as u64);
                    self.framing = Framing::Chunked(if left == 0 { Chunk::DataCr } else { Chunk::Data(left) });
                    return Ok(Piece::Data(data));
                }
                // Behind the last chunk: what follows is looked at when it is complete.
                Chunk::LineStart { .. } => {
                    self.framing = Framing::Chunked(chunk);
                    return self.trailers(input);
                }
                Chunk::Size { .. }
                | Chunk::SizeBlank { .. }
                | Chunk::Extension { .. }
                | Chunk::SizeLf { .. }
                | Chunk::DataCr
                | Chunk::DataLf
                | Chunk::Line { .. }
                | Chunk::LineLf { .. }
                | Chunk::EndLf => {
                    let Some(&byte) = input.first() else { break };
                    chunk = chunk.step(byte).flatten().ok_or(Malformed::Chunk)?;
                    self.extensions =
                        self.extensions.saturating_add(u32::from(matches!(chunk, Chunk::Extension { .. })));
                    if self.extensions > EXTENSIONS_MAX {
                        return Err(Malformed::Chunk);
                    }
                    input.advance(1);
                }
            }
        }
        self.framing = Framing::Chunked(chunk);
        Ok(Piece::More)
    }

    fn trailers(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        if input.starts_with(b"\r\n") {
            input.advance(2);
            self.framing = Framing::Done;
            return Ok(Piece::End);
        }
        let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
            let too_many = input.len() as u64 > u64::from(TRAILERS_MAX);
            return if too_many { Err(Malformed::Chunk) } else { Ok(Piece::More) };
        };
        let lines = input.split_to(end.saturating_add(4)).freeze();
        // Each line ends in both (RFC 9112, 7.1.2); a head may be read more leniently.
        if lines.split(|byte| *byte == b'\n').any(|line| !line.is_empty() && !line.ends_with(b"\r")) {
            return Err(Malformed::Chunk);
        }
        if lines.len() as u64 > u64::from(TRAILERS_MAX) {
            return Err(Malformed::Chunk);
        }
        let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let Ok(httparse::Status::Complete((length, parsed))) = httparse::parse_headers(&lines, &mut space) else {
            return Err(Malformed::Chunk);
        };
        if length != lines.len() {
            return Err(Malformed::Chunk);
        }
        let mut trailers = HeaderMap::new();
        for line in parsed {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed::Chunk)?;
            let value = HeaderValue::from_bytes(line.value).map_err(|_| Malformed::Chunk)?;
            trailers.try_append(name, value).map_err(|_| Malformed::Chunk)?;
        }
        self.framing = Framing::Done;
        Ok(Piece::Trailers(trailers))
    }
}

/// At most `left` bytes from the front.
fn take(input: &mut BytesMut, left: u64) -> Bytes {
    let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    input.split_to(length).freeze()
}

#[cfg(test)]
mod tests;
