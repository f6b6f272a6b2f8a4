//! The caller's side of one HTTP/1.1 connection: from a local application to the chosen peer and back.
//!
//! A request is hardened, decided, and sent over a stream to the endpoint's agent. While certainly nobody has acted on
//! it, or a second run is harmless, it may be tried at another endpoint ([`starling_routing::next_try`] is the judge);
//! after the first byte of an answer never.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use starling_model::{PortName, Protocol, ServiceKey};
use starling_routing::{
    Caller, Choice, Decision, Destination, EndpointIndex, NextTry, Origin, Refusal, RequestFacts, Rule, next_try,
};
use tokio::sync::oneshot;
use tracing::debug;

use crate::access_log::{HttpRecord, Record};
use crate::answers::{Answer, Connection, ErrorType};
use crate::detect;
use crate::http::arriving::Arriving;
use crate::http::attempt::{Answered as Tried, Try, attempt};
use crate::http::body::{ResponseBody, Upload};
use crate::http::client::Reply;
use crate::http::door::{Door, Verdict};
use crate::http::exchange::Exchange;
use crate::http::grpc::Spoken;
use crate::http::h2::{self, Rewound};
use crate::http::harden::{self, HeadRefused};
use crate::http::head::{Copies, Head};
use crate::http::server::{self, Offer, Served};
use crate::http::upgrade::{self, Switch};
use crate::http::{asked, connect, mirror, routed};
use crate::l4::{self, Tunnelled};
use crate::loads::Failure;
use crate::metrics::Direction;
use crate::worker::{Side, Worker};

/// How requests of a connection find their service.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// A fixed entrance.
    Fixed(Rc<Wanted>),
    /// By Host, or by the absolute target of a request to an HTTP proxy; on behalf of this local service.
    ByHost(Option<ServiceKey>),
    /// The same, and somebody watches the first request.
    Watched(Rc<Watching>),
}

/// Who watches a request.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) source: Option<ServiceKey>,
    /// Taken by the first request.
    pub(crate) told: RefCell<Option<oneshot::Sender<Box<Record>>>>,
}

/// What all requests of a connection have in common.
pub(crate) struct Entrance {
    pub(crate) worker: Rc<Worker>,
    route: Route,
    pub(crate) door: Rc<Door>,
    /// What the connection becomes, once an answer says so.
    switch: Cell<Option<Box<Switch>>>,
}

/// Serves one connection until it ends. Owns it; dropping this at any `.await` closes it, and requests under way count
/// as given up by their client.
pub(crate) async fn serve<S: Tunnelled>(worker: Rc<Worker>, stream: S, route: Route) {
    let closing = Some(worker.phase.clone());
    let door = Door::new();
    let entrance = Rc::new(Entrance { worker, route, door: door.clone(), switch: Cell::new(None) });
    let answered = |request, verdict| answer(&entrance, request, verdict);
    let stream = match server::serve(stream, &door, Offer::Http1Or2, closing, answered).await {
        Served::Ended => return,
        Served::Http2(stream, read) => return Box::pin(h2::serve(entrance, Rewound::new(read.into(), stream))).await,
        Served::Switched(stream) => stream,
    };
    let Some(switch) = entrance.switch.take() else { return };
    // On the heap: an idle connection must not carry the state of a tunnel.
    match *switch {
        Switch::Upgrade { exchange, far } => Box::pin(upgrade::run(stream, exchange, far)).await,
        Switch::Entrance { exchange, wanted } => {
            drop(exchange);
            let worker = entrance.worker.clone();
            drop(entrance);
            let tunnel: Pin<Box<dyn Future<Output = ()>>> = Box::pin(enter(worker, stream, wanted));
            tunnel.await;
        }
    }
}

/// Serves a connection to a known service by what that speaks.
pub(crate) async fn enter<S: Tunnelled>(worker: Rc<Worker>, stream: S, wanted: Wanted) {
    match protocol(&worker, &wanted) {
        Some(Protocol::Http | Protocol::Grpc) => serve(worker, stream, Route::Fixed(Rc::new(wanted))).await,
        Some(Protocol::Detect) => Box::pin(detect::serve(worker, stream, wanted)).await,
        // Of an unknown service nothing better is known.
        Some(Protocol::Tcp) | None => {
            let mut stream = stream;
            Box::pin(l4::outbound::serve(worker, &mut stream, &wanted)).await;
        }
    }
}

