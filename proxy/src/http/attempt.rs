//! One try of a request at one endpoint, up to the head of an answer.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use starling_model::ServiceKey;
use starling_routing::{Choice, Endpoint, Origin, TryOutcome};
use starling_transport::data::Lane;
use starling_transport::mux::Fault;
use tokio::time::timeout_at;
use tracing::debug;

use crate::answers::ErrorType;
use crate::header::{Carry, OpenHeader};
use crate::http::body::Upload;
use crate::http::client::{Http1, Reply};
use crate::http::grpc::Spoken;
use crate::http::harden::{STARLING_ERROR, STARLING_UNPROCESSED, find, has};
use crate::http::head::{Copies, Head};
use crate::http::outbound::Wanted;
use crate::http::pool::{Client, PoolKey, Sender};
use crate::http::upgrade::{self, Far};
use crate::limits::LEFT_BEHIND_MAX;
use crate::loads::Failure;
use crate::peers;
use crate::worker::Worker;

/// A try that gave no answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) outcome: TryOutcome,
    pub(crate) error: ErrorType,
    /// What it says of the endpoint, if anything.
    pub(crate) endpoint: Option<Failure>,
}

impl Failed {
    /// Another endpoint would change nothing.
    fn for_good(error: ErrorType) -> Self {
        Self { outcome: TryOutcome::Begun, error, endpoint: None }
    }
}

/// What one try brought.
pub(crate) struct Answered {
    pub(crate) answer: Response<Reply>,
    /// What the other agent says by itself, where the answer is not the instance's; `Some(None)`: a word that nobody knows here.
    pub(crate) said: Option<Option<ErrorType>>,
    pub(crate) client: Client,
    pub(crate) key: PoolKey,
    /// When the try began.
    pub(crate) sent: Instant,
    /// How long it took to its head.
    pub(crate) took: Duration,
}

/// What one try is made of.
pub(crate) struct Try<'a> {
    pub(crate) choice: &'a Choice,
    pub(crate) wanted: &'a Wanted,
    pub(crate) copies: Copies,
    /// There are endpoints that were not tried.
    pub(crate) others: bool,
    pub(crate) began: Instant,
}

