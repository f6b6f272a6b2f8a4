//! `/v1/status`: this node in ten lines.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_model::codes::{self, Level};
use starling_model::{Code, MemberState, SpiffeId, mesh};
use starling_proxy::GatewayPort;
use starling_proxy::metrics::Direction;
use starling_routing::{Endpoint, RouteTable, condition};

use super::Shared;
use super::answer::read;
use super::members::Names;
use super::problem::Refusal;
use super::query::Query;
use super::services::{endpoint_counts, health_of, standing_detail};
use super::views::{
    Flow, Status, StatusConfig, StatusIdentity, StatusProblem, StatusServices, StatusStore, StatusTraffic, kind,
};
use crate::crypto::wall_clock;
use crate::mesh_view::MeshView;
use crate::ports::{Transport, holder};
use crate::tasks::routes::{
    Cause, HeldBack, LEFT_BEHIND_BY_DOCUMENTS_MAX, LEFT_BEHIND_BY_MEMBERS_MAX, LeftBehind, Why,
};
use crate::telemetry::time::{Clocks, millis, rfc3339_millis, rfc3339_seconds};

/// Problems of one kind in one answer; a broken rack must not hide what else is wrong.
const PROBLEMS_EACH_MAX: usize = 10;

/// A node that heard nobody for so long says so. A leaf lives as long: peers would have had to renew theirs.
const TRUST_STALE_AFTER: Duration = Duration::from_secs(24 * 3_600);

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
        config: StatusConfig {
            documents: view.applied.documents as u64,
            digest: view.applied.digest.to_string(),
            held_back: view.applied.held_back.len() as u64,
        },
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
    let mut add = |code: Code, detail: String| problems.push(coded(code, detail));
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
        add(codes::BAD_SETTING, in_short(text));
    }
    if state.identity.is_ending(wall_clock()) {
        add(codes::CERTIFICATE_ENDING, format!("certificate ends {}", state.identity.node.certificate_not_after()));
    }
    if state.identity.bundle().shared_issuer {
        add(codes::SHARED_ISSUER, "shared issuer: any host can pose as any node".to_owned());
    }
    let clocks = Clocks::read();
    if let Some(silent) = stale_trust(&view, &clocks, state.started) {
        let hours = silent.as_secs() / 3_600;
        add(codes::TRUST_STALE, format!("stale_trust: no peer was heard for {hours} h"));
    }
    problems.extend(held_back(&view));
    problems.extend(quarantined_elsewhere(&view));
    problems.extend(hanging(&state.left_behind));
    problems.extend(failed_members(&view, &clocks));
    let ports = state.shared.gateway_ports.load();
    problems.extend(ports.iter().filter_map(gateway_port));
    let table = state.shared.table.load();
    problems.extend(ungranted(&table));
    problems.extend(unnamed(&table));
    problems.extend(bad_endpoints(state, &clocks));
    problems.sort_by_key(|problem| problem.level != "error");
    problems
}

/// How long no peer was heard, where there are peers and that is too long: revocations and bundles come from them.
fn stale_trust(view: &MeshView, clocks: &Clocks, started: std::time::SystemTime) -> Option<Duration> {
    let is_other =
        |member: &&starling_gossip::MemberView| member.name != view.node && member.state != MemberState::Left;
    let mut others = view.members.iter().filter(is_other).peekable();
    others.peek()?;
    let heard = others.filter_map(|member| member.last_seen).max();
    let silent = heard.map(|at| clocks.now().saturating_duration_since(at));
    let up = clocks.wall().duration_since(started).unwrap_or_default();
    Some(silent.unwrap_or(up).min(up)).filter(|silent| *silent >= TRUST_STALE_AFTER)
}

/// A port that a Gateway asks for and that this node cannot open.
fn gateway_port(port: &GatewayPort) -> Option<StatusProblem> {
    let (code, why) = port.failure.as_ref()?;
    let taken = (*code == codes::PORT_TAKEN).then(|| holder(port.address, Transport::Tcp)).flatten();
    let holder = taken.map(|holder| format!(", it is taken by {holder}"));
    let detail = format!("a Gateway cannot listen on {}{}: {why}", port.address, holder.unwrap_or_default());
    Some(coded(*code, detail))
}

