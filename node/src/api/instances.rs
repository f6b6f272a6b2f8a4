//! `/v1/instances`: what this host announces; `PUT` and `DELETE` announce and withdraw.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use starling_config::{HealthProbe, HealthSpec, InstanceForm, InstanceSpec, RunAs};
use starling_model::{InstanceName, Readiness, codes};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shared;
use super::answer::{self, read};
use super::body::read_object;
use super::guard::Door;
use super::problem::Refusal;
use super::query::Query;
use super::views::{Check, Envelope, Instance, InstanceSource, Items, ProblemPart, Reason, kind};
use crate::store::Durability;
use crate::tasks::instances::{Announcer, InstanceCommand, LocalInstance, Refused};
use crate::telemetry::time::Clocks;

/// Time for the task's answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// All instances, by name.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn list(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let items = state.local.load().instances.iter().map(|instance| show(instance, None)).collect();
    Ok(read(&state, &headers, kind::INSTANCE_LIST, Items::<Instance> { items }))
}

/// One instance.
///
/// # Errors
/// 404 when this host announces none of that name.
pub async fn get(
    State(state): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let local = state.local.load_full();
    let instance = local.get(&name).ok_or_else(|| missing(&name))?;
    Ok(read(&state, &headers, kind::INSTANCE, show(instance, None)))
}

/// Announces an instance, or changes what was announced over the API.
///
/// # Errors
/// 400 for a malformed body, 403 for rights that the caller does not have, 409 for a name that a file holds, 507 when it
/// is announced but not on disk.
pub async fn put(
    State(state): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Extension(door): Extension<Door>,
    body: Body,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let name = parse_name(&name)?;
    let spec = read_spec(&name, body).await?;
    check_rights(&spec, door)?;
    command(&state, |reply| InstanceCommand::Put(Box::new(spec), reply)).await?;
    answer_with(&state, &headers, &name)
}

/// Withdraws an instance that was announced over the API.
///
/// # Errors
/// 404 when there is none, 409 when a file holds the name, 507 when it is withdrawn but not on disk.
pub async fn delete(
    State(state): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let name = parse_name(&name)?;
    let held = state.local.load().get(name.as_str()).cloned();
    command(&state, |reply| InstanceCommand::Delete(name.clone(), reply)).await?;
    let shown =
        held.as_ref().map(|held| show(held, Some(Durability::Durable))).ok_or_else(|| missing(name.as_str()))?;
    let envelope = Envelope::new(kind::INSTANCE, answer::view(&state, &Clocks::read()), shown);
    Ok(answer::render(&headers, StatusCode::OK, &envelope))
}

fn missing(name: &str) -> Refusal {
    Refusal::missing(format!("this host announces no instance {name:?}"))
        .with_help("GET /v1/instances lists what it announces")
}

fn parse_name(name: &str) -> Result<InstanceName, Refusal> {
    InstanceName::new(name).map_err(|invalid| Refusal::malformed(invalid.to_string()))
}

async fn read_spec(name: &InstanceName, body: Body) -> Result<InstanceSpec, Refusal> {
    const EXAMPLE: &str = r#"{"service": "web", "protocol": "http", "address": "127.0.0.1:8080"}"#;
    let form: InstanceForm = read_object(body, EXAMPLE).await?;
    form.resolve(Some(name)).map_err(|invalid| {
        let pointer = Some(format!("#/{}", invalid.field.replace('.', "/")));
        let detail = invalid.to_string();
        let mut refusal = Refusal::malformed(detail.clone());
        refusal.errors = vec![ProblemPart { pointer, line: None, column: None, detail }];
        refusal
    })
}

/// Who may call as the service: only root says a systemd unit, or another user.
fn check_rights(spec: &InstanceSpec, door: Door) -> Result<(), Refusal> {
    let denied = |detail: &str| {
        let help = "put it into a file of services.d, which belongs to root";
        Err(Refusal::new(StatusCode::FORBIDDEN, codes::API_DENIED, detail).with_help(help))
    };
    let caller = match door {
        Door::Socket { uid: 0, .. } => return Ok(()),
        Door::Socket { uid, .. } => Some(uid),
        Door::Tcp => None,
    };
    if spec.unit.is_some() {
        return denied("only root names a unit");
    }
    match &spec.run_as {
        None => Ok(()),
        Some(RunAs::Uid(uid)) if Some(*uid) == caller => Ok(()),
        Some(RunAs::Uid(_)) => denied("run_as can only be the caller's own user"),
        Some(RunAs::User(_)) => denied("run_as over the API is the caller's own uid, as a number"),
    }
}

