//! Two or three real endpoints on loopback.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test names the one event it expects and fails on all others")]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_identity::CurrentIdentity;
use starling_model::{MeshId, NodeName, codes};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{
    AGE_MAX, CloseCode, DATAGRAM_BYTES_MAX, DialError, DialTag, DownReason, FRAME_BYTES_MAX, GossipNet, INBOUND_BIT,
    KeepAlive, NetEvent, NetSettings, Pair, QuicKeys,
};
use crate::testing::{PATIENCE, TestMesh, clock, name, until};

pub(super) struct End {
    pub(super) net: GossipNet,
    pub(super) inbox: mpsc::Receiver<NetEvent>,
    pub(super) me: NodeName,
}

pub(super) fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(super) fn settings(listen: SocketAddr, mesh: MeshId, keys: QuicKeys) -> NetSettings {
    NetSettings { listen, keys, mesh, keep_alive: KeepAlive::ByProbes, age_max: AGE_MAX }
}

impl End {
    pub(super) fn start(mesh: &TestMesh, node: &str) -> Self {
        Self::with(mesh.node(node), mesh.id(), node, any(), QuicKeys::random())
    }

    pub(super) fn with(current: CurrentIdentity, mesh: MeshId, node: &str, listen: SocketAddr, keys: QuicKeys) -> Self {
        let (sender, inbox) = mpsc::channel(1_024);
        let net = GossipNet::bind(settings(listen, mesh, keys), current, clock, sender).unwrap();
        Self { net, inbox, me: name(node) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.net.local_addr().unwrap()
    }

    pub(super) fn dial(&self, other: &Self, tag: &str) {
        self.net.dial(Some(other.me.clone()), DialTag(tag.to_owned()), vec![other.address()]);
    }

    pub(super) async fn next(&mut self) -> NetEvent {
        timeout(PATIENCE, self.inbox.recv()).await.expect("an event in time").expect("an open inbox")
    }

    pub(super) async fn expect_up(&mut self, other: &Self, tag: Option<&str>) {
        match self.next().await {
            NetEvent::Up { peer, address, dialled, rtt, .. } => {
                assert_eq!(peer, other.me);
                assert_eq!(address, other.address());
                assert_eq!(dialled, tag.map(|tag| DialTag(tag.to_owned())));
                assert!(rtt < Duration::from_secs(1));
            }
            event => panic!("{}: {event:?}", self.me),
        }
    }

    pub(super) async fn expect_down(&mut self, other: &NodeName, reason: DownReason) {
        assert_eq!(self.next().await, NetEvent::Down { peer: other.clone(), reason });
    }

    pub(super) async fn expect_dial_failed(&mut self) -> DialError {
        match self.next().await {
            NetEvent::DialFailed { reason, .. } => reason,
            event => panic!("{}: {event:?}", self.me),
        }
    }

    pub(super) fn expect_nothing(&mut self) {
        assert!(self.inbox.try_recv().is_err());
    }

    /// Sends until one arrives, because datagrams may be lost even here.
    async fn expect_datagram_to(&self, other: &mut Self, payload: &'static [u8]) {
        let wanted = NetEvent::Datagram { from: self.me.clone(), payload: Bytes::from_static(payload) };
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE);
            let _ = self.net.send_datagram(&other.me, Bytes::from_static(payload));
            match timeout(Duration::from_millis(300), other.inbox.recv()).await {
                Ok(Some(event)) => {
                    assert_eq!(event, wanted);
                    return;
                }
                Ok(None) => panic!("the inbox is closed"),
                Err(_) => {}
            }
        }
    }
}

async fn pair(mesh: &TestMesh) -> (End, End) {
    let (mut a, mut b) = (End::start(mesh, "a"), End::start(mesh, "b"));
    a.dial(&b, "first");
    a.expect_up(&b, Some("first")).await;
    b.expect_up(&a, None).await;
    (a, b)
}

