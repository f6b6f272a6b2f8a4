//! Tunnels of services that move much: connections of their own, and everything that holds on shared ones.

use starling_identity::Revoked;
use starling_transport::data::{AGE_MAX, DEDICATED_DIALLED_PER_PEER_MAX, DataClient, NotDedicated};
use starling_transport::lane::{BULK_BYTES, LaneKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::backend;
use super::*;
use crate::header::{Carry, OpenHeader};
use crate::metrics::Turned;

/// As after two bulk streams of the service.
fn prime(node: &Node, service: &str) {
    (0..2).for_each(|_| node.shared.lanes.moved(&key(service), BULK_BYTES));
    assert_eq!(node.shared.lanes.lane(&key(service)), LaneKind::Dedicated);
}

fn streams(node: &Node, direction: &str, lane: &str) -> u64 {
    let line = format!("starling_tcp_lane_streams_total{{direction=\"{direction}\",lane=\"{lane}\"}} ");
    scrape(node).lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect()
}

/// Sends all of it while it reads, and checks what comes back from one that turns it around.
async fn reversed(entrance: SocketAddr, sent: &[u8]) {
    let (mut read, mut write) = TcpStream::connect(entrance).await.unwrap().into_split();
    let mut got = Vec::new();
    let send = async {
        write.write_all(sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (received, ()) = tokio::join!(read.read_to_end(&mut got), send);
    received.unwrap();
    got.reverse();
    assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());
}

#[tokio::test]
async fn a_service_whose_tunnels_move_much_gets_connections_of_its_own() {
    let echo = backend::reverser().await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    let (near, far) = (mesh.node("vm-1"), mesh.node("vm-2"));
    let much = pattern(6 * 1024 * 1024 + 17);
    for (round, dedicated) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
        reversed(near.echo, &much).await;
        assert_eq!(streams(near, "outbound", "dedicated"), dedicated, "round {round}");
        assert_eq!(streams(far, "inbound", "dedicated"), dedicated, "round {round}");
    }
    // Little brings it back, by and by, and nothing at all says nothing.
    for _ in 0..10 {
        reversed(near.echo, b"").await;
    }
    for _ in 0..6 {
        reversed(near.echo, b"little").await;
    }
    let before = streams(near, "outbound", "dedicated");
    reversed(near.echo, b"little").await;
    assert_eq!(streams(near, "outbound", "dedicated"), before);
    assert_eq!(streams(near, "outbound", "shared"), streams(far, "inbound", "shared"));
    let labels = "destination_service=\"echo\",destination_namespace=\"default\",security=\"mtls\",error=\"none\"} 21";
    eventually("all ended well", || scrape(near).contains(labels) && scrape(far).contains(labels)).await;
}

/// A tunnel over a dedicated connection to a server of ours: the application, and the instance's socket.
async fn opened(node: &Node, server: &TcpListener) -> (TcpStream, TcpStream) {
    let before = streams(node, "outbound", "dedicated");
    let mut client = TcpStream::connect(node.echo).await.unwrap();
    let (mut instance, _) = server.accept().await.unwrap();
    client.write_all(b"up").await.unwrap();
    instance.write_all(b"down").await.unwrap();
    let mut got = [0; 4];
    client.read_exact(&mut got).await.unwrap();
    instance.read_exact(&mut got[..2]).await.unwrap();
    assert_eq!(streams(node, "outbound", "dedicated"), before + 1);
    (client, instance)
}

/// What the next read says, which must not take long.
async fn next(stream: &mut TcpStream) -> std::io::Result<usize> {
    tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 9])).await.expect("it is told in time")
}

fn is_reset(read: std::io::Result<usize>) -> bool {
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn ends_stay_ends_and_breaks_stay_breaks() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, server.local_addr().unwrap());
    let node = mesh.node("vm-1");
    prime(node, "echo");
    let abort = |stream: TcpStream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
    };
    // Half-close, either side first.
    let (mut client, mut instance) = opened(node, &server).await;
    client.shutdown().await.unwrap();
    assert_eq!(next(&mut instance).await.unwrap(), 0);
    instance.write_all(b"later").await.unwrap();
    assert_eq!(next(&mut client).await.unwrap(), 5);
    drop(instance);
    assert_eq!(next(&mut client).await.unwrap(), 0);
    prime(node, "echo");
    let (mut client, mut instance) = opened(node, &server).await;
    instance.shutdown().await.unwrap();
    assert_eq!(next(&mut client).await.unwrap(), 0);
    client.write_all(b"later").await.unwrap();
    assert_eq!(next(&mut instance).await.unwrap(), 5);
    drop((client, instance));
    // Broken off, by either.
    prime(node, "echo");
    let (client, mut instance) = opened(node, &server).await;
    abort(client);
    assert!(is_reset(next(&mut instance).await));
    prime(node, "echo");
    let (mut client, instance) = opened(node, &server).await;
    abort(instance);
    assert!(is_reset(next(&mut client).await));
}

#[tokio::test]
async fn a_peer_that_dies_breaks_its_tunnels() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, server.local_addr().unwrap());
    prime(mesh.node("vm-1"), "echo");
    let (mut client, instance) = opened(mesh.node("vm-1"), &server).await;
    mesh.kill("vm-2");
    assert!(is_reset(next(&mut client).await));
    drop(instance);
}

