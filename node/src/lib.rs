//! starling