#[tokio::test]
async fn a_dial_brings_both_ends_up_and_datagrams_flow_both_ways() {
    let mesh = TestMesh::new();
    let (mut a, mut b) = pair(&mesh).await;
    a.expect_datagram_to(&mut b, b"ping").await;
    b.expect_datagram_to(&mut a, b"ack").await;
    assert_eq!(a.net.peers(), [(b.me.clone(), b.address())]);
    assert!(a.net.rtt(&b.me).is_some());
    assert_eq!(a.net.stats().connections, 1);
    assert_eq!(b.net.stats().handshakes_accepted, 1);
}

#[tokio::test]
async fn both_ends_know_that_the_key_exchange_was_the_hybrid_one() {
    let mesh = TestMesh::new();
    let (one, other) = (mesh.node("a"), mesh.node("b"));
    let end = |current: &CurrentIdentity, node| End::with(current.clone(), mesh.id(), node, any(), QuicKeys::random());
    let (mut a, mut b) = (end(&one, "a"), end(&other, "b"));
    assert_eq!(one.negotiated().with(&b.me), None, "nothing was negotiated yet");
    a.dial(&b, "first");
    a.expect_up(&b, Some("first")).await;
    b.expect_up(&a, None).await;
    assert_eq!(one.negotiated().with(&b.me), Some("X25519MLKEM768"));
    assert_eq!(other.negotiated().with(&a.me), Some("X25519MLKEM768"));
}

#[tokio::test]
async fn a_seed_is_known_by_its_address_only() {
    let mesh = TestMesh::new();
    let (mut a, mut b) = (End::start(&mesh, "a"), End::start(&mesh, "b"));
    a.net.dial(None, DialTag("seed".to_owned()), vec![b.address()]);
    a.expect_up(&b, Some("seed")).await;
    b.expect_up(&a, None).await;
}

#[tokio::test]
async fn datagrams_have_a_limit_and_go_nowhere_without_a_connection() {
    let mesh = TestMesh::new();
    let (a, mut b) = pair(&mesh).await;
    let largest = Bytes::from(vec![1; DATAGRAM_BYTES_MAX]);
    assert!(a.net.send_datagram(&b.me, largest.clone()));
    assert_eq!(b.next().await, NetEvent::Datagram { from: a.me.clone(), payload: largest });
    assert!(!a.net.send_datagram(&b.me, Bytes::from(vec![1; DATAGRAM_BYTES_MAX + 1])));
    assert!(!a.net.send_datagram(&name("c"), Bytes::from_static(b"x")));
    assert_eq!(a.net.stats().datagrams_dropped_out, 2);
}

