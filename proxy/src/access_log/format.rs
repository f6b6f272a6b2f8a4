//! How a record becomes one line. Pure: the time of day comes as text.
//!
//! Whatever a request carries is escaped so that it can neither end a line nor begin a field, nor steer a terminal.

use std::fmt::{self, Write as _};

use http::Version;
use starling_model::{NodeName, ServiceKey, TrustDomain};

use super::{HttpRecord, Record};
use crate::answers::ErrorType;
use crate::http::grpc::{GrpcStatus, Spoken};
use crate::metrics::Direction;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object, with names of OpenTelemetry where it has them.
    Json,
    /// The common log format of HTTP servers: caller, time, request, status, bytes.
    Common,
    /// Envoy's default format; what it has no counterpart for here is `-`.
    Envoy,
}

/// What all lines of an agent have in common.
#[derive(Clone, Debug)]
pub struct Formatter {
    /// How lines look.
    pub format: Format,
    /// This node.
    pub node: NodeName,
    /// Its mesh.
    pub trust_domain: TrustDomain,
}

/// The time of day of a record, as the formats write it.
#[derive(Clone, Copy, Debug)]
pub struct Times<'a> {
    /// `2026-11-22T15:31:59.124Z`
    pub rfc3339: &'a str,
    /// `22/Nov/2026:15:31:59 +0000`
    pub common: &'a str,
}

impl Formatter {
    /// Appends the record's line, with its end.
    pub fn write(&self, record: &Record, times: Times<'_>, line: &mut String) {
        let written = match self.format {
            Format::Json => self.json(record, times, line),
            Format::Common => common(record, times, line),
            Format::Envoy => envoy(record, times, line),
        };
        // Writing to a String never fails.
        debug_assert!(written.is_ok());
        line.push('\n');
    }

    fn json(&self, record: &Record, times: Times<'_>, line: &mut String) -> fmt::Result {
        let (service, peer) = match record.direction {
            Direction::Outbound => (record.caller.service.as_ref(), record.destination.as_ref()),
            Direction::Inbound => (record.destination.as_ref(), record.caller.service.as_ref()),
        };
        let mut object = Object::begin(line);
        object.text("timestamp", times.rfc3339)?;
        object.text("event.name", "starling.access")?;
        object.text("starling.direction", direction(record.direction))?;
        object.text("starling.node", self.node.as_str())?;
        object.maybe("service.name", service.map(|key| key.name.as_str()))?;
        object.maybe("service.namespace", service.map(|key| key.namespace.as_str()))?;
        object.maybe("service.peer.name", peer.map(|key| key.name.as_str()))?;
        object.maybe("starling.peer.namespace", peer.map(|key| key.namespace.as_str()))?;
        let rule = record.rule.as_deref();
        object.maybe("starling.route", rule.map(|rule| &*rule.id.route))?;
        let number = rule.map(|rule| rule.name.clone().unwrap_or_else(|| rule.id.rule.to_string()));
        object.maybe("starling.rule", number.as_deref())?;
        object.maybe("starling.subset", record.subset.as_deref())?;
        object.maybe("starling.endpoint", record.endpoint.as_ref().map(ToString::to_string).as_deref())?;
        object.text("starling.config", &record.config.to_string())?;
        match &record.http {
            Some(http) => {
                object.text("http.request.method", http.method.as_str())?;
                object.text("url.path", &http.path)?;
                object.text("network.protocol.name", "http")?;
                object.text("network.protocol.version", version(http.version))?;
                object.number("http.response.status_code", u64::from(http.status))?;
                if http.spoken == Spoken::Grpc {
                    object.text("rpc.system", "grpc")?;
                    object.maybe("rpc.grpc.status_code", http.grpc_status.map(GrpcStatus::as_str))?;
                }
                object.number("http.request.body.size", record.sent)?;
                object.number("http.response.body.size", record.received)?;
                object.number("http.request.resend_count", u64::from(record.tries.saturating_sub(1)))?;
            }
            None => {
                object.text("network.protocol.name", "tcp")?;
                object.maybe("tls.client.server_name", record.server_name.as_deref())?;
                object.number("starling.sent_bytes", record.sent)?;
                object.number("starling.received_bytes", record.received)?;
                object.number("starling.resend_count", u64::from(record.tries.saturating_sub(1)))?;
            }
        }
        object.millis("starling.duration_ms", Some(record.duration))?;
        object.millis("starling.upstream_duration_ms", record.upstream)?;
        object.maybe("error.type", record.error.map(ErrorType::as_str))?;
        object.text("starling.source_id", &record.caller.spiffe_id(&self.trust_domain).to_string())?;
        let http = record.http.as_ref();
        object.maybe("starling.request_id", http.and_then(|http| http.request_id.as_deref()))?;
        let trace = http.and_then(|http| http.trace.as_ref());
        object.maybe("trace_id", trace.map(super::Trace::trace_id))?;
        object.maybe("span_id", trace.map(super::Trace::span_id))?;
        object.end();
        Ok(())
    }
}

/// `vm-1/default/web - - [22/Nov/2026:15:31:59 +0000] "GET /cart HTTP/1.1" 200 812`
fn common(record: &Record, times: Times<'_>, line: &mut String) -> fmt::Result {
    caller(record, line)?;
    write!(line, " - - [{}] \"", times.common)?;
    request(record, line)?;
    match &record.http {
        Some(http) => write!(line, "\" {} {}", http.status, record.received),
        None => write!(line, "\" - {}", record.received),
    }
}

