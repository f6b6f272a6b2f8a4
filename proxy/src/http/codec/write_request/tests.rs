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
    assert_eq!(head(&Method::POST, &[("content-length", "5x")], true), Err(Malformed::Length));
    assert_eq!(head(&Method::POST, &[("content-length", "5")], false), Err(Malformed::Length));
}
