//! The two lanes: a request is a stream, its answer comes on the same stream.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use socket2::SockRef;
use starling_identity::{
    CurrentIdentity, IssuingCa, NewTrustDomain, NodeIdentity, TrustView, UnixTime, create_trust_domain, new_record_key,
    tls,
};
use starling_model::{NodeName, TrustDomain};
use starling_transport::data::{AGE_MAX, DataClient, DataServer, DataStream, Prover};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::Done;

/// Largest request and answer, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 65_536;

/// What requests and answers are made of.
static CONTENT: [u8; MESSAGE_BYTES_MAX] = [7; MESSAGE_BYTES_MAX];

/// Bytes of each request and of each answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) request: usize,
    pub(crate) answer: usize,
}

/// What carries the streams, and who says how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// `starling-mux/1`, as the agent has it, on TCP with this congestion control of the kernel.
    Mux(&'static str),
    /// The same from so many data threads, each with a connection of its own, as in an agent with as many cores.
    MuxOfThreads(&'static str, usize),
    /// quinn with its defaults.
    QuicCubic,
    /// quinn with its BBR, which it calls experimental.
    QuicBbr,
}

impl Lane {
    pub(crate) const ALL: [Self; 6] = [
        Self::Mux("bbr"),
        Self::Mux("cubic"),
        Self::QuicCubic,
        Self::QuicBbr,
        Self::MuxOfThreads("bbr", 4),
        Self::MuxOfThreads("cubic", 4),
    ];

    /// The congestion control of TCP in the hosts' namespaces.
    pub(crate) const fn of_tcp(self) -> Option<&'static str> {
        match self {
            Self::Mux(name) | Self::MuxOfThreads(name, _) => Some(name),
            Self::QuicCubic | Self::QuicBbr => None,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mux(name) => write!(f, "mux, TCP {name}"),
            Self::MuxOfThreads(name, threads) => write!(f, "mux of {threads} threads, TCP {name}"),
            Self::QuicCubic => f.write_str("QUIC, cubic"),
            Self::QuicBbr => f.write_str("QUIC, bbr"),
        }
    }
}

pub(crate) fn clock() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

/// Certificates of both ends, of one mesh.
pub(crate) struct Mesh {
    domain: NewTrustDomain,
    issuer: IssuingCa,
}

impl Mesh {
    pub(crate) fn new() -> Done<Self> {
        let domain = create_trust_domain(&TrustDomain::new("bench.internal")?, "alice", false, clock())?;
        let issuer = IssuingCa::load(&domain.bundle, &domain.issuer_key_pem)?;
        Ok(Self { domain, issuer })
    }

    pub(crate) fn node(&self, name: &NodeName) -> Done<CurrentIdentity> {
        let (bundle, now) = (&self.domain.bundle, clock());
        let issued = self.issuer.issue_node(name, 30, now)?;
        let identity = NodeIdentity::load(bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), now)?;
        Ok(CurrentIdentity::new(identity.mint_leaf(now)?, TrustView::new(bundle.clone())))
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(lane: Lane, sizes: Sizes, current: CurrentIdentity, address: SocketAddr) -> Done<()> {
    match lane {
        Lane::Mux(control) | Lane::MuxOfThreads(control, _) => {
            let listener = TcpListener::bind(address).await?;
            let (prover, server) = (Prover::new(current.clone(), clock), DataServer::new(current, clock, AGE_MAX));
            loop {
                let (socket, _) = listener.accept().await?;
                let used = SockRef::from(&socket).tcp_congestion()?;
                if !used.starts_with(control.as_bytes()) {
                    return Err(format!("{control} was asked for, {} is used", String::from_utf8_lossy(&used)).into());
                }
                let (prover, server) = (prover.clone(), server.clone());
                spawn_local(async move {
                    let Ok(proven) = prover.prove(socket).await else { return };
                    server.serve(proven, |_peer, _open, stream| answer_mux(stream, sizes)).await;
                });
            }
        }
        Lane::QuicCubic | Lane::QuicBbr => {
            let crypto = QuicServerConfig::try_from(tls::gossip_server(&current, clock))?;
            let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            config.transport_config(transport(lane));
            let endpoint = quinn::Endpoint::server(config, address)?;
            while let Some(incoming) = endpoint.accept().await {
                spawn_local(async move {
                    let Ok(connection) = incoming.await else { return };
                    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                        spawn_local(async move {
                            let _ = receive.read_to_end(sizes.request).await;
                            if send.write_all(&CONTENT[..sizes.answer]).await.is_ok() {
                                let _ = send.finish();
                                // Until all of it has arrived.
                                let _ = send.stopped().await;
                            }
                        });
                    }
                });
            }
            Ok(())
        }
    }
}

