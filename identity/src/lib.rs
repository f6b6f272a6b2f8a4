//! starling-identity
