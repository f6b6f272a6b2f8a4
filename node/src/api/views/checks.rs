//! `GET /v1/checks`: what is in order here, and what is not.

use serde::{Deserialize, Serialize};

/// All checks of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// In the order in which they are shown: groups stay together.
    pub items: Vec<CheckLine>,
    /// How many are in order.
    pub ok: u64,
    /// How many somebody should look at.
    pub warnings: u64,
    /// How many are wrong.
    pub errors: u64,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckLine {
    /// `host`, `trust`, `gossip`, `agreement` or `data plane`.
    pub group: String,
    /// `ok`, `warning` or `error`.
    pub level: String,
    /// What was found.
    pub text: String,
    /// The catalogue entry of what is not in order; empty for what is, or where there is none.
    pub code: String,
    /// What to do; empty for what is in order.
    pub help: String,
}

impl CheckReport {
    /// The report of these lines.
    #[must_use]
    pub fn new(items: Vec<CheckLine>) -> Self {
        let count = |level: &str| items.iter().filter(|line| line.level == level).count() as u64;
        Self { ok: count("ok"), warnings: count("warning"), errors: count("error"), items }
    }
}
