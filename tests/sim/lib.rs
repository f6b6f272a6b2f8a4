//! A deterministic simulator: the real [`starling_gossip::Swim`] of many nodes in virtual time, on a
//! network, disks and clocks that fail as told.
//!
//! Reading order: [`clock`] (virtual time and chance), [`network`] (what a link does to a packet), [`shell`]
//! (connections and streams as the QUIC shell of an agent gives them), [`keys`] (signatures that are cheap and still
//! tell a forgery), [`disk`] (what survives a crash), `names` and `agenda` (flat tables and the queue of events), [`cluster`] (hosts, operations, the event loop), `turn`
//! (one turn of one agent), `slots` (turns of many agents on all cores, in large runs), [`operators`] (documents and revocations), [`checks`] (what must hold in every run), [`trace`] (a run as one number), [`scenario`] (the named runs),
//! [`figures`] and [`report`] (what is measured, and how it is told).
//! [`anomaly`] and [`lifeguard`] replay a paper's experiments, over many runs ([`parallel`], [`statistics`]).
//!
//! Not here: sockets, real time, any decision of the protocol. Same scenario, size and seed: same
//! trace hash.

mod agenda;
pub mod anomaly;
pub mod checks;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod figures;
pub mod keys;
pub mod lifeguard;
pub mod names;
pub mod network;
pub mod operators;
pub mod parallel;
pub mod report;
pub mod scenario;
pub mod shell;
mod slots;
pub mod statistics;
pub mod trace;
mod turn;

pub use cluster::{HostId, Sim};
pub use scenario::{Broken, Report};
