//! What runs on this host: `services.d/*.toml`, and the same fields as JSON for `PUT /v1/instances/{name}`.
//!
//! A file holds `[[instance]]` tables, one for each port of a service. A broken file withholds only its own instances;
//! of two instances with one name the later is withheld, since a name is unique on its node.

mod fields;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use starling_model::limits::INSTANCES_PER_NODE_MAX;
use starling_model::{InstanceName, Labels, Namespace, PortName, Protocol, ServiceKey, ServiceName, Weight, codes};

use crate::duration;
use crate::problem::{Problem, finish};
use crate::schema::{Checker, DefaultOf, dotted};
use crate::tree::{self, Node, Value};
use crate::values::{check_instance_address, http_path};

/// Often enough that a dead instance is left within seconds, seldom enough not to be load.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
/// A local answer that takes longer is no answer.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// One lost answer is chance, three are a fact.
const UNHEALTHY_DEFAULT: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");
/// Two good answers: the first may come from an instance that is about to fail again.
const HEALTHY_DEFAULT: NonZeroU32 = NonZeroU32::new(2).expect("2 is not 0");

/// Shortest and longest interval and timeout of a check.
pub(crate) const CHECK_PERIOD_MIN: Duration = Duration::from_millis(100);
pub(crate) const CHECK_PERIOD_MAX: Duration = Duration::from_secs(3_600);
/// Most answers in a row that a threshold may ask for.
pub(crate) const THRESHOLD_MAX: u32 = 100;
/// Longest user or unit name (systemd allows 255).
pub(crate) const ACCOUNT_BYTES_MAX: usize = 255;

/// One instance: one port of a service on this host. All defaults are applied and all rules hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "InstanceForm", try_from = "InstanceForm")]
pub struct InstanceSpec {
    /// What it is an instance of.
    pub service: ServiceName,
    /// Where the service's name holds.
    pub namespace: Namespace,
    /// Unique on this node; the service's name unless said otherwise.
    pub name: InstanceName,
    /// Which port of the service; named after the protocol unless said otherwise.
    pub port: PortName,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it listens on this host.
    pub address: SocketAddr,
    /// Choose subsets and localities.
    pub labels: Labels,
    /// Its share among instances.
    pub weight: Weight,
    /// Only processes of this user may call as the service: the kernel is asked whose the caller's socket is.
    pub run_as: Option<RunAs>,
    /// Only processes of this systemd unit may: the kernel is asked for the control group of the caller's socket.
    pub unit: Option<String>,
    /// How it is checked; `None`: it counts as ready.
    pub health: Option<HealthSpec>,
}

impl InstanceSpec {
    /// The service in its namespace.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        ServiceKey::new(self.namespace.clone(), self.service.clone())
    }
}

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunAs {
    /// By number.
    Uid(u32),
    /// By name.
    User(String),
}

/// How an instance is checked by its own node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "HealthForm", try_from = "HealthForm")]
pub struct HealthSpec {
    /// What is asked.
    pub probe: HealthProbe,
    /// From one check to the next.
    pub interval: Duration,
    /// How long an answer may take; at most the interval.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub unhealthy: NonZeroU32,
    /// Successes in a row that make it healthy again.
    pub healthy: NonZeroU32,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthProbe {
    /// `GET` of this path answers with 2xx or 3xx.
    Http(String),
    /// A connection is accepted.
    Tcp,
}

/// The fields as they are written: what may be left out is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceForm {
    /// Required.
    pub service: ServiceName,
    /// Default: `default`.
    #[serde(default)]
    pub namespace: Namespace,
    /// Default: the service's name, or the name in the request's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<InstanceName>,
    /// Default: the protocol's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortName>,
    /// Required: a guess nobody asked for could break the service's traffic; `detect` asks for it.
    pub protocol: Protocol,
    /// Required.
    pub address: SocketAddr,
    /// Default: none.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Default: 100.
    #[serde(default)]
    pub weight: Weight,
    /// Default: nobody in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<RunAs>,
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Default: no check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
}

/// A rule that one form breaks, and by which field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct FormInvalid {
    /// Dotted, e.g. `health.timeout`.
    pub field: &'static str,
    /// The end of the sentence.
    pub message: String,
}

fn invalid(field: &'static str, message: impl Into<String>) -> FormInvalid {
    FormInvalid { field, message: message.into() }
}

