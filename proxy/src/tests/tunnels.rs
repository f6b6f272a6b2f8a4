//! Tunnels from an application on one node to an instance on another.

use starling_model::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::backend;
use super::*;

async fn reversed(entrance: SocketAddr, sent: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(entrance).await?;
    stream.write_all(sent).await?;
    stream.shutdown().await?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await?;
    Ok(got)
}

#[tokio::test]
async fn bytes_pass_both_ways_with_half_close() {
    let echo = backend::reverser().await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    for len in [0, 1, 100_000, 2_000_000] {
        let sent: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0]).collect();
        let want: Vec<u8> = sent.iter().rev().copied().collect();
        assert_eq!(reversed(mesh.node("vm-1").echo, &sent).await.unwrap(), want, "{len} bytes");
    }
    for (node, direction) in [("vm-1", "outbound"), ("vm-2", "inbound")] {
        let node = mesh.node(node);
        eventually("four closed tunnels", || {
            let text = scrape(node);
            let labels = format!(
                "direction=\"{direction}\",source_service=\"unknown\",source_namespace=\"unknown\",\
                 destination_service=\"echo\",destination_namespace=\"default\",security=\"mtls\""
            );
            text.contains(&format!("starling_tcp_connections_closed_total{{{labels},error=\"none\"}} 4"))
                && text.contains(&format!("starling_tcp_connections_open{{{labels}}} 0"))
                && text.contains(&format!("starling_tcp_sent_bytes_total{{{labels}}} 2100001"))
                && text.contains(&format!("starling_tcp_received_bytes_total{{{labels}}} 2100001"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_refusing_instance_is_skipped_without_the_application_noticing() {
    let echo = backend::reverser().await;
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, backend::nobody().await);
    mesh.serve("vm-3", "echo-2", "echo", Protocol::Tcp, echo.address);
    for _ in 0..30 {
        assert_eq!(reversed(mesh.node("vm-1").echo, b"abc").await.unwrap(), b"cba");
    }
    assert_eq!(echo.requests(), 30);
}

#[tokio::test]
async fn a_tunnel_without_a_place_to_go_is_reset() {
    let mut mesh = Mesh::new(2);
    let error = reversed(mesh.node("vm-1").echo, b"abc").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "unknown service");
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, backend::nobody().await);
    let error = reversed(mesh.node("vm-1").echo, b"abc").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "nobody listens");
}

#[tokio::test]
async fn an_application_that_breaks_off_is_noticed_at_the_other_end() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, silent.local_addr().unwrap());
    let mut client = TcpStream::connect(mesh.node("vm-1").echo).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let (mut server, _) = silent.accept().await.unwrap();
    let mut got = [0; 5];
    server.read_exact(&mut got).await.unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let read = tokio::time::timeout(Duration::from_secs(5), server.read(&mut got)).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_http_service_is_reached_by_a_tunnel_where_ports_disagree() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    mesh.serve("vm-2", "orders-2", "orders", Protocol::Tcp, orders.address);
    let answer = backend::Client::new(mesh.node("vm-1").orders).await.get("orders.mesh.internal", "/").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_unix_socket_is_an_entrance_too() {
    let echo = backend::reverser().await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    let path = std::env::temp_dir().join(format!("starling-proxy-echo-{}.sock", std::process::id()));
    let config = ProxyConfig {
        gateway_listen: None,
        node: NodeName::new("vm-1").unwrap(),
        trust_domain: TrustDomain::new("prod.internal").unwrap(),
        domain: "mesh.internal".to_owned(),
        data_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        http_listen: None,
        upstreams: vec![Upstream {
            service: key("echo"),
            port: None,
            listen: ListenAddress::Unix(path.clone()),
            source: None,
        }],
        access_log: None,
        threads: 1,
        connection_age: starling_transport::data::AGE_MAX,
    };
    let plane = DataPlane::start(config, mesh.node("vm-1").shared.clone()).unwrap();
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"abc").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"cba");
    plane.shutdown();
    assert!(!path.exists(), "the socket file goes with its listener");
}

/// Says something first, then echoes.
async fn greeter() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"220 hello\r\n").await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn what_no_service_declares_is_found_out_for_each_connection() {
    let http = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Detect, http.address);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Detect, greeter().await);
    let node = mesh.node("vm-1");
    // HTTP, by the fixed entrance and by Host: hardened, routed and counted as that.
    for entrance in [node.orders, node.http] {
        let answer = backend::Client::new(entrance).await.get("orders.mesh.internal", "/head").await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("x-forwarded-client-cert: By="), "{}", answer.text());
    }
    // A request that comes late, when its tunnel is open already.
    let mut stream = TcpStream::connect(node.orders).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let forged = "GET /head HTTP/1.1\r\nhost: orders.mesh.internal\r\nx-forwarded-client-cert: boss\r\nconnection: close\r\n\r\n";
    stream.write_all(forged.as_bytes()).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200 ") && !all.contains("boss"), "{all}");
    // A server that speaks first does not wait for its client.
    let began = Instant::now();
    let mut stream = TcpStream::connect(node.echo).await.unwrap();
    let mut line = [0; 11];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"220 hello\r\n");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    for said in [&b"EHLO x\r\n"[..], b"GET / HTTP/1.1\r\n"] {
        // Once it is bytes, it stays bytes.
        stream.write_all(said).await.unwrap();
        let mut back = vec![0; said.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, said);
    }
    // A client that speaks first, and no HTTP.
    let mut stream = TcpStream::connect(node.echo).await.unwrap();
    stream.write_all(b"\x16\x03\x01binary").await.unwrap();
    let mut back = [0; 11 + 9];
    stream.read_exact(&mut back).await.unwrap();
    assert!(back.ends_with(b"\x16\x03\x01binary"), "{back:?}");
}
