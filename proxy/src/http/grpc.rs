//! What of gRPC a proxy must know: how a call is told from other requests, and how its status is said.
//!
//! Messages are never looked at. Source: the project's PROTOCOL-HTTP2.md.

use http::Request;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

/// In trailers, or in the head of an answer without a body.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How a call ended: 0 is well, 1 to 16 are errors with names, others may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcStatus(pub u32);

const WORDS: [&str; 17] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];

impl GrpcStatus {
    /// The word of metrics: a number that has a name, or `other`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        usize::try_from(self.0).ok().and_then(|at| WORDS.get(at)).copied().unwrap_or("other")
    }

    /// True when the service, not its caller, is to blame: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self.0, 2 | 4 | 13 | 14 | 15)
    }

    /// What a head or trailers say.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(&STATUS)?.to_str().ok()?;
        text.parse().ok().map(Self)
    }
}

/// What is spoken on a connection with an application, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2 but for gRPC.
    Http2,
    /// gRPC, which is HTTP/2.
    Grpc,
}

impl Spoken {
    /// By version and content type.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        if request.version() != http::Version::HTTP_2 {
            return Self::Http1;
        }
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) { Self::Grpc } else { Self::Http2 }
    }

    /// The word of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

/// A status with its reason, for trailers and for heads without a body.
#[must_use]
pub fn trailers(status: GrpcStatus, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from_static(status.as_str()));
    let message: String = message.chars().take(200).map(printable).collect();
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// Readers undo percent coding, so that a sign of its own is left out; the rest is plain.
fn printable(c: char) -> char {
    if (c.is_ascii_graphic() || c == ' ') && c != '%' { c } else { '?' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_type() {
        let request = |version, kind: &str| Request::builder().version(version).header("content-type", kind).body(());
        let spoken = |version, kind| Spoken::of(&request(version, kind).unwrap());
        assert_eq!(spoken(http::Version::HTTP_2, "application/grpc+proto"), Spoken::Grpc);
        assert_eq!(spoken(http::Version::HTTP_2, "text/plain"), Spoken::Http2);
        assert_eq!(spoken(http::Version::HTTP_11, "application/grpc"), Spoken::Http1, "which has no gRPC");
    }

    #[test]
    fn a_status_is_said_and_read_back() {
        for status in (0..=16).map(GrpcStatus) {
            assert_eq!(GrpcStatus::of(&trailers(status, "why")), Some(status));
        }
        assert_eq!(GrpcStatus(17).as_str(), "other");
        let hostile = trailers(GrpcStatus(14), "50%\r\nx: é");
        assert_eq!(hostile["grpc-message"], "50???x: ?");
        for bad in ["", "-1", "x", "99999999999"] {
            let mut headers = HeaderMap::new();
            headers.insert(STATUS, HeaderValue::from_str(bad).unwrap());
            assert_eq!(GrpcStatus::of(&headers), None, "{bad:?}");
        }
    }
}
