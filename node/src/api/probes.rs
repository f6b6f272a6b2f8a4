//! `/livez`, `/readyz` and `/metrics`: plain text for machines.

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::problem::Refusal;
use super::query::Query;
use crate::shutdown::Phase;

const TEXT: &str = "text/plain; charset=utf-8";

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, TEXT)], body.into()).into_response()
}

/// The process answers.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn live(RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &["verbose"])?;
    Ok(text(StatusCode::OK, "ok\n"))
}

/// The agent serves: it has seen the mesh, or is alone, and does not drain.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn ready(State(state): State<Shared>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let query = Query::read(query.as_deref(), &["verbose"])?;
    let phase = state.lifecycle.phase();
    let is_ready = phase == Phase::Ready;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut lines: Vec<String> = Vec::new();
    if query.get("verbose").is_some() {
        let view = state.view.load();
        let table = state.shared.table.load();
        lines.push(format!("[{}] phase: {}", if is_ready { "+" } else { "-" }, phase.as_str()));
        lines.push(format!("[{}] mesh: {} members alive", if view.synced { "+" } else { "-" }, view.counts().alive));
        lines.push(format!("[+] routes: {} services", table.services().len()));
        let durable = state.store.degraded();
        lines.push(format!(
            "[{}] store: {}",
            if durable.is_none() { "+" } else { "-" },
            durable.unwrap_or_else(|| "durable".to_owned())
        ));
    }
    if is_ready {
        lines.push("ok".to_owned());
    } else {
        lines.extend(state.lifecycle.waiting_for().iter().map(|reason| format!("not ready: {reason}")));
    }
    let mut response = text(status, format!("{}\n", lines.join("\n")));
    if !is_ready {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    Ok(response)
}

/// All metrics, as OpenMetrics text whatever is asked for: every Prometheus since 2.5 reads it, and calling it the older
/// format would hide the counters' types.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn metrics(State(state): State<Shared>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    super::services::count_endpoints(&state);
    Ok(([(header::CONTENT_TYPE, kind)], state.metrics.encode()).into_response())
}
