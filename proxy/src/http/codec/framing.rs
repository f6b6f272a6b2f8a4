//! A body as it is written, in the framing that its head announces.

use std::io::Write as _;

use http::header::HeaderMap;

use super::{Malformed, write_line};

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// Of unknown length.
    Chunked,
    /// As it is, until the connection ends: an answer to HTTP/1.0, which knows no chunks.
    UntilEnd,
}

impl Framing {
    /// Writes bytes of the body to the end of `out`.
    ///
    /// # Errors
    /// [`Malformed::Length`] for more than was announced, with nothing written.
    pub fn write_data(&mut self, out: &mut Vec<u8>, data: &[u8]) -> Result<(), Malformed> {
        self.write_before(out, data.len())?;
        out.extend_from_slice(data);
        self.write_behind(out, data.len());
        Ok(())
    }

    /// Writes what goes in front of `length` bytes of the body that are written beside `out`.
    ///
    /// # Errors
    /// [`Malformed::Length`] for more than was announced, with nothing written.
    pub fn write_before(&mut self, out: &mut Vec<u8>, length: usize) -> Result<(), Malformed> {
        match self {
            Self::Length(left) => *left = left.checked_sub(length as u64).ok_or(Malformed::Length)?,
            Self::UntilEnd => {}
            Self::Chunked => begin_chunk(out, length),
        }
        Ok(())
    }

    /// Writes what goes behind such bytes.
    pub fn write_behind(&self, out: &mut Vec<u8>, length: usize) {
        if *self == Self::Chunked {
            end_chunk(out, length);
        }
    }

    /// Writes the end of the body. A body of announced length has no room for trailers; they are left out.
    ///
    /// # Errors
    /// [`Malformed::Length`] for less than was announced.
    pub fn write_end(&self, out: &mut Vec<u8>, trailers: Option<&HeaderMap>) -> Result<(), Malformed> {
        match self {
            Self::Length(0) | Self::UntilEnd => {}
            Self::Length(_) => return Err(Malformed::Length),
            Self::Chunked => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    write_line(out, name, value);
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// True once all that was announced is written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        *self == Self::Length(0)
    }
}

/// An empty chunk would be the last.
fn begin_chunk(out: &mut Vec<u8>, length: usize) {
    if length > 0 {
        // Writing to memory never fails.
        let _ = write!(out, "{length:X}\r\n");
    }
}

fn end_chunk(out: &mut Vec<u8>, length: usize) {
    if length > 0 {
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests;
