//! Streams between agents: opening one to an endpoint's node, and judging those that peers open here.

use std::cell::Cell;
use std::rc::Rc;

use starling_identity::PeerIdentity;
use starling_model::Readiness;
use starling_routing::{Endpoint, TryOutcome};
use starling_transport::data::{DIAL_DEADLINE, DialError, MuxStream, OpenError, OpenRequest, ResetCode, ServeEnd};
use tokio::net::TcpStream;
use tracing::debug;

use crate::answers::ErrorType;
use crate::header::{Carry, OpenHeader};
use crate::http::inbound;
use crate::http::outbound::Failed;
use crate::l4;
use crate::loads::Failure;
use crate::metrics::{Direction, Turned};
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

/// Counts a handshake until it is over, one way or the other.
struct Shaking(Rc<Worker>);

impl Shaking {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.handshakes.set(worker.handshakes.get() + 1);
        Self(worker.clone())
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get().saturating_sub(1));
    }
}

/// Serves one connection of a peer until it ends. Owns it; dropping this cuts it, and its streams with it.
pub(crate) async fn serve(worker: Rc<Worker>, socket: TcpStream) {
    let shaking = Rc::new(Cell::new(Some(Shaking::new(&worker))));
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
        move |peer: PeerIdentity, request: OpenRequest, stream: MuxStream| {
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
async fn accept(worker: Rc<Worker>, peer: PeerIdentity, request: OpenRequest, stream: MuxStream) {
    let refuse = |stream: MuxStream, reason| {
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
    let caller = worker.shared.table.load().accept_source(&peer.node, header.source.as_ref());
    match header.carry {
        Carry::Http1 if instance.protocol == starling_model::Protocol::Grpc => refuse(stream, Turned::Carry),
        Carry::Http1 => inbound::serve(worker, stream, header, &caller).await,
        Carry::Bytes => l4::inbound::serve(worker, stream, &header, &caller, instance.address).await,
    }
}

/// Counts the dials of a thread's pool since the last call.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    good: u64,
    failed: u64,
}

impl Dials {
    pub(crate) fn count(&mut self, worker: &Worker) {
        let stats = worker.client.stats();
        let (good, failed) = (stats.dials, stats.dials_failed);
        worker.shared.metrics.dials(good.saturating_sub(self.good), failed.saturating_sub(self.failed));
        *self = Self { good, failed };
    }
}
