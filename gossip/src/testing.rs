//! What the tests of this crate share.

use std::time::Instant;

use starling_model::NodeName;

/// An instant to count from.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made from nothing; tests only add to this one")]
pub(crate) fn base() -> Instant {
    static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}
