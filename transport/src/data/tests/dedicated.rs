//! Streams with a connection of their own: bytes, ends, breaks, limits, revocation, and peers that know none.

use std::net::Shutdown;

use tokio::net::TcpSocket;

use super::*;
use crate::data::dedicated::Places;
use crate::data::tcp::{self, Protocol};
use crate::data::{
    DEDICATED_ACCEPTED_PER_PEER_MAX, DEDICATED_DIALLED_PER_PEER_MAX, DEDICATED_MAX, DedicatedStream, NotDedicated,
};
use crate::mux::frame::{HEADER_BYTES, OPEN_BYTES_MAX};

async fn dedicated(client: &DataClient, host: &Host, header: &str) -> Result<DedicatedStream, NotDedicated> {
    client.open_dedicated(&name("b"), host.address, header.as_bytes()).await
}

async fn exchange(stream: DedicatedStream, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let send = async {
        write.write_all(body).await?;
        write.shutdown().await
    };
    let (sent, received) = tokio::join!(send, read.read_to_end(&mut answer));
    sent.and(received.map(|_| answer))
}

/// A socket with a proven member's TLS on it and nothing said.
async fn raw(mesh: &TestMesh, host: &Host) -> tcp::Tls {
    let config = tls::dedicated_client(&mesh.node("c"), name("b"), clock);
    let raw = tcp::dial(host.address, config, &Handshaker::here()).await.unwrap();
    assert_eq!(tcp::protocol(&raw), Ok(Protocol::Dedicated));
    raw
}

/// An acceptor that shows what came: bytes to the end, or the error.
async fn recorder(mesh: &TestMesh) -> (SocketAddr, tokio::sync::mpsc::Receiver<Result<usize, std::io::ErrorKind>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let current = mesh.node("b");
    let (prover, server) = (Prover::new(current.clone(), clock), DataServer::new(current, clock, AGE_MAX));
    let (tell, told) = tokio::sync::mpsc::channel(8);
    spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (prover, server, tell) = (prover.clone(), server.clone(), tell.clone());
            spawn_local(async move {
                let handler = |_, _, mut stream: DataStream| {
                    let tell = tell.clone();
                    async move {
                        stream.accept().await.unwrap();
                        let mut all = Vec::new();
                        let read = stream.read_to_end(&mut all).await;
                        let _ = stream.shutdown().await;
                        tell.send(read.map_err(|error| error.kind())).await.unwrap();
                    }
                };
                server.serve(prover.prove(socket).await.unwrap(), handler).await;
            });
        }
    });
    (address, told)
}

#[test]
fn much_data_arrives_whole_in_both_directions_at_once() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        for length in [0, 1, 16 * 1024 + 1, 24 * 1024 * 1024] {
            let stream = dedicated(&client, &host, "echo").await.unwrap();
            assert_eq!((stream.peer().node.clone(), client.stats().dedicated_open), (name("b"), 1));
            let body = pattern(length, length);
            assert!(exchange(stream, &body).await.unwrap() == body, "{length} bytes");
            until("both places are free", || client.streams_len() + host.server.streams_len() == 0).await;
        }
        let (stats, accepted) = (client.stats(), host.server.stats());
        assert_eq!((stats.dedicated_opened, stats.dials, stats.connections_open), (4, 4, 0));
        assert_eq!((accepted.dedicated_accepted, accepted.streams_accepted, accepted.connections_accepted), (4, 4, 0));
        let mut told = String::new();
        let mut stream = dedicated(&client, &host, "name").await.unwrap();
        stream.read_to_string(&mut told).await.unwrap();
        assert_eq!(told, "a");
    });
}

