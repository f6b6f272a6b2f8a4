//! starling-proxy
