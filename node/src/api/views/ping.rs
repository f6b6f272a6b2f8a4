//! `GET /v1/members/{node}/ping`: is it there, and how far.

use serde::{Deserialize, Serialize};

use super::MemberConfig;

/// What some pings of one member gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ping {
    /// Whom.
    pub name: String,
    /// Where the connection leads; the announced address without one.
    pub address: Option<String>,
    /// True for the answering node itself: no packet was sent.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Pings sent.
    pub sent: u64,
    /// Answers.
    pub received: u64,
    /// Over all answers; `null` without any.
    pub rtt: Option<PingTimes>,
    /// Largest UDP payload of the path; `null` without a connection.
    pub path_mtu: Option<u16>,
    /// End of its issuing certificate; `null` while unknown.
    pub not_after: Option<String>,
    /// Documents in use there; `null` while unknown.
    pub config: Option<MemberConfig>,
    /// Each ping.
    pub replies: Vec<PingReply>,
}

/// Round trips in short.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PingTimes {
    /// Quickest, milliseconds.
    pub min_ms: f64,
    /// Mean.
    pub avg_ms: f64,
    /// Slowest.
    pub max_ms: f64,
}

/// One ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PingReply {
    /// Which, from 1.
    pub number: u64,
    /// Round trip, milliseconds; `null` without an answer.
    pub ms: Option<f64>,
    /// Why there was none.
    pub reason: Option<String>,
}