/// Both ends see an end where there was one, and an error where there was none.
#[test]
fn a_direction_that_ends_without_a_word_was_broken() {
    local(async {
        let mesh = TestMesh::new();
        let (address, mut told) = recorder(&mesh).await;
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        let (node, body) = (name("b"), pattern(7, 300_000));
        let open = || client.open_dedicated(&node, address, b"x");
        let mut stream = open().await.unwrap();
        stream.write_all(&body).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(told.recv().await.unwrap(), Ok(body.len()));
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0, "the other direction ended by itself");
        // Dropped in the middle, with everything flushed.
        let mut stream = open().await.unwrap();
        stream.write_all(&body).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        assert!(told.recv().await.unwrap().is_err());
        let mut stream = open().await.unwrap();
        stream.reset(ResetCode::Error);
        assert!(stream.write_all(b"x").await.is_err(), "it is broken here, too");
        drop(stream);
        assert!(told.recv().await.unwrap().is_err());
        // The worst case: a FIN in order, and no close_notify before it.
        let config = tls::dedicated_client(&mesh.node("c"), name("b"), clock);
        let mut raw = tcp::dial(address, config, &Handshaker::here()).await.unwrap();
        raw.write_all(b"\x01\x00\x01\x00\x01\x00\x00\x00x").await.unwrap();
        raw.flush().await.unwrap();
        raw.read_exact(&mut [0; HEADER_BYTES]).await.unwrap();
        raw.write_all(&body).await.unwrap();
        raw.flush().await.unwrap();
        socket2::SockRef::from(raw.get_ref().0.socket()).shutdown(Shutdown::Write).unwrap();
        assert_eq!(told.recv().await.unwrap(), Err(std::io::ErrorKind::UnexpectedEof));
    });
}

#[test]
fn an_acceptor_that_breaks_it_off_is_noticed() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut stream = dedicated(&client, &host, "echo").await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        host.connections.borrow_mut().drain(..).for_each(|task| task.abort());
        assert!(stream.read_u8().await.is_err());
        drop(stream);
        until("the place is free", || client.streams_len() == 0).await;
    });
}

/// Whoever is refused has sent nothing, so it can go elsewhere whole.
#[test]
fn a_refused_stream_is_told_so_before_it_sends() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        // A handler that just lets go refuses, too.
        for header in ["refuse", "x"] {
            assert_eq!(dedicated(&client, &host, header).await.unwrap_err(), NotDedicated::Refused, "{header}");
        }
        assert_eq!(exchange(dedicated(&client, &host, "echo").await.unwrap(), b"fine").await.unwrap(), b"fine");
        until("all places are free", || client.streams_len() + host.server.streams_len() == 0).await;
        client.drain();
        assert_eq!(dedicated(&client, &host, "echo").await.unwrap_err(), NotDedicated::Limit);
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        host.server.drain();
        assert_eq!(dedicated(&client, &host, "echo").await.unwrap_err(), NotDedicated::Refused, "it drains");
        let too_long = "h".repeat(OPEN_BYTES_MAX + 1);
        assert_eq!(dedicated(&client, &host, &too_long).await.unwrap_err(), NotDedicated::Limit);
    });
}

#[test]
fn draining_waits_for_it() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let stream = dedicated(&client, &host, "echo").await.unwrap();
        client.drain();
        host.server.drain();
        assert!(timeout(Duration::from_millis(50), client.drained()).await.is_err());
        assert!(timeout(Duration::from_millis(50), host.server.drained()).await.is_err());
        assert_eq!(exchange(stream, b"still").await.unwrap(), b"still");
        client.drained().await;
        host.server.drained().await;
    });
}

#[test]
fn a_revoked_node_is_cut_at_once_on_both_sides() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut stream = dedicated(&client, &host, "hold").await.unwrap();
        assert_eq!(host.server.close_node(&name("x")), 0);
        assert_eq!(host.server.close_node(&name("a")), 1);
        assert_eq!(host.server.close_node(&name("a")), 0, "once");
        assert!(stream.read_u8().await.is_err());
        until("it is over", || host.ends.borrow()[..] == [ServeEnd::Cut]).await;
        drop(stream);
        // Here one task waits to read and to write at the same time, with nothing of either to do.
        let stream = dedicated(&client, &host, "hold").await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let reading = spawn_local(async move { read.read_u8().await.unwrap_err() });
        let writing = spawn_local(async move {
            loop {
                if let Err(error) = write.write_all(&[7; 64 * 1024]).await {
                    return error;
                }
            }
        });
        assert!(
            timeout(Duration::from_millis(200), async {
                while !writing.is_finished() {
                    tokio::task::yield_now().await
                }
            })
            .await
            .is_err()
        );
        assert_eq!(client.close_node(&name("b")), 1);
        for error in [reading.await.unwrap(), writing.await.unwrap()] {
            assert_eq!(fault_of(&error), Some(Fault::Lost), "{error:?}");
        }
        until("nothing is left", || client.streams_len() == 0).await;
    });
}

