//! Limits of the gossip network, each tried one past its end. Those of handshakes are in `accept.rs`, of hellos and dials
//! in `hostile_tests.rs`, of frames in `frame.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use bytes::Bytes;

use super::limits::{
    ADDRESSES_MAX, CHANGES_MAX, CONNECTIONS_MAX, EXCHANGES_MAX, KEEP_ALIVE, LINKS_PER_PEER_MAX, QUEUE_BYTES_MAX,
    QUEUE_LEN_MAX, STRANGERS_MAX,
};
use super::table::{Dialled, Link, LinkFacts, Registered, Shown, Table};
use super::tests::End;
use super::{DialError, DialTag, FRAME_BYTES_MAX, KeepAlive, NetEvent, tuning};
use crate::testing::{TestMesh, name};

async fn pair() -> (End, End) {
    let mesh = TestMesh::new();
    let (mut a, mut b) = (End::start(&mesh, "a"), End::start(&mesh, "b"));
    a.dial(&b, "first");
    a.expect_up(&b, Some("first")).await;
    b.expect_up(&a, None).await;
    (a, b)
}

/// Nothing leaves before the test waits, because it has the only thread.
#[tokio::test]
async fn one_frame_more_than_wait_on_an_exchange_is_dropped_and_counted() {
    let (a, b) = pair().await;
    let frame = Bytes::from_static(b"frame");
    (0..QUEUE_LEN_MAX).for_each(|_| a.net.send_sync(&b.me, 1, frame.clone(), false));
    assert_eq!(a.net.stats().frames_dropped, 0);
    a.net.send_sync(&b.me, 1, frame, false);
    assert_eq!(a.net.stats().frames_dropped, 1);
}

#[tokio::test]
async fn one_frame_more_than_the_bytes_of_an_exchange_is_dropped_and_counted() {
    let (a, b) = pair().await;
    let largest = Bytes::from(vec![0; FRAME_BYTES_MAX]);
    let fit = QUEUE_BYTES_MAX / FRAME_BYTES_MAX;
    (0..fit).for_each(|_| a.net.send_sync(&b.me, 1, largest.clone(), false));
    assert_eq!(a.net.stats().frames_dropped, 0);
    a.net.send_sync(&b.me, 1, Bytes::from_static(b"x"), false);
    assert_eq!(a.net.stats().frames_dropped, 1);
    // Another exchange has a queue of its own.
    a.net.send_sync(&b.me, 2, largest, false);
    assert_eq!(a.net.stats().frames_dropped, 1);
}

#[tokio::test]
async fn one_exchange_more_than_an_endpoint_has_is_not_begun() {
    let (a, b) = pair().await;
    let last = u64::try_from(EXCHANGES_MAX).unwrap();
    (1..=last).for_each(|number| a.net.send_sync(&b.me, number, Bytes::from_static(b"x"), true));
    assert_eq!(a.net.stats().frames_dropped, 0);
    a.net.send_sync(&b.me, last + 1, Bytes::from_static(b"x"), true);
    assert_eq!(a.net.stats().frames_dropped, 1);
}

#[tokio::test]
async fn one_address_more_than_are_tried_is_not() {
    let mesh = TestMesh::new();
    let (mut a, mut b) = (End::start(&mesh, "a"), End::start(&mesh, "b"));
    // Bound, and silent.
    let silent: Vec<UdpSocket> = (0..ADDRESSES_MAX).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let mut addresses: Vec<SocketAddr> = silent.iter().map(|socket| socket.local_addr().unwrap()).collect();
    addresses.push(b.address());
    a.net.dial(Some(b.me.clone()), DialTag("ninth".to_owned()), addresses.clone());
    assert_eq!(a.expect_dial_failed().await, DialError::Timeout);
    addresses.remove(0);
    a.net.dial(Some(b.me.clone()), DialTag("eighth".to_owned()), addresses);
    a.expect_up(&b, Some("eighth")).await;
    b.expect_up(&a, None).await;
}

#[tokio::test]
async fn one_stranger_more_than_are_logged_is_counted_only() {
    let a = End::start(&TestMesh::new(), "a");
    let ip = |n: usize| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(0x0a00_0000 + n).unwrap()));
    assert!((0..STRANGERS_MAX).all(|n| a.net.inner.is_first_stranger(ip(n))));
    assert!(!a.net.inner.is_first_stranger(ip(STRANGERS_MAX)));
    assert!(!a.net.inner.is_first_stranger(ip(0)), "each once");
}

/// A connection as a table takes it; all of a test are the same one to quinn, which the table does not look into.
fn link(end: &End, peer: &End, number: u64) -> Link {
    let connection = end.net.inner.table().current(&peer.me).unwrap().connection.clone();
    let since = Instant::now();
    let facts = LinkFacts {
        number,
        dialled: Dialled::ByPeer,
        instance: 1,
        since,
        peer_holds_another: false,
        shown: Shown::default(),
    };
    Link { connection, facts }
}

#[tokio::test]
async fn one_connection_more_than_an_endpoint_has_is_not_taken() {
    let (a, b) = pair().await;
    let (mut table, link) = (Table::new(a.me.clone()), link(&a, &b, 1));
    let mut register = |n: usize| table.register(&name(&format!("p{n}")), link.clone(), None);
    assert!((0..CONNECTIONS_MAX).all(|n| register(n) == Registered::Kept(Vec::new())));
    assert_eq!(register(CONNECTIONS_MAX), Registered::Busy);
    assert_eq!(table.links_len(), CONNECTIONS_MAX);
}

#[tokio::test]
async fn one_connection_more_than_a_peer_has_ends_the_oldest() {
    let (a, b) = pair().await;
    let (mut table, first) = (Table::new(a.me.clone()), link(&a, &b, 0));
    let last = u64::try_from(LINKS_PER_PEER_MAX).unwrap();
    let numbered = |number| Link { facts: LinkFacts { number, ..first.facts }, ..first.clone() };
    // The peer dials again and again and closes none.
    (0..last)
        .for_each(|number| assert_eq!(table.register(&b.me, numbered(number), None), Registered::Kept(Vec::new())));
    assert_eq!(table.links_len(), LINKS_PER_PEER_MAX);
    table.register(&b.me, numbered(last), None);
    assert_eq!(table.links_len(), LINKS_PER_PEER_MAX);
    assert!(table.is_current(&b.me, last));
    table.retire(&b.me, 0);
    assert_eq!(table.links_len(), LINKS_PER_PEER_MAX, "the oldest has gone before");
    table.retire(&b.me, 1);
    assert_eq!(table.links_len(), LINKS_PER_PEER_MAX - 1);
}

#[test]
fn one_report_more_than_wait_is_not_taken() {
    let mut table = Table::new(name("a"));
    let failed = || NetEvent::DialFailed { tag: DialTag(String::new()), expected: None, reason: DialError::Timeout };
    assert!((0..CHANGES_MAX).all(|_| table.report(failed())));
    assert!(!table.report(failed()));
    assert!(table.next_change().is_some() && table.report(failed()), "a report that was read makes room");
}

#[test]
fn between_sites_a_silent_link_says_something_and_within_a_site_it_does_not() {
    let interval = |keep_alive| {
        let settings = format!("{:?}", tuning::transport(keep_alive));
        let (_, rest) = settings.split_once("keep_alive_interval: ").unwrap();
        rest.split(", ").next().unwrap().to_owned()
    };
    assert_eq!(interval(KeepAlive::BetweenSites), format!("Some({KEEP_ALIVE:?})"));
    assert_eq!(interval(KeepAlive::ByProbes), "None");
}
