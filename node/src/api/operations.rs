//! `POST /v1/join` and `/v1/leave`: things that take longer than a request, and `/v1/operations/{id}` to ask again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use starling_gossip::{MemberView, Seed};
use starling_model::codes;
use tokio::time::timeout;

use super::Shared;
use super::answer;
use super::body::read_object;
use super::problem::Refusal;
use super::query::Query;
use super::views::{Envelope, JoinRequest, Operation, kind};
use crate::mesh_view::MeshView;
use crate::shutdown::Phase;
use crate::tasks::gossip::MeshCommand;
use crate::telemetry::time::{Clocks, rfc3339_millis};

/// Operations remembered.
const OPERATIONS_MAX: usize = 16;
/// Longest wait of one request.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Most seeds in one request.
const SEEDS_MAX: usize = 16;
/// How often a waiting join looks at the view.
const JOIN_LOOK: Duration = Duration::from_millis(50);

/// How long a join that nobody waits for may run until it counts as failed: a few rounds of dialling.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);

/// The newest operations.
#[derive(Clone, Debug, Default)]
pub struct Operations(Arc<Mutex<(u64, VecDeque<Operation>)>>);

/// What a join waits for.
#[derive(Clone, Debug)]
struct Dialled {
    seeds: Vec<String>,
    /// Members alive when it began.
    before: u64,
}

impl Dialled {
    /// More members than before, or one of the seeds is a member already.
    fn is_done(&self, view: &MeshView) -> bool {
        let known = |member: &MemberView| {
            member.name != view.node && member.addresses.iter().any(|address| self.seeds.contains(&address.to_string()))
        };
        view.counts().alive > self.before || view.alive().any(known)
    }
}

impl Operations {
    fn begin(&self, verb: &str) -> Operation {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.0 += 1;
        let operation = Operation {
            id: format!("{verb}-{}", held.0),
            verb: verb.to_owned(),
            state: "running".to_owned(),
            started_at: rfc3339_millis(SystemTime::now()),
            finished_at: None,
            detail: None,
            acknowledged: None,
            withdrawn: Vec::new(),
            problem: None,
        };
        if held.1.len() >= OPERATIONS_MAX {
            held.1.pop_front();
        }
        held.1.push_back(operation.clone());
        operation
    }

    fn save(&self, operation: &Operation) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = held.1.iter_mut().find(|held| held.id == operation.id) {
            place.clone_from(operation);
        }
    }

    fn find(&self, found: impl Fn(&Operation) -> bool) -> Option<Operation> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.1.iter().rev().find(|operation| found(operation)).cloned()
    }
}

/// One operation.
///
/// # Errors
/// 404 when it is unknown or too old.
pub async fn get(
    State(state): State<Shared>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let operation = state.operations.find(|held| held.id == id);
    let operation = operation.ok_or_else(|| Refusal::missing(format!("no operation {id:?}")))?;
    Ok(answer::read(&state, &headers, kind::OPERATION, operation))
}

/// Dials further seeds.
///
/// # Errors
/// 400 for a malformed body, 503 while leaving.
pub async fn join(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let wait = Query::read(query.as_deref(), &["wait"])?.duration("wait", WAIT_MAX)?;
    let request: JoinRequest = read_object(body, r#"{"seeds": ["HOST:7740"]}"#).await?;
    check_seeds(&request.seeds)?;
    if state.lifecycle.phase() >= Phase::Draining {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, "the agent is leaving"));
    }
    let seeds = request.seeds.iter().cloned().map(Seed).collect();
    let dialled = Dialled { before: state.view.load().counts().alive, seeds: request.seeds };
    if !state.mesh.offer(MeshCommand::Join(seeds)) {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, "too many commands wait"));
    }
    let mut operation = state.operations.begin("join");
    // It goes on when the asker does not wait, or not long enough; it ends by itself within the patience.
    let following = tokio::spawn(follow(Arc::clone(&state), operation.clone(), dialled));
    if let Some(wait) = wait
        && let Ok(Ok(ended)) = timeout(wait, following).await
    {
        operation = ended;
    }
    Ok(show(&state, &headers, operation))
}

