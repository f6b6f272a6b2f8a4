//! What applications notice when instances and agents fail: as little as can be.

use starling_model::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::backend::{self, Client};
use super::*;
use crate::Drained;
use crate::metrics::Turned;

const ORDERS: &str = "orders.mesh.internal";

#[tokio::test]
async fn a_refusing_instance_costs_no_request() {
    let good = backend::http("good").await;
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, backend::nobody().await);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, good.address);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for n in 0..60 {
        let body = "b".repeat(n * 100);
        let answer = client.post(ORDERS, "/", body.clone()).await;
        assert_eq!((answer.status, answer.text()), (200, body), "request {n}");
    }
}

#[tokio::test]
async fn an_agent_that_is_killed_costs_no_request_after_its_death() {
    let (one, two) = (backend::http("one").await, backend::http("two").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, one.address);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, two.address);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for _ in 0..40 {
        assert_eq!(client.get(ORDERS, "/").await.status, 200);
    }
    assert!(one.requests() > 0 && two.requests() > 0, "both were used");
    mesh.kill("vm-2");
    for n in 0..100 {
        // Neither safe methods nor others fail: what was not sent is sent elsewhere.
        let answer = if n % 2 == 0 { client.get(ORDERS, "/").await } else { client.post(ORDERS, "/", "x").await };
        assert_eq!(answer.status, 200, "request {n}: {}", answer.text());
    }
    mesh.state("vm-2", MemberState::Dead);
    for _ in 0..20 {
        assert_eq!(client.get(ORDERS, "/").await.status, 200);
    }
}

#[tokio::test]
async fn a_break_in_the_middle_is_repeated_only_when_harmless() {
    let (bad, good) = (backend::http("bad").await, backend::http("good").await);
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, bad.address);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    let answer = client.post(ORDERS, "/drop", "once").await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("proxy-status").contains("error=connection_terminated"), "{:?}", answer.headers);
    assert_eq!(bad.requests(), 1, "a POST runs once");
    drop(good);
}

#[tokio::test]
async fn nothing_left_is_said_with_the_last_reason() {
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, backend::nobody().await);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, backend::nobody().await);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    let answer = client.get(ORDERS, "/").await;
    assert_eq!(answer.status, 503);
    let status = answer.header("proxy-status");
    assert!(status.contains("error=connection_refused") && status.contains("default/orders-"), "{status}");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["code"], "ST0504");
}

#[tokio::test]
async fn another_node_at_the_address_is_no_endpoint() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    // vm-3 answers where vm-2 should.
    let impostor = mesh.node("vm-3").data;
    let node = NodeName::new("vm-2").unwrap();
    mesh.registry.member(&MemberFact { node, state: MemberState::Alive, address: Some(impostor) });
    mesh.compile();
    let answer = Client::new(mesh.node("vm-1").http).await.get(ORDERS, "/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.header("proxy-status").contains("error=tls_certificate_error"), "{:?}", answer.headers);
    assert_eq!(orders.requests(), 0);
}

#[tokio::test]
async fn an_instance_that_is_not_ready_here_is_refused_by_its_owner() {
    let (one, two) = (backend::http("one").await, backend::http("two").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, one.address);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, two.address);
    // The owner knows already what gossip has not told yet.
    mesh.node("vm-2").shared.instances.store(Arc::new(LocalInstances::new()));
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for _ in 0..20 {
        assert_eq!(client.post(ORDERS, "/", "x").await.header("x-backend"), "two");
    }
    assert_eq!(one.requests(), 0);
    assert!(mesh.node("vm-2").shared.metrics.turned_count(Turned::NoInstance) > 0);
}

#[tokio::test]
async fn an_instance_that_hangs_is_answered_by_deadline() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    let began = Instant::now();
    let answer = client.get(ORDERS, "/hang").await;
    assert_eq!(answer.status, 504);
    assert!(answer.header("proxy-status").contains("error=http_response_timeout"), "{:?}", answer.headers);
    assert!((14..18).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(client.get(ORDERS, "/").await.status, 200, "the connection lives on");
}

#[tokio::test]
async fn a_drain_waits_for_what_is_under_way_and_takes_nothing_new() {
    let orders = backend::http("orders").await;
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.local_addr().unwrap());
    let mut client = Client::new(mesh.node("vm-1").http).await;
    assert_eq!(client.get(ORDERS, "/").await.status, 200);
    let tunnel = TcpStream::connect(mesh.node("vm-1").echo).await.unwrap();
    let (server, _) = echo.accept().await.unwrap();
    let plane = mesh.node("vm-2").plane.as_ref().unwrap();
    eventually("the tunnel is counted", || plane.inbound_under_way() == 1).await;
    assert_eq!(plane.drain(Duration::from_millis(100)).await, Drained::Busy(1));
    drop((tunnel, server));
    assert_eq!(plane.drain(Duration::from_secs(5)).await, Drained::Quiet);
    // A stream that is there may still be used; a new one is not taken.
    let fresh = Client::new(mesh.node("vm-1").orders).await.get(ORDERS, "/").await;
    assert_eq!(fresh.status, 503, "{}", fresh.text());
}

