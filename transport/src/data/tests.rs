//! Real mutual TLS on loopback: clients and servers as the proxy uses them, on one thread.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_identity::{CurrentIdentity, tls};
use starling_model::codes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{
    AGE_MAX, BACKOFF_MIN, CONNECTIONS_PER_PEER_MAX, CannotOpen, DataClient, DataServer, DataStream, DialError, Fault,
    Handshaker, MuxStream, OpenError, Proven, Prover, ResetCode, SECOND_CONNECTION_STREAMS, ServeEnd, fault_of,
};
use crate::mux::frame::{Header, Kind};
use crate::mux::limits::STREAM_WINDOW_INITIAL;
use crate::mux::{StreamId, Violation};
use crate::testing::{PATIENCE, TestMesh, clock, name, until};

mod age;
mod apart;
mod dedicated;
mod dials;
mod silence;
mod slow;
mod violations;

/// A server on a port of its own, whose handlers do as the first byte of the header says.
struct Host {
    address: SocketAddr,
    server: DataServer,
    ends: Rc<RefCell<Vec<ServeEnd>>>,
    connections: Rc<RefCell<Vec<JoinHandle<()>>>>,
    accept: JoinHandle<()>,
}

/// What a socket of the server says when it is dropped.
#[derive(Clone, Copy)]
enum Farewell {
    /// FIN.
    End,
    /// RST.
    Reset,
}

/// Who lets peers in, and the runtime that it does so on where that is not the server's.
#[derive(Clone)]
struct Door {
    prover: Prover,
    apart: Option<Handle>,
}

impl Door {
    async fn prove(&self, socket: TcpStream) -> Result<Proven, DialError> {
        let Some(apart) = &self.apart else { return self.prover.prove(socket).await };
        let (prover, home, socket) = (self.prover.clone(), Handle::current(), socket.into_std().unwrap());
        let proving = apart.spawn(async move {
            let mut proven = prover.prove(TcpStream::from_std(socket).unwrap()).await?;
            proven.move_to(&home)?;
            Ok(proven)
        });
        AbortOnDropHandle::new(proving).await.map_err(|_| DialError::NotDialled("that runtime has ended"))?
    }
}

impl Host {
    async fn start(current: CurrentIdentity) -> Self {
        Self::with(current, Farewell::End).await
    }

    async fn with(current: CurrentIdentity, farewell: Farewell) -> Self {
        let door = Door { prover: Prover::new(current.clone(), clock), apart: None };
        Self::serving((door, DataServer::new(current, clock, AGE_MAX)), farewell).await
    }

    async fn aged(current: CurrentIdentity, age_max: Duration) -> Self {
        let door = Door { prover: Prover::new(current.clone(), clock), apart: None };
        Self::serving((door, DataServer::new(current, clock, age_max)), Farewell::End).await
    }

    async fn serving((door, server): (Door, DataServer), farewell: Farewell) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ends = Rc::new(RefCell::new(Vec::new()));
        let connections = Rc::new(RefCell::new(Vec::new()));
        let (serving, seen, tasks) = (server.clone(), Rc::clone(&ends), Rc::clone(&connections));
        let accept = spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (door, serving, seen) = (door.clone(), serving.clone(), Rc::clone(&seen));
                if matches!(farewell, Farewell::Reset) {
                    socket.set_zero_linger().unwrap();
                }
                let task = spawn_local(async move {
                    let end = match door.prove(socket).await {
                        Ok(proven) => serving.serve(proven, |_peer, open, stream| handle(open.header, stream)).await,
                        Err(error) => ServeEnd::NotProven(error),
                    };
                    seen.borrow_mut().push(end);
                });
                tasks.borrow_mut().push(task);
            }
        });
        Self { address, server, ends, connections, accept }
    }

    /// As when the process dies: sockets close without a word of TLS.
    fn kill(&self) {
        self.accept.abort();
        self.connections.borrow_mut().drain(..).for_each(|task| task.abort());
    }
}

