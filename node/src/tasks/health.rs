//! The checks of our own instances: one small task each, started and ended by `tasks/instances.rs`.

use std::collections::BTreeMap;

use starling_config::{HealthProbe, HealthSpec, InstanceSpec};
use starling_model::InstanceName;
use starling_proxy::health::{CheckKind, CheckTarget, HealthCheck, Transition, run_check};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::supervise::{self, Health};

/// Transitions that may wait; a check that finds no room waits with its next one.
pub const TRANSITIONS_LEN_MAX: usize = 256;

/// What is asked of an instance; `None` when it has no check.
#[must_use]
pub fn target(spec: &InstanceSpec) -> Option<CheckTarget> {
    let HealthSpec { probe, interval, timeout, unhealthy, healthy } = spec.health.as_ref()?;
    let kind = match probe {
        HealthProbe::Http(path) => CheckKind::Http { path: path.clone() },
        HealthProbe::Tcp => CheckKind::Tcp,
    };
    let (unhealthy, healthy) = (unhealthy.get(), healthy.get());
    let check = HealthCheck { kind, interval: *interval, timeout: *timeout, unhealthy, healthy };
    Some(CheckTarget { instance: spec.name.clone(), address: spec.address, check })
}

/// The running checks. Dropping it ends them all.
#[derive(Debug)]
pub struct Checks {
    health: Health,
    transitions: mpsc::Sender<Transition>,
    running: BTreeMap<InstanceName, (CheckTarget, JoinHandle<()>)>,
}

impl Checks {
    /// No check yet; results arrive on the receiver.
    #[must_use]
    pub fn new(health: Health) -> (Self, mpsc::Receiver<Transition>) {
        let (transitions, receiver) = mpsc::channel(TRANSITIONS_LEN_MAX);
        (Self { health, transitions, running: BTreeMap::new() }, receiver)
    }

    /// Makes the checks of `specs` run and no others. Returns the names whose check began anew: what was known of
    /// them does not hold any more.
    pub fn fit<'a>(&mut self, specs: impl Iterator<Item = &'a InstanceSpec>) -> Vec<InstanceName> {
        let wanted: BTreeMap<InstanceName, CheckTarget> =
            specs.filter_map(target).map(|target| (target.instance.clone(), target)).collect();
        self.running.retain(|name, (target, task)| {
            let kept = wanted.get(name) == Some(target);
            if !kept {
                task.abort();
            }
            kept
        });
        let mut begun = Vec::new();
        for (name, target) in wanted {
            if self.running.contains_key(&name) {
                continue;
            }
            let (once_target, transitions) = (target.clone(), self.transitions.clone());
            let task = supervise::restarting(&self.health, "health", move |_| {
                run_check(once_target.clone(), transitions.clone())
            });
            begun.push(name.clone());
            self.running.insert(name, (target, task));
        }
        begun
    }

    /// True while the instance is checked.
    #[must_use]
    pub fn covers(&self, name: &InstanceName) -> bool {
        self.running.contains_key(name)
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}
