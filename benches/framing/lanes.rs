//! The lanes: how each end comes by its streams.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::SystemTime;

use bytes::{Buf as _, Bytes, BytesMut};
use starling_identity::{
    CurrentIdentity, IssuingCa, NodeIdentity, TrustView, UnixTime, create_trust_domain, new_record_key, tls,
};
use starling_model::{NodeName, TrustDomain};
use starling_transport::data::{AGE_MAX, DataClient, DataServer, MuxStream, Prover};
use starling_transport::mux::limits::OUTPUT_TARGET;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use yamux::{Config, Connection, Mode};

use crate::Done;
use crate::work::{answer, on_this_thread};

/// Read from a socket at once: what our own data path reads, eight TLS records as they are on the wire.
const READ_AHEAD_BYTES: usize = 8 * (16 * 1024 + 5 + 1 + 16);

/// What puts streams on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// `starling-mux/1` as the agent has it: [`DataClient`] and [`DataServer`].
    Mux,
    /// `yamux`, straight on TLS.
    Yamux,
    /// `yamux` on a buffer that keeps what it writes, and flushes, until the connection has been polled to its end: as many
    /// frames share a record and a system call as ours do.
    YamuxBatched,
}

impl Lane {
    pub(crate) const ALL: [Self; 3] = [Self::Mux, Self::Yamux, Self::YamuxBatched];
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mux => "mux",
            Self::Yamux => "yamux",
            Self::YamuxBatched => "yamux, batched",
        })
    }
}

/// Opens streams to the answering end.
pub(crate) trait Opener: Clone {
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    async fn open(&self) -> Done<Self::Stream>;
}

/// Who answers, and who asks.
pub(crate) struct Peer {
    node: NodeName,
    address: SocketAddr,
    current: CurrentIdentity,
}

fn clock() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

/// Certificates of an asking and an answering node.
fn identities(answering: &NodeName) -> Done<[CurrentIdentity; 2]> {
    let now = clock();
    let domain = create_trust_domain(&TrustDomain::new("bench.internal")?, "alice", false, now)?;
    let issuer = IssuingCa::load(&domain.bundle, &domain.issuer_key_pem)?;
    let node = |name: &NodeName| -> Done<CurrentIdentity> {
        let issued = issuer.issue_node(name, 30, now)?;
        let bundle = &domain.bundle;
        let identity = NodeIdentity::load(bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), now)?;
        Ok(CurrentIdentity::new(identity.mint_leaf(now)?, TrustView::new(bundle.clone())))
    };
    Ok([node(&NodeName::new("asking")?)?, node(answering)?])
}

/// Lets a thread answer on loopback while `ask` runs on this one.
pub(crate) fn with_peer<T>(lane: Lane, ask: impl FnOnce(Peer) -> Done<T>) -> Done<T> {
    let node = NodeName::new("answering")?;
    let [asking, answering] = identities(&node)?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let peer = Peer { node, address: listener.local_addr()?, current: asking };
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            on_this_thread(async {
                tokio::select! {
                    served = serve(lane, listener, answering) => served,
                    _ = stopped => Ok(()),
                }
            })
        });
        let asked = ask(peer);
        drop(stop);
        thread.join().map_err(|_| "the answering end panicked")??;
        asked
    })
}

/// Serves until it is dropped.
async fn serve(lane: Lane, listener: std::net::TcpListener, current: CurrentIdentity) -> Done<()> {
    let listener = TcpListener::from_std(listener)?;
    let (prover, server) = (Prover::new(current.clone(), clock), DataServer::new(current.clone(), clock, AGE_MAX));
    loop {
        let (socket, _) = listener.accept().await?;
        if lane == Lane::Mux {
            let (prover, server) = (prover.clone(), server.clone());
            spawn_local(async move {
                let Ok(proven) = prover.prove(socket).await else { return };
                server.serve(proven, |_, _, stream| answer(stream)).await;
            });
        } else {
            socket.set_nodelay(true)?;
            let socket = BufReader::with_capacity(READ_AHEAD_BYTES, socket);
            let stream = TlsAcceptor::from(tls::data_server(&current, clock)).accept(socket).await?;
            let theirs = Theirs::new(lane, stream.into(), Mode::Server);
            spawn_local(theirs.drive(|stream| drop(spawn_local(answer(stream.compat())))));
        }
    }
}

/// The asking end of `starling-mux/1`.
#[derive(Clone)]
pub(crate) struct Ours {
    client: DataClient,
    peer: Rc<Peer>,
}

