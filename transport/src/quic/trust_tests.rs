//! Questions about trust over real endpoints: who may ask what on which protocol, and the limits, each one past its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint};
use starling_identity::{Revoked, tls};
use tokio::time::timeout;

use super::limits::{TRUST_ANSWER_BYTES_MAX, TRUST_PLACES_MAX, TRUST_QUESTION_BYTES_MAX};
use super::tests::{End, any};
use super::{CloseCode, DialError, GossipNet};
use crate::testing::{PATIENCE, TestMesh, clock, name, until};

/// Answers each question with itself, twice; `none` with nothing, `long` with too much.
fn answering(net: &GossipNet) {
    net.set_trust_answers(Arc::new(|question: &[u8]| match question {
        b"none" => None,
        b"long" => Some(vec![7; TRUST_ANSWER_BYTES_MAX + 1].into()),
        b"longest" => Some(vec![7; TRUST_ANSWER_BYTES_MAX].into()),
        question => Some([question, question].concat().into()),
    }));
}

fn config(crypto: &Arc<rustls::ClientConfig>, alpn: &[u8]) -> quinn::ClientConfig {
    let mut crypto = (**crypto).clone();
    crypto.alpn_protocols = vec![alpn.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(Arc::new(crypto)).unwrap()))
}

async fn connect(config: quinn::ClientConfig, to: &End) -> Result<Connection, ConnectionError> {
    let endpoint = Endpoint::client(any()).unwrap();
    let connecting = endpoint.connect_with(config, to.address(), tls::SERVER_NAME).unwrap();
    timeout(PATIENCE, connecting).await.expect("an answer in time")
}

async fn bare(to: &End) -> Connection {
    connect(config(&tls::trust_client(clock), tls::ALPN_TRUST), to).await.unwrap()
}

async fn closed_with(connection: &Connection) -> Option<CloseCode> {
    let error = timeout(PATIENCE, connection.closed()).await.expect("a close in time");
    let ConnectionError::ApplicationClosed(close) = error else { panic!("{error:?}") };
    CloseCode::of(close.error_code)
}

/// Time enough for a source to be served again.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(1_050)).await;
}

#[tokio::test]
async fn who_is_refused_as_a_peer_gets_an_answer_and_nothing_else() {
    let (mesh, twin) = (TestMesh::new(), TestMesh::new());
    let (mut a, b) = (End::start(&mesh, "a"), End::start(&twin, "b"));
    answering(&a.net);
    let asked = b.net.ask_trust(a.address(), Bytes::from_static(b"what follows?")).await;
    assert_eq!(asked, Ok(Bytes::from_static(b"what follows?what follows?")));
    until("it is counted", || a.net.stats().trust_answered == 1).await;
    assert_eq!((b.net.stats().trust_asked, a.net.stats().connections), (1, 0));
    a.expect_nothing();
    let again = b.net.ask_trust(a.address(), Bytes::from_static(b"again")).await;
    assert_eq!(again, Err(DialError::Closed("busy".to_owned())), "once a second");
    pause().await;
    let longest = b.net.ask_trust(a.address(), Bytes::from_static(b"longest")).await.unwrap();
    assert_eq!(longest.len(), TRUST_ANSWER_BYTES_MAX);
    assert_eq!((a.net.stats().trust_busy, b.net.stats().trust_unanswered), (1, 1));
}

