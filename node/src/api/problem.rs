//! Errors of the API, `application/problem+json` (RFC 9457): a status, a code of the catalogue and what to do.
//!
//! A handler returns [`Refusal`]; the outermost layer ([`super::server`]) turns it into the document, because only there
//! the asked path is known.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use starling_model::{Code, codes};

use super::views::{Problem, ProblemPart};

/// Media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// Entry of the catalogue.
    pub code: Code,
    /// What happened here.
    pub detail: String,
    /// Better advice than the catalogue's.
    pub help: Option<String>,
    /// Single mistakes.
    pub errors: Vec<ProblemPart>,
}

impl Refusal {
    /// A refusal with the catalogue's help.
    #[must_use]
    pub fn new(status: StatusCode, code: Code, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), help: None, errors: Vec::new() }
    }

    /// 400: the request makes no sense.
    #[must_use]
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, codes::BAD_REQUEST, detail)
    }

    /// 404: the named thing does not exist.
    #[must_use]
    pub fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, codes::NOT_FOUND, detail)
    }

    /// 507: done and told, but not on disk (ST0716); `what` says how long it holds.
    #[must_use]
    pub fn not_durable(what: &str) -> Self {
        let detail = format!("not on disk: {what}");
        Self::new(StatusCode::INSUFFICIENT_STORAGE, codes::STORE_DEGRADED, detail)
    }

    /// The same with other advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The document for a request of `path`.
    #[must_use]
    pub fn document(&self, path: &str) -> Problem {
        Problem {
            kind: format!("urn:starling:error:{}", self.code),
            title: self.code.title.to_owned(),
            status: self.status.as_u16(),
            code: self.code.to_string(),
            detail: self.detail.clone(),
            instance: path.to_owned(),
            help: self.help.clone().unwrap_or_else(|| self.code.help.to_owned()),
            durable: (self.code == codes::STORE_DEGRADED).then_some(false),
            errors: self.errors.clone(),
        }
    }

    /// The answer to a request of `path`.
    #[must_use]
    pub fn render(&self, path: &str) -> Response {
        let body = serde_json::to_vec(&self.document(path)).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
