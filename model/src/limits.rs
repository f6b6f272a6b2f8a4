//! Limits that two rooms share, each with its reason.

/// Longest name: one DNS label (RFC 1035, 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;

/// Longest trust domain, so that a workload's DNS form still fits a DNS name: three labels with their dots, `.node.`
/// aside, and the domain.
pub const TRUST_DOMAIN_BYTES_MAX: usize = 56;
const _: () = assert!(3 * (NAME_BYTES_MAX + 1) + 5 + TRUST_DOMAIN_BYTES_MAX <= 253);

/// Most labels on an instance or node; they travel in records.
pub const LABELS_MAX: usize = 32;
/// Longest label key or value.
pub const LABEL_BYTES_MAX: usize = 63;

/// Most instances that one node may announce.
pub const INSTANCES_PER_NODE_MAX: usize = 256;

/// Largest weight of an instance or backend (Gateway API v1, `BackendRef.weight`).
pub const WEIGHT_MAX: u32 = 1_000_000;

/// Most addresses that a member announces for itself.
pub const ADDRESSES_MAX: usize = 4;
