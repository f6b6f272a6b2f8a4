//! Two data planes in one process, the caller's and the owner's, with real identities and sockets: what two agents do with
//! traffic, without the rest of them. Gossip is played by hand, as a registry that both compile.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use starling_identity::issue::{IssuingCa, create_trust_domain};
use starling_identity::node::new_record_key;
use starling_identity::{CurrentIdentity, NodeIdentity, TrustBundle, TrustView, UnixTime};
use starling_model::{
    Announcement, HealthEntry, HealthRecord, InstanceName, Labels, MemberState, Namespace, NodeName, PortName,
    Protocol, Readiness, ServiceKey, ServicesRecord, TrustDomain, Weight,
};
use starling_proxy::{DataPlane, ListenAddress, LocalInstance, ProxyConfig, ProxyShared, Upstream};
use starling_routing::{MemberFact, Registry, compile};

use crate::{documents, settings};

/// The clock of certificates stands still: 2026-11-18.
const NOW: UnixTime = UnixTime(1_795_000_000);

/// What the HTTP server says; the body is what a client looks for at the end.
const ANSWER_HEAD: &str = "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 128\r\n\r\n";

/// Bytes of the body of an answer.
const BODY_BYTES: usize = 128;

/// Bytes that go there and back in a round trip.
const PING_BYTES: usize = 64;

/// What a client asks, as a program that knows nothing of the mesh.
const REQUEST: &str = "GET /v1/orders HTTP/1.1\r\nHost: orders\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

/// As users run it: one route whose two backends lead to the one server.
const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders}]
  rules:
    - backendRefs: [{name: orders, weight: 90}, {name: orders-next, weight: 10}]
";

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

fn clock() -> UnixTime {
    NOW
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::parse(name, &Namespace::default()).expect("a service")
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The running pair, with an HTTP and an echo server behind the owner's agent.
#[derive(Debug)]
pub struct Planes {
    http: SocketAddr,
    echo: SocketAddr,
    // Dropped last, and in this order.
    _caller: DataPlane,
    _owner: DataPlane,
}

impl Planes {
    /// Starts both, with one data thread each, and the servers.
    ///
    /// # Errors
    /// When a socket cannot be had.
    ///
    /// # Panics
    /// Never: the names are well formed and the identities are made here.
    pub fn start() -> io::Result<Self> {
        let (http, echo) = (serve(answer_all)?, serve(echo_all)?);
        let domain = TrustDomain::new("bench.internal").expect("a trust domain");
        let made = create_trust_domain(&domain, "alice", false, NOW).expect("a trust domain");
        let ca = IssuingCa::load(&made.bundle, &made.issuer_key_pem).expect("an issuer");
        let entrance = |service: &str| Upstream {
            service: key(service),
            port: None,
            listen: ListenAddress::Tcp(loopback()),
            source: Some(key("web")),
        };
        let entrances = vec![entrance("orders"), entrance("echo")];
        let (caller, caller_shared) = plane("vm-a", &domain, &ca, &made.bundle, entrances);
        let (owner, owner_shared) = plane("vm-b", &domain, &ca, &made.bundle, Vec::new());

        let served =
            [("orders", Protocol::Http, http), ("orders-next", Protocol::Http, http), ("echo", Protocol::Tcp, echo)];
        owner_shared.instances.store(Arc::new(served.iter().map(local).collect()));
        let mut registry = Registry::new();
        for (name, plane) in [("vm-a", &caller), ("vm-b", &owner)] {
            let node = NodeName::new(name).expect("a node name");
            let address = Some(plane.addresses().data);
            registry.member(&MemberFact { node, state: MemberState::Alive, address });
        }
        let owner_name = NodeName::new("vm-b").expect("a node name");
        registry.services(&owner_name, &ServicesRecord { instances: served.iter().map(announced).collect() });
        registry.health(&owner_name, &HealthRecord { entries: served.iter().map(ready).collect() });
        let table = Arc::new(compile(&documents([ROUTE.to_owned()]), &registry, &settings(), None));
        caller_shared.publish(table.clone());
        owner_shared.publish(table);

        let entrance = |at: usize| match &caller.addresses().upstreams[at] {
            ListenAddress::Tcp(address) => *address,
            ListenAddress::Unix(_) => unreachable!("only TCP was asked for"),
        };
        Ok(Self { http: entrance(0), echo: entrance(1), _caller: caller, _owner: owner })
    }

    /// A client with one connection, in front of the HTTP service.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn requests(&self) -> io::Result<Requests> {
        Ok(Requests { stream: connect(self.http)?, buffer: vec![0; 4_096] })
    }

    /// A client with one connection, in front of the echo service.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn round_trips(&self) -> io::Result<RoundTrips> {
        Ok(RoundTrips { stream: connect(self.echo)? })
    }
}

