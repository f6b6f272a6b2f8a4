//! HTTP through the mesh: one request, top to bottom, at the caller's side (`outbound.rs`) and at the owner's
//! (`inbound.rs`).
//!
//! Reading order: [`harden`] (what is refused at the door, pure), [`codec`] (HTTP/1.1 as it is read and written, pure),
//! `server.rs` and `client.rs` on it, [`asked`] (what is asked for, pure), `outbound.rs`, `attempt.rs` (one try),
//! `routed.rs` and `mirror.rs` (what a rule adds), `upgrade.rs` and `connect.rs` (what carries no HTTP any more), `h2.rs`
//! and [`grpc`] (HTTP/2 and what rides on it), `inbound.rs`, `head.rs`, `pool.rs`, `arriving.rs` and `body.rs`, `buffers.rs`,
//! `door.rs`, `ends.rs`, `exchange.rs`.

pub mod asked;
pub mod codec;
pub mod grpc;
pub mod harden;

pub(crate) mod arriving;
pub(crate) mod attempt;
pub(crate) mod body;
pub(crate) mod buffers;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod door;
pub(crate) mod ends;
pub(crate) mod exchange;
pub(crate) mod h2;
pub(crate) mod head;
pub(crate) mod inbound;
pub(crate) mod mirror;
pub(crate) mod outbound;
pub(crate) mod pool;
pub(crate) mod routed;
pub(crate) mod server;
pub(crate) mod upgrade;