fn coded(code: Code, detail: String) -> StatusProblem {
    let level = match code.level {
        Level::Error => "error",
        Level::Warning => "warning",
    };
    StatusProblem { code: code.to_string(), level: level.to_owned(), detail, help: code.help.to_owned() }
}

/// A warning without an entry in the catalogue.
fn plain(detail: String, help: String) -> StatusProblem {
    StatusProblem { code: String::new(), level: "warning".to_owned(), detail, help }
}

/// The first ones of a kind, and how many are left out.
fn bounded(mut found: Vec<StatusProblem>, help: &str) -> Vec<StatusProblem> {
    let more = found.len().saturating_sub(PROBLEMS_EACH_MAX);
    if more > 0 {
        found.truncate(PROBLEMS_EACH_MAX);
        found.push(plain(format!("and {more} more"), help.to_owned()));
    }
    found
}

/// Documents that the mesh uses and this node does not.
fn held_back(view: &MeshView) -> Vec<StatusProblem> {
    let one = |(document, held): (&starling_model::DocumentKey, &HeldBack)| {
        let instead = match held.used {
            Some(used) => format!("generation {} stays in use here", used.generation),
            None if document.kind.as_str() == "ServiceGrant" => "all that it names is denied here".to_owned(),
            None => "it has no effect here".to_owned(),
        };
        let detail = format!("{document} is held back: {}; {instead}", held.why);
        let help = match &held.why {
            Why::Unreadable => {
                "`starling get KIND NAME` says what this agent does not understand; is it of an older release?"
                    .to_owned()
            }
            Why::Panicked | Why::TimedOut | Why::Crashed => {
                "apply another text, or delete it; that this one cannot be used is a bug of Starling".to_owned()
            }
            Why::Delayed => {
                "tried again by itself, at growing intervals up to 10 min; see what is quarantined".to_owned()
            }
            Why::Empties(service) => {
                format!("compare its selector with `starling services {service}`; used once the traffic ends")
            }
            Why::Waiting => "start the agent again, and report the documents that are quarantined".to_owned(),
        };
        StatusProblem { help, ..coded(codes::DOCUMENT_HELD_BACK, detail) }
    };
    bounded(view.applied.held_back.iter().map(one).collect(), "`starling get` lists all documents")
}

/// Documents that other live members say that they have quarantined.
fn quarantined_elsewhere(view: &MeshView) -> Vec<StatusProblem> {
    let others = || view.alive().filter(|member| member.name != view.node);
    let names = Names::of(view, others());
    let mut by_document: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for member in others() {
        let held = member.status.iter().flat_map(|status| &status.held_back);
        for held in held.filter(|held| held.why.is_quarantine()).map(|held| names.one(held)) {
            let what = match (held.document, held.generation) {
                (Some(document), Some(generation)) => format!("{document} generation {generation}"),
                _ => format!("the document with hash {}", held.digest),
            };
            by_document.entry(what).or_default().push(format!("{} ({})", member.name, held.why));
        }
    }
    let one = |(document, who): (String, Vec<String>)| {
        let more = who.len().saturating_sub(PROBLEMS_EACH_MAX);
        let shown = who.get(..PROBLEMS_EACH_MAX).unwrap_or(&who).join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let help = "apply another text, or delete it; that it cannot be used there is a bug of Starling".to_owned();
        let detail = format!("{document} is quarantined by {shown}{more}");
        StatusProblem { help, ..coded(codes::DOCUMENT_HELD_BACK, detail) }
    };
    bounded(by_document.into_iter().map(one).collect(), "`starling members` names all")
}

