//! `/v1/services`: services with their endpoints, why each is used or not, and what passed this node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_model::{MemberState, Namespace, ServiceKey, ServiceName};
use starling_proxy::metrics::Direction;
use starling_proxy::traffic::Traffic as Figures;
use starling_routing::retry_budget::BudgetSettings;
use starling_routing::{Condition, EndpointIndex, Load, RouteTable, Standing, condition};

use super::Shared;
use super::answer::read;
use super::problem::Refusal;
use super::query::Query;
use super::routes::short_name;
use super::views::{Endpoint, Items, Reason, Service, ServicePolicy, ServicePort, Traffic, kind};
use crate::telemetry::time::{Clocks, millis};

/// Every word of the HEALTH column, for series that must be set to 0.
const HEALTH_WORDS: [&str; 5] = ["healthy", "unhealthy", "ejected", "draining", "ungranted"];

/// All services, by namespace and name.
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
    let clocks = Clocks::read();
    let items = table.services().map(|service| show(&state, &table, service, &clocks)).collect();
    Ok(read(&state, &headers, kind::SERVICE_LIST, Items::<Service> { items }))
}

/// One service.
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
    Ok(read(&state, &headers, kind::SERVICE, show(&state, &table, service, &Clocks::read())))
}

/// The service that a path names.
///
/// # Errors
/// 404: a word that is no name names nothing.
pub fn key_of(namespace: &str, name: &str) -> Result<ServiceKey, Refusal> {
    match (Namespace::new(namespace), ServiceName::new(name)) {
        (Ok(namespace), Ok(name)) => Ok(ServiceKey::new(namespace, name)),
        (Err(invalid), _) | (_, Err(invalid)) => Err(Refusal::missing(invalid.to_string())),
    }
}

/// 404 for a service, with the nearest known name.
#[must_use]
pub fn unknown(state: &Shared, key: &ServiceKey) -> Refusal {
    let table = state.shared.table.load();
    let known: Vec<String> = table.services().map(|service| service.key.to_string()).collect();
    let wanted = key.to_string();
    let nearest = starling_config::suggest(&wanted, known.iter().map(String::as_str));
    let help = match nearest {
        Some(name) => format!("did you mean {name}? starling services lists them all"),
        None => "starling services lists the known services".to_owned(),
    };
    Refusal::missing(format!("{} knows no service {wanted}", state.view.load().node)).with_help(help)
}

/// Word and reason of an endpoint's condition.
#[must_use]
pub fn health_of(condition: &Condition, member: MemberState, clocks: &Clocks) -> (&'static str, Option<Reason>) {
    let reason =
        |code: &str, detail: &str| Some(Reason { code: code.to_owned(), detail: detail.to_owned(), until: None });
    match condition {
        Condition::Usable => match member {
            MemberState::Suspect => ("healthy", reason("member_suspect", "its node is suspect; still used")),
            MemberState::Dead => {
                ("healthy", reason("member_failed", "its node is called failed, but our traffic reaches it"))
            }
            MemberState::Joining => ("healthy", reason("member_joining", "its node is not verified yet")),
            MemberState::Alive | MemberState::Left => ("healthy", None),
        },
        Condition::Unready => ("unhealthy", reason("health_check", "its own node's check fails")),
        Condition::Draining => ("draining", reason("draining", "it finishes what it has")),
        Condition::Left => ("unhealthy", reason("member_left", "its node has left")),
        Condition::NodeDead => ("unhealthy", reason("member_failed", "its node has failed")),
        Condition::Failing(until) => {
            let until = Some(clocks.show(*until));
            let detail = "our connections to it fail".to_owned();
            ("ejected", Some(Reason { code: "connect_failure".to_owned(), detail, until }))
        }
        Condition::NoAddress => ("unhealthy", reason("no_address", "its node's address is not known yet")),
        Condition::Ungranted(standing) => ("ungranted", reason(standing.as_str(), standing_detail(*standing))),
        Condition::NoWeight => ("healthy", reason("weight_zero", "it is announced with weight 0")),
    }
}

/// How a node stands to a service, for people.
#[must_use]
pub fn standing_detail(standing: Standing) -> &'static str {
    match standing {
        Standing::Granted => "its node is granted the service",
        Standing::Unnamed => "used, though no grant names the service (ST0612)",
        Standing::NotGranted => "its node is not granted the service (ST0612)",
        Standing::NoGrant => "no grant names the service, and serviceGrants is Strict (ST0612)",
        Standing::HeldBack => "what would grant the service cannot be read here (ST0414)",
        Standing::NotKnown => "this agent has just started: which grants hold is not known here yet",
    }
}

/// Figures of the last minute; `None` when nothing passed.
#[must_use]
pub fn figures_of(state: &Shared, key: &ServiceKey, now: Instant) -> Option<Figures> {
    // What callers on this node saw; where there are none, what its own instances served.
    let directions = [Direction::Outbound, Direction::Inbound];
    let mut seen = directions.into_iter().map(|direction| state.shared.metrics.traffic(direction, key, now));
    seen.find(|figures| figures.requests > 0)
}

fn show_traffic(figures: &Figures) -> Traffic {
    let ms = |latency: Option<Duration>| latency.map(millis);
    Traffic {
        window: "1m".to_owned(),
        rps: (figures.rps * 10.0).round() / 10.0,
        requests: figures.requests,
        success_rate: figures.success_rate,
        p50_ms: ms(figures.p50),
        p95_ms: ms(figures.p95),
        p99_ms: ms(figures.p99),
    }
}

