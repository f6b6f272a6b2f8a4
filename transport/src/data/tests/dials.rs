//! Dials that fail, are remembered, and are repeated when a connection is lost.

use super::*;

#[test]
fn another_node_than_dialled_is_a_peer_certificate_error() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        let error = client.open(&name("c"), host.address, Bytes::new()).await.unwrap_err();
        assert_eq!(error.code(), codes::PEER_CERTIFICATE, "{error:?}");
        assert_eq!(error.peer_refused().unwrap().reason, "unexpected-peer");
        let twin = TestMesh::new();
        let stranger = Host::start(twin.node("b")).await;
        let error = client.open(&name("b"), stranger.address, Bytes::new()).await.unwrap_err();
        assert_eq!(error.peer_refused().unwrap().reason, "not-chained");
        until("both connections end", || host.ends.borrow().len() + stranger.ends.borrow().len() == 2).await;
        let ends = host.ends.borrow();
        assert!(matches!(ends[..], [ServeEnd::NotProven(_) | ServeEnd::Closed]), "{ends:?}");
    });
}

#[test]
fn a_server_that_refuses_us_has_processed_nothing() {
    local(async {
        let (mesh, twin) = (TestMesh::new(), TestMesh::new());
        let host = Host::start(mesh.node("b")).await;
        // It believes in our mesh and shows a certificate of another.
        let current = twin.node("a");
        current.swap_trust(mesh.node("a").trust());
        let client = DataClient::new(current, clock, AGE_MAX);
        // In TLS 1.3 the client's handshake succeeds first.
        let mut stream = open(&client, &host, "echo").await;
        let error = stream.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(fault_of(&error), Some(Fault::Unprocessed));
        let again = client.open(&name("b"), host.address, Bytes::new()).await.unwrap_err();
        assert!(matches!(&again, OpenError::Remembered { source: DialError::OurCertificate(_), .. }), "{again:?}");
        let stats = host.server.stats();
        assert_eq!((stats.streams_accepted, stats.connections_accepted), (0, 0));
        assert!(matches!(host.ends.borrow()[..], [ServeEnd::NotProven(_)]));
    });
}

#[test]
fn a_failed_dial_is_remembered_and_forgotten() {
    local(async {
        let mesh = TestMesh::new();
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, node) = (listener.local_addr().unwrap(), name("b"));
        drop(listener);
        let dial = || client.open(&node, address, Bytes::from_static(b"echo"));
        let first = dial().await.unwrap_err();
        assert!(matches!(&first, OpenError::Dial { source: DialError::Unreachable(_), .. }), "{first:?}");
        // On a busy host the first memory may be over before this asks; it doubles each time.
        let mut dials = 1;
        while matches!(dial().await.unwrap_err(), OpenError::Dial { .. }) {
            dials += 1;
            assert!(dials < 6, "nothing is remembered");
        }
        assert_eq!((client.stats().dials_failed, client.stats().opens_remembered), (dials, 1));
        // Another address is another matter.
        let host = Host::start(mesh.node("b")).await;
        assert_eq!(call(&client, &host, b"elsewhere").await, b"elsewhere");
        // And so is the same one, a little later.
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        let dial = || client.open(&node, address, Bytes::from_static(b"echo"));
        let _ = dial().await.unwrap_err();
        let failed = Instant::now();
        until("the memory is over", || failed.elapsed() > BACKOFF_MIN).await;
        assert!(matches!(dial().await.unwrap_err(), OpenError::Dial { .. }));
    });
}

#[test]
fn a_killed_peer_fails_its_streams_at_once_and_is_dialled_again() {
    local(async {
        let mesh = TestMesh::new();
        for farewell in [Farewell::End, Farewell::Reset] {
            let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
            let host = Host::with(mesh.node("b"), farewell).await;
            let mut streams = Vec::new();
            for _ in 0..20 {
                let mut stream = open(&client, &host, "echo").await;
                stream.write_all(b"x").await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
                streams.push(stream);
            }
            let start = Instant::now();
            host.kill();
            for mut stream in streams {
                let error = stream.read_u8().await.unwrap_err();
                assert_eq!(fault_of(&error), Some(Fault::Lost), "{error:?}");
                assert!(stream.write_all(b"y").await.is_err());
            }
            assert!(start.elapsed() < Duration::from_secs(2));
            // The port is closed: the next one knows it at once, or finds out by one dial.
            let error = client.open(&name("b"), host.address, Bytes::new()).await.unwrap_err();
            assert!(matches!(&error, OpenError::Dial { .. } | OpenError::Remembered { .. }), "{error:?}");
            assert_eq!(client.stats().connections_open, 0);
            assert_eq!(client.stats().connections_broken, 1);
        }
    });
}

#[test]
fn a_connection_that_breaks_in_use_is_dialled_again_by_itself() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        assert_eq!(call(&client, &host, b"x").await, b"x");
        host.connections.borrow_mut().drain(..).for_each(|task| task.abort());
        until("a new connection", || client.stats().dials == 2 && client.stats().connections_open == 1).await;
        assert_eq!(call(&client, &host, b"y").await, b"y");
        assert_eq!(client.stats().dials, 2);
    });
}
