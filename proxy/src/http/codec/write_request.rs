//! The head of a request as it is written.

use http::header::{self, HeaderMap};
use http::{Method, Uri};

use super::framing::Framing;
use super::{Malformed, decimal, write_line};
use crate::http::harden::find;

/// Writes a head to the end of `out`, and says how its body follows. Where there is none, the head says nothing of chunks;
/// where its length is known to nobody, it says `chunked`.
///
/// # Errors
/// [`Malformed::Length`] for a `Content-Length` that is none, or that no body follows, with nothing written.
pub fn write_head(
    out: &mut Vec<u8>,
    (method, target, headers): (&Method, &Uri, &HeaderMap),
    has_body: bool,
) -> Result<Framing, Malformed> {
    let framing = match find(headers, &header::CONTENT_LENGTH) {
        None if !has_body => Framing::Length(0),
        Some(length) => match decimal(length.as_bytes()) {
            Some(length) if has_body || length == 0 => Framing::Length(length),
            // A head that promises what will not come would take the next request for it.
            Some(_) | None => return Err(Malformed::Length),
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

#[cfg(test)]
mod tests;
