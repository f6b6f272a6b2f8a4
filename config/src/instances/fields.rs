//! The fields of `[[instance]]`: names, rules, and the way from checked TOML to [`InstanceForm`].

use std::net::SocketAddr;

use starling_model::limits::WEIGHT_MAX;
use starling_model::{InstanceName, Namespace, PortName, Protocol, ServiceName, Weight, codes};

use super::{
    CHECK_PERIOD_MAX, CHECK_PERIOD_MIN, FormInvalid, HealthForm, HealthSpec, InstanceForm, RunAs, THRESHOLD_MAX,
    invalid,
};
use crate::problem::Problem;
use crate::schema::{Bad, Field, Form};
use crate::tree::{self, Node, Table, Value};
use crate::values;

pub(super) const TOP: &[Field] =
    &[Field::tables("instance", INSTANCE).rule("a list of [[instance]] tables, one for each port of a service")];

pub(super) const INSTANCE: &[Field] = &[
    Field::leaf("service", Form::Text, |node| values::name(ServiceName::new)(node).map(drop))
        .rule("the name of the service that this is an instance of")
        .required(),
    Field::leaf("namespace", Form::Text, |node| values::name(Namespace::new)(node).map(drop))
        .rule("the service's namespace; the default is \"default\""),
    Field::leaf("name", Form::Text, |node| values::name(InstanceName::new)(node).map(drop))
        .rule("unique on this node; the default is the service's name"),
    Field::leaf("port", Form::Text, |node| values::name(PortName::new)(node).map(drop))
        .rule("the name of the service's port; the default is the protocol's word"),
    Field::leaf("protocol", Form::Text, |node| protocol(node).map(drop))
        .rule("\"http\", \"grpc\", \"tcp\", or \"detect\" to find out for each connection")
        .required(),
    Field::leaf("address", Form::Text, |node| values::instance_address(node).map(drop))
        .rule("where it listens on this host, like \"127.0.0.1:8080\"")
        .required(),
    Field::leaf("labels", Form::Pairs, |node| values::labels(node).map(drop)).rule("a table like { version = \"v2\" }"),
    Field::leaf("weight", Form::Toml, |node| values::number(0, WEIGHT_MAX)(node).map(drop))
        .rule("its share among instances; the default is 100"),
    Field::leaf("run_as", Form::Text, |node| run_as(node).map(drop))
        .rule("the user, by name or number, whose processes call as the service"),
    Field::leaf("unit", Form::Text, |node| values::text(node).map(drop))
        .rule("the systemd unit whose processes call as the service"),
    Field::table("health", HEALTH).rule("a table like { http = \"/healthz\", interval = \"5s\" }"),
];

const HEALTH: &[Field] = &[
    Field::leaf("http", Form::Text, |node| path(node).map(drop)).rule("the path that is asked for, like \"/healthz\""),
    Field::leaf("tcp", Form::Toml, |node| flag(node).map(drop)).rule("true: a connection that is accepted is enough"),
    Field::leaf("interval", Form::Text, |node| period(node).map(drop))
        .rule("from check to check; the default is \"5s\""),
    Field::leaf("timeout", Form::Text, |node| period(node).map(drop))
        .rule("how long an answer may take; the default is \"1s\""),
    Field::leaf("unhealthy", Form::Toml, |node| threshold(node).map(drop))
        .rule("how many failures in a row count; the default is 3"),
    Field::leaf("healthy", Form::Toml, |node| threshold(node).map(drop))
        .rule("how many successes in a row count; the default is 2"),
    // Known by name, so that the answer is not "unknown".
    Field::leaf("https", Form::Text, not_yet).rule("not in this release: use http or tcp"),
    Field::leaf("grpc", Form::Text, not_yet).rule("not in this release: use http or tcp"),
    Field::leaf("exec", Form::Text, not_yet).rule("not in this release: use http or tcp"),
];

fn not_yet(_: &Node) -> Result<(), Bad> {
    Err(Bad::new("is a kind of check that this release does not have"))
}

fn protocol(node: &Node) -> Result<Protocol, Bad> {
    values::one_of(&[
        ("http", Protocol::Http),
        ("grpc", Protocol::Grpc),
        ("tcp", Protocol::Tcp),
        ("detect", Protocol::Detect),
    ])(node)
}

