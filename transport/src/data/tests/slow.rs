//! A thousand slow streams on one connection, and a fast one among them.

use std::rc::Weak;

use super::*;
use crate::data::connection::{Connection, Driver};
use crate::mux::Role;
use crate::mux::limits::{CONNECTION_WINDOW, WINDOW_GROWTH_MAX};

/// Streams whose reader takes little, on either side.
const SLOW_READERS: usize = 500;
/// Streams whose writer gives little.
const SLOW_WRITERS: usize = 500;
const FAST_BYTES: usize = 8 * 1024 * 1024;

/// One connection, dialled as a pool does, without the second one that a pool would take for so many streams.
async fn one(mesh: &TestMesh, host: &Host) -> Rc<Connection> {
    let current = mesh.node("a");
    let stream =
        crate::data::tcp::dial(host.address, tls::data_client(&current, name("b"), clock), &Handshaker::here())
            .await
            .unwrap();
    let peer = tls::peer_of(stream.get_ref().1.peer_certificates().unwrap(), &current, clock).unwrap();
    let connection = Connection::new(Role::Dialler, peer);
    let driver = Driver::new(Rc::clone(&connection), stream, AGE_MAX);
    spawn_local(async move { driver.run(|_, _| {}).await });
    connection
}

fn opened(connection: &Rc<Connection>, header: &[u8]) -> MuxStream {
    MuxStream::new(Rc::clone(connection), connection.open(header).unwrap())
}

/// Sends and reads back [`FAST_BYTES`]: how long that took.
async fn fast(connection: &Rc<Connection>) -> Duration {
    let (mut read, mut write) = tokio::io::split(opened(connection, b"echo"));
    let (body, mut answer, began) = (pattern(5, FAST_BYTES), Vec::new(), Instant::now());
    let send = async {
        write.write_all(&body).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, received) = tokio::join!(send, read.read_to_end(&mut answer));
    received.unwrap();
    assert!(answer == body, "other bytes came back");
    began.elapsed()
}

#[test]
fn a_fast_stream_among_a_thousand_slow_ones_keeps_its_throughput() {
    local(async {
        let mesh = TestMesh::new();
        let host = Host::start(mesh.node("b")).await;
        let connection = one(&mesh, &host).await;
        let alone = fast(&connection).await.max(fast(&connection).await);
        let before = connection.stats();

        // The server sends as much as it may; its reader takes 1 KiB now and then.
        let taken = Rc::new(Cell::new(0_u64));
        let mut tasks = Vec::new();
        for number in 0..SLOW_READERS {
            let (mut stream, taken) = (opened(&connection, b"lots"), Rc::clone(&taken));
            tasks.push(spawn_local(async move {
                let mut chunk = [0; 1_024];
                loop {
                    tokio::time::sleep(Duration::from_millis(150 + number as u64 % 100)).await;
                    let length = stream.read(&mut chunk).await.unwrap();
                    assert!(length > 0 && chunk[..length].iter().all(|byte| *byte == 7));
                    taken.set(taken.get() + length as u64);
                }
            }));
        }
        // And these say a byte now and then, which must come back at once.
        let rounds = Rc::new(RefCell::new(vec![0_u32; SLOW_WRITERS]));
        for number in 0..SLOW_WRITERS {
            let (mut stream, rounds) = (opened(&connection, b"echo"), Rc::clone(&rounds));
            tasks.push(spawn_local(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(150 + number as u64 % 100)).await;
                    stream.write_all(b"x").await.unwrap();
                    assert_eq!(stream.read_u8().await.unwrap(), b'x');
                    rounds.borrow_mut()[number] += 1;
                }
            }));
        }
        // The readers' windows fill up before anything is timed.
        let full = SLOW_READERS as u64 * u64::from(STREAM_WINDOW_INITIAL);
        until("the windows are full", || connection.stats().bytes_received - before.bytes_received >= full).await;
        assert_eq!(connection.streams_len(), SLOW_READERS + SLOW_WRITERS);
        let rounds_before = rounds.borrow().clone();

        let among = fast(&connection).await.min(fast(&connection).await);
        println!("{FAST_BYTES} bytes there and back: alone {alone:?}, among a thousand slow streams {among:?}");
        assert!(among < 4 * alone + Duration::from_millis(500), "alone {alone:?}, among the slow ones {among:?}");
        until("every slow writer is answered twice more", || {
            rounds.borrow().iter().zip(&rounds_before).all(|(rounds, before)| *rounds >= before + 2)
        })
        .await;

        // What came and was not read is what the windows allow: of the connection, and of each stream.
        let received = connection.stats().bytes_received - before.bytes_received;
        let read = taken.get() + 2 * FAST_BYTES as u64 + u64::from(rounds.borrow().iter().sum::<u32>());
        let waits = received - read.min(received);
        println!("{waits} bytes wait unread, {} was read slowly", taken.get());
        assert!(waits <= u64::from(CONNECTION_WINDOW), "{waits}");
        assert!(waits <= full + u64::from(WINDOW_GROWTH_MAX), "{waits}");

        let gone: Weak<Connection> = Rc::downgrade(&connection);
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            let _ = task.await;
        }
        until("all streams are over", || connection.streams_len() == 0 && host.server.streams_len() == 0).await;
        // Their credit is back: the next one is as fast as the first.
        assert!(fast(&connection).await < 4 * alone + Duration::from_millis(500));
        connection.cut();
        drop(connection);
        until("the connection is gone", || gone.strong_count() == 0 && host.server.stats().connections_open == 0).await;
    });
}

/// What the limit is for: more stalled streams than fit the connection's window hold what they got, no byte more, and as
/// soon as they go the others have all of it again.
#[test]
fn readers_that_stopped_hold_no_more_than_the_connections_window() {
    local(async {
        let mesh = TestMesh::new();
        let host = Host::start(mesh.node("b")).await;
        let connection = one(&mesh, &host).await;
        let streams: Vec<MuxStream> = (0..1_000).map(|_| opened(&connection, b"lots")).collect();
        let window = u64::from(CONNECTION_WINDOW);
        until("the connection's window is full", || connection.stats().bytes_received == window).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(connection.stats().bytes_received, window);
        drop(streams);
        assert!(fast(&connection).await < PATIENCE / 4);
    });
}
