//! Hostile and broken input at every listener: a clear answer or a counted drop, and the next request is served.

use starling_model::Protocol;

use super::backend::{self, Client, raw};
use super::*;

const ORDERS: &str = "orders.mesh.internal";

async fn pair() -> (Mesh, backend::Backend) {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    (mesh, orders)
}

#[tokio::test]
async fn what_is_ambiguous_is_answered_and_goes_no_further() {
    let (mesh, orders) = pair().await;
    let check = async |request: String, status: u16| {
        for entrance in [mesh.node("vm-1").http, mesh.node("vm-1").orders] {
            let answer = raw(entrance, request.as_bytes()).await;
            let got = answer.get(9..12).unwrap_or_default();
            assert_eq!(got, status.to_string(), "{:?}: {answer}", request.get(..80));
            assert!(answer.contains("application/problem+json") && answer.contains("ST0507"), "{answer}");
            assert!(answer.contains("proxy-status: starling-vm-1; error=http_request_error"), "{answer}");
        }
    };
    let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: {ORDERS}\r\n{lines}\r\n");
    check(with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400).await;
    check(with("Content-Length: 3\r\nContent-Length: 3\r\n"), 400).await;
    check(with("Transfer-Encoding: gzip, chunked\r\n"), 501).await;
    check(with("Host: other\r\n"), 400).await;
    check(with("Upgrade: websocket, h2c\r\nConnection: upgrade\r\n"), 501).await;
    check(with("X_Forwarded_Client_Cert: x\r\n"), 400).await;
    check(with(&format!("X: {}\r\n", "x".repeat(70_000))), 431).await;
    check(with(&format!("X: {}\r\n", "x".repeat(700_000))), 431).await;
    check(with(&"X: y\r\n".repeat(101)), 431).await;
    check(format!("GET /{} HTTP/1.1\r\nHost: {ORDERS}\r\n\r\n", "x".repeat(80_000)), 414).await;
    check(format!("GET /a%00 HTTP/1.1\r\nHost: {ORDERS}\r\n\r\n"), 400).await;
    check(format!("GET /a#b HTTP/1.1\r\nHost: {ORDERS}\r\n\r\n"), 400).await;
    check(format!("GET /a\\b HTTP/1.1\r\nHost: {ORDERS}\r\n\r\n"), 400).await;
    check(format!("CONNECT {ORDERS} HTTP/1.1\r\nHost: {ORDERS}\r\n\r\n"), 400).await;
    check("GET / HTTP/1.1\r\n\r\n".to_owned(), 400).await;
    check("\u{1}\u{2}\u{3} garbage \r\n\r\n".to_owned(), 400).await;
    assert_eq!(orders.requests(), 0, "nothing of it was forwarded");
    assert_eq!(Client::new(mesh.node("vm-1").http).await.get(ORDERS, "/").await.status, 200);
}

#[tokio::test]
async fn garbage_at_the_port_of_peers_is_dropped_and_counted() {
    let (mesh, _orders) = pair().await;
    let data = mesh.node("vm-2").data;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", b"\0", &[0xff; 10_000]] {
        let _ = raw(data, garbage).await;
    }
    assert_eq!(Client::new(mesh.node("vm-1").http).await.get(ORDERS, "/").await.status, 200);
    let node = mesh.node("vm-2");
    eventually("counted handshakes", || {
        let text = scrape(node);
        let failed = text.lines().filter(|line| {
            line.starts_with("starling_tls_handshakes_total{direction=\"inbound\"") && !line.contains("\"success\"")
        });
        failed.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>() >= 3
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_what_it_used() {
    let (mesh, orders) = pair().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(mesh.node("vm-1").http).await.unwrap();
        let request = format!("GET /hang HTTP/1.1\r\nHost: {ORDERS}\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    eventually("all hang", || orders.requests() == 20).await;
    drop(streams);
    let (one, two) = (mesh.node("vm-1"), mesh.node("vm-2"));
    eventually("the receiver lets go", || two.plane.as_ref().unwrap().inbound_under_way() == 0).await;
    let connections = || one.plane.as_ref().unwrap().connections().iter().sum::<usize>();
    eventually("the caller lets go", || connections() == 0).await;
    let counted = |line: &str| line.contains("status_code=\"499\"") && line.ends_with(" 20");
    eventually("it is counted", || scrape(one).lines().any(counted)).await;
    assert_eq!(Client::new(one.http).await.get(ORDERS, "/").await.status, 200);
}

#[tokio::test]
async fn a_headless_flood_is_cut_off_in_time() {
    let (mesh, _orders) = pair().await;
    let began = Instant::now();
    let answer = raw(mesh.node("vm-1").http, b"GET / HTTP/1.1\r\nHost: or").await;
    assert!(answer.contains(" 408 "), "{answer}");
    assert!((9..13).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_its_clients_fault() {
    let (mesh, _orders) = pair().await;
    let head = format!("POST / HTTP/1.1\r\nHost: {ORDERS}\r\nTransfer-Encoding: chunked\r\n\r\n");
    for entrance in [mesh.node("vm-1").http, mesh.node("vm-1").orders] {
        let answer = raw(entrance, format!("{head}5\r\nhello\r\nzz\r\n").as_bytes()).await;
        assert!(answer.is_empty() || answer.contains(" 400 "), "{answer}");
    }
    let shared = &mesh.node("vm-1").shared;
    let table = shared.table.load();
    let endpoint = &table.service(&key("orders")).unwrap().endpoints[0];
    assert_eq!(shared.loads.load(endpoint.index, Instant::now()).failing_until, None);
    assert_eq!(Client::new(mesh.node("vm-1").http).await.get(ORDERS, "/").await.status, 200);
}
