//! `starling explain`: one request's whole decision, a line for each step.

use crate::api::views::{
    EXPLAINED_ANSWER, EXPLAINED_FORWARD, Envelope, ExplainedBackend, ExplainedDocument, ExplainedEndpoint,
    ExplainedMatch, ExplainedObserved, ExplainedOutcome, ExplainedPolicies, ExplainedRule, ExplainedService,
    ExplainedSession, ExplainedStep, ExplainedTransport, Explanation, GrantRole, View,
};
use crate::cli::figures;
use crate::cli::look::{Look, Mark};
use crate::cli::render::{short, short_key};
use crate::cli::table::clean;

/// Width of the names of steps.
const LABEL: usize = 11;
/// Where what stands beside a step begins.
const BESIDE: usize = 72;

/// All of it.
pub(crate) fn render(told: &Envelope<Explanation>, look: &Look) -> String {
    let mut out = Lines::default();
    let body = &told.body;
    let request = &body.request;
    let headers: String = request.headers.iter().map(|line| format!("   {line}")).collect();
    out.step("request", &format!("{} {}{headers}", request.method, request.url), "");
    let backends = body.backends();
    let subsets = backends.len() > 1 || backends.iter().any(|one| one.subset.is_some());
    for step in &body.steps {
        match step {
            ExplainedStep::Source { result, instances } => {
                let source = service_of(result);
                let local = result.contains(&format!("/node/{}/", told.view.node));
                out.step("source", result, &here(source.as_deref().filter(|_| local), instances));
            }
            ExplainedStep::Service { result } => {
                let beside = result.document.as_ref().map(document).unwrap_or_else(|| "by announcement".to_owned());
                out.step("service", &service(result), &beside);
            }
            ExplainedStep::Gateway { result } => {
                let names = result.hostname.as_ref().map_or_else(|| "every name".to_owned(), ToString::to_string);
                let what = format!("listener \"{}\", port {}, {names}", result.listener, result.port);
                out.step("gateway", &what, &document(&result.document));
            }
            ExplainedStep::Route { result, side, rejected, rejected_more, nearest: _ } => {
                route(&mut out, (result.as_ref(), side.as_deref()), (rejected, *rejected_more), look);
            }
            ExplainedStep::Split { result } => split(&mut out, result),
            ExplainedStep::Session { result } => out.step("session", &session(result), ""),
            ExplainedStep::Endpoints { result, more } => {
                endpoints(&mut out, result, *more, (subsets, body, &told.view))
            }
            ExplainedStep::Transport { result } => {
                out.step("transport", &transport(result), "");
                let (said, by) = grants(result);
                out.step("grants", &said, &by);
            }
            ExplainedStep::Authorize { result, by } => {
                let beside = if by.is_none() { ": no policy is in force" } else { "" };
                out.step("authorize", &format!("{}{beside}   (decided at the receiver)", result.to_uppercase()), "");
            }
        }
    }
    if let Some(policies) = &body.policies {
        for filter in &policies.filters {
            out.step("filter", filter, "");
        }
        out.step("policy", &policy(policies), "");
    }
    if let Some(draw) = &body.draw {
        let endpoint = draw.endpoint.as_deref().unwrap_or("no endpoint");
        let copies: String = draw.mirrors.iter().map(|mirror| format!(", copied to {mirror}")).collect();
        out.step("draw", &format!("seed {} gives {endpoint}{copies}", draw.seed), "");
    }
    out.step("answer", &format!("{}    ({})", answer(body), view(&told.view)), "");
    if let Some(observed) = &body.observed {
        let mark = if observed.as_foreseen { "" } else { look.mark(Mark::Warn) };
        out.step("observed", &format!("{mark}{}{}", if mark.is_empty() { "" } else { " " }, seen(observed)), "");
    }
    out.text
}

/// `200 from vm-2/default/orders-1 in 2.1 ms, 1 try, as foreseen`
fn seen(observed: &ExplainedObserved) -> String {
    let status = observed.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let by = match (&observed.endpoint, &observed.error) {
        (Some(endpoint), None) => format!(" from {endpoint}"),
        (Some(endpoint), Some(error)) => format!(" by the mesh: {error}, last tried {endpoint}"),
        (None, Some(error)) => format!(" by the mesh: {error}"),
        (None, None) => " by the mesh".to_owned(),
    };
    let won = observed.route.as_ref().zip(observed.rule.as_ref());
    let won = won.map(|(route, name)| format!(", {route} {}", rule(name))).unwrap_or_default();
    let tries = match observed.tries {
        0 => String::new(),
        1 => ", 1 try".to_owned(),
        several => format!(", {several} tries"),
    };
    let foreseen = if observed.as_foreseen { "as foreseen" } else { "not as foreseen" };
    format!("{status}{by} in {}{won}{tries}, {foreseen}", figures::milliseconds(observed.duration_ms))
}

