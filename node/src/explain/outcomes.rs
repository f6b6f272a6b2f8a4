//! What becomes of a request's shares, in the shapes of the API.

use http::header;
use starling_proxy::answers::Answer;
use starling_proxy::http::asked::Asked;
use starling_routing::explain::Loser;
use starling_routing::{Decision, Explanation, Outcome, Refusal};

use crate::api::views::{
    EXPLAINED_ANSWER, EXPLAINED_FORWARD, EXPLAINED_MIXED, EXPLAINED_REFUSE, ExplainedOutcome, ExplainedTarget,
};

/// What the entrance answers before anything is decided.
pub(super) fn own(answer: &Answer) -> ExplainedOutcome {
    refused(None, 1.0, (answer.status.as_u16(), answer.error.as_str()), answer.detail.clone())
}

fn refused(backend: Option<usize>, share: f64, (status, error): (u16, &str), detail: String) -> ExplainedOutcome {
    ExplainedOutcome {
        backend,
        share,
        decision: EXPLAINED_REFUSE.to_owned(),
        status: Some(status),
        error: Some(error.to_owned()),
        detail: Some(detail),
        location: None,
        endpoints: Vec::new(),
        sent: None,
    }
}

/// One share.
pub(super) fn of(outcome: &Outcome, asked: Option<&Asked>, record: &Explanation) -> ExplainedOutcome {
    let Outcome { backend, share, decision, endpoints, session: _ } = outcome;
    match decision {
        Decision::Forward(choice) => {
            let mut sent = None;
            // The bytes of a connection arrive as they are.
            if let Some(asked) = asked {
                let mut edited = asked.clone();
                if edited.edit(choice).is_err() {
                    let detail = "the rewritten target is no URI".to_owned();
                    return refused(*backend, *share, (400, Refusal::NoLocation.proxy_error()), detail);
                }
                let host = edited.facts().authority.to_owned();
                sent = Some(ExplainedTarget { target: edited.target().to_string(), host });
            }
            let candidates = endpoints.iter().flat_map(|step| &step.candidates);
            let likely = candidates.filter(|one| one.share > 0.0);
            ExplainedOutcome {
                backend: *backend,
                share: *share,
                decision: EXPLAINED_FORWARD.to_owned(),
                status: None,
                error: None,
                detail: None,
                location: None,
                endpoints: likely.map(|one| one.id.to_string()).collect(),
                sent,
            }
        }
        Decision::Answer(answer) => {
            let location = answer.headers.get(header::LOCATION);
            ExplainedOutcome {
                backend: *backend,
                share: *share,
                decision: EXPLAINED_ANSWER.to_owned(),
                status: Some(answer.status.as_u16()),
                error: None,
                detail: None,
                location: location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
                endpoints: Vec::new(),
                sent: None,
            }
        }
        Decision::Refuse { why, .. } => {
            let told = refused(*backend, *share, (why.status(), why.proxy_error()), sentence(*why, *backend, record));
            // A connection has no status: it is closed.
            ExplainedOutcome { status: told.status.filter(|_| asked.is_some()), ..told }
        }
    }
}

/// Why, with the nearest miss where nothing holds.
fn sentence(why: Refusal, backend: Option<usize>, record: &Explanation) -> String {
    let service = record.service.as_ref().map_or_else(|| "the service".to_owned(), ToString::to_string);
    let split = record.split.as_ref();
    let name = backend.and_then(|at| split?.shares.get(at)).map(|(name, _)| name.clone());
    match why {
        Refusal::NoService => format!("no node announces {service}"),
        Refusal::NoPort => format!("{service} has no such port"),
        Refusal::NoListener => "no Gateway listens there on this node for that server name".to_owned(),
        Refusal::NoRule if record.listener.is_some() => {
            "no route of the listener is for that server name: the connection is closed with unrecognized_name"
                .to_owned()
        }
        Refusal::NoRule => {
            let nearest = record.route.as_ref().and_then(|route| route.nearest.as_ref());
            let nearest = nearest.map(|loser| format!(". Nearest: {}", told(loser))).unwrap_or_default();
            format!("no rule of the routes of {service} matches{nearest}")
        }
        Refusal::NoBackend if split.is_none_or(|split| split.shares.is_empty()) => "the rule has no backend".to_owned(),
        Refusal::NoBackend => "all backends of the rule have weight 0".to_owned(),
        Refusal::InvalidBackend => format!("backend {} cannot be used", name.unwrap_or_default()),
        Refusal::NoLocation => "the request's own bytes make no Location".to_owned(),
        Refusal::NoEndpoint => format!("{} has no endpoint that may be used now", name.unwrap_or(service)),
    }
}

/// `rule "testers": header x-canary is absent (needs "always")`
fn told(loser: &Loser) -> String {
    let rule = match &loser.matched.name {
        Some(name) => format!("rule \"{name}\""),
        None => format!("rule {}", loser.matched.rule.rule),
    };
    format!("{rule} of {}: {}", loser.matched.rule.route, loser.missed)
}

/// The word for all of them.
pub(super) fn word(outcomes: &[ExplainedOutcome]) -> String {
    let mut words = outcomes.iter().map(|outcome| outcome.decision.as_str());
    let first = words.next().unwrap_or(EXPLAINED_REFUSE);
    if words.all(|word| word == first) { first } else { EXPLAINED_MIXED }.to_owned()
}