/// Compile steps that did not end, each with a thread of its own, and who is left alone for that.
fn hanging(left_behind: &LeftBehind) -> Vec<StatusProblem> {
    let (documents, members) = (left_behind.of(Cause::Documents), left_behind.of(Cause::Members));
    let mut found = Vec::new();
    if documents + members > 0 {
        let consequence = match (documents >= LEFT_BEHIND_BY_DOCUMENTS_MAX, members >= LEFT_BEHIND_BY_MEMBERS_MAX) {
            (false, false) => "each may hold a core",
            (true, false) => "no new document is used",
            (false, true) => "what members announce anew is not used",
            (true, true) => "no new document and nothing that members announce anew is used",
        };
        let help = "start the agent again when it can be spared, and report what is quarantined";
        let detail =
            format!("compile steps that hang: {documents} with documents, {members} with members; {consequence}");
        found.push(plain(detail, help.to_owned()));
    }
    let delayed = left_behind.delayed();
    let why = "compile steps with what it said did not end in time";
    let help = "tried again by itself, at growing intervals up to 10 min, once fewer of its steps hang";
    found.extend(
        delayed
            .signers
            .iter()
            .map(|key| plain(format!("new documents of operator key {key} wait: {why}"), help.to_owned())),
    );
    let of_members =
        delayed.members.iter().map(|name| plain(format!("new records of {name} wait: {why}"), help.to_owned()));
    found.extend(bounded(of_members.collect(), "`starling members` lists everybody"));
    found
}

fn failed_members(view: &MeshView, clocks: &Clocks) -> Vec<StatusProblem> {
    let help = "`starling members` lists everybody";
    let failed = view.members.iter().filter(|member| member.state == MemberState::Dead).map(|member| {
        let seconds = clocks.now().saturating_duration_since(member.since).as_secs();
        let ago = starling_config::duration::format(Duration::from_secs(seconds));
        plain(format!("{} failed {ago} ago", member.name), help.to_owned())
    });
    bounded(failed.collect(), help)
}

/// Instances that get no traffic because their node may not serve the service.
fn ungranted(table: &RouteTable) -> Vec<StatusProblem> {
    let mut found = Vec::new();
    for service in table.services() {
        let out = |one: &&Endpoint| !one.standing.is_accepted() && one.member != MemberState::Left;
        for endpoint in service.endpoints.iter().filter(out) {
            let (instance, node, why) = (&endpoint.id.instance, &endpoint.id.node, standing_detail(endpoint.standing));
            let detail = format!("{instance} on {node} gets no traffic of {}: {why}", service.key);
            found.push(coded(codes::UNGRANTED, detail));
        }
    }
    bounded(found, "`starling services NAME` shows each endpoint with the reason")
}

/// Services that anybody may announce, in one line.
fn unnamed(table: &RouteTable) -> Option<StatusProblem> {
    let unnamed = table.unnamed();
    let count = unnamed.len();
    let names: Vec<String> = unnamed.into_iter().take(PROBLEMS_EACH_MAX).map(ToString::to_string).collect();
    let more = if count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() };
    let detail = format!("no grant names {}{more}: any member may announce and call as them", names.join(", "));
    (count > 0).then(|| coded(codes::UNGRANTED, detail))
}

/// Services that nobody serves, and single endpoints that are not used though their node is here.
fn bad_endpoints(state: &Shared, clocks: &Clocks) -> Vec<StatusProblem> {
    let now = clocks.now();
    let mut found = Vec::new();
    for service in state.shared.table.load().services() {
        let judged: Vec<_> = service
            .endpoints
            .iter()
            .map(|endpoint| {
                let load = state.shared.loads.load(endpoint.index, now);
                (endpoint, health_of(&condition(endpoint, &load, now), endpoint.member, clocks))
            })
            .collect();
        let help = format!("`starling services {}` shows each endpoint with the reason", service.key);
        if judged.iter().all(|(_, (word, _))| *word != "healthy") {
            let detail = format!("{}: no endpoint of {} is healthy", service.key, judged.len());
            found.push(StatusProblem { help, ..coded(codes::NO_ENDPOINT, detail) });
            continue;
        }
        for (endpoint, (word, reason)) in judged {
            if matches!(word, "healthy" | "draining" | "ungranted") || endpoint.member != MemberState::Alive {
                continue;
            }
            let why = reason.map(|reason| format!(": {}", reason.detail)).unwrap_or_default();
            found.push(plain(format!("{} on {} {word}{why}", endpoint.id.instance, endpoint.id.node), help.clone()));
        }
    }
    bounded(found, "`starling services` lists them all")
}