fn show(state: &Shared, table: &RouteTable, service: &starling_routing::Service, clocks: &Clocks) -> Service {
    let now = clocks.now();
    let loads = |index: EndpointIndex| state.shared.loads.load(index, now);
    let shares = service.shares(now, &loads);
    let endpoints = service.endpoints.iter().zip(shares);
    Service {
        namespace: service.key.namespace.to_string(),
        name: service.key.name.to_string(),
        hostname: service.key.host(&state.domain),
        vip: None,
        ports: service
            .ports
            .iter()
            .map(|port| ServicePort {
                name: port.name.to_string(),
                port: port.number.map(std::num::NonZeroU16::get),
                protocol: port.protocol.to_string(),
            })
            .collect(),
        endpoints: endpoints
            .map(|(endpoint, share)| Endpoint {
                subsets: subsets_of(service, endpoint),
                ..show_endpoint(state, endpoint, share, clocks)
            })
            .collect(),
        routes: attached(table, service),
        policy: Some(policy(table, service)),
        traffic: figures_of(state, &service.key, now).as_ref().map(show_traffic),
    }
}

/// What documents say of all its requests, with what is built in for the rest.
fn policy(table: &RouteTable, service: &starling_routing::Service) -> ServicePolicy {
    let said = table.service_policy(&service.key);
    let budget = said.map_or(BudgetSettings::BUILT_IN, |policy| policy.retry_budget);
    let period = starling_config::duration::format;
    ServicePolicy {
        document: said.map(|policy| format!("{}/{}", policy.document.namespace, policy.document.name)),
        load_balancing: service.chosen_by().to_string(),
        slow_start: period(service.slow_start()),
        retry_budget_percent: budget.percent,
        retry_budget_interval: period(budget.interval),
        retry_budget_floor: format!("{} in {}", budget.floor.count, period(budget.floor.interval)),
        session_cookie: said.and_then(|policy| policy.session.as_ref()).map(|session| session.cookie().to_owned()),
    }
}

/// Names of the routes attached to a service, each once.
fn attached(table: &RouteTable, service: &starling_routing::Service) -> Vec<String> {
    let rules = table.rows(service).into_iter().filter_map(|row| row.rule);
    let names: BTreeSet<String> = rules.map(|one| short_name(&one.rule.route, &service.key.namespace)).collect();
    names.into_iter().collect()
}

/// Names of the subsets that an endpoint belongs to.
fn subsets_of(service: &starling_routing::Service, endpoint: &starling_routing::Endpoint) -> Vec<String> {
    let named = service.subsets().iter().filter(|subset| subset.holds(endpoint));
    named.map(|subset| subset.name.to_string()).collect()
}

fn show_endpoint(state: &Shared, endpoint: &starling_routing::Endpoint, share: f64, clocks: &Clocks) -> Endpoint {
    let now = clocks.now();
    let load: Load = state.shared.loads.load(endpoint.index, now);
    let (health, reason) = health_of(&condition(endpoint, &load, now), endpoint.member, clocks);
    let unnamed = || Reason {
        code: endpoint.standing.as_str().to_owned(),
        detail: standing_detail(endpoint.standing).to_owned(),
        until: None,
    };
    let reason = reason.or_else(|| (endpoint.standing == Standing::Unnamed).then(unnamed));
    let ages = state.ages.load();
    Endpoint {
        id: endpoint.id.to_string(),
        node: endpoint.id.node.to_string(),
        instance: endpoint.id.instance.to_string(),
        port: endpoint.port.to_string(),
        protocol: endpoint.protocol.to_string(),
        labels: endpoint.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        subsets: Vec::new(),
        health: health.to_owned(),
        reason,
        weight: endpoint.weight.get(),
        share: (share * 10_000.0).round() / 10_000.0,
        in_flight: load.in_flight,
        latency_ewma_ms: load.latency.map(millis),
        since: ages.get(&endpoint.id).map(|age| clocks.show(age.since)),
    }
}

/// Endpoints of all services and how many of them take traffic.
#[must_use]
pub fn endpoint_counts(state: &Shared, clocks: &Clocks) -> (u64, u64) {
    let (mut all, mut healthy) = (0, 0);
    let now = clocks.now();
    for endpoint in state.shared.table.load().services().flat_map(|service| &service.endpoints) {
        let load = state.shared.loads.load(endpoint.index, now);
        all += 1;
        healthy += u64::from(health_of(&condition(endpoint, &load, now), endpoint.member, clocks).0 == "healthy");
    }
    (all, healthy)
}

/// Brings the series of `starling_endpoints` up to date; done at a scrape, because conditions change with time.
pub fn count_endpoints(state: &Shared) {
    let clocks = Clocks::read();
    let now = clocks.now();
    for service in state.shared.table.load().services() {
        let mut counts = [0_usize; HEALTH_WORDS.len()];
        for endpoint in &service.endpoints {
            let load = state.shared.loads.load(endpoint.index, now);
            let (word, _) = health_of(&condition(endpoint, &load, now), endpoint.member, &clocks);
            for (count, of) in counts.iter_mut().zip(HEALTH_WORDS) {
                *count += usize::from(of == word);
            }
        }
        for (count, word) in counts.into_iter().zip(HEALTH_WORDS) {
            state.shared.metrics.set_endpoints(&service.key, word, count);
        }
    }
}