/// Identifiers of the endpoints that it may be sent to, one on each line.
pub(crate) fn names(told: &Envelope<Explanation>) -> String {
    let endpoints = told.body.outcomes.iter().flat_map(|outcome| &outcome.endpoints);
    endpoints.map(|id| format!("{}\n", clean(id))).collect()
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn line(&mut self, line: &str) {
        self.text.push_str(clean(line).trim_end());
        self.text.push('\n');
    }

    /// A named step, and what stands beside it.
    fn step(&mut self, name: &str, what: &str, beside: &str) {
        let mut line = format!("{name:<LABEL$}{what}");
        if !beside.is_empty() {
            let gap = BESIDE.saturating_sub(line.chars().count()).max(3);
            line.push_str(&" ".repeat(gap));
            line.push_str(beside);
        }
        self.line(&line);
    }
}

/// `default/web` of a workload's id.
fn service_of(id: &str) -> Option<String> {
    let (_, rest) = id.split_once("/ns/")?;
    let (namespace, service) = rest.split_once("/svc/")?;
    Some(format!("{namespace}/{service}"))
}

fn here(service: Option<&str>, instances: &[String]) -> String {
    match (service, instances) {
        (None, _) => String::new(),
        (Some(_), []) => "no instance of it runs on this node".to_owned(),
        (Some(_), [one]) => format!("local instance \"{one}\""),
        (Some(_), several) => format!("local instances \"{}\"", several.join("\", \"")),
    }
}

fn document(document: &ExplainedDocument) -> String {
    format!("{}/{} generation {}", document.kind, short_key(&document.namespace, &document.name), document.generation)
}

fn service(service: &ExplainedService) -> String {
    let port = match (&service.port, service.number) {
        (_, Some(number)) => format!(", port {number}"),
        (Some(port), None) if *port != service.protocol => format!(", port {port}"),
        (Some(_), None) => String::new(),
        (None, None) => ", any port".to_owned(),
    };
    format!("{}/{}, {}{port}", service.namespace, service.name, service.protocol)
}

/// A rule by its name in quotes, or by its place.
fn rule(name: &str) -> String {
    if name.bytes().all(|byte| byte.is_ascii_digit()) { format!("rule {name}") } else { format!("rule \"{name}\"") }
}

fn route(
    out: &mut Lines,
    (won, side): (Option<&ExplainedRule>, Option<&str>),
    (rejected, more): (&[ExplainedMatch], usize),
    look: &Look,
) {
    match (won, side) {
        (Some(won), side) => {
            let name = short_key(&won.namespace, &won.name);
            let what = format!("{}/{name} generation {} {}", won.kind, won.generation, rule(&won.rule));
            let consumer = side.filter(|side| side.starts_with("consumer")).map(|side| format!("   ({side})"));
            out.step("route", &what, &format!("{}{}", won.asks, consumer.unwrap_or_default()));
        }
        (None, Some(_)) => out.step("route", "no rule matches", ""),
        (None, None) => out.step("route", "none is attached: to the service itself", ""),
    }
    let home = won.map(|won| format!("{}/{}", won.namespace, won.name));
    for lost in rejected {
        let of = if home.as_ref() == Some(&lost.route) { String::new() } else { format!(" of {}", short(&lost.route)) };
        let why: Vec<&str> = lost.because.iter().map(|miss| miss.detail.as_str()).collect();
        let mark = look.mark(Mark::Bad);
        out.line(&format!("{:LABEL$}  {mark} {}{of}   {}", "", rule(&lost.rule), why.join(", ")));
    }
    if more > 0 {
        out.line(&format!("{:LABEL$}  and {} more that do not match", "", figures::count(more as u64)));
    }
}

/// `orders{stable}` of `default/orders {stable}`.
fn backend_name(backend: &ExplainedBackend) -> String {
    short(&backend.backend).replace(" {", "{")
}