async fn handle(header: Bytes, mut stream: DataStream) {
    match header.first() {
        Some(b'e') => echo(stream).await,
        Some(b'n') => {
            let peer = stream.peer().node.to_string();
            let _ = stream.accept().await;
            let _ = stream.write_all(peer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Some(b'r') => stream.reset(ResetCode::Refused),
        Some(b'h') => {
            // Holds the stream, reads nothing, until the other side gives up.
            let _ = stream.accept().await;
            match stream {
                DataStream::Shared(stream) => poll_fn(|cx| stream.poll_broken(cx)).await,
                DataStream::Dedicated(stream) => {
                    while !stream.is_cut() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        }
        Some(b'l') => {
            // Sends for ever.
            let _ = stream.accept().await;
            while stream.write_all(&[7; 16_384]).await.is_ok() {}
        }
        _ => stream.reset(ResetCode::Error),
    }
}

async fn echo(mut stream: DataStream) {
    let _ = stream.accept().await;
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(2 * PATIENCE, test).await.expect("the test ends in time") })
}

async fn open(client: &DataClient, host: &Host, header: &'static str) -> MuxStream {
    client.open(&name("b"), host.address, Bytes::from_static(header.as_bytes())).await.unwrap()
}

async fn call(client: &DataClient, host: &Host, body: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(open(client, host, "echo").await);
    let mut answer = Vec::new();
    let send = async {
        write.write_all(body).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, received) = tokio::join!(send, read.read_to_end(&mut answer));
    received.unwrap();
    answer
}

async fn pair(mesh: &TestMesh) -> (DataClient, Host) {
    (DataClient::new(mesh.node("a"), clock, AGE_MAX), Host::start(mesh.node("b")).await)
}

#[test]
fn traffic_agrees_upon_the_hybrid_key_exchange() {
    local(async {
        let mesh = TestMesh::new();
        let (one, other) = (mesh.node("a"), mesh.node("b"));
        let (client, host) = (DataClient::new(one.clone(), clock, AGE_MAX), Host::start(other.clone()).await);
        assert_eq!(call(&client, &host, b"hello").await, b"hello");
        assert_eq!(one.negotiated().with(&name("b")), Some("X25519MLKEM768"));
        assert_eq!(other.negotiated().with(&name("a")), Some("X25519MLKEM768"));
    });
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251 + seed).to_le_bytes()[0]).collect()
}

#[test]
fn a_stream_carries_bytes_both_ways_and_names_both_nodes() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        assert_eq!(call(&client, &host, b"hello").await, b"hello");
        assert_eq!(call(&client, &host, b"").await, b"");
        let mut stream = open(&client, &host, "name").await;
        assert_eq!(stream.peer().node, name("b"));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "a");
        drop(stream);
        assert_eq!(client.stats().dials, 1);
        until("all streams are over", || client.streams_len() == 0 && host.server.streams_len() == 0).await;
        assert_eq!(host.server.stats().streams_accepted, 3);
        assert_eq!(client.stats().streams_opened, 3);
    });
}

#[test]
fn much_data_arrives_whole_in_both_directions_at_once() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let body = pattern(1, 8 * 1024 * 1024);
        assert!(call(&client, &host, &body).await == body);
        assert!(client.stats().bytes.0 >= 8 * 1024 * 1024);
    });
}

#[test]
fn a_thousand_streams_at_once() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let host = Rc::new(host);
        let calls: Vec<_> = (0..1_000)
            .map(|number| {
                let (client, host) = (client.clone(), Rc::clone(&host));
                spawn_local(async move {
                    let body = pattern(number, 10_000);
                    assert!(call(&client, &host, &body).await == body, "call {number}");
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        let stats = client.stats();
        assert!(stats.dials <= 2, "{stats:?}");
        assert_eq!(stats.streams_opened, 1_000);
        until("all streams are over", || client.streams_len() == 0 && host.server.streams_len() == 0).await;
    });
}

#[test]
fn many_opens_share_one_dial_and_a_crowd_gets_a_second() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut held = Vec::new();
        for _ in 0..=SECOND_CONNECTION_STREAMS {
            held.push(open(&client, &host, "hold").await);
        }
        until("the second connection", || client.stats().connections_open == 2).await;
        for _ in 0..SECOND_CONNECTION_STREAMS {
            held.push(open(&client, &host, "hold").await);
        }
        assert_eq!(client.stats().dials, 2);
    });
}

