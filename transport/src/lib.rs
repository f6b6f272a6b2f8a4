//! starling-transport
