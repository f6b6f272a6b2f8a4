//! The owner's side of one HTTP stream: from a proven peer to the local instance and back.
//!
//! The head is hardened again, since a peer's cleaning proves nothing, and the identity header is set here, where the
//! peer is proven. An instance that cannot be reached is told to the calling agent as "nobody has seen it", so that it
//! may try another endpoint.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use starling_model::{NodeName, SpiffeId};
use starling_routing::{Caller, Grants};
use starling_transport::data::MuxStream;
use tracing::debug;

use crate::access_log::HttpRecord;
use crate::answers::{Answer, Connection, ErrorType, Processed};
use crate::header::{Carry, OpenHeader};
use crate::http::arriving::Arriving;
use crate::http::body::{ResponseBody, Upload};
use crate::http::client::{Http1, Reply};
use crate::http::door::{Busy, Door, Verdict};
use crate::http::exchange::Exchange;
use crate::http::grpc::Spoken;
use crate::http::h2::client::Http2;
use crate::http::harden::{self, HeadRefused, XFCC};
use crate::http::head;
use crate::http::outbound::{Answering, own_body, pass_on, said, switched};
use crate::http::pool::{Client, Place, PoolKey, Sender, Shared, SharedKey};
use crate::http::server::{self, Offer, Served};
use crate::http::upgrade::{self, Far, Switch, Switched};
use crate::l4::connect;
use crate::metrics::{Direction, Edge};
use crate::worker::{Side, Worker};

/// What all requests of a stream have in common.
pub(crate) struct Stream {
    pub(crate) worker: Rc<Worker>,
    header: OpenHeader,
    /// The proven peer.
    node: NodeName,
    counted: RefCell<Rc<Counted>>,
    pub(crate) door: Rc<Door>,
    /// HTTP/2 connections to the instance, which streams of the same caller share; looked up once.
    shared: RefCell<Option<(SocketAddr, Rc<RefCell<Shared>>)>>,
    /// What the stream becomes, once an answer says so.
    switch: Cell<Option<Box<Switch>>>,
}

/// What the stream's requests count as. A stream lives on while documents change, so each request looks whether the grants
/// are still those by which this was found.
struct Counted {
    grants: Arc<Grants>,
    caller: Caller,
    /// Whether these were known to be all.
    known: bool,
    edge: Rc<Edge>,
    /// `By=<us>;URI=<caller>`.
    identity: HeaderValue,
}

impl Counted {
    fn new(worker: &Worker, header: &OpenHeader, node: &NodeName) -> Self {
        // Read before the caller is judged: what changes meanwhile is seen at the next request.
        let known = worker.shared.knows_grants();
        let grants = Arc::clone(worker.shared.table.load().grants());
        let caller = worker.caller(node, header.source.as_ref());
        let caller = caller.unwrap_or_else(|_| Caller { node: node.clone(), service: None });
        let domain = &worker.config.trust_domain;
        let own = SpiffeId::workload(domain, &worker.config.node, &header.destination);
        let identity = HeaderValue::from_str(&format!("By={own};URI={}", caller.spiffe_id(domain)));
        Self {
            grants,
            known,
            edge: worker.edges.edge(Direction::Inbound, caller.service.as_ref(), Some(&header.destination)),
            // Names are labels, so this always is a header value; else it names nobody.
            identity: identity.unwrap_or(HeaderValue::from_static("URI=")),
            caller,
        }
    }

    fn holds(&self, worker: &Worker) -> bool {
        self.known == worker.shared.knows_grants() && Arc::ptr_eq(&self.grants, worker.shared.table.load().grants())
    }
}

