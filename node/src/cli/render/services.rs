//! `starling services`: all services, or the endpoints of one with the reason for each.

use crate::api::views::{Endpoint, Envelope, Service, ServiceList, ServicePolicy};
use crate::cli::figures;
use crate::cli::look::{Look, Tone};
use crate::cli::render::{Columns, or_dash, several_namespaces, view_of};
use crate::cli::table::{Align, Cell, Table, clean};

/// All services; `namespace` shows only those in it.
pub(crate) fn list(list: &ServiceList, columns: Columns, namespace: Option<&str>, look: &Look) -> String {
    use Align::{Left, Right};
    let shown: Vec<&Service> = list
        .body
        .items
        .iter()
        .filter(|service| namespace.is_none_or(|namespace| service.namespace == namespace))
        .collect();
    let wide = columns == Columns::Wide;
    let namespaces = wide || several_namespaces(shown.iter().map(|service| service.namespace.as_str()));
    let mut titles = Vec::new();
    if namespaces {
        titles.push(("NAMESPACE", Left));
    }
    titles.extend([
        ("SERVICE", Left),
        ("PROTOCOL", Left),
        ("ADDRESS", Left),
        ("ENDPOINTS", Right),
        ("SUBSETS", Left),
        ("RPS", Right),
        ("SUCCESS", Right),
        ("P50", Right),
        ("P99", Right),
        ("ROUTES", Left),
    ]);
    if wide {
        titles.push(("HOSTNAME", Left));
    }
    let mut table = Table::new(titles);
    for service in shown {
        let mut cells = Vec::new();
        if namespaces {
            cells.push(Cell::new(&service.namespace));
        }
        cells.extend(row(service));
        if wide {
            cells.push(Cell::new(&service.hostname));
        }
        table.row(cells);
    }
    table.render(look)
}

fn row(service: &Service) -> Vec<Cell> {
    let traffic = service.traffic.as_ref().filter(|traffic| traffic.requests > 0);
    let healthy = service.endpoints.iter().filter(|endpoint| endpoint.health == "healthy").count();
    let tone = if healthy == service.endpoints.len() { Tone::Plain } else { Tone::Warn };
    let latency = |ms: Option<f64>| Cell::maybe(ms.map(figures::milliseconds));
    vec![
        Cell::new(&service.name),
        Cell::new(protocols(service)),
        Cell::maybe(address(service)),
        Cell::toned(format!("{healthy}/{}", service.endpoints.len()), tone),
        Cell::new(or_dash(subsets(service))),
        Cell::maybe(traffic.map(|traffic| format!("{:.1}", traffic.rps))),
        Cell::maybe(traffic.and_then(|traffic| traffic.success_rate).map(figures::rate)),
        latency(traffic.and_then(|traffic| traffic.p50_ms)),
        latency(traffic.and_then(|traffic| traffic.p99_ms)),
        Cell::new(or_dash(service.routes.clone())),
    ]
}

fn protocols(service: &Service) -> String {
    let mut names: Vec<String> = Vec::new();
    for port in &service.ports {
        if !names.contains(&port.protocol) {
            names.push(port.protocol.clone());
        }
    }
    or_dash(names)
}

/// This host's own address for the service, with its port where it has one only.
fn address(service: &Service) -> Option<String> {
    let vip = service.vip.as_deref()?;
    match service.ports.as_slice() {
        [only] => Some(only.port.map_or_else(|| vip.to_owned(), |port| format!("{vip}:{port}"))),
        _ => Some(vip.to_owned()),
    }
}

/// Names of subsets, in the order in which the endpoints bring them up.
fn subsets(service: &Service) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for subset in service.endpoints.iter().flat_map(|endpoint| &endpoint.subsets) {
        if !names.contains(subset) {
            names.push(subset.clone());
        }
    }
    names
}

/// Which endpoints of one service are shown; `None` shows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Only on this node.
    pub(crate) node: Option<String>,
    /// Only of this subset.
    pub(crate) subset: Option<String>,
}