fn split(out: &mut Lines, backends: &[ExplainedBackend]) {
    let part = |backend: &ExplainedBackend| format!("{} {}", backend_name(backend), backend.weight);
    match backends {
        [] => out.step("split", "the rule has no backend", ""),
        [one] => out.step("split", &format!("{} alone", backend_name(one)), ""),
        several => {
            let parts: Vec<String> = several.iter().map(part).collect();
            out.step("split", &format!("{}     drawn per request", parts.join(" : ")), "");
        }
    }
}

fn endpoints(
    out: &mut Lines,
    endpoints: &[ExplainedEndpoint],
    more: usize,
    (subsets, body, view): (bool, &Explanation, &View),
) {
    let names: Vec<String> = body.backends().iter().map(backend_name).collect();
    let of = |one: &ExplainedEndpoint| {
        let backend = one.backend.and_then(|at| names.get(at)).cloned();
        if subsets { one.subset.clone().or(backend).unwrap_or_default() } else { String::new() }
    };
    let whose = |one: &ExplainedEndpoint| format!("{} {}", one.node, one.instance);
    let widest = |text: &dyn Fn(&ExplainedEndpoint) -> String| {
        endpoints.iter().map(|one| text(one).chars().count()).max().unwrap_or_default()
    };
    let (first, second, health) = (widest(&of), widest(&whose), widest(&|one| one.health.clone()));
    if endpoints.is_empty() {
        out.step("endpoints", "none", "");
    }
    for (at, one) in endpoints.iter().enumerate() {
        let label = if at == 0 { "endpoints" } else { "" };
        let head = if first == 0 { String::new() } else { format!("{:<first$}   ", of(one)) };
        let why = match (&one.reason, one.latency_ewma_ms) {
            (Some(reason), _) => {
                let back = reason.until.as_ref().and_then(|until| figures::seconds_between(&view.as_of, until));
                let back = back.map(|seconds| format!(", back in {}", figures::age_in_words(seconds)));
                format!("{}{}", reason.detail, back.unwrap_or_default())
            }
            (None, Some(ms)) => figures::milliseconds(ms),
            (None, None) => "-".to_owned(),
        };
        let share = figures::share(one.share_within);
        out.step(label, &format!("{head}{:<second$}   {share:>6}   {:<health$}   {why}", whose(one), one.health), "");
    }
    if more > 0 {
        out.line(&format!("{:LABEL$}and {} more", "", figures::count(more as u64)));
    }
    let choosing = choosing(endpoints);
    if !choosing.is_empty() {
        out.step("balancing", &choosing, "");
    }
}

/// `cookie sid: goes on where it is`
fn session(session: &ExplainedSession) -> String {
    let ends = session.absolute_timeout.as_ref().map(|after| format!(", ends after {after}")).unwrap_or_default();
    match &session.because {
        None => format!("cookie {}: goes on where it is{ends}", session.cookie),
        Some(because) => format!("cookie {}: one begins, since {because}{ends}", session.cookie),
    }
}

/// Ways of choosing that are not the usual one, each once.
fn choosing(endpoints: &[ExplainedEndpoint]) -> String {
    let mut ways: Vec<&str> = endpoints.iter().map(|one| one.chosen_by.as_str()).collect();
    ways.dedup();
    // What a session decides is said by its own step.
    ways.retain(|way| !matches!(*way, "peak-ewma" | "session"));
    ways.join("; ")
}

fn transport(transport: &ExplainedTransport) -> String {
    let nodes: Vec<&str> = transport.peers.iter().filter_map(|id| id.rsplit_once('/')).map(|(_, node)| node).collect();
    let peer = match (&transport.peers[..], &nodes[..]) {
        ([one], _) => one.clone(),
        ([first, ..], nodes) => {
            let stem = first.rsplit_once('/').map_or("", |(stem, _)| stem);
            format!("{stem}/{{{}}}", nodes.join(","))
        }
        ([], _) => "nobody".to_owned(),
    };
    let open = transport.open.source.as_deref().unwrap_or("(the node)");
    format!(
        "TLS 1.3 to {}, mTLS; peer must be {peer}; opens {open} → {}",
        transport.addresses.join(" or "),
        transport.open.destinations.join(" or ")
    )
}