/// New leafs and age take new streams elsewhere; this one has a connection for as long as it lives.
#[test]
fn retiring_leaves_it_alone() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let stream = dedicated(&client, &host, "echo").await.unwrap();
        assert_eq!((client.retire_all(), host.server.retire_all()), (0, 0));
        assert_eq!(exchange(stream, b"on").await.unwrap(), b"on");
    });
}

#[test]
fn an_older_peer_shares_and_is_remembered() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let current = mesh.node("b");
        let mut config = rustls::ServerConfig::clone(&tls::data_server(&current, clock));
        config.alpn_protocols = vec![tls::ALPN_MUX.to_vec()];
        let door = Door { prover: Prover::older(current.clone(), clock, config), apart: None };
        let older = Host::serving((door, DataServer::new(current, clock, AGE_MAX)), Farewell::End).await;
        assert_eq!(dedicated(&client, &older, "echo").await.unwrap_err(), NotDedicated::OlderPeer);
        assert_eq!(dedicated(&client, &older, "echo").await.unwrap_err(), NotDedicated::Remembered);
        assert_eq!(client.stats().dials, 1);
        assert_eq!(call(&client, &older, b"shared").await, b"shared");
        // Of the other side nothing is held against us.
        assert_eq!(older.server.stats().violations, 0);
        assert!(older.ends.borrow().iter().all(|end| !matches!(end, ServeEnd::NotProven(_))));
        // Who dials as before is served as before.
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        assert_eq!(call(&client, &host, b"as ever").await, b"as ever");
        assert_eq!(host.server.stats().dedicated_accepted, 0);
    });
}

#[test]
fn a_dial_that_fails_is_remembered() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let twin = TestMesh::new();
        let stranger = Host::start(twin.node("b")).await;
        assert_eq!(dedicated(&client, &stranger, "echo").await.unwrap_err(), NotDedicated::Failed);
        assert_eq!(dedicated(&client, &host, "echo").await.unwrap_err(), NotDedicated::Remembered);
        assert_eq!(client.stats().dials_failed, 1);
        // Another node than the one that is meant.
        let other = client.open_dedicated(&name("c"), host.address, b"echo").await;
        assert_eq!(other.unwrap_err(), NotDedicated::Failed);
        assert_eq!(host.server.stats().streams_accepted, 0);
        assert_eq!((client.streams_len(), stranger.server.streams_len()), (0, 0));
    });
}

#[test]
fn the_dialler_keeps_to_its_bound() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut held = Vec::new();
        for _ in 0..DEDICATED_DIALLED_PER_PEER_MAX {
            held.push(dedicated(&client, &host, "echo").await.unwrap());
        }
        assert_eq!(dedicated(&client, &host, "echo").await.unwrap_err(), NotDedicated::Limit);
        assert_eq!(call(&client, &host, b"shared").await, b"shared");
        held.pop();
        assert!(dedicated(&client, &host, "echo").await.is_ok(), "nothing is remembered of our own bound");
    });
}

#[test]
fn the_acceptor_keeps_to_its_bounds() {
    local(async {
        let mesh = TestMesh::new();
        let host = Host::start(mesh.node("b")).await;
        let many = |node: &'static str, count: usize| {
            let current = mesh.node(node);
            let host = &host;
            async move {
                let mut held = Vec::new();
                while held.len() < count {
                    let client = DataClient::new(current.clone(), clock, AGE_MAX);
                    for _ in 0..DEDICATED_DIALLED_PER_PEER_MAX.min(count - held.len()) {
                        held.push(dedicated(&client, host, "echo").await.unwrap());
                    }
                }
                held
            }
        };
        let first = many("a", DEDICATED_ACCEPTED_PER_PEER_MAX).await;
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        assert_eq!(dedicated(&client, &host, "echo").await.unwrap_err(), NotDedicated::PeerLimit);
        assert_eq!(dedicated(&client, &host, "echo").await.unwrap_err(), NotDedicated::Remembered);
        assert_eq!(call(&client, &host, b"shared").await, b"shared");
        let mut others = Vec::new();
        for node in ["c", "d", "e"] {
            others.push(many(node, DEDICATED_ACCEPTED_PER_PEER_MAX).await);
        }
        assert_eq!(host.server.stats().dedicated_open, DEDICATED_MAX as u64);
        let late = DataClient::new(mesh.node("f"), clock, AGE_MAX);
        assert_eq!(dedicated(&late, &host, "echo").await.unwrap_err(), NotDedicated::PeerLimit);
        until("both were refused", || host.server.stats().dedicated_refused == 2).await;
        assert_eq!(host.server.stats().connections_surplus, 0, "nobody's connection was cut for it");
        drop((first, others));
        until("all places are free", || host.server.stats().dedicated_open == 0).await;
    });
}

