//! starling-routing
