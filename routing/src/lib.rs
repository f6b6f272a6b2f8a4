//! Chooses where a request goes, given a table, a clock reading and a few drawn numbers.
//!
//! Facts arrive in the [`registry::Registry`] (members and what they announce); [`compile::compile`] turns them into an
//! immutable [`table::RouteTable`]; [`table::RouteTable::decide`] answers one request by it. A decision is a pure
//! function of (table, request, seed, loads, now): the live path, tests and explanations call the same code.
//!
//! Reading order: [`registry`], [`table`], [`pick`], [`ewma`], [`retry`]; for routes [`matching`], [`group`],
//! [`split`], [`filters`], [`retry_budget`], which no document reaches yet.
//!
//! Not here: sockets, tasks, clocks, randomness, gossip types. Nothing waits and nothing is written.

pub mod authz;
pub mod compile;
pub mod decision;
pub mod ewma;
pub mod filters;
pub mod group;
pub mod limits;
pub mod matching;
pub mod pick;
pub mod registry;
pub mod retry;
pub mod retry_budget;
pub mod split;
pub mod table;

pub use authz::Caller;
pub use compile::{TableSettings, compile};
pub use decision::{Choice, Decision, Draws, Policy, Refusal, RequestFacts};
pub use ewma::PeakEwma;
pub use pick::{Condition, Load, condition};
pub use registry::{MemberFact, Registry};
pub use retry::{NextTry, TryOutcome, next_try};
pub use table::{Endpoint, EndpointIndex, RouteTable, Service, ServicePort};

#[cfg(test)]
mod tests;
