//! What holds for one request besides where it goes, each value with its origin.

use std::time::Duration;

use starling_config::documents::rule_policy::{Retry, Timeout, Timeouts};
use starling_config::documents::traffic_policy::{BackendTrafficPolicy, CircuitBreaker, OutlierDetection};
use starling_model::{DocumentKey, ServiceKey};

use crate::limits::{BACKOFF_MIN, CONNECT_TIMEOUT, HEAD_WAIT_MAX, REQUEST_TIMEOUT, RETRIES_BUILT_IN, TRIES_MAX};
use crate::retry_budget::BudgetSettings;
use crate::session::Session;

/// Who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is built in.
    BuiltIn,
    /// The rule that matched.
    Rule,
}

/// A value with its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective<T> {
    /// What holds.
    pub value: T,
    /// Who said so.
    pub origin: Origin,
}

impl<T> Effective<T> {
    const fn built_in(value: T) -> Self {
        Self { value, origin: Origin::BuiltIn }
    }

    fn of(rule: Option<T>, built_in: Self) -> Self {
        rule.map_or(built_in, |value| Self { value, origin: Origin::Rule })
    }
}

/// What a deadline bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Nothing.
    Off,
    /// From the request's arrival to the response head; streams live on.
    Head(Duration),
    /// From the request's arrival to the end of the response, all retries included (GEP-1742).
    Whole(Duration),
}

/// Effective deadlines and tries of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For everything.
    pub request: Effective<Deadline>,
    /// For one try, from its first byte to the full response; `None`: only the request's.
    pub backend_request: Effective<Option<Duration>>,
    /// One connection attempt.
    pub connect_timeout: Duration,
    /// Times the request is handed to an endpoint, first try included.
    pub tries_max: Effective<u32>,
    /// Statuses that are tried again; none without a `retry` block.
    pub retry_codes: Vec<u16>,
    /// Shortest wait before a retry.
    pub backoff: Effective<Duration>,
}

impl Policy {
    /// What holds where no document says otherwise.
    pub const BUILT_IN: Self = Self {
        request: Effective::built_in(Deadline::Head(REQUEST_TIMEOUT)),
        backend_request: Effective::built_in(None),
        connect_timeout: CONNECT_TIMEOUT,
        tries_max: Effective::built_in(TRIES_MAX),
        retry_codes: Vec::new(),
        backoff: Effective::built_in(BACKOFF_MIN),
    };

    /// What a rule says, and what is built in for the rest.
    #[must_use]
    pub fn of_rule(timeouts: Timeouts, retry: Option<&Retry>) -> Self {
        let built_in = Self::BUILT_IN;
        let request = timeouts.request.map(|timeout| match timeout {
            Timeout::Off => Deadline::Off,
            Timeout::After(period) => Deadline::Whole(period),
        });
        let backend_request = timeouts.backend_request.map(|timeout| match timeout {
            Timeout::Off => None,
            Timeout::After(period) => Some(period),
        });
        // A retry block without a number of attempts has the built-in one.
        let attempts = retry.map(|retry| retry.attempts.map_or(RETRIES_BUILT_IN, std::num::NonZeroU32::get));
        Self {
            request: Effective::of(request, built_in.request),
            backend_request: Effective::of(backend_request, built_in.backend_request),
            connect_timeout: built_in.connect_timeout,
            tries_max: Effective::of(attempts.map(|attempts| attempts.saturating_add(1)), built_in.tries_max),
            retry_codes: retry.map(|retry| retry.codes.clone()).unwrap_or_default(),
            backoff: Effective::of(retry.and_then(|retry| retry.backoff), built_in.backoff),
        }
    }

    /// How long a response head may take after the request came; [`HEAD_WAIT_MAX`] where nothing bounds it.
    #[must_use]
    pub fn head_timeout(&self) -> Duration {
        match self.request.value {
            Deadline::Off => HEAD_WAIT_MAX,
            Deadline::Head(period) | Deadline::Whole(period) => period.min(HEAD_WAIT_MAX),
        }
    }
}

/// What a BackendTrafficPolicy says of one service, with what is built in for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePolicy {
    /// The policy.
    pub document: DocumentKey,
    /// How many retries the service may cost.
    pub retry_budget: BudgetSettings,
    /// How much may be under way; what is absent is as built in.
    pub circuit_breaker: CircuitBreaker,
    /// When an endpoint is left alone; what is absent is as built in.
    pub outlier_detection: OutlierDetection,
    /// Keeps a client at one endpoint; a rule's own comes before it.
    pub session: Option<Session>,
}

impl ServicePolicy {
    /// As it holds for one of its targets: two services have no sessions in common.
    pub(crate) fn new(document: &DocumentKey, policy: &BackendTrafficPolicy, target: &ServiceKey) -> Self {
        let owner = || format!("Service {target}");
        let built_in = BudgetSettings::BUILT_IN;
        let said = policy.retry_constraint.unwrap_or_default();
        let retry_budget = BudgetSettings {
            percent: said.percent.unwrap_or(built_in.percent),
            interval: said.interval.unwrap_or(built_in.interval),
            floor: said.min_retry_rate.unwrap_or(built_in.floor),
        };
        Self {
            document: document.clone(),
            retry_budget,
            circuit_breaker: policy.circuit_breaker.unwrap_or_default(),
            outlier_detection: policy.outlier_detection.unwrap_or_default(),
            session: policy.session_persistence.as_ref().map(|wanted| Session::new(&owner(), wanted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn each_value_has_its_origin() {
        let policy = Policy::of_rule(Timeouts::default(), None);
        assert_eq!(policy, Policy::BUILT_IN);
        assert_eq!(policy.request, Effective { value: Deadline::Head(15 * S), origin: Origin::BuiltIn });
        let timeouts = Timeouts { request: Some(Timeout::After(2 * S)), backend_request: Some(Timeout::Off) };
        let retry = Retry { attempts: NonZeroU32::new(4), codes: vec![503], backoff: None };
        let policy = Policy::of_rule(timeouts, Some(&retry));
        assert_eq!(policy.request, Effective { value: Deadline::Whole(2 * S), origin: Origin::Rule });
        assert_eq!(policy.backend_request, Effective { value: None, origin: Origin::Rule });
        assert_eq!(policy.tries_max, Effective { value: 5, origin: Origin::Rule }, "attempts are retries");
        assert_eq!(policy.backoff, Effective { value: BACKOFF_MIN, origin: Origin::BuiltIn });
        let unsaid = Retry { attempts: None, codes: Vec::new(), backoff: None };
        assert_eq!(Policy::of_rule(timeouts, Some(&unsaid)).tries_max.value, RETRIES_BUILT_IN + 1);
    }

    #[test]
    fn a_switched_off_deadline_waits_no_longer_than_the_bound() {
        let after = |timeout| Policy::of_rule(Timeouts { request: Some(timeout), backend_request: None }, None);
        assert_eq!(after(Timeout::Off).head_timeout(), HEAD_WAIT_MAX);
        assert_eq!(after(Timeout::After(HEAD_WAIT_MAX + S)).head_timeout(), HEAD_WAIT_MAX);
        assert_eq!(after(Timeout::After(S)).head_timeout(), S);
    }
}