impl Filter {
    /// True when it hides nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.node.is_none() && self.subset.is_none()
    }

    /// True when this endpoint is shown.
    pub(crate) fn shows(&self, endpoint: &Endpoint) -> bool {
        self.node.as_ref().is_none_or(|node| endpoint.node == *node)
            && self.subset.as_ref().is_none_or(|subset| endpoint.subsets.contains(subset))
    }
}

/// One service: its endpoints, by subset, then node and instance.
pub(crate) fn one(answer: &Envelope<Service>, columns: Columns, filter: &Filter, look: &Look) -> String {
    use Align::{Left, Right};
    let service = &answer.body;
    let wide = columns == Columns::Wide;
    let mut titles = vec![
        ("NODE", Left),
        ("INSTANCE", Left),
        ("SUBSET", Left),
        ("HEALTH", Left),
        ("WEIGHT", Right),
        ("SHARE", Right),
        ("INFLIGHT", Right),
        ("EWMA", Right),
        ("SINCE", Right),
        ("WHY", Left),
    ];
    if wide {
        titles.extend([("PORT", Left), ("PROTOCOL", Left), ("LABELS", Left)]);
    }
    let mut table = Table::new(titles);
    let order = subsets(service);
    let mut shown: Vec<&Endpoint> = service.endpoints.iter().filter(|endpoint| filter.shows(endpoint)).collect();
    shown.sort_by_key(|endpoint| {
        let subset = endpoint.subsets.first().and_then(|name| order.iter().position(|other| other == name));
        (subset, endpoint.node.as_str(), endpoint.instance.as_str(), endpoint.port.as_str())
    });
    for endpoint in shown {
        let mut cells = endpoint_row(endpoint, &answer.view.as_of);
        if wide {
            cells.extend([
                Cell::new(&endpoint.port),
                Cell::new(&endpoint.protocol),
                Cell::new(or_dash(endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")))),
            ]);
        }
        table.row(cells);
    }
    let mut text = table.render(look);
    if let Some(policy) = service.policy.as_ref().filter(|_| wide && look.headers) {
        text.push_str(&format!("{}\n", clean(&policy_line(policy))));
    }
    if look.headers {
        let view = view_of(&answer.view);
        text.push_str(&format!("{view}. Shares are computed locally, other nodes may differ.\n"));
    }
    text
}

fn policy_line(policy: &ServicePolicy) -> String {
    let by = policy.document.as_ref().map(|name| format!(", by BackendTrafficPolicy {name}")).unwrap_or_default();
    let session = policy.session_cookie.as_ref().map(|cookie| format!(", sessions by cookie {cookie}"));
    format!(
        "Policy: {}, slow start {}, retry budget {} % of {} and {}{}{by}",
        policy.load_balancing,
        policy.slow_start,
        policy.retry_budget_percent,
        policy.retry_budget_interval,
        policy.retry_budget_floor,
        session.unwrap_or_default(),
    )
}

fn endpoint_row(endpoint: &Endpoint, now: &str) -> Vec<Cell> {
    let tone = match endpoint.health.as_str() {
        "healthy" => Tone::Good,
        "draining" => Tone::Warn,
        _ => Tone::Bad,
    };
    let since = endpoint.since.as_deref().and_then(|since| figures::seconds_between(since, now));
    vec![
        Cell::new(&endpoint.node),
        Cell::new(&endpoint.instance),
        Cell::new(or_dash(endpoint.subsets.clone())),
        Cell::toned(&endpoint.health, tone),
        Cell::new(endpoint.weight.to_string()),
        Cell::new(figures::share(endpoint.share)),
        Cell::new(endpoint.in_flight.to_string()),
        Cell::maybe(endpoint.latency_ewma_ms.map(figures::milliseconds)),
        Cell::maybe(since.map(figures::age)),
        Cell::maybe(why(endpoint, now)),
    ]
}

fn why(endpoint: &Endpoint, now: &str) -> Option<String> {
    let reason = endpoint.reason.as_ref()?;
    let back = reason.until.as_deref().and_then(|until| figures::seconds_between(now, until)).filter(|left| *left > 0);
    let back = back.map(|seconds| format!("; back in {seconds} s")).unwrap_or_default();
    Some(format!("{}{back}", reason.detail))
}
