//! Propositions about what passes the door.

use http::HeaderValue;

use super::*;

fn judge(head: &str) -> Result<Framing, HeadRefused> {
    let mut lines = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut lines);
    assert!(request.parse(head.as_bytes()).unwrap().is_complete(), "{head:?}");
    check_head(&request)
}

fn check(lines: &str, want: Result<Framing, HeadRefused>) {
    let head = format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    assert_eq!(judge(&head), want, "{lines:?}");
}

#[test]
fn a_body_has_one_end() {
    use HeadRefused::{BothFramings, ContentLength, TransferCoding};
    check("", Ok(Framing::Empty));
    check("Content-Length: 0\r\n", Ok(Framing::Empty));
    check("Content-Length: 7\r\n", Ok(Framing::Length(7)));
    check("Transfer-Encoding: chunked\r\n", Ok(Framing::Chunked));
    check("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked));
    check("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", Err(BothFramings));
    check("transfer-encoding: chunked\r\ncontent-length: 7\r\n", Err(BothFramings));
    check("Content-Length: 7\r\nContent-Length: 7\r\n", Err(ContentLength));
    check("Content-Length: 7, 7\r\n", Err(ContentLength));
    check("Content-Length: +7\r\n", Err(ContentLength));
    check("Content-Length: 0x7\r\n", Err(ContentLength));
    check("Content-Length:\r\n", Err(ContentLength));
    check("Content-Length: 99999999999999999999\r\n", Err(ContentLength));
    check("Transfer-Encoding: gzip, chunked\r\n", Err(TransferCoding));
    check("Transfer-Encoding: identity\r\n", Err(TransferCoding));
    check("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(TransferCoding));
    check("Transfer-Encoding: \"chunked\"\r\n", Err(TransferCoding));
    assert_eq!(
        judge("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Err(HeadRefused::TransferCodingInHttp10)
    );
}

#[test]
fn a_target_reads_one_way() {
    let check = |target: &str, want: bool| {
        let host = authority_of(target).unwrap_or("a");
        let got = judge(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(got.is_ok(), want, "{target}: {got:?}");
    };
    check("/", true);
    check("/a%2fb/../c;d?e=%2500", true);
    check("http://orders.mesh.internal/x", true);
    check("HTTP://orders.mesh.internal:80?x", true);
    check("/a%00b", false);
    check("/a#b", false);
    check("/a\\b", false);
    check("*", false);
    check("orders.mesh.internal:80", false);
    check("https://orders.mesh.internal/", false);
    check("http://user@orders.mesh.internal/", false);
    check("http:///x", false);
    assert_eq!(judge("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Framing::Empty));
}

#[test]
fn one_host_that_agrees() {
    let check = |head: &str, want: bool| assert_eq!(judge(head).is_ok(), want, "{head:?}");
    check("GET / HTTP/1.1\r\n\r\n", false);
    check("GET / HTTP/1.0\r\n\r\n", true);
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", false);
    check("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", false);
    check("GET http://a/ HTTP/1.1\r\nHost: A:80\r\n\r\n", true);
    check("GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", false);
}

#[test]
fn what_may_switch_is_judged_by_its_head() {
    for host in ["a:80", "A:80", "a"] {
        let head = format!("CONNECT a:80 HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(judge(&head), Ok(Framing::Switch), "{host}");
    }
    let connect = |target: &str, lines: &str| judge(&format!("CONNECT {target} HTTP/1.1\r\nHost: a:80\r\n{lines}\r\n"));
    for target in ["a", "a:", ":80", "a:0", "a:65536", "a:+80", "/a:80", "http://a:80", "x@a:80", "[a]:80"] {
        assert!(connect(target, "").is_err(), "{target}");
    }
    assert_eq!(connect("b:80", ""), Err(HeadRefused::Host));
    assert_eq!(connect("a:80", "Content-Length: 0\r\n"), Err(HeadRefused::Early));
    assert_eq!(connect("a:80", "Transfer-Encoding: chunked\r\n"), Err(HeadRefused::Early));
    check("Upgrade: websocket\r\nConnection: upgrade\r\n", Ok(Framing::Switch));
    check("Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n", Ok(Framing::Switch));
    check("Upgrade: websocket\r\n", Ok(Framing::Empty));
    check("Upgrade: x/1.0\r\nConnection: upgrade\r\n", Ok(Framing::Switch));
    for several in ["a, b", "h2c, websocket", "", "a b", "/1", "a/", "a/1/2"] {
        check(&format!("Upgrade: {several}\r\nConnection: upgrade\r\n"), Err(HeadRefused::Upgrade));
    }
    check("Upgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\n", Err(HeadRefused::Upgrade));
    check("Upgrade: h2c\r\nUpgrade: h2c\r\nConnection: upgrade\r\n", Err(HeadRefused::Upgrade));
    check("Upgrade: a\r\nConnection: upgrade\r\nContent-Length: 1\r\n", Err(HeadRefused::Upgrade));
    check("Upgrade: a\r\nConnection: upgrade\r\nTransfer-Encoding: chunked\r\n", Err(HeadRefused::Upgrade));
    check("Upgrade: h2c\r\nConnection: upgrade\r\n", Ok(Framing::Empty));
    check("X_Forwarded_Client_Cert: By=x\r\n", Err(HeadRefused::Disguised));
    check("x-starling_error: x\r\n", Err(HeadRefused::Disguised));
    check("my_header: x\r\n", Ok(Framing::Empty));
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn nothing_of_this_hop_is_passed_on() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, X-Private, host"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("x-private", "1"),
        ("te", "trailers"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("transfer-encoding", "chunked"),
        ("host", "a"),
        ("accept", "*/*"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    strip_hop_by_hop(&mut headers);
    assert_eq!(names(&headers), ["accept", "host"]);
}

#[test]
fn identity_is_ours_to_say() {
    let mut headers = HeaderMap::new();
    for name in
        ["x-forwarded-client-cert", "x-starling-error", "x-starling-anything", "x-forwarded-for", "x-request-id"]
    {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static("v"));
    }
    strip_ours(&mut headers);
    assert_eq!(names(&headers), ["x-forwarded-for", "x-request-id"]);
}

#[test]
fn an_http_2_head_keeps_the_same_rules() {
    let judge = |target: &str, headers: &[(&'static str, &str)]| {
        let request = Request::builder().uri(target);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        check_http2(&request.body(()).unwrap())
    };
    let check = |headers: &[(&'static str, &str)], want| assert_eq!(judge("http://a/x", headers), want, "{headers:?}");
    check(&[], Ok(()));
    check(&[("host", "A:80"), ("te", "trailers"), ("content-length", "3")], Ok(()));
    check(&[("host", "b")], Err(HeadRefused::Host));
    check(&[("host", "a"), ("host", "a")], Err(HeadRefused::Host));
    check(&[("content-length", "3"), ("content-length", "3")], Err(HeadRefused::ContentLength));
    check(&[("content-length", "3, 3")], Err(HeadRefused::ContentLength));
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        check(&[(name, "x")], Err(HeadRefused::Malformed));
    }
    check(&[("x_starling_error", "x")], Err(HeadRefused::Disguised));
    for (target, want) in [
        ("https://a/x", Ok(())),
        ("ftp://a/x", Err(HeadRefused::Target)),
        ("http://a/%00", Err(HeadRefused::Target)),
        ("http://u@a/x", Err(HeadRefused::Host)),
        ("/x", Err(HeadRefused::Host)),
    ] {
        assert_eq!(judge(target, &[]), want, "{target}");
    }
    assert_eq!(judge("/x", &[("host", "a")]), Ok(()));
    let connect = Request::builder().method("CONNECT").uri("a:80").body(()).unwrap();
    assert_eq!(check_http2(&connect), Err(HeadRefused::Connect));
    let many = |count: usize| {
        let request =
            (0..count).fold(Request::builder().uri("http://a/"), |request, at| request.header(format!("x-{at}"), "y"));
        check_http2(&request.body(()).unwrap())
    };
    assert_eq!((many(HEADERS_MAX - 2), many(HEADERS_MAX - 1)), (Ok(()), Err(HeadRefused::HeadTooLarge)));
}

#[test]
fn trailers_cannot_become_what_a_head_says() {
    let mut trailers = HeaderMap::new();
    for name in [
        "grpc-status",
        "x-own",
        "x-forwarded-client-cert",
        "x-starling-error",
        "host",
        "content-length",
        "te",
        "cookie",
    ] {
        trailers.insert(HeaderName::from_static(name), "0".parse().unwrap());
    }
    strip_trailers(&mut trailers);
    let mut left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["grpc-status", "x-own"]);
}
