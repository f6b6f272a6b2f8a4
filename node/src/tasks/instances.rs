//! What runs on this host: files of `services.d`, and what programs announced over the API.
//!
//! The folder is watched; a change is applied 100 ms after the last one. A file that cannot be read keeps its last good
//! version and its problem goes to the log with line and column; a file that is gone withdraws its instances. Names of
//! files win over the API. What was announced over the API is in the store before the answer goes out.
//!
//! The task owns the checks ([`super::health`]) and writes three things: our services and health records, the table of
//! local instances for the data plane, and the list for the API. It may be dropped at any `.await`.

mod folder;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use starling_config::{InstanceSpec, RunAs};
use starling_gossip::OwnRecord;
use starling_model::limits::INSTANCES_PER_NODE_MAX;
use starling_model::{Announcement, HealthEntry, HealthRecord, InstanceName, Readiness, ServiceKey, ServicesRecord};
use starling_proxy::ProxyShared;
use starling_proxy::health::{Transition, Verdict};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::folder::Folder;
use super::health::Checks;
use super::own::OwnRecords;
use crate::store::{Batch, Durability, StoreHandle};
use crate::supervise::Health;

/// Quiet time after a change in the folder: editors write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How often the folder is read again where it cannot be watched.
const UNWATCHED_PAUSE: Duration = Duration::from_secs(5);
/// Commands that may wait.
pub const COMMANDS_LEN_MAX: usize = 64;
/// What an instance is said to be before its first check.
const NOT_CHECKED: &str = "not checked yet";

/// Who announced an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcer {
    /// A file of `services.d`.
    File(String),
    /// A program, over the API.
    Api,
}

/// One instance of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalInstance {
    /// What it is.
    pub spec: InstanceSpec,
    /// Who said so.
    pub announcer: Announcer,
    /// How it is.
    pub readiness: Readiness,
    /// What the last check said, unless it is ready.
    pub detail: Option<String>,
}

/// Users of this host that instances name, with their numbers; `None`: there is none of that name.
pub type Users = BTreeMap<String, Option<u32>>;

/// All instances of this host, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalView {
    /// By name.
    pub instances: Vec<LocalInstance>,
    /// Problems of the folder's files, rendered.
    pub problems: Vec<String>,
}

impl LocalView {
    /// One instance.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&LocalInstance> {
        self.instances.iter().find(|instance| instance.spec.name.as_str() == name)
    }

    /// Services with an instance here, each once, in order.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceKey> {
        let mut keys: Vec<ServiceKey> = self.instances.iter().map(|instance| instance.spec.key()).collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

/// Where the list is.
pub type LocalViewCell = Arc<ArcSwap<LocalView>>;

/// What others ask of the task.
#[derive(Debug)]
pub enum InstanceCommand {
    /// Announce, or change what was announced.
    Put(Box<InstanceSpec>, oneshot::Sender<Result<Durability, Refused>>),
    /// Withdraw what was announced over the API.
    Delete(InstanceName, oneshot::Sender<Result<Durability, Refused>>),
    /// Read the folder again.
    Reload,
    /// Everything drains from now on.
    Drain,
}

/// Why a command was not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A file holds the name.
    #[error("the name {0} is held by {1}")]
    HeldByFile(InstanceName, String),
    /// There is no such instance.
    #[error("there is no instance {0}")]
    Missing(InstanceName),
    /// The limit of a node.
    #[error("this node announces {INSTANCES_PER_NODE_MAX} instances already, the most that are allowed")]
    Full,
    /// The agent is about to leave.
    #[error("the agent is draining")]
    Draining,
}

