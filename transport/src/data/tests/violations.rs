//! A member with a good certificate that breaks the framing: its connection ends and is counted, and nothing else is
//! touched, neither another member's streams nor its own on another connection.

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::mux::frame::{DATA_BYTES_MAX, OPEN_BYTES_MAX};

/// One frame, correct or not, with the length of its payload.
fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&[kind, 0], &length.to_le_bytes()[..], &stream.to_le_bytes(), payload].concat()
}

// The kinds as docs/mux.md numbers them.
const OPEN: u8 = 1;
const DATA: u8 = 2;
const WINDOW: u8 = 3;
const END: u8 = 4;
const RESET: u8 = 5;
const GOAWAY: u8 = 6;

/// What a member that dialled may send wrong, and what it is called.
fn wrongs() -> Vec<(&'static str, Vec<u8>, Violation)> {
    let open = |stream| frame(OPEN, stream, b"hold");
    let overrun: Vec<u8> =
        (0..=STREAM_WINDOW_INITIAL as usize / 16_000).flat_map(|_| frame(DATA, 1, &[0; 16_000])).collect();
    let too_long = u16::try_from(DATA_BYTES_MAX + 1).unwrap();
    let header_too_long = u16::try_from(OPEN_BYTES_MAX + 1).unwrap();
    let never = |kind, stream| Violation::NeverOpened { kind, stream: StreamId(stream) };
    vec![
        ("an unknown kind", frame(9, 1, b""), Violation::Kind(9)),
        ("garbage", b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n".to_vec(), Violation::Kind(b'G')),
        ("flags", vec![1, 4, 0, 0, 1, 0, 0, 0], Violation::Flags(4)),
        (
            "data after its end",
            [open(1), frame(END, 1, b""), frame(DATA, 1, b"x")].concat(),
            Violation::AfterEnd(StreamId(1)),
        ),
        ("data on a stream never opened", frame(DATA, 1, b"x"), never(Kind::Data, 1)),
        ("more than the stream's window", [open(1), overrun].concat(), Violation::StreamOverrun(StreamId(1))),
        ("a frame too large", frame(DATA, 1, &vec![0; DATA_BYTES_MAX + 1]), {
            Violation::Length { kind: Kind::Data, length: too_long }
        }),
        ("a header too large", frame(OPEN, 1, &vec![0; OPEN_BYTES_MAX + 1]), {
            Violation::Length { kind: Kind::Open, length: header_too_long }
        }),
        (
            "a window above its limit",
            [open(1), frame(WINDOW, 1, &u32::MAX.to_le_bytes())].concat(),
            Violation::WindowOverflow(StreamId(1)),
        ),
        (
            "the connection's window above its limit",
            frame(WINDOW, 0, &(u32::MAX >> 1).to_le_bytes()),
            Violation::WindowOverflow(StreamId(0)),
        ),
        ("an empty window", [open(1), frame(WINDOW, 1, &[0; 4])].concat(), Violation::EmptyWindow(StreamId(1))),
        (
            "an id that goes back",
            [open(1), open(3), open(1)].concat(),
            Violation::OutOfTurn { expected: StreamId(5), got: StreamId(1) },
        ),
        ("an id of the other side", open(2), Violation::OutOfTurn { expected: StreamId(1), got: StreamId(2) }),
        ("an unknown reason", [open(1), frame(RESET, 1, &[7])].concat(), Violation::ResetCode(7)),
        ("a goaway for a stream nobody opened", frame(GOAWAY, 2, b""), Violation::GoAway(StreamId(2))),
    ]
}

async fn echoes(stream: &mut MuxStream) {
    stream.write_all(b"still").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"still");
}

