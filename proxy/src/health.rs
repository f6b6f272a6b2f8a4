//! Active checks of this node's own instances. Nobody checks another node's backend: its owner says how it is.
//!
//! [`hysteresis`] is the pure judge; [`checks`] asks the instance. The first check runs at once and its result counts
//! alone, so an instance is announced ready (or not) within one check; from then on the thresholds hold.

use std::net::SocketAddr;
use std::time::Duration;

use starling_model::InstanceName;

pub mod checks;
pub mod hysteresis;

pub use checks::run_check;
pub use hysteresis::Hysteresis;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// `GET` of this path answers 2xx; redirects are not followed and count as failed.
    Http {
        /// Path and query, starting with `/`.
        path: String,
    },
    /// A connection is accepted.
    Tcp,
}

/// How an instance is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// So many failures in a row make a ready instance unready; at least 1.
    pub unhealthy: u32,
    /// So many successes in a row make an unready instance ready; at least 1.
    pub healthy: u32,
}

/// One instance to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckTarget {
    /// Its name, given back with every transition.
    pub instance: InstanceName,
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is checked.
    pub check: HealthCheck,
}

/// An instance changed between ready and unready, or was judged for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Which instance.
    pub instance: InstanceName,
    /// How it is from here on.
    pub verdict: Verdict,
    /// What the last check found, for logs and tables: `503 in 4 ms`, `connection refused`.
    pub detail: String,
}

/// What checks make of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes traffic.
    Ready,
    /// It does not.
    Unready,
}
