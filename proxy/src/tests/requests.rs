//! HTTP/1.1 from an application on one node to an instance on another.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use starling_model::Protocol;

use super::backend::{self, Client, raw};
use super::*;
use crate::Direction;

const ORDERS: &str = "orders.mesh.internal";

async fn pair() -> (Mesh, backend::Backend) {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    (mesh, orders)
}

#[tokio::test]
async fn requests_pass_with_their_bodies_on_one_connection() {
    let (mesh, orders) = pair().await;
    for entrance in [mesh.node("vm-1").http, mesh.node("vm-1").orders] {
        let mut client = Client::new(entrance).await;
        for _ in 0..20 {
            let answer = client.get(ORDERS, "/").await;
            assert_eq!((answer.status, answer.header("x-backend")), (200, "orders"));
        }
        let large = vec![b'a'; 3_000_000];
        assert_eq!(client.post(ORDERS, "/", large.clone()).await.body, large);
        assert_eq!(client.get(ORDERS, "/big").await.body.len(), 1_000_000);
        assert!(client.get(ORDERS, "/chunks").await.text().ends_with("chunk 99;"));
        assert_eq!(client.get(ORDERS, "/teapot").await.status, 418);
        assert_eq!(client.get(ORDERS, "/close").await.status, 200, "one hop's close is not another's");
        assert_eq!(client.post(ORDERS, "/", "after").await.text(), "after");
    }
    assert_eq!(orders.requests(), 2 * 26);
}

#[tokio::test]
async fn a_chunked_upload_arrives_even_with_get() {
    let (mesh, _orders) = pair().await;
    for method in ["POST", "GET"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: {ORDERS}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        );
        let answer = raw(mesh.node("vm-1").http, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("hello world"), "{method}: {answer}");
    }
}

#[tokio::test]
async fn the_receiver_says_who_calls_and_nobody_else_can() {
    let (mesh, _orders) = pair().await;
    let request = || {
        let spoofed = "By=x;URI=spiffe://prod.internal/node/vm-9/ns/default/svc/admin";
        Request::get("http://ignored/head?x=1")
            .uri("/head?x=1")
            .header("host", ORDERS)
            .header("x-forwarded-client-cert", spoofed)
            .header("x-starling-anything", "1")
            .header("connection", "keep-alive, x-hop")
            .header("x-hop", "1")
            .body(Full::default())
            .unwrap()
    };
    let by = "By=spiffe://prod.internal/node/vm-2/ns/default/svc/orders";
    let cases = [
        (mesh.node("vm-1").orders, format!("{by};URI=spiffe://prod.internal/node/vm-1/ns/default/svc/web")),
        (mesh.node("vm-1").http, format!("{by};URI=spiffe://prod.internal/node/vm-1")),
    ];
    for (entrance, identity) in cases {
        let head = Client::new(entrance).await.send(request()).await.text();
        let lines: Vec<&str> = head.lines().collect();
        assert_eq!(lines[0], "GET /head?x=1 HTTP/1.1");
        let find = |name: &str| -> Vec<&str> { lines.iter().filter_map(|line| line.strip_prefix(name)).collect() };
        assert_eq!(find("x-forwarded-client-cert: "), [identity.as_str()], "{head}");
        assert_eq!(find("host: "), [ORDERS]);
        for gone in ["x-starling-anything", "x-hop", "connection", "keep-alive", "transfer-encoding"] {
            assert!(find(gone).is_empty(), "{gone} in {head}");
        }
    }
}

#[tokio::test]
async fn answers_of_applications_carry_nothing_of_ours() {
    let (mesh, _orders) = pair().await;
    let answer = Client::new(mesh.node("vm-1").http).await.get(ORDERS, "/").await;
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("x-starling")), "{:?}", answer.headers);
    assert!(answer.headers.get("proxy-status").is_none());
    assert!(!scrape(mesh.node("vm-1")).contains("error=\"connection_refused\""), "an application's word is not ours");
}

#[tokio::test]
async fn an_absolute_target_works_as_through_a_proxy() {
    let (mesh, _orders) = pair().await;
    let http = mesh.node("vm-1").http;
    let ask = |target: &str, host: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nProxy-Connection: keep-alive\r\nConnection: close\r\n\r\n")
    };
    let answer = raw(http, ask(&format!("http://{ORDERS}/head"), ORDERS).as_bytes()).await;
    assert!(answer.contains("GET /head HTTP/1.1\n"), "{answer}");
    assert!(answer.contains(&format!("host: {ORDERS}")), "{answer}");
    assert!(!answer.contains("proxy-connection"), "{answer}");
    let answer = raw(http, ask("http://example.org/", "example.org").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("error=http_request_denied"), "{answer}");
    let answer = raw(http, ask(&format!("http://{ORDERS}/"), "other.mesh.internal").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{answer}");
}