/// Everything the task needs.
pub struct Context {
    /// `services.d`.
    pub folder: PathBuf,
    /// Where API announcements survive.
    pub store: StoreHandle,
    /// Where our records go.
    pub own: OwnRecords,
    /// Where the data plane looks.
    pub shared: Arc<ProxyShared>,
    /// Where the API looks.
    pub view: LocalViewCell,
    /// What became of tasks.
    pub health: Health,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// The task's state.
#[derive(Debug)]
pub struct Instances {
    context: Context,
    folder: Folder,
    api: BTreeMap<InstanceName, InstanceSpec>,
    checks: Checks,
    transitions: mpsc::Receiver<Transition>,
    current: BTreeMap<InstanceName, LocalInstance>,
    users: Users,
    draining: bool,
}

fn store_key(name: &InstanceName) -> Vec<u8> {
    format!("i/{name}").into_bytes()
}

impl Instances {
    /// Reads folder and store, publishes a first state. Blocks; needs a runtime around it for the checks.
    #[must_use]
    pub fn load(context: Context) -> Self {
        let mut api = BTreeMap::new();
        for (key, bytes) in context.store.scan(b"i/") {
            match serde_json::from_slice::<InstanceSpec>(&bytes) {
                Ok(spec) => {
                    api.insert(spec.name.clone(), spec);
                }
                Err(error) => {
                    warn!(key = %String::from_utf8_lossy(&key), %error, "a stored announcement cannot be read, dropped");
                    let mut batch = Batch::default();
                    batch.remove(key);
                    context.store.write(batch);
                }
            }
        }
        let (checks, transitions) = Checks::new(context.health.clone());
        let mut folder = Folder::new(&context.folder);
        folder.read();
        let mut instances = Self {
            context,
            folder,
            api,
            checks,
            transitions,
            current: BTreeMap::new(),
            users: Users::new(),
            draining: false,
        };
        instances.apply();
        instances
    }

    /// Follows the folder, commands and checks until the agent ends.
    pub async fn run(mut self, mut commands: mpsc::Receiver<InstanceCommand>) {
        let (changes, mut changed) = mpsc::channel(1);
        let mut watcher = watch(&self.context.folder, changes);
        // What changed between loading and watching was not told.
        let mut read_at = Some(Instant::now());
        loop {
            let unwatched = watcher.is_none().then(|| Instant::now() + UNWATCHED_PAUSE);
            let due = read_at.or(unwatched);
            tokio::select! {
                Some(command) = commands.recv() => self.follow(command).await,
                Some(transition) = self.transitions.recv() => self.note(transition),
                Some(()) = changed.recv() => read_at = Some(Instant::now() + DEBOUNCE),
                () = sleep_until(due.unwrap_or_else(far_away)), if due.is_some() => {
                    read_at = None;
                    self.read_folder();
                    if let Some(watcher) = &mut watcher {
                        // The folder may have appeared, or be a new one under the old name.
                        rearm(watcher, &self.context.folder);
                    }
                }
                else => return,
            }
        }
    }

    fn read_folder(&mut self) {
        let folder = &mut self.folder;
        tokio::task::block_in_place(|| folder.read());
        self.apply();
    }

    async fn follow(&mut self, command: InstanceCommand) {
        match command {
            InstanceCommand::Put(spec, reply) => {
                let answer = self.put(*spec).await;
                // The asker may have gone; the announcement holds all the same.
                let _ = reply.send(answer);
            }
            InstanceCommand::Delete(name, reply) => {
                let answer = self.delete(&name).await;
                let _ = reply.send(answer);
            }
            InstanceCommand::Reload => self.read_folder(),
            InstanceCommand::Drain => {
                self.draining = true;
                self.apply();
            }
        }
    }

    async fn put(&mut self, spec: InstanceSpec) -> Result<Durability, Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        let name = spec.name.clone();
        if let Some(path) = self.folder.holder(&name) {
            return Err(Refused::HeldByFile(name, path.to_owned()));
        }
        if !self.current.contains_key(&name) && self.current.len() >= INSTANCES_PER_NODE_MAX {
            return Err(Refused::Full);
        }
        let mut batch = Batch::default();
        batch.put(store_key(&name), serde_json::to_vec(&spec).unwrap_or_default());
        let durability = self.context.store.commit(batch).await;
        info!(instance = %name, service = %spec.key(), "instance announced over the API");
        self.api.insert(name, spec);
        self.apply();
        Ok(durability)
    }

    async fn delete(&mut self, name: &InstanceName) -> Result<Durability, Refused> {
        if let Some(path) = self.folder.holder(name) {
            return Err(Refused::HeldByFile(name.clone(), path.to_owned()));
        }
        if self.api.remove(name).is_none() {
            return Err(Refused::Missing(name.clone()));
        }
        let mut batch = Batch::default();
        batch.remove(store_key(name));
        let durability = self.context.store.commit(batch).await;
        info!(instance = %name, "instance withdrawn over the API");
        self.apply();
        Ok(durability)
    }

    fn note(&mut self, transition: Transition) {
        let Transition { instance, verdict, detail } = transition;
        let Some(held) = self.current.get_mut(&instance) else { return };
        if !self.checks.covers(&instance) || self.draining {
            return; // A last word of a check that has ended.
        }
        let (readiness, detail) = match verdict {
            Verdict::Ready => {
                info!(%instance, service = %held.spec.key(), "instance healthy");
                (Readiness::Ready, None)
            }
            Verdict::Unready => {
                warn!(%instance, service = %held.spec.key(), reason = detail, "instance unhealthy");
                (Readiness::Unready, Some(detail))
            }
        };
        held.readiness = readiness;
        held.detail = detail;
        self.publish();
    }

