//! Propositions about the client, told with a server of raw bytes.

use http::Request;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;

/// A client, and the other end of its connection.
async fn pair() -> (Http1, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (Http1::new(Far::Instance(near), Rc::default()), far)
}

fn get() -> Request<RequestBody> {
    Request::get("/a").header("host", "b").body(RequestBody::copied(Vec::new())).unwrap()
}

fn send(client: &Http1, request: Request<RequestBody>) -> Sending {
    let (head, body) = request.into_parts();
    client.send(Box::new(head), body)
}

/// Reads the request of [`get`].
async fn expect_get(far: &mut TcpStream) {
    let mut head = [0; 28];
    far.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"GET /a HTTP/1.1\r\nhost: b\r\n\r\n");
}

/// What a client reads of `answer`, and the client.
async fn answered(answer: &[u8]) -> (Http1, TcpStream, Result<Response<Reply>, SendFailed>) {
    let (client, mut far) = pair().await;
    far.write_all(answer).await.unwrap_or_default();
    // A server may answer before it has read.
    let answer = send(&client, get()).await;
    expect_get(&mut far).await;
    (client, far, answer)
}

async fn body(answer: Response<Reply>) -> Bytes {
    answer.into_body().collect().await.unwrap().to_bytes()
}

/// Waits until what the other end did has arrived; at most a second.
async fn settled(is: impl Fn() -> bool) -> bool {
    for _ in 0..200 {
        if is() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    false
}

#[tokio::test]
async fn one_request_after_the_other_on_one_connection() {
    let (client, mut far) = pair().await;
    for n in 0..3 {
        assert!(client.is_ready() && !client.is_closed());
        let server = async {
            expect_get(&mut far).await;
            far.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n").await.unwrap();
            far.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
                .await
                .unwrap();
        };
        let (answer, ()) = tokio::join!(send(&client, get()), server);
        let answer = answer.unwrap();
        assert!(!client.is_ready(), "its answer is under way");
        assert_eq!((answer.status(), body(answer).await), (StatusCode::OK, Bytes::from("hello")), "{n}");
    }
}

#[tokio::test]
async fn what_a_server_ends_or_says_unasked_takes_no_request_any_more() {
    let (client, far) = pair().await;
    assert!(!client.is_closed());
    drop(far);
    assert!(settled(|| client.is_closed()).await, "closed while it idled");
    let (client, mut far) = pair().await;
    far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    assert!(settled(|| client.is_closed()).await, "said while it idled");
    for (answer, closes) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", true),
    ] {
        let (client, _far, response) = answered(answer.as_bytes()).await;
        assert_eq!(body(response.unwrap()).await, "ok");
        assert_eq!((client.is_ready(), client.is_closed()), (!closes, closes), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_or_breaks_off_is_an_error_and_ends_the_connection() {
    for answer in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
        let (client, _far, response) = answered(answer.as_bytes()).await;
        let failed = response.unwrap_err();
        assert!(!failed.is_unsent && client.is_closed(), "{answer:?}: {failed:?}");
        assert_eq!(failed.head.unwrap().uri.path(), "/a", "for whoever may try it again");
    }
    let (client, far, response) = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").await;
    drop(far);
    assert!(response.unwrap().into_body().collect().await.is_err());
    assert!(client.is_closed());
    let (client, far, response) = answered(b"HTTP/1.1 200 OK\r\n\r\nhello").await;
    drop(far);
    assert_eq!(body(response.unwrap()).await, "hello", "the end is the end");
    assert!(!client.is_ready());
}

#[tokio::test]
async fn an_answer_that_is_given_up_ends_the_connection() {
    let (client, mut far, response) = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").await;
    drop(response);
    assert!(client.is_closed());
    assert_eq!(far.read(&mut [0]).await.unwrap_or_default(), 0);
    let (client, mut far) = pair().await;
    let mut sending = Box::pin(send(&client, get()));
    tokio::select! {
        _ = &mut sending => panic!("nobody answered"),
        () = expect_get(&mut far) => {}
    }
    drop(sending);
    assert!(!client.is_ready(), "nobody knows whose the next answer is");
}

#[tokio::test]
async fn what_nobody_can_take_comes_back_unsent() {
    let (client, _far) = pair().await;
    drop(client.take_far());
    let failed = send(&client, get()).await.unwrap_err();
    assert_eq!((failed.is_unsent, failed.head.unwrap().uri.path()), (true, "/a"));
}

#[tokio::test]
async fn a_head_that_was_taken_in_part_comes_back() {
    let (client, far) = pair().await;
    let mut request = get();
    // More than the sockets hold.
    request.headers_mut().insert("x", http::HeaderValue::from_bytes(&vec![b'x'; 16 << 20]).unwrap());
    let mut sending = Box::pin(send(&client, request));
    tokio::select! {
        biased;
        _ = &mut sending => panic!("nobody answered"),
        () = tokio::task::yield_now() => {}
    }
    drop(far);
    let failed = sending.await.unwrap_err();
    assert_eq!((failed.is_unsent, failed.head.unwrap().uri.path()), (false, "/a"), "for whoever may try it again");
}

#[tokio::test]
async fn a_body_whose_answer_came_early_goes_on() {
    let early = async {
        let (client, mut far) = pair().await;
        // More than the sockets hold.
        let large = Bytes::from(vec![b'x'; 1 << 20]);
        let parts = vec![large; 16];
        let request = Request::post("/a").header("content-length", 16 << 20).body(RequestBody::copied(parts)).unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let answer = send(&client, request).await.unwrap();
        assert_eq!(body(answer).await, "ok");
        assert!(!client.is_ready() && !client.is_closed(), "the request is still under way");
        let mut seen = 0;
        let mut space = vec![0; 1 << 16];
        while seen < (16 << 20) + 30 {
            seen += far.read(&mut space).await.unwrap();
        }
        assert!(settled(|| client.is_ready()).await, "and then the next may follow");
    };
    LocalSet::new().run_until(early).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_the_answer_that_has_begun() {
    let broken = async {
        let (client, mut far) = pair().await;
        // More than was announced: the request cannot be told to its end.
        let parts = vec![Bytes::from(vec![b'x'; 4 << 20]), Bytes::from_static(b"y")];
        let request = Request::post("/a").header("content-length", 4 << 20).body(RequestBody::copied(parts)).unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").await.unwrap();
        let mut answer = send(&client, request).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        client.abandon();
        let rest = tokio::time::timeout(std::time::Duration::from_secs(5), answer.frame()).await;
        assert!(rest.expect("it is woken").unwrap().is_err());
        assert!(client.is_closed());
    };
    LocalSet::new().run_until(broken).await;
}

#[tokio::test]
async fn a_server_that_ends_after_its_early_answer_ends_the_upload() {
    let ended = async {
        let (client, mut far) = pair().await;
        let parts = vec![Bytes::from(vec![b'x'; 16 << 20])];
        let request = Request::post("/a").header("content-length", 16 << 20).body(RequestBody::copied(parts)).unwrap();
        far.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert_eq!(send(&client, request).await.unwrap().status(), 413);
        assert!(!client.is_closed());
        drop(far);
        assert!(settled(|| client.is_closed()).await);
    };
    LocalSet::new().run_until(ended).await;
}
