//! Counts refused peers by reason and logs them, each reason at most every ten seconds.
//!
//! A handshake fails inside rustls, and over QUIC the reason does not survive to whoever called; so it is told here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use starling_model::{NodeName, SpiffeId};

use crate::time::UnixTime;
use crate::verify::PeerRefused;

/// A peer that tries again and again must not fill the log.
const LOG_EVERY_SECONDS: u64 = 10;

#[derive(Debug, Default)]
struct Entry {
    count: AtomicU64,
    logged_count: AtomicU64,
    /// Second of the last log line, plus one; zero is never.
    logged_at: AtomicU64,
}

/// Revoked nodes that are remembered until somebody asks who came; more are counted only.
const REVOKED_NAMES_MAX: usize = 64;

/// One entry a reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    entries: [Entry; PeerRefused::REASONS.len()],
    /// Attempts of revoked nodes. Their names are proven: everything else about them was in order.
    revoked: Mutex<BTreeMap<NodeName, u64>>,
}

impl Refusals {
    /// Counts one refusal. `claimed` is who the peer says it is, `side` who asked for the certificate. The line names the
    /// peer that came first; how many came since the line before is in `count`.
    pub(crate) fn note(&self, refused: &PeerRefused, claimed: Option<&SpiffeId>, side: &'static str, now: UnixTime) {
        if let PeerRefused::Revoked { node } = refused {
            self.note_revoked(node);
        }
        let reason = refused.reason();
        let at = PeerRefused::REASONS.iter().position(|known| *known == reason);
        let Some(entry) = at.and_then(|at| self.entries.get(at)) else { return };
        let count = entry.count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let last = entry.logged_at.load(Ordering::Relaxed);
        // A clock that went back counts as long ago.
        let due = last == 0 || now.0.abs_diff(last.saturating_sub(1)) >= LOG_EVERY_SECONDS;
        let mark = now.0.saturating_add(1);
        if due && entry.logged_at.compare_exchange(last, mark, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let since = count.saturating_sub(entry.logged_count.swap(count, Ordering::Relaxed));
            let code = refused.code();
            let peer = claimed.map_or_else(|| "unknown".to_owned(), ToString::to_string);
            tracing::warn!(reason, %code, peer, side, count = since, error = %refused, "peer refused");
        }
    }

    fn note_revoked(&self, node: &NodeName) {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = revoked.get_mut(node) {
            *count = count.saturating_add(1);
        } else if revoked.len() < REVOKED_NAMES_MAX {
            revoked.insert(node.clone(), 1);
        }
    }

    /// Revoked nodes that were refused since the last call, with the number of their attempts.
    pub(crate) fn take_revoked(&self) -> BTreeMap<NodeName, u64> {
        std::mem::take(&mut *self.revoked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All reasons with their counts.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        PeerRefused::REASONS.into_iter().zip(self.entries.iter().map(|entry| entry.count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoked_nodes_are_named_once_taken_and_one_more_than_fit_is_counted_only() {
        let refusals = Refusals::default();
        let name = |n: usize| NodeName::new(&format!("vm-{n}")).unwrap();
        for n in (0..=REVOKED_NAMES_MAX).chain([0]) {
            refusals.note(&PeerRefused::Revoked { node: name(n) }, None, "client", UnixTime(1));
        }
        let taken = refusals.take_revoked();
        assert_eq!((taken.len(), taken.get(&name(0)), taken.get(&name(1))), (REVOKED_NAMES_MAX, Some(&2), Some(&1)));
        assert!(!taken.contains_key(&name(REVOKED_NAMES_MAX)) && refusals.take_revoked().is_empty());
        let all = REVOKED_NAMES_MAX as u64 + 2;
        assert!(refusals.counts().any(|counted| counted == ("revoked", all)));
    }
}