impl InstanceForm {
    /// Applies defaults and checks the rules between fields. `path_name` is the name in a request's path.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn resolve(self, path_name: Option<&InstanceName>) -> Result<InstanceSpec, FormInvalid> {
        let Self { service, namespace, name, port, protocol, address, labels, weight, run_as, unit, health } = self;
        let name = match (name, path_name) {
            (Some(name), Some(path)) if name != *path => {
                return Err(invalid("name", format!("is {name}, but the request is for {path}")));
            }
            (_, Some(path)) => path.clone(),
            (Some(name), None) => name,
            (None, None) => InstanceName::new(service.as_str())
                .map_err(|_| invalid("name", "is needed, since the service's name is reserved"))?,
        };
        let port = match port {
            Some(port) => port,
            None => PortName::new(protocol.as_str()).map_err(|_| invalid("port", "is needed"))?,
        };
        check_instance_address(address).map_err(|message| invalid("address", message))?;
        if run_as.is_some() && unit.is_some() {
            return Err(invalid("unit", "and run_as exclude each other"));
        }
        let account = |text: &String| {
            text.is_empty()
                || text.len() > ACCOUNT_BYTES_MAX
                || text.chars().any(|c| c.is_control() || c.is_whitespace())
        };
        if matches!(&run_as, Some(RunAs::User(user)) if account(user)) {
            return Err(invalid("run_as", "is no user of this host"));
        }
        if unit.as_ref().is_some_and(account) {
            return Err(invalid("unit", "is no systemd unit"));
        }
        Ok(InstanceSpec { service, namespace, name, port, protocol, address, labels, weight, run_as, unit, health })
    }
}

impl TryFrom<InstanceForm> for InstanceSpec {
    type Error = FormInvalid;
    fn try_from(form: InstanceForm) -> Result<Self, FormInvalid> {
        form.resolve(None)
    }
}

impl From<InstanceSpec> for InstanceForm {
    fn from(spec: InstanceSpec) -> Self {
        let InstanceSpec { service, namespace, name, port, protocol, address, labels, weight, run_as, unit, health } =
            spec;
        let (name, port) = (Some(name), Some(port));
        Self { service, namespace, name, port, protocol, address, labels, weight, run_as, unit, health }
    }
}

/// `{"http": "/healthz", "interval": "5s"}`
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HealthForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unhealthy: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthy: Option<u32>,
}

impl TryFrom<HealthForm> for HealthSpec {
    type Error = FormInvalid;
    fn try_from(form: HealthForm) -> Result<Self, FormInvalid> {
        let HealthForm { http, tcp, interval, timeout, unhealthy, healthy } = form;
        let probe = match (http, tcp) {
            (Some(path), None) => {
                http_path(&path).map_err(|message| invalid("health.http", message))?;
                HealthProbe::Http(path)
            }
            (None, Some(true)) => HealthProbe::Tcp,
            (None, Some(false)) => return Err(invalid("health.tcp", "is false; leave health out instead")),
            (Some(_), Some(_)) => return Err(invalid("health.tcp", "and health.http exclude each other")),
            (None, None) => return Err(invalid("health", "needs http = \"/PATH\" or tcp = true")),
        };
        let period = |field, text: Option<String>, default| match text {
            None => Ok(default),
            Some(text) => match duration::parse(&text) {
                Ok(period) if (CHECK_PERIOD_MIN..=CHECK_PERIOD_MAX).contains(&period) => Ok(period),
                Ok(_) => Err(invalid(field, "is outside 100ms to 1h")),
                Err(error) => Err(invalid(field, error.to_string())),
            },
        };
        let threshold = |field, number: Option<u32>, default| match number {
            None => Ok(default),
            Some(number) => NonZeroU32::new(number)
                .filter(|number| number.get() <= THRESHOLD_MAX)
                .ok_or_else(|| invalid(field, format!("is outside 1 to {THRESHOLD_MAX}"))),
        };
        let interval = period("health.interval", interval, INTERVAL_DEFAULT)?;
        // A short interval shortens the default timeout with it.
        let timeout = period("health.timeout", timeout, TIMEOUT_DEFAULT.min(interval))?;
        if timeout > interval {
            let interval = duration::format(interval);
            return Err(invalid("health.timeout", format!("is longer than the interval of {interval}")));
        }
        Ok(Self {
            probe,
            interval,
            timeout,
            unhealthy: threshold("health.unhealthy", unhealthy, UNHEALTHY_DEFAULT)?,
            healthy: threshold("health.healthy", healthy, HEALTHY_DEFAULT)?,
        })
    }
}