async fn answer_mux(mut stream: DataStream, sizes: Sizes) {
    if read_whole(&mut stream, sizes.request).await.is_ok() && stream.write_all(&CONTENT[..sizes.answer]).await.is_ok()
    {
        let _ = stream.shutdown().await;
    }
}

async fn read_whole(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Done<()> {
    let mut bytes = Vec::with_capacity(length);
    stream.read_to_end(&mut bytes).await?;
    if bytes.len() == length { Ok(()) } else { Err(format!("{} bytes instead of {length}", bytes.len()).into()) }
}

/// Defaults, but for the congestion control.
fn transport(lane: Lane) -> Arc<quinn::TransportConfig> {
    let factory: Arc<dyn ControllerFactory + Send + Sync> = match lane {
        Lane::QuicBbr => Arc::new(BbrConfig::default()),
        Lane::QuicCubic | Lane::Mux(_) | Lane::MuxOfThreads(..) => Arc::new(CubicConfig::default()),
    };
    let mut config = quinn::TransportConfig::default();
    config.congestion_controller_factory(factory);
    Arc::new(config)
}

/// The asking end.
#[derive(Clone)]
pub(crate) enum Asker {
    /// A pool for each data thread.
    Mux {
        clients: Vec<DataClient>,
        node: NodeName,
        address: SocketAddr,
    },
    Quic(quinn::Connection),
}

impl Asker {
    /// Both dial now, and tell who failed.
    pub(crate) async fn connect(
        (lane, sizes): (Lane, Sizes),
        current: CurrentIdentity,
        node: NodeName,
        address: SocketAddr,
    ) -> Done<Self> {
        let asker = match lane {
            Lane::Mux(_) | Lane::MuxOfThreads(..) => {
                let threads = if let Lane::MuxOfThreads(_, threads) = lane { threads } else { 1 };
                let clients = (0..threads).map(|_| DataClient::new(current.clone(), clock, AGE_MAX)).collect();
                Self::Mux { clients, node, address }
            }
            Lane::QuicCubic | Lane::QuicBbr => {
                let crypto = QuicClientConfig::try_from(tls::gossip_client(&current, Some(node), clock))?;
                let mut config = quinn::ClientConfig::new(Arc::new(crypto));
                config.transport_config(transport(lane));
                let endpoint = quinn::Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0)))?;
                Self::Quic(endpoint.connect_with(config, address, tls::SERVER_NAME)?.await?)
            }
        };
        asker.ask(0, sizes).await?;
        Ok(asker)
    }

    /// One request on a stream of its own, to the last byte of its answer. Who asks always asks by the same thread.
    pub(crate) async fn ask(&self, number: usize, sizes: Sizes) -> Done<()> {
        match self {
            Self::Mux { clients, node, address } => {
                let client = &clients[number % clients.len()];
                let mut stream = client.open(node, *address, Bytes::from_static(b"trial")).await?;
                stream.write_all(&CONTENT[..sizes.request]).await?;
                stream.shutdown().await?;
                read_whole(&mut stream, sizes.answer).await
            }
            Self::Quic(connection) => {
                let (mut send, mut receive) = connection.open_bi().await?;
                send.write_all(&CONTENT[..sizes.request]).await?;
                send.finish()?;
                read_whole(&mut receive, sizes.answer).await
            }
        }
    }

    /// Connections made so far.
    pub(crate) fn connections(&self) -> u64 {
        match self {
            Self::Mux { clients, .. } => clients.iter().map(|client| client.stats().dials).sum(),
            Self::Quic(_) => 1,
        }
    }
}
