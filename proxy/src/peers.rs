//! Streams between agents: opening one to an endpoint's node, and judging those that peers open here.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use starling_identity::PeerIdentity;
use starling_model::{Protocol, Readiness};
use starling_routing::{Caller, Endpoint, TryOutcome};
use starling_transport::data::{
    DIAL_DEADLINE, DataStream, DialError, MuxStream, NotDedicated, OpenError, OpenRequest, ResetCode, ServeEnd,
};
use starling_transport::lane::LaneKind;
use tokio::net::TcpStream;
use tracing::debug;

use crate::answers::ErrorType;
use crate::detect::{Sniff, Undecided};
use crate::header::{Carry, OpenHeader};
use crate::http::attempt::Failed;
use crate::http::inbound;
use crate::l4;
use crate::limits::{HANDSHAKES_PER_SOURCE_MAX, HANDSHAKES_PER_THREAD_MAX};
use crate::loads::Failure;
use crate::metrics::{Direction, Retired, Turned};
use crate::worker::Worker;

/// Opens a stream to an endpoint's agent. Dialling, where needed, is bounded by the transport's deadline.
pub(crate) async fn open(worker: &Worker, endpoint: &Endpoint, header: &OpenHeader) -> Result<MuxStream, Failed> {
    let outcome = TryOutcome::NotSent;
    let Some(address) = endpoint.address else {
        return Err(Failed { outcome, error: ErrorType::DestinationUnavailable, endpoint: None });
    };
    worker.client.open(endpoint.node(), address, header.encode()).await.map_err(|error| {
        debug!(endpoint = %endpoint.id, %error, "no stream to a peer");
        let (error, failure) = explain(&error);
        Failed { outcome, error, endpoint: failure }
    })
}

/// The same for a tunnel, on the lane that its service's history speaks for. A dedicated connection that does not come
/// about costs the stream nothing but the time: it shares one.
pub(crate) async fn open_lane(worker: &Worker, endpoint: &Endpoint, header: &OpenHeader) -> Result<DataStream, Failed> {
    let lane = worker.shared.lanes.lane(&endpoint.service);
    if let (LaneKind::Dedicated, Some(address)) = (lane, endpoint.address) {
        // On the heap: most tunnels never come here.
        let opened = Box::pin(worker.client.open_dedicated(endpoint.node(), address, &header.encode())).await;
        match opened {
            Ok(stream) => {
                worker.shared.metrics.lane(Direction::Outbound, LaneKind::Dedicated);
                return Ok(DataStream::Dedicated(stream));
            }
            Err(NotDedicated::Refused) => {
                debug!(endpoint = %endpoint.id, "a peer refused a stream");
                let (error, endpoint) = (ErrorType::ConnectionRefused, Some(Failure::Quick));
                return Err(Failed { outcome: TryOutcome::Refused, error, endpoint });
            }
            Err(why) => {
                debug!(endpoint = %endpoint.id, reason = why.as_str(), "a bulk stream shares a connection");
                worker.shared.metrics.lane_fallback(why.as_str());
            }
        }
    }
    let stream = open(worker, endpoint, header).await?;
    worker.shared.metrics.lane(Direction::Outbound, LaneKind::Shared);
    Ok(DataStream::Shared(stream))
}

fn explain(error: &OpenError) -> (ErrorType, Option<Failure>) {
    match error {
        OpenError::Dial { source, .. } | OpenError::Remembered { source, .. } => match source {
            DialError::Timeout => (ErrorType::ConnectionTimeout, Some(Failure::TimedOut)),
            DialError::PeerCertificate(_) | DialError::OurCertificate(_) | DialError::OtherMesh(_) => {
                (ErrorType::TlsCertificateError, Some(Failure::Quick))
            }
            DialError::Unreachable(_)
            | DialError::OtherProtocol
            | DialError::NoCommonVersion { .. }
            | DialError::OurOwnName(_)
            | DialError::Handshake(_)
            | DialError::Closed(_)
            | DialError::NotDialled(_) => (ErrorType::ConnectionRefused, Some(Failure::Quick)),
        },
        OpenError::Stream { .. } => (ErrorType::ConnectionLimitReached, None),
        OpenError::Draining => (ErrorType::ConnectionTerminated, None),
    }
}