/// Who may call and serve as what, and the documents that say so.
fn grants(transport: &ExplainedTransport) -> (String, String) {
    let mut said = Vec::new();
    let mut unnamed: Vec<String> = Vec::new();
    let mut served: Vec<(String, Vec<&str>)> = Vec::new();
    if transport.open.source.is_none() {
        said.push("no service is named: the caller is the bare node".to_owned());
    }
    for one in &transport.grants {
        let (node, service) = (one.node.as_str(), short(&one.service));
        match (one.standing.as_str(), one.role) {
            ("unnamed", _) if unnamed.contains(&service) => {}
            ("unnamed", _) => unnamed.push(service),
            ("granted", GrantRole::Call) => said.push(format!("{node} may call as {service}")),
            ("no_grant", GrantRole::Call) => {
                said.push(format!("no grant names {service}: the caller counts as {node} (Strict, ST0612)"));
            }
            ("held_back", GrantRole::Call) => {
                said.push(format!("what would grant {service} cannot be read (ST0414): the caller counts as {node}"));
            }
            (_, GrantRole::Call) => said.push(format!("{node} may not call as {service}: the caller counts as {node}")),
            (_, GrantRole::Serve) => match served.iter_mut().find(|(known, _)| *known == service) {
                Some((_, nodes)) => nodes.push(node),
                None => served.push((service, vec![node])),
            },
        }
    }
    said.extend(served.iter().map(|(service, nodes)| format!("{} may serve {service}", nodes.join(" and "))));
    if !unnamed.is_empty() {
        said.push(format!("no grant names {}: accepted as announced (Open, ST0612)", unnamed.join(" or ")));
    }
    let mut by: Vec<String> = transport.grants.iter().filter_map(|one| one.document.as_ref()).map(document).collect();
    by.sort();
    by.dedup();
    (said.join(", "), by.join(", "))
}

fn policy(policies: &ExplainedPolicies) -> String {
    let ExplainedPolicies { timeout, timeout_origin, try_timeout, retries, retries_origin, retry_codes, .. } = policies;
    let built_in = |origin: &str| if origin == "rule" { "" } else { " (built in)" };
    let timeout = match timeout.as_str() {
        "0s" => "no timeout".to_owned(),
        timeout => format!("timeout {timeout}{}", built_in(timeout_origin)),
    };
    let one = try_timeout.as_ref().map(|one| format!(", {one} for one try")).unwrap_or_default();
    let codes: Vec<String> = retry_codes.iter().map(ToString::to_string).collect();
    let on = if codes.is_empty() {
        "connect failure".to_owned()
    } else {
        format!("{} and connect failure", codes.join(","))
    };
    let retries = format!("retries {retries} on {on}{}", built_in(retries_origin));
    let by = policies.budget_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    format!("{timeout}{one}, {retries}, budget {} %{by}", policies.budget_percent)
}

/// What comes out, with the share of each where they differ.
fn answer(body: &Explanation) -> String {
    match &body.outcomes[..] {
        [] => "nothing".to_owned(),
        outcomes if body.decision == EXPLAINED_FORWARD => {
            let hosts = nodes(outcomes.iter());
            format!("would be sent to {}", hosts.join(" or "))
        }
        [one] => ending(one, body),
        several => {
            let part = |one: &ExplainedOutcome| format!("{} {}", figures::weight(one.share), ending(one, body));
            several.iter().map(part).collect::<Vec<_>>().join("; ")
        }
    }
}

fn nodes<'a>(outcomes: impl Iterator<Item = &'a ExplainedOutcome>) -> Vec<String> {
    let ids = outcomes.flat_map(|outcome| &outcome.endpoints);
    let mut nodes: Vec<String> = ids.map(|id| id.split('/').next().unwrap_or_default().to_owned()).collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

fn ending(outcome: &ExplainedOutcome, body: &Explanation) -> String {
    let by =
        body.rule().map(|won| format!(" by {}/{} {}", won.kind, short_key(&won.namespace, &won.name), rule(&won.rule)));
    let by = by.unwrap_or_default();
    let status = outcome.status.map_or_else(|| "closed".to_owned(), |status| status.to_string());
    match outcome.decision.as_str() {
        EXPLAINED_FORWARD => format!("would be sent to {}", nodes([outcome].into_iter()).join(" or ")),
        EXPLAINED_ANSWER => match &outcome.location {
            Some(location) => format!("{status} to {location}{by}"),
            None => format!("{status} to a CORS preflight{by}"),
        },
        _ => format!("{status}{by}: {}", outcome.detail.as_deref().unwrap_or("refused")),
    }
}

fn view(view: &View) -> String {
    let agreement = &view.agreement;
    format!(
        "view of {}, revision {}, agrees with {}/{} members",
        view.node, view.revision, agreement.same, agreement.alive
    )
}