/// Serves one stream until it ends. Owns it; dropping this at any `.await` resets it.
pub(crate) async fn serve(worker: Rc<Worker>, stream: MuxStream, header: OpenHeader, node: NodeName) {
    let counted = RefCell::new(Rc::new(Counted::new(&worker, &header, &node)));
    let door = Door::new();
    let offer = if header.carry == Carry::Http2 { Offer::Http2AsHttp1 } else { Offer::Http1 };
    let (shared, switch) = (RefCell::default(), Cell::new(None));
    let of = Rc::new(Stream { worker, header, node, counted, door, shared, switch });
    let door = of.door.clone();
    let answered = |request, verdict| answer(&of, request, verdict);
    // A peer's connection says when streams are to end.
    if let Served::Switched(stream) = server::serve(stream, &door, offer, None, answered).await
        && let Some(switch) = of.switch.take()
        && let Switch::Upgrade { exchange, far } = *switch
    {
        Box::pin(upgrade::run(stream, exchange, far)).await;
    }
}

/// Answers one request, one way or the other. What needs no wait is done at once, so that the future holds only what the
/// rest needs.
pub(crate) fn answer(stream: &Rc<Stream>, request: Request<Arriving>, verdict: Verdict) -> Answering {
    let worker = &stream.worker;
    let busy: Busy = stream.door.busy();
    let active = worker.active(Side::Inbound);
    let spoken = Spoken::of(&request);
    let counted = stream.counted();
    let record =
        worker.record(Direction::Inbound, || counted.caller.clone(), || Some(HttpRecord::of(&request, spoken)));
    let mut exchange = Exchange::begin(worker, counted.edge.clone(), spoken, (busy, active)).told_by(record);
    exchange.note(|record| record.reached(&worker.config.node, &stream.header));
    let asked = match verdict {
        Verdict::Refused(refused) => Err(Answer::refused(refused)),
        Verdict::MaySwitch if request.method() == Method::CONNECT => Err(Answer::refused(HeadRefused::Connect)),
        Verdict::Approved | Verdict::MaySwitch => {
            Forwarded::new(stream, &counted.identity, request, (verdict, &mut exchange))
        }
    };
    match asked {
        Ok(forwarded) => Box::pin(forward(stream.clone(), exchange, forwarded)),
        Err(answer) => Box::pin(std::future::ready(Ok(stream.say(Err(answer), exchange)))),
    }
}

/// One request on its way to the instance.
struct Forwarded {
    address: SocketAddr,
    /// `None` while a try has it.
    head: Option<Box<Parts>>,
    upload: Upload,
    upgrade: Option<HeaderValue>,
    version: Version,
    /// Losing the connection is answered by another try.
    safe: bool,
}

