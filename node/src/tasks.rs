//! The agent's long-lived tasks: each owns one thing and tells the others by snapshots and mailboxes.
//!
//! [`gossip`] drives the membership machine; [`routes`] folds its news into the route table; [`identity`] loads our
//! credentials and re-keys the leaf; [`instances`] knows what runs here, and [`health`] checks it; [`own`] is where
//! these two leave our own records for `gossip`.

pub mod gossip;
pub mod health;
pub mod identity;
pub mod instances;
pub mod own;
pub mod routes;