impl From<HealthSpec> for HealthForm {
    fn from(spec: HealthSpec) -> Self {
        let HealthSpec { probe, interval, timeout, unhealthy, healthy } = spec;
        let (http, tcp) = match probe {
            HealthProbe::Http(path) => (Some(path), None),
            HealthProbe::Tcp => (None, Some(true)),
        };
        Self {
            http,
            tcp,
            interval: Some(duration::format(interval)),
            timeout: Some(duration::format(timeout)),
            unhealthy: Some(unhealthy.get()),
            healthy: Some(healthy.get()),
        }
    }
}

/// One instance and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedInstance {
    /// The instance.
    pub spec: InstanceSpec,
    /// Its file.
    pub file: String,
    /// The line of its `[[instance]]`, from 1.
    pub line: usize,
}

/// All of `services.d`.
#[derive(Clone, Debug, Default)]
pub struct ServicesD {
    /// The instances that can be announced, in the order of files and tables.
    pub instances: Vec<LoadedInstance>,
    /// Every error; a file with one has no instance above.
    pub problems: Vec<Problem>,
    /// Fields that are right but have no effect yet.
    pub warnings: Vec<Problem>,
}

/// Reads one file of `services.d`.
///
/// # Errors
/// Every problem of the file, each with its place.
pub fn parse_instances(path: &str, text: &str) -> Result<Vec<InstanceSpec>, Vec<Problem>> {
    let loaded = parse_services(&[(path.to_owned(), text.to_owned())]);
    if loaded.problems.is_empty() {
        Ok(loaded.instances.into_iter().map(|instance| instance.spec).collect())
    } else {
        Err(loaded.problems)
    }
}

/// Reads all files of `services.d`, given as path and text, in the order of their paths.
#[must_use]
pub fn parse_services(files: &[(String, String)]) -> ServicesD {
    let mut files: Vec<&(String, String)> = files.iter().collect();
    files.sort();
    let mut all = ServicesD::default();
    for (path, text) in files {
        match parse_one(path, text) {
            Ok((nodes, warnings)) => {
                all.warnings.extend(warnings);
                for (spec, node) in nodes {
                    add(&mut all, spec, &node, path);
                }
            }
            Err(problems) => all.problems.extend(problems),
        }
    }
    finish(&mut all.problems, codes::BAD_SETTING);
    all
}

fn add(all: &mut ServicesD, spec: InstanceSpec, node: &Node, path: &str) {
    let holder = all.instances.iter().find(|held| held.spec.name == spec.name);
    let problem = if let Some(holder) = holder {
        Problem {
            help: Some("names are unique on a node; give one of them a name of its own: name = \"…\"".into()),
            ..Problem::new(
                codes::BAD_SETTING,
                format!("instance {} is already at {}:{}", spec.name, holder.file, holder.line),
            )
        }
    } else if all.instances.len() >= INSTANCES_PER_NODE_MAX {
        Problem::new(codes::BAD_SETTING, format!("more than {INSTANCES_PER_NODE_MAX} instances on one node"))
    } else {
        all.instances.push(LoadedInstance { spec, file: path.to_owned(), line: node.at.line() });
        return;
    };
    all.problems.push(Problem { place: node.at.place(), ..problem });
}

type Parsed = (Vec<(InstanceSpec, Node)>, Vec<Problem>);

fn parse_one(path: &str, text: &str) -> Result<Parsed, Vec<Problem>> {
    let (_, table) = tree::parse_file(path, text)?;
    let everywhere = dotted(fields::INSTANCE, "");
    let mut checker = Checker { noun: "field", everywhere: &everywhere, default_of: &NoDefaults, problems: Vec::new() };
    checker.table(fields::TOP, &table, "", None);
    let Checker { mut problems, .. } = checker;
    problems.sort_by_key(|problem| (problem.line(), problem.column()));
    if !problems.is_empty() {
        return Err(problems);
    }
    let nodes = match tree::lookup(&table, &["instance"]).map(|node| &node.value) {
        Some(Value::Array(nodes)) => nodes.as_slice(),
        Some(_) | None => &[],
    };
    let mut specs = Vec::with_capacity(nodes.len().min(INSTANCES_PER_NODE_MAX));
    let mut warnings = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        match fields::form(node).and_then(|form| form.resolve(None)) {
            Ok(spec) => {
                warnings.extend(fields::warnings(node, number));
                specs.push((spec, node.clone()));
            }
            Err(error) => problems.push(fields::problem(node, number, &error)),
        }
    }
    if problems.is_empty() { Ok((specs, warnings)) } else { Err(problems) }
}

/// The fields' help lines name their defaults themselves.
#[derive(Debug)]
struct NoDefaults;

impl DefaultOf for NoDefaults {
    fn default_of(&self, _: &str) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests;
