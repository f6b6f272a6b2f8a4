//! What a rule adds to a request's way through: its own answers, what it does to responses, and when it tries again.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use starling_model::ServiceKey;
use starling_routing::retry_budget::{BudgetSettings, RetryBudget};
use starling_routing::{Choice, Deadline, DirectResponse, Draws};

use crate::Map;
use crate::answers::ErrorType;
use crate::http::attempt::Answered;
use crate::http::body::ResponseBody;
use crate::http::exchange::Exchange;
use crate::http::head::Head;
use crate::limits::{BACKOFF_MAX, BUDGETS_MAX};
use crate::metrics::Edge;
use crate::worker::Worker;

/// A redirect, or what a preflight is told: it has no body and comes from nobody else, so it names the rule and the digest of
/// the documents (RFC 9209; without an error).
pub(crate) fn direct(worker: &Worker, mut exchange: Box<Exchange>, answer: DirectResponse) -> Response<ResponseBody> {
    exchange.answered(answer.status.as_u16(), None);
    exchange.completed();
    let mut response = Response::new(ResponseBody::Own(None));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    let digest = worker.shared.table.load().digest();
    let status = format!("starling-{}; details=\"{} config={digest}\"", worker.config.node, answer.rule);
    if let Ok(value) = HeaderValue::from_str(&status) {
        response.headers_mut().insert("proxy-status", value);
    }
    response
}

/// Whether the head as it came is wanted after this try: to be tried again, copied, or because filters changed it.
pub(crate) fn wants_head(choice: &Choice) -> bool {
    !choice.policy().retry_codes.is_empty() || choice.filters().any(|chain| !chain.is_empty())
}

/// What goes onto the response, known before the request is sent.
pub(crate) struct Back {
    cors: HeaderMap,
}

impl Back {
    pub(crate) fn new(choice: &Choice, head: &Head) -> Self {
        let mut cors = HeaderMap::new();
        for chain in choice.filters().filter(|chain| chain.said().cors.is_some()) {
            if let Some(request) = head.facts() {
                cors.extend(chain.cors_response(request.headers));
            }
        }
        Self { cors }
    }

    /// In the order of the standard: CORS, then the changes of rule and backend.
    pub(crate) fn edit(&self, choice: &Choice, headers: &mut HeaderMap) {
        for (name, value) in &self.cors {
            if name == header::VARY {
                // The application's own stays.
                headers.append(name.clone(), value.clone());
            } else {
                headers.insert(name.clone(), value.clone());
            }
        }
        choice.filters().for_each(|chain| chain.edit_response(headers));
    }
}

/// Tells the client where its session is, if it does not know; behind all filters, beside the application's own cookies.
/// What agents say by themselves begins no session.
pub(crate) fn keep_session(choice: &Choice, error: Option<ErrorType>, headers: &mut HeaderMap) {
    if let Some(set) = choice.set_cookie().filter(|_| error.is_none()) {
        headers.append(header::SET_COOKIE, set);
    }
}

/// Whether the rule wants a response with this status tried again. What the other agent says by itself is no status of the
/// application: after a connection that broke behind it, only what is `safe` runs twice, and anything else is final.
pub(crate) fn is_listed(choice: &Choice, answered: &Answered, safe: bool) -> bool {
    let listed = choice.policy().retry_codes.contains(&answered.answer.status().as_u16());
    match answered.said {
        None => listed,
        Some(Some(ErrorType::ConnectionTerminated)) => listed && safe,
        Some(_) => false,
    }
}

/// Whether another try may follow try number `tries`: the rule allows it, and the service's budget pays for it.
pub(crate) fn may_follow(worker: &Worker, choice: &Choice, tries: u32, edge: &Edge) -> bool {
    if tries >= choice.policy().tries_max.value {
        edge.retried("limit");
        return false;
    }
    let paid = worker.budgets.try_spend(choice, Instant::now());
    if !paid {
        edge.retried("budget");
    }
    paid
}

/// How long to wait before try number `tries` + 1: at least what the rule says, twice that after each further try, and up
/// to half as much again by the request's seed.
pub(crate) fn backoff(choice: &Choice, tries: u32, draws: Draws) -> Duration {
    let least = choice.policy().backoff.value;
    let grown = least.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(BACKOFF_MAX.max(least));
    grown + draws.jitter(tries, grown / 2)
}

/// When the response must be over; `None`: streams live on.
pub(crate) fn whole_deadline(choice: &Choice, began: Instant, sent: Instant) -> Option<Instant> {
    let policy = choice.policy();
    let whole = match policy.request.value {
        Deadline::Whole(period) => Some(began + period),
        Deadline::Head(_) | Deadline::Off => None,
    };
    let one = policy.backend_request.value.map(|period| sent + period);
    whole.into_iter().chain(one).min()
}

/// The retry budgets of one data thread, by service. A service has so many budgets as there are threads, each counting its
/// own requests: shares are the same, and the floor holds for each.
#[derive(Debug, Default)]
pub(crate) struct Budgets(RefCell<Map<ServiceKey, RetryBudget>>);

impl Budgets {
    /// Counts a first try.
    pub(crate) fn request(&self, choice: &Choice, now: Instant) {
        self.of(choice, now, |budget| budget.request(now));
    }

    /// Takes a retry out of the budget; false when it is spent.
    pub(crate) fn try_spend(&self, choice: &Choice, now: Instant) -> bool {
        self.of(choice, now, |budget| budget.try_spend(now))
    }

    fn of<T>(&self, choice: &Choice, now: Instant, run: impl FnOnce(&mut RetryBudget) -> T) -> T {
        let settings = choice.service_policy.as_ref().map_or(BudgetSettings::BUILT_IN, |policy| policy.retry_budget);
        let mut budgets = self.0.borrow_mut();
        if let Some(budget) = budgets.get_mut(&choice.service.key).filter(|budget| budget.settings() == settings) {
            return run(budget);
        }
        if budgets.len() >= BUDGETS_MAX {
            budgets.clear();
        }
        let mut budget = RetryBudget::new(settings, now);
        let done = run(&mut budget);
        budgets.insert(choice.service.key.clone(), budget);
        done
    }
}
