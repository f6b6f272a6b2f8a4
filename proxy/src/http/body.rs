//! Bodies on their way through: request bodies that a refused try can repeat, response bodies that tell when they end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::answers::ErrorType;
use crate::http::arriving::Arriving;
use crate::http::client::Reply;
use crate::http::exchange::Exchange;
use crate::http::grpc::{self, Spoken};
use crate::http::harden;
use crate::limits::REPLAY_BYTES_MAX;
use crate::metrics::Edge;

/// Errors of bodies on their way.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What arrived of a request body, kept while a try may still be repeated.
#[derive(Debug)]
struct Source {
    incoming: Arriving,
    size: SizeHint,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// More came than is kept: no repetition.
    lost: bool,
    /// All of it came.
    ended: bool,
    /// The client did not send what it had announced.
    broken: bool,
    /// When its bytes last moved on.
    moved: Instant,
    /// The try that may read; an older one, still held by a dying connection, gets nothing any more.
    turn: u32,
    edge: Rc<Edge>,
    /// Counts what comes for the access log, too.
    count: Option<Rc<Cell<u64>>>,
}

/// A request's body across its tries.
#[derive(Clone, Debug)]
pub(crate) enum Upload {
    /// There is none.
    Empty,
    /// One that comes from the client as it is read.
    Stream(UploadStream),
}

/// A handle to the one source of all tries.
#[derive(Clone, Debug)]
pub(crate) struct UploadStream(Rc<RefCell<Source>>);

impl Upload {
    pub(crate) fn new(incoming: Arriving, exchange: &mut Exchange) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let count = exchange.upload_count();
        let size = incoming.size_hint();
        let source = Source {
            incoming,
            size,
            kept: Vec::new(),
            kept_bytes: 0,
            lost: false,
            ended: false,
            broken: false,
            moved: Instant::now(),
            turn: 0,
            edge: exchange.edge().clone(),
            count,
        };
        Self::Stream(UploadStream(Rc::new(RefCell::new(source))))
    }

    /// The body of the next try; every earlier one ends with an error where it still is.
    pub(crate) fn next_try(&self) -> RequestBody {
        match self {
            Self::Empty => RequestBody::copied(Vec::new()),
            Self::Stream(UploadStream(source)) => {
                let mut held = source.borrow_mut();
                held.turn += 1;
                RequestBody { turn: held.turn, source: Some(source.clone()), at: 0, copied: VecDeque::new() }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(_) => false,
        }
    }

    /// All of the body, if it has come to its end and is kept.
    pub(crate) fn whole(&self) -> Option<Vec<Bytes>> {
        match self {
            Self::Empty => Some(Vec::new()),
            Self::Stream(UploadStream(source)) => {
                let source = source.borrow();
                let ended = source.ended || source.incoming.is_end_stream();
                (ended && !source.lost && !source.broken).then(|| source.kept.clone())
            }
        }
    }

    /// True when the client's own body ended in an error: then no endpoint is to blame.
    pub(crate) fn is_broken(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Stream(UploadStream(source)) => source.borrow().broken,
        }
    }

    /// True when all of the body has come.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(UploadStream(source)) => {
                let source = source.borrow();
                source.ended || source.incoming.is_end_stream()
            }
        }
    }

    /// When bytes of the body last moved on; none if there is none.
    pub(crate) fn moved(&self) -> Option<Instant> {
        match self {
            Self::Empty => None,
            Self::Stream(UploadStream(source)) => Some(source.borrow().moved),
        }
    }

    /// Can the body be sent once more from its start?
    pub(crate) fn can_repeat(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(UploadStream(source)) => !source.borrow().lost,
        }
    }
}

/// The body of one try.
#[derive(Debug)]
pub(crate) struct RequestBody {
    source: Option<Rc<RefCell<Source>>>,
    turn: u32,
    at: usize,
    /// What a body without a source has.
    copied: VecDeque<Bytes>,
}

