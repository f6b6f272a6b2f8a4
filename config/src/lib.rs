//! Turns text into values that cannot be wrong, or lists everything that is wrong with it.
//!
//! Two kinds of text come from the administrator of one host, both TOML: the agent's settings ([`agent`]: `agent.toml`,
//! `conf.d/*.toml`, `STARLING_*` variables, flags) and what runs on the host ([`instances`]: `services.d/*.toml`, and
//! the same fields as JSON over the local API). Each layer is checked against one table of known keys (`schema`), so
//! that a typing error is told with its line, column and the nearest known name ([`problem`]), and *all* problems of
//! all files are told in one run. Only then are the layers merged and the typed values made.
//!
//! Not here: reading files or the environment, clocks, sockets. Callers hand in texts and get values.

pub mod agent;
pub mod documents;
pub mod duration;
pub mod instances;
mod pattern;
pub mod problem;
mod schema;
mod source;
pub mod suggest;
mod tree;
mod values;
mod yaml;

pub use agent::{
    AccessLogFormat, AccessLogOnly, AccessLogSettings, AccessLogTo, AgentConfig, ApiSettings, ConfigDir, DataSettings,
    DnsSettings, GatewayListen, GatewaySettings, ListenAddress, Loaded, LogFormat, LogSettings, LoopbackRange,
    MeshSettings, MetricsSettings, Origin, OutboundSettings, Preset, SeedAddress, Setting, SourceFile, SourceKind,
    Sources, TcpAccess, UpstreamSpec, load,
};
pub use instances::{
    HealthProbe, HealthSpec, InstanceForm, InstanceSpec, LoadedInstance, RunAs, ServicesD, parse_instances,
    parse_services,
};
pub use pattern::Pattern;
pub use problem::{FilePlace, Place, Problem, render};
pub use suggest::suggest;
