//! Counts refused peers by reason and logs them, each reason at most every ten seconds.
//!
//! A handshake fails inside rustls, and over QUIC the reason does not survive to whoever called; so it is told here.

use std::sync::atomic::{AtomicU64, Ordering};

use starling_model::SpiffeId;

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

/// One entry a reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    entries: [Entry; PeerRefused::REASONS.len()],
}

impl Refusals {
    /// Counts one refusal. `claimed` is who the peer says it is, `side` who asked for the certificate. The line names the
    /// peer that came first; how many came since the line before is in `count`.
    pub(crate) fn note(&self, refused: &PeerRefused, claimed: Option<&SpiffeId>, side: &'static str, now: UnixTime) {
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

    /// All reasons with their counts.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        PeerRefused::REASONS.into_iter().zip(self.entries.iter().map(|entry| entry.count.load(Ordering::Relaxed)))
    }
}
