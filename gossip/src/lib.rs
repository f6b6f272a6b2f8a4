//! starling-gossip
