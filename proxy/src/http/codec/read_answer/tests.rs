//! Heads of answers: what is read, where they end, and what is refused.

use super::*;

fn read(bytes: &str) -> Result<AnswerHead, Malformed> {
    read_for(&Method::GET, bytes)
}

fn read_for(method: &Method, bytes: &str) -> Result<AnswerHead, Malformed> {
    let mut input = BytesMut::from(bytes);
    let end = end_of_head(&input, 0)?.unwrap();
    let head = take_head(&mut input, end, method)?;
    assert_eq!(input.len(), bytes.len() - end, "the body stays");
    Ok(head)
}

#[test]
fn a_head_is_read_as_it_came() {
    let head = read(
        "HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: a\r\nset-cookie: b\r\nEmpty:\r\nContent-Length: 5\r\n\r\nhello",
    )
    .unwrap();
    assert_eq!((head.status, head.reason, head.keeps), (StatusCode::OK, None, true));
    assert_eq!(head.body, Body::length(5));
    assert_eq!(head.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(head.headers["empty"], "");
    let odd = read("HTTP/1.1 299 Rather Fine\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(odd.reason.unwrap().as_bytes(), b"Rather Fine");
}

#[test]
fn the_end_of_a_head_is_found_wherever_it_was_cut() {
    let head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
    for cut in 0..head.len() {
        assert_eq!(end_of_head(&head[..cut], 0), Ok(None), "{cut}");
        assert_eq!(end_of_head(head, cut), Ok(Some(head.len())), "{cut}");
    }
    assert_eq!(end_of_head(b"HTTP/1.1 200 OK\nA: b\n\nx", 0), Ok(Some(22)));
    let long = |length: usize| [b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &vec![b'b'; length - 24], b"\r\n\r\n"].concat();
    assert_eq!(end_of_head(&long(HTTP_BUFFER_BYTES), 0), Ok(Some(HTTP_BUFFER_BYTES)));
    assert_eq!(end_of_head(&long(HTTP_BUFFER_BYTES + 1), 0), Err(Malformed::HeadTooLarge));
    assert_eq!(end_of_head(&vec![b'a'; HTTP_BUFFER_BYTES + 1], 0), Err(Malformed::HeadTooLarge));
}

#[test]
fn framing_follows_the_rfc() {
    let framings = [
        ("200 OK\r\n", Body::UNTIL_END, false),
        ("200 OK\r\nTransfer-Encoding: chunked\r\n", Body::CHUNKED, true),
        ("200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 5\r\n", Body::CHUNKED, true),
        ("200 OK\r\nTransfer-Encoding: gzip\r\n", Body::UNTIL_END, false),
        ("200 OK\r\nContent-Length: 7, 7\r\nContent-Length: 7\r\n", Body::length(7), true),
        ("204 No Content\r\n", Body::EMPTY, true),
        ("304 Not Modified\r\nContent-Length: 9\r\n", Body::EMPTY, true),
        ("101 Switching Protocols\r\nUpgrade: x\r\n", Body::EMPTY, true),
        ("200 OK\r\nContent-Length: 1\r\nConnection: x, Close\r\n", Body::length(1), false),
    ];
    for (text, body, keeps) in framings {
        let head = read(&format!("HTTP/1.1 {text}\r\n")).unwrap();
        assert_eq!((head.body, head.keeps), (body, keeps), "{text}");
    }
    assert_eq!(read_for(&Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").unwrap().body, Body::EMPTY);
    assert!(!read("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n").unwrap().keeps);
    assert!(read("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n").unwrap().keeps);
}

#[test]
fn what_is_malformed_is_refused_for_its_own_reason() {
    let lines = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(read(&lines(HEADERS_MAX)).is_ok());
    for (bytes, why) in [
        ("HTTP/2 200 OK\r\n\r\n", Malformed::Head),
        ("\r\n\r\n", Malformed::Head),
        ("ICY 200 OK\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 099 OK\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", Malformed::Head),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: \u{e9}, chunked\r\n\r\n", Malformed::TransferCoding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::TransferCoding),
        (&lines(HEADERS_MAX + 1), Malformed::HeadTooLarge),
    ] {
        assert_eq!(read(bytes).err(), Some(why), "{bytes}");
    }
}