impl Forwarded {
    fn new(
        stream: &Stream,
        identity: &HeaderValue,
        request: Request<Arriving>,
        (verdict, exchange): (Verdict, &mut Exchange),
    ) -> Result<Self, Answer> {
        let OpenHeader { destination, instance: name, port, carry: _, source: _ } = &stream.header;
        // Asked per request: the instance may have moved or gone since the stream was opened.
        let instances = stream.worker.shared.instances.load();
        let address = instances.find(name, destination, port).map(|instance| instance.address);
        let Some(address) = address else {
            let answer = Answer::new(ErrorType::DestinationUnavailable, format!("{name} does not run here any more"));
            return Err(Answer { processed: Processed::No, ..answer });
        };
        let version = request.version();
        let trailers = harden::takes_trailers(request.headers());
        let (mut parts, body) = request.into_parts();
        let headers = &mut parts.headers;
        let upgrade = match verdict {
            Verdict::MaySwitch => upgrade::wanted(headers),
            Verdict::Approved | Verdict::Refused(_) => None,
        };
        harden::strip_hop_by_hop(headers);
        harden::strip_ours(headers);
        if harden::has(headers, &header::EXPECT) {
            headers.remove(header::EXPECT);
        }
        headers.insert(&XFCC, identity.clone());
        match upgrade.clone() {
            Some(protocol) => upgrade::announce(headers, protocol),
            None if trailers && version != Version::HTTP_2 => head::take_trailers(headers),
            None => {}
        }
        let uri = match std::mem::take(&mut parts.uri).into_parts().path_and_query {
            Some(path) => Uri::from(path),
            None => Uri::from_static("/"),
        };
        if version == Version::HTTP_2 {
            if trailers {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            let unfit = |_| Answer::new(ErrorType::HttpRequestError, "the request's authority is none");
            parts.uri = head::absolute(&uri, headers).map_err(unfit)?;
        } else {
            parts.uri = uri;
            parts.version = Version::HTTP_11;
        }
        // hyper's own notes on the connection it came by go no further.
        parts.extensions.clear();
        let upload = Upload::new(body, exchange);
        let safe =
            upload.is_empty() && matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        Ok(Self { address, head: Some(Box::new(parts)), upload, upgrade, version, safe })
    }
}

/// Sends one request to the instance.
#[expect(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice")]
fn forward(
    stream: Rc<Stream>,
    mut exchange: Box<Exchange>,
    mut forwarded: Forwarded,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    async move {
        let (worker, name) = (&stream.worker, &stream.header.instance);
        let key = PoolKey::Instance(forwarded.address);
        let outcome = loop {
            let Forwarded { address, head, upload, upgrade, version, safe } = &mut forwarded;
            let mut sent = Instant::now();
            let (pooled, purpose) = match upgrade {
                None if *version == Version::HTTP_2 => (stream.shared(*address).borrow_mut().take(sent), Use::Http2),
                None => (worker.pool.take(&key, sent), Use::Requests),
                Some(_) => (None, Use::Upgrade),
            };
            let mut client = match pooled {
                Some(client) => client,
                // On the heap, as it is rare: a request must not carry the state of a connect.
                None => match Box::pin(open(*address, purpose)).await {
                    Ok(client) => client,
                    Err(error) => break Err(unreachable(&error, &stream)),
                },
            };
            if !client.reused && purpose == Use::Http2 {
                stream.shared(*address).borrow_mut().put(&client);
            }
            let repeatable = client.reused && *safe;
            // A shared connection takes the head with it; of any other it comes back when none answers.
            let parts = if repeatable && client.is_shared() { head.clone() } else { head.take() };
            let Some(parts) = parts else { break Err(Answer::new(ErrorType::ProxyInternalError, name.to_string())) };
            if !client.reused {
                sent = Instant::now();
            }
            let failed = match client.send(parts, upload.next_try()).await {
                Ok(answer) if upgrade::agrees(&answer, upgrade.as_ref()) => break Ok((answer, client.switched())),
                // Nobody asked for this protocol, and what follows is no answer: the connection is done for.
                Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    let detail = format!("{name} switched protocols unasked");
                    let answer = Answer::new(ErrorType::ConnectionTerminated, detail);
                    let answer = answer.with_status(StatusCode::BAD_GATEWAY);
                    break Err(Answer { connection: Connection::Close, ..answer });
                }
                Ok(answer) => {
                    exchange.note(|record| record.upstream = Some(sent.elapsed()));
                    if upgrade.is_none() {
                        exchange.carried_by(key, client);
                    }
                    break Ok((answer, None));
                }
                Err(failed) => failed,
            };
            debug!(endpoint = %name, error = %failed.error, "a local instance gave no answer");
            if upload.is_broken() {
                let answer = Answer::new(ErrorType::HttpRequestError, "the request's body broke off");
                break Err(Answer { connection: Connection::Close, ..answer });
            }
            // An idle connection that its server closed at this very moment: nothing was lost, or nothing can be harmed.
            if failed.is_unsent || repeatable {
                *head = head.take().or(failed.head);
            }
            if failed.is_unsent {
                client.give_up();
                if client.reused && upload.can_repeat() {
                    continue;
                }
            } else if repeatable {
                // A connection of many lives on when one request of it fails: once more, and no further.
                *safe = !client.is_shared();
                continue;
            }
            let answer = Answer::new(ErrorType::ConnectionTerminated, format!("{name} broke off before its answer"));
            let processed = if head.is_some() || failed.is_refused { Processed::No } else { Processed::Perhaps };
            let connection = if upload.is_empty() { Connection::Keep } else { Connection::Close };
            break Err(Answer { processed, connection, ..answer });
        };
        Ok(stream.say(outcome, exchange))
    }
}