/// What the wanted port speaks by its declaration of this moment; `None`: the service is not known.
pub(crate) fn protocol(worker: &Worker, wanted: &Wanted) -> Option<Protocol> {
    let table = worker.shared.table.load();
    table.service(&wanted.service).map(|service| service.protocol(wanted.port.as_ref()))
}

/// What a request, or a connection, asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The service it is addressed to.
    pub(crate) service: ServiceKey,
    /// Which of its ports; `None` takes its only one, else any.
    pub(crate) port: Option<PortName>,
    /// On whose behalf, as it is claimed; `None` is the bare node.
    pub(crate) source: Option<ServiceKey>,
}

/// A request that is being answered. On the heap, once per request: an idle connection must not carry the largest state of
/// a busy one.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>>>>;

/// Answers one request, one way or the other. What needs no wait is done at once, so that the future holds only what the
/// rest needs.
pub(crate) fn answer(entrance: &Rc<Entrance>, mut request: Request<Arriving>, verdict: Verdict) -> Answering {
    let Entrance { worker, route, door, .. } = &**entrance;
    let busy = door.busy();
    let active = worker.active(Side::Outbound);
    let spoken = Spoken::of(&request);
    let wanted = match verdict {
        Verdict::Refused(refused) => Err(Answer::refused(refused)),
        Verdict::Approved | Verdict::MaySwitch => wanted(worker, route, &request),
    };
    let source = match route {
        Route::Fixed(wanted) => wanted.source.as_ref(),
        Route::ByHost(source) => source.as_ref(),
        Route::Watched(watching) => watching.source.as_ref(),
    };
    // Only names that the mesh declared may become labels.
    let labelled = wanted.as_ref().ok().map(|wanted| &wanted.service).filter(|service| worker.knows(service));
    let counts_as = worker.counts_as(source);
    let edge = worker.edges.edge(Direction::Outbound, counts_as, labelled);
    let caller = || Caller { node: worker.config.node.clone(), service: counts_as.cloned() };
    let http = || Some(HttpRecord::of(&request, spoken));
    let watcher = match route {
        Route::Watched(watching) => watching.told.borrow_mut().take(),
        Route::Fixed(_) | Route::ByHost(_) => None,
    };
    let record = match &watcher {
        None => worker.record(Direction::Outbound, caller, http),
        Some(_) => {
            let digest = worker.shared.table.load().digest();
            Some(Box::new(Record::new(Direction::Outbound, caller(), digest, http())))
        }
    };
    let mut exchange = Exchange::begin(worker, edge, spoken, (busy, active)).told_by(record).watched_by(watcher);
    exchange.note(|record| record.destination = labelled.cloned());
    let relay = match wanted {
        Err(answer) => Relay::Answer(own(worker, exchange, &answer)),
        Ok(wanted) if request.method() == Method::CONNECT => connect::answer(worker, wanted, exchange),
        Ok(wanted) => match Head::new(&worker.config.domain, &wanted.service, &mut request, verdict) {
            Ok(head) => {
                let upload = Upload::new(request.into_body(), &mut exchange);
                return Box::pin(forward(entrance.clone(), wanted, exchange, (head, upload)));
            }
            Err(answer) => Relay::Answer(own(worker, exchange, &answer)),
        },
    };
    Box::pin(std::future::ready(Ok(entrance.say(relay, spoken))))
}

impl Entrance {
    /// Tells the caller its answer, and keeps what the connection becomes after it.
    fn say(&self, relay: Relay, spoken: Spoken) -> Response<ResponseBody> {
        match relay {
            Relay::Answer(mut response) => {
                if spoken != Spoken::Http1 {
                    h2::pass_on(&mut response);
                }
                response
            }
            Relay::Switch(response, into) => {
                self.switch.set(Some(into));
                response
            }
        }
    }
}

