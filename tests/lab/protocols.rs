//! More than HTTP/1.1 between real agents: WebSocket, `CONNECT`, and gRPC by a GRPCRoute, with clients and servers of
//! public libraries.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};

use crate::agent::{Mesh, eventually, three};
use crate::apply::Desk;

/// Runs the clients and servers of one test, beside the agents.
pub(crate) fn with_runtime<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(run)
}

/// Starts a server on a thread of its own, which serves until the test's process ends.
pub(crate) fn with_server<F: Future<Output = SocketAddr>>(start: impl FnOnce() -> F + Send + 'static) -> SocketAddr {
    let (told, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            told.send(start().await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    address.recv().unwrap()
}

/// Echoes WebSocket messages.
pub(crate) async fn echo(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

pub(crate) async fn websocket(entrance: SocketAddr) -> Option<tokio_tungstenite::WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(entrance).await.ok()?;
    Some(tokio_tungstenite::client_async("ws://chat.mesh.internal/room", stream).await.ok()?.0)
}

#[test]
fn a_websocket_passes_two_agents_and_a_tunnel_too() {
    let mesh = Mesh::new(100);
    let hosts = three(&mesh, "lan", |_| String::new());
    with_runtime(async {
        let address = echo("127.100.0.2:0").await;
        hosts[1].announce("chat-1", "chat", "http", address, "");
        hosts[2].announce("raw-1", "raw", "detect", reverser("127.100.0.3:0").await, "");
        let entrance = hosts[0].at(7780);
        let mut socket = loop {
            if let Some(socket) = websocket(entrance).await {
                break socket;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        for length in [1, 1_000, 1_000_000] {
            let message = Message::binary(vec![7; length]);
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        let mut answer = String::new();
        let mut stream = loop {
            let mut stream = TcpStream::connect(entrance).await.unwrap();
            stream
                .write_all(b"CONNECT raw.mesh.internal:1 HTTP/1.1\r\nHost: raw.mesh.internal:1\r\n\r\n")
                .await
                .unwrap();
            answer.clear();
            while !answer.contains("\r\n\r\n") {
                answer.push(char::from(stream.read_u8().await.unwrap()));
            }
            if answer.starts_with("HTTP/1.1 200 ") {
                break stream;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        answer.clear();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "cba");
    });
}

/// Reads to the end and answers with all of it reversed.
async fn reverser(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            if stream.read_to_end(&mut all).await.is_ok() {
                all.reverse();
                let _ = stream.write_all(&all).await;
            }
        }
    });
    address
}

/// Messages are bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// Answers every call with its name.
struct Named(&'static str);

impl tonic::server::UnaryService<Vec<u8>> for Named {
    type Response = Vec<u8>;
    type Future = std::future::Ready<Result<Response<Vec<u8>>, Status>>;
    fn call(&mut self, _: Request<Vec<u8>>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.as_bytes().to_vec())))
    }
}

async fn server(address: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(move |request| async move {
                    Ok::<_, std::convert::Infallible>(tonic::server::Grpc::new(Raw).unary(Named(name), request).await)
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: shop}\nspec:\n  \
parentRefs: [{kind: Service, name: shop}]\n  rules:\n    \
- matches: [{method: {service: shop.Orders, method: Get}}]\n      backendRefs: [{name: next}]\n    \
- matches: [{method: {service: shop.Orders}}]\n      backendRefs: [{name: shop}]\n";

#[test]
fn a_grpc_route_sends_methods_to_different_services() {
    let mesh = Mesh::new(111);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    let call = async |path: &'static str| {
        let endpoint = Endpoint::from_shared(format!("http://{}", hosts[0].at(7780))).unwrap();
        let channel = endpoint.origin("http://shop.mesh.internal".parse().unwrap()).connect().await.unwrap();
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.unwrap();
        let answer = client.unary(Request::new(b"x".to_vec()), path.parse().unwrap(), Raw).await?;
        Ok::<_, Status>(String::from_utf8(answer.into_inner()).unwrap())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (shop, next) =
        runtime.block_on(async { (server("127.111.0.2:0", "shop").await, server("127.111.0.3:0", "next").await) });
    hosts[1].announce("shop-1", "shop", "grpc", shop, "");
    hosts[2].announce("next-1", "next", "grpc", next, "");
    let call = |path| runtime.block_on(call(path));
    eventually("calls are answered", Duration::from_secs(10), || {
        (call("/shop.Orders/Get").ok()? == "shop").then_some(())
    });
    alice.write("route.yaml", ROUTE);
    let (exit, out, error) = alice.signed(&hosts[1], &["apply", "-f", "route.yaml", "--wait"]);
    assert_eq!(exit, 0, "{out}{error}");
    eventually("the method goes elsewhere", Duration::from_secs(10), || {
        (call("/shop.Orders/Get").ok()? == "next").then_some(())
    });
    for _ in 0..20 {
        assert_eq!(call("/shop.Orders/Get").unwrap(), "next");
        assert_eq!(call("/shop.Orders/Put").unwrap(), "shop");
        assert_eq!(call("/shop.Stock/Get").unwrap_err().code(), Code::Unimplemented);
    }
}
