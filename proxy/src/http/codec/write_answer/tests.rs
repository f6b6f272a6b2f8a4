//! Heads of answers as they are written.

use super::*;

fn to(method: &Method, is_http10: bool, keeps: bool) -> AnswerTo {
    AnswerTo::new(method, &HeaderMap::new(), is_http10, keeps)
}

fn write(
    status: u16,
    lines: &[(&'static str, &'static str)],
    length: Option<u64>,
    to: &AnswerTo,
) -> Result<(String, Option<Framing>, bool), Malformed> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    let mut out = Vec::new();
    let status = StatusCode::from_u16(status).unwrap();
    let written = write_head(&mut out, (status, None, &headers), length, to)?;
    Ok((String::from_utf8(out).unwrap(), written.body, written.keeps))
}

#[test]
fn the_head_says_how_the_body_follows() {
    let get = to(&Method::GET, false, true);
    let said = |text: &str, body, keeps| Ok((text.to_owned(), body, keeps));
    let (known, chunked) = (Some(Framing::Length(5)), Some(Framing::Chunked));
    assert_eq!(write(200, &[], Some(5), &get), said("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", known, true));
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(write(200, &[("transfer-encoding", "gzip")], None, &get), said(chunks, chunked, true));
    let own = [("content-length", "5"), ("x", "y")];
    let text = "HTTP/1.1 404 Not Found\r\nx: y\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(write(404, &own, Some(5), &get), said(text, known, true));
    assert_eq!(write(404, &own, None, &get), said(text, known, true));
    // Said once, however often it came.
    for said in [&[("content-length", "5, 5"), ("x", "y")][..], &[own[0], own[0], own[1]]] {
        assert_eq!(write(404, said, None, &get).unwrap().0, text);
    }
    for wrong in ["6", "x", "", "5, 6"] {
        assert_eq!(write(200, &[("content-length", wrong)], Some(5), &get), Err(Malformed::ContentLength), "{wrong}");
    }
    // HTTP/1.0 has no chunks, and is kept only by both.
    let text = "HTTP/1.0 200 OK\r\n\r\n";
    assert_eq!(write(200, &[], None, &to(&Method::GET, true, true)), said(text, Some(Framing::UntilEnd), false));
    let text = "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n";
    assert_eq!(write(200, &[], Some(5), &to(&Method::GET, true, true)), said(text, known, true));
}

#[test]
fn some_answers_have_no_body_and_some_no_length() {
    let get = to(&Method::GET, false, true);
    for (status, line) in [(204, "204 No Content"), (304, "304 Not Modified")] {
        assert_eq!(write(status, &[], None, &get), Ok((format!("HTTP/1.1 {line}\r\n\r\n"), None, true)));
    }
    let length = [("content-length", "7")];
    assert_eq!(write(204, &length, None, &get).unwrap().0, "HTTP/1.1 204 No Content\r\n\r\n");
    let kept = |line: &str| format!("HTTP/1.1 {line}\r\ncontent-length: 7\r\n\r\n");
    assert_eq!(write(304, &length, None, &get).unwrap().0, kept("304 Not Modified"));
    let (text, body, keeps) = write(200, &length, Some(0), &to(&Method::HEAD, false, true)).unwrap();
    assert_eq!((text, body, keeps), (kept("200 OK"), None, true), "the length of what GET would bring");
    assert!(write(200, &[], None, &to(&Method::HEAD, true, true)).unwrap().2, "no end is awaited");
    let connect = to(&Method::CONNECT, false, true);
    assert_eq!(write(200, &[], Some(0), &connect).unwrap().0, "HTTP/1.1 200 OK\r\n\r\n");
    assert!(connect.switches(StatusCode::OK) && !connect.switches(StatusCode::NOT_FOUND));
    let text = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(write(503, &[], Some(0), &connect).unwrap().0, text);
    let switched = [("connection", "upgrade"), ("upgrade", "websocket")];
    let text = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(write(101, &switched, Some(0), &get).unwrap().0, text);
}

#[test]
fn the_last_answer_says_so() {
    let closing = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (text, _, keeps) = write(200, &[], Some(0), &to(&Method::GET, false, false)).unwrap();
    assert_eq!((text.as_str(), keeps), (closing, false));
    let (text, _, keeps) = write(200, &[("connection", "close")], Some(0), &to(&Method::GET, false, true)).unwrap();
    assert!(!keeps && text.matches("close").count() == 1, "{text}");
    assert_eq!(write(200, &[], Some(0), &AnswerTo::REFUSED).unwrap().0, closing);
}
