//! How fast one owner may write: a token bucket per owner, at every relay.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use starling_model::NodeName;

/// Tokens are counted in thousandths.
const TOKEN: u64 = 1_000;

/// One bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    level: u64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(burst: u32, now: Instant) -> Self {
        Self { level: u64::from(burst) * TOKEN, at: now }
    }

    /// Would [`take`](Self::take) succeed?
    fn has(mut self, per_second: u32, burst: u32, now: Instant) -> bool {
        self.take(per_second, burst, now)
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, per_second: u32, burst: u32, now: Instant) -> bool {
        let elapsed = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.level = self.level.saturating_add(elapsed.saturating_mul(per_second.into())).min(u64::from(burst) * TOKEN);
        self.at = self.at.max(now);
        let enough = self.level >= TOKEN;
        if enough {
            self.level -= TOKEN;
        }
        enough
    }

    /// True when it is as full as a new one.
    fn is_full(mut self, per_second: u32, burst: u32, now: Instant) -> bool {
        self.take(per_second, burst, now) && self.level == (u64::from(burst) - 1) * TOKEN
    }

    /// How long until the next token.
    pub(crate) fn wait(&self, per_second: u32) -> Duration {
        Duration::from_millis(TOKEN.saturating_sub(self.level).div_ceil(u64::from(per_second.max(1))))
    }
}

/// A bucket per owner; owners are members, so their number is bounded.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    per_second: u32,
    burst: u32,
    owners: BTreeMap<NodeName, Bucket>,
}

impl Quota {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, owners: BTreeMap::new() }
    }

    /// Could this owner write once more? Asked of what is not verified yet: whoever writes under its name must not spend
    /// its tokens.
    pub(crate) fn has(&self, owner: &NodeName, now: Instant) -> bool {
        self.owners.get(owner).is_none_or(|bucket| bucket.has(self.per_second, self.burst, now))
    }

    /// May this owner write once more? Asked of what it signed.
    pub(crate) fn take(&mut self, owner: &NodeName, now: Instant) -> bool {
        let bucket = self.owners.entry(owner.clone()).or_insert_with(|| Bucket::new(self.burst, now));
        bucket.take(self.per_second, self.burst, now)
    }

    /// Forgets owners that have not written for so long that nothing is left to remember.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let (per_second, burst) = (self.per_second, self.burst);
        self.owners.retain(|_, bucket| !bucket.is_full(per_second, burst, now));
    }

    pub(crate) fn forget(&mut self, owner: &NodeName) {
        self.owners.remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{base, node};

    #[test]
    fn the_burst_passes_and_then_the_rate() {
        let mut quota = Quota::new(10, 100);
        let taken = |quota: &mut Quota, at: Instant| (0..1000).filter(|_| quota.take(&node("a"), at)).count();
        assert_eq!(taken(&mut quota, base()), 100);
        assert_eq!(taken(&mut quota, base() + Duration::from_secs(2)), 20);
        assert_eq!(taken(&mut quota, base() + Duration::from_secs(1000)), 100);
        assert!(quota.take(&node("b"), base()), "another owner has its own");
    }

    #[test]
    fn who_is_quiet_for_long_is_forgotten_and_nobody_else() {
        let mut quota = Quota::new(10, 100);
        assert!(quota.take(&node("a"), base()) && quota.take(&node("b"), base() + Duration::from_secs(5)));
        quota.sweep(base() + Duration::from_millis(5_050));
        assert_eq!(quota.owners.keys().cloned().collect::<Vec<_>>(), [node("b")]);
        quota.sweep(base() + Duration::from_secs(6));
        assert!(quota.owners.is_empty());
    }

    #[test]
    fn an_empty_bucket_says_when_to_come_back() {
        let mut bucket = Bucket::new(1, base());
        assert!(bucket.take(10, 1, base()));
        assert!(!bucket.take(10, 1, base()));
        assert_eq!(bucket.wait(10), Duration::from_millis(100));
    }
}