#[test]
fn slow_readers_do_not_starve_the_others() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        // On each of these the server sends until the window is full; nobody reads.
        let mut unread = Vec::new();
        for _ in 0..50 {
            unread.push(open(&client, &host, "lots").await);
        }
        // And on these the client writes, and the server does not read.
        let mut unheard = Vec::new();
        for _ in 0..10 {
            let mut stream = open(&client, &host, "hold").await;
            let lots = vec![1; 2 * STREAM_WINDOW_INITIAL as usize];
            assert!(timeout(Duration::from_millis(100), stream.write_all(&lots)).await.is_err(), "nobody reads it");
            unheard.push(stream);
        }
        let body = pattern(3, 4 * 1024 * 1024);
        let start = Instant::now();
        assert!(call(&client, &host, &body).await == body);
        assert!(start.elapsed() < PATIENCE / 2);
        // Bounded: what waits here is what the windows allow.
        assert!(client.stats().bytes.0 < 60 * u64::from(STREAM_WINDOW_INITIAL) + 2 * body.len() as u64);
    });
}

#[test]
fn opening_on_a_connection_at_hand_waits_for_nothing() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        assert_eq!(call(&client, &host, b"warm").await, b"warm");
        let node = name("b");
        let mut opening = pin!(client.open(&node, host.address, Bytes::from_static(b"echo")));
        let Poll::Ready(stream) = opening.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("an open waited although a connection was there");
        };
        let mut stream = stream.unwrap();
        let mut writing = pin!(stream.write_all(b"at once"));
        assert!(writing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(client.try_open(&name("b"), b"echo").is_some());
        assert!(client.try_open(&name("c"), b"echo").is_none());
    });
}

#[test]
fn refused_and_reset_streams_are_told_apart() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        for (header, fault) in [("refuse", Fault::Refused), ("x", Fault::Reset)] {
            let mut stream = open(&client, &host, header).await;
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(fault_of(&error), Some(fault));
            assert_eq!(stream.fault(), Some(fault));
            assert_eq!(fault.nothing_was_processed(), fault == Fault::Refused);
        }
        // The connection is none the worse for it.
        assert_eq!(call(&client, &host, b"x").await, b"x");
        assert_eq!(client.stats().dials, 1);
    });
}

#[test]
fn a_burst_of_cancelled_streams_hurts_nobody() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut steady = open(&client, &host, "echo").await;
        for _ in 0..2_000 {
            drop(open(&client, &host, "hold").await);
            tokio::task::yield_now().await;
        }
        steady.write_all(b"still here").await.unwrap();
        let mut answer = [0; 10];
        steady.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"still here");
        assert_eq!(client.stats().connections_broken, 0);
        until("the handlers are gone", || host.server.streams_len() == 1).await;
    });
}

#[test]
fn goaway_moves_new_streams_to_a_new_connection_and_lets_the_old_ones_end() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        for retire in [
            |_: &DataClient, host: &Host| host.server.retire_all(),
            |client: &DataClient, _: &Host| client.retire_all(),
        ] {
            let dials = client.stats().dials;
            let mut old = open(&client, &host, "echo").await;
            old.write_all(b"before").await.unwrap();
            old.read_exact(&mut [0; 6]).await.unwrap();
            assert_eq!(retire(&client, &host), 1);
            until("new streams go elsewhere", || client.try_open(&name("b"), b"hold").is_none()).await;
            assert_eq!(call(&client, &host, b"new").await, b"new");
            assert!(client.stats().dials > dials);
            assert_eq!(client.stats().connections_open, 2);
            old.write_all(b"after").await.unwrap();
            old.shutdown().await.unwrap();
            let mut rest = Vec::new();
            old.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"after");
            drop(old);
            until("the old connection closes", || client.stats().connections_open == 1).await;
        }
        assert_eq!(client.stats().connections_broken, 0);
        assert!(host.ends.borrow().iter().all(|end| matches!(end, ServeEnd::Drained | ServeEnd::Closed)));
    });
}

#[test]
fn draining_ends_with_the_last_stream() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut stream = open(&client, &host, "echo").await;
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        client.drain();
        host.server.drain();
        let error = client.open(&name("b"), host.address, Bytes::new()).await.unwrap_err();
        assert_eq!(error, OpenError::Draining);
        let is_over = Rc::new(Cell::new(false));
        let (flag, both) = (Rc::clone(&is_over), (client.clone(), host.server.clone()));
        let waiting = spawn_local(async move {
            both.0.drained().await;
            both.1.drained().await;
            flag.set(true);
        });
        stream.write_all(b"y").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        assert!(!is_over.get());
        stream.shutdown().await.unwrap();
        drop(stream);
        waiting.await.unwrap();
    });
}

