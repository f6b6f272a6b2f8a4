//! The caller's side of one HTTP/1.1 connection: from a local application to the chosen peer and back.
//!
//! A request is hardened, decided, and sent over a stream to the endpoint's agent. While certainly nobody has acted on
//! it, or a second run is harmless, it may be tried at another endpoint ([`starling_routing::next_try`] is the judge);
//! after the first byte of an answer never.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use starling_model::{PortName, Protocol, ServiceKey};
use starling_routing::{
    Choice, Decision, Endpoint, EndpointIndex, NextTry, Origin, Refusal, RequestFacts, Rule, TryOutcome, next_try,
};
use starling_transport::data::Lane;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;
use tracing::debug;

use crate::answers::{Answer, Connection, ErrorType};
use crate::config::Upstream;
use crate::header::{Carry, OpenHeader};
use crate::http::body::{ResponseBody, Upload};
use crate::http::exchange::Exchange;
use crate::http::guard::{Door, Guard};
use crate::http::harden::{self, STARLING_ERROR, STARLING_UNPROCESSED};
use crate::http::head::{Copies, Head};
use crate::http::pool::{Client, PoolKey};
use crate::http::watched::Watched;
use crate::http::{asked, mirror, routed};
use crate::loads::Failure;
use crate::metrics::Direction;
use crate::peers;
use crate::worker::{Phase, Side, Worker};

/// How requests of a connection find their service.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// A fixed entrance.
    Fixed(Rc<Upstream>),
    /// By Host, or by the absolute target of a request to an HTTP proxy.
    ByHost,
}

/// True when the entrance's service speaks HTTP/1.1 by its declaration of this moment.
pub(crate) fn is_http(worker: &Worker, upstream: &Upstream) -> bool {
    let table = worker.shared.table.load();
    let protocol = table.service(&upstream.service).map(|service| service.protocol(upstream.port.as_ref()));
    match protocol {
        Some(Protocol::Http) => true,
        // gRPC needs HTTP/2, which passes as bytes; of an unknown service nothing better is known.
        Some(Protocol::Grpc | Protocol::Tcp) | None => false,
    }
}

/// Serves one connection until it ends. Owns it; dropping this at any `.await` closes it, and requests under way count
/// as given up by their client.
pub(crate) async fn serve<S>(worker: Rc<Worker>, stream: S, route: Route)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let door = Door::new();
    let io = TokioIo::new(Guard::new(stream, door.clone()));
    let mut phase = worker.phase.clone();
    let builder = worker.server.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, route, door) = (worker.clone(), route.clone(), door.clone());
        // On the heap, once per request: an idle connection must not carry the largest state of a busy one.
        Box::pin(async move { Ok::<_, Infallible>(answer(worker, route, door, request).await) })
    });
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = phase.wait_for(|phase| *phase >= Phase::Closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an application's connection broke");
    }
}

/// What a request asks for.
struct Wanted {
    service: ServiceKey,
    port: Option<PortName>,
    source: Option<ServiceKey>,
}

async fn answer(
    worker: Rc<Worker>,
    route: Route,
    door: Rc<Door>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let busy = door.busy();
    let active = worker.active(Side::Outbound);
    let refused = door.verdict().map(Answer::refused);
    let wanted = match refused {
        Some(refused) => Err(refused),
        None => wanted(&worker, &route, &request),
    };
    let source = match &route {
        Route::Fixed(upstream) => upstream.source.as_ref(),
        Route::ByHost => None,
    };
    // Only names that the mesh declared may become labels.
    let labelled = wanted.as_ref().ok().map(|wanted| &wanted.service).filter(|service| worker.knows(service));
    let edge = worker.edges.edge(Direction::Outbound, source, labelled);
    let exchange = Exchange::begin(&worker, edge, busy, active);
    match wanted {
        Err(answer) => own(&worker, exchange, &answer),
        Ok(wanted) => forward(&worker, &wanted, exchange, request).await,
    }
}

/// Our own answer, counted.
fn own(worker: &Worker, mut exchange: Exchange, answer: &Answer) -> Response<ResponseBody> {
    exchange.answered(answer.status.as_u16(), Some(answer.error));
    let digest = worker.shared.table.load().digest();
    answer.response(&worker.config.node, digest).map(|body| ResponseBody::Own(Some(body)))
}

