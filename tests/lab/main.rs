//! Real agents as processes: what a new user does, what breaks, and what must then happen.
//!
//! Every test has loopback addresses of its own (`127.x.0.1` and up), so tests run side by side. Tests that need
//! programs or rights that are missing say `skipped: <cause>` and pass; `.ci/run` installs everything and runs all.

#[cfg(test)]
mod access;
#[cfg(test)]
mod agent;
#[cfg(test)]
mod apply;
#[cfg(test)]
mod bad_input;
mod bundles;
#[cfg(test)]
mod canary;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod enrol;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod gateways;
#[cfg(test)]
mod grants;
#[cfg(test)]
mod grants_at_start;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod http;
#[cfg(test)]
mod leafs;
#[cfg(test)]
mod long_streams;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod mesh25;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod revoked;
mod rotate;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod steady;
#[cfg(test)]
mod steer;
#[cfg(test)]
mod walk;
