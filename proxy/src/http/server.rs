//! An HTTP/1.1 server: one connection of an application or one stream of a peer, from head to head.
//!
//! A head goes on only when it is complete and approved ([`super::codec::read_request`]); nothing behind a refused one is
//! read, and every refusal gets a proper answer. It must be complete within [`HEAD_TIMEOUT`] of its first byte; between
//! requests a connection may idle for [`IDLE_TIMEOUT`]. While a request is answered its connection is watched: whoever
//! leaves before the answer gives the request up.
//!
//! It has no task of its own and hands nothing from task to task: whoever answers reads the request's body off the
//! connection (`wire.rs`), and an idle connection holds no buffer.

mod wire;
mod writing;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::debug;

use self::wire::Wire;
use self::writing::Writing;
use crate::http::arriving::{Arriving, Reading};
use crate::http::codec::read_request::{RequestHead, take_request};
use crate::http::codec::write_answer::AnswerTo;
use crate::http::door::{Door, Verdict};
use crate::http::harden::{Framing, HeadRefused};
use crate::http::outbound::Answering;
use crate::l4::Tunnelled;
use crate::limits::{HEAD_TIMEOUT, IDLE_TIMEOUT};
use crate::worker::Phase;

/// After a last answer, so many bytes are still read and dropped before the connection is closed: closing a socket with
/// unread bytes makes the kernel reset it, and the client would never read why.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// And for so long.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    Http1,
    /// HTTP/2 too, from the first byte on.
    Http1Or2,
    /// HTTP/1.1 as an agent writes requests of HTTP/2 in it: their trailers are read, and none switches.
    Http2AsHttp1,
}

/// How a connection stopped carrying HTTP/1.
#[derive(Debug)]
pub(crate) enum Served<S> {
    /// It is over.
    Ended,
    /// It began with the preface of HTTP/2: the stream, and what was read of it.
    Http2(S, Bytes),
    /// An answer made it a tunnel.
    Switched(S),
}

/// When connections are to close; `None`: that is another's business.
pub(crate) type Closing = Option<watch::Receiver<Phase>>;

/// What comes next on a connection.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests, and each is taken apart at once")]
enum Next {
    Request(RequestHead),
    Refused(HeadRefused),
    /// Nothing.
    End,
}

struct Server<S> {
    wire: Rc<RefCell<Wire<S>>>,
    offer: Offer,
    door: Rc<Door>,
    /// Bytes of an unfinished head that are known to hold no end of it.
    searched: usize,
    /// When an unfinished head began.
    began: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Serves one connection until it ends or carries something else. Owns it; dropping this at any `.await` closes it, and a
/// request under way counts as given up by its client.
pub(crate) async fn serve<S, A>(stream: S, door: &Rc<Door>, offer: Offer, closing: Closing, answer: A) -> Served<S>
where
    S: Tunnelled,
    A: Fn(Request<Arriving>, Verdict) -> Answering,
{
    let wire = Rc::new(RefCell::new(Wire::new(stream)));
    let mut server = Server { wire, offer, door: Rc::clone(door), searched: 0, began: None, timer: None };
    let is_closing = || closing.as_ref().is_some_and(|phase| *phase.borrow() >= Phase::Closing);
    let mut told = pin!(told(closing.clone()));
    let mut is_first = true;
    loop {
        // On the heap, and nothing beside it: an idle connection must not carry the largest state of a busy one.
        let (mut answering, to) = match poll_fn(|cx| server.poll_head(cx, told.as_mut())).await {
            Next::Request(head) => {
                let (request, verdict, to) = server.begin(head);
                (answer(request, verdict), Awaited { to, may_switch: verdict == Verdict::MaySwitch })
            }
            Next::Refused(HeadRefused::Http2) if is_first && offer == Offer::Http1Or2 => {
                return server
                    .into_stream()
                    .map_or(Served::Ended, |(stream, read)| Served::Http2(stream, read.freeze()));
            }
            Next::Refused(refused) => {
                let to = Awaited { to: AnswerTo::REFUSED, may_switch: false };
                (answer(harmless(), Verdict::Refused(refused)), to)
            }
            Next::End => break,
        };
        is_first = false;
        let begun = poll_fn(|cx| server.poll_answered(cx, &mut answering, to, is_closing)).await;
        drop(answering);
        let Begun { mut writing, switches } = match begun {
            Ok(begun) => begun,
            Err(error) => {
                debug!(%error, "an answer could not be begun");
                return Served::Ended;
            }
        };
        if let Err(error) = poll_fn(|cx| server.poll_write(cx, &mut writing)).await {
            debug!(%error, "an answer was not taken to its end");
            return Served::Ended;
        }
        let keeps = writing.keeps();
        drop(writing);
        if switches {
            return server.into_stream().map_or(Served::Ended, |(stream, _)| Served::Switched(stream));
        }
        let is_whole = poll_fn(|cx| server.wire.borrow_mut().poll_settled(cx)).await;
        if !keeps || !is_whole {
            // On the heap, as it is rare.
            Box::pin(server.close()).await;
            return Served::Ended;
        }
    }
    let _ = poll_fn(|cx| Pin::new(&mut server.wire.borrow_mut().stream).poll_shutdown(cx)).await;
    Served::Ended
}

/// What is known of an answer before it is there.
#[derive(Clone, Copy)]
struct Awaited {
    to: AnswerTo,
    may_switch: bool,
}

/// An answer whose head is known.
struct Begun {
    writing: Box<Writing>,
    /// Makes the connection a tunnel.
    switches: bool,
}

async fn told(closing: Closing) {
    match closing {
        Some(mut phase) => drop(phase.wait_for(|phase| *phase >= Phase::Closing).await),
        None => std::future::pending().await,
    }
}

/// What is asked in the place of what was refused.
fn harmless() -> Request<Arriving> {
    let mut request = Request::new(Arriving::Empty);
    *request.version_mut() = Version::HTTP_10;
    request
}

impl<S: Tunnelled> Server<S> {
    /// The next head. A connection that is `told` to close does so here, where nothing is under way on it.
    fn poll_head(&mut self, cx: &mut Context<'_>, told: Pin<&mut impl Future<Output = ()>>) -> Poll<Next> {
        let mut held = self.wire.borrow_mut();
        let wire = &mut *held;
        loop {
            if !wire.input.is_empty() {
                match take_request(&mut wire.input, &mut self.searched) {
                    Ok(None) => {}
                    Ok(Some(head)) => {
                        self.began = None;
                        return Poll::Ready(Next::Request(head));
                    }
                    Err(refused) => return Poll::Ready(Next::Refused(refused)),
                }
            }
            match wire.poll_more(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Pending => break,
            }
        }
        let in_head = !wire.input.is_empty();
        drop(held);
        if !in_head && told.poll(cx).is_ready() {
            return Poll::Ready(Next::End);
        }
        ready!(self.poll_waited(cx, in_head));
        Poll::Ready(if in_head { Next::Refused(HeadRefused::Slow) } else { Next::End })
    }

