//! Peers that break the rules, by raw QUIC clients: what they get, what it costs, and what the log says about them.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use starling_identity::{CurrentIdentity, UnixTime, tls};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::hello::{Hello, PROTOCOL_MAX, PROTOCOL_MIN};
use super::limits::{DIALS_MAX, HELLO_BYTES_MAX, STREAMS_MAX};
use super::tests::{End, any, settings};
use super::{CloseCode, DialError, DialTag, GossipNet, QuicKeys};
use crate::testing::{NOW, PATIENCE, TestMesh, clock, name, until};

/// Log lines of the thread that the test and all its tasks run on.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, word: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
    }
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A client that speaks QUIC and nothing else of ours.
struct Raw {
    endpoint: Endpoint,
    tls: rustls::ClientConfig,
}

impl Raw {
    fn new(current: &CurrentIdentity) -> Self {
        Self::at(current, clock)
    }

    fn at(current: &CurrentIdentity, clock: tls::Clock) -> Self {
        let tls = (*tls::gossip_client(current, None, clock)).clone();
        Self { endpoint: Endpoint::client(any()).unwrap(), tls }
    }

    async fn connect(&self, to: &End) -> Result<Connection, ConnectionError> {
        let crypto = QuicClientConfig::try_from(Arc::new(self.tls.clone())).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connecting = self.endpoint.connect_with(config, to.address(), tls::SERVER_NAME).unwrap();
        timeout(PATIENCE, connecting).await.expect("an answer in time")
    }

    /// Connects and says these first words; gives why the peer closed.
    async fn closed_after(&self, to: &End, hello: &[u8]) -> ConnectionError {
        let connection = match self.connect(to).await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        if let Ok(mut stream) = connection.open_uni().await {
            let _ = stream.write_all(hello).await;
            let _ = stream.finish();
        }
        timeout(PATIENCE, connection.closed()).await.expect("a close in time")
    }
}

fn hello(mesh: &TestMesh) -> Hello {
    Hello { mesh: mesh.id(), versions: (PROTOCOL_MIN, PROTOCOL_MAX), instance: 1, holds_another: false }
}

fn later() -> UnixTime {
    NOW.plus(40 * 86_400)
}

fn code(error: &ConnectionError) -> Option<CloseCode> {
    let ConnectionError::ApplicationClosed(close) = error else { return None };
    CloseCode::of(close.error_code)
}

/// Three dials of a peer whose certificate is refused: all are counted, one line names the peer and the reason.
async fn check_refused((mesh, clock): (&TestMesh, tls::Clock), current: CurrentIdentity, reason: &str, peer: &str) {
    let (log, _guard) = Log::start();
    let (sender, inbox) = mpsc::channel(16);
    let settings = settings(any(), mesh.id(), QuicKeys::random());
    let net = GossipNet::bind(settings, mesh.node_at("b", clock()), clock, sender).unwrap();
    let mut b = End { net, inbox, me: name("b") };
    // It trusts us, so that it is we who refuse.
    current.swap_trust(mesh.node("x").trust());
    let raw = Raw::at(&current, clock);
    for _ in 0..3 {
        let error = raw.closed_after(&b, &hello(mesh).encode()).await;
        assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{reason}: {error:?}");
    }
    until("all are counted", || b.net.stats().handshakes_refused == 3).await;
    let lines = log.lines("peer refused");
    assert_eq!(lines.len(), 1, "{reason}: {lines:?}");
    for part in [&format!("reason=\"{reason}\""), &format!("peer=\"{peer}\""), "code=ST0", "side=\"accepted\""] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
    assert!(!lines[0].contains("127.0.0.1"), "addresses are for DEBUG: {}", lines[0]);
    b.expect_nothing();
    assert_eq!(b.net.stats().connections, 0);
}

#[tokio::test]
async fn a_refused_certificate_is_one_line_with_name_and_reason() {
    let (mesh, twin, other) = (TestMesh::new(), TestMesh::new(), TestMesh::in_domain("other.internal"));
    check_refused((&mesh, clock), other.node("a"), "other-mesh", "spiffe://other.internal/node/a").await;
    check_refused((&mesh, clock), twin.node("a"), "not-chained", "spiffe://prod.internal/node/a").await;
    // The same node certificate 40 days later, when its 30 are over.
    check_refused((&mesh, later), mesh.node("a"), "expired", "spiffe://prod.internal/node/a").await;
}

