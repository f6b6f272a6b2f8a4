//! Requests as they are written.

use super::*;

fn head(
    method: &Method,
    headers: &[(&'static str, &'static str)],
    has_body: bool,
) -> Result<(String, Framing), Malformed> {
    let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let mut out = Vec::new();
    let framing = write_head(&mut out, (method, &Uri::from_static("/a?b=c"), &headers), has_body)?;
    Ok((String::from_utf8(out).unwrap(), framing))
}

#[test]
fn the_head_says_how_the_body_follows() {
    let host = ("host", "a");
    let (text, framing) = head(&Method::GET, &[host, ("transfer-encoding", "chunked")], false).unwrap();
    assert_eq!((text.as_str(), framing), ("GET /a?b=c HTTP/1.1\r\nhost: a\r\n\r\n", Framing::Length(0)));
    let (text, framing) = head(&Method::POST, &[host, ("content-length", "0")], false).unwrap();
    assert_eq!(
        (text.as_str(), framing),
        ("POST /a?b=c HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", Framing::Length(0))
    );
    assert_eq!(head(&Method::POST, &[("content-length", "5")], true).unwrap().1, Framing::Length(5));
    let (text, framing) = head(&Method::GET, &[host, ("transfer-encoding", "chunked")], true).unwrap();
    assert_eq!(framing, Framing::Chunked);
    assert!(text.ends_with("host: a\r\ntransfer-encoding: chunked\r\n\r\n"), "{text}");
    assert_eq!(head(&Method::POST, &[("content-length", "5x")], true), Err(Malformed::RequestLength));
    assert_eq!(head(&Method::POST, &[("content-length", "5")], false), Err(Malformed::RequestLength));
}

#[test]
fn a_body_is_as_long_as_it_says() {
    let mut out = Vec::new();
    let mut framing = Framing::Length(5);
    framing.write_data(&mut out, b"hel").unwrap();
    assert_eq!(framing.write_end(&mut out, None), Err(Malformed::RequestLength));
    assert_eq!(framing.write_data(&mut out, b"loo"), Err(Malformed::RequestLength));
    framing.write_data(&mut out, b"lo").unwrap();
    assert!(framing.is_full());
    framing.write_end(&mut out, None).unwrap();
    assert_eq!(out, b"hello");
}

#[test]
fn chunks_end_with_their_trailers() {
    let mut out = Vec::new();
    let mut framing = Framing::Chunked;
    for data in [&b"hello"[..], b"", &[b'x'; 26]] {
        framing.write_data(&mut out, data).unwrap();
    }
    let trailers = [("x-sum".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    framing.write_end(&mut out, Some(&trailers)).unwrap();
    assert_eq!(out, b"5\r\nhello\r\n1A\r\nxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n0\r\nx-sum: 1\r\n\r\n");
}