    /// Ready when the connection has waited for too long: within a head, or between two.
    fn poll_waited(&mut self, cx: &mut Context<'_>, in_head: bool) -> Poll<()> {
        // Between heads a timer that was set is soon enough: what is due only moves on. So a request reads no clock here.
        if !in_head
            && self.began.is_none()
            && let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        loop {
            let now = Instant::now();
            let due = if in_head {
                *self.began.get_or_insert(now) + HEAD_TIMEOUT
            } else {
                self.began = None;
                self.door.last_active() + IDLE_TIMEOUT
            };
            if due <= now {
                return Poll::Ready(());
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            // A timer that is due too early is simply set again when it fires: requests do not touch it.
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(due);
        }
    }

    /// The request that this head begins.
    fn begin(&mut self, head: RequestHead) -> (Request<Arriving>, Verdict, AnswerTo) {
        let as_http2 = self.offer == Offer::Http2AsHttp1;
        let mut to = AnswerTo::new(&head.method, &head.headers, head.is_http10, head.keeps);
        to.takes_trailers |= as_http2;
        let expects_continue = head.expects_continue();
        let RequestHead { method, uri, headers, is_http10, framing, keeps: _ } = head;
        self.wire.borrow_mut().begin(framing, expects_continue);
        let (body, verdict) = match framing {
            Framing::Empty => (Arriving::Empty, Verdict::Approved),
            Framing::Switch if as_http2 => (Arriving::Empty, Verdict::Refused(HeadRefused::Upgrade)),
            Framing::Switch => (Arriving::Empty, Verdict::MaySwitch),
            Framing::Length(_) | Framing::Chunked => {
                (Arriving::Http1(Reading::new(self.wire.clone())), Verdict::Approved)
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        *request.version_mut() = match (as_http2, is_http10) {
            (true, _) => Version::HTTP_2,
            (false, true) => Version::HTTP_10,
            (false, false) => Version::HTTP_11,
        };
        (request, verdict, to)
    }

    /// The answer, begun; a broken pipe if its client leaves before.
    fn poll_answered(
        &self,
        cx: &mut Context<'_>,
        answering: &mut Answering,
        Awaited { to, may_switch }: Awaited,
        is_closing: impl Fn() -> bool,
    ) -> Poll<io::Result<Begun>> {
        let Poll::Ready(Ok(response)) = answering.as_mut().poll(cx) else {
            let gone = self.wire.borrow_mut().poll_gone(cx, may_switch);
            return gone.map(|()| Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client left before it")));
        };
        // As things stand now: what the head does not say, a client's next request would find out.
        let to = AnswerTo { keeps: to.keeps && !is_closing(), ..to };
        let switches = may_switch && to.switches(response.status());
        let (head, body) = response.into_parts();
        let owed = self.wire.borrow_mut().answered();
        let writing = Writing::begin(owed, &head, body, &to);
        Poll::Ready(writing.map(|writing| Begun { writing: Box::new(writing), switches }))
    }

    /// Writes an answer to its end.
    fn poll_write(&mut self, cx: &mut Context<'_>, writing: &mut Writing) -> Poll<io::Result<()>> {
        if let Poll::Ready(written) = writing.poll(cx, &self.wire) {
            return Poll::Ready(written);
        }
        // A client that reads nothing does not hold an answer for ever.
        let is_late = if self.door.is_busy() {
            writing.is_stuck() && self.door.end().poll(cx).is_ready()
        } else {
            self.poll_waited(cx, false).is_ready()
        };
        if is_late { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }

    /// Says the end, and drops for a while what still comes.
    async fn close(self) {
        let Some((mut stream, input)) = self.into_stream() else { return };
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES_MAX.saturating_sub(input.len());
        let mut space = [0; 4_096];
        let dropping = async {
            while let Ok(count @ 1..) = stream.read(&mut space).await {
                left = left.saturating_sub(count);
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(LINGER, dropping).await;
    }

    /// The stream, and what was read of it; `None` while a request's body is still read off it.
    fn into_stream(self) -> Option<(S, BytesMut)> {
        let wire = Rc::into_inner(self.wire)?.into_inner();
        Some((wire.stream, wire.input))
    }
}

#[cfg(test)]
mod tests;
