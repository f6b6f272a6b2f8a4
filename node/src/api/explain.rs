//! `/v1/explain` and `/v1/snapshot`: one request's whole decision by the table in use, and what it takes to come to the
//! same decision elsewhere.

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use http_body::Body as _;
use starling_model::{Namespace, ServiceKey, codes};
use starling_proxy::NotSeen;
use starling_proxy::access_log::Record;
use starling_routing::limits::SNAPSHOT_BYTES_MAX;
use starling_routing::{EndpointIndex, Snapshot};
use tracing::info;

use super::Shared;
use super::answer::read;
use super::body::read_object;
use super::guard::Door;
use super::problem::Refusal;
use super::query::Query;
use super::views::{
    ExplainRequest, ExplainedObserved, ExplainedOutcome, Explanation, SnapshotBody, SnapshotInstance, kind,
};
use crate::explain::{Ground, Question, Words, explain};
use crate::telemetry::time::{Clocks, millis};

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

/// Answers a question of the body. With `live` the request is sent once, as an application of this node would send it, and
/// what happened stands beside what was foreseen.
///
/// # Errors
/// As [`get`], and for a body that is none; for `live` also 403 for a service whose processes the caller is none of, 503 where the data plane takes no request, and 504 where it did
/// not see its end.
pub async fn post(
    State(state): State<Shared>,
    Extension(door): Extension<Door>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let asked: ExplainRequest = read_object(body, r#"{"url": "http://orders.mesh.internal/", …}"#).await?;
    let ExplainRequest { url, method, headers: lines, from, identity, seed, live } = asked;
    let words = Words { url, method, headers: lines, from, identity, seed };
    if !live {
        return answer(&state, &headers, words);
    }
    let question = question(&state, words)?;
    let (head, source) =
        question.live(state.identity.node.node()).map_err(|why| Refusal::malformed(why.to_string()))?;
    if let Some(service) = &source {
        let uid = match door {
            Door::Socket { uid, .. } => Some(uid),
            Door::Tcp => None,
        };
        if !state.shared.instances.load().callers().may_call_as(service, uid) {
            let detail = format!("{service} names the processes that call as it, and the caller is none of them");
            let help = "ask as root, or without \"from\"";
            return Err(Refusal::new(StatusCode::FORBIDDEN, codes::API_DENIED, detail).with_help(help));
        }
    }
    // Foreseen first: what the request changes must not be known to its own prediction.
    let mut foreseen = told(&state, &question);
    let record = state.asker.send(&head, source).await.map_err(|why| unseen(&why))?;
    foreseen.observed = Some(observed(&record, &foreseen));
    info!(url = %question.url, "a request was sent to be explained");
    Ok(read(&state, &headers, kind::EXPLANATION, foreseen))
}

fn unseen(why: &NotSeen) -> Refusal {
    let status = match why {
        NotSeen::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        NotSeen::Busy | NotSeen::Io(_) | NotSeen::NotTaken => StatusCode::SERVICE_UNAVAILABLE,
    };
    let cause = std::error::Error::source(why).map(|source| format!(": {source}")).unwrap_or_default();
    Refusal::new(status, codes::NOT_READY, format!("{why}{cause}"))
}

/// What happened to the request.
fn observed(record: &Record, foreseen: &Explanation) -> ExplainedObserved {
    let endpoint = record.endpoint.as_ref().map(ToString::to_string);
    let http = record.http.as_ref();
    let status = http.map(|http| http.status);
    let of_outcome = |outcome: &ExplainedOutcome| match &endpoint {
        Some(endpoint) => outcome.endpoints.contains(endpoint),
        None => outcome.status == status,
    };
    ExplainedObserved {
        status,
        grpc_status: http.and_then(|http| http.grpc_status).map(|status| status.as_str().to_owned()),
        error: record.error.map(|error| error.as_str().to_owned()),
        as_foreseen: foreseen.outcomes.iter().any(of_outcome),
        endpoint,
        route: record.rule.as_ref().map(|rule| rule.route.to_string()),
        rule: record.rule.as_ref().map(|rule| rule.name.clone().unwrap_or_else(|| rule.id.rule.to_string())),
        subset: record.subset.as_deref().map(str::to_owned),
        tries: record.tries,
        duration_ms: millis(record.duration),
        upstream_duration_ms: record.upstream.map(millis),
        response_bytes: record.received.to_string(),
        digest: record.config.to_string(),
    }
}

fn question(state: &Shared, words: Words) -> Result<Question, Refusal> {
    let node = &state.identity.node;
    let question = words.read((node.node(), node.trust_domain()), &Namespace::default());
    question.map_err(|invalid| Refusal::malformed(invalid.to_string()))
}

fn answer(state: &Shared, headers: &HeaderMap, words: Words) -> Result<Response, Refusal> {
    let question = question(state, words)?;
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
