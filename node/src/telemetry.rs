//! What the agent tells about itself: log lines ([`log`]), metrics ([`metrics`], [`process`]), the service manager
//! ([`notify`]) and the block at the start ([`startup`]).

pub mod access;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod process;
pub mod startup;
pub mod time;
