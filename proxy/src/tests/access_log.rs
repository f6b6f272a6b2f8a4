//! What two data planes tell of requests and tunnels between them.

use std::sync::mpsc::Receiver;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use starling_model::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::backend::{self, Client, raw};
use super::grpc;
use super::*;
use crate::AccessLogFigures;
use crate::Direction;
use crate::access_log::{Only, Record};
use crate::answers::ErrorType;
use crate::http::grpc::{GrpcStatus, Spoken};

const ORDERS: &str = "orders.mesh.internal";

/// Two nodes, each with a log.
struct Logged {
    mesh: Mesh,
    caller: Receiver<Box<Record>>,
    owner: Receiver<Box<Record>>,
}

impl Logged {
    fn start(only: Only) -> Self {
        let mut mesh = Mesh::new(0);
        let log = || AccessLog::new(only, Arc::<AccessLogFigures>::default());
        let ((of_caller, caller), (of_owner, owner)) = (log(), log());
        mesh.start_with("vm-1", Some(Arc::new(of_caller)));
        mesh.start_with("vm-2", Some(Arc::new(of_owner)));
        Self { mesh, caller, owner }
    }
}

/// The next record; its line is written once its last byte has gone.
async fn next(log: &Receiver<Box<Record>>) -> Record {
    for _ in 0..500 {
        if let Ok(record) = log.try_recv() {
            return *record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing is told");
}

fn told(record: &Record) -> (u16, u64, u64, Option<ErrorType>) {
    (record.http.as_ref().unwrap().status, record.sent, record.received, record.error)
}

fn endpoint(record: &Record) -> String {
    record.endpoint.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn a_request_is_told_at_both_ends_with_route_service_and_endpoint() {
    let orders = backend::http("orders").await;
    let mut logged = Logged::start(Only::All);
    logged.mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    logged.mesh.apply(
        "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec:\n  parentRefs: [{kind: Service, name: orders}]\n  \
         rules:\n    - name: main\n      backendRefs: [{name: orders}]\n",
    );
    let mut client = Client::new(logged.mesh.node("vm-1").orders).await;
    let body = vec![b'a'; 200_000];
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = Request::post("/cart?token=secret").header("host", ORDERS).header("traceparent", trace);
    client.send(request.body(Full::new(Bytes::from(body))).unwrap()).await;
    let (at_caller, at_owner) = (next(&logged.caller).await, next(&logged.owner).await);
    for record in [&at_caller, &at_owner] {
        assert_eq!(told(record), (200, 200_000, 200_000, None));
        assert_eq!(
            (record.destination.as_ref(), endpoint(record)),
            (Some(&key("orders")), "vm-2/default/orders-1".into())
        );
        assert_eq!((record.caller.node.as_str(), record.caller.service.as_ref()), ("vm-1", Some(&key("web"))));
        let http = record.http.as_ref().unwrap();
        assert_eq!((http.method.as_str(), &*http.path, http.spoken), ("POST", "/cart", Spoken::Http1));
        assert_eq!(http.trace.unwrap().trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(record.upstream.unwrap() <= record.duration && record.duration < Duration::from_secs(5));
        assert_eq!(record.config, logged.mesh.documents.digest());
        assert_ne!(record.config, Digest::default());
    }
    let rule = at_caller.rule.as_ref().unwrap();
    assert_eq!((&*rule.id.route, rule.name.as_deref()), ("default/orders", Some("main")));
    assert_eq!((at_caller.direction, at_owner.direction), (Direction::Outbound, Direction::Inbound));
    // A service that fails is told as such; its status is not the mesh's error.
    assert_eq!(client.get(ORDERS, "/teapot").await.status, 418);
    assert_eq!(told(&next(&logged.caller).await).0, 418);
}

#[tokio::test]
async fn what_the_mesh_answers_is_told_with_its_reason_and_without_names_that_it_does_not_know() {
    let mut logged = Logged::start(Only::Errors);
    let orders = backend::http("orders").await;
    logged.mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let http = logged.mesh.node("vm-1").http;
    let mut client = Client::new(http).await;
    assert_eq!(client.get(ORDERS, "/good").await.status, 200);
    let unknown = client.get("nobody.mesh.internal", "/x?y=1").await;
    assert_eq!(unknown.status, 404);
    let record = next(&logged.caller).await;
    let length = unknown.body.len() as u64;
    assert_eq!(told(&record), (404, 0, length, Some(ErrorType::DestinationNotFound)), "the good one is not told");
    assert_eq!((record.destination, record.endpoint, record.tries), (None, None, 0));
    let smuggled = raw(http, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert!(smuggled.split(' ').nth(1) == Some("400"), "{smuggled}");
    assert_eq!(told(&next(&logged.caller).await).3, Some(ErrorType::HttpRequestError));

    // One that refuses is tried, and named.
    logged.mesh.serve("vm-2", "dead-1", "dead", Protocol::Http, backend::nobody().await);
    assert_eq!(client.get("dead.mesh.internal", "/").await.status, 503);
    let record = next(&logged.caller).await;
    assert_eq!((told(&record).0, told(&record).3), (503, Some(ErrorType::ConnectionRefused)));
    assert_eq!((endpoint(&record), record.tries), ("vm-2/default/dead-1".into(), 1));
    assert_eq!(told(&next(&logged.owner).await).3, Some(ErrorType::ConnectionRefused), "its own agent says so, too");
    assert_eq!(client.get(ORDERS, "/drop").await.status, 503);
    assert_eq!(told(&next(&logged.caller).await).3, Some(ErrorType::ConnectionTerminated));
    assert!(logged.caller.try_recv().is_err());
}

#[tokio::test]
async fn calls_are_told_with_their_status_and_http2_with_its_version() {
    let shop = grpc::server("shop").await;
    let orders = backend::http("orders").await;
    let mut logged = Logged::start(Only::All);
    logged.mesh.serve("vm-2", "shop-1", "shop", Protocol::Grpc, shop.address);
    logged.mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let http = logged.mesh.node("vm-1").http;
    let mut client = grpc::client(http).await;
    assert_eq!(grpc::unary(&mut client, "/shop.Orders/Get", "a").await.unwrap(), "shop:a");
    let (at_caller, at_owner) = (next(&logged.caller).await, next(&logged.owner).await);
    for record in [&at_caller, &at_owner] {
        let told = record.http.as_ref().unwrap();
        assert_eq!((told.spoken, told.status, told.grpc_status), (Spoken::Grpc, 200, Some(GrpcStatus(0))));
        assert_eq!((&*told.path, record.sent, record.received), ("/shop.Orders/Get", 6, 11), "with frames' heads");
    }
    let failed = grpc::unary(&mut client, "/shop.Orders/Fail", "a").await.unwrap_err();
    assert_eq!(failed.code(), tonic::Code::NotFound);
    assert_eq!(next(&logged.caller).await.http.unwrap().grpc_status, Some(GrpcStatus(5)));
    let mut nobody = grpc::client_of(http, "nobody").await;
    assert!(grpc::unary(&mut nobody, "/shop.Orders/Get", "a").await.is_err());
    let record = next(&logged.caller).await;
    assert_eq!(
        (record.error, record.http.unwrap().grpc_status),
        (Some(ErrorType::DestinationNotFound), Some(GrpcStatus(12)))
    );
    let mut sender = http2::http2(http).await;
    http2::send(&mut sender, http2::get("/a?b").body(Full::default()).unwrap()).await;
    let record = next(&logged.caller).await;
    let http = record.http.unwrap();
    assert_eq!((http.spoken, http.version, &*http.path), (Spoken::Http2, http::Version::HTTP_2, "/a"));
}

#[tokio::test]
async fn a_tunnel_is_told_once_with_its_bytes_or_with_why_it_broke() {
    let echo = backend::reverser().await;
    let mut logged = Logged::start(Only::All);
    logged.mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    let entrance = logged.mesh.node("vm-1").echo;
    through(entrance, b"hello").await;
    for log in [&logged.caller, &logged.owner] {
        let record = next(log).await;
        assert!(record.http.is_none() && record.error.is_none());
        assert_eq!((record.sent, record.received, record.tries), (5, 5, 1));
        assert_eq!((endpoint(&record), record.destination), ("vm-2/default/echo-1".into(), Some(key("echo"))));
    }
    logged.mesh.state("vm-2", MemberState::Left);
    through(entrance, b"hello").await;
    let record = next(&logged.caller).await;
    assert_eq!((record.error, record.endpoint), (Some(ErrorType::DestinationUnavailable), None));
    assert!(logged.owner.try_recv().is_err());
}

async fn through(entrance: SocketAddr, sent: &[u8]) {
    // It may be reset at any moment, this one included.
    let Ok(mut stream) = TcpStream::connect(entrance).await else { return };
    let _ = stream.write_all(sent).await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_connection_that_switched_is_told_at_its_end_with_all_its_bytes() {
    let mut logged = Logged::start(Only::All);
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    logged.mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, server.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(b"pong!").await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let mut stream = TcpStream::connect(logged.mesh.node("vm-1").orders).await.unwrap();
    let ask = format!("GET /ws HTTP/1.1\r\nHost: {ORDERS}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(logged.caller.try_recv().is_err(), "it is not over");
    stream.write_all(b"ping").await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    drop(stream);
    served.await.unwrap();
    assert_eq!(told(&next(&logged.caller).await), (101, 4, 5, None));
    assert_eq!(told(&next(&logged.owner).await), (101, 4, 5, None));
}
