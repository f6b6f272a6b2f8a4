//! Connections that stop carrying HTTP: WebSocket and other upgrades, and `CONNECT`.

use futures_util::{SinkExt as _, StreamExt as _};
use http::Request;
use starling_model::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{Request as Asked, Response as Switched};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::backend::{self, Client, raw};
use super::*;

const CHAT: &str = "chat.mesh.internal";

/// A WebSocket server that echoes; `/busy` is answered 503.
#[expect(clippy::result_large_err, reason = "the library's own type")]
async fn websocket(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let asked = |asked: &Asked, mut answer: Switched| {
                    if asked.uri().path() == "/busy" {
                        let refused = http::Response::builder().status(503).body(None).unwrap();
                        return Err(refused);
                    }
                    let identity = asked.headers()["x-forwarded-client-cert"].clone();
                    answer.headers_mut().insert("x-backend", name.parse().unwrap());
                    answer.headers_mut().insert("x-caller", identity);
                    if let Some(set) = asked.headers().get("x-set") {
                        answer.headers_mut().insert("x-was-set", set.clone());
                    }
                    Ok(answer)
                };
                let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, asked).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, task)
}

type Socket = WebSocketStream<TcpStream>;

async fn open(entrance: SocketAddr, path: &str) -> Result<(Socket, http::HeaderMap), Error> {
    let stream = TcpStream::connect(entrance).await.unwrap();
    let request = Request::get(format!("ws://{CHAT}{path}"))
        .header("host", CHAT)
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap();
    let (socket, answer) = tokio_tungstenite::client_async(request, stream).await?;
    Ok((socket, answer.headers().clone()))
}

async fn echoes(socket: &mut Socket, message: Message) {
    socket.send(message.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), message);
}

#[tokio::test]
async fn a_websocket_passes_two_agents_both_ways() {
    let (address, _task) = websocket("one").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "chat-1", "chat", Protocol::Http, address);
    let (mut socket, headers) = open(mesh.node("vm-1").http, "/room?x=1").await.unwrap();
    assert_eq!(headers["x-backend"], "one");
    assert!(headers["x-caller"].to_str().unwrap().ends_with("URI=spiffe://prod.internal/node/vm-1"), "{headers:?}");
    for len in [0, 1, 100, 70_000, 1_000_000] {
        echoes(&mut socket, Message::binary(vec![7; len])).await;
    }
    // Many at once, to fill every buffer on the way.
    let (mut sink, mut stream) = socket.split();
    let sent = tokio::spawn(async move {
        for at in 0..2_000 {
            sink.send(Message::text(format!("{at}{}", "x".repeat(1_000)))).await.unwrap();
        }
        sink
    });
    for at in 0..2_000 {
        let message = stream.next().await.unwrap().unwrap();
        assert!(message.to_text().unwrap().starts_with(&at.to_string()));
    }
    let mut socket = sent.await.unwrap().reunite(stream).unwrap();
    assert_eq!(mesh.node("vm-2").plane.as_ref().unwrap().inbound_under_way(), 1, "it counts while it is open");
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    for (node, direction) in [("vm-1", "outbound"), ("vm-2", "inbound")] {
        let node = mesh.node(node);
        eventually("it is counted once, with its bytes", || {
            let text = scrape(node);
            let of = |family: &str| {
                let line = |line: &&str| line.starts_with(family) && line.contains(direction);
                text.lines().find(line).and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
            };
            text.contains("status_code=\"101\"")
                && of("starling_http_requests_total") == 1
                && of("starling_http_request_bytes_total") > 3_000_000
                && of("starling_http_response_bytes_total") > 3_000_000
                && of("starling_http_requests_in_flight") == 0
        })
        .await;
        eventually("nothing is under way", || node.plane.as_ref().unwrap().inbound_under_way() == 0).await;
    }
}

#[tokio::test]
async fn an_answer_that_does_not_switch_is_passed_on_and_the_connection_lives() {
    let (address, _task) = websocket("one").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "chat-1", "chat", Protocol::Http, address);
    for path in ["/busy", "/busy"] {
        match open(mesh.node("vm-1").http, path).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 503),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
    // A server that does not know the protocol answers as if nobody had asked.
    let plain = backend::http("plain").await;
    mesh.serve("vm-2", "plain-1", "plain", Protocol::Http, plain.address);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for _ in 0..3 {
        let request = Request::get("/head")
            .header("host", "plain.mesh.internal")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(http_body_util::Full::default())
            .unwrap();
        let answer = client.send(request).await;
        assert_eq!(answer.status, 200);
        let head = answer.text();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        assert_eq!(client.get("plain.mesh.internal", "/").await.status, 200);
    }
}

