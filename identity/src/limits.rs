//! Limits of the chain of trust bundles, each with its reason.

/// Most bundles kept before the newest. A fork is healed and a laggard caught up within so many updates; who is further
/// behind needs a new join file.
pub const ANCESTORS_MAX: usize = 64;
/// Most updates in one answer: all that may be kept.
pub const UPDATES_MAX: usize = ANCESTORS_MAX;
/// Largest bundle in a chain, signatures included: twelve certificates and sixty operators with ordinary names have
/// under 12 KiB, and a whole answer stays under [`ANSWER_BYTES_MAX`].
pub const UPDATE_BYTES_MAX: usize = 16_000;
/// Largest answer of `starling-trust/1`.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(4 + 1 + UPDATES_MAX * (2 + UPDATE_BYTES_MAX) <= ANSWER_BYTES_MAX);
/// Most hashes in a request: the newest bundle and those 1, 2, 4, … 64 before it.
pub const REQUEST_HASHES_MAX: usize = 8;
const _: () = assert!(1 << (REQUEST_HASHES_MAX - 2) == ANCESTORS_MAX);
/// Largest request of `starling-trust/1`.
pub const REQUEST_BYTES_MAX: usize = 1_024;
const _: () = assert!(4 + 32 + 1 + REQUEST_HASHES_MAX * 32 <= REQUEST_BYTES_MAX);
