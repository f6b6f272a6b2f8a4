//! `BackendTrafficPolicy` of `starling/v1`: what holds for all requests to a service, whatever route they take.
//!
//! The retry budget has the names of GEP-3388.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::time::Duration;

use starling_model::{ServiceName, codes};

use super::fields::Fields;
use super::limits::{COUNT_MAX, PARENTS_MAX};
use super::rule_policy::{self, SessionPersistence};
use super::text;
use crate::schema::Bad;
use crate::values::{self, number};

/// Longest interval of a budget or of outlier detection.
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// Shortest such interval.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The `spec` of a BackendTrafficPolicy; what is absent is as built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTrafficPolicy {
    /// Services of the policy's own namespace; at least one.
    pub targets: Vec<ServiceName>,
    /// How many retries a service may cost.
    pub retry_constraint: Option<RetryConstraint>,
    /// How much may be under way; without effect in this release.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When an endpoint is left alone; without effect in this release.
    pub outlier_detection: Option<OutlierDetection>,
    /// Keeps a client at one endpoint; a rule's own comes before it.
    pub session_persistence: Option<SessionPersistence>,
}

/// The retry budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryConstraint {
    /// Retries per hundred requests, 0 to 100.
    pub percent: Option<u32>,
    /// Of how long.
    pub interval: Option<Duration>,
    /// Retries that are always there.
    pub min_retry_rate: Option<RetryRate>,
}

/// So many retries in such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryRate {
    /// How many.
    pub count: u32,
    /// In which time.
    pub interval: Duration,
}

/// Bounds of one agent towards one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Connections.
    pub max_connections: Option<u32>,
    /// Requests that wait for one.
    pub max_pending_requests: Option<u32>,
    /// Requests in flight.
    pub max_requests: Option<u32>,
}

/// When an endpoint is left alone, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Errors in a row.
    pub consecutive_errors: Option<u32>,
    /// How often success rates are compared.
    pub interval: Option<Duration>,
    /// Times the number of ejections.
    pub base_ejection_time: Option<Duration>,
    /// Largest share of endpoints, in percent; one is always allowed.
    pub max_ejection_percent: Option<u32>,
}

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<BackendTrafficPolicy> {
    fields.demand("targetRefs");
    let targets = fields.tables("targetRefs", PARENTS_MAX, target);
    fields.unique("targetRefs", "name");
    let retry_constraint = fields.table("retryConstraint", retry_constraint);
    let circuit_breaker = fields.table("circuitBreaker", |fields| {
        Some(CircuitBreaker {
            max_connections: fields.optional("maxConnections", number(1, COUNT_MAX)),
            max_pending_requests: fields.optional("maxPendingRequests", number(1, COUNT_MAX)),
            max_requests: fields.optional("maxRequests", number(1, COUNT_MAX)),
        })
    });
    let outlier_detection = fields.table("outlierDetection", |fields| {
        Some(OutlierDetection {
            consecutive_errors: fields.optional("consecutiveErrors", number(1, COUNT_MAX)),
            interval: fields.optional("interval", interval),
            base_ejection_time: fields.optional("baseEjectionTime", interval),
            max_ejection_percent: fields.optional("maxEjectionPercent", number(0, 100)),
        })
    });
    for key in ["circuitBreaker", "outlierDetection"] {
        if fields.has(key) {
            let message = format!("{key} has no effect in this release, which has no such protection");
            fields.warn(key, codes::DOCUMENT_IDLE, message);
        }
    }
    let session_persistence = fields.table("sessionPersistence", rule_policy::session_persistence);
    Some(BackendTrafficPolicy { targets, retry_constraint, circuit_breaker, outlier_detection, session_persistence })
}

fn interval(node: &crate::tree::Node) -> Result<Duration, Bad> {
    text::period(INTERVAL_MIN, INTERVAL_MAX)(node)
}

fn target(fields: &mut Fields<'_, '_>) -> Option<ServiceName> {
    let group = fields.optional("group", text::free).unwrap_or_default();
    let kind = fields.required("kind", |node| values::text(node));
    if kind.is_some_and(|kind| kind != "Service") {
        fields.bad("kind", Bad::new("is no kind that this policy holds for").note("Service is"));
    }
    if !matches!(group.as_str(), "" | "core" | "starling") {
        fields.bad("group", Bad::new("has no Service").note("leave it out"));
    }
    fields.required("name", values::name(ServiceName::new))
}

fn retry_constraint(fields: &mut Fields<'_, '_>) -> Option<RetryConstraint> {
    let budget = fields.table("budget", |fields| {
        Some((fields.optional("percent", number(0, 100)), fields.optional("interval", interval)))
    });
    let rate_given = fields.has("minRetryRate");
    let min_retry_rate = fields.table("minRetryRate", |fields| {
        let count = fields.required("count", number(0, COUNT_MAX));
        let interval = fields.required("interval", interval);
        Some(RetryRate { count: count?, interval: interval? })
    });
    if rate_given && min_retry_rate.is_none() {
        return None;
    }
    let (percent, interval) = budget.unwrap_or_default();
    Some(RetryConstraint { percent, interval, min_retry_rate })
}