#[tokio::test]
async fn a_full_inbox_drops_the_newest_datagrams_and_counts_them() {
    let mesh = TestMesh::new();
    let mut a = End::start(&mesh, "a");
    let (sender, inbox) = mpsc::channel(4);
    let net = GossipNet::bind(settings(any(), mesh.id(), QuicKeys::random()), mesh.node("b"), clock, sender).unwrap();
    let b = End { net, inbox, me: name("b") };
    a.dial(&b, "d");
    a.expect_up(&b, Some("d")).await;
    // Its own `Up` and three datagrams fill the inbox.
    let start = Instant::now();
    while b.net.stats().datagrams_dropped_inbox == 0 {
        assert!(start.elapsed() < PATIENCE);
        let _ = a.net.send_datagram(&b.me, Bytes::from_static(b"x"));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(b.net.stats().datagrams_received <= 4);
}

#[tokio::test]
async fn an_exchange_carries_frames_both_ways_in_order() {
    let mesh = TestMesh::new();
    let (mut a, mut b) = pair(&mesh).await;
    let big = Bytes::from(vec![7; FRAME_BYTES_MAX]);
    a.net.send_sync(&b.me, 5, Bytes::from_static(b"digest"), false);
    a.net.send_sync(&b.me, 5, big.clone(), true);
    let exchange = match b.next().await {
        NetEvent::Sync { from, exchange, frame } => {
            assert_eq!((&from, &frame[..]), (&a.me, &b"digest"[..]));
            exchange
        }
        event => panic!("{event:?}"),
    };
    assert_ne!(exchange & INBOUND_BIT, 0);
    assert_eq!(b.next().await, NetEvent::Sync { from: a.me.clone(), exchange, frame: big });
    b.net.send_sync(&a.me, exchange, Bytes::from_static(b"difference"), true);
    let frame = Bytes::from_static(b"difference");
    assert_eq!(a.next().await, NetEvent::Sync { from: b.me.clone(), exchange: 5, frame });
    until("the exchange is over", || a.net.inner.exchanges().is_empty() && b.net.inner.exchanges().is_empty()).await;
    // Over is over: an answer too many is dropped and counted.
    b.net.send_sync(&a.me, exchange, Bytes::from_static(b"late"), true);
    b.net.send_sync(&a.me, 9, Bytes::from(vec![0; FRAME_BYTES_MAX + 1]), true);
    assert_eq!(b.net.stats().frames_dropped, 2);
    assert_eq!((a.net.stats().exchanges_broken, b.net.stats().exchanges_broken), (0, 0));
}

/// A push needs no answer, so its receiver only finishes its half. A stream held open instead would be one of eight for
/// the length of a deadline.
#[tokio::test]
async fn an_empty_last_frame_only_finishes_our_half() {
    let mesh = TestMesh::new();
    let (a, mut b) = pair(&mesh).await;
    for push in 1..=32 {
        a.net.send_sync(&b.me, push, Bytes::from_static(b"push"), true);
        match b.next().await {
            NetEvent::Sync { exchange, .. } => b.net.send_sync(&a.me, exchange, Bytes::new(), true),
            event => panic!("{event:?}"),
        }
    }
    until("all are over", || a.net.inner.exchanges().is_empty() && b.net.inner.exchanges().is_empty()).await;
    a.net.send_sync(&b.me, 99, Bytes::new(), false);
    assert_eq!((a.net.stats().frames_dropped, b.net.stats().frames_dropped), (1, 0));
    assert_eq!((a.net.stats().exchanges_broken, b.net.stats().exchanges_broken), (0, 0));
}

#[tokio::test]
async fn a_frame_with_a_wrong_length_breaks_its_exchange_only() {
    let mesh = TestMesh::new();
    let (a, mut b) = pair(&mesh).await;
    let connection = a.net.inner.table().current(&b.me).unwrap().connection.clone();
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    for (length, body) in [(0, &b""[..]), (too_long, b"x"), (5, b"four"), (u32::MAX, b"")] {
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        let _ = send.write_all(&[&length.to_le_bytes()[..], body].concat()).await;
        let _ = send.finish();
    }
    until("four broken exchanges", || b.net.stats().exchanges_broken == 4).await;
    a.expect_datagram_to(&mut b, b"still here").await;
}

/// Begins an exchange with `other` as soon as it can, on whichever of two connections it saw first, and serves one.
async fn meet_crossed(end: &mut End, other: NodeName, tag: &str) {
    let (mut is_up, mut is_answered, mut is_served) = (false, false, false);
    while !(is_up && is_answered && is_served) {
        match end.next().await {
            NetEvent::Up { pair, dialled, .. } => {
                assert_eq!(pair == Pair::New, !is_up, "{}: up once", end.me);
                if pair == Pair::New {
                    is_up = true;
                    end.net.send_sync(&other, 1, Bytes::from_static(b"early"), true);
                }
                if let Some(DialTag(dialled)) = dialled {
                    assert_eq!((dialled.as_str(), is_answered), (tag, false), "{}: each dial is answered once", end.me);
                    is_answered = true;
                }
            }
            NetEvent::Sync { exchange, frame, .. } => {
                assert_eq!((&frame[..], exchange & INBOUND_BIT), (&b"early"[..], INBOUND_BIT));
                is_served = true;
                end.net.send_sync(&other, exchange, Bytes::new(), true);
            }
            event => panic!("{}: {event:?}", end.me),
        }
    }
}

async fn cross(mesh: &TestMesh) {
    let (mut a, mut b) = (End::start(mesh, "a"), End::start(mesh, "b"));
    a.dial(&b, "from a");
    b.dial(&a, "from b");
    tokio::join!(meet_crossed(&mut a, name("b"), "from a"), meet_crossed(&mut b, name("a"), "from b"));
    until("one connection is left", || {
        a.net.inner.table().links_len() == 1
            && b.net.inner.table().links_len() == 1
            && a.net.inner.endpoint.open_connections() == 1
            && b.net.inner.endpoint.open_connections() == 1
    })
    .await;
    for net in [&a.net, &b.net] {
        let stats = net.stats();
        assert_eq!((stats.exchanges_broken, stats.frames_dropped, stats.ended), (0, 0, [0; 8]));
    }
    a.expect_datagram_to(&mut b, b"over the one").await;
    b.expect_datagram_to(&mut a, b"and back").await;
}

#[tokio::test]
async fn dials_that_cross_leave_one_connection_and_lose_nothing() {
    let mesh = TestMesh::new();
    tokio::join!(cross(&mesh), cross(&mesh), cross(&mesh), cross(&mesh));
}

#[tokio::test]
async fn a_dial_of_a_connected_peer_is_answered_at_once() {
    let mesh = TestMesh::new();
    let (mut a, mut b) = pair(&mesh).await;
    a.dial(&b, "again");
    a.expect_up(&b, Some("again")).await;
    b.dial(&a, "back");
    b.expect_up(&a, Some("back")).await;
    assert_eq!(a.net.stats().connections, 1);
    a.expect_nothing();
}

/// At its age limit a connection is replaced by its dialler: no event, and what ran on it goes on.
#[tokio::test]
async fn an_old_connection_is_replaced_and_nothing_is_lost() {
    let mesh = TestMesh::new();
    let (sender, inbox) = mpsc::channel(64);
    let young = NetSettings { age_max: Duration::from_millis(1_500), ..settings(any(), mesh.id(), QuicKeys::random()) };
    let net = GossipNet::bind(young, mesh.node("a"), clock, sender).unwrap();
    let (mut a, mut b) = (End { net, inbox, me: name("a") }, End::start(&mesh, "b"));
    a.dial(&b, "d");
    a.expect_up(&b, Some("d")).await;
    b.expect_up(&a, None).await;
    let old = a.net.inner.table().current(&b.me).unwrap().facts.number;
    a.net.send_sync(&b.me, 1, Bytes::from_static(b"before"), false);
    let NetEvent::Sync { exchange, .. } = b.next().await else { panic!("the frame") };
    until("a renewal", || a.net.stats().renewals > 0).await;
    assert!(!a.net.inner.table().is_current(&b.me, old));
    assert!(a.net.stats().connections >= 2, "the old one is still there");
    // The exchange has not noticed; datagrams take the new connection.
    a.net.send_sync(&b.me, 1, Bytes::from_static(b"after"), true);
    let frame = Bytes::from_static(b"after");
    assert_eq!(b.next().await, NetEvent::Sync { from: a.me.clone(), exchange, frame });
    b.net.send_sync(&a.me, exchange, Bytes::from_static(b"answer"), true);
    let frame = Bytes::from_static(b"answer");
    assert_eq!(a.next().await, NetEvent::Sync { from: b.me.clone(), exchange: 1, frame });
    a.net.inner.table().retire(&b.me, old);
    a.expect_datagram_to(&mut b, b"new").await;
    b.expect_datagram_to(&mut a, b"new").await;
    assert_eq!((a.net.stats().ended, b.net.stats().ended), ([0; 8], [0; 8]));
    assert_eq!((a.net.stats().exchanges_broken, b.net.stats().exchanges_broken), (0, 0));
}

#[test]
fn ages_are_spread_over_two_fifths() {
    let mean = Duration::from_secs(50_000);
    let ages: Vec<Duration> = (0..200).map(|_| super::dial::age(mean)).collect();
    assert!(ages.iter().all(|age| (Duration::from_secs(40_000)..Duration::from_secs(60_000)).contains(age)));
    assert!(ages.iter().max().unwrap().saturating_sub(*ages.iter().min().unwrap()) > Duration::from_secs(10_000));
}

#[tokio::test]
async fn bytes_are_counted_on_each_layer() {
    let mesh = TestMesh::new();
    let (a, mut b) = pair(&mesh).await;
    let before = a.net.stats();
    assert!(before.udp_bytes_sent > 1_200 && before.udp_packets_sent >= 3, "a handshake was counted: {before:?}");
    a.expect_datagram_to(&mut b, &[7; 500]).await;
    let (sent, received) = (a.net.stats(), b.net.stats());
    assert_eq!(sent.datagram_bytes_sent, 500 * sent.datagrams_sent);
    assert_eq!(received.datagram_bytes_received, 500 * received.datagrams_received);
    assert!(sent.udp_bytes_sent >= before.udp_bytes_sent + 500 + 16);
    assert_eq!(sent.wire_bytes_sent, sent.udp_bytes_sent + 28 * sent.udp_packets_sent);
    assert!(received.udp_bytes_received >= 1_200 + 500 && received.wire_bytes_received > received.udp_bytes_received);
    a.net.send_sync(&b.me, 1, Bytes::from_static(b"twelve bytes"), true);
    let NetEvent::Sync { .. } = b.next().await else { panic!("the frame") };
    assert_eq!((a.net.stats().frame_bytes_sent, b.net.stats().frame_bytes_received), (12, 12));
}

#[tokio::test]
async fn three_ends_form_three_pairs() {
    let mesh = TestMesh::new();
    let (mut a, mut b) = pair(&mesh).await;
    let mut c = End::start(&mesh, "c");
    c.dial(&a, "a");
    c.expect_up(&a, Some("a")).await;
    a.expect_up(&c, None).await;
    c.dial(&b, "b");
    c.expect_up(&b, Some("b")).await;
    b.expect_up(&c, None).await;
    c.expect_datagram_to(&mut b, b"c to b").await;
    b.expect_datagram_to(&mut a, b"b to a").await;
    a.expect_datagram_to(&mut c, b"a to c").await;
    assert_eq!(a.net.peers().len(), 2);
}

#[tokio::test]
async fn a_close_says_why_on_both_sides() {
    let mesh = TestMesh::new();
    for (code, reason) in [
        (CloseCode::Leaving, DownReason::Left),
        (CloseCode::Evicted, DownReason::Evicted),
        (CloseCode::Stale, DownReason::Other),
        (CloseCode::Revoked, DownReason::Refused),
    ] {
        let (mut a, mut b) = pair(&mesh).await;
        a.net.close(&b.me, code);
        b.expect_down(&a.me, reason).await;
        a.expect_down(&b.me, DownReason::Local).await;
        assert_eq!(b.net.stats().connections, 0);
    }
    let (mut a, mut b) = pair(&mesh).await;
    a.net.shutdown().await;
    b.expect_down(&a.me, DownReason::Other).await;
    a.expect_down(&b.me, DownReason::Local).await;
    // Nothing is left that could report anything.
    drop(a.net);
    assert_eq!(timeout(PATIENCE, a.inbox.recv()).await, Ok(None));
}

#[tokio::test]
async fn a_restarted_peer_is_noticed_at_the_next_packet() {
    let mesh = TestMesh::new();
    let (keys, current) = (QuicKeys::random(), mesh.node("b"));
    let mut a = End::start(&mesh, "a");
    // As by kill -9: its runtime goes away, and with it the socket, without a word.
    let life = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let b = {
        let _inside = life.enter();
        End::with(current.clone(), mesh.id(), "b", any(), keys.clone())
    };
    a.dial(&b, "d");
    a.expect_up(&b, Some("d")).await;
    let (address, b_name) = (b.address(), b.me.clone());
    // Its tasks are gone before the handle is, whose end would send a farewell.
    tokio::task::spawn_blocking(move || drop(life)).await.unwrap();
    drop(b);
    until("the port is free", || UdpSocket::bind(address).is_ok()).await;
    let mut reborn = End::with(current, mesh.id(), "b", address, keys);
    let start = Instant::now();
    let mut sent = 0;
    let event = loop {
        assert!(start.elapsed() < PATIENCE, "after {sent} datagrams");
        let _ = a.net.send_datagram(&b_name, Bytes::from_static(&[1; 100]));
        sent += 1;
        if let Ok(event) = timeout(Duration::from_millis(50), a.inbox.recv()).await {
            break event.unwrap();
        }
    };
    assert_eq!(event, NetEvent::Down { peer: name("b"), reason: DownReason::Reset });
    assert!(start.elapsed() < Duration::from_secs(3));
    a.dial(&reborn, "new life");
    a.expect_up(&reborn, Some("new life")).await;
    reborn.expect_up(&a, None).await;
}

#[tokio::test]
async fn a_restarted_peer_that_dials_first_replaces_its_former_life() {
    let mesh = TestMesh::new();
    let current = mesh.node("b");
    let mut a = End::start(&mesh, "a");
    let b = End::with(current.clone(), mesh.id(), "b", any(), QuicKeys::random());
    a.dial(&b, "d");
    a.expect_up(&b, Some("d")).await;
    // Other keys and another port: no reset can tell.
    let mut reborn = End::with(current, mesh.id(), "b", any(), QuicKeys::random());
    reborn.dial(&a, "here again");
    a.expect_down(&b.me, DownReason::Reset).await;
    a.expect_up(&reborn, None).await;
    reborn.expect_up(&a, Some("here again")).await;
    a.expect_datagram_to(&mut reborn, b"to the new life").await;
}

#[tokio::test]
async fn a_node_of_another_mesh_is_refused_and_told_apart() {
    let (mesh, twin, other) = (TestMesh::new(), TestMesh::new(), TestMesh::in_domain("other.internal"));
    let mut b = End::start(&mesh, "b");
    // Another trust domain; the same trust domain with other roots.
    for foreign in [&other, &twin] {
        let mut a = End::start(foreign, "a");
        a.dial(&b, "d");
        let error = a.expect_dial_failed().await;
        assert!(matches!(error, DialError::PeerCertificate(_)), "{error:?}");
        assert_eq!(error.code(), Some(codes::OTHER_MESH), "{error:?}");
        assert_eq!(error.as_down(), DownReason::Foreign);
    }
    b.expect_nothing();
    assert_eq!(b.net.stats().connections, 0);
}

/// Certificates that fit and a hello of another mesh: nobody should have that, and it must not matter.
#[tokio::test]
async fn a_hello_of_another_mesh_is_refused_by_both() {
    let mesh = TestMesh::new();
    let mut b = End::start(&mesh, "b");
    let mut a = End::with(mesh.node("a"), MeshId([9; 32]), "a", any(), QuicKeys::random());
    a.dial(&b, "d");
    let error = a.expect_dial_failed().await;
    assert_eq!(error.code(), Some(codes::OTHER_MESH), "{error:?}");
    until("it is counted", || b.net.stats().handshakes_refused == 1).await;
    b.expect_nothing();
}

#[tokio::test]
async fn refusals_name_their_reason() {
    let mesh = TestMesh::new();
    let (mut a, b) = (End::start(&mesh, "a"), End::start(&mesh, "b"));
    a.net.dial(Some(name("c")), DialTag("d".to_owned()), vec![b.address()]);
    let error = a.expect_dial_failed().await;
    assert_eq!((error.reason(), error.code()), ("unexpected-peer", Some(codes::UNEXPECTED_PEER)), "{error:?}");
    // Our clock is far behind the other's.
    let ahead = mesh.node_at("d", clock().plus(40 * 86_400));
    fn later() -> starling_identity::UnixTime {
        clock().plus(40 * 86_400)
    }
    let (sender, _inbox) = mpsc::channel(16);
    let net = GossipNet::bind(settings(any(), mesh.id(), QuicKeys::random()), ahead, later, sender).unwrap();
    a.net.dial(Some(name("d")), DialTag("d".to_owned()), vec![net.local_addr().unwrap()]);
    let error = a.expect_dial_failed().await;
    assert_eq!((error.reason(), error.code()), ("not-yet-valid", Some(codes::CLOCKS_DIFFER)), "{error:?}");
}

#[tokio::test]
async fn a_client_that_the_server_refuses_is_never_up() {
    let (mesh, twin) = (TestMesh::new(), TestMesh::new());
    let mut b = End::start(&mesh, "b");
    // It believes in our mesh and shows a certificate of another: its own handshake succeeds.
    let current = twin.node("a");
    let mut a = End::with(current.clone(), mesh.id(), "a", any(), QuicKeys::random());
    current.swap_trust(mesh.node("a").trust());
    a.dial(&b, "d");
    let error = a.expect_dial_failed().await;
    assert!(matches!(error, DialError::OurCertificate(_)), "{error:?}");
    assert_eq!(error.code(), Some(codes::OTHER_MESH));
    a.expect_nothing();
    b.expect_nothing();
    assert_eq!(b.net.stats().connections, 0);
}

#[tokio::test]
async fn nobody_at_the_address_is_a_timeout_and_other_addresses_are_tried() {
    let mesh = TestMesh::new();
    let (mut a, b) = (End::start(&mesh, "a"), End::start(&mesh, "b"));
    let silent = UdpSocket::bind(any()).unwrap();
    let nobody = silent.local_addr().unwrap();
    let start = Instant::now();
    a.net.dial(None, DialTag("d".to_owned()), vec![nobody]);
    let error = a.expect_dial_failed().await;
    assert_eq!((error.clone(), error.code()), (DialError::Timeout, Some(codes::NO_QUIC_ANSWER)));
    assert!(start.elapsed() < Duration::from_secs(5));
    a.net.dial(Some(b.me.clone()), DialTag("e".to_owned()), vec![nobody, b.address()]);
    a.expect_up(&b, Some("e")).await;
    a.net.dial(Some(name("x")), DialTag("f".to_owned()), vec![]);
    assert!(matches!(a.expect_dial_failed().await, DialError::NotDialled(_)));
    // A dial of our own address, as seed lists often have it.
    a.net.dial(None, DialTag("g".to_owned()), vec![a.address()]);
    let error = a.expect_dial_failed().await;
    assert!(matches!(error, DialError::OurOwnName(_) | DialError::Closed(_)), "{error:?}");
}

#[tokio::test]
async fn garbage_on_the_port_changes_nothing() {
    let mesh = TestMesh::new();
    let (a, mut b) = pair(&mesh).await;
    let socket = UdpSocket::bind(any()).unwrap();
    for length in [0, 1, 20, 100, 1_200, 1_400] {
        for first in [0_u8, 0x40, 0x80, 0xc0, 0xff] {
            let mut packet = vec![first; length];
            packet.iter_mut().enumerate().skip(1).for_each(|(at, byte)| *byte = at.to_le_bytes()[0]);
            socket.send_to(&packet, b.address()).unwrap();
        }
    }
    a.expect_datagram_to(&mut b, b"still here").await;
    assert_eq!(b.net.stats().connections, 1);
}

#[tokio::test]
async fn a_taken_port_is_said_with_its_address() {
    let mesh = TestMesh::new();
    let taken = UdpSocket::bind(any()).unwrap();
    let address = taken.local_addr().unwrap();
    let (sender, _inbox) = mpsc::channel(1);
    let settings = settings(address, mesh.id(), QuicKeys::random());
    let error = GossipNet::bind(settings, mesh.node("a"), clock, sender).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn the_way_out_is_full_when_most_connections_are_and_not_for_one_peer() {
    let mesh = TestMesh::new();
    let mut a = End::start(&mesh, "a");
    let mut others = ["b", "c", "d"].map(|node| End::start(&mesh, node));
    for other in &mut others {
        a.dial(other, "first");
        a.expect_up(other, Some("first")).await;
        other.expect_up(&a, None).await;
    }
    let percent = |net: &GossipNet| net.send_queue_percent();
    assert_eq!((percent(&a.net), percent(&others[0].net)), (0, 0));
    // Nothing leaves before this task waits.
    let fill = |to: &End| while a.net.send_datagram(&to.me, Bytes::from_static(&[7; DATAGRAM_BYTES_MAX])) {};
    fill(&others[0]);
    assert_eq!(percent(&a.net), 0, "one peer does not take its datagrams");
    fill(&others[1]);
    assert!(percent(&a.net) > 50, "{}", percent(&a.net));
}
