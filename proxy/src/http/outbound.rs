//! The caller's side of one HTTP/1.1 connection: from a local application to the chosen peer and back.
//!
//! A request is hardened, decided, and sent over a stream to the endpoint's agent. While certainly nobody has acted on
//! it, or a second run is harmless, it may be tried at another endpoint ([`starling_routing::next_try`] is the judge);
//! after the first byte of an answer never.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use starling_model::{PortName, Protocol, ServiceKey};
use starling_routing::{Choice, EndpointIndex, NextTry, Refusal, RequestFacts, TryOutcome, next_try};
use starling_transport::data::Lane;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;
use tracing::debug;

use crate::answers::{Answer, Connection, ErrorType};
use crate::config::Upstream;
use crate::header::{Carry, OpenHeader};
use crate::http::body::{RequestBody, ResponseBody, Upload};
use crate::http::exchange::Exchange;
use crate::http::guard::{Door, Guard};
use crate::http::harden::{self, STARLING_ERROR, STARLING_UNPROCESSED};
use crate::http::pool::{Client, PoolKey};
use crate::http::watched::Watched;
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
    let Some(host) = host else {
        let detail = "the request names no host";
        return Err(Answer::new(ErrorType::HttpRequestError, detail));
    };
    let table = worker.shared.table.load();
    if let Some(service) = table.resolve_host(host) {
        if service.protocol(None) == Protocol::Grpc {
            let answer = Answer::new(ErrorType::HttpRequestError, "gRPC needs HTTP/2, which is not served here");
            return Err(answer.with_status(StatusCode::NOT_IMPLEMENTED));
        }
        return Ok(Wanted { service: service.key.clone(), port: None, source: None });
    }
    if let Some(service) = ServiceKey::from_host(host, &worker.config.domain) {
        return Err(Answer::new(ErrorType::DestinationNotFound, format!("no node announces {service}")));
    }
    if absolute.is_some() {
        let detail = format!("{host} is not of the mesh, and passing other hosts through is off");
        return Err(Answer::new(ErrorType::HttpRequestDenied, detail));
    }
    let detail = format!("{host} is not a host of {}", worker.config.domain);
    Err(Answer::new(ErrorType::DestinationNotFound, detail))
}

/// The head as it goes out. Copied for a try only when another one may follow.
struct Head {
    /// `None` when the last try has it.
    parts: Option<(Method, Uri, HeaderMap)>,
    /// RFC 9110, 9.2.1: a second run changes nothing.
    safe: bool,
}

/// Whether a head is wanted once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copies {
    Keep,
    GiveAway,
}

impl Head {
    /// Strips what ends here; what was approved is otherwise forwarded byte for byte.
    fn new(worker: &Worker, wanted: &Wanted, request: &mut Request<Incoming>) -> Result<Self, Answer> {
        let mut headers = std::mem::take(request.headers_mut());
        harden::strip_hop_by_hop(&mut headers);
        harden::strip_ours(&mut headers);
        // This hop answers `100 Continue` itself, when the body is first asked for.
        headers.remove(header::EXPECT);
        let uri = std::mem::take(request.uri_mut());
        if let Some(authority) = uri.authority() {
            // RFC 9112, 3.2.2; the door has seen that an own Host agrees.
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|_| Answer::new(ErrorType::HttpRequestError, "the target's host is no header value"))?;
            headers.insert(header::HOST, host);
        } else if !headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(&wanted.service.host(&worker.config.domain))
        {
            headers.insert(header::HOST, host);
        }
        let uri = match uri.into_parts().path_and_query {
            Some(path) => Uri::from(path),
            None => Uri::from_static("/"),
        };
        if !request.body().is_end_stream() && !headers.contains_key(header::CONTENT_LENGTH) {
            // Said aloud, since hyper would otherwise take a GET's body away.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let method = std::mem::take(request.method_mut());
        let safe = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        Ok(Self { parts: Some((method, uri, headers)), safe })
    }