#[tokio::test]
async fn shutdown_is_quick_and_frees_the_ports() {
    let mut mesh = Mesh::new(1);
    let (http, data) = (mesh.node("vm-1").http, mesh.node("vm-1").data);
    let idle = TcpStream::connect(http).await.unwrap();
    let plane = mesh.nodes[0].plane.take().unwrap();
    let began = Instant::now();
    plane.shutdown();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for address in [http, data] {
        assert!(std::net::TcpListener::bind(address).is_ok(), "{address} is free");
    }
    drop(idle);
}

/// Under load from several applications, the death of one of two agents costs no safe request.
#[tokio::test]
async fn an_agent_that_is_killed_under_load_costs_no_safe_request() {
    let (one, two) = (backend::http("one").await, backend::http("two").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, one.address);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, two.address);
    let entrance = mesh.node("vm-1").http;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load: Vec<_> = (0..8)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut client = Client::new(entrance).await;
                let mut statuses = Vec::new();
                while !*stopped.borrow() {
                    statuses.push(client.get(ORDERS, "/big").await.status);
                }
                statuses
            })
        })
        .collect();
    eventually("both serve", || one.requests() > 20 && two.requests() > 20).await;
    mesh.kill("vm-2");
    let so_far = two.requests();
    eventually("the other serves on", || two.requests() > so_far + 100).await;
    stop.send(true).unwrap();
    let mut broken = 0;
    for task in load {
        match task.await {
            Ok(statuses) => assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}"),
            // An answer that had begun when the agent died is cut short, which the client must see.
            Err(_) => broken += 1,
        }
    }
    assert!(broken <= 8);
}

#[tokio::test]
async fn a_draining_instance_finishes_what_it_has_and_takes_nothing_new() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    assert_eq!(client.get(ORDERS, "/").await.status, 200);
    let owner = mesh.node("vm-2");
    let draining = |(name, instance): (&InstanceName, &LocalInstance)| {
        (name.clone(), LocalInstance { readiness: Readiness::Draining, ..instance.clone() })
    };
    owner.shared.instances.store(Arc::new(owner.instances.iter().map(draining).collect()));
    assert_eq!(client.get(ORDERS, "/").await.status, 200, "the stream it has is served");
    let fresh = Client::new(mesh.node("vm-1").orders).await.get(ORDERS, "/").await;
    assert_eq!(fresh.status, 503, "a new stream is refused: {}", fresh.text());
}

#[tokio::test]
async fn an_instance_that_closes_idle_connections_costs_no_request() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for n in 0..50 {
        let path = if n % 2 == 0 { "/close" } else { "/" };
        assert_eq!(client.post(ORDERS, path, "x").await.status, 200, "request {n}");
    }
}

#[tokio::test]
async fn a_restarted_agent_is_used_again() {
    let (one, two) = (backend::http("one").await, backend::http("two").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, one.address);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, two.address);
    mesh.kill("vm-2");
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for _ in 0..30 {
        assert_eq!(client.get(ORDERS, "/").await.status, 200);
    }
    mesh.state("vm-2", MemberState::Dead);
    mesh.nodes.retain(|node| node.name.as_str() != "vm-2");
    mesh.start("vm-2");
    let instance = LocalInstance {
        service: key("orders"),
        port: PortName::new("main").unwrap(),
        protocol: Protocol::Http,
        address: one.address,
        readiness: Readiness::Ready,
        callers: None,
    };
    let instances = LocalInstances::from_iter([(InstanceName::new("orders-1").unwrap(), instance)]);
    mesh.node("vm-2").shared.instances.store(Arc::new(instances));
    let before = one.requests();
    mesh.publish();
    let began = Instant::now();
    while one.requests() == before {
        assert_eq!(client.get(ORDERS, "/").await.status, 200);
        assert!(began.elapsed() < Duration::from_secs(2), "not used again");
    }
}

/// An owner whose connections soon take no more streams: what was opened while it said so was seen by nobody, and is opened
/// again on the next connection, though no other endpoint is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_an_old_connection_leaves_behind_are_opened_again() {
    let (echo, orders) = (backend::reverser().await, backend::http("orders").await);
    let mut mesh = Mesh::new(1);
    mesh.connection_age = Duration::from_millis(40);
    mesh.start("vm-2");
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let (tunnels, http) = (mesh.node("vm-1").echo, mesh.node("vm-1").http);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        callers.spawn(async move {
            for _ in 0..100 {
                let mut stream = TcpStream::connect(tunnels).await.unwrap();
                stream.write_all(b"abc").await.unwrap();
                stream.shutdown().await.unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, b"cba");
            }
        });
        callers.spawn(async move {
            for at in 0..100 {
                // A stream of its own for each.
                let head = "Host: orders.mesh.internal\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n";
                let answer = backend::raw(http, format!("GET /{at} HTTP/1.1\r\n{head}").as_bytes()).await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
}
