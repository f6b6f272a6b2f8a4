//! Connections from outside the mesh, at listeners of Gateways.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::GatewayPort;
use crate::l4::hello::tests::client_hello;
use starling_model::codes;

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A Gateway on vm-1, and routes by name.
fn documents(port: u16, routes: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: starling/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  nodes: [{{node: vm-1}}]\n  listeners: [{{name: tls, port: {port}, protocol: TLS, tls: {{mode: Passthrough}}}}]\n"
    );
    for (name, hostname, service) in routes {
        text.push_str(&format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{name: edge}}]\n  hostnames: ['{hostname}']\n  rules: [{{backendRefs: [{{name: {service}}}]}}]\n"
        ));
    }
    text
}

async fn sent_back(port: u16, sent: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(sent).await?;
    stream.shutdown().await?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await?;
    Ok(got)
}

async fn open(mesh: &Mesh, port: u16) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let ports = &mesh.node("vm-1").shared.gateway_ports;
    eventually("the listener", || ports.load().contains(&GatewayPort { address, failure: None })).await;
}

fn turned(mesh: &Mesh, reason: &str, count: u32) -> bool {
    scrape(mesh.node("vm-1")).contains(&format!("starling_tcp_turned_away_total{{reason=\"{reason}\"}} {count}"))
}

#[tokio::test]
async fn a_server_name_leads_to_its_service_and_every_byte_arrives() {
    let (echo, other) = (backend::reverser().await, backend::reverser().await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    mesh.serve("vm-3", "other-1", "other", Protocol::Tcp, other.address);
    let port = free_port();
    mesh.apply(&documents(port, &[("a", "a.example.com", "echo"), ("b", "*.example.com", "other")]));
    open(&mesh, port).await;
    let mut sent = client_hello("a.example.com");
    sent.extend((0..100_000_u32).map(|n| n.to_le_bytes()[0]));
    let want: Vec<u8> = sent.iter().rev().copied().collect();
    assert_eq!(sent_back(port, &sent).await.unwrap(), want);
    assert_eq!((echo.requests(), other.requests()), (1, 0));
    assert!(!sent_back(port, &client_hello("x.y.example.com")).await.unwrap().is_empty());
    assert_eq!((echo.requests(), other.requests()), (1, 1));
    eventually("a tunnel that is counted", || {
        scrape(mesh.node("vm-1")).contains(
            "starling_tcp_connections_closed_total{direction=\"outbound\",source_service=\"unknown\",source_namespace=\"unknown\",destination_service=\"echo\",destination_namespace=\"default\",security=\"mtls\",error=\"none\"} 1",
        )
    })
    .await;
}

#[tokio::test]
async fn an_unknown_name_gets_an_alert_and_what_is_not_tls_is_closed() {
    let (log, records) = AccessLog::new(crate::access_log::Only::Errors, Arc::default());
    let mut mesh = Mesh::new(0);
    mesh.start_with("vm-1", Some(Arc::new(log)));
    let port = free_port();
    mesh.apply(&documents(port, &[("a", "a.example.com", "nobody")]));
    open(&mesh, port).await;
    assert_eq!(sent_back(port, &client_hello("b.example.com")).await.unwrap(), [0x15, 3, 3, 0, 2, 2, 112]);
    assert_eq!(sent_back(port, &client_hello("127.0.0.1")).await.unwrap(), [0x15, 3, 3, 0, 2, 2, 112]);
    // Closed with bytes that nobody read, or after an end: a reset or an end.
    assert_eq!(sent_back(port, b"GET / HTTP/1.1\r\n\r\n").await.unwrap_or_default(), b"");
    assert!(sent_back(port, &client_hello("a.example.com")).await.is_err(), "a service without an endpoint: reset");
    eventually("what was refused is counted", || {
        turned(&mesh, "server_name", 2) && turned(&mesh, "client_hello", 1) && turned(&mesh, "backend", 1)
    })
    .await;
    let told: Vec<_> = std::iter::from_fn(|| records.recv_timeout(Duration::from_secs(2)).ok()).take(4).collect();
    let told: Vec<_> =
        told.iter().map(|one| (one.server_name.as_deref(), one.error.unwrap().as_str(), one.rule.is_some())).collect();
    assert_eq!(
        told,
        [
            (Some("b.example.com"), "destination_not_found", false),
            (None, "destination_not_found", false),
            (None, "tls_protocol_error", false),
            (Some("a.example.com"), "proxy_configuration_error", true),
        ]
    );
    assert_eq!(crate::answers::ErrorType::TlsProtocolError.code(), codes::BAD_TLS);
}

#[tokio::test]
async fn a_dead_endpoint_is_skipped_with_the_client_hello_kept() {
    let echo = backend::reverser().await;
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, backend::nobody().await);
    mesh.serve("vm-3", "echo-2", "echo", Protocol::Tcp, echo.address);
    let port = free_port();
    mesh.apply(&documents(port, &[("a", "a.example.com", "echo")]));
    open(&mesh, port).await;
    let sent = client_hello("a.example.com");
    let want: Vec<u8> = sent.iter().rev().copied().collect();
    for _ in 0..20 {
        assert_eq!(sent_back(port, &sent).await.unwrap(), want);
    }
    assert_eq!(echo.requests(), 20);
}

#[tokio::test]
async fn listeners_come_and_go_with_the_document_and_what_is_under_way_lives_on() {
    let echo = backend::reverser().await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    let (first, second) = (free_port(), free_port());
    mesh.apply(&documents(first, &[("a", "a.example.com", "echo")]));
    open(&mesh, first).await;
    let mut held = TcpStream::connect(("127.0.0.1", first)).await.unwrap();
    held.write_all(&client_hello("a.example.com")).await.unwrap();
    eventually("the tunnel", || echo.requests() == 1).await;
    mesh.documents = Documents::default();
    mesh.apply(&documents(second, &[("a", "a.example.com", "echo")]));
    open(&mesh, second).await;
    eventually("the first port is closed", || std::net::TcpStream::connect(("127.0.0.1", first)).is_err()).await;
    held.write_all(b"more").await.unwrap();
    held.shutdown().await.unwrap();
    let mut got = Vec::new();
    held.read_to_end(&mut got).await.unwrap();
    assert!(got.starts_with(b"erom"), "it goes on");
}

#[tokio::test]
async fn a_taken_port_is_told_and_served_once_it_is_free() {
    let mut mesh = Mesh::new(1);
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    mesh.apply(&documents(port, &[("a", "a.example.com", "echo")]));
    let ports = mesh.node("vm-1").shared.clone();
    let code = || ports.gateway_ports.load().first().and_then(|one| one.failure.clone()).map(|(code, _)| code);
    eventually("the failure", || code() == Some(codes::PORT_TAKEN)).await;
    drop(holder);
    open(&mesh, port).await;
}