    fn request(&mut self, body: RequestBody, copies: Copies) -> Option<Request<RequestBody>> {
        let (method, uri, headers) = match copies {
            Copies::Keep => self.parts.clone()?,
            Copies::GiveAway => self.parts.take()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        *request.version_mut() = Version::HTTP_11;
        Some(request)
    }

    /// Takes back what was not sent.
    fn restore(&mut self, request: Request<RequestBody>) {
        let (parts, _) = request.into_parts();
        self.parts = Some((parts.method, parts.uri, parts.headers));
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
    let mut head = match Head::new(worker, wanted, &mut request) {
        Ok(head) => head,
        Err(answer) => return own(worker, exchange, &answer),
    };
    let upload = Upload::new(request.into_body(), exchange.edge());
    let draws = worker.draws();
    let mut tried: Vec<EndpointIndex> = Vec::new();
    let mut last: Option<Answer> = None;
    loop {
        let facts = RequestFacts {
            destination: &wanted.service,
            port: wanted.port.as_ref(),
            source: wanted.source.as_ref(),
            // Routes hold once their filters are applied here: half a rule would be worse than none.
            http: None,
            avoid: &tried,
        };
        let choice = match worker.decide(&facts, Instant::now(), draws) {
            Ok(choice) => choice,
            // With every endpoint tried, the reason of the last try says more than that none is left.
            Err(refusal) => return own(worker, exchange, &last.unwrap_or_else(|| refused(refusal, wanted))),
        };
        exchange.at(choice.endpoint());
        let others = choice.candidates_len() > tried.len() + 1;
        let copies = if others { Copies::Keep } else { Copies::GiveAway };
        match attempt(worker, &choice, wanted, (&mut head, copies, &upload), exchange.began()).await {
            Ok((answer, client, key)) => {
                if !tried.is_empty() {
                    exchange.edge().retried("success");
                }
                return relay(worker, &choice, exchange, answer, client, key);
            }
            Err(failed) => {
                let endpoint = choice.endpoint();
                debug!(endpoint = %endpoint.id, reason = failed.error.as_str(), outcome = ?failed.outcome, "try failed");
                if let Some(failure) = failed.endpoint {
                    worker.shared.loads.failed(endpoint, failure, Instant::now());
                }
                if !tried.is_empty() {
                    exchange.edge().retried("failure");
                }
                tried.push(endpoint.index);
                let tries = u32::try_from(tried.len()).unwrap_or(u32::MAX);
                let answer = Answer::new(failed.error, endpoint.id.to_string());
                let again = next_try(failed.outcome, tries, choice.policy()) == NextTry::Elsewhere;
                if !again
                    || head.parts.is_none()
                    || !upload.can_repeat()
                    || exchange.began().elapsed() >= choice.policy().head_timeout()
                {
                    let answer = if upload.is_empty() || (upload.can_repeat() && !upload.is_broken()) {
                        answer
                    } else {
                        // The client is still sending what nobody will read.
                        Answer { connection: Connection::Close, ..answer }
                    };
                    return own(worker, exchange, &answer);
                }
                last = Some(answer);
            }
        }
    }
}

fn refused(refusal: Refusal, wanted: &Wanted) -> Answer {
    let error = match refusal {
        Refusal::NoService | Refusal::NoPort | Refusal::NoRule => ErrorType::DestinationNotFound,
        Refusal::NoBackend | Refusal::InvalidBackend => ErrorType::ProxyInternalError,
        Refusal::NoLocation => ErrorType::HttpRequestError,
        Refusal::NoEndpoint => ErrorType::DestinationUnavailable,
    };
    let detail = match (refusal, &wanted.port) {
        (Refusal::NoPort, Some(port)) => format!("{} has no port {port}", wanted.service),
        (_, _) => wanted.service.to_string(),
    };
    Answer::new(error, detail)
}

/// One try at one endpoint, up to the head of an answer.
async fn attempt(
    worker: &Rc<Worker>,
    choice: &Choice,
    wanted: &Wanted,
    (head, copies, upload): (&mut Head, Copies, &Upload),
    began: Instant,
) -> Result<(Response<Incoming>, Client, PoolKey), Failed> {
    let request_timeout = choice.policy().head_timeout();
    let deadline = began + request_timeout;
    let endpoint = choice.endpoint();
    let key = PoolKey::Peer { birth: endpoint.birth, source: wanted.source.clone() };
    loop {
        let mut client = match worker.pool.take(&key) {
            Some(client) => client,
            None => timeout_at(deadline.into(), open(worker, choice, wanted)).await.unwrap_or(Err(Failed {
                outcome: TryOutcome::NotSent,
                error: ErrorType::ConnectionTimeout,
                endpoint: Some(Failure::TimedOut),
            }))?,
        };
        let sent = Instant::now();
        let Some(request) = head.request(upload.next_try(), copies) else {
            // Only after a give-away, which is the last try.
            let (outcome, error) = (TryOutcome::Begun, ErrorType::ProxyInternalError);
            return Err(Failed { outcome, error, endpoint: None });
        };
        let sending = client.sender.try_send_request(request);
        // Only what may run twice, and has somewhere else to go, leaves a host that fell silent.
        let leaves = head.safe && upload.is_empty() && copies == Copies::Keep;
        let lane = client.lane().filter(|_| leaves);
        let stalled = || lane.as_ref().is_some_and(Lane::is_stalled);
        let outcome = match in_time(sending, deadline, (request_timeout, || upload.moved()), stalled).await {
            Waited::Done(outcome) => outcome,
            Waited::Stalled => {
                let (outcome, error) = (TryOutcome::Broken { safe: true }, ErrorType::ConnectionTimeout);
                return Err(Failed { outcome, error, endpoint: Some(Failure::TimedOut) });
            }
            Waited::TooLong => {
                let (outcome, error) = (TryOutcome::TimedOut, ErrorType::HttpResponseTimeout);
                return Err(Failed { outcome, error, endpoint: None });
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
                    (answer, client, key)
                });
            }
            Err(error) => error,
        };
        if upload.is_broken() {
            let (outcome, error) = (TryOutcome::Begun, ErrorType::HttpRequestError);
            return Err(Failed { outcome, error, endpoint: None });
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
async fn open(worker: &Rc<Worker>, choice: &Choice, wanted: &Wanted) -> Result<Client, Failed> {
    let endpoint = choice.endpoint();
    let header = OpenHeader {
        carry: Carry::Http1,
        source: wanted.source.clone(),
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
    mut answer: Response<Incoming>,
    client: Client,
    key: PoolKey,
) -> Response<ResponseBody> {
    let error = answer.headers().get(STARLING_ERROR).and_then(|word| ErrorType::from_word(word.as_bytes()));
    if error.is_some() {
        worker.shared.loads.failed(choice.endpoint(), Failure::Quick, Instant::now());
    }
    exchange.answered(answer.status().as_u16(), error);
    exchange.carried_by(key, client);
    pass_on(&mut answer);
    if answer.body().is_end_stream() {
        exchange.completed();
    }
    answer.map(|incoming| ResponseBody::Relayed { incoming, exchange })
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