/// On either side alone: whoever hears of it first cuts.
#[tokio::test]
async fn a_revocation_cuts_them_at_once() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (hears, revoked) in [("vm-1", "vm-2"), ("vm-2", "vm-1")] {
        let mut mesh = Mesh::new(2);
        mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, server.local_addr().unwrap());
        prime(mesh.node("vm-1"), "echo");
        let (mut client, mut instance) = opened(mesh.node("vm-1"), &server).await;
        let current = &mesh.node(hears).shared.current;
        let out = Revoked::new([(NodeName::new(revoked).unwrap(), Vec::new())]);
        let began = Instant::now();
        current.swap_trust(Arc::new(current.trust().with_revoked(out)));
        assert!(is_reset(next(&mut client).await), "{hears}");
        assert!(is_reset(next(&mut instance).await), "{hears}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        // And no other one begins, on either lane.
        match TcpStream::connect(mesh.node("vm-1").echo).await {
            Ok(mut late) => {
                let _ = late.write_all(b"x").await;
                assert!(is_reset(next(&mut late).await), "{hears}");
            }
            // It may be reset before `connect` has looked.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{hears}"),
        }
    }
}

/// The opener sends nothing before it is taken, so even what no buffer could hold goes elsewhere whole.
#[tokio::test]
async fn a_refusing_instance_is_skipped_whatever_the_application_sends() {
    let echo = backend::reverser().await;
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, backend::nobody().await);
    mesh.serve("vm-3", "echo-2", "echo", Protocol::Tcp, echo.address);
    prime(mesh.node("vm-1"), "echo");
    let much = pattern(5 * 1024 * 1024);
    for _ in 0..8 {
        reversed(mesh.node("vm-1").echo, &much).await;
    }
    assert_eq!(echo.requests(), 8);
    assert_eq!(streams(mesh.node("vm-1"), "outbound", "dedicated"), 8);
    assert_eq!(streams(mesh.node("vm-1"), "outbound", "shared"), 0);
}

#[tokio::test]
async fn beyond_the_bound_streams_share() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, server.local_addr().unwrap());
    let node = mesh.node("vm-1");
    prime(node, "echo");
    let mut held = Vec::new();
    // Two data threads.
    for _ in 0..=2 * DEDICATED_DIALLED_PER_PEER_MAX {
        let mut client = TcpStream::connect(node.echo).await.unwrap();
        let (mut instance, _) = server.accept().await.unwrap();
        client.write_all(b"x").await.unwrap();
        assert_eq!(instance.read_u8().await.unwrap(), b'x');
        held.push((client, instance));
    }
    let shared = streams(node, "outbound", "shared");
    assert!(shared > 0);
    assert_eq!(streams(node, "outbound", "dedicated") + shared, held.len() as u64);
    let limit = format!("starling_tcp_lane_fallbacks_total{{reason=\"limit\"}} {shared}");
    assert!(scrape(node).contains(&limit));
}

/// As a member may that runs other code.
#[tokio::test]
async fn a_member_gets_no_more_by_it_than_on_a_shared_connection() {
    let (orders, echo) = (backend::http("orders").await, backend::reverser().await);
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    mesh.serve("vm-2", "maybe-1", "maybe", Protocol::Detect, orders.address);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    mesh.apply("---\napiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {name: web}\nspec: {nodes: [{node: \"vm-7\"}], services: [{service: web}]}\n");
    let far = mesh.node("vm-2");
    let member = DataClient::new(mesh.identity(&NodeName::new("vm-1").unwrap()), clock, AGE_MAX);
    let open = async |carry, service: &str, instance: &str| {
        let header = OpenHeader {
            carry,
            source: Some(key("web")),
            destination: key(service),
            instance: InstanceName::new(instance).unwrap(),
            port: PortName::new("main").unwrap(),
        };
        member.open_dedicated(&far.name, far.data, &header.encode()).await
    };
    let run = async {
        // Requests have no lane of their own; as bytes they do not pass to what speaks HTTP.
        for (carry, service, instance) in [
            (Carry::Http1, "orders", "orders-1"),
            (Carry::Http2, "orders", "orders-1"),
            (Carry::Bytes, "orders", "orders-1"),
            (Carry::Bytes, "orders", "orders-9"),
        ] {
            assert_eq!(
                open(carry, service, instance).await.unwrap_err(),
                NotDedicated::Refused,
                "{carry:?} {instance}"
            );
        }
        assert_eq!(member.open_dedicated(&far.name, far.data, b"\x07").await.unwrap_err(), NotDedicated::Refused);
        let counted = |reason| far.shared.metrics.turned_count(reason);
        assert_eq!((counted(Turned::Carry), counted(Turned::NoInstance), counted(Turned::Header)), (3, 1, 1));
        let mut smuggled = open(Carry::Bytes, "maybe", "maybe-1").await.unwrap();
        smuggled.write_all(b"GET /head HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        smuggled.flush().await.unwrap();
        assert!(smuggled.read_u8().await.is_err());
        eventually("it is counted", || counted(Turned::Carry) == 4).await;
        assert_eq!(orders.requests(), 0);
        // What it claims to be is judged as ever.
        let mut stream = open(Carry::Bytes, "echo", "echo-1").await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"cba");
    };
    tokio::task::LocalSet::new().run_until(run).await;
    let text = scrape(far);
    assert!(text.contains("starling_authorization_sources_refused_total{reason=\"not_granted\"}"), "{text}");
    assert!(!text.contains("source_service=\"web\""), "{text}");
}
