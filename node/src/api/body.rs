//! Bodies of requests: read whole within a bound of bytes and of time, and understood as JSON with the place of a mistake.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use starling_model::codes;
use tokio::time::timeout;

use super::problem::Refusal;
use super::server::BODY_BYTES_MAX;
use super::views::ProblemPart;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// The whole body.
///
/// # Errors
/// 413 when it is over 1 MiB or breaks off, 408 when it does not arrive in 10 s.
pub async fn read(body: Body) -> Result<Bytes, Refusal> {
    match timeout(BODY_DEADLINE, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let detail = "the body is over 1 MiB, or broke off";
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, codes::API_LIMIT, detail))
        }
        Err(_elapsed) => {
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, codes::API_LIMIT, "the body did not arrive in 10 s"))
        }
    }
}

/// The body as a JSON object; `example` is what a refusal shows to somebody who sent something else.
///
/// # Errors
/// As [`read`], and as [`object`].
pub async fn read_object<T: DeserializeOwned>(body: Body, example: &str) -> Result<T, Refusal> {
    object(&read(body).await?, example)
}

/// Reads a JSON object.
///
/// # Errors
/// 400; a mistake comes with its place, and with the nearest field where one is unknown.
pub fn object<T: DeserializeOwned>(bytes: &[u8], example: &str) -> Result<T, Refusal> {
    if bytes.first().is_none_or(|first| *first != b'{' && !first.is_ascii_whitespace()) {
        let what = if bytes.is_empty() { "the body is empty" } else { "the body is no JSON object" };
        return Err(Refusal::malformed(what).with_help(format!("send {example}")));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let mut what = error.to_string();
        if let Some(end) = what.rfind(&format!(" at line {line} column {column}")) {
            what.truncate(end);
        }
        // The reader names fields between back ticks: first the unknown one, then those that there are.
        let mut quoted = what.split('`').skip(1).step_by(2);
        let unknown = what.starts_with("unknown field").then(|| quoted.next()).flatten();
        let near = unknown.and_then(|name| starling_config::suggest(name, quoted)).map(str::to_owned);
        let part = ProblemPart {
            pointer: None,
            line: u32::try_from(line).ok(),
            column: u32::try_from(column).ok(),
            detail: what.clone(),
        };
        let mut refusal = Refusal::malformed(format!("line {line}, column {column}: {what}"));
        if let Some(near) = near {
            refusal = refusal.with_help(format!("did you mean `{near}`?"));
        }
        refusal.errors = vec![part];
        refusal
    })
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::super::views::ApplyRequest;
    use super::*;

    #[test]
    fn a_body_that_cannot_be_read_says_where_and_what_was_meant() {
        let refuse = |body: &str| object::<ApplyRequest>(body.as_bytes(), "{}").unwrap_err();
        let typo = refuse("{\n\"documnets\": []}");
        assert!(typo.detail.starts_with("line 2, column ") && typo.detail.contains("`documnets`"), "{typo:?}");
        assert_eq!(typo.help.as_deref(), Some("did you mean `documents`?"));
        assert!(!typo.errors[0].detail.contains(" at line "), "{typo:?}");
        for (body, what) in [("", "empty"), ("[]", "no JSON object"), ("{", "EOF"), (" {}", "missing field")] {
            let refusal = refuse(body);
            assert!(refusal.status == StatusCode::BAD_REQUEST && refusal.detail.contains(what), "{body}: {refusal:?}");
            assert!(!refusal.detail.contains("struct"), "{body}: {refusal:?}");
        }
    }

    /// A sender that says nothing and does not go.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_one_byte_too_long_or_too_late_is_refused() {
        let fits = Body::from(vec![b' '; BODY_BYTES_MAX]);
        assert_eq!(read(fits).await.map(|bytes| bytes.len()), Ok(BODY_BYTES_MAX));
        let long = read(Body::from(vec![b' '; BODY_BYTES_MAX + 1])).await.unwrap_err();
        assert_eq!((long.status, long.code), (StatusCode::PAYLOAD_TOO_LARGE, codes::API_LIMIT));
        let late = read(Body::new(Silent)).await.unwrap_err();
        assert_eq!((late.status, late.code), (StatusCode::REQUEST_TIMEOUT, codes::API_LIMIT));
    }
}