/// Watches the view until a join has an outcome. Bounded by [`JOIN_PATIENCE`].
async fn follow(state: Shared, mut operation: Operation, dialled: Dialled) -> Operation {
    let done = async {
        while !dialled.is_done(&state.view.load()) {
            tokio::time::sleep(JOIN_LOOK).await;
        }
    };
    if timeout(JOIN_PATIENCE, done).await.is_ok() {
        let alive = state.view.load().counts().alive;
        operation.state = "done".to_owned();
        operation.detail = Some(format!("{alive} members alive"));
    } else {
        let what = format!("no answer from {} in {} s", dialled.seeds.join(", "), JOIN_PATIENCE.as_secs());
        let refusal = Refusal::new(StatusCode::GATEWAY_TIMEOUT, codes::NO_QUIC_ANSWER, what);
        operation.state = "failed".to_owned();
        operation.problem = Some(refusal.document("/v1/join"));
    }
    operation.finished_at = Some(rfc3339_millis(SystemTime::now()));
    state.operations.save(&operation);
    operation
}

fn check_seeds(seeds: &[String]) -> Result<(), Refusal> {
    if seeds.is_empty() || seeds.len() > SEEDS_MAX {
        return Err(Refusal::malformed(format!("{} seeds; between 1 and {SEEDS_MAX} are allowed", seeds.len())));
    }
    for seed in seeds {
        let good = seed.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && host.len() <= 255 && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !good {
            return Err(Refusal::malformed(format!(
                "seed {:?} is not HOST:PORT",
                seed.chars().take(80).collect::<String>()
            )));
        }
    }
    Ok(())
}

/// Leaves the mesh; the agent ends afterwards.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn leave(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let wait = Query::read(query.as_deref(), &["wait"])?.duration("wait", WAIT_MAX)?;
    let running = state.operations.find(|held| held.verb == "leave" && held.state == "running");
    let mut operation = match running {
        Some(operation) => operation,
        None => {
            let mut begun = state.operations.begin("leave");
            begun.withdrawn = state.local.load().services().iter().map(ToString::to_string).collect();
            state.operations.save(&begun);
            begun
        }
    };
    state.lifecycle.stop("leave was asked for over the API");
    if let Some(wait) = wait
        && let Ok(left) = timeout(wait, state.lifecycle.leave_done()).await
    {
        operation.state = "done".to_owned();
        operation.acknowledged = Some(left.acknowledged as u64);
        operation.finished_at = Some(rfc3339_millis(SystemTime::now()));
        state.operations.save(&operation);
    }
    Ok(show(&state, &headers, operation))
}

fn show(state: &Shared, headers: &HeaderMap, operation: Operation) -> Response {
    let running = operation.state == "running";
    let location = HeaderValue::from_str(&format!("/v1/operations/{}", operation.id));
    let status = if running { StatusCode::ACCEPTED } else { StatusCode::OK };
    let envelope = Envelope::new(kind::OPERATION, answer::view(state, &Clocks::read()), operation);
    let mut response = answer::render(headers, status, &envelope);
    if let (true, Ok(location)) = (running, location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_hosts_with_ports() {
        let check =
            |seeds: &[&str]| check_seeds(&seeds.iter().map(|seed| (*seed).to_owned()).collect::<Vec<_>>()).is_ok();
        assert!(check(&["10.0.0.11:7740", "vm-1.example:7740", "[::1]:7740"]));
        for bad in ["", "vm-1", ":7740", "vm-1:0", "vm-1:seven", "vm-1:99999"] {
            assert!(!check(&[bad]), "{bad}");
        }
        assert!(!check(&[]) && !check(&["a:1"; 17]));
    }

    #[test]
    fn a_join_is_done_with_a_new_member_or_one_that_was_there() {
        use crate::mesh_view::tests::member;
        let now = std::time::Instant::now();
        let mut view = MeshView::empty("vm-1".parse().unwrap(), starling_model::BootEpoch(7), now);
        view.members = vec![member("vm-1", starling_model::MemberState::Alive, now)];
        let own = view.members[0].addresses.iter().map(ToString::to_string).collect();
        assert!(!Dialled { seeds: own, before: 1 }.is_done(&view), "this node itself is nobody to join");
        view.members.push(member("vm-2", starling_model::MemberState::Alive, now));
        let other: Vec<String> = view.members[1].addresses.iter().map(ToString::to_string).collect();
        assert!(Dialled { seeds: Vec::new(), before: 1 }.is_done(&view));
        assert!(!Dialled { seeds: Vec::new(), before: 2 }.is_done(&view));
        assert_eq!(Dialled { seeds: other.clone(), before: 2 }.is_done(&view), !other.is_empty());
    }

    #[test]
    fn only_the_newest_operations_are_remembered() {
        let operations = Operations::default();
        for _ in 0..=OPERATIONS_MAX {
            operations.begin("join");
        }
        assert!(operations.find(|held| held.id == "join-1").is_none());
        assert!(operations.find(|held| held.id == "join-17").is_some());
    }
}
