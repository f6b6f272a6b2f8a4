//! The binary of Starling: agent, command line and demo in one program.
//!
//! Reading order: [`run`] shows the whole agent on one page; [`tasks`] holds its long-lived tasks, of which
//! `tasks/gossip.rs` drives the membership machine and `tasks/routes.rs` publishes the route table; [`mesh_view`] is
//! what everybody else reads; [`api`] answers people and programs; [`store`] keeps what must survive a crash;
//! [`files`] keeps what must stay secret, [`folder`] works in what others can change, [`identity_folder`] replaces an identity as a whole. [`cli`] and [`demo`] are the programs around it.
//!
//! Not here: protocol decisions (gossip), choices of endpoints (routing), bytes of applications (proxy), cryptography
//! (identity).

pub mod api;
pub mod channel;
pub mod checks;
pub mod cli;
pub mod crypto;
pub mod demo;
pub mod events;
pub mod explain;
pub mod files;
pub mod folder;
pub mod identity_folder;
pub mod lower;
pub mod mesh_view;
pub mod ports;
pub mod run;
pub mod shutdown;
pub mod store;
pub mod supervise;
pub mod tasks;
pub mod telemetry;

/// Release of this program, e.g. `0.1.0`.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
