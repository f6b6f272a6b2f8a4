//! `/v1/routes`: the route table in use, one row per rule.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_model::{DocumentKey, Namespace, PortName, codes};
use starling_routing::split::{Backend, Target};
use starling_routing::{
    Deadline, LedBy, Policy, Reason, RouteTable, Row, RowRule, Service, Side, Trouble, TroubledBackend,
};

use super::Shared;
use super::answer::read;
use super::problem::Refusal;
use super::query::Query;
use super::services::{key_of, unknown};
use super::views::{DocumentProblem, RouteBackend, RouteRow, RouteSource, Routes, ServiceRef, kind};

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
    let body = Routes { items: rows(&table, table.services()), problems: problems(&table) };
    Ok(read(&state, &headers, kind::ROUTE_TABLE, body))
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
    let items = rows(&table, std::iter::once(service));
    let mut problems = problems(&table);
    // Those of its own rows.
    problems.retain(|problem| {
        let is_its = |row: &RouteRow| {
            let route = row.route.as_deref().unwrap_or_default();
            row.source.kind == problem.document_kind
                && (route == problem.name && row.service.namespace == problem.namespace
                    || route == format!("{}/{}", problem.namespace, problem.name))
        };
        items.iter().any(is_its)
    });
    Ok(read(&state, &headers, kind::ROUTE_TABLE, Routes { items, problems }))
}

/// Rows of these services, and what is the matter with documents that are attached to them.
fn rows<'a>(table: &RouteTable, services: impl Iterator<Item = &'a Arc<Service>>) -> Vec<RouteRow> {
    services.flat_map(|service| table.rows(service).into_iter().map(|row| told(table, service, &row))).collect()
}

fn told(table: &RouteTable, service: &Service, row: &Row<'_>) -> RouteRow {
    let callers = match &row.side {
        Side::Producer => None,
        Side::Consumer(namespace) => Some(namespace.to_string()),
        // Rows are those of services.
        Side::Gateway(gateway) => Some(gateway.to_string()),
    };
    let (namespace, name) = (service.key.namespace.to_string(), service.key.name.to_string());
    let whole =
        RouteBackend { namespace: namespace.clone(), name: name.clone(), subset: None, share: 1.0, invalid: None };
    let built_in = Policy::BUILT_IN;
    let policy = row.rule.as_ref().map_or(&built_in, |one| &one.rule.policy);
    let timeout = match policy.request.value {
        Deadline::Off => Duration::ZERO,
        Deadline::Head(period) | Deadline::Whole(period) => period,
    };
    let rule = row.rule.as_ref().map(|one| &**one.rule);
    RouteRow {
        service: ServiceRef { namespace, name },
        port: row.port.map(ToString::to_string),
        callers,
        order: row.order,
        route: rule.map(|rule| short_name(&rule.route, &service.key.namespace)),
        rule: rule.and_then(|rule| rule.name.clone()),
        matches: row.rule.as_ref().map_or_else(|| "everything".to_owned(), ToString::to_string),
        filters: rule.map(|rule| rule.filters.said().kinds().map(str::to_owned).collect()).unwrap_or_default(),
        backends: row.rule.map_or_else(|| vec![whole], |rule| backends(table, service, row.port, rule)),
        timeout: starling_config::duration::format(timeout),
        retries: policy.tries_max.value.saturating_sub(1),
        source: rule.map_or_else(
            || RouteSource { kind: "built in".to_owned(), generation: None, key_id: None },
            |rule| RouteSource {
                kind: rule.route.kind.to_string(),
                generation: Some(rule.version.generation.to_string()),
                key_id: Some(rule.version.signer.to_string()),
            },
        ),
    }
}

/// The name alone where the route stands beside its Service.
pub(super) fn short_name(route: &DocumentKey, home: &Namespace) -> String {
    if route.namespace == *home { route.name.to_string() } else { format!("{}/{}", route.namespace, route.name) }
}

fn backends(
    table: &RouteTable,
    service: &Service,
    port: Option<&PortName>,
    RowRule { kind, rule, .. }: RowRule<'_>,
) -> Vec<RouteBackend> {
    let port = port.or_else(|| service.ports.first().map(|port| &port.name));
    // One without an endpoint is no mistake in the document.
    let invalid = |target: &Target| match table.trouble(Some(service), port, kind, target)? {
        Trouble::NoEndpoint => None,
        trouble @ (Trouble::NoPort | Trouble::Bytes) => Some(reason(trouble).as_str().to_owned()),
    };
    let one = |(backend, share): (&Backend, f64)| match backend {
        Backend::To { target, .. } => RouteBackend {
            namespace: target.service.namespace.to_string(),
            name: target.service.name.to_string(),
            subset: target.subset.as_ref().map(|subset| subset.name.to_string()),
            share,
            invalid: invalid(target),
        },
        Backend::Invalid(reason) => RouteBackend {
            namespace: String::new(),
            name: String::new(),
            subset: None,
            share,
            invalid: Some(reason.as_str().to_owned()),
        },
    };
    rule.split.backends().zip(rule.split.shares()).map(one).collect()
}

fn reason(trouble: Trouble) -> Reason {
    match trouble {
        Trouble::NoEndpoint | Trouble::NoPort => Reason::BackendNotFound,
        Trouble::Bytes => Reason::UnsupportedProtocol,
    }
}

/// What of the documents in use does not come out as written, and where they lead to no endpoint now.
pub(super) fn problems(table: &RouteTable) -> Vec<DocumentProblem> {
    let findings = table.findings().iter().map(|one| DocumentProblem {
        document_kind: one.document.kind.to_string(),
        namespace: one.document.namespace.to_string(),
        name: one.document.name.to_string(),
        code: one.problem.code.to_string(),
        reason: one.reason.as_str().to_owned(),
        pointer: one.problem.pointer.clone(),
        detail: one.problem.message.clone(),
    });
    let troubled = table.troubled_backends().into_iter().map(|TroubledBackend { rule, kind, by, target, trouble }| {
        let (code, detail) = match trouble {
            Trouble::NoEndpoint => (codes::BACKEND_EMPTY, format!("{target} has no endpoint now")),
            Trouble::NoPort => (codes::UNKNOWN_REFERENCE, format!("{target} has no such port")),
            Trouble::Bytes => {
                (codes::UNKNOWN_REFERENCE, format!("{target} speaks tcp, which {} cannot use", kind.as_str()))
            }
        };
        let detail = match by {
            LedBy::Backend(_) => detail,
            LedBy::Mirror(..) => format!("copies are not sent: {detail}"),
        };
        DocumentProblem {
            document_kind: rule.route.kind.to_string(),
            namespace: rule.route.namespace.to_string(),
            name: rule.route.name.to_string(),
            code: code.to_string(),
            reason: reason(trouble).as_str().to_owned(),
            pointer: Some(by.pointer(rule.id.rule)),
            detail,
        }
    });
    findings.chain(troubled).collect()
}