#[tokio::test]
async fn rules_hold_for_the_request_that_asks_for_the_upgrade() {
    let ((one, _one), (two, _two)) = (websocket("one").await, websocket("two").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "chat-1", "chat", Protocol::Http, one);
    mesh.serve("vm-3", "other-1", "other", Protocol::Http, two);
    mesh.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: chat}\nspec:\n  \
         parentRefs: [{kind: Service, name: chat}]\n  rules:\n  \
         - matches: [{path: {value: /new}}]\n    backendRefs: [{name: other}]\n    timeouts: {request: 300ms}\n    filters:\n    \
           - type: RequestHeaderModifier\n      requestHeaderModifier: {set: [{name: x-set, value: here}]}\n    \
           - type: ResponseHeaderModifier\n      responseHeaderModifier: {set: [{name: x-back, value: \"1\"}]}\n  \
         - matches: [{path: {value: /old}}]\n    backendRefs: [{name: chat}]\n",
    );
    let (mut socket, headers) = open(mesh.node("vm-1").http, "/new").await.unwrap();
    assert_eq!(
        (&headers["x-backend"], &headers["x-was-set"], &headers["x-back"]),
        (&"two".parse().unwrap(), &"here".parse().unwrap(), &"1".parse().unwrap())
    );
    // The rule's deadline is for the answer; what follows it lives on.
    tokio::time::sleep(Duration::from_millis(500)).await;
    echoes(&mut socket, Message::text("still here")).await;
    assert_eq!(open(mesh.node("vm-1").http, "/old").await.unwrap().1["x-backend"], "one");
    assert!(matches!(open(mesh.node("vm-1").http, "/else").await, Err(Error::Http(answer)) if answer.status() == 404));
}

#[tokio::test]
async fn an_upgrade_goes_elsewhere_before_its_answer_and_never_after() {
    let (address, _task) = websocket("alive").await;
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "chat-1", "chat", Protocol::Http, backend::nobody().await);
    mesh.serve("vm-3", "chat-2", "chat", Protocol::Http, address);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(open(mesh.node("vm-1").http, "/").await.unwrap().0);
    }
    for socket in &mut sockets {
        echoes(socket, Message::text("hello")).await;
    }
    mesh.kill("vm-3");
    for mut socket in sockets {
        assert!(!matches!(socket.next().await, Some(Ok(Message::Text(_)))));
    }
}

/// Answers 101 to a protocol of its own, then reads to the end and answers with all of it reversed.
async fn reverser() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4_096];
                if stream.read(&mut head).await.is_ok_and(|len| len > 0) {
                    // The first bytes of the other protocol come in one packet with the head.
                    let _ = stream
                        .write_all(b"HTTP/1.1 101 Switching\r\nconnection: Upgrade\r\nupgrade: reverse/1\r\n\r\nhello ")
                        .await;
                    let mut all = Vec::new();
                    if stream.read_to_end(&mut all).await.is_ok() {
                        all.reverse();
                        let _ = stream.write_all(&all).await;
                    }
                }
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn any_protocol_passes_with_half_close() {
    let (address, _task) = reverser().await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, address);
    for entrance in [mesh.node("vm-1").http, mesh.node("vm-1").orders] {
        let mut stream = TcpStream::connect(entrance).await.unwrap();
        let head = "GET / HTTP/1.1\r\nhost: orders.mesh.internal\r\nconnection: upgrade\r\nupgrade: Reverse/1\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut got = vec![0; 16_384];
        let mut text = String::new();
        while !text.ends_with("\r\n\r\nhello ") {
            let len = stream.read(&mut got).await.unwrap();
            assert!(len > 0, "{text}");
            text.push_str(std::str::from_utf8(&got[..len]).unwrap());
        }
        assert!(text.starts_with("HTTP/1.1 101 ") && text.contains("upgrade: reverse/1"), "{text}");
        let sent: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert!(back.iter().eq(sent.iter().rev()), "{} bytes", back.len());
    }
}

#[tokio::test]
async fn what_is_sent_before_the_answer_goes_nowhere() {
    let (address, _task) = reverser().await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, address);
    let entrance = mesh.node("vm-1").http;
    let head = "GET / HTTP/1.1\r\nhost: orders.mesh.internal\r\nconnection: upgrade\r\nupgrade: reverse/1\r\n\r\n";
    let answer = raw(entrance, format!("{head}early").as_bytes()).await;
    assert!(answer.contains(" 400 Bad") && answer.contains("error=http_request_error"), "{answer}");
    for lines in ["upgrade: websocket, h2c\r\n", "upgrade: a\r\nupgrade: b\r\n", "upgrade: a\r\ncontent-length: 1\r\n"]
    {
        let head = format!("GET / HTTP/1.1\r\nhost: orders.mesh.internal\r\nconnection: upgrade\r\n{lines}\r\n");
        let answer = raw(entrance, head.as_bytes()).await;
        assert!(answer.contains(" 501 Not"), "{lines}: {answer}");
    }
}