/// Each protocol of the port, with no certificate, a foreign one, a revoked one and a good one (security.md, 7.2).
#[tokio::test]
async fn each_protocol_lets_in_whom_it_should() {
    let (mesh, twin) = (TestMesh::new(), TestMesh::new());
    let (current, outcast) = (mesh.node("b"), mesh.node("x"));
    current.revoke(Revoked::new([(name("x"), Vec::new())]));
    let b = End::with(current, mesh.id(), "b", any(), super::QuicKeys::random());
    answering(&b.net);
    let foreign = twin.node("a");
    foreign.swap_trust(mesh.node("y").trust());
    let shown = |current| tls::gossip_client(current, None, clock);
    // A certificate that does not hold ends the handshake, whatever it is for; so who asks about trust shows none.
    let cases = [
        ("no", tls::trust_client(clock), true),
        ("foreign", shown(&foreign), false),
        ("revoked", shown(&outcast), false),
        ("good", shown(&mesh.node("a")), true),
    ];
    for (what, crypto, passes) in cases {
        for alpn in [tls::ALPN_GOSSIP, tls::ALPN_TRUST, tls::ALPN_MUX, tls::ALPN_DATA, b"h3"] {
            let is_ours = alpn == tls::ALPN_GOSSIP || alpn == tls::ALPN_TRUST;
            let connection = match connect(config(&crypto, alpn), &b).await {
                Ok(connection) => connection,
                Err(error) => {
                    assert!(!is_ours || !passes, "{what} {error:?}");
                    continue;
                }
            };
            assert!(is_ours, "{what}");
            if !passes {
                // The client is through before the server has looked at its certificate.
                let error = timeout(PATIENCE, connection.closed()).await.expect("a close in time");
                assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{what}: {error:?}");
            } else if alpn == tls::ALPN_TRUST {
                let (mut send, mut receive) = connection.open_bi().await.unwrap();
                send.write_all(b"?").await.unwrap();
                send.finish().unwrap();
                assert_eq!(receive.read_to_end(10).await.unwrap(), b"??", "{what}");
                connection.close(0_u8.into(), b"");
                pause().await;
            } else if what == "no" {
                assert_eq!(closed_with(&connection).await, Some(CloseCode::Malformed));
            }
        }
    }
    assert_eq!(b.net.stats().connections, 0, "nobody has said a hello");
}

#[tokio::test]
async fn bad_bytes_end_the_connection_and_are_counted() {
    let mesh = TestMesh::new();
    let a = End::start(&mesh, "a");
    let say = async |words: &[u8]| {
        let connection = bare(&a).await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(words).await.unwrap();
        let _ = send.finish();
        closed_with(&connection).await
    };
    assert_eq!(say(b"before anybody answers").await, Some(CloseCode::Malformed));
    answering(&a.net);
    let too_long = vec![1; TRUST_QUESTION_BYTES_MAX + 1];
    for words in [&b"none"[..], b"long", &too_long] {
        pause().await;
        assert_eq!(say(words).await, Some(CloseCode::Malformed), "{} bytes", words.len());
    }
    assert_eq!(a.net.stats().trust_refused, 4);
    pause().await;
    let connection = bare(&a).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&too_long[1..]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(receive.read_to_end(usize::MAX).await.unwrap().len(), 2 * TRUST_QUESTION_BYTES_MAX);
    connection.close(0_u8.into(), b"");
    // Who says nothing is closed at the deadline.
    pause().await;
    assert_eq!(closed_with(&bare(&a).await).await, Some(CloseCode::Malformed));
}

#[tokio::test]
async fn one_question_more_than_are_answered_at_once_is_not_read() {
    let mesh = TestMesh::new();
    let a = End::start(&mesh, "a");
    answering(&a.net);
    let all = a.net.inner.trust.take_places(TRUST_PLACES_MAX);
    assert_eq!(closed_with(&bare(&a).await).await, Some(CloseCode::Busy));
    drop(all);
    let one_less = a.net.inner.trust.take_places(TRUST_PLACES_MAX - 1);
    let b = End::start(&mesh, "b");
    assert!(b.net.ask_trust(a.address(), Bytes::from_static(b"?")).await.is_ok());
    drop(one_less);
}

#[tokio::test]
async fn connections_under_a_root_that_went_are_closed() {
    let mesh = TestMesh::new();
    let current = mesh.node("a");
    let mut a = End::with(current.clone(), mesh.id(), "a", any(), super::QuicKeys::random());
    let mut b = End::start(&mesh, "b");
    a.dial(&b, "first");
    a.expect_up(&b, Some("first")).await;
    b.expect_up(&a, None).await;
    assert_eq!(a.net.sweep(), 0, "it stands");
    current.swap_trust(TestMesh::new().node("x").trust());
    assert_eq!(a.net.sweep(), 1);
    assert_eq!(a.net.stats().swept, 1);
    a.expect_down(&name("b"), super::DownReason::Local).await;
    b.expect_down(&name("a"), super::DownReason::Refused).await;
}
