//! The agent's settings: from all layers of text to one [`AgentConfig`], or to every problem in them.
//!
//! Layers, low to high: built-in defaults, `agent.toml`, `conf.d/*.toml` by name, `STARLING_SECTION__KEY` variables,
//! flags. Tables merge key by key; scalars and arrays replace. Every layer is checked whole before it is merged, so a
//! wrong value is told even where a higher layer replaces it. The origin of each value is kept.

mod access_log;
mod defaults;
mod outside;
mod print;
mod settings;
mod typed;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use starling_model::{Labels, NodeName, PortName, ServiceKey, codes};

pub use self::access_log::{AccessLogFormat, AccessLogOnly, AccessLogSettings, AccessLogTo};
use crate::problem::{Problem, finish};
use crate::schema::Checker;
use crate::tree::{self, Table};

/// Everything that the layers are made of, as text.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `agent.toml` and the files of `conf.d`, in any order.
    pub files: Vec<SourceFile>,
    /// The process's environment, or any part of it; only names with `STARLING_` and a double underscore count, and
    /// `STARLING_LOG`.
    pub environment: Vec<(String, String)>,
    /// Dotted key and value of each flag. A list may be given piece by piece; of anything else the last one counts.
    pub flags: Vec<(String, String)>,
    /// Where the configuration lives.
    pub dir: ConfigDir,
    /// The host's name, the default of `node_name`.
    pub hostname: String,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As it is to be shown.
    pub path: String,
    /// Its contents.
    pub text: String,
    /// Which layer it belongs to.
    pub kind: SourceKind,
}

/// Which layer a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// `DIR/agent.toml`.
    AgentToml,
    /// A file of `DIR/conf.d`; they apply by path.
    ConfD,
}

/// The configuration folder. With the standard one, state and socket are where packages put them; with any other one
/// they are inside it, so that two agents on one host never share files by accident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigDir(PathBuf);

impl ConfigDir {
    /// The standard folder.
    pub const STANDARD: &'static str = "/etc/starling";

    /// Takes a path as it was given.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// True for `/etc/starling`, however many slashes are written.
    #[must_use]
    pub fn is_standard(&self) -> bool {
        self.0.components().eq(Path::new(Self::STANDARD).components())
    }
}

impl Default for ConfigDir {
    fn default() -> Self {
        Self::new(Self::STANDARD)
    }
}

/// What loading gives.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: AgentConfig,
    /// Every setting with its value and origin, in the order of the documentation.
    pub origins: Vec<Setting>,
    /// Settings that are right but have no effect yet.
    pub warnings: Vec<Problem>,
}

/// One setting as `agent --print-config` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Dotted, e.g. `mesh.listen`.
    pub key: String,
    /// As TOML; empty when it is not set and has no default.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
    /// What happens when nothing is set; empty for settings with a value.
    pub unset: &'static str,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in, or derived from the folder or host name.
    Default,
    /// A file and line.
    File {
        /// As it was given.
        path: String,
        /// From 1.
        line: usize,
    },
    /// A variable.
    Environment(String),
    /// The flag that sets this dotted key.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(key) => write!(f, "flag {key}"),
        }
    }
}

/// All settings of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// The configuration folder.
    pub dir: ConfigDir,
    /// This node; must equal the name in its certificate.
    pub node_name: NodeName,
    /// Folder of `bundle.trust` (and `issuer.key` with a shared issuer).
    pub trust: PathBuf,
    /// Folder of what the agent keeps.
    pub state: PathBuf,
    /// Gossip and service traffic between nodes.
    pub mesh: MeshSettings,
    /// The local API.
    pub api: ApiSettings,
    /// Names of services.
    pub dns: DnsSettings,
    /// How applications of this host reach services.
    pub outbound: OutboundSettings,
    /// Connections from outside the mesh.
    pub gateway: GatewaySettings,
    /// Fixed local entrances to services.
    pub upstreams: Vec<UpstreamSpec>,
    /// Metrics beyond the local API.
    pub metrics: MetricsSettings,
    /// The agent's own log.
    pub log: LogSettings,
    /// Lines about requests and connections.
    pub access_log: AccessLogSettings,
    /// Threads of the data plane.
    pub data: DataSettings,
}

impl AgentConfig {
    /// Folder of the files that say what runs on this host.
    #[must_use]
    pub fn services_dir(&self) -> PathBuf {
        self.dir.path().join("services.d")
    }
}

/// `[mesh]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// UDP for gossip and TCP for traffic.
    pub listen: SocketAddr,
    /// What others dial; `None`: the source address towards the seed.
    pub advertise: Option<SocketAddr>,
    /// Whom to ask first.
    pub seeds: Vec<SeedAddress>,
    /// Labels of the node (zone, rack).
    pub labels: Labels,
    /// Which set of gossip timings.
    pub preset: Preset,
    /// After this long without an answer the agent is ready alone, so a dead seed cannot block a boot.
    pub ready_timeout: Duration,
}

/// Somebody who may already be in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedAddress {
    /// `HOST:PORT`, the host a name or an address.
    Host(String),
    /// `dns+srv://NAME`: the hosts and ports that the SRV records of a name list (RFC 2782).
    Service(String),
}

impl fmt::Display for SeedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Service(name) => write!(f, "dns+srv://{name}"),
        }
    }
}

