//! `/v1/explain` and `/v1/snapshot`: one request's whole decision by the table in use, and what it takes to come to the
//! same decision elsewhere.

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use http_body::Body as _;
use starling_model::{Namespace, ServiceKey, codes};
use starling_routing::limits::SNAPSHOT_BYTES_MAX;
use starling_routing::{EndpointIndex, Snapshot};

use super::Shared;
use super::answer::read;
use super::body::read_object;
use super::problem::Refusal;
use super::query::Query;
use super::views::{ExplainRequest, Explanation, SnapshotBody, SnapshotInstance, kind};
use crate::explain::{Ground, Question, Words, explain};
use crate::telemetry::time::Clocks;

/// Answers a question of the query.
///
/// # Errors
/// 400 for unknown parameters, and for what is no request.
pub async fn get(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let known = ["url", "method", "from", "identity", "seed"];
    let (query, lines) = Query::read_with(query.as_deref(), &known, Some("header"))?;
    let word = |name: &str| query.get(name).map(str::to_owned);
    let url = word("url").ok_or_else(|| {
        Refusal::malformed("no url").with_help("GET /v1/explain?url=http://orders.mesh.internal/&header=x-user:7")
    })?;
    let words = Words {
        url,
        method: word("method"),
        headers: lines,
        from: word("from"),
        identity: word("identity"),
        seed: word("seed"),
    };
    answer(&state, &headers, words)
}

/// Answers a question of the body; nothing is sent and nothing is changed.
///
/// # Errors
/// As [`get`], and for a body that is none.
pub async fn post(State(state): State<Shared>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let asked: ExplainRequest = read_object(body, r#"{"url": "http://orders.mesh.internal/", …}"#).await?;
    let ExplainRequest { url, method, headers: lines, from, identity, seed } = asked;
    answer(&state, &headers, Words { url, method, headers: lines, from, identity, seed })
}

fn answer(state: &Shared, headers: &HeaderMap, words: Words) -> Result<Response, Refusal> {
    let node = &state.identity.node;
    let question = words.read((node.node(), node.trust_domain()), &Namespace::default());
    let question = question.map_err(|invalid| Refusal::malformed(invalid.to_string()))?;
    Ok(read(state, headers, kind::EXPLANATION, told(state, &question)))
}

fn told(state: &Shared, question: &Question) -> Explanation {
    let table = state.shared.table.load();
    let clocks = Clocks::read();
    let loads = |index: EndpointIndex| state.shared.loads.load(index, clocks.now());
    let local = local(state);
    let node = &state.identity.node;
    let (node, trust_domain) = (node.node(), node.trust_domain());
    explain(question, &Ground { table: &table, loads: &loads, clocks, node, trust_domain, local: &local })
}

/// What runs here: services with the names of their instances.
fn local(state: &Shared) -> Vec<(ServiceKey, String)> {
    let local = state.local.load();
    local.instances.iter().map(|held| (held.spec.key(), held.spec.name.to_string())).collect()
}

/// What the table in use was made of.
///
/// # Errors
/// 400 for unknown parameters; 413 when it is larger than any reader takes.
pub async fn snapshot(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let table = state.shared.table.load();
    let clocks = Clocks::read();
    let loads = |index: EndpointIndex| state.shared.loads.load(index, clocks.now());
    let instance = |(key, name): (ServiceKey, String)| SnapshotInstance { service: key.to_string(), name };
    let body = SnapshotBody {
        trust_domain: state.identity.node.trust_domain().to_string(),
        local: local(&state).into_iter().map(instance).collect(),
        snapshot: Snapshot::of(&table, clocks.now(), &loads),
    };
    let response = read(&state, &headers, kind::SNAPSHOT, body);
    let bytes = response.body().size_hint().exact().unwrap_or(u64::MAX);
    if bytes > SNAPSHOT_BYTES_MAX as u64 {
        let detail = format!("the snapshot has {bytes} bytes, and nobody reads more than {SNAPSHOT_BYTES_MAX}");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, codes::API_LIMIT, detail));
    }
    Ok(response)
}
