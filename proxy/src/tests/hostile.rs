//! What members, backends and hosts do that no correct one does.

use std::sync::atomic::{AtomicBool, Ordering};

use starling_model::Protocol;
use starling_transport::data::{AGE_MAX, DataClient, Fault, fault_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::backend::{self, Client, raw};
use super::*;
use crate::header::{Carry, OpenHeader};

const ORDERS: &str = "orders.mesh.internal";

/// A backend that answers every head with these bytes.
async fn canned(answer: &'static [u8]) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut space = [0; 4_096];
                while stream.read(&mut space).await.is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    });
    (address, task)
}

/// As a member may that runs other code: a stream of bytes to a service that is served as HTTP.
#[tokio::test]
async fn a_member_cannot_pass_the_hardening_by_carrying_bytes() {
    for protocol in [Protocol::Http, Protocol::Detect] {
        carried_as_bytes(protocol).await;
    }
}

async fn carried_as_bytes(protocol: Protocol) {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", protocol, orders.address);
    let member = DataClient::new(mesh.identity(&NodeName::new("vm-1").unwrap()), clock, AGE_MAX);
    let header = |carry| OpenHeader {
        carry,
        source: None,
        destination: key("orders"),
        instance: InstanceName::new("orders-1").unwrap(),
        port: PortName::new("main").unwrap(),
    };
    let forged = format!(
        "GET /head HTTP/1.1\r\nhost: {ORDERS}\r\nx-forwarded-client-cert: URI=spiffe://prod.internal/node/boss\r\nconnection: close\r\n\r\n"
    );
    let (node, address) = (mesh.node("vm-2").name.clone(), mesh.node("vm-2").data);
    tokio::task::LocalSet::new()
        .run_until(async move {
            for (carry, passes) in [(Carry::Bytes, false), (Carry::Http1, true)] {
                let mut stream = member.open(&node, address, header(carry).encode()).await.unwrap();
                stream.write_all(forged.as_bytes()).await.unwrap();
                let mut answer = String::new();
                let read = stream.read_to_string(&mut answer).await;
                assert!(!answer.contains("boss"), "{answer}");
                if passes {
                    assert!(answer.contains("URI=spiffe://prod.internal/node/vm-1"), "{answer}");
                } else {
                    let want = if protocol == Protocol::Http { Fault::Refused } else { Fault::Reset };
                    assert_eq!(fault_of(&read.unwrap_err()), Some(want));
                }
            }
        })
        .await;
    assert_eq!(orders.requests(), 1, "the forged head reached nobody");
}

#[tokio::test]
async fn an_answer_with_both_framings_is_passed_on_whole() {
    let (address, _task) =
        canned(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, address);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for _ in 0..3 {
        let answer = client.get(ORDERS, "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.header("content-length"), "");
    }
}

#[tokio::test]
async fn a_backend_cannot_switch_protocols_unasked() {
    let (address, _task) =
        canned(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nSMUGGLED").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, address);
    let request = format!("GET / HTTP/1.1\r\nhost: {ORDERS}\r\nconnection: close\r\n\r\n");
    let answer = raw(mesh.node("vm-1").http, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(!answer.contains("SMUGGLED"), "{answer}");
}

/// A wire to a node that can be made to carry nothing, as when its host is stopped.
struct Valve {
    address: SocketAddr,
    is_shut: Arc<AtomicBool>,
}

impl Valve {
    async fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, is_shut) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let shut = is_shut.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(pour(near_read, far_write, shut.clone()));
                tokio::spawn(pour(far_read, near_write, shut.clone()));
            }
        });
        Self { address, is_shut }
    }
}

async fn pour(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    is_shut: Arc<AtomicBool>,
) {
    let mut space = vec![0; 16_384];
    while let Ok(length) = from.read(&mut space).await {
        if is_shut.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if length == 0 || to.write_all(&space[..length]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_safe_request_leaves_a_host_that_fell_silent() {
    let (one, two) = (backend::http("one").await, backend::http("two").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, one.address);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, two.address);
    let valve = Valve::new(mesh.node("vm-2").data).await;
    let node = NodeName::new("vm-2").unwrap();
    mesh.registry.member(&MemberFact { node, state: MemberState::Alive, address: Some(valve.address) });
    mesh.compile();
    let entrance = mesh.node("vm-1").http;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::new(entrance).await);
    }
    for client in &mut clients {
        for _ in 0..10 {
            assert_eq!(client.get(ORDERS, "/").await.status, 200);
        }
    }
    assert!(one.requests() > 0 && two.requests() > 0, "both were used");
    valve.is_shut.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let calls: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                for _ in 0..20 {
                    assert_eq!(client.get(ORDERS, "/").await.status, 200);
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    // 3 s until the silence is known, a look, and for a request that dialled anew once more as long.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}