/// A rendered report of a file's problems in one line: the first, where it is, and how many there are besides.
fn in_short(report: &str) -> String {
    let first = report.lines().next().unwrap_or_default();
    let what = first.split_once(": ").map_or(first, |(_, rest)| rest);
    let place = report.lines().find_map(|line| line.trim_start().strip_prefix("--> "));
    let place = place.map(|place| format!(" at {}", place.trim())).unwrap_or_default();
    let more = report.lines().filter(|line| line.starts_with("error[")).count().saturating_sub(1);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    format!("{what}{place}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_in_short_keeps_its_place() {
        let report = "error[ST0103]: instance[0] needs `service`\n  --> /etc/starling/services.d/a.toml:1:1\n   |\n\
                      error[ST0102]: unknown field `servce`\n  --> /etc/starling/services.d/a.toml:2:1\n2 errors\n";
        let want = "instance[0] needs `service` at /etc/starling/services.d/a.toml:1:1 (and 1 more)";
        assert_eq!(in_short(report), want);
        assert_eq!(in_short("cannot read the folder"), "cannot read the folder");
    }

    #[test]
    fn one_kind_of_problem_never_fills_the_screen() {
        let of = |number: usize| bounded(vec![plain("x".to_owned(), String::new()); number], "look there");
        assert_eq!(of(PROBLEMS_EACH_MAX).len(), PROBLEMS_EACH_MAX);
        let many = of(PROBLEMS_EACH_MAX + 5);
        assert_eq!((many.len(), many[PROBLEMS_EACH_MAX].detail.as_str()), (PROBLEMS_EACH_MAX + 1, "and 5 more"));
    }

    #[test]
    fn compile_steps_that_hang_say_what_that_means() {
        let left_behind = LeftBehind::default();
        let told = || hanging(&left_behind).into_iter().map(|problem| problem.detail).collect::<Vec<_>>();
        assert!(told().is_empty());
        let first = left_behind.hold(Cause::Documents, 1);
        assert_eq!(told(), ["compile steps that hang: 1 with documents, 0 with members; each may hold a core"]);
        let documents = left_behind.hold(Cause::Documents, LEFT_BEHIND_BY_DOCUMENTS_MAX - 1);
        assert!(told()[0].ends_with("; no new document is used"), "{:?}", told());
        let members = left_behind.hold(Cause::Members, LEFT_BEHIND_BY_MEMBERS_MAX);
        assert!(
            told()[0].ends_with("; no new document and nothing that members announce anew is used"),
            "{:?}",
            told()
        );
        drop((first, documents));
        assert!(told()[0].ends_with("; what members announce anew is not used"), "{:?}", told());
        drop(members);
        left_behind.note_delayed(|delayed| {
            delayed.signers = vec!["k1".to_owned()];
            delayed.members = (0..=PROBLEMS_EACH_MAX).map(|n| format!("vm-{n}")).collect();
        });
        let told = told();
        assert!(told[0].starts_with("new documents of operator key k1 wait: "), "{told:?}");
        assert!(told[1].starts_with("new records of vm-0 wait: ") && told[PROBLEMS_EACH_MAX + 1] == "and 1 more");
    }

    #[test]
    fn a_failed_member_is_a_problem() {
        use crate::mesh_view::tests::member;
        let now = std::time::Instant::now();
        let mut view = MeshView::empty("vm-1".parse().unwrap(), starling_model::BootEpoch(7), now);
        view.members = vec![member("vm-1", MemberState::Alive, now), member("vm-2", MemberState::Dead, now)];
        let found = failed_members(&view, &Clocks::read());
        assert_eq!(found.len(), 1);
        assert!(found[0].detail.starts_with("vm-2 failed ") && found[0].level == "warning", "{found:?}");
    }
}