impl Stream {
    /// Tells the caller the answer, and keeps what the stream becomes after it.
    fn say(
        &self,
        outcome: Result<(Response<Reply>, Option<Switched>), Answer>,
        mut exchange: Box<Exchange>,
    ) -> Response<ResponseBody> {
        match outcome {
            Ok((answer, Some(far))) => {
                exchange.answered(answer.status().as_u16(), None);
                exchange.switched();
                self.switch.set(Some(Box::new(Switch::Upgrade { exchange, far })));
                switched(answer, |_| {})
            }
            Ok((mut answer, None)) => {
                exchange.answered(answer.status().as_u16(), None);
                exchange.learn(answer.headers());
                pass_on(&mut answer);
                // On this hop a body of known length has no trailers, and the status of a call stands there.
                let headers = answer.headers_mut();
                if self.header.carry == Carry::Http2
                    && (exchange.spoken() == Spoken::Grpc || harden::has(headers, &header::TRAILER))
                {
                    headers.remove(header::CONTENT_LENGTH);
                }
                if answer.body().is_end_stream() {
                    exchange.completed();
                }
                answer.map(|incoming| ResponseBody::Relayed { incoming, exchange, end: None })
            }
            Err(answer) => {
                let mut response = said(&self.worker, &exchange, &answer);
                answer.tell_peer(response.headers_mut());
                exchange.answered(response.status().as_u16(), Some(answer.error));
                exchange.own_bytes(response.body().len());
                exchange.learn(response.headers());
                response.map(own_body)
            }
        }
    }

    /// What a request that begins now counts as.
    fn counted(&self) -> Rc<Counted> {
        let held = Rc::clone(&self.counted.borrow());
        if held.holds(&self.worker) {
            return held;
        }
        let counted = Rc::new(Counted::new(&self.worker, &self.header, &self.node));
        self.counted.replace(Rc::clone(&counted));
        counted
    }

    /// The HTTP/2 connections to the instance that this stream's caller shares. An instance that moved is left behind.
    fn shared(&self, instance: SocketAddr) -> Rc<RefCell<Shared>> {
        let mut held = self.shared.borrow_mut();
        if let Some((_, shared)) = held.as_ref().filter(|(at, _)| *at == instance) {
            return shared.clone();
        }
        let Caller { node, service: source } = self.counted().caller.clone();
        let key = SharedKey { instance, node, source };
        held.insert((instance, self.worker.pool.shared(key))).1.clone()
    }
}

fn unreachable(error: &io::Error, stream: &Stream) -> Answer {
    let name = &stream.header.instance;
    debug!(service = %stream.header.destination, endpoint = %name, %error, "a local instance cannot be reached");
    let (error, what) = if error.kind() == io::ErrorKind::TimedOut {
        (ErrorType::ConnectionTimeout, "takes no connection in time")
    } else {
        (ErrorType::ConnectionRefused, "refuses connections")
    };
    Answer { processed: Processed::No, ..Answer::new(error, format!("{name} {what}")) }
}

/// What a client is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Requests, one after the other.
    Requests,
    /// One request that asks for another protocol: it takes no client that others used, and leaves none.
    Upgrade,
    /// Requests at the same time.
    Http2,
}

async fn open(address: SocketAddr, purpose: Use) -> io::Result<Client> {
    let socket = connect(address).await?;
    let fault = Rc::new(Cell::new(None));
    if purpose == Use::Http2 {
        return Ok(Client::new(Sender::Http2(Http2::begin(socket).await?, Place::first()), fault, None));
    }
    let mut client = Client::new(Sender::Http1(Http1::new(Far::Instance(socket), fault.clone())), fault, None);
    client.may_switch = purpose == Use::Upgrade;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// As at the caller's side.
    #[test]
    fn what_answers_a_request_is_allocated_fast() {
        let size = size(forward);
        assert!(size <= 1_032, "{size} bytes");
    }
}
