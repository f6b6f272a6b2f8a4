//! Authenticated connections between nodes, and nothing about what they carry.
//!
//! Reading order: [`mux`], the pure machine that puts many streams on one connection; [`data`], which drives it over
//! mutual TLS on TCP and keeps a pool of connections per peer; [`lane`], which streams get a connection of their own
//! instead; [`quic`], the gossip network over one UDP socket.
//! Who a peer is, is decided by `starling_identity`; what a stream or datagram means, by proxy and gossip.
//!
//! Not here: routing, retries, the `open` header's content, membership.

pub mod data;
mod error;
pub mod lane;
pub mod mux;
pub mod quic;
#[cfg(test)]
mod testing;

pub use error::{CertificateRefusal, DialError};
