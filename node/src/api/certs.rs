//! `/v1/certs`: the certificates of the bundle and our own, the leaf in use last.

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_identity::inspect::{InspectRow, describe_bundle, describe_chain};
use starling_model::SpiffeId;

use super::Shared;
use super::answer::read;
use super::problem::Refusal;
use super::query::Query;
use super::views::{Certificate, Items, kind};
use crate::telemetry::time::rfc3339_seconds;

/// Roots and issuing certificates of the bundle, then our node certificate and the leaf in use.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn list(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let node = &state.identity.node;
    let own_id = SpiffeId::node(node.trust_domain(), node.node()).to_string();
    let mut rows = describe_bundle(&state.identity.bundle());
    // Issuing certificates stand in the bundle already.
    let mut own = describe_chain(&state.identity.current.leaf_chain());
    own.retain(|row| !rows.iter().any(|known| known.serial == row.serial));
    rows.extend(own);
    let groups = state.identity.current.negotiated().groups();
    let items = rows.into_iter().map(|row| show(row, &own_id, &groups)).collect();
    Ok(read(&state, &headers, kind::CERTIFICATE_LIST, Items::<Certificate> { items }))
}

fn show(row: InspectRow, own_id: &str, groups: &[&str]) -> Certificate {
    let InspectRow { what, subject, serial, not_before, not_after, key } = row;
    Certificate {
        what: what.to_owned(),
        subject,
        spiffe_id: (what == "leaf").then(|| own_id.to_owned()),
        serial,
        not_before: rfc3339_seconds(not_before.0),
        not_after: rfc3339_seconds(not_after.0),
        key,
        key_exchange: (what == "leaf").then(|| groups.iter().map(|group| (*group).to_owned()).collect()),
    }
}
