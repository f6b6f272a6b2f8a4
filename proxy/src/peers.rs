//! Streams between agents: opening one to an endpoint's node, and judging those that peers open here.

use std::rc::Rc;

use starling_identity::PeerIdentity;
use starling_model::{Protocol, Readiness};
use starling_routing::{Caller, Endpoint, TryOutcome};
use starling_transport::data::{
    DataStream, DialError, MuxStream, NotDedicated, OpenError, OpenRequest, Proven, ResetCode,
};
use starling_transport::lane::LaneKind;
use tracing::debug;

use crate::answers::ErrorType;
use crate::detect::{Sniff, Undecided};
use crate::header::{Carry, OpenHeader};
use crate::http::attempt::Failed;
use crate::http::inbound;
use crate::l4;
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

/// Serves one connection of a proven peer until it ends. Owns it; dropping this cuts it, and its streams with it.
pub(crate) async fn serve(worker: Rc<Worker>, proven: Proven) {
    let handler = {
        let worker = worker.clone();
        move |peer: PeerIdentity, request: OpenRequest, stream: DataStream| {
            let worker = worker.clone();
            async move { accept(worker, peer, request, stream).await }
        }
    };
    // How it ended is in the log, and needs no action.
    let _ = worker.server_of_peers.serve(proven, handler).await;
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