/// Handshakes under way on one thread. A stranger costs nothing but a connection that says nothing, so no source gets
/// all the places.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    by_source: RefCell<HashMap<Source, usize>>,
}

/// What places count by: an IPv4 address, an IPv6 /64; on loopback the port too, where many agents share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
    Loopback(u16),
}

impl Source {
    fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            // What the kernel gives a dialler that names no source.
            ip if ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => Self::Loopback(address.port()),
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => Self::V6(ip.octets().first_chunk().copied().unwrap_or_default()),
        }
    }
}

impl Handshakes {
    /// A place for a connection from `address`, until the guard is dropped; none if there are too many.
    fn begin(self: &Rc<Self>, address: SocketAddr) -> Option<Shaking> {
        let mut by_source = self.by_source.borrow_mut();
        let source = Source::of(address);
        // Few enough to add up: at most one entry for each.
        if by_source.values().sum::<usize>() >= HANDSHAKES_PER_THREAD_MAX {
            return None;
        }
        let own = by_source.entry(source).or_default();
        if *own >= HANDSHAKES_PER_SOURCE_MAX {
            return None;
        }
        *own += 1;
        Some(Shaking { handshakes: self.clone(), source })
    }
}

/// Counts a handshake until it is over, one way or the other.
#[derive(Debug)]
struct Shaking {
    handshakes: Rc<Handshakes>,
    source: Source,
}

impl Drop for Shaking {
    fn drop(&mut self) {
        let mut by_source = self.handshakes.by_source.borrow_mut();
        if let Some(own) = by_source.get_mut(&self.source) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                by_source.remove(&self.source);
            }
        }
    }
}

/// Serves one connection of a peer until it ends. Owns it; dropping this cuts it, and its streams with it.
pub(crate) async fn serve(worker: Rc<Worker>, socket: TcpStream) {
    // A peer that is gone already needs no place.
    let Ok(address) = socket.peer_addr() else { return };
    let Some(shaking) = worker.handshakes.begin(address) else {
        worker.shared.metrics.turned_away(Turned::Limit);
        return;
    };
    let shaking = Rc::new(Cell::new(Some(shaking)));
    let proven = {
        let (worker, shaking) = (worker.clone(), shaking.clone());
        move || {
            if shaking.take().is_some() {
                worker.shared.metrics.handshake(Direction::Inbound, "success");
            }
        }
    };
    let handler = {
        let (worker, proven) = (worker.clone(), proven.clone());
        move |peer: PeerIdentity, request: OpenRequest, stream: DataStream| {
            proven();
            let worker = worker.clone();
            async move { accept(worker, peer, request, stream).await }
        }
    };
    let mut serving = std::pin::pin!(worker.server_of_peers.serve_connection(socket, handler));
    // A handshake is over after its deadline; a peer that opens nothing by then is at least proven.
    let end = tokio::select! {
        end = serving.as_mut() => end,
        () = tokio::time::sleep(DIAL_DEADLINE) => {
            proven();
            serving.await
        }
    };
    match end {
        ServeEnd::NotProven(error) => worker.shared.metrics.handshake(Direction::Inbound, error.reason()),
        ServeEnd::Drained | ServeEnd::Closed | ServeEnd::Silent | ServeEnd::Violated(_) | ServeEnd::Cut => proven(),
    }
}

