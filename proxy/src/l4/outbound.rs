//! The caller's side of one tunnel: from a local application's socket to the chosen peer.

use std::rc::Rc;
use std::time::Instant;

use starling_model::{EndpointId, PortName, ServiceKey};
use starling_routing::{
    Caller, Decision, Destination, Draws, Endpoint, EndpointIndex, NextTry, RequestFacts, TryOutcome, UnixSeconds,
    next_try,
};
use starling_transport::data::fault_of;
use starling_transport::lane::BULK_BYTES;
use starling_transport::mux::Fault;
use tracing::debug;

use crate::access_log::Record;
use crate::answers::ErrorType;
use crate::header::{Carry, OpenHeader};
use crate::http::attempt::Failed;
use crate::http::outbound::Wanted;
use crate::l4::Tunnelled;
use crate::l4::copy::{Broken, Tally, Tunnel};
use crate::limits::LEFT_BEHIND_MAX;
use crate::loads::Failure;
use crate::metrics::{Direction, Edge};
use crate::peers;
use crate::worker::{Side, Worker};

/// One tunnel's account. Dropped exactly once: then the tunnel counts as closed.
pub(crate) struct Account {
    worker: Rc<Worker>,
    edge: Rc<Edge>,
    pub(crate) error: Option<ErrorType>,
    /// What the access log is told in the end.
    pub(crate) record: Option<Box<Record>>,
    began: Instant,
}

impl Account {
    pub(crate) fn open(worker: &Rc<Worker>, edge: Rc<Edge>, record: Option<Box<Record>>) -> Self {
        Self::since(worker, edge, record, Instant::now())
    }

    /// One that began before there was anything to tell of it.
    pub(crate) fn since(worker: &Rc<Worker>, edge: Rc<Edge>, record: Option<Box<Record>>, began: Instant) -> Self {
        edge.tunnel_opened();
        Self { worker: worker.clone(), edge, error: None, record, began }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let (Some(mut record), Some(log)) = (self.record.take(), &self.worker.config.access_log) {
            (record.duration, record.error) = (self.began.elapsed(), self.error);
            log.end(record);
        }
        self.edge.tunnel_closed(self.error);
    }
}

impl Tally for Account {
    fn sent(&mut self, bytes: usize) {
        self.edge.sent(bytes as u64);
        if let Some(record) = &mut self.record {
            record.sent += bytes as u64;
        }
    }
    fn received(&mut self, bytes: usize) {
        self.edge.received(bytes as u64);
        if let Some(record) = &mut self.record {
            record.received += bytes as u64;
        }
    }
}

/// An account that also tells the endpoint's load that it answers, and the history of lanes what the stream moved.
struct AtEndpoint<'a> {
    account: &'a mut Account,
    worker: &'a Worker,
    endpoint: &'a Endpoint,
    answered: bool,
    moved: u64,
}

impl AtEndpoint<'_> {
    fn moved(&mut self, bytes: usize) {
        let before = self.moved;
        self.moved += bytes as u64;
        if before < BULK_BYTES && self.moved >= BULK_BYTES {
            // Now, not at the end: others of its kind begin meanwhile.
            self.worker.shared.lanes.moved(&self.endpoint.service, self.moved);
        }
    }
}

impl Tally for AtEndpoint<'_> {
    fn sent(&mut self, bytes: usize) {
        self.moved(bytes);
        self.account.sent(bytes);
    }
    fn received(&mut self, bytes: usize) {
        self.moved(bytes);
        if !self.answered {
            self.answered = true;
            self.worker.shared.loads.reached(self.endpoint, Instant::now());
        }
        self.account.received(bytes);
    }
}

impl<'a> AtEndpoint<'a> {
    fn new(account: &'a mut Account, worker: &'a Worker, endpoint: &'a Endpoint) -> Self {
        worker.shared.loads.begin(endpoint);
        Self { account, worker, endpoint, answered: false, moved: 0 }
    }
}

impl Drop for AtEndpoint<'_> {
    fn drop(&mut self) {
        if (1..BULK_BYTES).contains(&self.moved) {
            self.worker.shared.lanes.moved(&self.endpoint.service, self.moved);
        }
        self.worker.shared.loads.end(self.endpoint.index, self.endpoint.birth);
    }
}

/// Where a connection is to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Towards<'a> {
    pub(crate) destination: Destination<'a>,
    /// Of a service.
    pub(crate) port: Option<&'a PortName>,
    /// On whose behalf, as it is claimed; `None` is the bare node.
    pub(crate) source: Option<&'a ServiceKey>,
    /// The service that labels name.
    pub(crate) labelled: Option<&'a ServiceKey>,
    /// The server name that the client of a Gateway asks for.
    pub(crate) name: Option<&'a str>,
    pub(crate) draws: Draws,
}

