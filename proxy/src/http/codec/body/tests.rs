//! Where bodies end, told with bytes cut anywhere.

use super::*;

/// Its bytes, its trailers, and what is left behind it.
type Read = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// All pieces of a body whose bytes come in parts of `piece` bytes, and what is left behind it.
fn read(mut body: Body, bytes: &[u8], piece: usize, has_end: bool) -> Result<Read, Malformed> {
    let (mut input, mut data, mut parts) = (BytesMut::new(), Vec::new(), bytes.chunks(piece));
    loop {
        match body.next(&mut input)? {
            Piece::Data(bytes) => {
                assert!(!bytes.is_empty());
                data.extend_from_slice(&bytes);
            }
            Piece::Trailers(trailers) => return Ok((data, Some(trailers), rest(&input, parts))),
            Piece::End => return Ok((data, None, rest(&input, parts))),
            Piece::More => match parts.next() {
                Some(part) => input.extend_from_slice(part),
                None if has_end => {
                    body.end()?;
                    assert!(body.is_done());
                }
                None => return Err(Malformed::BrokeOff),
            },
        }
    }
}

fn rest<'a>(input: &'a [u8], parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    input.iter().chain(parts.flatten()).copied().collect()
}

#[test]
fn a_body_ends_where_its_framing_says_however_it_is_cut() {
    let chunked = b"5;a=b\r\nhello\r\n1 \r\n \r\n005\r\nworld\r\n0\r\n\r\nHTTP/1.1";
    for piece in 1..=chunked.len() {
        let (data, trailers, rest) = read(Body::CHUNKED, chunked, piece, false).unwrap();
        assert_eq!(
            (data.as_slice(), trailers, rest.as_slice()),
            (&b"hello world"[..], None, &b"HTTP/1.1"[..]),
            "{piece}"
        );
        let (data, _, rest) = read(Body::length(5), b"hello there", piece, false).unwrap();
        assert_eq!((data.as_slice(), rest.as_slice()), (&b"hello"[..], &b" there"[..]));
        let (data, _, rest) = read(Body::UNTIL_END, b"hello there", piece, true).unwrap();
        assert_eq!((data.as_slice(), rest.as_slice()), (&b"hello there"[..], &b""[..]));
    }
    assert_eq!(read(Body::EMPTY, b"next", 1, false).unwrap().2, b"next");
    assert!(Body::length(0).is_done());
}

#[test]
fn trailers_follow_the_last_chunk() {
    let bytes = b"3\r\nabc\r\n0\r\nx-sum: 1\r\nX-Other:  two \r\n\r\n!";
    for piece in 1..=bytes.len() {
        let (data, trailers, rest) = read(Body::CHUNKED, bytes, piece, false).unwrap();
        let trailers = trailers.unwrap();
        assert_eq!((data.as_slice(), rest.as_slice()), (&b"abc"[..], &b"!"[..]));
        assert_eq!(
            (&trailers["x-sum"], &trailers["x-other"], trailers.len()),
            (&"1".parse().unwrap(), &"two".parse().unwrap(), 2)
        );
    }
}

#[test]
fn what_breaks_off_or_is_malformed_is_no_end() {
    for (body, bytes) in
        [(Body::length(6), &b"hello"[..]), (Body::CHUNKED, b"5\r\nhello\r\n"), (Body::CHUNKED, b"0\r\n")]
    {
        assert_eq!(read(body, bytes, 3, true), Err(Malformed::BrokeOff));
    }
    let long = [b"0\r\nx: ".as_slice(), &vec![b'a'; 20_000], b"\r\n\r\n"].concat();
    for bytes in [
        &b"x\r\n"[..],
        b"5\rhello",
        b"5\r\nhelloX",
        b"-1\r\n",
        b"11111111111111111\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\na: b\nc: d\r\n\r\n",
        &long,
    ] {
        assert_eq!(
            read(Body::CHUNKED, bytes, 4_096, true),
            Err(Malformed::Chunk),
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn extensions_and_trailers_have_bounds() {
    let chunks = |count: usize| format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "e".repeat(1_000)).repeat(count));
    assert!(read(Body::CHUNKED, chunks(8).as_bytes(), 4_096, false).is_ok());
    assert_eq!(read(Body::CHUNKED, chunks(9).as_bytes(), 4_096, false), Err(Malformed::Chunk));
    let trailers = |count: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(read(Body::CHUNKED, trailers(HEADERS_MAX).as_bytes(), 4_096, false).is_ok());
    assert_eq!(read(Body::CHUNKED, trailers(HEADERS_MAX + 1).as_bytes(), 4_096, false), Err(Malformed::Chunk));
}
