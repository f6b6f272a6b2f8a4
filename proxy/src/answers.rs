//! Answers that the agent makes itself: `Proxy-Status` (RFC 9209), a problem body (RFC 9457), one error word that is
//! also the metric label and the log value.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use starling_model::{Code, Digest, NodeName, codes};

use crate::http::grpc::{self, GrpcStatus};
use crate::http::harden::{HeadRefused, STARLING_ERROR, STARLING_UNPROCESSED};

/// The error types of RFC 9209, 2.3, that this release uses (`ErrorType` is the word of that document).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorType {
    /// No such service, port or host.
    DestinationNotFound,
    /// A service without a usable endpoint.
    DestinationUnavailable,
    /// The peer or the instance refused the connection.
    ConnectionRefused,
    /// The connection broke before the answer was complete.
    ConnectionTerminated,
    /// No connection in time.
    ConnectionTimeout,
    /// A limit of this agent is reached.
    ConnectionLimitReached,
    /// Nothing came in time from whoever connected.
    ConnectionReadTimeout,
    /// What should be TLS is not.
    TlsProtocolError,
    /// The peer is not the expected node.
    TlsCertificateError,
    /// No response head in time.
    HttpResponseTimeout,
    /// Not allowed here.
    HttpRequestDenied,
    /// The request is malformed, ambiguous or asks for what is not served.
    HttpRequestError,
    /// What documents say of this request cannot be done.
    ProxyConfigurationError,
    /// The agent's own fault.
    ProxyInternalError,
}

impl ErrorType {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::DestinationNotFound,
        Self::DestinationUnavailable,
        Self::ConnectionRefused,
        Self::ConnectionTerminated,
        Self::ConnectionTimeout,
        Self::ConnectionLimitReached,
        Self::ConnectionReadTimeout,
        Self::TlsProtocolError,
        Self::TlsCertificateError,
        Self::HttpResponseTimeout,
        Self::HttpRequestDenied,
        Self::HttpRequestError,
        Self::ProxyConfigurationError,
        Self::ProxyInternalError,
    ];

    /// The word of RFC 9209.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DestinationNotFound => "destination_not_found",
            Self::DestinationUnavailable => "destination_unavailable",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTerminated => "connection_terminated",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionLimitReached => "connection_limit_reached",
            Self::ConnectionReadTimeout => "connection_read_timeout",
            Self::TlsProtocolError => "tls_protocol_error",
            Self::TlsCertificateError => "tls_certificate_error",
            Self::HttpResponseTimeout => "http_response_timeout",
            Self::HttpRequestDenied => "http_request_denied",
            Self::HttpRequestError => "http_request_error",
            Self::ProxyConfigurationError => "proxy_configuration_error",
            Self::ProxyInternalError => "proxy_internal_error",
        }
    }

    /// The error that a peer's answer carries; unknown words of newer releases are none of ours.
    #[must_use]
    pub fn from_word(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.as_str().as_bytes() == word)
    }

    /// The status that goes with it, where the case itself has none.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::DestinationNotFound => StatusCode::NOT_FOUND,
            Self::DestinationUnavailable
            | Self::ConnectionRefused
            | Self::ConnectionTerminated
            | Self::ConnectionTimeout
            | Self::ConnectionLimitReached => StatusCode::SERVICE_UNAVAILABLE,
            Self::TlsProtocolError | Self::TlsCertificateError => StatusCode::BAD_GATEWAY,
            Self::ConnectionReadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HttpResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::HttpRequestDenied => StatusCode::FORBIDDEN,
            Self::HttpRequestError => StatusCode::BAD_REQUEST,
            Self::ProxyConfigurationError | Self::ProxyInternalError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The gRPC status that goes with it.
    #[must_use]
    pub fn grpc_status(self) -> GrpcStatus {
        GrpcStatus(match self {
            Self::DestinationNotFound => 12,                         // UNIMPLEMENTED
            Self::HttpResponseTimeout => 4,                          // DEADLINE_EXCEEDED
            Self::HttpRequestDenied => 7,                            // PERMISSION_DENIED
            Self::HttpRequestError | Self::ProxyInternalError => 13, // INTERNAL
            Self::DestinationUnavailable
            | Self::ConnectionRefused
            | Self::ConnectionTerminated
            | Self::ConnectionTimeout
            | Self::ConnectionLimitReached
            | Self::ConnectionReadTimeout
            | Self::TlsProtocolError
            | Self::TlsCertificateError
            | Self::ProxyConfigurationError => 14, // UNAVAILABLE
        })
    }

    /// The catalogue's entry.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::DestinationNotFound | Self::ProxyConfigurationError => codes::NO_ROUTE,
            Self::DestinationUnavailable => codes::NO_ENDPOINT,
            Self::ConnectionRefused | Self::ConnectionTerminated | Self::ConnectionTimeout => codes::UPSTREAM_FAILED,
            Self::ConnectionLimitReached | Self::ProxyInternalError => codes::UPSTREAM_FAILED,
            Self::ConnectionReadTimeout | Self::TlsProtocolError => codes::BAD_TLS,
            Self::TlsCertificateError => codes::PEER_CERTIFICATE,
            Self::HttpResponseTimeout => codes::UPSTREAM_TIMEOUT,
            Self::HttpRequestDenied => codes::DENIED,
            Self::HttpRequestError => codes::BAD_HTTP,
        }
    }
}

