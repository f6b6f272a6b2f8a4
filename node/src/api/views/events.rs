//! `GET /v1/events`: what happened, newest last.

use serde::{Deserialize, Serialize};

use super::Envelope;

/// One page of events.
pub type EventList = Envelope<EventPage>;

/// Body of [`EventList`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventPage {
    /// Oldest first.
    pub items: Vec<Event>,
    /// The cursor of the next page; `null` on the last one.
    pub next: Option<String>,
    /// Events between the cursor (or the agent's start) and the first one here that are no longer remembered.
    pub dropped: u64,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Boot epoch and number: a cursor, and the `Last-Event-ID` of streams.
    pub id: String,
    /// When this node saw it, by its clock.
    pub time: String,
    /// `membership`, `config` or `identity`.
    pub kind: String,
    /// The node that it is about; of a document the node that tells it.
    pub node: String,
    /// What it is about: the node, or a document (`HTTPRoute/orders`, `HTTPRoute/shop/orders`).
    pub subject: String,
    /// What happened, as one word: `suspected`, `probe_failed`, `failed`, …
    #[serde(rename = "type")]
    pub step: String,
    /// The same for people.
    pub what: String,
    /// Particulars by type; `null` where there are none.
    pub evidence: serde_json::Value,
}
