//! `/v1/events`: what happened, in pages or as a stream.
//!
//! A page is JSON. With `follow`, or asked for by `Accept`, the answer is a stream that does not end: server-sent events,
//! or one JSON document on each line. A reader that comes back with `Last-Event-ID` (or `cursor`) is told how many events
//! it missed that are no longer remembered.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use jiff::Timestamp;
use serde_json::json;
use starling_model::codes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Shared;
use super::answer::{linked, read};
use super::problem::Refusal;
use super::query::Query;
use super::views::{EventPage, kind};
use crate::events::{Entry, KINDS};
use crate::shutdown::Phase;

/// How far back `since` may look as a duration.
const SINCE_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Streams at a time: they keep connections of the API busy, of which the socket has 16.
pub const FOLLOWERS_MAX: usize = 8;
/// A stream says at least this often that it is alive.
const ALIVE_PAUSE: Duration = Duration::from_secs(15);
/// Events that one write of a stream carries.
const BATCH: usize = 100;
/// Writes that wait for a slow reader; it then reads on from the ring, or learns what it missed.
const WRITES_WAITING: usize = 4;

/// Permits of the streams.
#[derive(Clone, Debug)]
pub struct Followers(Arc<Semaphore>);

impl Default for Followers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FOLLOWERS_MAX)))
    }
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
struct Wanted {
    since: Option<SystemTime>,
    kind: Option<String>,
    node: Option<String>,
}

impl Wanted {
    fn takes(&self, entry: &Entry) -> bool {
        self.since.is_none_or(|since| entry.at >= since)
            && self.kind.as_ref().is_none_or(|kind| entry.event.kind == *kind)
            && self.node.as_ref().is_none_or(|node| entry.event.node == *node)
    }
}

/// The form of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    ServerSent,
    Lines,
}

/// A page, or a stream.
///
/// # Errors
/// 400 for what makes no sense, 429 when too many follow.
pub async fn list(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let query = Query::read(query.as_deref(), &["since", "kind", "node", "limit", "cursor", "follow"])?;
    let limit = query.limit()?;
    let wanted = Wanted { since: since(&query)?, kind: of_kind(&query)?, node: query.get("node").map(str::to_owned) };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = match query.get("cursor").or(last) {
        None => 0,
        Some(id) => state.events.number(id).ok_or_else(|| {
            Refusal::malformed(format!("cursor {:?} is no id of an event", id.chars().take(80).collect::<String>()))
        })?,
    };
    if let Some(form) = form(&query, &headers)? {
        return follow(&state, wanted, after, form);
    }
    let slice = state.events.after(after, limit, |entry| wanted.takes(entry));
    let next = slice.more.then(|| state.events.id(slice.seen));
    let items = slice.entries.iter().map(|entry| entry.event.clone()).collect();
    let link = next.as_ref().map(|cursor| format!("/v1/events?cursor={cursor}&limit={limit}"));
    let page = EventPage { items, next, dropped: slice.dropped };
    Ok(linked(read(&state, &headers, kind::EVENT_LIST, page), link.as_deref()))
}

/// `5m`, or a time.
fn since(query: &Query) -> Result<Option<SystemTime>, Refusal> {
    match query.get("since").map(str::parse::<Timestamp>) {
        None => Ok(None),
        Some(Ok(at)) => Ok(Some(at.into())),
        Some(Err(_)) => {
            let ago = query.duration("since", SINCE_MAX)?;
            Ok(ago.map(|ago| SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)))
        }
    }
}

fn of_kind(query: &Query) -> Result<Option<String>, Refusal> {
    match query.get("kind") {
        Some(kind) if !KINDS.contains(&kind) => {
            Err(Refusal::malformed(format!("kind={kind} is unknown; known here: {}", KINDS.join(", "))))
        }
        kind => Ok(kind.map(str::to_owned)),
    }
}

fn form(query: &Query, headers: &HeaderMap) -> Result<Option<Form>, Refusal> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let asks = |kind: &str| accept.split(',').any(|part| part.split(';').next().unwrap_or("").trim() == kind);
    match query.get("follow") {
        Some("false") => Ok(None),
        _ if asks("text/event-stream") => Ok(Some(Form::ServerSent)),
        _ if asks("application/x-ndjson") => Ok(Some(Form::Lines)),
        Some("true" | "") => Ok(Some(Form::Lines)),
        Some(other) => Err(Refusal::malformed(format!("follow={other} is neither true nor false"))),
        None => Ok(None),
    }
}

fn follow(state: &Shared, wanted: Wanted, after: u64, form: Form) -> Result<Response, Refusal> {
    let permit = Arc::clone(&state.followers.0).try_acquire_owned().map_err(|_| {
        let what = format!("{FOLLOWERS_MAX} readers follow events already");
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, codes::API_LIMIT, what)
    })?;
    let (sender, receiver) = mpsc::channel(WRITES_WAITING);
    tokio::spawn(feed(Arc::clone(state), wanted, after, form, sender, permit));
    let kind = match form {
        Form::ServerSent => "text/event-stream",
        Form::Lines => "application/x-ndjson",
    };
    let mut response = Response::new(Body::new(Stream(receiver)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// Writes what is new, until the reader or the agent goes. Safe to drop at any `.await`: it owns nothing.
async fn feed(
    state: Shared,
    wanted: Wanted,
    mut after: u64,
    form: Form,
    sender: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
) {
    let mut added = state.events.subscribe();
    loop {
        added.mark_unchanged();
        let slice = state.events.after(after, BATCH, |entry| wanted.takes(entry));
        let mut text = String::new();
        if slice.dropped > 0 {
            match form {
                Form::ServerSent => {
                    text.push_str(&format!("event: dropped\ndata: {{\"dropped\":{}}}\n\n", slice.dropped))
                }
                Form::Lines => text.push_str(&format!("{}\n", json!({"dropped": slice.dropped}))),
            }
        }
        for entry in &slice.entries {
            let Ok(data) = serde_json::to_string(&entry.event) else { continue };
            match form {
                Form::ServerSent => {
                    text.push_str(&format!("event: {}\nid: {}\ndata: {data}\n\n", entry.event.kind, entry.event.id));
                }
                Form::Lines => text.push_str(&format!("{data}\n")),
            }
        }
        after = slice.seen;
        if !text.is_empty() && sender.send(text.into()).await.is_err() {
            return;
        }
        if slice.more {
            continue;
        }
        tokio::select! {
            changed = added.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(ALIVE_PAUSE) => {
                let alive = match form {
                    Form::ServerSent => ": alive\n\n",
                    Form::Lines => "\n",
                };
                if sender.send(Bytes::from_static(alive.as_bytes())).await.is_err() {
                    return;
                }
            }
            () = sender.closed() => return,
            () = state.lifecycle.reached(Phase::Draining) => return,
        }
    }
}

/// A body made of what is sent to it.
struct Stream(mpsc::Receiver<Bytes>);

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_asked_for_of_a_year_at_most() {
        let since = |text: &str| {
            let query = Query::read(Some(&format!("since={text}")), &["since"])?;
            since(&query)
        };
        let (longest, hour) = (SINCE_MAX.as_secs(), 3_600);
        assert!(since(&format!("{}h", longest / hour)).unwrap().is_some());
        let refused = since(&format!("{}h1s", longest / hour)).unwrap_err();
        assert_eq!(refused.status.as_u16(), 400);
        assert!(since("2020-01-01T00:00:00Z").unwrap().is_some(), "a time has no such bound");
    }
}
