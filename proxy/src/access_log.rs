//! The access log: one line for each request and each connection, once it is over.
//!
//! A data thread gathers what is known into a [`Record`] and offers it to a bounded queue; a thread of the node's own
//! writes the lines ([`format`] says how they look). Where the queue is full the record is dropped and counted: a disk
//! that does not keep up costs lines, never requests.
//!
//! What a record may hold is closed: names that the mesh declared, figures, method, path, the server name at a Gateway,
//! and the ids of trace and request. Query strings, other headers and bodies may hold secrets, and never come here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use http::header::HeaderName;
use http::{Method, Request};
use starling_model::{Digest, EndpointId, NodeName, ServiceKey};
use starling_routing::{Caller, Choice, Rule};

use crate::answers::ErrorType;
use crate::header::OpenHeader;
use crate::http::grpc::{GrpcStatus, Spoken};
use crate::http::harden::find;
use crate::limits::{ACCESS_LOG_LEN_MAX, LOGGED_METHOD_BYTES_MAX, LOGGED_PATH_BYTES_MAX, LOGGED_WORD_BYTES_MAX};
use crate::metrics::Direction;

pub mod format;

/// Which requests and connections are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Those that the mesh answered itself or broke off, 5xx, and calls that failed by their service.
    Errors,
    /// All.
    All,
    /// So many of a million, drawn at their beginning.
    Sample(u32),
}

/// What became of lines. Shared by the queue and its writer.
#[derive(Debug, Default)]
pub struct AccessLogFigures {
    /// Lines written.
    pub written: AtomicU64,
    /// Records dropped since the queue was full.
    pub dropped: AtomicU64,
    /// Lines that could not be written.
    pub failed: AtomicU64,
}

/// The end of the queue that data threads have.
#[derive(Debug)]
pub struct AccessLog {
    only: Only,
    records: SyncSender<Box<Record>>,
    figures: Arc<AccessLogFigures>,
}

impl AccessLog {
    /// The queue, with the end that a writer reads from: closed once all data threads have ended.
    #[must_use]
    pub fn new(only: Only, figures: Arc<AccessLogFigures>) -> (Self, Receiver<Box<Record>>) {
        let (records, written) = sync_channel(ACCESS_LOG_LEN_MAX);
        (Self { only, records, figures }, written)
    }

    /// A record of something that begins now; `None` if it will not be told. `draw` gives a uniform number.
    #[must_use]
    pub fn begin(&self, draw: impl FnOnce() -> u64, record: impl FnOnce() -> Record) -> Option<Box<Record>> {
        let told = match self.only {
            Only::Errors | Only::All => true,
            Only::Sample(parts) => (u128::from(draw()) * 1_000_000) >> 64 < u128::from(parts),
        };
        told.then(|| Box::new(record()))
    }

    /// Hands a record over, if it is one that is told.
    pub fn end(&self, mut record: Box<Record>) {
        if self.only == Only::Errors && !record.is_error() {
            return;
        }
        record.at = SystemTime::now();
        if self.records.try_send(record).is_err() {
            self.figures.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What one line tells.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was over.
    pub at: SystemTime,
    /// Which side of the mesh saw it.
    pub direction: Direction,
    /// Who called, as the receiver takes it.
    pub caller: Caller,
    /// The service that was asked for; `None` where the request named none that there is.
    pub destination: Option<ServiceKey>,
    /// The rule that took it.
    pub rule: Option<Arc<Rule>>,
    /// The subset of the backend that was drawn.
    pub subset: Option<Arc<str>>,
    /// The instance that it was sent to last.
    pub endpoint: Option<EndpointId>,
    /// Digest of the documents in use when it began.
    pub config: Digest,
    /// The server name that a client of a Gateway asks for.
    pub server_name: Option<Box<str>>,
    /// What only requests have.
    pub http: Option<HttpRecord>,
    /// Bytes towards the destination: of the body, or of the connection.
    pub sent: u64,
    /// Bytes from it, or of our own answer.
    pub received: u64,
    /// From the beginning to the end.
    pub duration: Duration,
    /// From the last try to the head of its answer.
    pub upstream: Option<Duration>,
    /// Tries.
    pub tries: u32,
    /// Why the mesh answered, or how the way broke.
    pub error: Option<ErrorType>,
}

/// W3C Trace Context.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The part of requests.
#[derive(Clone, Debug)]
pub struct HttpRecord {
    /// Its method.
    pub method: Method,
    /// Its path without the query, cut to a bound.
    pub path: Box<str>,
    /// The protocol of the caller.
    pub spoken: Spoken,
    /// HTTP/1.0 is told apart.
    pub version: http::Version,
    /// What the caller was told; 499 if it had gone.
    pub status: u16,
    /// How a call ended.
    pub grpc_status: Option<GrpcStatus>,
    /// Of its `traceparent`: trace and parent.
    pub trace: Option<Trace>,
    /// Its `x-request-id`, if that is a plain word.
    pub request_id: Option<Box<str>>,
}

/// Ids of W3C Trace Context, lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    trace_id: [u8; 32],
    span_id: [u8; 16],
}

impl Trace {
    /// Reads a `traceparent`; `None` for anything malformed, and for ids of zeros.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let hex = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let set = |bytes: &[u8]| hex(bytes) && bytes.iter().any(|byte| *byte != b'0');
        let (version, rest) = value.split_at_checked(2)?;
        let (trace_id, rest) = rest.strip_prefix(b"-")?.split_at_checked(32)?;
        let (span_id, rest) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
        let flags = rest.strip_prefix(b"-")?;
        // Later versions may go on behind the flags.
        let ends =
            flags.get(..2).is_some_and(hex) && (flags.len() == 2 || (version != b"00" && flags.get(2) == Some(&b'-')));
        if !hex(version) || version == b"ff" || !set(trace_id) || !set(span_id) || !ends {
            return None;
        }
        Some(Self { trace_id: trace_id.try_into().ok()?, span_id: span_id.try_into().ok()? })
    }

