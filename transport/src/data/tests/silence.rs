//! Who answers late is there; only who says nothing at all is silent.

use super::*;

#[test]
fn a_host_that_answers_slowly_is_not_a_silent_one() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        assert_eq!(call(&client, &host, b"warm").await, b"warm");
        let mut held = open(&client, &host, "hold").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        held.write_all(b"asked").await.unwrap();
        let lane = held.lane();
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!lane.is_stalled(), "it is asked, and answers, while its instance thinks");
        }
    });
}

#[test]
fn a_peer_that_accepts_and_says_nothing_is_a_timeout() {
    local(async {
        let mesh = TestMesh::new();
        let client = DataClient::new(mesh.node("a"), clock, AGE_MAX);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = client.open(&name("b"), silent.local_addr().unwrap(), Bytes::new()).await.unwrap_err();
        assert!(matches!(&error, OpenError::Dial { source: DialError::Timeout, .. }), "{error:?}");
        assert_eq!(error.code(), codes::UPSTREAM_TIMEOUT);
        // The same on the other side: a client that connects and says nothing holds nothing for long.
        let host = Host::start(mesh.node("b")).await;
        let _quiet = TcpStream::connect(host.address).await.unwrap();
        until("the server gives up", || !host.ends.borrow().is_empty()).await;
        assert_eq!(host.ends.borrow()[..], [ServeEnd::NotProven(DialError::Timeout)]);
    });
}
