//! HTTP/2 without gRPC, to services that speak HTTP/1.1, and frames that no correct client sends.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use starling_model::Protocol;
use starling_transport::data::{AGE_MAX, DataClient};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::backend::{self, Client};
use super::*;
use crate::header::{Carry, OpenHeader};
use crate::limits::{H2_CANCELS_MAX, H2_HEADER_LIST_BYTES_MAX, H2_PENDING_RESETS_MAX, H2_STREAMS_MAX};

const ORDERS: &str = "orders.mesh.internal";

async fn pair() -> (Mesh, backend::Backend) {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    (mesh, orders)
}

pub(super) async fn http2(entrance: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(entrance).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender
}

pub(super) fn get(path: &str) -> http::request::Builder {
    Request::get(format!("http://{ORDERS}{path}")).version(Version::HTTP_2)
}

pub(super) async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> (u16, http::HeaderMap, String) {
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn requests_to_an_http_service_are_written_as_http_1() {
    let (mesh, orders) = pair().await;
    for entrance in [mesh.node("vm-1").http, mesh.node("vm-1").orders] {
        let mut sender = http2(entrance).await;
        let request = get("/head?x=1").header("cookie", "a=1").header("cookie", "b=2").header("te", "trailers");
        let (status, headers, head) = send(&mut sender, request.body(Full::default()).unwrap()).await;
        assert_eq!((status, &headers["x-backend"]), (200, &"orders".parse().unwrap()));
        assert!(headers.get("connection").is_none() && headers.get("x-starling-error").is_none(), "{headers:?}");
        // That it reads trailers is said in the words of this hop.
        let host = format!("host: {ORDERS}");
        for line in ["GET /head?x=1 HTTP/1.1", &host, "cookie: a=1; b=2", "te: trailers", "connection: te"] {
            assert!(head.lines().any(|one| one == line), "{line} is not in {head}");
        }
        assert!(!head.contains("transfer-encoding"), "{head}");
        for length in [0, 1, 500_000] {
            let body = "x".repeat(length);
            let request = Request::post(format!("http://{ORDERS}/")).body(Full::from(body.clone())).unwrap();
            assert_eq!(send(&mut sender, request).await.2, body);
        }
        assert_eq!(send(&mut sender, get("/big").body(Full::default()).unwrap()).await.2.len(), 1_000_000);
        assert_eq!(send(&mut sender, get("/teapot").body(Full::default()).unwrap()).await.0, 418);
        // A backend that closes closes its own connection, and nothing else.
        assert_eq!(send(&mut sender, get("/close").body(Full::default()).unwrap()).await.0, 200);
        assert_eq!(send(&mut sender, get("/").body(Full::default()).unwrap()).await.0, 200);
    }
    assert_eq!(orders.requests(), 16);
    let text = scrape(mesh.node("vm-1"));
    assert!(text.contains("protocol=\"http2\",status_code=\"418\",grpc_status=\"\""), "{text}");
}

#[tokio::test]
async fn what_is_ambiguous_in_http_2_goes_no_further() {
    let (mesh, orders) = pair().await;
    let mut sender = http2(mesh.node("vm-1").http).await;
    let check = async |sender: &mut SendRequest<Full<Bytes>>, request: http::request::Builder, want: u16| {
        let (status, headers, body) = send(sender, request.body(Full::default()).unwrap()).await;
        assert_eq!(status, want, "{body}");
        assert!(headers["proxy-status"].to_str().unwrap().contains("error="), "{headers:?}");
    };
    check(&mut sender, get("/").header("host", "other.mesh.internal"), 400).await;
    check(&mut sender, get("/").header("host", ORDERS).header("host", ORDERS), 400).await;
    check(&mut sender, get("/").header("x_forwarded_client_cert", "boss"), 400).await;
    check(&mut sender, get("/a%00"), 400).await;
    check(&mut sender, get("/a\\b"), 400).await;
    // h2 refuses this one by itself.
    let signed = get("/").header("content-length", "+1").body(Full::default()).unwrap();
    assert!(sender.send_request(signed).await.is_err());
    let many = (0..101).fold(get("/"), |request, at| request.header(format!("x-{at}"), "y"));
    check(&mut sender, many, 431).await;
    check(&mut sender, Request::get("http://none.mesh.internal/").version(Version::HTTP_2), 404).await;
    check(&mut sender, Request::get("http://example.com/").version(Version::HTTP_2), 404).await;
    assert_eq!(orders.requests(), 0, "nothing of it was forwarded");
    let forged = get("/head").header("x-forwarded-client-cert", "boss").header("x-starling-error", "x");
    let (status, _, head) = send(&mut sender, forged.body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
    assert!(!head.contains("boss") && !head.contains("x-starling"), "{head}");
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Frames as they are written.
struct Frames<S = TcpStream> {
    stream: S,
}

impl Frames {
    async fn open(entrance: SocketAddr) -> Self {
        Self::begin(TcpStream::connect(entrance).await.unwrap()).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    async fn begin(mut stream: S) -> Self {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Self { stream }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await
    }

    /// Everything until the other side closes; an error counts as that.
    async fn end(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let read = self.stream.read_to_end(&mut all);
        let _ = tokio::time::timeout(Duration::from_secs(5), read).await.expect("the connection is closed");
        all
    }
}

/// Literal fields without indexing (RFC 7541, 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn request(path: &str) -> Vec<(&'static str, String)> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", ORDERS)];
    fields.map(|(name, value)| (name, value.to_owned())).to_vec()
}

fn head(path: &str, more: &[(&'static str, &str)]) -> Vec<u8> {
    let mut fields = request(path);
    fields.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    block(&fields.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>())
}

#[tokio::test]
async fn malformed_heads_and_bodies_reach_nobody() {
    let (mesh, orders) = pair().await;
    let heads: [&[(&'static str, &str)]; 8] = [
        &[("transfer-encoding", "chunked")],
        &[("connection", "x-a")],
        &[("upgrade", "websocket")],
        &[("te", "gzip")],
        &[("X-Upper", "a")],
        &[("x-a", "b\r\nx-injected: 1")],
        &[(":path", "/twice")],
        &[("x a", "b")],
    ];
    for more in heads {
        let mut frames = Frames::open(mesh.node("vm-1").http).await;
        frames.send(HEADERS, END_HEADERS | END_STREAM, 1, &head("/", more)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(orders.requests(), 0, "{more:?}");
    }
    // Extended CONNECT (RFC 8441) and CONNECT are not served.
    let mut frames = Frames::open(mesh.node("vm-1").http).await;
    let connect = block(&[(":method", "CONNECT"), (":authority", "orders.mesh.internal:80")]);
    frames.send(HEADERS, END_HEADERS, 1, &connect).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    // More and less than the length that was announced: the body never ends well.
    for data in [&b"four"[..], b"12"] {
        let mut frames = Frames::open(mesh.node("vm-1").http).await;
        let mut fields = request("/");
        fields[0].1 = "POST".to_owned();
        fields.push(("content-length", "3".to_owned()));
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        frames.send(HEADERS, END_HEADERS, 1, &block(&fields)).await.unwrap();
        frames.send(0, END_STREAM, 1, data).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let text = scrape(mesh.node("vm-1"));
        assert!(!text.contains("status_code=\"200\""), "{text}");
    }
    assert_eq!(Client::new(mesh.node("vm-1").http).await.get(ORDERS, "/").await.status, 200);
}

#[tokio::test]
async fn an_endless_head_ends_the_connection() {
    let (mesh, orders) = pair().await;
    let mut frames = Frames::open(mesh.node("vm-1").http).await;
    frames.send(HEADERS, END_STREAM, 1, &head("/", &[])).await.unwrap();
    let more = block(&[("x-a", "b"); 1_000]);
    let mut sent = 0;
    while sent < 64 * 1024 * 1024 && frames.send(CONTINUATION, 0, 1, &more).await.is_ok() {
        sent += more.len();
    }
    assert!(sent < 8 * 1024 * 1024, "{sent} bytes of one head were read");
    frames.end().await;
    // One past the limit, with an end: refused, and nobody sees it.
    let mut sender = http2(mesh.node("vm-1").http).await;
    let large = get("/").header("x-a", "b".repeat(H2_HEADER_LIST_BYTES_MAX as usize));
    let answer = sender.send_request(large.body(Full::default()).unwrap()).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    assert_eq!(orders.requests(), 0);
    assert_eq!(Client::new(mesh.node("vm-1").http).await.get(ORDERS, "/").await.status, 200);
}

/// So many requests, each followed by its reset (CVE-2023-44487).
fn reset_at_once(requests: u32, head: &[u8]) -> Vec<u8> {
    let mut burst = Vec::new();
    for at in 0..=requests {
        let id = (1 + 2 * at).to_be_bytes();
        let length = u32::try_from(head.len()).unwrap().to_be_bytes();
        burst.extend([length[1], length[2], length[3], HEADERS, END_HEADERS | END_STREAM]);
        burst.extend(id);
        burst.extend_from_slice(head);
        burst.extend([0, 0, 4, RST_STREAM, 0]);
        burst.extend(id);
        burst.extend(8u32.to_be_bytes());
    }
    burst
}

/// An instance of vm-2 that speaks HTTP/2.
async fn speaking_http2() -> (Mesh, backend::Backend) {
    let orders = backend::http2("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Grpc, orders.address);
    (mesh, orders)
}

/// As a member may that runs other code: bytes to an instance of vm-2 over a stream for HTTP/2; what comes back.
async fn as_member(mesh: &Mesh, bytes: &[u8]) -> String {
    let member = DataClient::new(mesh.identity(&NodeName::new("vm-1").unwrap()), clock, AGE_MAX);
    let header = OpenHeader {
        carry: Carry::Http2,
        source: None,
        destination: key("orders"),
        instance: InstanceName::new("orders-1").unwrap(),
        port: PortName::new("main").unwrap(),
    };
    let node = mesh.node("vm-2");
    let exchange = async {
        let mut stream = member.open(&node.name, node.data, header.encode()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("an end");
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::task::LocalSet::new().run_until(exchange).await
}

#[tokio::test]
async fn between_agents_requests_of_http_2_are_messages_and_nothing_else() {
    let (mesh, orders) = speaking_http2().await;
    let answer = as_member(&mesh, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 501 "), "frames: {answer}");
    for switch in
        ["GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket", "CONNECT x:1 HTTP/1.1\r\nhost: x:1"]
    {
        let answer = as_member(&mesh, format!("{switch}\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 501 "), "{switch}: {answer}");
    }
    // No authority for `:authority`, or none that is one.
    let answer = as_member(&mesh, b"GET / HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(orders.requests(), 0);
    let answer =
        as_member(&mesh, b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
    assert_eq!((answer.matches("HTTP/1.1 200 ").count(), orders.requests()), (2, 2), "{answer}");
}

#[tokio::test]
async fn streams_reset_at_once_end_their_connection_and_no_other() {
    let (mesh, _orders) = pair().await;
    let entrance = mesh.node("vm-1").http;
    let mut innocent = http2(entrance).await;
    assert_eq!(send(&mut innocent, get("/").body(Full::default()).unwrap()).await.0, 200);
    // In one write: reset before anybody looks (CVE-2023-44487).
    let mut frames = Frames::open(entrance).await;
    let hang = head("/hang", &[]);
    let burst = reset_at_once(u32::try_from(H2_PENDING_RESETS_MAX).unwrap() * 4, &hang);
    frames.stream.write_all(&burst).await.unwrap();
    frames.end().await;
    // One by one: each is under way at its instance when it is given up.
    let mut frames = Frames::open(entrance).await;
    let mut cancelled = 0;
    for at in 0..H2_CANCELS_MAX * 3 {
        let id = 1 + 2 * at;
        if frames.send(HEADERS, END_HEADERS | END_STREAM, id, &hang).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
        if frames.send(RST_STREAM, 0, id, &8u32.to_be_bytes()).await.is_err() {
            break;
        }
        cancelled += 1;
    }
    assert!(cancelled >= H2_CANCELS_MAX, "{cancelled}");
    assert!(cancelled <= H2_CANCELS_MAX + 20, "{cancelled}");
    frames.end().await;
    assert_eq!(send(&mut innocent, get("/").body(Full::default()).unwrap()).await.0, 200);
    let node = mesh.node("vm-2");
    eventually("nothing is left under way", || node.plane.as_ref().unwrap().inbound_under_way() == 0).await;
}

#[tokio::test]
async fn one_stream_more_than_allowed_is_refused_and_the_others_go_on() {
    let (mesh, orders) = pair().await;
    let mut frames = Frames::open(mesh.node("vm-1").http).await;
    // The settings must have been seen: until then the client may not know better.
    tokio::time::sleep(Duration::from_millis(100)).await;
    frames.send(4, 1, 0, &[]).await.unwrap();
    let hang = head("/hang", &[]);
    for at in 0..=H2_STREAMS_MAX {
        frames.send(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * at, &hang).await.unwrap();
    }
    eventually("the allowed ones are under way", || orders.requests() == u64::from(H2_STREAMS_MAX)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(orders.requests(), u64::from(H2_STREAMS_MAX));
    let mut seen = vec![0; 64 * 1024];
    let length = frames.stream.read(&mut seen).await.unwrap();
    let refused =
        [&[0, 0, 4, RST_STREAM, 0][..], &(1 + 2 * H2_STREAMS_MAX).to_be_bytes(), &7u32.to_be_bytes()].concat();
    assert!(seen[..length].windows(refused.len()).any(|bytes| bytes == refused), "REFUSED_STREAM");
}

#[tokio::test]
async fn http_2_is_not_spoken_to_whoever_opens_a_stream_for_http_1() {
    let answer = backend::raw(pair().await.0.node("vm-1").http, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    assert!(!answer.contains("HTTP/1"), "a wrong preface is no request: {answer}");
    let (mesh, _orders) = pair().await;
    // The preface only opens a connection.
    let late = format!("GET / HTTP/1.1\r\nHost: {ORDERS}\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let answer = backend::raw(mesh.node("vm-1").http, late.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(" 501 "), "{answer}");
}

/// A server that resets each stream but the first, on a connection that stays: a GET is tried again once at most.
#[tokio::test]
async fn a_request_that_its_instance_resets_is_not_tried_for_ever() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let count = calls.clone();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                let mut server = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_request, mut respond))) = server.accept().await {
                    if count.fetch_add(1, Ordering::SeqCst) == 0 {
                        let _: Result<h2::SendStream<Bytes>, _> = respond.send_response(http::Response::new(()), true);
                    } else {
                        respond.send_reset(h2::Reason::INTERNAL_ERROR);
                    }
                }
            });
        }
    });
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Grpc, address);
    let mut sender = http2(mesh.node("vm-1").http).await;
    assert_eq!(send(&mut sender, get("/").body(Full::default()).unwrap()).await.0, 200);
    let second =
        tokio::time::timeout(Duration::from_secs(2), send(&mut sender, get("/").body(Full::default()).unwrap()));
    let second = second.await;
    let calls = calls.load(Ordering::SeqCst);
    task.abort();
    assert!(second.is_ok() && calls <= 3, "{calls} calls, answered: {}", second.is_ok());
}