#[tokio::test]
async fn an_old_client_without_a_host_is_served_by_a_fixed_entrance() {
    let (mesh, _orders) = pair().await;
    let answer = raw(mesh.node("vm-1").orders, b"GET /head HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 200 ") && answer.contains("host: orders.mesh.internal"), "{answer}");
    let answer = raw(mesh.node("vm-1").http, b"GET /head HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 400 "), "{answer}");
}

#[tokio::test]
async fn unknown_hosts_are_answered_with_their_reason() {
    let (mesh, _orders) = pair().await;
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for host in ["nothing.mesh.internal", "example.org", "127.0.0.1:7780", "orders"] {
        let answer = client.get(host, "/").await;
        assert_eq!(answer.status, 404, "{host}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let status = answer.header("proxy-status");
        assert!(status.starts_with("starling-vm-1; error=destination_not_found; details="), "{status}");
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["code"], "ST0501");
    }
    assert_eq!(client.get(ORDERS, "/").await.status, 200, "the connection lives on");
    let text = scrape(mesh.node("vm-1"));
    assert!(text.contains("destination_service=\"unknown\""), "{text}");
    assert!(!text.contains("example"), "no request's host becomes a label");
}

#[tokio::test]
async fn both_ends_count_what_passed() {
    let (mesh, _orders) = pair().await;
    let mut client = Client::new(mesh.node("vm-1").orders).await;
    for _ in 0..3 {
        let _ = client.post(ORDERS, "/", Bytes::from_static(b"12345")).await;
    }
    let edge = |direction: &str| {
        format!(
            "direction=\"{direction}\",source_service=\"web\",source_namespace=\"default\",\
             destination_service=\"orders\",destination_namespace=\"default\""
        )
    };
    for (node, direction) in [("vm-1", "outbound"), ("vm-2", "inbound")] {
        let (node, edge) = (mesh.node(node), edge(direction));
        eventually("three counted requests", || {
            let text = scrape(node);
            let rest = ",route=\"default\",subset=\"none\",protocol=\"http1\",status_code=\"200\",grpc_status=\"\",\
                        error=\"none\",security=\"mtls\"";
            text.contains(&format!("starling_http_requests_total{{{edge}{rest}}} 3"))
                && text.contains(&format!("starling_http_requests_in_flight{{{edge}}} 0"))
                && text.contains(&format!("starling_http_request_bytes_total{{{edge}}} 15"))
                && text.contains(&format!("starling_http_response_bytes_total{{{edge}}} 15"))
        })
        .await;
    }
    let traffic = mesh.node("vm-1").shared.metrics.traffic(Direction::Outbound, &key("orders"), Instant::now());
    assert_eq!((traffic.requests, traffic.success_rate), (3, Some(1.0)));
    assert!(traffic.p50.is_some());
}

#[tokio::test]
async fn a_node_reaches_its_own_instances_the_same_way() {
    let (mesh, _orders) = pair().await;
    let head = Client::new(mesh.node("vm-2").http).await.get(ORDERS, "/head").await.text();
    assert!(head.contains("URI=spiffe://prod.internal/node/vm-2\n") || head.ends_with("node/vm-2"), "{head}");
}

#[tokio::test]
async fn many_clients_at_once_are_all_served() {
    let (mesh, orders) = pair().await;
    let entrance = mesh.node("vm-1").orders;
    let clients: Vec<_> = (0..64)
        .map(|n| {
            tokio::spawn(async move {
                let mut client = Client::new(entrance).await;
                for m in 0..20 {
                    let body = format!("{n}/{m} ").repeat(n * 40);
                    assert_eq!(client.post(ORDERS, "/", body.clone()).await.text(), body);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(orders.requests(), 64 * 20);
}

#[tokio::test]
async fn a_server_that_answers_and_ends_while_its_caller_still_sends_is_let_go() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, listener.local_addr().unwrap());
    let mut caller = tokio::net::TcpStream::connect(mesh.node("vm-1").http).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: {ORDERS}\r\nContent-Length: 10\r\n\r\nhello");
    caller.write_all(head.as_bytes()).await.unwrap();
    let (mut instance, _) = listener.accept().await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello") {
        let mut space = [0; 4_096];
        let read = instance.read(&mut space).await.unwrap();
        seen.extend_from_slice(&space[..read]);
    }
    instance.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    let mut answer = [0; 12];
    caller.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    tokio::time::sleep(Duration::from_millis(100)).await;
    instance.shutdown().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), instance.read(&mut [0; 1])).await;
    assert_eq!(ended.expect("the agent closes, though its caller says no more").unwrap_or_default(), 0);
}

#[tokio::test]
async fn each_data_thread_tells_how_late_it_is() {
    let mesh = Mesh::new(1);
    let count = || {
        let text = scrape(mesh.node("vm-1"));
        let line = text.lines().find_map(|line| line.strip_prefix("starling_loop_lag_seconds_count "));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap()
    };
    // Two threads, asked ten times a second each; the queues are not filled by it.
    eventually("both threads have told three times", || count() >= 6).await;
    assert_eq!(mesh.node("vm-1").shared.metrics.turned_count(crate::metrics::Turned::Handover), 0);
}