/// Serves one connection until it ends. Dropping this at any `.await` closes the far side.
pub(crate) async fn serve<S: Tunnelled>(worker: Rc<Worker>, client: &mut S, wanted: &Wanted) {
    let towards = Towards {
        destination: Destination::Service(&wanted.service),
        port: wanted.port.as_ref(),
        source: wanted.source.as_ref(),
        labelled: Some(&wanted.service).filter(|service| worker.knows(service)),
        name: None,
        draws: worker.draws(),
    };
    carry(worker, client, towards).await;
}

/// The same for any destination.
pub(crate) async fn carry<S: Tunnelled>(worker: Rc<Worker>, client: &mut S, towards: Towards<'_>) {
    let Towards { destination, port, source, labelled, name, draws } = towards;
    let _active = worker.active(Side::Outbound);
    let counts_as = worker.counts_as(source);
    let caller = || Caller { node: worker.config.node.clone(), service: counts_as.cloned() };
    let mut record = worker.record(Direction::Outbound, caller, || None);
    if let Some(record) = &mut record {
        record.destination = labelled.cloned();
        record.server_name = name.map(Box::from);
    }
    let edge = worker.edges.edge(Direction::Outbound, counts_as, labelled);
    let mut account = Account::open(&worker, edge, record);
    let mut tunnel = Tunnel::repeatable();
    let mut tried: Vec<EndpointIndex> = Vec::new();
    let mut last = ErrorType::DestinationUnavailable;
    let mut left_behind = 0;
    loop {
        let facts = RequestFacts {
            destination,
            port,
            source: counts_as,
            http: None,
            avoid: &tried,
            node: Some(&worker.config.node),
            wall: UnixSeconds::default(),
        };
        let choice = match worker.decide(&facts, Instant::now(), draws) {
            Decision::Forward(choice) => choice,
            decision @ (Decision::Answer(_) | Decision::Refuse { .. }) => {
                if let Some(record) = &mut account.record {
                    record.rule = record.rule.take().or_else(|| decision.rule().cloned());
                }
                return fail(&mut account, client, last);
            }
        };
        let endpoint = choice.endpoint();
        if let Some(record) = &mut account.record {
            record.tried(&choice);
        }
        let header = OpenHeader {
            carry: Carry::Bytes,
            source: source.cloned(),
            destination: endpoint.service.clone(),
            instance: endpoint.instance().clone(),
            port: endpoint.port.clone(),
        };
        let mut at = AtEndpoint::new(&mut account, &worker, endpoint);
        let failed = match peers::open_lane(&worker, endpoint, &header).await {
            Err(failed) => failed,
            Ok(mut server) => match tunnel.on(server.lane_kind()).run(client, &mut server, &mut at).await {
                Ok(()) => return,
                Err(Broken::Client(error)) => {
                    // Dropping the stream resets it: the instance learns of it at once.
                    debug!(endpoint = %endpoint.id, %error, "a client broke its tunnel off");
                    return;
                }
                Err(Broken::Server(error)) => {
                    let fault = fault_of(&error);
                    if fault == Some(Fault::Unprocessed) && left_behind < LEFT_BEHIND_MAX && tunnel.can_repeat() {
                        // Its connection took no more streams just then, which says nothing of the endpoint.
                        left_behind += 1;
                        tunnel.rewind();
                        continue;
                    }
                    let refused = fault.is_some_and(|fault| fault.nothing_was_processed());
                    let outcome = match refused {
                        true => TryOutcome::Refused,
                        false if tunnel.is_untouched() => TryOutcome::NotSent,
                        false => TryOutcome::Begun,
                    };
                    let word = if refused { ErrorType::ConnectionRefused } else { ErrorType::ConnectionTerminated };
                    Failed { outcome, error: word, endpoint: Some(Failure::Quick) }
                }
            },
        };
        drop(at);
        log(&endpoint.id, &failed);
        // A tunnel that broke after it carried answers says nothing about the next one.
        if let Some(failure) = failed.endpoint.filter(|_| tunnel.can_repeat()) {
            worker.shared.loads.failed(endpoint, failure, Instant::now());
        }
        tried.push(endpoint.index);
        last = failed.error;
        let tries = u32::try_from(tried.len()).unwrap_or(u32::MAX);
        if next_try(failed.outcome, tries, choice.policy()) == NextTry::GiveUp || !tunnel.can_repeat() {
            return fail(&mut account, client, failed.error);
        }
        tunnel.rewind();
    }
}

fn fail<S: Tunnelled>(account: &mut Account, client: &S, error: ErrorType) {
    account.error = Some(error);
    client.break_off();
}

fn log(endpoint: &EndpointId, failed: &Failed) {
    debug!(%endpoint, reason = failed.error.as_str(), outcome = ?failed.outcome, "tunnel failed");
}
