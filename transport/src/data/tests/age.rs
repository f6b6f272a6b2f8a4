//! Connections grow old: then they take no new streams, and lose none.

use super::*;

/// The side that is to be the impatient one.
#[derive(Clone, Copy)]
enum Side {
    Dialler,
    Acceptor,
}

fn check(side: Side) {
    local(async {
        let mesh = TestMesh::new();
        let age = |of: Side| match (side, of) {
            (Side::Dialler, Side::Dialler) | (Side::Acceptor, Side::Acceptor) => Duration::from_millis(200),
            (Side::Dialler, Side::Acceptor) | (Side::Acceptor, Side::Dialler) => AGE_MAX,
        };
        let client = DataClient::new(mesh.node("a"), clock, age(Side::Dialler));
        let host = Host::aged(mesh.node("b"), age(Side::Acceptor)).await;
        let aged = || match side {
            Side::Dialler => client.stats().connections_aged,
            Side::Acceptor => host.server.stats().connections_aged,
        };
        let mut old = open(&client, &host, "echo").await;
        for round in 1..=3_u64 {
            until("it is old", || aged() >= round).await;
            until("new streams go elsewhere", || client.try_open(&name("b"), b"hold").is_none()).await;
            let dials = client.stats().dials;
            assert_eq!(call(&client, &host, b"new").await, b"new");
            assert_eq!(client.stats().dials, dials + 1);
            // What began on the first one goes on there.
            old.write_all(b"still").await.unwrap();
            let mut answer = [0; 5];
            old.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"still");
        }
        let other = match side {
            Side::Dialler => host.server.stats().connections_aged,
            Side::Acceptor => client.stats().connections_aged,
        };
        assert_eq!(other, 0, "who was told is not old itself");
        drop(old);
        assert_eq!(client.stats().connections_broken, 0);
    });
}

#[test]
fn an_old_connection_of_ours_takes_no_new_streams_and_keeps_those_it_has() {
    check(Side::Dialler);
}

#[test]
fn an_old_connection_of_a_peer_takes_no_new_streams_and_keeps_those_it_has() {
    check(Side::Acceptor);
}
