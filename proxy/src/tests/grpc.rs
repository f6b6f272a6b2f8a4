//! gRPC through two agents, with a client and a server of tonic: all four kinds of call, routes, errors, limits.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, BufMut as _};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use starling_model::Protocol;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use super::backend;
use super::*;

/// Messages are bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// A server of every call; ends when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    calls: Arc<AtomicU64>,
    /// Messages that it could send so far.
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What answers one call, by the method's name.
struct Call {
    name: &'static str,
    method: String,
    sent: Arc<AtomicU64>,
}

type Answers = Pin<Box<dyn Future<Output = Result<Response<ReceiverStream<Result<Vec<u8>, Status>>>, Status>> + Send>>;

impl tonic::server::StreamingService<Vec<u8>> for Call {
    type Response = Vec<u8>;
    type ResponseStream = ReceiverStream<Result<Vec<u8>, Status>>;
    type Future = Answers;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Answers {
        let (name, method, sent) = (self.name, self.method.clone(), self.sent.clone());
        Box::pin(async move {
            let identity = request.metadata().get("x-forwarded-client-cert").cloned();
            let mut messages = request.into_inner();
            let (sender, answers) = mpsc::channel(1);
            match method.as_str() {
                "Fail" => {
                    let mut status = Status::new(Code::NotFound, "no such order");
                    status.metadata_mut().insert("x-why", "because".parse().unwrap());
                    return Err(status);
                }
                "Hang" => std::future::pending().await,
                "Late" => {
                    tokio::spawn(async move {
                        let _ = sender.send(Ok(b"one".to_vec())).await;
                        let _ = sender.send(Err(Status::new(Code::DataLoss, "later"))).await;
                    });
                }
                // Collects until the client has said all, then answers once.
                "Sum" => {
                    let mut sum = 0;
                    while let Some(message) = messages.next().await {
                        sum += message?.len();
                    }
                    sender.send(Ok(sum.to_string().into_bytes())).await.unwrap();
                }
                "Flood" => {
                    tokio::spawn(async move {
                        while sender.send(Ok(vec![7; 32 * 1024])).await.is_ok() {
                            sent.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                "List" => {
                    tokio::spawn(async move {
                        for at in 0..500 {
                            let _ = sender.send(Ok(format!("{at}").into_bytes())).await;
                        }
                    });
                }
                // Unary and bidirectional: each message comes back.
                _ => {
                    tokio::spawn(async move {
                        while let Some(Ok(message)) = messages.next().await {
                            let _ = sender.send(Ok([name.as_bytes(), b":", &message].concat())).await;
                        }
                    });
                }
            }
            let mut response = Response::new(ReceiverStream::new(answers));
            if let Some(identity) = identity {
                response.metadata_mut().insert("x-caller", identity);
            }
            Ok(response)
        })
    }
}

pub(super) async fn server(name: &'static str) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (calls, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count, sending) = (calls.clone(), sent.clone());
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (count, sending) = (count.clone(), sending.clone());
            connections.spawn(async move {
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    count.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(request.headers()["te"], "trailers");
                    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                    let call = Call { name, method, sent: sending.clone() };
                    async move {
                        let mut grpc = tonic::server::Grpc::new(Raw);
                        Ok::<_, std::convert::Infallible>(grpc.streaming(call, request).await)
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Server { address, calls, sent, task }
}

pub(super) type Client = tonic::client::Grpc<Channel>;

pub(super) async fn client(entrance: SocketAddr) -> Client {
    client_of(entrance, "shop").await
}

pub(super) async fn client_of(entrance: SocketAddr, service: &str) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{entrance}")).unwrap();
    let origin = format!("http://{service}.mesh.internal").parse().unwrap();
    let mut client = tonic::client::Grpc::new(endpoint.origin(origin).connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

pub(super) async fn unary(client: &mut Client, path: &str, message: &str) -> Result<String, Status> {
    client.ready().await.unwrap();
    let path = path.parse().unwrap();
    let answer = client.unary(Request::new(message.as_bytes().to_vec()), path, Raw).await?;
    Ok(String::from_utf8(answer.into_inner()).unwrap())
}

async fn mesh() -> (Mesh, Server) {
    let one = server("one").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "shop-1", "shop", Protocol::Grpc, one.address);
    (mesh, one)
}

#[tokio::test]
async fn all_four_kinds_of_call_pass_two_agents() {
    let one = server("one").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Grpc, one.address);
    for entrance in [mesh.node("vm-1").http, mesh.node("vm-1").orders] {
        let mut client = client_of(entrance, "orders").await;
        for size in [0, 1, 3_000_000] {
            let answer = unary(&mut client, "/shop.Orders/Get", &"x".repeat(size)).await.unwrap();
            assert_eq!(answer.len(), size + 4, "{size} bytes");
        }
        client.ready().await.unwrap();
        let listed = client.server_streaming(Request::new(Vec::new()), "/shop.Orders/List".parse().unwrap(), Raw).await;
        let listed: Vec<_> = listed.unwrap().into_inner().map(Result::unwrap).collect().await;
        assert!(listed.iter().enumerate().all(|(at, message)| *message == at.to_string().into_bytes()));
        assert_eq!(listed.len(), 500);
        client.ready().await.unwrap();
        let many = tokio_stream::iter(vec![vec![0; 10_000]; 300]);
        let summed = client.client_streaming(Request::new(many), "/shop.Orders/Sum".parse().unwrap(), Raw).await;
        assert_eq!(summed.unwrap().into_inner(), b"3000000");
        client.ready().await.unwrap();
        let (sender, messages) = mpsc::channel(1);
        let chat =
            client.streaming(Request::new(ReceiverStream::new(messages)), "/shop.Orders/Chat".parse().unwrap(), Raw);
        let chat = chat.await.unwrap();
        assert!(
            chat.metadata().get("x-caller").unwrap().to_str().unwrap().contains("URI=spiffe://prod.internal/node/vm-1")
        );
        let mut answers = chat.into_inner();
        for at in 0..50 {
            // Each waits for the answer to the one before: nothing may be held back.
            sender.send(format!("{at}").into_bytes()).await.unwrap();
            assert_eq!(answers.next().await.unwrap().unwrap(), format!("one:{at}").into_bytes());
        }
        drop(sender);
        assert!(answers.next().await.is_none());
    }
    for (node, direction) in [("vm-1", "outbound"), ("vm-2", "inbound")] {
        let counted = || {
            let text = scrape(mesh.node(node));
            let of = |line: &&str| {
                line.contains(direction)
                    && line.contains("protocol=\"grpc\",status_code=\"200\",grpc_status=\"0\",error=\"none\"")
            };
            text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
        };
        eventually("every call is counted", || counted() == 12).await;
    }
    eventually("nothing is under way", || mesh.node("vm-2").plane.as_ref().unwrap().inbound_under_way() == 0).await;
}

#[tokio::test]
async fn statuses_and_trailers_come_back_as_they_were() {
    let (mesh, _one) = mesh().await;
    let mut client = client(mesh.node("vm-1").http).await;
    let status = unary(&mut client, "/shop.Orders/Fail", "").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such order"));
    assert_eq!(status.metadata().get("x-why").unwrap(), "because");
    client.ready().await.unwrap();
    let late = client.server_streaming(Request::new(Vec::new()), "/shop.Orders/Late".parse().unwrap(), Raw).await;
    let mut late = late.unwrap().into_inner();
    assert_eq!(late.next().await.unwrap().unwrap(), b"one");
    assert_eq!(late.next().await.unwrap().unwrap_err().code(), Code::DataLoss);
    let node = mesh.node("vm-1");
    eventually("both are counted", || {
        let text = scrape(node);
        ["grpc_status=\"5\"", "grpc_status=\"15\""].iter().all(|status| text.contains(status))
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_waits_holds_its_writer_back() {
    let (mesh, one) = mesh().await;
    let mut client = client(mesh.node("vm-1").http).await;
    let flood = client.server_streaming(Request::new(Vec::new()), "/shop.Orders/Flood".parse().unwrap(), Raw).await;
    let mut flood = flood.unwrap().into_inner();
    assert_eq!(flood.next().await.unwrap().unwrap().len(), 32 * 1024);
    let mut before = u64::MAX;
    eventually("it stands still", || {
        let now = one.sent.load(Ordering::SeqCst);
        std::mem::replace(&mut before, now) == now
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let held = one.sent.load(Ordering::SeqCst) * 32 * 1024;
    assert!(held < 4 * 1024 * 1024, "{held} bytes are on the way");
    for _ in 0..500 {
        assert_eq!(flood.next().await.unwrap().unwrap().len(), 32 * 1024);
    }
    // Whoever stops reading for good frees the whole way.
    drop(flood);
    eventually("the call ends", || mesh.node("vm-2").plane.as_ref().unwrap().inbound_under_way() == 0).await;
}

/// The instance takes no more messages; that its caller has gone is no message.
#[tokio::test]
async fn a_call_given_up_while_its_server_reads_nothing_is_given_up_there_too() {
    let (mesh, one) = mesh().await;
    let mut client = client(mesh.node("vm-1").http).await;
    let (sender, messages) = mpsc::channel(1);
    let call = tokio::spawn(async move {
        let path = "/shop.Orders/Hang".parse().unwrap();
        let _ = client.streaming(Request::new(ReceiverStream::new(messages)), path, Raw).await;
    });
    let mut sent = 0;
    let full = || tokio::time::sleep(Duration::from_millis(300));
    loop {
        tokio::select! {
            sending = sender.send(vec![7; 32 * 1024]) => sending.unwrap(),
            () = full() => break,
        }
        sent += 1;
        assert!(sent < 1_000, "nobody holds the caller back");
    }
    assert_eq!(one.calls.load(Ordering::SeqCst), 1);
    let far = mesh.node("vm-2").plane.as_ref().unwrap();
    assert_eq!(far.inbound_under_way(), 1);
    call.abort();
    eventually("the call is over at its owner", || far.inbound_under_way() == 0).await;
}

/// The window of a connection between agents is for all of its calls: those that nobody reads must not use it up.
#[tokio::test]
async fn readers_that_wait_hold_nobody_else_back() {
    let (mesh, _one) = mesh().await;
    let mut floods = Vec::new();
    for _ in 0..40 {
        let mut client = client(mesh.node("vm-1").http).await;
        let flood = client.server_streaming(Request::new(Vec::new()), "/shop.Orders/Flood".parse().unwrap(), Raw).await;
        floods.push(flood.unwrap().into_inner());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut other = client(mesh.node("vm-1").http).await;
    for _ in 0..5 {
        let called = unary(&mut other, "/shop.Orders/Get", "a");
        let answer = tokio::time::timeout(Duration::from_secs(5), called).await.expect("an answer in time");
        assert_eq!(answer.unwrap(), "one:a");
    }
}

#[tokio::test]
async fn a_grpc_route_sends_methods_where_it_says() {
    let (one, two) = (server("one").await, server("two").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "shop-1", "shop", Protocol::Grpc, one.address);
    mesh.serve("vm-3", "next-1", "next", Protocol::Grpc, two.address);
    mesh.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: shop}\nspec:\n  \
         parentRefs: [{kind: Service, name: shop}]\n  rules:\n  \
         - matches: [{method: {service: shop.Orders, method: Get}}]\n    backendRefs: [{name: next}]\n    filters:\n    \
           - type: ResponseHeaderModifier\n      responseHeaderModifier: {set: [{name: x-back, value: \"1\"}]}\n  \
         - matches: [{method: {service: shop.Orders}, headers: [{name: x-new, value: \"yes\"}]}]\n    backendRefs: [{name: next}]\n  \
         - matches: [{method: {service: shop.Orders}}]\n    backendRefs: [{name: shop}]\n  \
         - matches: [{method: {service: shop.Gone}}]\n    backendRefs: [{name: gone}]\n",
    );
    let mut client = client(mesh.node("vm-1").http).await;
    assert_eq!(unary(&mut client, "/shop.Orders/Get", "a").await.unwrap(), "two:a");
    assert_eq!(unary(&mut client, "/shop.Orders/Put", "a").await.unwrap(), "one:a");
    client.ready().await.unwrap();
    let mut request = Request::new(b"a".to_vec());
    request.metadata_mut().insert("x-new", "yes".parse().unwrap());
    let answer = client.unary(request, "/shop.Orders/Put".parse().unwrap(), Raw).await.unwrap();
    assert_eq!(answer.into_inner(), b"two:a");
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(Vec::new()), "/shop.Orders/Get".parse().unwrap(), Raw).await.unwrap();
    assert_eq!(answer.metadata().get("x-back").unwrap(), "1");
    let none = unary(&mut client, "/other.Service/Get", "a").await.unwrap_err();
    assert_eq!(none.code(), Code::Unimplemented, "no rule matches: {none:?}");
    let invalid = unary(&mut client, "/shop.Gone/Get", "a").await.unwrap_err();
    assert_eq!(invalid.code(), Code::Unavailable, "the backend is none: {invalid:?}");
}

#[tokio::test]
async fn errors_of_the_mesh_are_said_in_grpc() {
    let (mut mesh, one) = mesh().await;
    let entrance = mesh.node("vm-1").http;
    let mut unknown = client_of(entrance, "nobody").await;
    let status = unary(&mut unknown, "/a.B/C", "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert!(status.message().contains("nobody"), "{status:?}");
    let said = status.metadata().get("proxy-status").unwrap().to_str().unwrap();
    assert!(said.starts_with("starling-vm-1; error=destination_not_found"), "{said}");
    let mut client = client(entrance).await;
    drop(one);
    // Calls of a dead server: its connections break, then are refused.
    for _ in 0..3 {
        let status = unary(&mut client, "/shop.Orders/Get", "").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    mesh.state("vm-2", MemberState::Left);
    let status = unary(&mut client, "/shop.Orders/Get", "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.metadata().get("proxy-status").unwrap().to_str().unwrap().contains("destination_unavailable"));
    let text = scrape(mesh.node("vm-1"));
    let line = "protocol=\"grpc\",status_code=\"200\",grpc_status=\"14\",error=\"destination_unavailable\"";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn deadlines_of_a_rule_end_a_call_with_a_status() {
    let (mut mesh, _one) = mesh().await;
    mesh.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: shop}\nspec:\n  \
         parentRefs: [{kind: Service, name: shop}]\n  rules: [{backendRefs: [{name: shop}], timeouts: {request: 300ms}}]\n",
    );
    let mut client = client(mesh.node("vm-1").http).await;
    let status = unary(&mut client, "/shop.Orders/Hang", "").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "before the answer: {status:?}");
    client.ready().await.unwrap();
    let flood = client.server_streaming(Request::new(Vec::new()), "/shop.Orders/Flood".parse().unwrap(), Raw).await;
    let mut flood = flood.unwrap().into_inner();
    let status = loop {
        match flood.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => break status,
            None => panic!("a call that was cut off ended well"),
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "within it: {status:?}");
}

#[tokio::test]
async fn a_call_that_breaks_off_in_the_middle_ends_with_a_status() {
    let (mut mesh, _one) = mesh().await;
    let mut client = client(mesh.node("vm-1").http).await;
    let flood = client.server_streaming(Request::new(Vec::new()), "/shop.Orders/Flood".parse().unwrap(), Raw).await;
    let mut flood = flood.unwrap().into_inner();
    assert!(flood.next().await.unwrap().is_ok());
    mesh.kill("vm-2");
    let status = loop {
        match flood.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => break status,
            None => panic!("a call that broke off ended well"),
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn calls_go_elsewhere_when_nobody_has_seen_them() {
    let two = server("two").await;
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "shop-1", "shop", Protocol::Grpc, backend::nobody().await);
    mesh.serve("vm-3", "shop-2", "shop", Protocol::Grpc, two.address);
    let mut client = client(mesh.node("vm-1").http).await;
    for _ in 0..30 {
        assert_eq!(unary(&mut client, "/shop.Orders/Get", "a").await.unwrap(), "two:a");
    }
    assert_eq!(two.calls.load(Ordering::SeqCst), 30);
}

#[tokio::test]
async fn many_calls_at_once_share_connections_and_more_than_one_takes() {
    let (mesh, one) = mesh().await;
    let mut all = Vec::new();
    // More at once than one connection to an instance takes.
    for _ in 0..4 {
        let client = client(mesh.node("vm-1").http).await;
        for at in 0..60 {
            let mut client = client.clone();
            all.push(tokio::spawn(async move {
                client.ready().await.unwrap();
                let (sender, messages) = mpsc::channel(1);
                let path = "/shop.Orders/Chat".parse().unwrap();
                let mut chat = client
                    .streaming(Request::new(ReceiverStream::new(messages)), path, Raw)
                    .await
                    .unwrap()
                    .into_inner();
                for _ in 0..3 {
                    sender.send(format!("{at}").into_bytes()).await.unwrap();
                    assert_eq!(chat.next().await.unwrap().unwrap(), format!("one:{at}").into_bytes());
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }));
        }
    }
    for one in all {
        one.await.unwrap();
    }
    assert_eq!(one.calls.load(Ordering::SeqCst), 240);
}

#[tokio::test]
async fn grpc_over_http_1_is_refused_by_name() {
    let (mesh, one) = mesh().await;
    let answer = backend::Client::new(mesh.node("vm-1").http).await.get("shop.mesh.internal", "/").await;
    assert_eq!(answer.status, 501);
    assert!(answer.text().contains("HTTP/2"), "{}", answer.text());
    assert_eq!(one.calls.load(Ordering::SeqCst), 0);
}

/// A document may say more than its owner did: `appProtocol: grpc` for an instance of protocol `tcp`, `kubernetes.io/h2c`
/// for one of `http`.
#[tokio::test]
async fn calls_reach_instances_that_were_announced_as_something_less() {
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let one = server("one").await;
        let mut mesh = Mesh::new(2);
        mesh.serve("vm-2", "shop-1", "shop", protocol, one.address);
        mesh.apply(
            "apiVersion: starling/v1\nkind: Service\nmetadata: {name: shop}\nspec: {ports: [{name: main, port: 80, protocol: grpc}]}\n",
        );
        let mut client = client(mesh.node("vm-1").http).await;
        assert_eq!(unary(&mut client, "/shop.Orders/Get", "a").await.unwrap(), "one:a", "{protocol}");
    }
}

/// RFC 9113, 8.1: a length says nothing against trailers.
#[tokio::test]
async fn a_status_behind_an_answer_of_known_length_comes_through() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_request, mut respond))) = server.accept().await {
            let head =
                http::Response::builder().header("content-type", "application/grpc").header("content-length", "8");
            let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
            stream.send_data(bytes::Bytes::from_static(b"\0\0\0\0\x03one"), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    });
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "shop-1", "shop", Protocol::Grpc, address);
    let mut client = client(mesh.node("vm-1").http).await;
    let answer = unary(&mut client, "/shop.Orders/Get", "x").await;
    assert_eq!(answer.unwrap(), "one");
    task.abort();
}
