//! `/v1/members/{node}/ping`: round trips over the gossip connection, dialled when there is none.

use std::time::{Duration, Instant};

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use starling_gossip::PingAnswer;
use starling_gossip::limits::DATAGRAM_BYTES_MAX;
use starling_model::{Digest, NodeName, codes};
use tokio::sync::oneshot;

use super::Shared;
use super::answer::read;
use super::problem::Refusal;
use super::query::Query;
use super::views::{MemberConfig, Ping, PingReply, PingTimes, kind};
use crate::tasks::gossip::{MeshCommand, Pinged};
use crate::telemetry::time::{millis, rfc3339_seconds};

/// Most pings of one request.
const COUNT_MAX: u32 = 10;
/// Longest pause between two.
const INTERVAL_MAX: Duration = Duration::from_secs(2);
/// Pause unless it is asked for otherwise.
const INTERVAL: Duration = Duration::from_millis(200);
/// Bytes unless it is asked for otherwise.
const SIZE_DEFAULT: usize = 64;
/// The machine answers within 5 s; a little more for a task that was started again meanwhile.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(6);

/// Pings a member some times.
///
/// # Errors
/// 400 for what makes no sense, 404 for an unknown member, 503 when the mesh task does not answer.
pub async fn get(
    State(state): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let query = Query::read(query.as_deref(), &["count", "interval", "size"])?;
    let count = number(&query, "count", 1, 1..=COUNT_MAX)?;
    let least = 0..=u32::try_from(DATAGRAM_BYTES_MAX).unwrap_or(u32::MAX);
    let size = number(&query, "size", u32::try_from(SIZE_DEFAULT).unwrap_or(u32::MAX), least)?;
    let interval = query.duration("interval", INTERVAL_MAX)?.unwrap_or(INTERVAL);
    let missing = || {
        let help = "starling members lists the known names";
        Refusal::missing(format!("{} knows no member {name:?}", state.view.load().node)).with_help(help)
    };
    let target = NodeName::new(&name).map_err(|_| missing())?;
    let (mut replies, mut found) = (Vec::new(), None);
    for at in 0..count {
        if at > 0 {
            tokio::time::sleep(interval).await;
        }
        let pinged = once(&state, &target, usize::try_from(size).unwrap_or(DATAGRAM_BYTES_MAX)).await?;
        let (rtt, reason) = match pinged.answer {
            PingAnswer::Answered { rtt } => (Some(rtt), None),
            PingAnswer::Unknown => return Err(missing()),
            PingAnswer::TooMany => {
                return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, codes::API_LIMIT, "too many pings at a time"));
            }
            PingAnswer::Silent => (None, Some("no answer in 5 s".to_owned())),
            PingAnswer::NotReached(why) => (None, Some(format!("no connection: {why:?}").to_lowercase())),
        };
        replies.push(PingReply { number: u64::from(at) + 1, ms: rtt.map(millis), reason });
        found = pinged.path.or(found);
    }
    Ok(read(&state, &headers, kind::PING, show(&state, &target, found, replies)))
}

fn number(query: &Query, name: &str, usual: u32, range: std::ops::RangeInclusive<u32>) -> Result<u32, Refusal> {
    let Some(text) = query.get(name) else { return Ok(usual) };
    let parsed = text.parse().ok().filter(|number| range.contains(number));
    parsed.ok_or_else(|| {
        Refusal::malformed(format!("{name}={text} is no number from {} to {}", range.start(), range.end()))
    })
}

async fn once(state: &Shared, target: &NodeName, bytes: usize) -> Result<Pinged, Refusal> {
    let gone = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, "the mesh does not answer");
    let (reply, answer) = oneshot::channel();
    let began = Instant::now();
    if !state.mesh.offer(MeshCommand::Ping { target: target.clone(), bytes, reply }) {
        return Err(gone());
    }
    let mut pinged = tokio::time::timeout(ANSWER_TIME_MAX, answer).await.map_err(|_| gone())?.map_err(|_| gone())?;
    // To ourselves no packet goes; what is measured is the way through our own tasks.
    if *target == state.view.load().node {
        pinged.answer = PingAnswer::Answered { rtt: began.elapsed() };
    }
    Ok(pinged)
}

fn show(
    state: &Shared,
    target: &NodeName,
    path: Option<starling_transport::quic::PathFacts>,
    replies: Vec<PingReply>,
) -> Ping {
    let view = state.view.load();
    let member = view.member(target.as_str());
    let status = member.and_then(|member| member.status.as_ref());
    let times: Vec<f64> = replies.iter().filter_map(|reply| reply.ms).collect();
    #[expect(clippy::cast_precision_loss, reason = "a request has at most ten pings")]
    let rtt = (!times.is_empty()).then(|| PingTimes {
        min_ms: times.iter().copied().fold(f64::INFINITY, f64::min),
        avg_ms: (times.iter().sum::<f64>() / times.len() as f64 * 1e3).round() / 1e3,
        max_ms: times.iter().copied().fold(0.0, f64::max),
    });
    Ping {
        name: target.to_string(),
        address: path
            .map(|path| path.address.to_string())
            .or_else(|| member.and_then(|member| member.addresses.first()).map(ToString::to_string)),
        is_self: *target == view.node,
        sent: replies.len() as u64,
        received: times.len() as u64,
        rtt,
        path_mtu: path.map(|path| path.mtu),
        not_after: status
            .filter(|one| one.certificate_not_after > 0)
            .map(|one| rfc3339_seconds(one.certificate_not_after)),
        config: status.map(|status| MemberConfig {
            documents: u64::from(status.documents),
            digest: Digest(status.digest.0).to_string(),
            held_back_count: u64::from(status.held_back_count),
            held_back: Vec::new(),
        }),
        replies,
    }
}