impl RequestBody {
    /// A body that is there already.
    pub(crate) fn copied(body: Vec<Bytes>) -> Self {
        Self { source: None, turn: 0, at: 0, copied: body.into() }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(source) = &this.source else {
            return Poll::Ready(this.copied.pop_front().map(|data| Ok(Frame::data(data))));
        };
        let mut source = source.borrow_mut();
        if source.turn != this.turn {
            return Poll::Ready(Some(Err("the request is being tried elsewhere".into())));
        }
        if let Some(kept) = source.kept.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        let polled = std::task::ready!(Pin::new(&mut source.incoming).poll_frame(cx));
        source.ended |= polled.is_none();
        Poll::Ready(polled.map(|frame| {
            let mut frame = frame.inspect_err(|_| source.broken = true)?;
            if let Some(trailers) = frame.trailers_mut() {
                harden::strip_trailers(trailers);
                // They are not kept.
                source.lost = true;
            }
            if let Some(data) = frame.data_ref() {
                source.moved = Instant::now();
                source.edge.request_bytes(data.len() as u64);
                if let Some(count) = &source.count {
                    count.set(count.get() + data.len() as u64);
                }
                source.kept_bytes += data.len();
                if source.kept_bytes > REPLAY_BYTES_MAX {
                    source.lost = true;
                    source.kept = Vec::new();
                    this.at = 0;
                } else {
                    source.kept.push(data.clone());
                    this.at += 1;
                }
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            None => self.copied.is_empty(),
            Some(source) => {
                let source = source.borrow();
                self.at >= source.kept.len() && source.incoming.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            None => SizeHint::with_exact(self.copied.iter().map(|data| data.len() as u64).sum()),
            // Asked before the first frame only, when all of it is still to come.
            Some(source) => source.borrow().size,
        }
    }
}

/// What goes back to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// An answer of our own.
    Own(Option<Bytes>),
    /// An instance's answer on its way.
    Relayed {
        /// Where it comes from.
        incoming: Reply,
        /// Told when it ends, however it ends.
        exchange: Box<Exchange>,
        /// When it must be over, if a rule says so.
        end: Option<Pin<Box<Sleep>>>,
    },
}

/// How a call that has begun to be answered ends when it cannot go on: with a status, which a reset would not carry.
fn cut_off(exchange: &mut Exchange, error: ErrorType) -> Frame<Bytes> {
    let trailers = grpc::trailers(error.grpc_status(), error.as_str());
    exchange.learn(&trailers);
    Frame::trailers(trailers)
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed { incoming, exchange, end } => {
                if end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
                    exchange.timed_out();
                    if exchange.spoken() == Spoken::Grpc {
                        return Poll::Ready(Some(Ok(cut_off(exchange, ErrorType::HttpResponseTimeout))));
                    }
                    return Poll::Ready(Some(Err("the request took longer than its rule allows".into())));
                }
                let polled = std::task::ready!(Pin::new(&mut *incoming).poll_frame(cx));
                Poll::Ready(match polled {
                    None => {
                        exchange.completed();
                        None
                    }
                    Some(Ok(mut frame)) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            harden::strip_trailers(trailers);
                            exchange.learn(trailers);
                            exchange.completed();
                        }
                        if let Some(data) = frame.data_ref() {
                            exchange.response_bytes(data.len() as u64);
                        }
                        // The writer behind us may never ask again once it knows the end.
                        if incoming.is_end_stream() {
                            exchange.completed();
                        }
                        Some(Ok(frame))
                    }
                    Some(Err(error)) => {
                        exchange.broke_off();
                        if exchange.spoken() == Spoken::Grpc {
                            return Poll::Ready(Some(Ok(cut_off(exchange, ErrorType::ConnectionTerminated))));
                        }
                        Some(Err(error))
                    }
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Relayed { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relayed { incoming, .. } => incoming.size_hint(),
        }
    }
}
