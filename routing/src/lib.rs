//! Chooses where a request goes, given a table, a clock reading and a few drawn numbers.
//!
//! Facts arrive in the [`registry::Registry`] (members and what they announce) and as [`documents::Documents`] (what
//! operators said); [`compile::compile`] turns them into an immutable [`table::RouteTable`];
//! [`table::RouteTable::decide`] answers one request by it. A decision is a pure function of (table, request, seed,
//! loads, now): the live path, tests and explanations call the same code.
//!
//! Reading order: [`registry`], [`documents`], [`compile`], [`rules`], [`grants`], [`gateways`], [`table`]; a decision: `decide`,
//! [`group`], [`matching`], [`session`], [`split`], [`balance`], [`pick`], `maglev`, [`ewma`], [`filters`], [`policy`],
//! [`retry`], [`retry_budget`], [`explain`],
//! [`snapshot`]; for people: [`rows`], `troubles`.
//!
//! Not here: sockets, tasks, clocks, randomness, gossip types. Nothing waits and nothing is written.

pub mod authz;
pub mod balance;
pub mod compile;
mod decide;
pub mod decision;
pub mod documents;
pub mod ewma;
pub mod explain;
pub mod filters;
pub mod gateways;
pub mod grants;
pub mod group;
pub mod limits;
mod maglev;
pub mod matching;
pub mod pick;
pub mod policy;
pub mod problem;
pub mod registry;
pub mod retry;
pub mod retry_budget;
pub mod rows;
pub mod rules;
pub mod session;
pub mod snapshot;
pub mod split;
pub mod table;
mod troubles;

pub use authz::Caller;
pub use balance::ChosenBy;
pub use compile::{TableSettings, compile, guard};
pub use decision::{Choice, Decision, Destination, DirectResponse, Draws, MirrorTo, Refusal, RequestFacts};
pub use documents::{Denial, Denied, Documents, InUse};
pub use ewma::PeakEwma;
pub use explain::{Explanation, Outcome};
pub use gateways::{Gateways, Listener, server_name};
pub use grants::{GrantedBy, Grants, Removed, Standing};
pub use matching::{HttpFacts, Missed};
pub use pick::{Condition, Load, condition};
pub use policy::{Deadline, Effective, Origin, Policy, ServicePolicy};
pub use problem::{Finding, Reason};
pub use registry::{MemberFact, Registry};
pub use retry::{NextTry, TryOutcome, next_try};
pub use rows::{Row, RowRule};
pub use rules::{RouteKind, Rule, RuleId, Sessions, Side};
pub use session::{Began, Kept, Session, SessionKey, UnixSeconds};
pub use snapshot::Snapshot;
pub use table::{Endpoint, EndpointIndex, RouteTable, Service, ServicePort};
pub use troubles::{LedBy, Trouble, TroubledBackend};

#[cfg(test)]
mod tests;