fn wanted(worker: &Worker, route: &Route, request: &Request<Incoming>) -> Result<Wanted, Answer> {
    if let Route::Fixed(upstream) = route {
        let Upstream { service, port, source, listen: _ } = &**upstream;
        return Ok(Wanted { service: service.clone(), port: port.clone(), source: source.clone() });
    }
    let absolute = request.uri().authority().map(http::uri::Authority::as_str);
    let host = absolute.or_else(|| request.headers().get(header::HOST).and_then(|host| host.to_str().ok()));
    let service = asked::by_host(&worker.shared.table.load(), &worker.config.domain, host, absolute.is_some())?;
    Ok(Wanted { service, port: None, source: None })
}

impl Failed {
    /// Another endpoint would change nothing.
    fn for_good(error: ErrorType) -> Self {
        Self { outcome: TryOutcome::Begun, error, endpoint: None }
    }
}

/// A try that gave no answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) outcome: TryOutcome,
    pub(crate) error: ErrorType,
    /// What it says of the endpoint, if anything.
    pub(crate) endpoint: Option<Failure>,
}

async fn forward(
    worker: &Rc<Worker>,
    wanted: &Wanted,
    mut exchange: Exchange,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut head = match Head::new(&worker.config.domain, &wanted.service, &mut request) {
        Ok(head) => head,
        Err(answer) => return own(worker, exchange, &answer),
    };
    let upload = Upload::new(request.into_body(), exchange.edge());
    let draws = worker.draws();
    let mut tried: Vec<EndpointIndex> = Vec::new();
    let mut tries = 0_u32;
    let mut last: Option<Answer> = None;
    // Drawn at the first try, sent once there is an answer.
    let mut mirrors = Vec::new();
    loop {
        let facts = head.facts();
        let facts = RequestFacts {
            destination: &wanted.service,
            port: wanted.port.as_ref(),
            source: wanted.source.as_ref(),
            http: facts.as_ref(),
            avoid: &tried,
        };
        let mut choice = match worker.decide(&facts, Instant::now(), draws) {
            Decision::Forward(choice) => choice,
            Decision::Answer(answer) => return routed::direct(exchange, answer),
            // With every endpoint tried, the reason of the last try says more than that none is left.
            Decision::Refuse { why, rule } => {
                let answer = last.unwrap_or_else(|| refused(why, wanted, rule.as_deref()));
                return own(worker, exchange, &answer);
            }
        };
        exchange.at(choice.endpoint());
        let others = choice.candidates_len() > tried.len() + 1;
        let copies = if others || routed::wants_head(&choice) { Copies::Keep } else { Copies::GiveAway };
        let back = routed::Back::new(&choice, &head);
        if tries == 0 {
            worker.budgets.request(&choice, Instant::now());
            mirrors = std::mem::take(&mut choice.mirrors);
        }
        tries += 1;
        let try_of = Try { choice: &choice, wanted, copies, others, began: exchange.began() };
        let tried_now = attempt(worker, try_of, (&mut head, &upload)).await;
        let endpoint = choice.endpoint();
        let policy = choice.policy();
        let wait = routed::backoff(&choice, tries, draws);
        let in_time = exchange.began().elapsed() + wait < policy.head_timeout();
        let can_repeat = head.is_kept() && upload.can_repeat() && in_time;
        match tried_now {
            Ok(answered) => {
                let listed = routed::is_listed(&choice, &answered.answer, head.safe && upload.is_empty());
                if tries > 1 {
                    exchange.edge().retried(if listed { "failure" } else { "success" });
                }
                if listed && can_repeat && routed::may_follow(worker, &choice, tries, exchange.edge()) {
                    debug!(endpoint = %endpoint.id, status = answered.answer.status().as_u16(), "an answer is tried again");
                    if answered.answer.headers().contains_key(STARLING_ERROR) {
                        worker.shared.loads.failed(endpoint, Failure::Quick, Instant::now());
                    }
                    drop(answered);
                    tokio::time::sleep(wait).await;
                    tried.push(endpoint.index);
                    if tried.len() >= choice.candidates_len() {
                        // All had their turn: the rule asks for more tries than there are endpoints.
                        tried.clear();
                    }
                    continue;
                }
                mirror::copy(worker, &mirrors, (&choice, &head, &upload), wanted.source.as_ref());
                return relay(worker, &choice, exchange, answered, &back);
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
                let in_time = in_time || (!by_rule && exchange.began().elapsed() < policy.head_timeout());
                let can_repeat = head.is_kept() && upload.can_repeat() && in_time;
                if !again || !can_repeat || !routed::may_follow(worker, &choice, tries, exchange.edge()) {
                    let answer = if upload.is_empty() || (upload.can_repeat() && !upload.is_broken()) {
                        answer
                    } else {
                        // The client is still sending what nobody will read.
                        Answer { connection: Connection::Close, ..answer }
                    };
                    return own(worker, exchange, &answer);
                }
                if by_rule {
                    tokio::time::sleep(wait).await;
                }
                last = Some(answer);
            }
        }
    }
}

