//! One HTTP/1.1 exchange on a blocking connection, just enough to know that the whole answer came.

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::TcpStream;

/// Largest answer that fits; the bench's own server sends at most 10 KiB.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 17;

/// Sends the request and reads an answer with status 200 and a length.
pub(crate) fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut held = 0;
    loop {
        let read = stream.read(buffer.get_mut(held..).unwrap_or_default())?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        held += read;
        let Some(whole) = length(buffer.get(..held).unwrap_or_default())? else { continue };
        while held < whole {
            let read = stream.read(buffer.get_mut(held..).unwrap_or_default())?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            held += read;
        }
        return Ok(());
    }
}

/// Bytes of head and body together, once the head is whole.
fn length(held: &[u8]) -> Result<Option<usize>> {
    let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(held.get(..end).unwrap_or_default()).unwrap_or("");
    if !head.starts_with("HTTP/1.1 200") {
        return Err(Error::other(head.lines().next().unwrap_or("no status line").to_owned()));
    }
    let field = |line: &str| {
        line.to_ascii_lowercase().strip_prefix("content-length:").map(|value| value.trim().parse::<usize>())
    };
    match head.lines().find_map(field) {
        Some(Ok(body)) => Ok(Some(end + 4 + body)),
        Some(Err(_)) | None => Err(Error::other("the answer has no length")),
    }
}