#[tokio::test]
async fn an_open_websocket_ends_with_its_agent() {
    let (address, _task) = websocket("one").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "chat-1", "chat", Protocol::Http, address);
    let (mut socket, _) = open(mesh.node("vm-1").http, "/").await.unwrap();
    let plane = mesh.nodes[1].plane.take().unwrap();
    let drained = plane.drain(Duration::from_millis(200)).await;
    assert_eq!(drained, crate::Drained::Busy(1), "a drain waits for it");
    echoes(&mut socket, Message::text("while it drains")).await;
    tokio::task::spawn_blocking(move || plane.shutdown()).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), socket.next()).await.unwrap();
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
}

/// The answer to `CONNECT`, and the stream behind it.
async fn connect(entrance: SocketAddr, target: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(entrance).await.unwrap();
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        let byte = stream.read_u8().await.unwrap();
        text.push(char::from(byte));
    }
    (text, stream)
}

#[tokio::test]
async fn connect_opens_a_tunnel_to_a_service_of_the_mesh() {
    let (echo, other) = (backend::reverser().await, backend::reverser().await);
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    mesh.serve("vm-2", "other-1", "other", Protocol::Tcp, other.address);
    let entrance = mesh.node("vm-1").http;
    let reversed = async || {
        let (answer, mut stream) = connect(entrance, "echo.mesh.internal:7000").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(!answer.contains("content-length") && !answer.contains("transfer-encoding"), "{answer}");
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        all
    };
    assert_eq!(reversed().await, "cba");
    assert_eq!((echo.requests(), other.requests()), (1, 0));
    mesh.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: echo}\nspec:\n  \
         parentRefs: [{kind: Service, name: echo}]\n  rules: [{backendRefs: [{name: other}]}]\n---\n\
         apiVersion: starling/v1\nkind: Service\nmetadata: {name: other}\nspec: {ports: [{name: main, port: 7000, protocol: tcp}]}\n",
    );
    assert_eq!(reversed().await, "cba");
    assert_eq!((echo.requests(), other.requests()), (1, 1), "a TCPRoute decides");
    assert!(connect(entrance, "other.mesh.internal:7000").await.0.starts_with("HTTP/1.1 200 "));
    assert!(connect(entrance, "other.mesh.internal:7001").await.0.starts_with("HTTP/1.1 404 "), "no such port");
}

#[tokio::test]
async fn connect_to_an_http_service_is_served_as_requests() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let (answer, mut stream) = connect(mesh.node("vm-1").http, "orders.mesh.internal:80").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let forged = "GET /head HTTP/1.1\r\nhost: orders.mesh.internal\r\nx-forwarded-client-cert: boss\r\nconnection: close\r\n\r\n";
    stream.write_all(forged.as_bytes()).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200 ") && !all.contains("boss"), "{all}");
    // And no tunnel within a tunnel.
    let (_, mut stream) = connect(mesh.node("vm-1").http, "orders.mesh.internal:80").await;
    stream
        .write_all(b"CONNECT orders.mesh.internal:80 HTTP/1.1\r\nHost: orders.mesh.internal:80\r\n\r\n")
        .await
        .unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 501 "), "{all}");
}

#[tokio::test]
async fn connect_anywhere_else_is_refused_with_a_reason() {
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, backend::nobody().await);
    let node = mesh.node("vm-1");
    for (target, status, error) in [
        ("example.com:443", 403, "http_request_denied"),
        ("127.0.0.1:22", 403, "http_request_denied"),
        ("[::1]:22", 403, "http_request_denied"),
        ("none.mesh.internal:80", 404, "destination_not_found"),
    ] {
        let (answer, _) = connect(node.http, target).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
        assert!(answer.contains(&format!("proxy-status: starling-vm-1; error={error}")), "{target}: {answer}");
    }
    let bad = [
        ("CONNECT echo.mesh.internal:80 HTTP/1.1\r\nHost: other:80\r\n\r\n", 400),
        ("CONNECT echo.mesh.internal HTTP/1.1\r\nHost: echo.mesh.internal\r\n\r\n", 400),
        ("CONNECT echo.mesh.internal:0 HTTP/1.1\r\nHost: echo.mesh.internal:0\r\n\r\n", 400),
        ("CONNECT a@echo.mesh.internal:80 HTTP/1.1\r\nHost: echo.mesh.internal:80\r\n\r\n", 400),
        ("CONNECT echo.mesh.internal:80 HTTP/1.1\r\nHost: echo.mesh.internal:80\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("CONNECT echo.mesh.internal:80 HTTP/1.1\r\nHost: echo.mesh.internal:80\r\n\r\nearly", 400),
        ("CONNECT /x HTTP/1.1\r\nHost: echo.mesh.internal:80\r\n\r\n", 400),
    ];
    for (request, status) in bad {
        let answer = raw(node.http, request.as_bytes()).await;
        assert_eq!(answer.get(9..12), Some(status.to_string().as_str()), "{request}: {answer}");
    }
    mesh.state("vm-2", MemberState::Left);
    let (answer, _) = connect(mesh.node("vm-1").http, "echo.mesh.internal:80").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("error=destination_unavailable"), "{answer}");
}