fn run_as(node: &Node) -> Result<RunAs, Bad> {
    match &node.value {
        Value::Integer(number) => match u32::try_from(*number) {
            Ok(uid) => Ok(RunAs::Uid(uid)),
            Err(_) => Err(Bad::new("is no user id")),
        },
        Value::String(_) | Value::Other(..) | Value::Boolean(_) | Value::Array(_) | Value::Table(_) => {
            values::text(node).map(|user| RunAs::User(user.to_owned()))
        }
    }
}

fn path(node: &Node) -> Result<String, Bad> {
    let text = values::text(node)?;
    match values::http_path(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(message) if !text.starts_with('/') && values::http_path(&format!("/{text}")).is_ok() => {
            Err(Bad::new(message).note(format!("did you mean \"/{text}\"?")))
        }
        Err(message) => Err(Bad::new(message)),
    }
}

fn flag(node: &Node) -> Result<bool, Bad> {
    match &node.value {
        Value::Boolean(true) => Ok(true),
        Value::Boolean(false) => Err(Bad::new("means no check: leave health out instead")),
        other @ (Value::String(_) | Value::Integer(_) | Value::Other(..) | Value::Array(_) | Value::Table(_)) => {
            Err(Bad::new(format!("must be true, not {}", other.kind())).note("the address is the instance's own"))
        }
    }
}

fn period(node: &Node) -> Result<String, Bad> {
    values::period(CHECK_PERIOD_MIN, CHECK_PERIOD_MAX)(node).map(crate::duration::format)
}

fn threshold(node: &Node) -> Result<u32, Bad> {
    values::number(1, THRESHOLD_MAX)(node)
}

/// The fields of one table whose values were checked one by one.
pub(super) fn form(node: &Node) -> Result<InstanceForm, FormInvalid> {
    let Some(table) = node.value.as_table() else { return Err(invalid("instance", "is no table")) };
    let missing = |field| move || invalid(field, "is missing");
    let address: SocketAddr = get(table, "address", values::instance_address).ok_or_else(missing("address"))?;
    let health = match table.get("health").and_then(|entry| entry.node.value.as_table()) {
        Some(health) => Some(HealthSpec::try_from(HealthForm {
            http: get(health, "http", path),
            tcp: get(health, "tcp", flag),
            interval: get(health, "interval", period),
            timeout: get(health, "timeout", period),
            unhealthy: get(health, "unhealthy", threshold),
            healthy: get(health, "healthy", threshold),
        })?),
        None => None,
    };
    Ok(InstanceForm {
        service: get(table, "service", values::name(ServiceName::new)).ok_or_else(missing("service"))?,
        namespace: get(table, "namespace", values::name(Namespace::new)).unwrap_or_default(),
        name: get(table, "name", values::name(InstanceName::new)),
        port: get(table, "port", values::name(PortName::new)),
        protocol: get(table, "protocol", protocol).ok_or_else(missing("protocol"))?,
        address,
        labels: get(table, "labels", values::labels).unwrap_or_default(),
        weight: get(table, "weight", values::number(0, WEIGHT_MAX))
            .and_then(|weight| Weight::new(weight).ok())
            .unwrap_or_default(),
        run_as: get(table, "run_as", run_as),
        unit: get(table, "unit", |node| values::text(node).map(str::to_owned)),
        health,
    })
}

fn get<T>(table: &Table, key: &str, parse: impl Fn(&Node) -> Result<T, Bad>) -> Option<T> {
    tree::lookup(table, &[key]).and_then(|node| parse(node).ok())
}

/// A broken rule between fields, at the field that it names.
pub(super) fn problem(node: &Node, number: usize, error: &FormInvalid) -> Problem {
    let path: Vec<&str> = error.field.split('.').collect();
    let at = node.value.as_table().and_then(|table| tree::lookup(table, &path)).unwrap_or(node);
    Problem {
        place: at.at.place(),
        ..Problem::new(codes::BAD_SETTING, format!("instance[{number}].{} {}", error.field, error.message))
    }
}

/// What of the fields nothing acts on yet.
pub(super) fn warnings(node: &Node, number: usize) -> Vec<Problem> {
    let entry = node.value.as_table().and_then(|table| table.get("unit"));
    let message = format!("instance[{number}].unit says who calls as the service, and not yet when it is announced");
    let idle = |entry: &tree::Entry| Problem {
        place: entry.key_at.place(),
        help: Some("the instance is announced whether or not the unit is active; a health check tells".into()),
        ..Problem::new(codes::SETTING_IDLE, message)
    };
    entry.map(idle).into_iter().collect()
}