#[test]
fn a_proven_peer_that_says_something_else_is_closed() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let steady = dedicated(&client, &host, "echo").await.unwrap();
        let words =
            [&b"GET / HTTP/1.1\r\n"[..], b"\x01\x00\x01\x08\x01\x00\x00\x00", b"\x02\x00\x01\x00\x01\x00\x00\x00x"];
        for (at, words) in words.iter().enumerate() {
            let mut raw = raw(&mesh, &host).await;
            raw.write_all(words).await.unwrap();
            raw.flush().await.unwrap();
            let _ = raw.read_to_end(&mut Vec::new()).await;
            until("it is closed", || host.ends.borrow().len() > at).await;
            assert!(matches!(host.ends.borrow()[at], ServeEnd::Violated(_)), "{:?}", host.ends.borrow());
        }
        // Gone before the open was whole.
        let mut short = raw(&mesh, &host).await;
        short.write_all(b"\x01\x00\x03\x00\x01\x00\x00\x00h").await.unwrap();
        short.shutdown().await.unwrap();
        until("it is closed", || host.ends.borrow().len() == 4).await;
        assert_eq!(host.ends.borrow()[3], ServeEnd::Closed);
        assert_eq!(host.server.stats().violations, 3);
        assert_eq!(host.server.stats().streams_accepted, 1);
        assert_eq!(exchange(steady, b"fine").await.unwrap(), b"fine");
    });
}

/// Whoever opens nothing holds a place for 3 s, not longer.
#[test]
fn who_opens_nothing_is_closed_in_time() {
    local(async {
        let mesh = TestMesh::new();
        let host = Host::start(mesh.node("b")).await;
        let raw = raw(&mesh, &host).await;
        until("it holds a place", || host.server.stats().dedicated_open == 1).await;
        let start = Instant::now();
        until("it is closed", || host.ends.borrow()[..] == [ServeEnd::Closed]).await;
        assert!(start.elapsed() < 2 * super::super::DIAL_DEADLINE);
        assert_eq!(host.server.stats().dedicated_open, 0);
        drop(raw);
    });
}

/// Small socket buffers on the way: every write is cut short somewhere, and what TLS holds back still leaves.
#[test]
fn nothing_stays_behind_in_small_buffers() {
    local(async {
        let mesh = TestMesh::new();
        let host = Host::start(mesh.node("b")).await;
        // A relay with buffers of a few KiB that passes bytes in small pieces.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = (listener.local_addr().unwrap(), host.address);
        spawn_local(async move {
            let (mut one, _) = listener.accept().await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(4_096).unwrap();
            socket.set_recv_buffer_size(4_096).unwrap();
            let mut other = socket.connect(far).await.unwrap();
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut one, &mut other, 1_000, 3_000).await;
        });
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        let stream = client.open_dedicated(&name("b"), near, b"echo").await.unwrap();
        let body = pattern(5, 3_000_000);
        assert!(exchange(stream, &body).await.unwrap() == body);
    });
}

/// A silent host is known by its shared connection; only what moved nothing goes with that.
#[test]
fn what_is_stuck_goes_with_a_silent_host() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut stream = dedicated(&client, &host, "echo").await.unwrap();
        let places: &Places = client.dedicated_places();
        let now = Instant::now();
        assert_eq!(places.cut_stuck(&name("b"), now), 0, "it has just moved something");
        assert_eq!(places.cut_stuck(&name("x"), now + Duration::from_secs(60)), 0);
        assert_eq!(places.cut_stuck(&name("b"), now + Duration::from_secs(60)), 1);
        assert_eq!(fault_of(&stream.read_u8().await.unwrap_err()), Some(Fault::Lost));
    });
}
