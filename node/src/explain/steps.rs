//! From the record of a decision to the steps of the API.

use std::collections::BTreeSet;

use starling_config::documents::filter::{Filters, HeaderEdits, PathEdit, PathFilter};
use starling_config::documents::rule_policy::CookieLifetime;
use starling_model::{DocumentVersion, NodeName, ServiceKey, SpiffeId};
use starling_routing::explain::{CandidateEndpoint, EndpointStep, Loser, RouteStep};
use starling_routing::filters::FilterChain;
use starling_routing::retry_budget::BudgetSettings;
use starling_routing::rules::Side;
use starling_routing::split::Target;
use starling_routing::{Deadline, Decision, Explanation, Kept, Origin, Outcome, Policy, Rule, ServicePolicy, Trouble};

use super::{Ground, Question};
use crate::api::services::health_of;
use crate::api::views::{
    self, ExplainedBackend, ExplainedDocument, ExplainedEndpoint, ExplainedGateway, ExplainedGrant, ExplainedMatch,
    ExplainedMiss, ExplainedOpen, ExplainedPolicies, ExplainedRequest, ExplainedRule, ExplainedService,
    ExplainedSession, ExplainedStep, ExplainedTransport, GrantRole,
};
use crate::telemetry::time::millis;

/// What is told of every question.
pub(super) fn begin(question: &Question, ground: &Ground<'_>) -> views::Explanation {
    let caller = ground.caller(question);
    let here = caller.node == *ground.node;
    let instances = ground.local.iter().filter(|(key, _)| here && caller.service.as_ref() == Some(key));
    let source = ExplainedStep::Source {
        result: caller.spiffe_id(ground.trust_domain).to_string(),
        instances: instances.map(|(_, name)| name.clone()).collect(),
    };
    views::Explanation {
        decision: String::new(),
        request: ExplainedRequest {
            method: question.method.clone(),
            url: question.url.clone(),
            headers: question.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect(),
        },
        steps: vec![source],
        policies: None,
        outcomes: Vec::new(),
        draw: None,
        observed: None,
    }
}

/// What is told of a decision.
pub(super) fn tell(
    ground: &Ground<'_>,
    question: &Question,
    (record, decision): (&Explanation, &Decision),
    told: &mut views::Explanation,
) {
    let service = service(ground, record);
    let known = service.is_some();
    told.steps.extend(service.map(|result| ExplainedStep::Service { result }));
    told.steps.extend(gateway(record).map(|result| ExplainedStep::Gateway { result }));
    let rule = decision.rule().map(AsRef::as_ref);
    if known || record.route.is_some() {
        told.steps.push(route(record.route.as_ref(), rule));
    }
    told.steps.extend(split(record, rule));
    told.steps.extend(session(record));
    let endpoints = endpoints(ground, record);
    let reached = record.outcomes.iter().any(|outcome| outcome.endpoints.is_some());
    if reached {
        let more = record.outcomes.iter().filter_map(|outcome| outcome.endpoints.as_ref()).map(|step| step.unlisted);
        told.steps.push(ExplainedStep::Endpoints { result: endpoints, more: more.sum() });
    }
    if let Some(result) = transport(ground, question, record) {
        told.steps.push(ExplainedStep::Transport { result });
        // No document of this release forbids anything.
        told.steps.push(ExplainedStep::Authorize { result: "allow".to_owned(), by: None });
    }
    let route_is_passed = record.outcomes.iter().any(|outcome| !matches!(outcome.decision, Decision::Refuse { .. }));
    // Deadlines and retries are those of requests.
    let of_requests = record.listener.is_none();
    if of_requests && (rule.is_some() || route_is_passed) {
        told.policies = Some(policies(ground, record, decision));
    }
}

fn service(ground: &Ground<'_>, record: &Explanation) -> Option<ExplainedService> {
    let service = ground.table.service(record.service.as_ref()?)?;
    let port = record.port.as_ref().and_then(|name| service.ports.iter().find(|port| port.name == *name));
    let document = service.spec().map(|spec| document(&spec.document, spec.version));
    Some(ExplainedService {
        namespace: service.key.namespace.to_string(),
        name: service.key.name.to_string(),
        protocol: service.protocol(record.port.as_ref()).to_string(),
        port: record.port.as_ref().map(ToString::to_string),
        number: port.and_then(|port| port.number).map(std::num::NonZeroU16::get),
        document,
    })
}

