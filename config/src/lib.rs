//! starling-config
