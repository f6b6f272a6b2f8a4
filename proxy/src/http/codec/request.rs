//! A request as it is written: its head, and its body in the framing that the head announces.

use std::io::Write as _;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use super::{Malformed, decimal};

/// How a request's body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// Of unknown length.
    Chunked,
}

/// Writes a head to the end of `out`, and says how its body follows. Where there is none, the head says nothing of chunks;
/// where its length is known to nobody, it says `chunked`.
///
/// # Errors
/// [`Malformed::RequestLength`] for a `Content-Length` that is none, or that no body follows, with nothing written.
pub fn write_head(
    out: &mut Vec<u8>,
    (method, target, headers): (&Method, &Uri, &HeaderMap),
    has_body: bool,
) -> Result<Framing, Malformed> {
    let framing = match headers.get(header::CONTENT_LENGTH) {
        None if !has_body => Framing::Length(0),
        Some(length) => match decimal(length.as_bytes()) {
            Some(length) if has_body || length == 0 => Framing::Length(length),
            // A head that promises what will not come would take the next request for it.
            Some(_) | None => return Err(Malformed::RequestLength),
        },
        None => Framing::Chunked,
    };
    let path = target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    for part in [method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers {
        if name == header::TRANSFER_ENCODING {
            continue;
        }
        write_line(out, name, value);
    }
    if framing == Framing::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(framing)
}

fn write_line(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
}

impl Framing {
    /// Writes bytes of the body to the end of `out`.
    ///
    /// # Errors
    /// [`Malformed::RequestLength`] for more than was announced, with nothing written.
    pub fn write_data(&mut self, out: &mut Vec<u8>, data: &[u8]) -> Result<(), Malformed> {
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Malformed::RequestLength)?;
                out.extend_from_slice(data);
            }
            // An empty chunk would be the last.
            Self::Chunked if data.is_empty() => {}
            Self::Chunked => {
                // Writing to memory never fails.
                let _ = write!(out, "{:X}\r\n", data.len());
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Writes the end of the body. A body of announced length has no room for trailers; they are left out.
    ///
    /// # Errors
    /// [`Malformed::RequestLength`] for less than was announced.
    pub fn write_end(&self, out: &mut Vec<u8>, trailers: Option<&HeaderMap>) -> Result<(), Malformed> {
        match self {
            Self::Length(0) => {}
            Self::Length(_) => return Err(Malformed::RequestLength),
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

#[cfg(test)]
mod tests;
