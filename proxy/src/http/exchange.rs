//! One request's bookkeeping, from its arrival to the last byte of its answer, however it ends.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use starling_routing::{Endpoint, EndpointIndex};
use tokio::sync::oneshot;

use crate::access_log::Record;
use crate::answers::ErrorType;
use crate::http::door::Busy;
use crate::http::ends;
use crate::http::grpc::{GrpcStatus, Spoken};
use crate::http::pool::{Client, PoolKey};
use crate::metrics::{Edge, RequestEnd};
use crate::worker::{Active, Worker};

/// The status under which a request counts whose client went away before its answer (as nginx logs it).
const CLIENT_GONE: u16 = 499;

/// Dropped exactly once per request: then it is counted, its endpoint is relieved, and its client returns to the pool
/// if the answer was complete.
#[derive(Debug)]
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    edge: Rc<Edge>,
    spoken: Spoken,
    grpc_status: Option<GrpcStatus>,
    busy: Busy,
    _active: Active,
    began: Instant,
    /// When the answer must be over.
    end: Option<Instant>,
    status: u16,
    error: Option<ErrorType>,
    endpoint: Option<(EndpointIndex, u64)>,
    client: Option<(PoolKey, Client)>,
    complete: bool,
    /// How long it took, where that was known before its end.
    took: Option<Duration>,
    /// What the access log is told in the end.
    record: Option<Box<Record>>,
    /// Who is told that, too.
    watcher: Option<oneshot::Sender<Box<Record>>>,
    /// Bytes that it tells; those of a request's body are counted where they pass.
    sent: Option<Rc<Cell<u64>>>,
    received: Cell<u64>,
}

impl Exchange {
    /// On the heap: it goes from hand to hand, and moving it costs more each time.
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        edge: Rc<Edge>,
        spoken: Spoken,
        (busy, active): (Busy, Active),
    ) -> Box<Self> {
        edge.request_began();
        Box::new(Self {
            worker: worker.clone(),
            edge,
            spoken,
            grpc_status: None,
            busy,
            _active: active,
            began: Instant::now(),
            end: None,
            status: CLIENT_GONE,
            error: None,
            endpoint: None,
            client: None,
            complete: false,
            took: None,
            record: None,
            watcher: None,
            sent: None,
            received: Cell::new(0),
        })
    }

    /// Tells the access log in the end, with this as a beginning.
    pub(crate) fn told_by(mut self: Box<Self>, record: Option<Box<Record>>) -> Box<Self> {
        self.record = record;
        self
    }

    /// Somebody is told in the end, too.
    pub(crate) fn watched_by(mut self: Box<Self>, watcher: Option<oneshot::Sender<Box<Record>>>) -> Box<Self> {
        self.watcher = watcher;
        self
    }

    /// Adds to what the access log is told, if it is.
    pub(crate) fn note(&mut self, add: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            add(record);
        }
    }

    /// Where bytes of the request's body are counted for the access log; `None`: nowhere.
    pub(crate) fn upload_count(&mut self) -> Option<Rc<Cell<u64>>> {
        self.record.as_ref()?;
        Some(self.sent.get_or_insert_default().clone())
    }

    /// Bytes of the request's side after it made a tunnel.
    pub(crate) fn request_bytes(&self, bytes: u64) {
        self.edge.request_bytes(bytes);
        if let Some(sent) = &self.sent {
            sent.set(sent.get() + bytes);
        }
    }

    /// Bytes of an answer of our own: no service's bytes, but those that the caller got.
    pub(crate) fn own_bytes(&self, bytes: usize) {
        self.received.set(bytes as u64);
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn edge(&self) -> &Rc<Edge> {
        &self.edge
    }

    pub(crate) fn spoken(&self) -> Spoken {
        self.spoken
    }

    /// Reads the status of a call off a head or trailers.
    pub(crate) fn learn(&mut self, headers: &HeaderMap) {
        if self.spoken == Spoken::Grpc {
            self.grpc_status = GrpcStatus::of(headers).or(self.grpc_status);
        }
    }

    /// Counts the request at `endpoint`; the endpoint of an earlier try is relieved.
    pub(crate) fn at(&mut self, endpoint: &Endpoint) {
        self.relieve();
        self.worker.shared.loads.begin(endpoint);
        self.endpoint = Some((endpoint.index, endpoint.birth));
    }

    fn relieve(&mut self) {
        if let Some((index, birth)) = self.endpoint.take() {
            self.worker.shared.loads.end(index, birth);
        }
    }

    /// What the client is told.
    pub(crate) fn answered(&mut self, status: u16, error: Option<ErrorType>) {
        self.status = status;
        self.error = error;
    }

    /// The client that carries the answer; it is used again once the answer is complete.
    pub(crate) fn carried_by(&mut self, key: PoolKey, client: Client) {
        self.client = Some((key, client));
    }

    pub(crate) fn response_bytes(&self, bytes: u64) {
        self.edge.response_bytes(bytes);
        self.received.set(self.received.get() + bytes);
    }

    pub(crate) fn completed(&mut self) {
        self.complete = true;
    }

    /// Its answer made the connection a tunnel: how long that lives says nothing about how fast the answer came.
    pub(crate) fn switched(&mut self) {
        self.took = Some(self.began.elapsed());
        // From now on bytes pass that are no body.
        let _ = self.upload_count();
    }

    /// The answer must be over by then, also if its client does not read.
    pub(crate) fn must_end(&mut self, at: Instant) {
        self.end = Some(at);
        match ends::of_task() {
            Some(end) => end.set(Some(at.into())),
            None => self.busy.door().must_end(at.into()),
        }
    }

    pub(crate) fn timed_out(&mut self) {
        self.error = Some(ErrorType::HttpResponseTimeout);
    }

    pub(crate) fn broke_off(&mut self) {
        self.error = Some(ErrorType::ConnectionTerminated);
    }
}

impl Exchange {
    fn finished(&self, mut record: Box<Record>, now: Instant) -> Box<Record> {
        record.sent = self.sent.as_ref().map_or(0, |sent| sent.get());
        record.received = self.received.get();
        // Of a tunnel, other than in metrics, until its end.
        record.duration = now.saturating_duration_since(self.began);
        record.error = self.error;
        if let Some(http) = &mut record.http {
            (http.status, http.grpc_status) = (self.status, self.grpc_status);
        }
        record
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.relieve();
        let now = Instant::now();
        if !self.complete && self.error.is_none() && self.end.is_some_and(|end| now >= end) {
            self.timed_out();
        }
        if let Some((key, client)) = self.client.take().filter(|_| self.complete) {
            self.worker.pool.put(key, client, now);
        }
        let duration = self.took.unwrap_or_else(|| now.saturating_duration_since(self.began));
        if let Some(record) = self.record.take() {
            let record = self.finished(record, now);
            if let Some(watcher) = self.watcher.take() {
                // Whoever watched may have gone.
                let _ = watcher.send(record.clone());
            }
            if let Some(log) = &self.worker.config.access_log {
                log.end(record);
            }
        }
        self.edge.request_ended(RequestEnd {
            status: self.status,
            error: self.error,
            spoken: self.spoken,
            grpc_status: self.grpc_status,
            duration,
            now,
        });
    }
}