/// One try at one endpoint, up to the head of an answer.
pub(crate) async fn attempt(
    worker: &Rc<Worker>,
    Try { choice, wanted, copies, others, began }: Try<'_>,
    (head, upload): (&mut Head, &Upload),
) -> Result<Answered, Failed> {
    let policy = choice.policy();
    let patience = policy.head_timeout();
    let whole = began + patience;
    let endpoint = choice.endpoint();
    let carry = head.carry_to(endpoint);
    let key = PoolKey::Peer { birth: endpoint.birth, source: wanted.source.clone(), carry };
    let may_switch = head.upgrade.is_some() && carry == Carry::Http1;
    let mut left_behind = 0;
    loop {
        let mut sent = Instant::now();
        // Who asks for another protocol takes no client that others used, and leaves none.
        let pooled = if may_switch { None } else { worker.pool.take(&key, sent) };
        let mut client = match pooled {
            Some(client) => client,
            // On the heap, as it is rare: a request must not carry the state of a dial.
            None => Box::pin(timeout_at(whole.into(), open(worker, endpoint, wanted.source.as_ref(), carry)))
                .await
                .unwrap_or(Err(Failed {
                    // The request's own time is over, which says nothing of the endpoint.
                    outcome: TryOutcome::TimedOut,
                    error: ErrorType::HttpResponseTimeout,
                    endpoint: None,
                }))?,
        };
        if !client.reused {
            client.may_switch = may_switch;
            sent = Instant::now();
        }
        let body = upload.next_try();
        let parts = match head.of_try(copies, choice, carry) {
            Ok(Some(parts)) => parts,
            // Every try that failed gave it back.
            Ok(None) => return Err(Failed::for_good(ErrorType::ProxyInternalError)),
            // The request's own bytes make no target under this rule.
            Err(_) => return Err(Failed::for_good(ErrorType::HttpRequestError)),
        };
        let one = policy.backend_request.value.map(|period| sent + period);
        let deadline = one.map_or(whole, |one| one.min(whole));
        // Only what may run twice, and has somewhere else to go, leaves a host that fell silent.
        let leaves = head.safe && upload.is_empty() && others;
        let lane = client.lane().filter(|_| leaves);
        let stalled = || lane.as_ref().is_some_and(Lane::is_stalled);
        // A deadline that a rule sets is kept; the built-in one gives a slow upload its time.
        let strict = one.is_some() || policy.request.origin == Origin::Rule;
        // A call whose client still may say more is answered when it has said all: such a stream may be quiet for long.
        let listening = head.spoken == Spoken::Grpc && !strict;
        let moved = || match listening && !upload.has_ended() {
            true => Some(Instant::now()),
            false => upload.moved().filter(|_| !strict),
        };
        // Pinned where it is: it is large, and would be moved else.
        let mut sending = pin!(client.send(parts, body));
        let outcome = match in_time(sending.as_mut(), (sent, deadline), (patience, moved), stalled).await {
            Waited::Done(outcome) => outcome,
            Waited::Stalled => {
                head.restore(sending.take_head());
                let (outcome, error) = (TryOutcome::Broken { safe: true }, ErrorType::ConnectionTimeout);
                return Err(Failed { outcome, error, endpoint: Some(Failure::TimedOut) });
            }
            Waited::TooLong => {
                head.restore(sending.take_head());
                let timed_out = StatusCode::GATEWAY_TIMEOUT.as_u16();
                // Of one try, and the rule wants such tried again: as if the endpoint had refused.
                let again = one == Some(deadline) && deadline < whole && policy.retry_codes.contains(&timed_out);
                let outcome = if again { TryOutcome::Refused } else { TryOutcome::TimedOut };
                return Err(Failed { outcome, error: ErrorType::HttpResponseTimeout, endpoint: None });
            }
        };
        let failed = match outcome {
            Ok(answer) => {
                let answer = match judged(answer, head.upgrade.as_ref()) {
                    Ok(answer) => answer,
                    Err(failed) => {
                        head.restore(sending.take_head());
                        // The next try needs the body that this one may still take.
                        client.abandon();
                        return Err(failed);
                    }
                };
                return Ok({
                    let now = Instant::now();
                    let said = said(answer.headers());
                    if said.is_some() {
                        // Not the instance's answer.
                    } else if client.reused {
                        worker.shared.loads.succeeded(endpoint, now.saturating_duration_since(sent), now);
                    } else {
                        // A first request on a stream pays for connections at both ends; as a latency it would keep
                        // the endpoint out of favour long after.
                        worker.shared.loads.reached(endpoint, now);
                    }
                    Answered { answer, said, client, key, sent, took: now.saturating_duration_since(sent) }
                });
            }
            Err(failed) => failed,
        };
        debug!(endpoint = %endpoint.id, error = %failed.error, "no answer came");
        head.restore(failed.head);
        if upload.is_broken() {
            return Err(Failed::for_good(ErrorType::HttpRequestError));
        }
        if failed.is_unsent {
            client.give_up();
            // It was closed while it idled: each turn of this loop uses one up; then a fresh one is opened. Or it was opened
            // on a connection that took no more streams just then, and another one takes it.
            let mut again = client.reused;
            if client.fault.get() == Some(Fault::Unprocessed) {
                left_behind += 1;
                again |= left_behind <= LEFT_BEHIND_MAX;
            }
            if again && upload.can_repeat() {
                continue;
            }
            let (outcome, error) = (TryOutcome::NotSent, ErrorType::ConnectionTerminated);
            return Err(Failed { outcome, error, endpoint: Some(Failure::Quick) });
        }
        let (outcome, error) = match client.fault.get() {
            Some(fault) if fault.nothing_was_processed() => (TryOutcome::Refused, ErrorType::ConnectionRefused),
            Some(_) | None if failed.is_refused => (TryOutcome::Refused, ErrorType::ConnectionRefused),
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

/// The outcome of `sending`, which begins `now`, before `deadline`. A body that still comes is no silence: the wait for the answer begins
/// anew with its last bytes, so that a large upload over a slow line ends well.
async fn in_time<T>(
    mut sending: Pin<&mut impl Future<Output = T>>,
    (mut now, mut deadline): (Instant, Instant),
    (patience, moved): (Duration, impl Fn() -> Option<Instant>),
    stalled: impl Fn() -> bool,
) -> Waited<T> {
    loop {
        // One timer for both: most requests are answered before it is ever due.
        let look = deadline.min(now + STALL_LOOK);
        if let Ok(outcome) = timeout_at(look.into(), sending.as_mut()).await {
            return Waited::Done(outcome);
        }
        now = Instant::now();
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
fn judged(answer: Response<Reply>, upgrade: Option<&HeaderValue>) -> Result<Response<Reply>, Failed> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        if upgrade::agrees(&answer, upgrade) {
            return Ok(answer);
        }
        // A correct agent passes none on that was not asked for.
        let (outcome, error) = (TryOutcome::Begun, ErrorType::ConnectionTerminated);
        return Err(Failed { outcome, error, endpoint: None });
    }
    if !has(answer.headers(), &STARLING_UNPROCESSED) {
        return Ok(answer);
    }
    let error = said(answer.headers()).flatten().unwrap_or(ErrorType::ConnectionRefused);
    Err(Failed { outcome: TryOutcome::Refused, error, endpoint: Some(Failure::Quick) })
}

fn said(headers: &HeaderMap) -> Option<Option<ErrorType>> {
    find(headers, &STARLING_ERROR).map(|word| ErrorType::from_word(word.as_bytes()))
}

/// A fresh stream with a client on it.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    source: Option<&ServiceKey>,
    carry: Carry,
) -> Result<Client, Failed> {
    let header = OpenHeader {
        carry,
        source: source.cloned(),
        destination: endpoint.service.clone(),
        instance: endpoint.instance().clone(),
        port: endpoint.port.clone(),
    };
    let stream = peers::open(worker, endpoint, &header).await?;
    let (fault, lane) = (Rc::new(Cell::new(None)), stream.lane());
    Ok(Client::new(Sender::Http1(Http1::new(Far::Peer(stream), fault.clone())), fault, Some(lane)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<'a, F>(_: impl Fn(&'a Rc<Worker>, Try<'a>, (&'a mut Head, &'a Upload)) -> F) -> usize {
        size_of::<F>()
    }

    /// On the heap once for each try.
    #[test]
    fn a_try_is_allocated_fast() {
        let size = size(attempt);
        assert!(size <= 1_032, "{size} bytes");
    }

    const PATIENCE: Duration = Duration::from_millis(60);

    async fn waited(moves_for: Duration, stalled: bool, work: Duration) -> Waited<()> {
        let began = Instant::now();
        let moved = move || Some(Instant::now().min(began + moves_for));
        in_time(pin!(tokio::time::sleep(work)), (began, began + PATIENCE), (PATIENCE, moved), || stalled).await
    }

    #[tokio::test]
    async fn a_body_that_still_moves_is_waited_for_and_a_silent_one_is_not() {
        assert_eq!(waited(Duration::ZERO, false, PATIENCE * 20).await, Waited::TooLong);
        assert_eq!(waited(PATIENCE * 8, false, PATIENCE * 4).await, Waited::Done(()));
        assert_eq!(waited(PATIENCE * 3, false, PATIENCE * 20).await, Waited::TooLong, "it stopped moving");
        assert_eq!(waited(PATIENCE * 8, true, PATIENCE * 20).await, Waited::Stalled);
    }
}
