//! A request that somebody watches goes the way of all requests, and is told.

use starling_model::Protocol;

use super::backend;
use super::*;

const HEAD: &[u8] = b"GET /cart HTTP/1.1\r\nhost: orders.mesh.internal\r\n\r\n";

#[tokio::test]
async fn what_happened_is_told_with_the_endpoint_and_the_tries() {
    let good = backend::http("good").await;
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, backend::nobody().await);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, good.address);
    let asker = mesh.node("vm-1").plane.as_ref().unwrap().asker();
    let mut most = 0;
    for _ in 0..20 {
        let record = asker.send(HEAD, Some(key("web"))).await.unwrap();
        let http = record.http.as_ref().unwrap();
        assert_eq!((http.status, record.error, &*http.path), (200, None, "/cart"));
        assert_eq!(record.endpoint.as_ref().unwrap().to_string(), "vm-3/default/orders-2");
        assert_eq!(record.caller.service, Some(key("web")));
        most = most.max(record.tries);
    }
    assert_eq!((most, good.requests()), (2, 20), "the first one meets the endpoint that refuses at least once");
}

#[tokio::test]
async fn an_answer_of_the_mesh_is_told_as_one_and_the_log_has_it_too() {
    let (log, records) = AccessLog::new(crate::access_log::Only::Errors, Arc::default());
    let mut mesh = Mesh::new(0);
    mesh.start_with("vm-1", Some(Arc::new(log)));
    mesh.publish();
    let asker = mesh.node("vm-1").plane.as_ref().unwrap().asker();
    let record = asker.send(HEAD, None).await.unwrap();
    assert_eq!(record.http.as_ref().unwrap().status, 404);
    assert_eq!(
        (record.error.unwrap().as_str(), record.endpoint.as_ref(), record.tries),
        ("destination_not_found", None, 0)
    );
    let logged = records.recv_timeout(Duration::from_secs(2)).unwrap();
    assert_eq!(logged.http.unwrap().path, record.http.unwrap().path);
    let refused = asker.send(b"GET /\0 HTTP/1.1\r\nhost: orders.mesh.internal\r\n\r\n", None).await;
    let refused = refused.unwrap();
    assert_eq!((refused.http.as_ref().unwrap().status, refused.error.unwrap().as_str()), (400, "http_request_error"));
}

/// Answers each connection with a body of so many bytes, as far as it is taken.
async fn long(bytes: usize) -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n{}", "b".repeat(bytes));
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn an_answer_is_read_to_a_bound_and_a_stopped_plane_takes_nothing() {
    use crate::limits::WATCHED_BYTES_MAX;
    let within = WATCHED_BYTES_MAX / 2;
    // What is under way in buffers counts as gone to the client.
    let beyond = 16 * WATCHED_BYTES_MAX;
    for (bytes, whole) in [(within, true), (beyond, false)] {
        let mut mesh = Mesh::new(2);
        mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, long(bytes).await);
        let asker = mesh.node("vm-1").plane.as_ref().unwrap().asker();
        let record = asker.send(HEAD, None).await.unwrap();
        assert_eq!(record.http.unwrap().status, 200);
        assert_eq!(record.received == bytes as u64, whole, "{} of {bytes}", record.received);
        mesh.kill("vm-1");
        assert!(asker.send(HEAD, None).await.is_err());
    }
}
