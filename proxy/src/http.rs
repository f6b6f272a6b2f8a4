//! HTTP/1.1 through the mesh: one request on hyper, top to bottom, at the caller's side ([`outbound`]) and at the
//! owner's ([`inbound`]).
//!
//! Reading order: [`harden`] and [`scan`] (what is refused at the door, pure), [`guard`] (the door), [`outbound`],
//! [`inbound`], [`pool`], [`body`], [`exchange`].

pub mod harden;
pub mod scan;

pub(crate) mod body;
pub(crate) mod exchange;
pub(crate) mod guard;
pub(crate) mod inbound;
pub(crate) mod outbound;
pub(crate) mod pool;
pub(crate) mod watched;
