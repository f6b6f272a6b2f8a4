//! `/v1/routes`: the route table in use, one row per rule.

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_routing::Policy;

use super::Shared;
use super::answer::read;
use super::problem::Refusal;
use super::query::Query;
use super::services::{key_of, unknown};
use super::views::{Items, RouteBackend, RouteRow, RouteSource, ServiceRef, kind};

/// Rows of all services.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn list(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let table = state.shared.table.load_full();
    let items = table.services().map(|service| built_in(service)).collect();
    Ok(read(&state, &headers, kind::ROUTE_TABLE, Items::<RouteRow> { items }))
}

/// Rows of one service.
///
/// # Errors
/// 404 when this node knows none of that name.
pub async fn get(
    State(state): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let key = key_of(&namespace, &name)?;
    let table = state.shared.table.load_full();
    let service = table.service(&key).ok_or_else(|| unknown(&state, &key))?;
    Ok(read(&state, &headers, kind::ROUTE_TABLE, Items { items: vec![built_in(service)] }))
}

/// What holds where no document says otherwise.
fn built_in(service: &starling_routing::Service) -> RouteRow {
    let policy = Policy::BUILT_IN;
    let (namespace, name) = (service.key.namespace.to_string(), service.key.name.to_string());
    RouteRow {
        service: ServiceRef { namespace: namespace.clone(), name: name.clone() },
        order: 1,
        route: None,
        rule: None,
        matches: "everything".to_owned(),
        backends: vec![RouteBackend { namespace, name, subset: None, share: 1.0 }],
        timeout: starling_config::duration::format(policy.head_timeout()),
        retries: policy.tries_max.value.saturating_sub(1),
        source: RouteSource { kind: "built in".to_owned(), generation: None, key_id: None },
    }
}