#[tokio::test]
async fn a_hello_of_another_mesh_is_one_line_with_name_and_reason() {
    let (mesh, (log, _guard)) = (TestMesh::new(), Log::start());
    let mut b = End::start(&mesh, "b");
    let raw = Raw::new(&mesh.node("a"));
    let foreign = Hello { mesh: starling_model::MeshId([9; 32]), ..hello(&mesh) };
    for _ in 0..3 {
        assert_eq!(code(&raw.closed_after(&b, &foreign.encode()).await), Some(CloseCode::OtherMesh));
    }
    let lines = log.lines("another mesh");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("peer=\"a\"") && lines[0].contains("reason=\"other-mesh\""), "{}", lines[0]);
    assert_eq!(b.net.stats().other_mesh, 3);
    b.expect_nothing();
}

#[tokio::test]
async fn a_hello_that_is_none_closes_the_connection() {
    let mesh = TestMesh::new();
    let mut b = End::start(&mesh, "b");
    let raw = Raw::new(&mesh.node("a"));
    let mut longest = hello(&mesh).encode();
    longest.resize(HELLO_BYTES_MAX, 0);
    let body = u16::try_from(HELLO_BYTES_MAX - 6).unwrap();
    longest[4..6].copy_from_slice(&body.to_le_bytes());
    let too_long = {
        let mut bytes = longest.clone();
        bytes.push(0);
        bytes[4..6].copy_from_slice(&(body + 1).to_le_bytes());
        bytes
    };
    for words in [&b""[..], b"GET / HTTP/1.1\r\n", &hello(&mesh).encode()[..20], &too_long] {
        let error = raw.closed_after(&b, words).await;
        assert_eq!(code(&error), Some(CloseCode::Malformed), "{words:?}: {error:?}");
    }
    let later = Hello { versions: (PROTOCOL_MAX + 1, PROTOCOL_MAX + 2), ..hello(&mesh) };
    let error = raw.closed_after(&b, &later.encode()).await;
    assert_eq!(code(&error), Some(CloseCode::NoCommonVersion), "{error:?}");
    assert_eq!(b.net.stats().handshakes_refused, 5);
    b.expect_nothing();
    // The longest that is allowed is taken.
    let connection = raw.connect(&b).await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&longest).await.unwrap();
    stream.finish().unwrap();
    until("a connection", || b.net.stats().connections == 1).await;
}

#[tokio::test]
async fn who_says_nothing_is_closed_at_the_deadline() {
    let mesh = TestMesh::new();
    let mut b = End::start(&mesh, "b");
    let connection = Raw::new(&mesh.node("a")).connect(&b).await.unwrap();
    // Datagrams and streams before the hello count for nothing.
    connection.send_datagram(bytes::Bytes::from_static(b"early")).unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[1, 0, 0, 0, 7]).await.unwrap();
    let error = timeout(PATIENCE, connection.closed()).await.expect("a close in time");
    assert_eq!(code(&error), Some(CloseCode::Malformed), "{error:?}");
    until("it is counted", || b.net.stats().handshakes_refused == 1).await;
    b.expect_nothing();
}

#[tokio::test]
async fn without_certificate_or_with_another_protocol_nobody_comes_in() {
    let mesh = TestMesh::new();
    let mut b = End::start(&mesh, "b");
    let mut nobody = Raw::new(&mesh.node("a"));
    nobody.tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    // It passes the handshake, as who asks about trust must; what it says is not read.
    let error = nobody.closed_after(&b, &hello(&mesh).encode()).await;
    assert_eq!(code(&error), Some(CloseCode::Malformed), "{error:?}");
    for protocols in [vec![b"h3".to_vec()], Vec::new()] {
        let mut other = Raw::new(&mesh.node("a"));
        other.tls.alpn_protocols = protocols;
        let error = other.closed_after(&b, &hello(&mesh).encode()).await;
        let is_refused = matches!(error, ConnectionError::ConnectionClosed(_) | ConnectionError::TransportError(_));
        assert!(is_refused, "{error:?}");
    }
    until("all are counted", || b.net.stats().handshakes_refused == 3).await;
    b.expect_nothing();
}

#[tokio::test]
async fn streams_and_dials_beyond_the_limit_wait_or_fail() {
    let mesh = TestMesh::new();
    let mut b = End::start(&mesh, "b");
    let connection = Raw::new(&mesh.node("a")).connect(&b).await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&hello(&mesh).encode()).await.unwrap();
    stream.finish().unwrap();
    until("a connection", || b.net.stats().connections == 1).await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        open.push(timeout(PATIENCE, connection.open_bi()).await.expect("a stream").unwrap());
    }
    assert!(timeout(Duration::from_millis(100), connection.open_bi()).await.is_err(), "one more must wait");
    // Dials of an address where nobody answers.
    let _ = b.next().await;
    let silent = std::net::UdpSocket::bind(any()).unwrap();
    for at in 0..=DIALS_MAX {
        b.net.dial(Some(name("c")), DialTag(at.to_string()), vec![silent.local_addr().unwrap()]);
    }
    assert!(matches!(b.expect_dial_failed().await, DialError::NotDialled(_)), "the last one fails at once");
}
