//! The caller's side of one tunnel: from a local application's socket to the chosen peer.

use std::rc::Rc;
use std::time::Instant;

use starling_model::EndpointId;
use starling_routing::{Decision, Endpoint, EndpointIndex, NextTry, RequestFacts, TryOutcome, UnixSeconds, next_try};
use starling_transport::data::fault_of;
use tracing::debug;

use crate::answers::ErrorType;
use crate::header::{Carry, OpenHeader};
use crate::http::attempt::Failed;
use crate::http::outbound::Wanted;
use crate::l4::Tunnelled;
use crate::l4::copy::{Broken, Tally, Tunnel};
use crate::loads::Failure;
use crate::metrics::{Direction, Edge};
use crate::peers;
use crate::worker::{Side, Worker};

/// One tunnel's account. Dropped exactly once: then the tunnel counts as closed.
pub(crate) struct Account {
    edge: Rc<Edge>,
    pub(crate) error: Option<ErrorType>,
}

impl Account {
    pub(crate) fn open(edge: Rc<Edge>) -> Self {
        edge.tunnel_opened();
        Self { edge, error: None }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.edge.tunnel_closed(self.error);
    }
}

impl Tally for Account {
    fn sent(&mut self, bytes: usize) {
        self.edge.sent(bytes as u64);
    }
    fn received(&mut self, bytes: usize) {
        self.edge.received(bytes as u64);
    }
}

/// An account that also tells the endpoint's load that it answers.
struct AtEndpoint<'a> {
    account: &'a mut Account,
    worker: &'a Worker,
    endpoint: &'a Endpoint,
    answered: bool,
}

impl Tally for AtEndpoint<'_> {
    fn sent(&mut self, bytes: usize) {
        self.account.sent(bytes);
    }
    fn received(&mut self, bytes: usize) {
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
        Self { account, worker, endpoint, answered: false }
    }
}

impl Drop for AtEndpoint<'_> {
    fn drop(&mut self) {
        self.worker.shared.loads.end(self.endpoint.index, self.endpoint.birth);
    }
}

/// Serves one connection until it ends. Dropping this at any `.await` closes the far side.
pub(crate) async fn serve<S: Tunnelled>(worker: Rc<Worker>, client: &mut S, wanted: &Wanted) {
    let _active = worker.active(Side::Outbound);
    let labelled = Some(&wanted.service).filter(|service| worker.knows(service));
    let counts_as = worker.counts_as(wanted.source.as_ref());
    let mut account = Account::open(worker.edges.edge(Direction::Outbound, counts_as, labelled));
    let mut tunnel = Tunnel::repeatable();
    let draws = worker.draws();
    let mut tried: Vec<EndpointIndex> = Vec::new();
    let mut last = ErrorType::DestinationUnavailable;
    loop {
        let facts = RequestFacts {
            destination: &wanted.service,
            port: wanted.port.as_ref(),
            source: counts_as,
            http: None,
            avoid: &tried,
            node: Some(&worker.config.node),
            wall: UnixSeconds::default(),
        };
        let Decision::Forward(choice) = worker.decide(&facts, Instant::now(), draws) else {
            return fail(&mut account, client, last);
        };
        let endpoint = choice.endpoint();
        let header = OpenHeader {
            carry: Carry::Bytes,
            source: wanted.source.clone(),
            destination: endpoint.service.clone(),
            instance: endpoint.instance().clone(),
            port: endpoint.port.clone(),
        };
        let mut at = AtEndpoint::new(&mut account, &worker, endpoint);
        let failed = match peers::open(&worker, endpoint, &header).await {
            Err(failed) => failed,
            Ok(mut server) => match tunnel.run(client, &mut server, &mut at).await {
                Ok(()) => return,
                Err(Broken::Client(error)) => {
                    // Dropping the stream resets it: the instance learns of it at once.
                    debug!(service = %wanted.service, %error, "an application broke its tunnel off");
                    return;
                }
                Err(Broken::Server(error)) => {
                    let refused = fault_of(&error).is_some_and(|fault| fault.nothing_was_processed());
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
