//! The demo's mesh: its folder, agents and services, from nothing to nothing.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use starling_identity::{IssuingCa, JoinFile, create_trust_domain};
use starling_model::{NodeName, TrustDomain};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::api::views::{MemberList, ServiceList};
use crate::cli::{Address, Ask, CliError, Exit, PUBLIC_FILE_MODE, Places, Ready, ask, install, now};
use crate::demo::control::{self, Verb};
use crate::demo::layout::{self, Instance, Ports, Speaks};
use crate::demo::process::{self, Child, END_GRACE, Output, tail};
use crate::files;

/// How long each step may take before the demo gives up; it is documented as two seconds for all of them.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause between two looks at agents that are starting.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// The folder belongs to us alone: it holds keys.
const FOLDER_MODE: u32 = 0o700;

/// Lines of a log that are shown when a child has failed.
const LOG_LINES: usize = 12;

/// Prefix of the folders of all demos, by which orders find the one that runs.
pub(super) const FOLDER_PREFIX: &str = "starling-demo-";

/// The folder; it goes with this value.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(keep: bool) -> Result<Self, CliError> {
        let base = std::env::temp_dir();
        remove_orphans(&base);
        // The process id is unique while we run; what a killed demo left behind has another one, or is in the way once.
        for number in 0..100_u32 {
            let name = format!("{FOLDER_PREFIX}{}-{number}", std::process::id());
            let path = base.join(name);
            match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), FOLDER_MODE).create(&path) {
                Ok(()) => return Ok(Self { path, keep }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let what = format!("cannot make a folder in {}", base.display());
                    return Err(CliError::plain(Exit::Bad, what).cause(error.to_string()));
                }
            }
        }
        Err(CliError::plain(Exit::Bad, format!("{} is full of old demo folders", base.display())))
    }

    /// Removes it now; how many files are left.
    fn remove(&self) -> usize {
        if self.keep {
            return 0;
        }
        let _ = std::fs::remove_dir_all(&self.path);
        count_files(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes folders of our own demos that were killed: they have a control socket at which nobody answers. A folder
/// that was kept on purpose has none.
fn remove_orphans(base: &Path) {
    for socket in control::sockets(base) {
        let refused = std::os::unix::net::UnixStream::connect(&socket)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        if let Some(folder) = socket.parent().filter(|_| refused) {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn count_files(path: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let inside: usize =
        entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum();
    // An empty folder is something left, too.
    inside + 1
}

/// What is still there after the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Left {
    pub(super) processes: usize,
    pub(super) files: usize,
    pub(super) ports: usize,
}

#[derive(Debug)]
struct Agent {
    number: u8,
    dir: PathBuf,
    child: Option<Child>,
}

impl Agent {
    fn name(&self) -> String {
        format!("vm-{}", self.number)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    fn api(&self) -> Address {
        Address::Unix(self.dir.join("api.sock"))
    }

    fn start(&mut self) -> Result<(), CliError> {
        let dir = self.dir.display().to_string();
        let arguments = ["agent", "--config-dir", &dir, "--exit-with-stdin"];
        let child = Child::start(arguments, &self.log(), Output::Log).map_err(|error| {
            CliError::plain(Exit::Bad, format!("cannot start {}", self.name())).cause(error.to_string())
        })?;
        self.child = Some(child);
        Ok(())
    }
}

#[derive(Debug)]
struct Service {
    instance: Instance,
    listen: SocketAddr,
    log: PathBuf,
    child: Option<Child>,
    /// False after it was told to misbehave.
    well: bool,
}

impl Service {
    /// Starts it and learns where it listens: at the first start a free port, later the same.
    async fn start(&mut self) -> Result<(), CliError> {
        let no = |cause: String| {
            CliError::plain(Exit::Bad, format!("service {} does not start", self.instance.id())).cause(cause)
        };
        let (listen, node) = (self.listen.to_string(), format!("vm-{}", self.instance.node));
        let speaks = match self.instance.speaks {
            Speaks::Http => "http",
            Speaks::Tcp => "tcp",
        };
        let Instance { service, name, version, .. } = self.instance;
        let arguments = ["demo-service", "--service", service, "--name", name, "--version-label", version];
        let arguments = arguments.into_iter().chain(["--node", &node, "--speaks", speaks, "--listen", &listen]);
        let mut child = Child::start(arguments, &self.log, Output::Read).map_err(|error| no(error.to_string()))?;
        let output = child.take_output().ok_or_else(|| no("it has no output".to_owned()))?;
        let mut line = String::new();
        let read = tokio::time::timeout(STEP_TIMEOUT, BufReader::new(output).read_line(&mut line)).await;
        let address = line.trim().strip_prefix("listening ").and_then(|address| address.parse().ok());
        match (read, address) {
            (Ok(Ok(_)), Some(address)) => {
                self.listen = address;
                self.child = Some(child);
                self.well = true;
                Ok(())
            }
            (Ok(Ok(_)), None) => Err(no(tail(&self.log, LOG_LINES))),
            (Ok(Err(error)), _) => Err(no(error.to_string())),
            (Err(_), _) => Err(no("it does not say where it listens".to_owned())),
        }
    }
}

/// Agents and services with their folder.
#[derive(Debug)]
pub(super) struct Mesh {
    // Before the folder, so that they are gone when it is removed.
    agents: Vec<Agent>,
    services: Vec<Service>,
    ports: Ports,
    shift: u16,
    folder: Folder,
}

impl Mesh {
    /// Finds ports and makes the folder; nothing runs yet.
    pub(super) fn prepare(nodes: NonZeroU8, keep: bool) -> Result<Self, CliError> {
        let nodes = nodes.get();
        let shift = layout::free_shift(nodes).ok_or_else(|| {
            CliError::plain(Exit::Bad, "no free ports on 127.0.0.1 and its neighbours")
                .help(["end other demos and agents on this host"])
        })?;
        let folder = Folder::make(keep)?;
        let agents = (1..=nodes)
            .map(|number| Agent { number, dir: folder.path.join(format!("vm-{number}")), child: None })
            .collect();
        let services = layout::instances(nodes)
            .into_iter()
            .map(|instance| Service {
                instance,
                listen: SocketAddr::from((layout::address(instance.node), 0)),
                log: folder.path.join(format!("{}.log", instance.id())),
                child: None,
                well: true,
            })
            .collect();
        Ok(Self { agents, services, ports: Ports::shifted(shift), shift, folder })
    }

    /// How far the ports have moved up.
    pub(super) fn shift(&self) -> u16 {
        self.shift
    }

    /// The folder, where it stays.
    pub(super) fn kept(&self) -> Option<PathBuf> {
        self.folder.keep.then(|| self.folder.path.clone())
    }

    /// Where orders are taken.
    pub(super) fn control_path(&self) -> PathBuf {
        self.folder.path.join("control.sock")
    }

    /// The socket of the first agent.
    pub(super) fn first_api(&self) -> String {
        self.agents.first().map(|agent| agent.api().to_string()).unwrap_or_default()
    }

    /// The HTTP entrance of the first agent.
    pub(super) fn entrance(&self) -> SocketAddr {
        SocketAddr::from((layout::address(1), self.ports.http))
    }

    /// `vm-1 vm-2 vm-3`
    pub(super) fn agent_names(&self) -> String {
        self.agents.iter().map(Agent::name).collect::<Vec<_>>().join(" ")
    }

    /// `web, orders v1 ×2, orders v2, db`
    pub(super) fn service_names(&self) -> String {
        let mut names: Vec<(String, usize)> = Vec::new();
        for Service { instance, .. } in &self.services {
            let versions = self.services.iter().filter(|other| other.instance.service == instance.service);
            let several = versions.clone().any(|other| other.instance.version != instance.version);
            let name = if several {
                format!("{} {}", instance.service, instance.version)
            } else {
                instance.service.to_owned()
            };
            match names.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => names.push((name, 1)),
            }
        }
        let shown = names.into_iter().map(|(name, count)| if count > 1 { format!("{name} ×{count}") } else { name });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Makes the trust domain in this process and gives each agent its identity and settings; its root key is dropped.
    pub(super) fn create_trust(&mut self) -> Result<(), CliError> {
        let no = |error: &dyn std::error::Error| {
            CliError::plain(Exit::Bad, "the demo's trust domain cannot be made").cause(error.to_string())
        };
        let trust_domain = TrustDomain::new(layout::TRUST_DOMAIN).map_err(|error| no(&error))?;
        let made = create_trust_domain(&trust_domain, "demo", false, now()).map_err(|error| no(&error))?;
        let issuer = IssuingCa::load(&made.bundle, &made.issuer_key_pem).map_err(|error| no(&error))?;
        for agent in &self.agents {
            let name = NodeName::new(&agent.name()).map_err(|error| no(&error))?;
            let issued = issuer.issue_node(&name, 1, now()).map_err(|error| no(&error))?;
            let join = JoinFile {
                bundle_file: made.bundle_file.clone(),
                node: name,
                seeds: Vec::new(),
                chain_pem: issued.chain_pem,
                issuing_key_pem: Some(issued.issuing_key_pem.clone()),
            };
            let places =
                Places { config: agent.dir.clone(), trust: agent.dir.join("trust"), state: agent.dir.join("state") };
            install(&join, &places, &Ready::first(issued.issuing_key_pem))?;
            let settings = layout::agent_toml(agent.number, self.ports);
            files::create(&places.agent_toml(), settings.as_bytes(), PUBLIC_FILE_MODE)?;
            files::make_dir(&agent.dir.join("services.d"), FOLDER_MODE)?;
            // Beside the socket, where commands that sign look for it. Only a demo's agent may have it so near.
            files::create_secret(&agent.dir.join("operator.key"), made.operator_key_pem.as_bytes())?;
        }
        Ok(())
    }

    /// Starts the services and writes down where each listens.
    pub(super) async fn start_services(&mut self) -> Result<(), CliError> {
        for service in &mut self.services {
            service.start().await?;
            let instance = service.instance;
            let dir = self.folder.path.join(format!("vm-{}/services.d", instance.node));
            let path = dir.join(format!("{}.toml", instance.name));
            files::create(&path, instance.toml(service.listen).as_bytes(), PUBLIC_FILE_MODE)?;
        }
        Ok(())
    }

    /// Grants the services to the agents, as an operator would: signed and applied, and in use everywhere.
    pub(super) async fn grant(&self) -> Result<(), CliError> {
        let no = |cause: String| CliError::plain(Exit::Bad, "the services cannot be granted").cause(cause);
        let path = self.folder.path.join("grant.yaml");
        files::create(&path, layout::GRANT.as_bytes(), PUBLIC_FILE_MODE)?;
        let (address, file) = (self.first_api(), path.display().to_string());
        let arguments = ["--address", &address, "apply", "-f", &file, "--wait"];
        process::run(arguments, STEP_TIMEOUT).await.map_err(|error| no(error.to_string()))
    }

    /// Starts all agents at once.
    pub(super) fn start_agents(&mut self) -> Result<(), CliError> {
        self.agents.iter_mut().try_for_each(Agent::start)
    }

    /// Waits until every agent sees every agent alive.
    pub(super) async fn wait_alive(&mut self) -> Result<(), CliError> {
        let deadline = tokio::time::Instant::now() + STEP_TIMEOUT;
        let want = self.agents.len();
        for at in 0..want {
            loop {
                self.check_running()?;
                let Some(agent) = self.agents.get(at) else { break };
                if alive_as_seen_by(agent).await == Some(want) {
                    break;
                }
                if tokio::time::Instant::now() > deadline {
                    let what = format!("{} does not see {want} agents alive", agent.name());
                    return Err(CliError::plain(Exit::TimedOut, what).cause(tail(&agent.log(), LOG_LINES)));
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Waits until the first agent knows every instance as healthy.
    pub(super) async fn wait_registered(&mut self) -> Result<(), CliError> {
        let deadline = tokio::time::Instant::now() + STEP_TIMEOUT;
        let want = self.services.len();
        loop {
            self.check_running()?;
            let Some(first) = self.agents.first() else { return Ok(()) };
            let list: Option<ServiceList> = read(first, "/v1/services").await;
            let endpoints = list.iter().flat_map(|list| &list.body.items).flat_map(|service| &service.endpoints);
            let healthy = endpoints.filter(|endpoint| endpoint.health == "healthy").count();
            if healthy == want {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                let what = format!("{healthy} of {want} instances are known and healthy at vm-1");
                return Err(CliError::plain(Exit::TimedOut, what).cause(tail(&first.log(), LOG_LINES)));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    fn check_running(&mut self) -> Result<(), CliError> {
        for agent in &mut self.agents {
            if agent.child.as_mut().is_none_or(|child| !child.runs()) {
                let what = format!("the agent {} has ended", agent.name());
                return Err(CliError::plain(Exit::Bad, what).cause(tail(&agent.log(), LOG_LINES)));
            }
        }
        Ok(())
    }

    /// How many agents are alive as the first one that answers sees it.
    pub(super) async fn alive(&self) -> usize {
        for agent in &self.agents {
            if let Some(number) = alive_as_seen_by(agent).await {
                return number;
            }
        }
        0
    }

    /// Takes note of children that have ended by themselves.
    pub(super) fn reap(&mut self) {
        let agents = self.agents.iter_mut().filter_map(|agent| agent.child.as_mut());
        let services = self.services.iter_mut().filter_map(|service| service.child.as_mut());
        for child in agents.chain(services) {
            child.runs();
        }
    }

    /// Carries out one order; says what was done.
    pub(super) async fn carry_out(&mut self, verb: Verb, name: &str) -> Result<String, CliError> {
        let everything = name == "all" && verb == Verb::Restore;
        let agents: Vec<usize> = positions(&self.agents, |agent| everything || agent.name() == name);
        let services: Vec<usize> = positions(&self.services, |service| {
            everything || service.instance.name == name || service.instance.id() == name
        });
        if agents.is_empty() && services.is_empty() {
            return Err(self.unknown(name));
        }
        let failed = |error: std::io::Error| CliError::plain(Exit::Bad, format!("{name}: {error}"));
        let mut done = Vec::new();
        for at in agents {
            let Some(agent) = self.agents.get_mut(at) else { continue };
            let runs = agent.child.as_mut().is_some_and(Child::runs);
            match (verb, runs) {
                (Verb::Kill, true) => {
                    if let Some(child) = &mut agent.child {
                        child.kill().await.map_err(failed)?;
                    }
                    done.push(format!("agent {} killed", agent.name()));
                }
                (Verb::Kill, false) => done.push(format!("agent {} was down already", agent.name())),
                (Verb::Restore, false) => {
                    agent.start()?;
                    done.push(format!("agent {} started again", agent.name()));
                }
                (Verb::Restore, true) => {}
                (Verb::Break | Verb::Slow, _) => {
                    return Err(CliError::plain(
                        Exit::Usage,
                        format!("{name} is an agent: kill it, or name a service"),
                    ));
                }
            }
        }
        for at in services {
            let Some(service) = self.services.get_mut(at) else { continue };
            let id = service.instance.id();
            let runs = service.child.as_mut().is_some_and(Child::runs);
            match (verb, &mut service.child) {
                (Verb::Kill, Some(child)) if runs => {
                    child.kill().await.map_err(failed)?;
                    done.push(format!("{id} killed"));
                }
                (Verb::Kill, _) => done.push(format!("{id} was down already")),
                (Verb::Restore, Some(_)) if runs && service.well => {}
                (_, Some(child)) if runs => {
                    child.tell(verb.word()).await.map_err(failed)?;
                    service.well = verb == Verb::Restore;
                    done.push(format!("{id} {}", verb.outcome()));
                }
                (Verb::Restore, _) => {
                    service.start().await?;
                    done.push(format!("{id} started again"));
                }
                (Verb::Break | Verb::Slow, _) => done.push(format!("{id} is down: starling demo restore {id}")),
            }
        }
        if done.is_empty() {
            done.push(format!("{name}: nothing to restore"));
        }
        Ok(done.join("; "))
    }

    fn unknown(&self, name: &str) -> CliError {
        let mut known: Vec<String> = self.agents.iter().map(Agent::name).collect();
        known.extend(self.services.iter().map(|service| service.instance.id()));
        let near = starling_config::suggest(name, known.iter().map(String::as_str));
        let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        let what = format!("nothing here is called {name}{near}: there are {}", known.join(", "));
        CliError::plain(Exit::NotFound, what)
    }

    /// Ends everything; says what is left.
    pub(super) async fn end(mut self) -> Left {
        let agents = self.agents.iter_mut().filter_map(|agent| agent.child.as_mut());
        let services = self.services.iter_mut().filter_map(|service| service.child.as_mut());
        let mut children: Vec<&mut Child> = agents.chain(services).collect();
        for child in &mut children {
            child.ask_to_end();
        }
        let deadline = tokio::time::Instant::now() + END_GRACE;
        let mut left = Left::default();
        for child in children {
            if !child.ended(deadline).await {
                left.processes += 1;
            }
        }
        let _ = std::fs::remove_file(self.control_path());
        left.files = self.folder.remove();
        left.ports = self.agents.iter().map(|agent| self.ports.taken(layout::address(agent.number))).sum();
        left
    }
}

fn positions<T>(items: &[T], wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| wanted(item)).map(|(at, _)| at).collect()
}

async fn read<T: serde::de::DeserializeOwned>(agent: &Agent, path: &str) -> Option<T> {
    let answer = ask(&agent.api(), Ask::get(path)).await.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

async fn alive_as_seen_by(agent: &Agent) -> Option<usize> {
    let list: MemberList = read(agent, "/v1/members").await?;
    Some(list.body.items.iter().filter(|member| member.state == "alive").count())
}
