//! Moves requests and bytes of local applications to the chosen peer and back.
//!
//! An application enters by a fixed entrance or by the HTTP outbound ([`plane`] binds them, `listen.rs` hands each
//! connection to a data thread, one of a peer by way of `handshakes.rs`). `http/outbound.rs` and `l4/outbound.rs` show
//! one request and one tunnel at the caller's side, top to bottom: decide by the table, open a stream to the endpoint's
//! agent, pass the bytes. There `peers.rs` judges the stream by its [`header`], and `http/inbound.rs` or `l4/inbound.rs` takes it to the instance.
//!
//! What is shared with the rest of the agent is a snapshot ([`snapshot`]), a set of atomics ([`loads`]) or a metric
//! ([`metrics`]): nothing on the request path waits for a lock, a disk or gossip. What a data thread owns is on that
//! thread only.
//!
//! Reading order: [`plane`], `listen.rs`, `gateways.rs`, `handshakes.rs`, `worker.rs`, [`callers`], `peers.rs`, [`http`],
//! `l4`, [`answers`], [`health`].
//!
//! Not here: who is where and how it is (gossip), which endpoint (routing), what a certificate proves (identity), how
//! streams share a connection (transport), configuration files.

pub mod access_log;
pub mod answers;
pub mod callers;
pub mod config;
mod detect;
mod gateways;
mod handshakes;
pub mod header;
pub mod health;
pub mod http;
pub mod limits;
pub mod loads;
pub mod metrics;
pub mod plane;
pub mod snapshot;
pub mod traffic;

mod l4;
mod listen;
mod peers;
mod through;
mod watch;
mod worker;

/// A map of what a data thread looks up for each request. Its hash is seeded anew in each process, and faster than the
/// standard library's on short keys.
pub(crate) type Map<K, V> = std::collections::HashMap<K, V, foldhash::quality::RandomState>;

#[cfg(test)]
mod tests;

pub use access_log::{AccessLog, AccessLogFigures};
pub use callers::{LocalCallers, Process};
pub use config::{ListenAddress, ProxyConfig, Upstream};
pub use gateways::GatewayPort;
pub use listen::{ListenError, Purpose};
pub use loads::Loads;
pub use metrics::{Direction, ProxyMetrics};
pub use plane::{Addresses, DataPlane, Drained, ProxyError};
pub use snapshot::{LocalInstance, LocalInstances, ProxyShared};
pub use traffic::Traffic;
pub use watch::{Asker, NotSeen};