fn gateway(record: &Explanation) -> Option<ExplainedGateway> {
    let listener = record.listener.as_ref()?;
    Some(ExplainedGateway {
        document: document(&listener.gateway, listener.version),
        listener: listener.name.clone(),
        port: listener.port.get(),
        hostname: listener.hostname.clone(),
    })
}

fn document(key: &starling_model::DocumentKey, version: DocumentVersion) -> ExplainedDocument {
    ExplainedDocument {
        kind: key.kind.to_string(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        generation: version.generation.get(),
        key_id: version.signer.to_string(),
    }
}

fn rule_name(name: Option<&String>, place: u16) -> String {
    name.cloned().unwrap_or_else(|| place.to_string())
}

fn route(step: Option<&RouteStep>, rule: Option<&Rule>) -> ExplainedStep {
    let won = step.and_then(|step| step.winner.as_ref());
    let result = rule.zip(won).map(|(rule, won)| {
        let ExplainedDocument { kind, namespace, name, generation, key_id } = document(&rule.route, rule.version);
        let rule = rule_name(rule.name.as_ref(), rule.id.rule);
        ExplainedRule { kind, namespace, name, generation, key_id, rule, asks: won.asks.clone() }
    });
    ExplainedStep::Route {
        result,
        side: step.map(|step| match &step.side {
            Side::Producer => "producer".to_owned(),
            Side::Consumer(namespace) => format!("consumer {namespace}"),
            Side::Gateway(gateway) => format!("gateway {}/{}", gateway.namespace, gateway.name),
        }),
        rejected: step.map(|step| step.losers.iter().map(lost).collect()).unwrap_or_default(),
        rejected_more: step.map_or(0, |step| step.losers_unlisted),
        nearest: step.and_then(|step| step.nearest.as_ref()).map(lost),
    }
}

fn lost(loser: &Loser) -> ExplainedMatch {
    let (matched, missed) = (&loser.matched, &loser.missed);
    ExplainedMatch {
        route: matched.rule.route.to_string(),
        rule: rule_name(matched.name.as_ref(), matched.rule.rule),
        asks: matched.asks.clone(),
        because: vec![ExplainedMiss {
            matcher: missed.matcher.clone(),
            want: missed.want.clone(),
            got: missed.got.clone(),
            detail: missed.to_string(),
        }],
    }
}

fn split(record: &Explanation, rule: Option<&Rule>) -> Option<ExplainedStep> {
    use starling_routing::split::Backend;
    let (split, rule) = (record.split.as_ref()?, rule?);
    let weights = rule.split.weights();
    let backends = rule.split.backends().zip(weights).zip(&split.shares);
    let result = backends.map(|((backend, weight), (name, share))| ExplainedBackend {
        backend: name.clone(),
        subset: match backend {
            Backend::To { target, .. } => target.subset.as_ref().map(|subset| subset.name.to_string()),
            Backend::Invalid(_) => None,
        },
        weight,
        share: rounded(*share),
    });
    Some(ExplainedStep::Split { result: result.collect() })
}

/// That of what was drawn; else the first that some backend's service would keep.
fn session(record: &Explanation) -> Option<ExplainedStep> {
    let of_outcomes = || record.outcomes.iter().find_map(|outcome| outcome.session.as_ref());
    let step = record.session.as_ref().or_else(of_outcomes)?;
    let because = match step.kept {
        Kept::Yes => None,
        Kept::New { why, .. } => Some(why.to_string()),
    };
    Some(ExplainedStep::Session {
        result: ExplainedSession {
            cookie: step.cookie.clone(),
            kept: because.is_none(),
            because,
            absolute_timeout: step.absolute_timeout.map(starling_config::duration::format),
            lifetime: match step.lifetime {
                CookieLifetime::Session => "session",
                CookieLifetime::Permanent => "permanent",
            }
            .to_owned(),
        },
    })
}

/// Shares are shown with one digit of a percent.
fn rounded(share: f64) -> f64 {
    (share * 10_000.0).round() / 10_000.0
}

fn endpoints(ground: &Ground<'_>, record: &Explanation) -> Vec<ExplainedEndpoint> {
    let of = |outcome: &Outcome, step: &EndpointStep, one: &CandidateEndpoint| {
        let (health, reason) = health_of(&one.condition, one.member, &ground.clocks);
        ExplainedEndpoint {
            id: one.id.to_string(),
            node: one.id.node.to_string(),
            instance: one.id.instance.to_string(),
            backend: outcome.backend,
            subset: step.subset.as_ref().map(ToString::to_string),
            share: rounded(outcome.share * one.share),
            share_within: rounded(one.share),
            health: health.to_owned(),
            reason,
            in_flight: one.load.in_flight,
            latency_ewma_ms: one.load.latency.map(millis),
            chosen_by: step.by.to_string(),
        }
    };
    let steps = record.outcomes.iter().filter_map(|outcome| Some((outcome, outcome.endpoints.as_ref()?)));
    steps.flat_map(|(outcome, step)| step.candidates.iter().map(move |one| of(outcome, step, one))).collect()
}

/// To those that may be picked; `None`: to nobody.
fn transport(ground: &Ground<'_>, question: &Question, record: &Explanation) -> Option<ExplainedTransport> {
    let forwarded = record.outcomes.iter().filter(|outcome| matches!(outcome.decision, Decision::Forward(_)));
    let steps = forwarded.filter_map(|outcome| outcome.endpoints.as_ref());
    let likely: Vec<&CandidateEndpoint> =
        steps.flat_map(|step| &step.candidates).filter(|one| one.share > 0.0).collect();
    let nodes: BTreeSet<_> = likely.iter().map(|one| (&one.id.node, one.address)).collect();
    let destinations: BTreeSet<_> = likely.iter().map(|one| one.service.to_string()).collect();
    let peers: BTreeSet<_> = nodes.iter().map(|(node, _)| *node).collect();
    let address = |(node, address): &(&NodeName, Option<std::net::SocketAddr>)| {
        address.map_or_else(|| node.to_string(), |address| format!("{node}:{}", address.port()))
    };
    (!nodes.is_empty()).then(|| ExplainedTransport {
        peers: peers.into_iter().map(|node| SpiffeId::node(ground.trust_domain, node).to_string()).collect(),
        addresses: nodes.iter().map(address).collect(),
        open: ExplainedOpen {
            source: question.caller.service.as_ref().map(ToString::to_string),
            destinations: destinations.into_iter().collect(),
        },
        source_granted: ground.caller(question).service == question.caller.service,
        grants: grants(ground, question, &likely),
    })
}

/// The caller's claim, then each node that may take the request, in order.
fn grants(ground: &Ground<'_>, question: &Question, likely: &[&CandidateEndpoint]) -> Vec<ExplainedGrant> {
    let held = ground.table.grants();
    let one = |(role, service, node): (GrantRole, &ServiceKey, &NodeName)| ExplainedGrant {
        node: node.to_string(),
        role,
        service: service.to_string(),
        standing: held.standing(service, node).as_str().to_owned(),
        document: held.by(service, node).map(|by| document(&by.document, by.version)),
    };
    let caller = &question.caller;
    let claim = caller.service.iter().map(|service| (GrantRole::Call, service, &caller.node));
    let served: BTreeSet<_> = likely.iter().map(|one| (&one.service, &one.id.node)).collect();
    let served = served.into_iter().map(|(service, node)| (GrantRole::Serve, service, node));
    claim.chain(served).map(one).collect()
}

fn origin(origin: Origin) -> String {
    match origin {
        Origin::BuiltIn => "built in",
        Origin::Rule => "rule",
    }
    .to_owned()
}

/// Those of the rule; the budget is that of the service that takes the request, of the first one where there are several.
fn policies(ground: &Ground<'_>, record: &Explanation, decision: &Decision) -> ExplainedPolicies {
    let rule = decision.rule();
    let policy = rule.map_or(Policy::BUILT_IN, |rule| rule.policy.clone());
    let choices = record.outcomes.iter().map(|outcome| &outcome.decision).chain([decision]);
    let mut services = choices.filter_map(|one| match one {
        Decision::Forward(choice) => Some(choice.service_policy.as_deref()),
        Decision::Answer(_) | Decision::Refuse { .. } => None,
    });
    let service: Option<&ServicePolicy> = services.next().flatten();
    let budget = service.map_or(BudgetSettings::BUILT_IN, |service| service.retry_budget);
    let timeout = match policy.request.value {
        Deadline::Off => "0s".to_owned(),
        Deadline::Head(period) | Deadline::Whole(period) => starling_config::duration::format(period),
    };
    ExplainedPolicies {
        timeout,
        timeout_origin: origin(policy.request.origin),
        try_timeout: policy.backend_request.value.map(starling_config::duration::format),
        retries: policy.tries_max.value.saturating_sub(1),
        retries_origin: origin(policy.tries_max.origin),
        retry_codes: policy.retry_codes,
        budget_percent: budget.percent,
        budget_by: service.map(|service| service.document.to_string()),
        filters: rule.map(|rule| filters(rule, &|target: &Target| unsent(ground, record, target))).unwrap_or_default(),
    }
}

/// Why copies to a mirror's target are not sent.
fn unsent(ground: &Ground<'_>, record: &Explanation, target: &Target) -> Option<&'static str> {
    let service = record.service.as_ref().and_then(|key| ground.table.service(key));
    let kind = record.route.as_ref()?.kind;
    if ground.table.service(&target.service).is_none() {
        return Some("nobody announces it");
    }
    Some(match ground.table.trouble(service.map(|service| &**service), record.port.as_ref(), kind, target)? {
        Trouble::Bytes => "it speaks tcp",
        Trouble::NoPort => "it has no such port",
        Trouble::NoEndpoint => "it has no endpoint now",
    })
}

type Unsent<'a> = &'a dyn Fn(&Target) -> Option<&'static str>;

/// Of the rule, then of each backend that has some.
fn filters(rule: &Rule, unsent: Unsent<'_>) -> Vec<String> {
    use starling_routing::split::Backend;
    let mut all = of_chain(&rule.filters, "", unsent);
    for (at, backend) in rule.split.backends().enumerate() {
        if let Backend::To { filters: Some(chain), .. } = backend {
            all.extend(of_chain(chain, &format!("backend {at}: "), unsent));
        }
    }
    all
}

fn of_chain(chain: &FilterChain, whose: &str, unsent: Unsent<'_>) -> Vec<String> {
    let Filters { cors, request_headers, response_headers, mirrors, path } = chain.said();
    let mut all = Vec::new();
    if let Some(cors) = cors {
        all.push(format!("CORS for {}", cors.allow_origins.join(", ")));
    }
    all.extend(request_headers.as_ref().map(|edits| format!("request headers: {}", edited(edits))));
    for (place, mirror) in (0_u32..).zip(mirrors) {
        let mut targets = chain.mirror_targets();
        let target = targets.find(|(at, _)| *at == place).map(|(_, target)| target);
        let why = match target {
            Some(target) => unsent(target),
            None if mirror.numerator == 0 => None,
            None => Some("its target cannot be used"),
        };
        let why = why.map(|why| format!(": not sent, {why}")).unwrap_or_default();
        let percent = f64::from(mirror.numerator) * 100.0 / f64::from(mirror.denominator.get());
        all.push(format!("copies {percent} % to {}{why}", to(&mirror.target)));
    }
    match path {
        None => {}
        Some(PathFilter::Redirect(redirect)) => all.push(format!("redirects with {}", redirect.status.as_u16())),
        Some(PathFilter::Rewrite(rewrite)) => {
            all.extend(rewrite.hostname.as_ref().map(|host| format!("rewrites the host to {host}")));
            all.extend(rewrite.path.as_ref().map(|edit| match edit {
                PathEdit::Full(path) => format!("rewrites the path to {path}"),
                PathEdit::Prefix(prefix) => format!("rewrites the prefix to {prefix}"),
            }));
        }
    }
    all.extend(response_headers.as_ref().map(|edits| format!("response headers: {}", edited(edits))));
    all.into_iter().map(|one| format!("{whose}{one}")).collect()
}

fn to(target: &starling_config::documents::route::BackendTarget) -> String {
    use starling_config::documents::route::BackendTarget;
    match target {
        BackendTarget::Service(target) => target.service.to_string(),
        BackendTarget::Unknown { kind, name, .. } => format!("{kind} {name}"),
    }
}

fn edited(edits: &HeaderEdits) -> String {
    let set = edits.set.iter().map(|(name, _)| format!("sets {name}"));
    let add = edits.add.iter().map(|(name, _)| format!("adds {name}"));
    let remove = edits.remove.iter().map(|name| format!("removes {name}"));
    set.chain(add).chain(remove).collect::<Vec<_>>().join(", ")
}
