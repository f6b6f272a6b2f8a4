//! Propositions about the door, told with hyper behind it and an in-memory pipe in front.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// A server that answers approved requests with 200 and the body's length, refused ones with their status.
async fn serve(pipe: DuplexStream) {
    let door = Door::new();
    let service_door = door.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = service_door.busy();
        let verdict = service_door.verdict();
        if verdict == Verdict::MaySwitch {
            service_door.answered(Answered::Stays);
        }
        async move {
            let mut response = Response::new(Full::new(Bytes::new()));
            match verdict {
                Verdict::Refused(refused) => {
                    *response.status_mut() = StatusCode::from_u16(refused.status()).unwrap();
                    response.headers_mut().insert("connection", "close".parse().unwrap());
                }
                Verdict::Approved | Verdict::MaySwitch => match request.into_body().collect().await {
                    Ok(body) => *response.body_mut() = Full::new(format!("{}", body.to_bytes().len()).into()),
                    Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
                },
            }
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_buf_size(crate::limits::HTTP_BUFFER_BYTES).header_read_timeout(None);
    let _ = builder.serve_connection(TokioIo::new(Guard::new(pipe, door, Offer::Http1)), service).await;
}

/// Statuses of all answers to `bytes`, sent in pieces of `piece`.
async fn statuses(bytes: &[u8], piece: usize) -> Vec<u16> {
    let local = tokio::task::LocalSet::new();
    let (mut client, server) = tokio::io::duplex(1 << 20);
    local.spawn_local(serve(server));
    local
        .run_until(async move {
            for part in bytes.chunks(piece) {
                if client.write_all(part).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
            let mut answers = String::new();
            let _ = client.read_to_string(&mut answers).await;
            answers.split("HTTP/1.").skip(1).map(|rest| rest[2..5].parse().unwrap()).collect()
        })
        .await
}

async fn check(bytes: &[u8], want: &[u16]) {
    for piece in [1, 7, usize::MAX] {
        assert_eq!(statuses(bytes, piece).await, want, "in pieces of {piece}: {:?}", String::from_utf8_lossy(bytes));
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn good_requests_pass_in_any_cut() {
    check(GET.repeat(3).as_bytes(), &[200, 200, 200]).await;
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    check(format!("{post}{GET}{chunked}{GET}").as_bytes(), &[200, 200, 200, 200]).await;
}

#[tokio::test]
async fn a_refused_head_is_answered_and_nothing_behind_it_is_read() {
    let both = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    check(format!("{both}{GET}").as_bytes(), &[400]).await;
    check(format!("{GET}{both}{GET}").as_bytes(), &[200, 400]).await;
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[501]).await;
    check(b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", &[400]).await;
    check(b"\x16\x03\x01\x00\xff\x01garbage", &[400]).await;
}

#[tokio::test]
async fn a_bad_chunk_ends_the_request_and_the_connection() {
    let bad = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    let got = statuses(format!("{bad}{GET}").as_bytes(), usize::MAX).await;
    assert!(got.is_empty() || got == [400], "{got:?}");
}

#[tokio::test]
async fn an_oversized_head_is_answered_however_much_follows() {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(500_000));
    assert_eq!(statuses(head.as_bytes(), 16_384).await, [431]);
}

#[tokio::test]
async fn a_slow_head_is_cut_off_and_an_idle_connection_is_not() {
    tokio::time::pause();
    let local = tokio::task::LocalSet::new();
    let (mut client, server) = tokio::io::duplex(1 << 16);
    local.spawn_local(serve(server));
    local
        .run_until(async move {
            let mut buffer = [0; 1_024];
            client.write_all(GET.as_bytes()).await.unwrap();
            assert!(client.read(&mut buffer).await.unwrap() > 0);
            tokio::time::sleep(Duration::from_secs(200)).await;
            client.write_all(GET.as_bytes()).await.unwrap();
            assert!(client.read(&mut buffer).await.unwrap() > 0, "200 s of idling are fine");
            let began = Instant::now();
            for byte in GET.as_bytes() {
                // One byte per second: a slowloris.
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest).await;
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
            let rest = String::from_utf8_lossy(&rest);
            assert!(rest.contains(" 408 "), "{rest}");
        })
        .await;
}

#[tokio::test]
async fn a_switch_that_is_not_made_leaves_requests_behind_it() {
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    check(upgrade.as_bytes(), &[200]).await;
    // What follows before the answer is refused: as a whole where it came with the head.
    let early = statuses(format!("{upgrade}{GET}").as_bytes(), usize::MAX).await;
    assert_eq!(early, [400]);
    let local = tokio::task::LocalSet::new();
    let (mut client, server) = tokio::io::duplex(1 << 16);
    local.spawn_local(serve(server));
    local
        .run_until(async move {
            let mut buffer = [0; 1_024];
            for request in [upgrade, GET, upgrade, GET] {
                client.write_all(request.as_bytes()).await.unwrap();
                let length = client.read(&mut buffer).await.unwrap();
                assert!(buffer[..length].starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&buffer));
            }
        })
        .await;
}
