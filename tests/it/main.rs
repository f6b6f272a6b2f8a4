//! One test binary for what concerns more than one room: the shape of the tree itself, and the protocol machine under
//! faults in virtual time.
//!
//! Reading order: [`layers`] (who may import whom), [`tidy`] (what no file may do), [`floors`] (how old a dependency
//! may be), then the `gossip_*` modules, which run the simulator of `tests/sim/`.

mod files;
mod floors;
mod layers;
mod tidy;

mod gossip_documents;
mod gossip_faults;
mod gossip_join;
mod gossip_lifeguard;
mod gossip_links;
mod gossip_records;
mod gossip_restart;
mod gossip_rows;
mod gossip_simulator;