fn refused(refusal: Refusal, wanted: &Wanted, rule: Option<&Rule>) -> Answer {
    let error = match refusal {
        Refusal::NoService | Refusal::NoPort | Refusal::NoRule => ErrorType::DestinationNotFound,
        Refusal::NoBackend | Refusal::InvalidBackend => ErrorType::ProxyConfigurationError,
        Refusal::NoLocation => ErrorType::HttpRequestError,
        Refusal::NoEndpoint => ErrorType::DestinationUnavailable,
    };
    let service = &wanted.service;
    let detail = match (refusal, &wanted.port) {
        (Refusal::NoPort, Some(port)) => format!("{service} has no port {port}"),
        (Refusal::NoRule, _) => format!("no rule of the routes of {service} matches"),
        (Refusal::NoBackend, _) => format!("{service}: the rule has no backend with a weight"),
        (Refusal::InvalidBackend, _) => format!("{service}: the backend that was drawn is none"),
        (Refusal::NoService | Refusal::NoPort | Refusal::NoLocation | Refusal::NoEndpoint, _) => service.to_string(),
    };
    Answer::new(
        error,
        match rule {
            Some(rule) => format!("{detail} ({rule})"),
            None => detail,
        },
    )
}

/// What one try brought.
struct Answered {
    answer: Response<Incoming>,
    client: Client,
    key: PoolKey,
    /// When the try began.
    sent: Instant,
}

/// What one try is made of.
struct Try<'a> {
    choice: &'a Choice,
    wanted: &'a Wanted,
    copies: Copies,
    /// There are endpoints that were not tried.
    others: bool,
    began: Instant,
}