impl Ours {
    /// Dials, and has the connection.
    pub(crate) async fn connect(peer: Peer) -> Done<Self> {
        let ours = Self { client: DataClient::new(peer.current.clone(), clock, AGE_MAX), peer: Rc::new(peer) };
        drop(ours.open().await?);
        Ok(ours)
    }
}

impl Opener for Ours {
    type Stream = MuxStream;

    async fn open(&self) -> Done<MuxStream> {
        Ok(self.client.open(&self.peer.node, self.peer.address, Bytes::from_static(b"trial")).await?)
    }
}

/// An end of a connection of `yamux`.
#[derive(Clone)]
pub(crate) struct Theirs {
    connection: Rc<RefCell<Connection<Compat<Socket>>>>,
    socket: Socket,
    driver: Rc<RefCell<Option<Waker>>>,
}

impl Theirs {
    fn new(lane: Lane, stream: Tls, mode: Mode) -> Self {
        let batch = Batch { stream, output: BytesMut::new(), is_full: false };
        let socket = Socket { batch: Rc::new(RefCell::new(batch)), is_batched: lane == Lane::YamuxBatched };
        let connection = Connection::new(socket.clone().compat(), Config::default(), mode);
        Self { connection: Rc::new(RefCell::new(connection)), socket, driver: Rc::default() }
    }

    /// Dials, and has the connection.
    pub(crate) async fn connect(lane: Lane, peer: Peer) -> Done<Self> {
        let socket = TcpStream::connect(peer.address).await?;
        socket.set_nodelay(true)?;
        let socket = BufReader::with_capacity(READ_AHEAD_BYTES, socket);
        let config = tls::data_client(&peer.current, peer.node, clock);
        let stream = TlsConnector::from(config).connect(tls::server_name(), socket).await?;
        let theirs = Self::new(lane, stream.into(), Mode::Client);
        spawn_local(theirs.clone().drive(drop));
        Ok(theirs)
    }

    /// Moves the connection's bytes until it ends.
    async fn drive(self, mut on_open: impl FnMut(yamux::Stream)) {
        poll_fn(|cx| {
            *self.driver.borrow_mut() = Some(cx.waker().clone());
            loop {
                match self.connection.borrow_mut().poll_next_inbound(cx) {
                    Poll::Ready(Some(Ok(stream))) => on_open(stream),
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            self.socket.send(cx)
        })
        .await;
    }
}

impl Opener for Theirs {
    type Stream = Compat<yamux::Stream>;

    async fn open(&self) -> Done<Self::Stream> {
        let stream = poll_fn(|cx| self.connection.borrow_mut().poll_new_outbound(cx)).await?;
        // A connection looks at a new stream when it is polled, and is not woken for it.
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
        Ok(stream.compat())
    }
}

type Tls = TlsStream<BufReader<TcpStream>>;

/// What `yamux` reads and writes; whoever drives the connection sends what a batch has gathered.
#[derive(Clone)]
struct Socket {
    batch: Rc<RefCell<Batch>>,
    is_batched: bool,
}

struct Batch {
    stream: Tls,
    output: BytesMut,
    /// A writer was turned away.
    is_full: bool,
}

impl Batch {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let length = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            self.output.advance(length);
        }
        self.output.clear();
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl Socket {
    /// Sends the batch. Ready only when the connection has broken.
    fn send(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_batched {
            let mut batch = self.batch.borrow_mut();
            if let Poll::Ready(Err(_)) = batch.poll_send(cx) {
                return Poll::Ready(());
            }
            if batch.is_full && batch.output.len() < OUTPUT_TARGET {
                batch.is_full = false;
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.batch.borrow_mut().stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut batch = self.batch.borrow_mut();
        if !self.is_batched {
            return Pin::new(&mut batch.stream).poll_write(cx, bytes);
        }
        if batch.output.len() >= OUTPUT_TARGET {
            if let Poll::Ready(Err(error)) = batch.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            if batch.output.len() >= OUTPUT_TARGET {
                batch.is_full = true;
                return Poll::Pending;
            }
        }
        batch.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_batched { Poll::Ready(Ok(())) } else { Pin::new(&mut self.batch.borrow_mut().stream).poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut batch = self.batch.borrow_mut();
        ready!(batch.poll_send(cx))?;
        Pin::new(&mut batch.stream).poll_shutdown(cx)
    }
}