    /// Makes files and API the current state.
    fn apply(&mut self) {
        let mut wanted: BTreeMap<InstanceName, (InstanceSpec, Announcer)> = BTreeMap::new();
        for (spec, path) in self.folder.instances() {
            wanted.insert(spec.name.clone(), (spec.clone(), Announcer::File(path.to_owned())));
        }
        for (name, spec) in &self.api {
            if wanted.len() >= INSTANCES_PER_NODE_MAX {
                break;
            }
            wanted.entry(name.clone()).or_insert_with(|| (spec.clone(), Announcer::Api));
        }
        let begun = self.checks.fit(wanted.values().map(|(spec, _)| spec));
        let mut current = BTreeMap::new();
        for (name, (spec, announcer)) in wanted {
            let held = self.current.remove(&name);
            let (readiness, detail) = match held {
                _ if self.draining => (Readiness::Draining, Some("the agent is leaving".to_owned())),
                _ if spec.health.is_none() => (Readiness::Ready, None),
                // Another address or check: what was known does not hold any more.
                _ if begun.contains(&name) => (Readiness::Unready, Some(NOT_CHECKED.to_owned())),
                Some(held) => (held.readiness, held.detail),
                None => (Readiness::Unready, Some(NOT_CHECKED.to_owned())),
            };
            current.insert(name, LocalInstance { spec, announcer, readiness, detail });
        }
        for gone in self.current.keys() {
            info!(instance = %gone, "instance withdrawn");
        }
        self.current = current;
        self.users = self.current.values().filter_map(|held| user(&held.spec)).collect();
        self.publish();
    }

    fn publish(&self) {
        let instances: Vec<LocalInstance> = self.current.values().cloned().collect();
        let services = ServicesRecord { instances: instances.iter().map(announcement).collect() };
        let entry = |held: &LocalInstance| HealthEntry { instance: held.spec.name.clone(), readiness: held.readiness };
        let health = HealthRecord { entries: instances.iter().map(entry).collect() };
        // The data plane must know an instance before others send requests for it.
        self.context.shared.instances.store(Arc::new(crate::lower::local_instances(&instances, &self.users)));
        self.context.own.put(OwnRecord::Services(services));
        self.context.own.put(OwnRecord::Health(health));
        let problems = self.folder.problems();
        self.context.view.store(Arc::new(LocalView { instances, problems }));
    }
}

/// The user that an instance names, looked up anew at each change: it may be made after the file.
fn user(spec: &InstanceSpec) -> Option<(String, Option<u32>)> {
    let Some(RunAs::User(name)) = &spec.run_as else { return None };
    let found = nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    if found.is_none() {
        warn!(instance = %spec.name, user = %name, "run_as names no user of this host: nobody calls as the service");
    }
    Some((name.clone(), found))
}

fn announcement(held: &LocalInstance) -> Announcement {
    let spec = &held.spec;
    Announcement {
        instance: spec.name.clone(),
        service: spec.key(),
        port: spec.port.clone(),
        protocol: spec.protocol,
        labels: spec.labels.clone(),
        weight: spec.weight,
    }
}

/// A `select!` arm needs a time even when it is switched off.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// Watches the folder and the one above it, where it may appear. `None` when nothing can be watched.
fn watch(folder: &Path, changes: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let told = move |event: notify::Result<notify::Event>| {
        let reads_only = matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
        if !reads_only {
            // A full channel means that a change is being told already.
            let _ = changes.try_send(());
        }
    };
    let mut watcher = match notify::recommended_watcher(told) {
        Ok(watcher) => watcher,
        Err(error) => {
            warn!(%error, "services.d cannot be watched; it is read every 5 s");
            return None;
        }
    };
    let above = folder.parent().is_some_and(|above| watcher.watch(above, RecursiveMode::NonRecursive).is_ok());
    let itself = rearm(&mut watcher, folder);
    if above || itself {
        Some(watcher)
    } else {
        warn!(folder = %folder.display(), "services.d cannot be watched; it is read every 5 s");
        None
    }
}

fn rearm(watcher: &mut RecommendedWatcher, folder: &Path) -> bool {
    // Watching the same folder twice is no error; a removed folder's watch is gone with it.
    folder.is_dir() && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
}

#[cfg(test)]
mod tests;