#[test]
fn a_revoked_node_is_cut_at_once_on_both_sides() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut stream = open(&client, &host, "hold").await;
        until("the stream has arrived", || host.server.streams_len() == 1).await;
        assert_eq!(host.server.close_node(&name("x")), 0);
        assert_eq!(host.server.close_node(&name("a")), 1);
        assert_eq!(fault_of(&stream.read_u8().await.unwrap_err()), Some(Fault::Lost));
        let mut stream = open(&client, &host, "hold").await;
        assert_eq!(client.close_node(&name("b")), 1);
        let fault = fault_of(&stream.read_u8().await.unwrap_err());
        assert!(matches!(fault, Some(Fault::Lost | Fault::Unprocessed)), "{fault:?}");
        until("nothing is left", || host.server.stats().connections_open == 0).await;
    });
}

#[test]
fn garbage_on_the_port_closes_that_socket_only() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut steady = open(&client, &host, "echo").await;
        let before = |count: usize| move |ends: &[ServeEnd]| ends.len() == count;
        for (at, garbage) in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4_096], &[0x16, 3, 1, 0xff, 0xff], b""].iter().enumerate()
        {
            let mut socket = TcpStream::connect(host.address).await.unwrap();
            socket.write_all(garbage).await.unwrap();
            drop(socket);
            until("it is refused", || before(at + 1)(&host.ends.borrow())).await;
            assert!(matches!(host.ends.borrow()[at], ServeEnd::NotProven(_)));
        }
        steady.write_all(b"x").await.unwrap();
        assert_eq!(steady.read_u8().await.unwrap(), b'x');
        assert_eq!(host.server.stats().connections_accepted, 1);
    });
}

#[test]
fn a_proven_peer_that_breaks_the_protocol_loses_that_connection_only() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut steady = open(&client, &host, "echo").await;
        let config = tls::data_client(&mesh.node("c"), name("b"), clock);
        let mut raw = super::tcp::dial(host.address, config, &Handshaker::here()).await.unwrap();
        let header = Header { kind: Kind::Data, length: 5, stream: StreamId(1) };
        raw.write_all(&[&header.encode()[..], b"never"].concat()).await.unwrap();
        let mut rest = Vec::new();
        let _ = raw.read_to_end(&mut rest).await;
        until("it is closed", || !host.ends.borrow().is_empty()).await;
        let violation = Violation::NeverOpened { kind: Kind::Data, stream: StreamId(1) };
        assert_eq!(host.ends.borrow()[..], [ServeEnd::Violated(violation)]);
        assert_eq!(host.server.stats().violations, 1);
        steady.write_all(b"x").await.unwrap();
        assert_eq!(steady.read_u8().await.unwrap(), b'x');
    });
}

#[test]
fn a_header_beyond_the_limit_is_refused_before_it_is_sent() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        assert_eq!(call(&client, &host, b"x").await, b"x");
        let too_large = Bytes::from(vec![0; crate::mux::frame::OPEN_BYTES_MAX + 1]);
        let error = client.open(&name("b"), host.address, too_large).await.unwrap_err();
        assert!(matches!(error, OpenError::Stream { source: CannotOpen::HeaderTooLarge, .. }), "{error:?}");
        assert_eq!(call(&client, &host, b"y").await, b"y");
    });
}

/// One member dials and dials: it only loses its own older connections.
#[test]
fn a_member_with_too_many_connections_loses_its_oldest() {
    local(async {
        let mesh = TestMesh::new();
        let host = Host::start(mesh.node("b")).await;
        let other = DataClient::new(mesh.node("c"), clock, AGE_MAX);
        assert_eq!(call(&other, &host, b"hello").await, b"hello");
        let config = tls::data_client(&mesh.node("a"), name("b"), clock);
        let mut greedy = Vec::new();
        for _ in 0..CONNECTIONS_PER_PEER_MAX + 3 {
            greedy.push(
                super::tcp::dial(host.address, std::sync::Arc::clone(&config), &Handshaker::here()).await.unwrap(),
            );
        }
        until("the oldest are gone", || host.ends.borrow().iter().filter(|end| **end == ServeEnd::Cut).count() == 3)
            .await;
        let stats = host.server.stats();
        assert_eq!(stats.connections_surplus, 3);
        assert_eq!(stats.connections_open, CONNECTIONS_PER_PEER_MAX as u64 + 1);
        assert_eq!(call(&other, &host, b"still").await, b"still");
        assert_eq!(other.stats().dials, 1, "nobody else's connection was touched");
    });
}
