//! `/v1/status`: this node in ten lines.

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_model::codes::{self, Level};
use starling_model::{Code, SpiffeId, mesh};
use starling_proxy::metrics::Direction;

use super::Shared;
use super::answer::read;
use super::problem::Refusal;
use super::query::Query;
use super::services::endpoint_counts;
use super::views::{
    Flow, Status, StatusConfig, StatusIdentity, StatusProblem, StatusServices, StatusStore, StatusTraffic, kind,
};
use crate::crypto::wall_clock;
use crate::telemetry::time::{Clocks, millis, rfc3339_millis, rfc3339_seconds};

/// The status.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn get(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    Ok(read(&state, &headers, kind::STATUS, status(&state)))
}

fn status(state: &Shared) -> Status {
    let clocks = Clocks::read();
    let view = state.view.load();
    let (node, bundle) = (&state.identity.node, state.identity.bundle());
    let (endpoints, endpoints_healthy) = endpoint_counts(state, &clocks);
    let degraded = state.store.degraded();
    let same_bundle = |member: &&starling_gossip::MemberView| {
        member.name == view.node
            || member.status.as_ref().is_some_and(|status| status.bundle_sequence == bundle.sequence)
    };
    Status {
        name: node.node().to_string(),
        spiffe_id: SpiffeId::node(node.trust_domain(), node.node()).to_string(),
        trust_domain: node.trust_domain().to_string(),
        fingerprint: node.mesh_id().fingerprint(),
        version: crate::RELEASE.to_owned(),
        state: state.lifecycle.phase().as_str().to_owned(),
        waiting_for: state.lifecycle.waiting_for(),
        started_at: rfc3339_millis(state.started),
        uptime_seconds: clocks.wall().duration_since(state.started).map_or(0, |up| up.as_secs()),
        pid: std::process::id(),
        members: view.counts(),
        config: StatusConfig { documents: 0, digest: view.digest.to_string() },
        services: StatusServices {
            total: state.shared.table.load().services().len() as u64,
            local: state.local.load().services().iter().map(ToString::to_string).collect(),
            endpoints,
            endpoints_healthy,
        },
        traffic: traffic(state, &clocks),
        identity: StatusIdentity {
            certificate_not_after: rfc3339_seconds(node.certificate_not_after().0),
            leaf_not_after: rfc3339_seconds(state.identity.current.leaf_not_after().0),
            leaf_since: rfc3339_seconds(state.identity.leaf_since().0),
            bundle_sequence: bundle.sequence,
            bundle_same: view.alive().filter(same_bundle).count() as u64,
            shared_issuer: bundle.shared_issuer,
            root: mesh::hex(&node.root_short()),
        },
        listeners: state.listeners.clone(),
        store: StatusStore { durable: degraded.is_none(), reason: degraded },
        health_score: view.health_score,
        isolated: view.isolated,
        problems: problems(state),
    }
}

/// Sums over all services; the percentile is that of the slowest service.
fn traffic(state: &Shared, clocks: &Clocks) -> StatusTraffic {
    let now = clocks.now();
    let table = state.shared.table.load();
    let mut p99 = None;
    let mut flow = |direction: Direction| {
        let (mut rps, mut requests, mut good) = (0.0, 0_u64, 0.0);
        for service in table.services() {
            let figures = state.shared.metrics.traffic(direction, &service.key, now);
            #[expect(clippy::cast_precision_loss, reason = "requests of one minute stay far below 2^52")]
            let weight = figures.requests as f64;
            rps += figures.rps;
            requests += figures.requests;
            good += figures.success_rate.unwrap_or(0.0) * weight;
            p99 = p99.max(figures.p99);
        }
        #[expect(clippy::cast_precision_loss, reason = "requests of one minute stay far below 2^52")]
        let success_rate = (requests > 0).then(|| good / requests as f64);
        Flow { rps: (rps * 10.0).round() / 10.0, requests, success_rate }
    };
    let (inbound, outbound) = (flow(Direction::Inbound), flow(Direction::Outbound));
    let any = inbound.requests + outbound.requests > 0;
    StatusTraffic {
        window: "1m".to_owned(),
        inbound,
        outbound,
        p99_ms: p99.map(millis),
        // Between nodes there is no other way.
        mtls_share: any.then_some(1.0),
    }
}

/// Everything that somebody should look at, errors first.
#[must_use]
pub fn problems(state: &Shared) -> Vec<StatusProblem> {
    let mut problems = Vec::new();
    let mut add = |code: Code, detail: String| {
        let level = match code.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        let (code, help) = (code.to_string(), code.help.to_owned());
        problems.push(StatusProblem { code, level: level.to_owned(), detail, help });
    };
    let view = state.view.load();
    if view.duplicate {
        add(
            codes::NAME_TAKEN,
            format!("another node is alive as {:?}; this one announces nothing", view.node.as_str()),
        );
    }
    if view.isolated {
        add(
            codes::NO_QUIC_ANSWER,
            "too many members fell silent at once: this node assumes that it is cut off".to_owned(),
        );
    }
    if let Some(reason) = state.store.degraded() {
        add(codes::STORE_DEGRADED, format!("store: degraded: {reason}"));
    }
    for (task, held) in state.health.panicked() {
        let end = if held.ended { "and does not run any more" } else { "and was started again" };
        add(codes::NOT_READY, format!("task {task} panicked {} times {end}", held.panics));
    }
    for text in &state.local.load().problems {
        let first = text.lines().next().unwrap_or_default();
        add(codes::BAD_SETTING, first.split_once(": ").map_or(first, |(_, rest)| rest).to_owned());
    }
    if state.identity.is_ending(wall_clock()) {
        add(codes::CERTIFICATE_ENDING, format!("certificate ends {}", state.identity.node.certificate_not_after()));
    }
    if state.identity.bundle().shared_issuer {
        add(codes::SHARED_ISSUER, "shared issuer: any host can pose as any node".to_owned());
    }
    problems.sort_by_key(|problem| problem.level != "error");
    problems
}