/// `[START_TIME] "METHOD PATH PROTOCOL" CODE FLAGS RECEIVED SENT DURATION UPSTREAM "-" "-" "REQUEST-ID" "AUTHORITY" "HOST"`
fn envoy(record: &Record, times: Times<'_>, line: &mut String) -> fmt::Result {
    write!(line, "[{}] \"", times.rfc3339)?;
    request(record, line)?;
    let status = record.http.as_ref().map_or(0, |http| http.status);
    let (sent, received) = (record.sent, record.received);
    write!(line, "\" {status} {} {sent} {received} {} ", flags(record), record.duration.as_millis())?;
    match record.upstream {
        Some(upstream) => write!(line, "{}", upstream.as_millis())?,
        None => line.push('-'),
    }
    let id = record.http.as_ref().and_then(|http| http.request_id.as_deref()).unwrap_or("-");
    write!(line, " \"-\" \"-\" \"{id}\" \"")?;
    service(record.destination.as_ref(), line)?;
    match &record.endpoint {
        Some(endpoint) => write!(line, "\" \"{endpoint}\""),
        None => write!(line, "\" \"-\""),
    }
}

/// `GET /cart HTTP/1.1`, or `- - TCP`.
fn request(record: &Record, line: &mut String) -> fmt::Result {
    let Some(HttpRecord { method, path, version: spoken, .. }) = &record.http else {
        return line.write_str("- - TCP");
    };
    escaped(method.as_str(), line)?;
    line.push(' ');
    escaped(path, line)?;
    write!(line, " HTTP/{}", version(*spoken))
}

/// Printable ASCII as it is, but for quotes and backslashes; all else as `\xNN`, byte by byte (as Apache and nginx do).
fn escaped(text: &str, line: &mut String) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => write!(line, "\\{}", char::from(byte))?,
            b' '..=b'~' => line.push(char::from(byte)),
            _ => write!(line, "\\x{byte:02X}")?,
        }
    }
    Ok(())
}

fn caller(record: &Record, line: &mut String) -> fmt::Result {
    write!(line, "{}", record.caller.node)?;
    match &record.caller.service {
        Some(key) => write!(line, "/{}/{}", key.namespace, key.name),
        None => Ok(()),
    }
}

fn service(key: Option<&ServiceKey>, line: &mut String) -> fmt::Result {
    match key {
        Some(key) => write!(line, "{}/{}", key.namespace, key.name),
        None => line.write_char('-'),
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Envoy's short words.
fn flags(record: &Record) -> &'static str {
    match record.error {
        None if record.http.as_ref().is_some_and(|http| http.status == 499) => "DC",
        None => "-",
        Some(ErrorType::DestinationNotFound | ErrorType::ProxyConfigurationError) => "NR",
        Some(ErrorType::DestinationUnavailable) => "UH",
        Some(ErrorType::ConnectionRefused | ErrorType::ConnectionTimeout | ErrorType::TlsCertificateError) => "UF",
        Some(ErrorType::ConnectionTerminated) => "UC",
        Some(ErrorType::ConnectionLimitReached) => "UO",
        Some(ErrorType::HttpResponseTimeout) => "UT",
        Some(ErrorType::HttpRequestDenied) => "UAEX",
        Some(ErrorType::HttpRequestError | ErrorType::TlsProtocolError) => "DPE",
        Some(ErrorType::ConnectionReadTimeout) => "DT",
        Some(ErrorType::ProxyInternalError) => "LR",
    }
}

/// Writes one flat JSON object.
struct Object<'a> {
    line: &'a mut String,
    first: bool,
}

impl<'a> Object<'a> {
    fn begin(line: &'a mut String) -> Self {
        line.push('{');
        Self { line, first: true }
    }

    fn end(self) {
        self.line.push('}');
    }

    /// Names are constants without anything to escape.
    fn name(&mut self, name: &str) -> fmt::Result {
        if !std::mem::replace(&mut self.first, false) {
            self.line.push(',');
        }
        write!(self.line, "\"{name}\":")
    }

    fn text(&mut self, name: &str, value: &str) -> fmt::Result {
        self.name(name)?;
        self.line.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => write!(self.line, "\\{c}")?,
                // Line ends of every kind, and what turns the direction of writing.
                c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') => {
                    write!(self.line, "\\u{:04x}", u32::from(c))?;
                }
                c => self.line.push(c),
            }
        }
        self.line.push('"');
        Ok(())
    }

    fn maybe(&mut self, name: &str, value: Option<&str>) -> fmt::Result {
        match value {
            Some(value) => self.text(name, value),
            None => {
                self.name(name)?;
                self.line.write_str("null")
            }
        }
    }

    fn number(&mut self, name: &str, value: u64) -> fmt::Result {
        self.name(name)?;
        write!(self.line, "{value}")
    }

    fn millis(&mut self, name: &str, value: Option<std::time::Duration>) -> fmt::Result {
        self.name(name)?;
        match value {
            Some(value) => write!(self.line, "{}.{:03}", value.as_millis(), value.subsec_micros() % 1_000),
            None => self.line.write_str("null"),
        }
    }
}