/// `mesh.preset`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// One data centre.
    Lan,
    /// Several regions.
    Wan,
    /// One host: demos and tests.
    Fast,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// The Unix socket: reads and writes.
    pub socket: PathBuf,
    /// Loopback TCP: reads, and writes with a token.
    pub listen: SocketAddr,
    /// What is allowed over TCP.
    pub tcp: TcpAccess,
    /// Names that the Host header may carry besides loopback ones.
    pub hosts: Vec<String>,
    /// Holds the token of `tcp = "token"`.
    pub token_file: Option<PathBuf>,
}

/// `api.tcp`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpAccess {
    /// No TCP listener.
    Off,
    /// `GET` and `HEAD`, without a token.
    Read,
    /// Everything, with a token on every request.
    Token,
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Where the DNS server listens; `None` for "off". Takes effect together with the DNS server.
    pub listen: Option<SocketAddr>,
    /// The zone of services; the HTTP entrance routes by it.
    pub domain: String,
    /// Resolvers for other zones. Takes effect together with the DNS server.
    pub forward: Vec<SocketAddr>,
}

/// `[outbound]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundSettings {
    /// The Host-routed HTTP entrance and proxy; `None` for "off".
    pub http: Option<SocketAddr>,
    /// Loopback addresses of services. Takes effect together with service addresses.
    pub vip_cidr: LoopbackRange,
    /// Where the nft rule sends TCP for the range; `None` for "off". Takes effect together with service addresses.
    pub vip: Option<SocketAddr>,
    /// Services with own listeners. Takes effect together with service addresses.
    pub vip_listeners: Vec<ServiceKey>,
    /// The file with the key that seals sessions' cookies, the same at all agents; `None`: they are not sealed.
    pub session_key_file: Option<PathBuf>,
}

/// `[gateway]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Where Gateways listen on this host.
    pub listen: GatewayListen,
}

/// `gateway.listen`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayListen {
    /// At the address of `mesh.listen`.
    OfMesh,
    /// At this one.
    At(std::net::IpAddr),
    /// Nowhere, whatever documents say.
    Off,
}

/// A range within 127.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopbackRange {
    /// The first address.
    pub address: Ipv4Addr,
    /// Bits that all addresses share, 8 to 24.
    pub prefix: u8,
}

/// `[metrics]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// A listener with nothing but metrics, for a remote Prometheus; `None` for "off". Nothing serves it yet.
    pub listen: Option<SocketAddr>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Like `info,starling_gossip=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, journald fields under systemd, else JSON.
    Auto,
    /// One line of text for each event.
    Text,
    /// Fields for journald.
    Journald,
    /// One JSON object for each event.
    Json,
}

/// `[data]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSettings {
    /// Threads that move requests and bytes; `None`: one for every two cores, at most 4.
    pub threads: Option<NonZeroUsize>,
}

/// One `[[upstream]]`: a fixed local entrance to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// What is reached.
    pub service: ServiceKey,
    /// Which of its ports; `None`: its only one.
    pub port: Option<PortName>,
    /// Where applications connect.
    pub listen: ListenAddress,
    /// Local service whose identity the calls carry; `None`: the caller's, else the node's.
    pub source: Option<ServiceKey>,
}

/// Where a local listener is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    /// `127.0.0.1:9001`
    Tcp(SocketAddr),
    /// `unix:/run/app/orders.sock`
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Makes the settings of an agent.
///
/// # Errors
/// Every problem of all sources, in their order, each with its place. Warnings are not among them.
pub fn load(sources: Sources) -> Result<Loaded, Vec<Problem>> {
    let Sources { mut files, environment, flags, dir, hostname } = sources;
    files.sort_by(|a, b| (a.kind, &a.path).cmp(&(b.kind, &b.path)));

    let everywhere = settings::keys();
    let defaults = defaults::tree(&dir, &hostname);
    let mut checker = Checker { noun: "setting", everywhere: &everywhere, default_of: &defaults, problems: Vec::new() };
    let mut merged = defaults.table.clone();

    for file in &files {
        match tree::parse_file(&file.path, &file.text) {
            Ok((_, table)) => {
                let before = checker.problems.len();
                checker.table(settings::TOP, &table, "", None);
                sort_by_place(&mut checker.problems[before..]);
                tree::merge(&mut merged, table);
            }
            Err(problems) => checker.problems.extend(problems),
        }
    }
    tree::merge(&mut merged, outside::environment(&environment, &mut checker));
    tree::merge(&mut merged, outside::flags(&flags, &mut checker));
    defaults::check_those_in_use(&merged, &hostname, &mut checker);

    let mut problems = checker.problems;
    let config = typed::config(dir, &merged, &mut problems);
    finish(&mut problems, codes::BAD_SETTING);
    match config {
        Some(config) if problems.is_empty() => {
            let warnings = typed::warnings(&merged, &defaults);
            Ok(Loaded { config, origins: print::origins(&merged), warnings })
        }
        Some(_) | None => {
            if problems.is_empty() {
                // Every value was checked, so one that cannot be typed is a bug; a refusal is still the right answer.
                problems.push(Problem::new(codes::BAD_SETTING, "the settings are inconsistent"));
            }
            Err(problems)
        }
    }
}

fn sort_by_place(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| (problem.line(), problem.column()));
}

/// The built-in layer.
#[derive(Debug)]
pub(crate) struct Defaults {
    pub(crate) table: Table,
}

#[cfg(test)]
mod tests;