async fn command(
    state: &Shared,
    make: impl FnOnce(oneshot::Sender<Result<Durability, Refused>>) -> InstanceCommand,
) -> Result<(), Refusal> {
    let busy = |detail: &str| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, detail);
    let (reply, answer) = oneshot::channel();
    if state.instances.try_send(make(reply)).is_err() {
        return Err(busy("too many announcements wait"));
    }
    match timeout(DEADLINE, answer).await {
        Ok(Ok(Ok(Durability::Durable))) => Ok(()),
        Ok(Ok(Ok(Durability::Memory))) => Err(Refusal::not_durable("the change holds until the agent ends")),
        Ok(Ok(Err(refused))) => Err(refuse(&refused)),
        Ok(Err(_)) | Err(_) => Err(busy("the announcement was not answered in time")),
    }
}

fn refuse(refused: &Refused) -> Refusal {
    let detail = refused.to_string();
    match refused {
        Refused::HeldByFile(..) => Refusal::new(StatusCode::CONFLICT, codes::BAD_REQUEST, detail)
            .with_help("a file of services.d wins over the API: change the file, or choose another name"),
        Refused::Missing(_) => Refusal::missing(detail).with_help("GET /v1/instances lists what it announces"),
        Refused::Full => Refusal::new(StatusCode::CONFLICT, codes::API_LIMIT, detail),
        Refused::Draining => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, detail),
    }
}

/// What was put, once it is on disk.
fn answer_with(state: &Shared, headers: &HeaderMap, name: &InstanceName) -> Result<Response, Refusal> {
    let local = state.local.load_full();
    let instance = local.get(name.as_str()).ok_or_else(|| missing(name.as_str()))?;
    let envelope =
        Envelope::new(kind::INSTANCE, answer::view(state, &Clocks::read()), show(instance, Some(Durability::Durable)));
    Ok(answer::render(headers, StatusCode::OK, &envelope))
}

fn show(held: &LocalInstance, durability: Option<Durability>) -> Instance {
    let spec = &held.spec;
    let (source, path) = match &held.announcer {
        Announcer::File(path) => ("file", Some(path.clone())),
        Announcer::Api => ("api", None),
    };
    let code = match held.readiness {
        Readiness::Ready => None,
        Readiness::Unready => Some("health_check"),
        Readiness::Draining => Some("draining"),
    };
    Instance {
        name: spec.name.to_string(),
        namespace: spec.namespace.to_string(),
        service: spec.service.to_string(),
        port: spec.port.to_string(),
        protocol: spec.protocol.to_string(),
        address: spec.address.to_string(),
        labels: spec.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        weight: spec.weight.get(),
        health: held.readiness.as_str().to_owned(),
        reason: code.map(|code| Reason {
            code: code.to_owned(),
            detail: held.detail.clone().unwrap_or_default(),
            until: None,
        }),
        check: spec.health.as_ref().map(show_check),
        source: InstanceSource { kind: source.to_owned(), path },
        durable: durability.map(|durability| durability == Durability::Durable),
    }
}

fn show_check(spec: &HealthSpec) -> Check {
    let (kind, path) = match &spec.probe {
        HealthProbe::Http(path) => ("http", Some(path.clone())),
        HealthProbe::Tcp => ("tcp", None),
    };
    Check {
        kind: kind.to_owned(),
        path,
        interval: starling_config::duration::format(spec.interval),
        timeout: starling_config::duration::format(spec.timeout),
        unhealthy: spec.unhealthy.get(),
        healthy: spec.healthy.get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, door: Door, want: Result<(), u16>) {
        let form: InstanceForm = serde_json::from_str(json).unwrap();
        let spec = form.resolve(Some(&InstanceName::new("web").unwrap())).unwrap();
        assert_eq!(check_rights(&spec, door).map_err(|refusal| refusal.status.as_u16()), want, "{json}");
    }

    #[test]
    fn only_root_speaks_for_other_users_and_for_units() {
        let json = |extra: &str| format!(r#"{{"service":"web","protocol":"http","address":"127.0.0.1:80"{extra}}}"#);
        let (root, user) = (Door::Socket { uid: 0, pid: None }, Door::Socket { uid: 1000, pid: None });
        check(&json(""), user, Ok(()));
        check(&json(""), Door::Tcp, Ok(()));
        check(&json(r#","run_as":1000"#), user, Ok(()));
        check(&json(r#","run_as":1001"#), user, Err(403));
        check(&json(r#","run_as":"web""#), user, Err(403));
        check(&json(r#","run_as":1000"#), Door::Tcp, Err(403));
        check(&json(r#","run_as":"web""#), root, Ok(()));
        check(&json(r#","run_as":7"#), root, Ok(()));
        check(&json(r#","unit":"web.service""#), root, Ok(()));
        check(&json(r#","unit":"web.service""#), user, Err(403));
        check(&json(r#","unit":"web.service""#), Door::Tcp, Err(403));
    }
}
