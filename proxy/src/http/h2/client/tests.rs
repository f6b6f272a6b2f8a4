//! Against servers that do what a well-meant one does not: the client alone, over a pipe.

use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::DuplexStream;
use tokio::task::LocalSet;

use super::*;

fn request(body: &[&'static [u8]]) -> Request<RequestBody> {
    let body = RequestBody::copied(body.iter().map(|piece| Bytes::from_static(piece)).collect());
    Request::post("http://orders/x").body(body).unwrap()
}

fn send(client: &Http2, request: Request<RequestBody>) -> Sending {
    let (head, body) = request.into_parts();
    client.send(Box::new(head), body)
}

type Server = h2::server::Connection<DuplexStream, Bytes>;

/// A client, and a server that does as it is told.
async fn with<R>(run: impl AsyncFnOnce(Http2, Server) -> R) -> R {
    let both = async {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (client, server) = tokio::join!(Http2::begin(near), h2::server::handshake(far));
        run(client.unwrap(), server.unwrap()).await
    };
    let limited = tokio::time::timeout(Duration::from_secs(10), both);
    LocalSet::new().run_until(limited).await.expect("an end")
}

/// Moves the server's frames on until nothing is under way.
fn keep(mut server: Server) {
    drop(tokio::task::spawn_local(async move { while server.accept().await.is_some() {} }));
}

#[tokio::test]
async fn a_body_goes_out_whole_and_its_answer_comes_back_with_trailers() {
    with(async |client, mut server| {
        let sending = tokio::task::spawn_local(send(&client, request(&[b"one", b"two"])));
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        keep(server);
        let mut body = request.into_body();
        let mut got = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            got.extend_from_slice(&data);
        }
        assert_eq!(got, b"onetwo");
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"answer"), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        stream.send_trailers(trailers).unwrap();
        let answer = sending.await.unwrap().unwrap();
        let whole = answer.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(whole.to_bytes(), "answer");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_has_not_looked_is_told_from_one_that_broke_off() {
    with(async |client, mut server| {
        for (reason, is_refused) in [(Reason::REFUSED_STREAM, true), (Reason::INTERNAL_ERROR, false)] {
            let sending = tokio::task::spawn_local(send(&client, request(&[])));
            let (_request, mut respond) = server.accept().await.unwrap().unwrap();
            respond.send_reset(reason);
            let failed = tokio::select! {
                failed = sending => failed.unwrap().unwrap_err(),
                _ = server.accept() => panic!("it ended"),
            };
            assert_eq!((failed.is_refused, failed.is_unsent), (is_refused, false), "{reason}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_connection_does_not_take_any_more_comes_back_unsent() {
    with(async |client, mut server| {
        server.graceful_shutdown();
        keep(server);
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let failed = send(&client, request(&[b"kept"])).await.unwrap_err();
        assert_eq!((failed.is_unsent, failed.head.unwrap().uri.path()), (true, "/x"));
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_dropped_before_its_end_cancels_the_request() {
    with(async |client, mut server| {
        let sending = tokio::task::spawn_local(send(&client, request(&[])));
        let (_request, mut respond) = server.accept().await.unwrap().unwrap();
        keep(server);
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        drop(sending.await.unwrap().unwrap());
        let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        assert_eq!(reset.unwrap(), Reason::CANCEL);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_whole_one() {
    with(async |client, mut server| {
        for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
            let sending = tokio::task::spawn_local(send(&client, request(&[])));
            let (_request, mut respond) = server.accept().await.unwrap().unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"half"), false).unwrap();
            let read = async {
                let mut body = sending.await.unwrap().unwrap().into_body();
                let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(first, "half");
                stream.send_reset(reason);
                body.frame().await
            };
            tokio::select! {
                end = read => assert!(matches!(end, Some(Err(_))), "{reason}"),
                _ = server.accept() => panic!("it ended"),
            }
        }
    })
    .await;
}

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// RFC 9113, 6.8: streams above the last one of a GOAWAY were not looked at.
#[tokio::test]
async fn what_a_goaway_leaves_out_was_not_looked_at() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let run = async {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let client = Http2::begin(near).await.unwrap();
        far.write_all(&SETTINGS).await.unwrap();
        let sending = tokio::task::spawn_local(send(&client, request(&[])));
        let mut space = [0; 4_096];
        let mut got = Vec::new();
        // Until its HEADERS are there.
        while !got.windows(6).any(|six| six == b"orders") && !got.windows(5).any(|five| five == [1, 5, 0, 0, 0]) {
            let count = far.read(&mut space).await.unwrap();
            got.extend_from_slice(&space[..count]);
        }
        far.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let failed = sending.await.unwrap().unwrap_err();
        assert!(failed.is_refused, "{:?}", failed.error);
    };
    let limited = tokio::time::timeout(Duration::from_secs(10), run);
    LocalSet::new().run_until(limited).await.expect("an end");
}

/// A server that takes one request at a time; a second one would wait for the first for ever.
#[tokio::test]
async fn a_connection_that_is_full_is_told_from_one_with_room() {
    let run = async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(1);
        let (client, server) = tokio::join!(Http2::begin(near), builder.handshake::<_, Bytes>(far));
        let mut server = server.unwrap();
        let client = crate::http::pool::Client::new(
            crate::http::pool::Sender::Http2(client.unwrap(), crate::http::pool::Place::first()),
            Rc::default(),
            None,
        );
        let mut shared = crate::http::pool::Shared::default();
        shared.put(&client);
        let mut client = client;
        let (head, body) = request(&[]).into_parts();
        let _first = tokio::task::spawn_local(client.send(Box::new(head), body));
        let _hangs = server.accept().await.unwrap().unwrap();
        assert!(shared.take(std::time::Instant::now()).is_none(), "a second request gets a connection of its own");
    };
    let limited = tokio::time::timeout(Duration::from_secs(10), run);
    LocalSet::new().run_until(limited).await.expect("an end");
}
