//! Propositions about the server, told with an in-memory pipe in front.

use std::convert::Infallible;

use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// A server that answers approved requests with 200 and the body's length, refused ones with their status.
async fn serve(pipe: DuplexStream) {
    let door = Door::new();
    let answer = |request: Request<Arriving>, verdict| -> Answering {
        let busy = door.busy();
        Box::pin(async move {
            let (status, text) = match verdict {
                Verdict::Refused(refused) => (StatusCode::from_u16(refused.status()).unwrap(), String::new()),
                Verdict::Approved | Verdict::MaySwitch => match request.into_body().collect().await {
                    Ok(body) => (StatusCode::OK, body.to_bytes().len().to_string()),
                    Err(_) => (StatusCode::BAD_REQUEST, String::new()),
                },
            };
            drop(busy);
            let mut response = Response::new(ResponseBody::Own(Some(text.into())));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        })
    };
    super::serve(pipe, &door, Offer::Http1, None, answer).await;
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

/// All that a client reads that sends `bytes` and waits for the end, of a server that answers by `answer`.
async fn told(bytes: &'static str, answer: impl Fn(Request<Arriving>) -> Answering + 'static) -> String {
    let local = tokio::task::LocalSet::new();
    let (mut client, server) = tokio::io::duplex(1 << 20);
    local.spawn_local(async move {
        super::serve(server, &Door::new(), Offer::Http1, None, move |request, _| answer(request)).await;
    });
    let read = async move {
        client.write_all(bytes.as_bytes()).await.unwrap();
        let mut told = Vec::new();
        let _ = timeout(Duration::from_secs(5), client.read_to_end(&mut told)).await.expect("an end");
        String::from_utf8(told).unwrap()
    };
    local.run_until(read).await
}

fn own(text: &'static str) -> Answering {
    Box::pin(std::future::ready(Ok(Response::new(ResponseBody::Own(Some(text.into()))))))
}

const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn an_answer_is_as_its_request_takes_it() {
    let long: &'static str = "x".repeat(100_000).leak();
    let answer = move |request: Request<Arriving>| own(if request.uri().path() == "/long" { long } else { "hello" });
    let both = format!("GET /long HTTP/1.1\r\nHost: a\r\n\r\n{LAST}").leak();
    let read = told(both, answer).await;
    let (first, second) = read.split_at(read.rfind("HTTP/1.1 200").unwrap());
    assert!(first.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n") && first.ends_with(long));
    assert_eq!(second, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
    let head = told("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", answer).await;
    assert!(head.ends_with("\r\n\r\n") && !head.contains("hello"), "{head}");
    let old = told("GET / HTTP/1.0\r\n\r\n", answer).await;
    assert_eq!(old, "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    let kept = told("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n", answer).await;
    assert_eq!(kept.matches("hello").count(), 2, "{kept}");
    assert_eq!(kept.matches("connection: keep-alive").count(), 1, "{kept}");
}

#[tokio::test]
async fn a_body_that_nobody_reads_ends_the_connection_behind_its_answer() {
    let answer = |_| own("no");
    // It is not asked for, nor taken for the next request.
    let post = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 30\r\n\r\n";
    let read = told(post, answer).await;
    assert!(read.starts_with("HTTP/1.1 200 OK\r\n") && read.ends_with("no"), "{read}");
    let smuggled = format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", post.replace("30", "9999")).leak();
    assert_eq!(told(smuggled, answer).await.matches("HTTP/1.1").count(), 1);
    // What is there is passed over.
    let there = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{LAST}").leak();
    assert_eq!(told(there, answer).await.matches("HTTP/1.1 200").count(), 2);
}

/// Counts its own end.
struct Dropped(Rc<std::cell::Cell<bool>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_request_up() {
    let gone = Rc::new(std::cell::Cell::new(false));
    let local = tokio::task::LocalSet::new();
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let dropped = gone.clone();
    let serving = local.spawn_local(async move {
        let answer = move |_, _| -> Answering {
            let dropped = Dropped(dropped.clone());
            Box::pin(async move {
                std::future::pending::<()>().await;
                drop(dropped);
                unreachable!()
            })
        };
        super::serve(server, &Door::new(), Offer::Http1, None, answer).await;
    });
    local
        .run_until(async move {
            client.write_all(GET.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            assert!(!gone.get());
            drop(client);
            timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
            assert!(gone.get());
        })
        .await;
}

#[tokio::test]
async fn a_connection_that_is_told_to_close_does_so_when_it_is_idle() {
    let (tell, phase) = watch::channel(Phase::Open);
    let local = tokio::task::LocalSet::new();
    let (mut client, server) = tokio::io::duplex(1 << 16);
    local.spawn_local(async move {
        super::serve(server, &Door::new(), Offer::Http1, Some(phase), |_, _| own("hello")).await;
    });
    local
        .run_until(async move {
            client.write_all(GET.as_bytes()).await.unwrap();
            let mut space = [0; 1_024];
            let length = client.read(&mut space).await.unwrap();
            assert!(!String::from_utf8_lossy(&space[..length]).contains("close"));
            tell.send(Phase::Closing).unwrap();
            assert_eq!(timeout(Duration::from_secs(5), client.read(&mut space)).await.unwrap().unwrap(), 0);
        })
        .await;
}

/// Who has read a body to its end and keeps it has no say in the next request's.
#[tokio::test]
async fn a_body_that_was_read_lets_its_connection_go() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let wire = Rc::new(RefCell::new(Wire::new(server)));
    let begin = || {
        wire.borrow_mut().begin(Framing::Length(5), false);
        Arriving::Http1(Reading::new(wire.clone()))
    };
    let mut first = begin();
    client.write_all(b"hello").await.unwrap();
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    let second = begin();
    drop(first);
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(wire.borrow_mut().poll_settled(&mut context).is_pending(), "the second one is still wanted");
    drop(second);
    assert_eq!(wire.borrow_mut().poll_settled(&mut context), Poll::Ready(false));
}

/// What of `100 Continue` was said is said to its end before the answer.
#[tokio::test]
async fn half_a_leave_is_ended_before_the_answer() {
    let (mut client, server) = tokio::io::duplex(10);
    let wire = Rc::new(RefCell::new(Wire::new(server)));
    wire.borrow_mut().begin(Framing::Length(5), true);
    assert_eq!(wire.borrow_mut().answered(), b"", "nothing was said of it");
    wire.borrow_mut().begin(Framing::Length(5), true);
    let mut body = Arriving::Http1(Reading::new(wire.clone()));
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(pin!(body.frame()).poll(&mut context).is_pending());
    let owed = wire.borrow_mut().answered();
    let mut said = [0; 10];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!([&said[..], owed].concat(), b"HTTP/1.1 100 Continue\r\n\r\n");
}
