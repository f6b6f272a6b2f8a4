//! Handshakes on a runtime apart.

use tokio::runtime::{Builder, Runtime};

use super::*;

fn apart() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A client and a host whose handshakes `runtime` does.
async fn pair_on(runtime: &Runtime, mesh: &TestMesh) -> (DataClient, Host) {
    let current = mesh.node("b");
    let door = Door { prover: Prover::new(current.clone(), clock), apart: Some(runtime.handle().clone()) };
    let handshaker = Handshaker::on(runtime.handle().clone());
    let client = DataClient::with_handshaker(mesh.node("a"), clock, AGE_MAX, handshaker);
    (client, Host::serving((door, DataServer::new(current, clock, AGE_MAX)), Farewell::End).await)
}

#[test]
fn connections_come_to_the_thread_that_asked() {
    let runtime = apart();
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair_on(&runtime, &mesh).await;
        let body = pattern(3, 300_000);
        assert_eq!(call(&client, &host, &body).await, body);
        let mut stream = client.open_dedicated(&name("b"), host.address, b"echo").await.unwrap();
        stream.write_all(&body).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, body);
        // Nothing of a connection is left there: it lives on without that runtime.
        let mut held = open(&client, &host, "echo").await;
        runtime.shutdown_background();
        held.write_all(b"still here").await.unwrap();
        let mut word = [0; 10];
        held.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"still here");
        let refused = client.open(&name("c"), host.address, Bytes::from_static(b"echo")).await;
        assert!(matches!(refused, Err(OpenError::Dial { source: DialError::NotDialled(_), .. })), "{refused:?}");
    });
}

#[test]
fn requests_do_not_wait_for_handshakes() {
    let runtime = apart();
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair_on(&runtime, &mesh).await;
        let other =
            DataClient::with_handshaker(mesh.node("c"), clock, AGE_MAX, Handshaker::on(runtime.handle().clone()));
        call(&client, &host, b"warm").await;
        // As long as this takes, no handshake can.
        let (go, waits) = std::sync::mpsc::sync_channel::<()>(1);
        runtime.spawn(async move {
            let _ = waits.recv();
        });
        let late = spawn_local({
            let (other, address) = (other.clone(), host.address);
            async move { other.open(&name("b"), address, Bytes::from_static(b"echo")).await.map(drop) }
        });
        for number in 0..50 {
            assert_eq!(call(&client, &host, &pattern(number, 100)).await, pattern(number, 100));
        }
        assert!(!late.is_finished(), "its handshake waits for a busy thread");
        drop(go);
        late.await.unwrap().unwrap();
    });
}

#[test]
fn who_gives_up_ends_the_handshake() {
    let runtime = apart();
    local(async {
        let mesh = TestMesh::new();
        let (_client, host) = pair_on(&runtime, &mesh).await;
        let mut silent = TcpStream::connect(host.address).await.unwrap();
        until("the connection is served", || host.connections.borrow().len() == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        host.kill();
        let end = timeout(Duration::from_secs(1), silent.read(&mut [0; 16])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "long before the handshake's deadline: {end:?}");
    });
}

/// Between the proof and the thread that serves, trust may change.
#[test]
fn who_is_revoked_on_the_way_is_not_served() {
    local(async {
        let mesh = TestMesh::new();
        let current = mesh.node("b");
        let (prover, server) = (Prover::new(current.clone(), clock), DataServer::new(current.clone(), clock, AGE_MAX));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        let node = name("b");
        let opening = client.open(&node, listener.local_addr().unwrap(), Bytes::from_static(b"echo"));
        let proving = async { prover.prove(listener.accept().await.unwrap().0).await.unwrap() };
        let (opened, proven) = tokio::join!(opening, proving);
        current.swap_trust(TestMesh::new().node("b").trust());
        let end = server.serve(proven, |_, _, stream| handle(Bytes::from_static(b"e"), stream)).await;
        assert!(matches!(end, ServeEnd::NotProven(DialError::PeerCertificate(_))), "{end:?}");
        assert_eq!(server.stats().connections_accepted, 0);
        assert_eq!(opened.unwrap().read(&mut [0; 9]).await.map_err(|_| ()), Err(()));
    });
}