#[test]
fn whoever_breaks_the_framing_loses_that_connection_and_nobody_else_any() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut bystander = open(&client, &host, "echo").await;
        // The same member has a good connection too.
        let member = DataClient::new(mesh.node("c"), clock, AGE_MAX);
        let mut its_own = open(&member, &host, "echo").await;
        let config = tls::data_client(&mesh.node("c"), name("b"), clock);
        let wrongs = wrongs();
        for (at, (what, bytes, violation)) in wrongs.iter().enumerate() {
            let mut raw = crate::data::tcp::dial(host.address, std::sync::Arc::clone(&config), &Handshaker::here())
                .await
                .unwrap();
            raw.write_all(bytes).await.unwrap();
            raw.flush().await.unwrap();
            let mut rest = Vec::new();
            let _ = raw.read_to_end(&mut rest).await;
            until(what, || host.ends.borrow().len() == at + 1).await;
            assert_eq!(host.ends.borrow()[at], ServeEnd::Violated(*violation), "{what}");
            assert_eq!(host.server.stats().violations, at as u64 + 1, "{what}");
            echoes(&mut bystander).await;
            echoes(&mut its_own).await;
        }
        until("their streams are over", || host.server.streams_len() == 2).await;
        let stats = host.server.stats();
        assert_eq!(stats.connections_open, 2, "{stats:?}");
        assert!(host.ends.borrow().iter().all(|end| !matches!(end, ServeEnd::NotProven(_))));
        assert_eq!((client.stats().dials, member.stats().dials), (1, 1));
    });
}

#[test]
fn a_frame_that_breaks_off_ends_its_connection_and_frees_what_it_held() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let mut bystander = open(&client, &host, "echo").await;
        let config = tls::data_client(&mesh.node("c"), name("b"), clock);
        let whole = [frame(OPEN, 1, b"hold"), frame(DATA, 1, &[7; 1_000])].concat();
        for (at, cut) in [4, 10, 12 + 5, 12 + 8 + 999].into_iter().enumerate() {
            let mut raw = crate::data::tcp::dial(host.address, std::sync::Arc::clone(&config), &Handshaker::here())
                .await
                .unwrap();
            raw.write_all(&whole[..cut]).await.unwrap();
            raw.shutdown().await.unwrap();
            until("it ends", || host.ends.borrow().len() == at + 1).await;
            assert_eq!(host.ends.borrow()[at], ServeEnd::Closed, "cut at {cut}");
            until("its stream is over", || host.server.streams_len() == 1).await;
            echoes(&mut bystander).await;
        }
        assert_eq!(host.server.stats().connections_open, 1);
        assert_eq!(client.stats().dials, 1);
    });
}

/// The other direction: whom we dialled answers with what no node may say.
#[test]
fn a_host_that_answers_with_wrong_frames_is_left_and_counted() {
    local(async {
        let mesh = TestMesh::new();
        let config = tls::data_server(&mesh.node("b"), clock);
        let (client, good) = (DataClient::new(mesh.node("a"), clock, AGE_MAX), Host::start(mesh.node("c")).await);
        let mut bystander = client.open(&name("c"), good.address, Bytes::from_static(b"echo")).await.unwrap();
        let wrongs = [
            frame(9, 1, b""),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            frame(DATA, 3, b"never opened"),
            [frame(END, 1, b""), frame(DATA, 1, b"x")].concat(),
            (0..=STREAM_WINDOW_INITIAL as usize / 16_000).flat_map(|_| frame(DATA, 1, &[0; 16_000])).collect(),
            frame(WINDOW, 1, &u32::MAX.to_le_bytes()),
            frame(OPEN, 1, b""),
            frame(GOAWAY, 9, b""),
        ];
        for (at, wrong) in wrongs.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (config, wrong) = (std::sync::Arc::clone(&config), wrong.clone());
            let liar = spawn_local(async move {
                let (socket, _) = listener.accept().await.unwrap();
                let mut raw = crate::data::tcp::accept(socket, config).await.unwrap();
                let mut asked = [0; 12];
                raw.read_exact(&mut asked).await.unwrap();
                raw.write_all(&wrong).await.unwrap();
                raw.flush().await.unwrap();
                let _ = raw.read_to_end(&mut Vec::new()).await;
            });
            let mut stream = client.open(&name("b"), address, Bytes::from_static(b"echo")).await.unwrap();
            // What was right before it may be read; then it is lost, and may have been processed.
            let lost = loop {
                match stream.read(&mut [0; 4_096]).await {
                    Ok(0) => break stream.write_all(b"x").await.unwrap_err(),
                    Ok(_) => {}
                    Err(error) => break error,
                }
                until("the fault", || stream.fault().is_some()).await;
            };
            assert_eq!(fault_of(&lost), Some(Fault::Lost), "wrong answer {at}");
            until("it is counted", || client.stats().violations == at as u64 + 1).await;
            drop(stream);
            liar.abort();
            echoes(&mut bystander).await;
        }
        assert_eq!(client.streams_len(), 1);
    });
}