/// One try at one endpoint, up to the head of an answer.
async fn attempt(
    worker: &Rc<Worker>,
    Try { choice, wanted, copies, others, began }: Try<'_>,
    (head, upload): (&mut Head, &Upload),
) -> Result<Answered, Failed> {
    let policy = choice.policy();
    let patience = policy.head_timeout();
    let whole = began + patience;
    let endpoint = choice.endpoint();
    let key = PoolKey::Peer { birth: endpoint.birth, source: wanted.source.clone() };
    loop {
        let mut client = match worker.pool.take(&key) {
            Some(client) => client,
            None => timeout_at(whole.into(), open(worker, endpoint, wanted.source.as_ref())).await.unwrap_or(Err(
                Failed {
                    // The request's own time is over, which says nothing of the endpoint.
                    outcome: TryOutcome::TimedOut,
                    error: ErrorType::HttpResponseTimeout,
                    endpoint: None,
                },
            ))?,
        };
        let sent = Instant::now();
        let request = match head.request(upload.next_try(), copies, choice) {
            Ok(Some(request)) => request,
            // Only after a give-away, which is the last try.
            Ok(None) => return Err(Failed::for_good(ErrorType::ProxyInternalError)),
            // The request's own bytes make no target under this rule.
            Err(_) => return Err(Failed::for_good(ErrorType::HttpRequestError)),
        };
        let one = policy.backend_request.value.map(|period| sent + period);
        let deadline = one.map_or(whole, |one| one.min(whole));
        let sending = client.sender.try_send_request(request);
        // Only what may run twice, and has somewhere else to go, leaves a host that fell silent.
        let leaves = head.safe && upload.is_empty() && others;
        let lane = client.lane().filter(|_| leaves);
        let stalled = || lane.as_ref().is_some_and(Lane::is_stalled);
        // A deadline that a rule sets is kept; the built-in one gives a slow upload its time.
        let strict = one.is_some() || policy.request.origin == Origin::Rule;
        let moved = || upload.moved().filter(|_| !strict);
        let outcome = match in_time(sending, deadline, (patience, moved), stalled).await {
            Waited::Done(outcome) => outcome,
            Waited::Stalled => {
                let (outcome, error) = (TryOutcome::Broken { safe: true }, ErrorType::ConnectionTimeout);
                return Err(Failed { outcome, error, endpoint: Some(Failure::TimedOut) });
            }
            Waited::TooLong => {
                let timed_out = StatusCode::GATEWAY_TIMEOUT.as_u16();
                // Of one try, and the rule wants such tried again: as if the endpoint had refused.
                let again = one == Some(deadline) && deadline < whole && policy.retry_codes.contains(&timed_out);
                let outcome = if again { TryOutcome::Refused } else { TryOutcome::TimedOut };
                return Err(Failed { outcome, error: ErrorType::HttpResponseTimeout, endpoint: None });
            }
        };
        let mut error = match outcome {
            Ok(answer) => {
                return judged(answer).map(|answer| {
                    let now = Instant::now();
                    if answer.headers().contains_key(STARLING_ERROR) {
                        // Not the instance's answer.
                    } else if client.reused {
                        worker.shared.loads.succeeded(endpoint, now.saturating_duration_since(sent), now);
                    } else {
                        // A first request on a stream pays for connections at both ends; as a latency it would keep
                        // the endpoint out of favour long after.
                        worker.shared.loads.reached(endpoint, now);
                    }
                    Answered { answer, client, key, sent }
                });
            }
            Err(error) => error,
        };
        if upload.is_broken() {
            return Err(Failed::for_good(ErrorType::HttpRequestError));
        }
        if let Some(unsent) = error.take_message() {
            head.restore(unsent);
            if client.reused {
                // It was closed while it idled. Each turn of this loop uses one up; then a fresh one is opened.
                continue;
            }
            let (outcome, error) = (TryOutcome::NotSent, ErrorType::ConnectionTerminated);
            return Err(Failed { outcome, error, endpoint: Some(Failure::Quick) });
        }
        let (outcome, error) = match client.fault.get() {
            Some(fault) if fault.nothing_was_processed() => (TryOutcome::Refused, ErrorType::ConnectionRefused),
            Some(_) | None => {
                (TryOutcome::Broken { safe: head.safe && upload.is_empty() }, ErrorType::ConnectionTerminated)
            }
        };
        return Err(Failed { outcome, error, endpoint: Some(Failure::Quick) });
    }
}

/// How waiting for an answer ended.
#[derive(Debug, PartialEq, Eq)]
enum Waited<T> {
    Done(T),
    /// The host has fallen silent, and the request can go elsewhere.
    Stalled,
    TooLong,
}

/// How often a waiting request looks whether its host still answers.
const STALL_LOOK: Duration = Duration::from_millis(500);

/// The outcome of `sending` before `deadline`. A body that still comes is no silence: the wait for the answer begins
/// anew with its last bytes, so that a large upload over a slow line ends well.
async fn in_time<T>(
    sending: impl Future<Output = T>,
    mut deadline: Instant,
    (patience, moved): (Duration, impl Fn() -> Option<Instant>),
    stalled: impl Fn() -> bool,
) -> Waited<T> {
    let mut sending = std::pin::pin!(sending);
    loop {
        // One timer for both: most requests are answered before it is ever due.
        let look = deadline.min(Instant::now() + STALL_LOOK);
        if let Ok(outcome) = timeout_at(look.into(), sending.as_mut()).await {
            return Waited::Done(outcome);
        }
        if stalled() {
            return Waited::Stalled;
        }
        if look == deadline {
            match moved().map(|moved| moved + patience).filter(|later| *later > deadline) {
                Some(later) => deadline = later,
                None => return Waited::TooLong,
            }
        }
    }
}