/// Asks over HTTP, one request after the other.
#[derive(Debug)]
pub struct Requests {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Requests {
    /// One request and its whole answer.
    ///
    /// # Errors
    /// When the connection ends, or the answer is another than the server's.
    pub fn exchange(&mut self) -> io::Result<()> {
        self.stream.write_all(REQUEST.as_bytes())?;
        let mut filled = 0;
        while !self.buffer[..filled].ends_with(&[b'x'; BODY_BYTES]) {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
        }
        if self.buffer.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// Sends bytes to an echo, one message after the other.
#[derive(Debug)]
pub struct RoundTrips {
    stream: TcpStream,
}

impl RoundTrips {
    /// One message there and back.
    ///
    /// # Errors
    /// When the connection ends, or something else comes back.
    pub fn exchange(&mut self) -> io::Result<()> {
        self.stream.write_all(&[7; PING_BYTES])?;
        let mut back = [0; PING_BYTES];
        self.stream.read_exact(&mut back)?;
        if back == [7; PING_BYTES] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

fn plane(
    name: &str,
    domain: &TrustDomain,
    ca: &IssuingCa,
    bundle: &TrustBundle,
    upstreams: Vec<Upstream>,
) -> (DataPlane, Arc<ProxyShared>) {
    let node = NodeName::new(name).expect("a node name");
    let issued = ca.issue_node(&node, 30, NOW).expect("a node's certificate");
    let identity = NodeIdentity::load(bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), NOW)
        .expect("a node's identity");
    let leaf = identity.mint_leaf(NOW).expect("a leaf");
    let current = CurrentIdentity::new(leaf, TrustView::new(bundle.clone()));
    let shared = Arc::new(ProxyShared::new(current, clock));
    shared.know_grants();
    let config = ProxyConfig {
        node,
        trust_domain: domain.clone(),
        domain: "mesh.internal".to_owned(),
        data_listen: loopback(),
        http_listen: None,
        gateway_listen: None,
        upstreams,
        access_log: None,
        connection_age: starling_transport::data::AGE_MAX,
        threads: 1,
    };
    (DataPlane::start(config, Arc::clone(&shared)).expect("a data plane"), shared)
}

type Served = (&'static str, Protocol, SocketAddr);

fn port() -> PortName {
    PortName::new("main").expect("a port name")
}

fn instance(service: &str) -> InstanceName {
    InstanceName::new(&format!("{service}-1")).expect("an instance name")
}

fn local((service, protocol, address): &Served) -> (InstanceName, LocalInstance) {
    let local = LocalInstance {
        service: key(service),
        port: port(),
        protocol: *protocol,
        address: *address,
        readiness: Readiness::Ready,
        callers: None,
    };
    (instance(service), local)
}

fn announced((service, protocol, _): &Served) -> Announcement {
    Announcement {
        instance: instance(service),
        service: key(service),
        port: port(),
        protocol: *protocol,
        labels: Labels::default(),
        weight: Weight::default(),
    }
}

fn ready((service, ..): &Served) -> HealthEntry {
    HealthEntry { instance: instance(service), readiness: Readiness::Ready }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A server that lives as long as the process: a thread for each connection, and nothing that could cost more than its
/// system calls.
fn serve(connection: fn(TcpStream) -> io::Result<()>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(loopback())?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || stream.set_nodelay(true).and_then(|()| connection(stream)));
        }
    });
    Ok(address)
}

/// Answers each request head; bodies are not expected.
fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    let answer = format!("{ANSWER_HEAD}{}", "x".repeat(BODY_BYTES));
    let (mut buffer, mut filled) = (vec![0; 4_096], 0);
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            stream.write_all(answer.as_bytes())?;
            filled = 0;
        }
    }
}

fn echo_all(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 4_096];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
    }
}
