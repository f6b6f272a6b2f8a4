//! What follows a chunked body passes both ways over HTTP/1.1, and `100 Continue` is said where it is asked for.

use starling_model::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::backend::raw;
use super::*;

/// Reads one request to the end of its chunks, gives it to the test, and answers with `answer`.
async fn server(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            let ends = |all: &[u8]| {
                let text = String::from_utf8_lossy(all).to_lowercase();
                let chunked = text.contains("transfer-encoding: chunked");
                text.ends_with("\r\n\r\n") && (!chunked || text.contains("\r\n0\r\n"))
            };
            while !ends(&all) {
                let mut space = [0; 4_096];
                match stream.read(&mut space).await {
                    Ok(read @ 1..) => all.extend_from_slice(&space[..read]),
                    Ok(_) | Err(_) => break,
                }
            }
            let _ = tell.send(String::from_utf8_lossy(&all).into_owned()).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, seen)
}

async fn mesh(answer: &'static str) -> (Mesh, mpsc::Receiver<String>) {
    let (address, seen) = server(answer).await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, address);
    (mesh, seen)
}

const HEAD: &str = "Host: orders.mesh.internal\r\nConnection: close, TE\r\n";
const ANSWER: &str =
    "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n";

#[tokio::test]
async fn trailers_of_an_answer_reach_a_caller_that_reads_them_and_no_other() {
    let (mesh, mut seen) = mesh(ANSWER).await;
    for (te, reads) in [("TE: trailers\r\n", true), ("", false)] {
        let answer = raw(mesh.node("vm-1").http, format!("GET / HTTP/1.1\r\n{HEAD}{te}\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello"), "{answer}");
        assert_eq!(answer.to_lowercase().contains("0\r\nx-sum: 7\r\n\r\n"), reads, "{answer}");
        let request = seen.recv().await.unwrap();
        assert_eq!(request.contains("te: trailers\r\n"), reads, "the instance is told the same: {request}");
    }
}

#[tokio::test]
async fn trailers_of_a_request_reach_the_instance_but_those_that_would_change_it() {
    let (mesh, mut seen) = mesh("HTTP/1.1 204 No Content\r\n\r\n").await;
    let request = format!(
        "POST / HTTP/1.1\r\n{HEAD}Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\nX-Sum: 7\r\nHost: evil\r\nX-Starling-Error: x\r\n\r\n"
    );
    let answer = raw(mesh.node("vm-1").http, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let request = seen.recv().await.unwrap();
    assert!(request.ends_with("5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"), "{request}");
}

#[tokio::test]
async fn a_caller_that_waits_for_100_is_told_to_go_on_and_the_instance_is_not_asked() {
    let (mesh, mut seen) = mesh("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    let mut stream = TcpStream::connect(mesh.node("vm-1").http).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\n{HEAD}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = [0; 25];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"5\r\nhello\r\n0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let request = seen.recv().await.unwrap().to_lowercase();
    assert!(request.contains("5\r\nhello\r\n0\r\n\r\n") && !request.contains("expect"), "{request}");
}