/// What goes back, and whether the connection carries HTTP after it.
pub(crate) enum Relay {
    Answer(Response<ResponseBody>),
    Switch(Response<ResponseBody>, Box<Switch>),
}

/// Our own answer, counted.
pub(crate) fn own(worker: &Worker, mut exchange: Box<Exchange>, answer: &Answer) -> Response<ResponseBody> {
    let response = said(worker, &exchange, answer);
    exchange.answered(response.status().as_u16(), Some(answer.error));
    exchange.learn(response.headers());
    exchange.own_bytes(response.body().len());
    response.map(own_body)
}

/// An answer of ours in the words of whoever asked.
pub(crate) fn said(worker: &Worker, exchange: &Exchange, answer: &Answer) -> Response<Bytes> {
    let digest = worker.shared.table.load().digest();
    match exchange.spoken() {
        Spoken::Http1 | Spoken::Http2 => answer.response(&worker.config.node, digest),
        Spoken::Grpc => answer.grpc_response(&worker.config.node, digest),
    }
}

/// Without bytes there is no body, and the head is the end of the answer.
pub(crate) fn own_body(bytes: Bytes) -> ResponseBody {
    ResponseBody::Own(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

fn wanted(worker: &Worker, route: &Route, request: &Request<Arriving>) -> Result<Wanted, Answer> {
    let source = match route {
        Route::Fixed(_) if request.method() == Method::CONNECT => return Err(Answer::refused(HeadRefused::Connect)),
        Route::Fixed(wanted) => return Ok(Wanted::clone(wanted)),
        Route::ByHost(source) => source.clone(),
        Route::Watched(watching) => watching.source.clone(),
    };
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let host = authority.or_else(|| request.headers().get(header::HOST).and_then(|host| host.to_str().ok()));
    // HTTP/2 has an authority in every request, to a proxy or not.
    let absolute = authority.is_some() && request.version() != Version::HTTP_2;
    let table = worker.shared.table.load();
    let service = asked::by_host(&table, &worker.config.domain, host, absolute)?;
    if request.method() == Method::CONNECT {
        return connect::wanted(service, host.unwrap_or_default(), source);
    }
    Ok(Wanted { service: service.key.clone(), port: None, source })
}

/// Sends one request where the table says, as often as it may be.
#[expect(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice")]
fn forward(
    entrance: Rc<Entrance>,
    wanted: Wanted,
    mut exchange: Box<Exchange>,
    (mut head, upload): (Head, Upload),
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    async move {
        let (worker, wanted, spoken) = (&entrance.worker, &wanted, exchange.spoken());
        let (draws, wall) = (worker.draws(), worker.wall());
        let mut tried: Vec<EndpointIndex> = Vec::new();
        let mut tries = 0_u32;
        let mut last: Option<Answer> = None;
        // Drawn at the first try, sent once there is an answer.
        let mut mirrors = Vec::new();
        let counts_as = worker.counts_as(wanted.source.as_ref());
        let relay = loop {
            // The first decision follows the request at once.
            let now = if tries == 0 { exchange.began() } else { Instant::now() };
            let decision = {
                let facts = head.facts();
                let facts = RequestFacts {
                    destination: Destination::Service(&wanted.service),
                    port: wanted.port.as_ref(),
                    source: counts_as,
                    http: facts.as_ref(),
                    avoid: &tried,
                    node: Some(&worker.config.node),
                    wall,
                };
                worker.decide(&facts, now, draws)
            };
            let mut choice = match decision {
                Decision::Forward(choice) => choice,
                Decision::Answer(answer) => {
                    exchange.note(|record| record.rule = Some(answer.rule.clone()));
                    break Relay::Answer(routed::direct(worker, exchange, answer));
                }
                // With every endpoint tried, the reason of the last try says more than that none is left.
                Decision::Refuse { why, rule } => {
                    exchange.note(|record| record.rule = record.rule.take().or_else(|| rule.clone()));
                    let answer = last.unwrap_or_else(|| refused(why, wanted, rule.as_deref()));
                    break Relay::Answer(own(worker, exchange, &answer));
                }
            };
            if choice.endpoint().protocol == Protocol::Grpc && exchange.spoken() == Spoken::Http1 {
                let answer = Answer::new(ErrorType::HttpRequestError, "this service speaks gRPC, which needs HTTP/2");
                break Relay::Answer(own(worker, exchange, &answer.with_status(StatusCode::NOT_IMPLEMENTED)));
            }
            exchange.at(choice.endpoint());
            exchange.note(|record| record.tried(&choice));
            let others = choice.candidates_len() > tried.len() + 1;
            let copies = if routed::wants_head(&choice) { Copies::Keep } else { Copies::GiveAway };
            let back = routed::Back::new(&choice, &head);
            if tries == 0 {
                worker.budgets.request(&choice, now);
                mirrors = std::mem::take(&mut choice.mirrors);
            }
            tries += 1;
            let try_of = Try { choice: &choice, wanted, copies, others, began: exchange.began() };
            // Each of the two on the heap is small enough for what the allocator hands out fast; both together are not.
            let tried_now = Box::pin(attempt(worker, try_of, (&mut head, &upload))).await;
            let endpoint = choice.endpoint();
            let policy = choice.policy();
            let wait = routed::backoff(&choice, tries, draws);
            let in_time = || exchange.began().elapsed() + wait < policy.head_timeout();
            let waits = match tried_now {
                Ok(answered) => {
                    let listed = routed::is_listed(&choice, &answered, head.safe && upload.is_empty());
                    if tries > 1 {
                        exchange.edge().retried(if listed { "failure" } else { "success" });
                    }
                    if listed
                        && head.is_kept()
                        && upload.can_repeat()
                        && in_time()
                        && routed::may_follow(worker, &choice, tries, exchange.edge())
                    {
                        debug!(endpoint = %endpoint.id, status = answered.answer.status().as_u16(), "an answer is tried again");
                        if answered.said.is_some() {
                            worker.shared.loads.failed(endpoint, Failure::Quick, Instant::now());
                        }
                        if !upload.is_empty() {
                            // The next try needs the body that this one may still take.
                            answered.client.abandon();
                        }
                        tried.push(endpoint.index);
                        if tried.len() >= choice.candidates_len() {
                            // All had their turn: the rule asks for more tries than there are endpoints.
                            tried.clear();
                        }
                        true
                    } else {
                        mirror::copy(worker, &mirrors, (&choice, &head, &upload), wanted.source.as_ref());
                        break relay(worker, &choice, exchange, answered, &back);
                    }
                }
                Err(failed) => {
                    debug!(endpoint = %endpoint.id, reason = failed.error.as_str(), outcome = ?failed.outcome, "try failed");
                    if let Some(failure) = failed.endpoint {
                        worker.shared.loads.failed(endpoint, failure, Instant::now());
                    }
                    if tries > 1 {
                        exchange.edge().retried("failure");
                    }
                    tried.push(endpoint.index);
                    let answer = Answer::new(failed.error, endpoint.id.to_string());
                    let again = next_try(failed.outcome, tries, policy) == NextTry::Elsewhere;
                    let by_rule = policy.tries_max.origin == Origin::Rule;
                    let in_time = in_time() || (!by_rule && exchange.began().elapsed() < policy.head_timeout());
                    let can_repeat = head.is_kept() && upload.can_repeat() && in_time;
                    if !again || !can_repeat || !routed::may_follow(worker, &choice, tries, exchange.edge()) {
                        let answer = if upload.is_empty() || (upload.can_repeat() && !upload.is_broken()) {
                            answer
                        } else {
                            // The client is still sending what nobody will read.
                            Answer { connection: Connection::Close, ..answer }
                        };
                        break Relay::Answer(own(worker, exchange, &answer));
                    }
                    last = Some(answer);
                    by_rule
                }
            };
            if waits {
                Box::pin(tokio::time::sleep(wait)).await;
            }
        };
        Ok(entrance.say(relay, spoken))
    }
}

/// The word for a refusal.
pub(crate) fn error_of(refusal: Refusal) -> ErrorType {
    match refusal {
        Refusal::NoService | Refusal::NoPort | Refusal::NoListener | Refusal::NoRule => ErrorType::DestinationNotFound,
        Refusal::NoBackend | Refusal::InvalidBackend => ErrorType::ProxyConfigurationError,
        Refusal::NoLocation => ErrorType::HttpRequestError,
        Refusal::NoEndpoint => ErrorType::DestinationUnavailable,
    }
}

pub(crate) fn refused(refusal: Refusal, wanted: &Wanted, rule: Option<&Rule>) -> Answer {
    let error = error_of(refusal);
    let service = &wanted.service;
    let detail = match (refusal, &wanted.port) {
        (Refusal::NoPort, Some(port)) => format!("{service} has no port {port}"),
        (Refusal::NoRule, _) => format!("no rule of the routes of {service} matches"),
        (Refusal::NoBackend, _) => format!("{service}: the rule has no backend with a weight"),
        (Refusal::InvalidBackend, _) => format!("{service}: the backend that was drawn is none"),
        (Refusal::NoService | Refusal::NoPort | Refusal::NoListener | Refusal::NoLocation | Refusal::NoEndpoint, _) => {
            service.to_string()
        }
    };
    Answer::new(
        error,
        match rule {
            Some(rule) => format!("{detail} ({rule})"),
            None => detail,
        },
    )
}

/// Passes an answer on; it is counted when its last byte has gone, however that ends.
fn relay(
    worker: &Worker,
    choice: &Choice,
    mut exchange: Box<Exchange>,
    Tried { mut answer, said, client, key, sent, took }: Tried,
    back: &routed::Back,
) -> Relay {
    let error = said.flatten();
    if error.is_some() {
        worker.shared.loads.failed(choice.endpoint(), Failure::Quick, Instant::now());
    }
    exchange.answered(answer.status().as_u16(), error);
    exchange.note(|record| record.upstream = Some(took));
    exchange.learn(answer.headers());
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(far) = client.switched()
    {
        let response = switched(answer, |headers| {
            back.edit(choice, headers);
            routed::keep_session(choice, error, headers);
        });
        exchange.switched();
        return Relay::Switch(response, Box::new(Switch::Upgrade { exchange, far }));
    }
    if !client.may_switch {
        exchange.carried_by(key, client);
    }
    pass_on(&mut answer);
    back.edit(choice, answer.headers_mut());
    routed::keep_session(choice, error, answer.headers_mut());
    if answer.body().is_end_stream() {
        if exchange.spoken() == Spoken::Grpc {
            // Said for the hop, where HTTP/1.1 needs it; a status without messages is a head and nothing else.
            answer.headers_mut().remove(header::CONTENT_LENGTH);
        }
        exchange.completed();
    }
    let end = routed::whole_deadline(choice, exchange.began(), sent);
    if let Some(at) = end {
        exchange.must_end(at);
    }
    let end = end.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
    Relay::Answer(answer.map(|incoming| ResponseBody::Relayed { incoming, exchange, end }))
}

/// Passes `101` on: with the protocol that the request asked for, which the answer was seen to name.
pub(crate) fn switched(mut answer: Response<Reply>, edit: impl FnOnce(&mut HeaderMap)) -> Response<ResponseBody> {
    let protocol = upgrade::wanted(answer.headers());
    pass_on(&mut answer);
    edit(answer.headers_mut());
    if let Some(protocol) = protocol {
        upgrade::announce(answer.headers_mut(), protocol);
    }
    answer.map(|_| ResponseBody::Own(None))
}

/// What ends at this hop is taken off an answer.
pub(crate) fn pass_on(answer: &mut Response<Reply>) {
    if harden::has(answer.headers(), &header::TRANSFER_ENCODING) {
        // It overrides a length, which must not travel on (RFC 9112, 6.3): the body would be cut to it.
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    harden::strip_hop_by_hop(answer.headers_mut());
    harden::strip_ours(answer.headers_mut());
    *answer.version_mut() = Version::HTTP_11;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Above this the C library's allocator leaves its fast way (malloc.c: the largest chunk of a thread's cache).
    #[test]
    fn what_answers_a_request_is_allocated_fast() {
        let size = size(forward);
        assert!(size <= 1_032, "{size} bytes");
    }
}