/// An answer of the peer's agent that says that nobody has seen the request is no answer.
fn judged(answer: Response<Incoming>) -> Result<Response<Incoming>, Failed> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        // A correct agent passes none on; this hop has asked for none.
        let (outcome, error) = (TryOutcome::Begun, ErrorType::ConnectionTerminated);
        return Err(Failed { outcome, error, endpoint: None });
    }
    if !answer.headers().contains_key(STARLING_UNPROCESSED) {
        return Ok(answer);
    }
    let word = answer.headers().get(STARLING_ERROR).map(HeaderValue::as_bytes);
    let error = word.and_then(ErrorType::from_word).unwrap_or(ErrorType::ConnectionRefused);
    Err(Failed { outcome: TryOutcome::Refused, error, endpoint: Some(Failure::Quick) })
}

/// A fresh stream with hyper on it.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    source: Option<&ServiceKey>,
) -> Result<Client, Failed> {
    let header = OpenHeader {
        carry: Carry::Http1,
        source: source.cloned(),
        destination: endpoint.service.clone(),
        instance: endpoint.instance().clone(),
        port: endpoint.port.clone(),
    };
    let stream = peers::open(worker, endpoint, &header).await?;
    let (fault, lane) = (Rc::new(Cell::new(None)), stream.lane());
    let io = TokioIo::new(Watched::new(stream, fault.clone()));
    let shaken = worker.upstream.handshake(io).await;
    let (sender, connection) = shaken.map_err(|_| Failed {
        outcome: TryOutcome::NotSent,
        error: ErrorType::ProxyInternalError,
        endpoint: None,
    })?;
    // Owns the stream; ends with it, or when its sender is dropped.
    drop(tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a stream to a peer broke");
        }
    }));
    Ok(Client::new(sender, fault, Some(lane)))
}

/// Passes an answer on; it is counted when its last byte has gone, however that ends.
fn relay(
    worker: &Worker,
    choice: &Choice,
    mut exchange: Exchange,
    Answered { mut answer, client, key, sent }: Answered,
    back: &routed::Back,
) -> Response<ResponseBody> {
    let error = answer.headers().get(STARLING_ERROR).and_then(|word| ErrorType::from_word(word.as_bytes()));
    if error.is_some() {
        worker.shared.loads.failed(choice.endpoint(), Failure::Quick, Instant::now());
    }
    exchange.answered(answer.status().as_u16(), error);
    exchange.carried_by(key, client);
    pass_on(&mut answer);
    back.edit(choice, answer.headers_mut());
    if answer.body().is_end_stream() {
        exchange.completed();
    }
    let end = routed::whole_deadline(choice, exchange.began(), sent);
    answer.map(|incoming| ResponseBody::Relayed { incoming, exchange, end })
}

/// What ends at this hop is taken off an answer.
pub(crate) fn pass_on(answer: &mut Response<Incoming>) {
    if answer.headers().contains_key(header::TRANSFER_ENCODING) {
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

    const PATIENCE: Duration = Duration::from_millis(60);

    async fn waited(moves_for: Duration, stalled: bool, work: Duration) -> Waited<()> {
        let began = Instant::now();
        let moved = move || Some(Instant::now().min(began + moves_for));
        in_time(tokio::time::sleep(work), began + PATIENCE, (PATIENCE, moved), || stalled).await
    }

    #[tokio::test]
    async fn a_body_that_still_moves_is_waited_for_and_a_silent_one_is_not() {
        assert_eq!(waited(Duration::ZERO, false, PATIENCE * 20).await, Waited::TooLong);
        assert_eq!(waited(PATIENCE * 8, false, PATIENCE * 4).await, Waited::Done(()));
        assert_eq!(waited(PATIENCE * 3, false, PATIENCE * 20).await, Waited::TooLong, "it stopped moving");
        assert_eq!(waited(PATIENCE * 8, true, PATIENCE * 20).await, Waited::Stalled);
    }
}
