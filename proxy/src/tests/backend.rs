//! Backends and clients for the tests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server that ends when dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Backend {
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers with its name and what it was sent. Paths: `/head` shows the request's head, `/hang` never answers, `/big`
/// sends a megabyte, `/flood` never ends, `/close` closes after its answer, `/teapot` answers 418, `/drop` closes instead of answering;
/// everything else echoes the body.
pub(crate) async fn http(name: &'static str) -> Backend {
    serving(name, Speaks::Http1).await
}

/// The same in HTTP/2 without TLS.
pub(crate) async fn http2(name: &'static str) -> Backend {
    serving(name, Speaks::Http2).await
}

#[derive(Clone, Copy)]
enum Speaks {
    Http1,
    Http2,
}

async fn serving(name: &'static str, speaks: Speaks) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let count = requests.clone();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    count.fetch_add(1, Ordering::SeqCst);
                    answer(name, request)
                });
                let io = TokioIo::new(stream);
                let _ = match speaks {
                    Speaks::Http1 => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                    Speaks::Http2 => {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(io, service).await
                    }
                };
            });
        }
    });
    Backend { address, requests, task }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(name: &'static str, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let full = |text: String| Full::new(Bytes::from(text)).boxed();
    let mut response = Response::new(full(String::new()));
    response.headers_mut().insert("x-backend", name.parse().unwrap());
    response.headers_mut().insert("x-starling-error", "connection_refused".parse().unwrap());
    match request.uri().path() {
        "/head" => {
            let mut lines = vec![format!("{} {} {:?}", request.method(), request.uri(), request.version())];
            lines.extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
            *response.body_mut() = full(lines.join("\n"));
        }
        "/hang" => std::future::pending().await,
        "/drop" => return Err(std::io::ErrorKind::ConnectionReset.into()),
        "/flood" => *response.body_mut() = Chunks(std::iter::repeat(Bytes::from_static(&[b'x'; 16_384]))).boxed(),
        "/big" => *response.body_mut() = full("x".repeat(1_000_000)),
        "/close" => {
            response.headers_mut().insert("connection", "close".parse().unwrap());
        }
        "/teapot" => *response.status_mut() = StatusCode::IM_A_TEAPOT,
        "/chunks" => {
            let chunks: Vec<Bytes> = (0..100).map(|n| Bytes::from(format!("chunk {n};"))).collect();
            *response.body_mut() = Chunks(chunks.into_iter()).boxed();
        }
        _ => match request.into_body().collect().await {
            Ok(body) => *response.body_mut() = Full::new(body.to_bytes()).boxed(),
            Err(_) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        },
    }
    Ok(response)
}

/// A body of unknown length.
struct Chunks<I>(I);

impl<I: Iterator<Item = Bytes> + Unpin> hyper::body::Body for Chunks<I> {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.next().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Reads to the end, then answers with all of it reversed: only half-close makes that work.
pub(crate) async fn reverser() -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let count = requests.clone();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut all = Vec::new();
                if stream.read_to_end(&mut all).await.is_ok() {
                    all.reverse();
                    let _ = stream.write_all(&all).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    Backend { address, requests, task }
}

/// An address at which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A keep-alive client.
pub(crate) struct Client(SendRequest<Full<Bytes>>);

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Client {
    pub(crate) async fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.0.ready().await.unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Answer {
        let request = Request::get(path).header("host", host).body(Full::default()).unwrap();
        self.send(request).await
    }

    pub(crate) async fn post(&mut self, host: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::post(path).header("host", host).body(Full::new(body.into())).unwrap();
        self.send(request).await
    }
}

/// Sends bytes as they are and reads everything until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(15), read).await.expect("the agent closes in time");
    String::from_utf8_lossy(&all).into_owned()
}