/// One stream of a peer. What is refused here was seen by nobody, and the peer is told so.
async fn accept(worker: Rc<Worker>, peer: PeerIdentity, request: OpenRequest, stream: DataStream) {
    let refuse = |stream: DataStream, reason| {
        worker.shared.metrics.turned_away(reason);
        stream.reset(ResetCode::Refused);
    };
    let header = match OpenHeader::decode(&request.header) {
        Ok(header) => header,
        Err(error) => {
            debug!(member = %peer.node, %error, "stream refused");
            return refuse(stream, Turned::Header);
        }
    };
    let found = {
        let instances = worker.shared.instances.load();
        let instance = instances.find(&header.instance, &header.destination, &header.port);
        instance.filter(|instance| instance.readiness == Readiness::Ready).cloned()
    };
    let Some(instance) = found else {
        debug!(member = %peer.node, service = %header.destination, "stream refused: not ready here");
        return refuse(stream, Turned::NoInstance);
    };
    let caller = accept_source(&worker, &peer, &header);
    match (header.carry, stream) {
        (Carry::Http1, stream) if instance.protocol == Protocol::Grpc => refuse(stream, Turned::Carry),
        (Carry::Http1 | Carry::Http2, DataStream::Shared(stream)) => {
            inbound::serve(worker, stream, header, peer.node).await;
        }
        // Requests share connections; no agent opens another one for them.
        (Carry::Http1 | Carry::Http2, stream @ DataStream::Dedicated(_)) => refuse(stream, Turned::Carry),
        (Carry::Bytes, stream) => {
            // HTTP as bytes would reach the instance unhardened, with whatever identity header the peer wrote into them.
            let stream = match instance.protocol {
                Protocol::Http | Protocol::Grpc => return refuse(stream, Turned::Carry),
                Protocol::Tcp => Sniff::open(stream),
                Protocol::Detect => Sniff::new(stream, Undecided::IsHttp),
            };
            worker.shared.metrics.lane(Direction::Inbound, stream.inner().lane_kind());
            l4::inbound::serve(worker, stream, &header, &caller, instance.address).await;
        }
    }
}

/// Whom the stream's source makes the caller; a claim that is not granted to the proven node counts for nothing.
fn accept_source(worker: &Worker, peer: &PeerIdentity, header: &OpenHeader) -> Caller {
    worker.caller(&peer.node, header.source.as_ref()).unwrap_or_else(|reason| {
        debug!(member = %peer.node, service = ?header.source, reason, "a peer calls as a service that it is not granted");
        worker.shared.metrics.source_refused(reason);
        Caller { node: peer.node.clone(), service: None }
    })
}

/// What of a thread's connections is in the metrics already.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    dials: (u64, u64),
    aged: (u64, u64),
}

impl Counted {
    /// Counts what came since the last call: dials, and connections that grew old.
    pub(crate) fn count(&mut self, worker: &Worker) {
        let (dialled, accepted) = (worker.client.stats(), worker.server_of_peers.stats());
        let dials = (dialled.dials, dialled.dials_failed);
        let aged = (dialled.connections_aged, accepted.connections_aged);
        let metrics = &worker.shared.metrics;
        metrics.dials(dials.0.saturating_sub(self.dials.0), dials.1.saturating_sub(self.dials.1));
        metrics.retired(Direction::Outbound, Retired::Age, aged.0.saturating_sub(self.aged.0));
        metrics.retired(Direction::Inbound, Retired::Age, aged.1.saturating_sub(self.aged.1));
        *self = Self { dials, aged };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_source_takes_all_places_and_all_places_are_bounded() {
        let handshakes = Rc::new(Handshakes::default());
        let mut held: Vec<Shaking> =
            (0..HANDSHAKES_PER_SOURCE_MAX).map(|_| handshakes.begin(at("10.0.0.1:1")).unwrap()).collect();
        assert!(handshakes.begin(at("10.0.0.1:2")).is_none(), "another port is the same source");
        assert!(handshakes.begin(at("[::ffff:10.0.0.1]:3")).is_none(), "and so is its mapped form");
        let first: Option<Shaking> = handshakes.begin(at("[2001:db8::1]:1"));
        assert!(first.is_some(), "another source has places of its own");
        drop(first);
        while let Some(shaking) = handshakes.begin(at(&format!("127.0.0.1:{}", 1 + held.len()))) {
            held.push(shaking);
        }
        assert_eq!(held.len(), HANDSHAKES_PER_THREAD_MAX);
        drop(held);
        assert!(handshakes.by_source.borrow().is_empty(), "nothing is remembered of who is gone");
    }
}