/// One answer of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What went wrong.
    pub error: ErrorType,
    /// The status; usually the error's.
    pub status: StatusCode,
    /// Particulars for the reader: an endpoint, a host, a rule. Printable ASCII is kept, the rest replaced.
    pub detail: String,
    /// What becomes of the connection.
    pub connection: Connection,
    /// Whether the request reached anybody; told to the calling agent only.
    pub processed: Processed,
}

/// Whether more requests are taken on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// As the client wishes.
    Keep,
    /// What follows cannot be trusted.
    Close,
}

/// Whether anybody may have acted on the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// Certainly nobody: it may be tried elsewhere.
    No,
    /// Perhaps.
    Perhaps,
}

impl Answer {
    /// An answer with the error's own status, on a connection that lives on.
    #[must_use]
    pub fn new(error: ErrorType, detail: impl Into<String>) -> Self {
        Self {
            error,
            status: error.status(),
            detail: detail.into(),
            connection: Connection::Keep,
            processed: Processed::Perhaps,
        }
    }

    /// The answer to a head that was refused at the door.
    #[must_use]
    pub fn refused(refused: HeadRefused) -> Self {
        Self {
            status: StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::BAD_REQUEST),
            connection: Connection::Close,
            ..Self::new(ErrorType::HttpRequestError, refused.detail())
        }
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The response, but for its body's type.
    #[must_use]
    pub fn response(&self, node: &NodeName, digest: Digest) -> Response<Bytes> {
        let detail: String = self.detail.chars().take(200).map(printable).collect();
        let status = format!("starling-{node}; error={}; details=\"{detail} config={digest}\"", self.error.as_str());
        let code = self.error.code();
        let body = serde_json::json!({
            "type": format!("urn:starling:error:{code}"),
            "title": code.title,
            "status": self.status.as_u16(),
            "code": code.to_string(),
            "error": self.error.as_str(),
            "detail": detail,
            "node": node.as_str(),
            "help": code.help,
        });
        let mut text = body.to_string();
        text.push('\n');
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(value) = HeaderValue::from_str(&status) {
            headers.insert("proxy-status", value);
        }
        if self.connection == Connection::Close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The response in the words of gRPC: 200, and the status in the same head (trailers-only).
    #[must_use]
    pub fn grpc_response(&self, node: &NodeName, digest: Digest) -> Response<Bytes> {
        let (head, _) = self.response(node, digest).into_parts();
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(status) = head.headers.get("proxy-status") {
            headers.insert("proxy-status", status.clone());
        }
        headers.extend(grpc::trailers(self.error.grpc_status(), &self.detail));
        response
    }

    /// What a calling agent learns besides.
    pub(crate) fn tell_peer(&self, headers: &mut http::HeaderMap) {
        headers.insert(&STARLING_ERROR, HeaderValue::from_static(self.error.as_str()));
        if self.processed == Processed::No {
            headers.insert(&STARLING_UNPROCESSED, HeaderValue::from_static("1"));
        }
    }

    /// The response for a calling agent: it also learns the error word, and whether it may try elsewhere.
    #[must_use]
    pub fn response_to_peer(&self, node: &NodeName, digest: Digest) -> Response<Bytes> {
        let mut response = self.response(node, digest);
        self.tell_peer(response.headers_mut());
        response
    }
}

/// Keeps a quoted string of RFC 8941 whole.
fn printable(c: char) -> char {
    if (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\' { c } else { '?' }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeName {
        NodeName::new("vm-1").unwrap()
    }

    #[test]
    fn an_answer_says_what_where_and_what_next() {
        let answer = Answer::new(ErrorType::ConnectionRefused, "vm-3/default/orders-v2");
        let response = answer.response(&node(), Digest([0x9f; 32]));
        assert_eq!(response.status(), 503);
        assert_eq!(
            response.headers()["proxy-status"],
            "starling-vm-1; error=connection_refused; details=\"vm-3/default/orders-v2 config=9f9f9f9f\""
        );
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["code"], "ST0504");
        assert_eq!(body["status"], 503);
        assert_eq!(body["type"], "urn:starling:error:ST0504");
        assert!(response.headers().get(&STARLING_ERROR).is_none(), "applications see nothing internal");
    }

    #[test]
    fn hostile_details_stay_in_their_quotes() {
        let answer = Answer::new(ErrorType::DestinationNotFound, "a\"; error=none\r\nset-cookie: x\\é".repeat(20));
        let response = answer.response(&node(), Digest::default());
        let status = response.headers()["proxy-status"].to_str().unwrap();
        assert_eq!(status.matches('"').count(), 2, "{status}");
        assert!(status.len() < 300, "{status}");
    }

    #[test]
    fn every_word_is_read_back() {
        for error in ErrorType::ALL {
            assert_eq!(ErrorType::from_word(error.as_str().as_bytes()), Some(error));
        }
        assert_eq!(ErrorType::from_word(b"something_new"), None);
    }

    #[test]
    fn a_refused_head_closes_the_connection() {
        let response = Answer::refused(HeadRefused::HeadTooLarge).response(&node(), Digest::default());
        assert_eq!(response.status(), 431);
        assert_eq!(response.headers()["connection"], "close");
    }
}
