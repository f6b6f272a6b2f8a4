//! Propositions about where heads begin, which of them pass, and what is read of them.

use proptest::prelude::*;

use super::*;
use crate::http::codec::body::{Body, Piece};

/// Everything at once: bytes of complete requests, their heads, what is refused.
fn whole(bytes: &[u8]) -> (usize, u64, Option<Refused>) {
    pieces(bytes, &[])
}

/// Why nothing more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Head(HeadRefused),
    Body,
}

/// The same bytes in pieces, read as the server does.
fn pieces(bytes: &[u8], cuts: &[usize]) -> (usize, u64, Option<Refused>) {
    let (mut input, mut searched, mut at, mut heads, mut passed) = (BytesMut::new(), 0, 0, 0, 0);
    let mut body: Option<Body> = None;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        let cut = cut.clamp(at, bytes.len());
        input.extend_from_slice(&bytes[at..cut]);
        at = cut;
        loop {
            match &mut body {
                None => match take_request(&mut input, &mut searched) {
                    Ok(None) => break,
                    Ok(Some(head)) => {
                        heads += 1;
                        body = Some(match head.framing {
                            Framing::Empty | Framing::Switch => Body::EMPTY,
                            Framing::Length(length) => Body::length(length),
                            Framing::Chunked => Body::CHUNKED,
                        });
                    }
                    Err(refused) => return (passed, heads, Some(Refused::Head(refused))),
                },
                Some(reading) => match reading.next(&mut input) {
                    Ok(Piece::Data(_)) => {}
                    Ok(Piece::Trailers(_) | Piece::End) => (body, passed) = (None, at - input.len()),
                    Ok(Piece::More) => break,
                    Err(_) => return (passed, heads, Some(Refused::Body)),
                },
            }
        }
    }
    (passed, heads, None)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_head_passes_when_it_is_whole() {
    assert_eq!(whole(GET), (GET.len(), 1, None));
    for cut in 0..GET.len() {
        assert_eq!(whole(&GET[..cut]), (0, 0, None), "cut at {cut}");
    }
    let two = [GET, GET].concat();
    assert_eq!(whole(&two), (two.len(), 2, None));
    assert_eq!(whole(&two[..two.len() - 1]), (GET.len(), 1, None));
    assert_eq!(whole(&[b"\r\n", GET].concat()), (GET.len() + 2, 1, None));
    assert_eq!(whole(b"\r\n\r\n\r\n"), (0, 0, Some(Refused::Head(HeadRefused::Malformed))));
}

#[test]
fn a_body_is_no_head() {
    let sized = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 28\r\n\r\nGET /a HTTP/1.1\r\nHost: b\r\n\r\n";
    assert_eq!(whole(sized), (sized.len(), 1, None));
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    5;x=y\r\nGET /\r\n1C \r\nGET /a HTTP/1.1\r\nHost: b\r\n\r\n\r\n0\r\nA: b\r\n\r\n";
    assert_eq!(whole(chunked), (chunked.len(), 1, None));
    let then = [chunked.as_slice(), GET].concat();
    assert_eq!(whole(&then), (then.len(), 2, None));
}

#[test]
fn the_second_of_two_requests_is_judged_too() {
    let smuggled = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let both = [GET, smuggled].concat();
    assert_eq!(whole(&both), (GET.len(), 1, Some(Refused::Head(HeadRefused::BothFramings))));
}

#[test]
fn chunks_are_read_strictly() {
    let check = |body: &str, want: Option<Refused>| {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(whole(text.as_bytes()).2, want, "{body:?}");
    };
    check("1\r\na\r\n0\r\n\r\n", None);
    check("0001\r\na\r\n0\r\n\r\n", None);
    for bad in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "0x1\r\n",
        "1\na\r\n",
        "1\r\nab\r\n",
        "1\r\na\n",
        "1;a\nb\r\n",
        "1 2\r\n",
        "fffffffffffffffff\r\n",
    ] {
        check(bad, Some(Refused::Body));
    }
    // No end of trailers: more is awaited, up to the limit below.
    for unfinished in ["0\r\nA: b\n\r\n", "0\r\n\n", "0\r\n\rX"] {
        check(unfinished, None);
        check(&format!("{unfinished}A: b\r\n\r\n"), Some(Refused::Body));
    }
    check(&format!("1;{}\r\n", "x".repeat(2_000)), Some(Refused::Body));
    check(&format!("0\r\nA: {}\r\n\r\n", "x".repeat(20_000)), Some(Refused::Body));
}

#[test]
fn one_past_each_limit_is_refused() {
    let padded = |len: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(len - rest)).into_bytes()
    };
    assert_eq!(whole(&padded(HEAD_BYTES_MAX)), (HEAD_BYTES_MAX, 1, None));
    assert_eq!(whole(&padded(HEAD_BYTES_MAX + 1)).2, Some(Refused::Head(HeadRefused::HeadTooLarge)));
    let unfinished = padded(HEAD_BYTES_MAX + 100);
    assert_eq!(whole(&unfinished[..HEAD_BYTES_MAX + 1]).2, Some(Refused::Head(HeadRefused::HeadTooLarge)));
    let target = format!("GET /{}", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(whole(target.as_bytes()).2, Some(Refused::Head(HeadRefused::TargetTooLong)));
    assert_eq!(
        whole(format!("{target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).2,
        Some(Refused::Head(HeadRefused::TargetTooLong))
    );
    let many = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n)).into_bytes();
    assert_eq!(whole(&many(HEADERS_MAX - 1)).2, None);
    assert_eq!(whole(&many(HEADERS_MAX)).2, Some(Refused::Head(HeadRefused::HeadTooLarge)));
}

#[test]
fn what_is_no_http_is_refused() {
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"SSH-2.0-x\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0",
    ] {
        assert_eq!(whole(garbage).2, Some(Refused::Head(HeadRefused::Malformed)), "{garbage:?}");
    }
    assert_eq!(whole(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").2, Some(Refused::Head(HeadRefused::Http2)));
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(GET.to_vec()),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(|body| {
            let mut text = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            text.extend(body);
            text
        }),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..4).prop_map(|chunks| {
            let mut text = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in chunks {
                text.extend(format!("{:x}\r\n", chunk.len()).bytes());
                text.extend(chunk);
                text.extend(b"\r\n");
            }
            text.extend(b"0\r\n\r\n");
            text
        }),
        Just(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
    ]
}

proptest! {
    /// However the network cuts the bytes, the same ones pass and the same thing is refused.
    #[test]
    fn cuts_change_nothing(
        requests in prop::collection::vec(request(), 1..5),
        mut cuts in prop::collection::vec(0usize..400, 0..12),
    ) {
        let bytes = requests.concat();
        cuts.sort_unstable();
        prop_assert_eq!(pieces(&bytes, &cuts), whole(&bytes));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(0usize..300, 0..6)) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let _ = pieces(&bytes, &cuts);
    }
}