    /// Of the whole trace.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        std::str::from_utf8(&self.trace_id).unwrap_or_default()
    }

    /// Of the span that called.
    #[must_use]
    pub fn span_id(&self) -> &str {
        std::str::from_utf8(&self.span_id).unwrap_or_default()
    }
}

impl HttpRecord {
    /// What a request carries of it.
    #[must_use]
    pub fn of<B>(request: &Request<B>, spoken: Spoken) -> Self {
        let plain = |value: &[u8]| {
            let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            let fits = (1..=LOGGED_WORD_BYTES_MAX).contains(&value.len()) && value.iter().all(is_plain);
            std::str::from_utf8(value).ok().filter(|_| fits).map(Box::from)
        };
        let headers = request.headers();
        let path = request.uri().path();
        let end = path.floor_char_boundary(path.len().min(LOGGED_PATH_BYTES_MAX));
        Self {
            method: logged_method(request.method()),
            path: path.get(..end).unwrap_or_default().into(),
            spoken,
            version: request.version(),
            status: 0,
            grpc_status: None,
            trace: find(headers, &TRACEPARENT).and_then(|value| Trace::read(value.as_bytes())),
            request_id: find(headers, &REQUEST_ID).and_then(|value| plain(value.as_bytes())),
        }
    }
}

/// The method, or `_OTHER` for one that no application defines: its length is the caller's to choose (the name is that of
/// OpenTelemetry's HTTP conventions).
fn logged_method(method: &Method) -> Method {
    if method.as_str().len() <= LOGGED_METHOD_BYTES_MAX {
        return method.clone();
    }
    Method::from_bytes(b"_OTHER").unwrap_or_default()
}

impl Record {
    /// Of something that begins now.
    #[must_use]
    pub fn new(direction: Direction, caller: Caller, config: Digest, http: Option<HttpRecord>) -> Self {
        Self {
            at: SystemTime::UNIX_EPOCH,
            direction,
            caller,
            destination: None,
            rule: None,
            subset: None,
            endpoint: None,
            config,
            server_name: None,
            http,
            sent: 0,
            received: 0,
            duration: Duration::ZERO,
            upstream: None,
            tries: 0,
            error: None,
        }
    }

    /// Where one more try goes.
    pub(crate) fn tried(&mut self, choice: &Choice) {
        self.tries = self.tries.saturating_add(1);
        self.endpoint = Some(choice.endpoint().id.clone());
        self.subset = choice.subset();
        self.rule.clone_from(&choice.rule);
        self.upstream = None;
    }

    /// What a peer's stream led to, as the node of the instance sees it.
    pub(crate) fn reached(&mut self, node: &NodeName, header: &OpenHeader) {
        self.tries = 1;
        self.destination = Some(header.destination.clone());
        let (namespace, instance) = (header.destination.namespace.clone(), header.instance.clone());
        self.endpoint = Some(EndpointId { node: node.clone(), namespace, instance });
    }

    /// True where the mesh or the service is to blame.
    #[must_use]
    pub fn is_error(&self) -> bool {
        let failed = |http: &HttpRecord| http.status >= 500 || http.grpc_status.is_some_and(GrpcStatus::is_failure);
        self.error.is_some() || self.http.as_ref().is_some_and(failed)
    }
}

#[cfg(test)]
pub(crate) mod tests;
