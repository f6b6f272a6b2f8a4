//! One request's whole decision, told: what an agent answers to `/v1/explain`, and the command line out of a snapshot.
//!
//! A question becomes the head of a request ([`question`]), which is read as the HTTP entrance reads one and decided by
//! the function that decides live traffic; [`steps`] puts what it recorded into the shapes of the API. Nothing is decided
//! here.

mod outcomes;
mod question;
mod steps;

use std::time::{Instant, UNIX_EPOCH};

use starling_model::{NodeName, ServiceKey, TrustDomain};
use starling_proxy::answers::Answer;
use starling_proxy::http::asked::{Asked, by_host, read_head};
use starling_routing::{
    Caller, Decision, Destination, Draws, EndpointIndex, Load, RequestFacts, RouteTable, UnixSeconds,
};

use self::question::Asks;
pub use self::question::{NotLive, QUESTION_BYTES_MAX, Question, QuestionInvalid, Words};
use crate::api::views;
use crate::telemetry::time::Clocks;

/// What a question is answered by.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The table in use.
    pub table: &'a RouteTable,
    /// What was read of endpoints.
    pub loads: &'a dyn Fn(EndpointIndex) -> Load,
    /// The moment of that.
    pub clocks: Clocks,
    /// Whose view.
    pub node: &'a NodeName,
    /// Of its mesh.
    pub trust_domain: &'a TrustDomain,
    /// What runs on the node: services with the names of their instances.
    pub local: &'a [(ServiceKey, String)],
}

impl std::fmt::Debug for Ground<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground").field("node", self.node).finish_non_exhaustive()
    }
}

impl Ground<'_> {
    /// Whom the asked caller counts as.
    fn caller(&self, question: &Question) -> Caller {
        self.table.accept_source(&question.caller.node, question.caller.service.as_ref())
    }

    fn now(&self) -> Instant {
        self.clocks.now()
    }
}

/// Answers a question.
#[must_use]
pub fn explain(question: &Question, ground: &Ground<'_>) -> views::Explanation {
    let mut told = steps::begin(question, ground);
    let asked = match &question.asks {
        Asks::Http { host, target } => asked(question, ground, (host, target)),
        Asks::Tls { port, name } => {
            let destination = Destination::Gateway { port: *port, name: name.as_deref() };
            decide(question, ground, (destination, None), &mut told);
            return told;
        }
    };
    match asked {
        Ok((service, asked)) => {
            decide(question, ground, (Destination::Service(&service), Some(&asked)), &mut told);
        }
        Err(answer) => {
            told.outcomes = vec![outcomes::own(&answer)];
            told.decision = views::EXPLAINED_REFUSE.to_owned();
        }
    }
    told
}

/// The request as it is when it is decided; or what the entrance answers to it before that.
fn asked(question: &Question, ground: &Ground<'_>, at: (&str, &str)) -> Result<(ServiceKey, Asked), Answer> {
    let (method, uri, headers) = read_head(&question.head(at)).map_err(Answer::refused)?;
    let host = headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let service = by_host(ground.table, ground.table.domain(), host, false)?.key.clone();
    let asked = Asked::new((ground.table.domain(), &service), method, uri, headers)?;
    Ok((service, asked))
}

fn decide(
    question: &Question,
    ground: &Ground<'_>,
    (destination, asked): (Destination<'_>, Option<&Asked>),
    told: &mut views::Explanation,
) {
    let http = asked.map(Asked::facts);
    let caller = ground.caller(question);
    let request = RequestFacts {
        destination,
        port: None,
        source: caller.service.as_ref(),
        http: http.as_ref(),
        avoid: &[],
        node: Some(&question.caller.node),
        wall: UnixSeconds(ground.clocks.wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
    };
    let draws = Draws::from_seed(question.seed.unwrap_or_default());
    let (decision, record) = ground.table.explain(&request, ground.now(), draws, ground.loads);
    steps::tell(ground, question, (&record, &decision), told);
    told.outcomes = record.outcomes.iter().map(|outcome| outcomes::of(outcome, asked, &record)).collect();
    told.decision = outcomes::word(&told.outcomes);
    told.draw = question.seed.map(|seed| drawn(seed, &decision, &record));
}

/// What one seed gives.
fn drawn(seed: u64, decision: &Decision, record: &starling_routing::Explanation) -> views::ExplainedDraw {
    let endpoint = match decision {
        Decision::Forward(choice) => Some(choice.endpoint().id.to_string()),
        Decision::Answer(_) | Decision::Refuse { .. } => None,
    };
    let backend = record.split.as_ref().and_then(|split| split.drawn);
    let mirrors = record.mirrors.iter().map(ToString::to_string).collect();
    views::ExplainedDraw { seed: seed.to_string(), backend, endpoint, mirrors }
}
