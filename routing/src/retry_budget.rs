//! How many retries one service may cost now (GEP-3388): a percentage of the requests of the last interval, and a
//! floor per second. Without it a dead backend multiplies the load of its callers, hop by hop.

use std::time::{Duration, Instant};

use starling_config::documents::traffic_policy::RetryRate;

use crate::limits::{RETRY_BUDGET_INTERVAL, RETRY_BUDGET_PERCENT, RETRY_FLOOR_PER_SECOND};

/// The interval is counted in so many parts; the oldest leaves as a new one begins.
const PARTS: u32 = 10;

/// `retryConstraint` of a BackendTrafficPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Of how long.
    pub interval: Duration,
    /// Retries that are always there.
    pub floor: RetryRate,
}

impl BudgetSettings {
    /// Where no policy says otherwise.
    pub const BUILT_IN: Self = Self {
        percent: RETRY_BUDGET_PERCENT,
        interval: RETRY_BUDGET_INTERVAL,
        floor: RetryRate { count: RETRY_FLOOR_PER_SECOND, interval: Duration::from_secs(1) },
    };
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// Parts since the budget began; tells a part of this interval from one of an earlier.
    number: u64,
    requests: u64,
    retries: u64,
}

/// Counts of one service at one agent. One owner; `now` never runs backwards.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    settings: BudgetSettings,
    began: Instant,
    parts: [Part; PARTS as usize],
}

impl RetryBudget {
    /// An empty one.
    #[must_use]
    pub fn new(settings: BudgetSettings, now: Instant) -> Self {
        Self { settings, began: now, parts: [Part::default(); PARTS as usize] }
    }

    /// Counts a first try.
    pub fn request(&mut self, now: Instant) {
        if let Some(part) = self.part(now) {
            part.requests += 1;
        }
    }

    /// Takes one retry out of the budget; false when it is spent.
    pub fn try_spend(&mut self, now: Instant) -> bool {
        if self.left(now) == 0 {
            return false;
        }
        if let Some(part) = self.part(now) {
            part.retries += 1;
        }
        true
    }

    /// Retries that are left at `now`.
    #[must_use]
    pub fn left(&self, now: Instant) -> u64 {
        let newest = self.number(now);
        let in_interval = |part: &&Part| part.number <= newest && newest - part.number < u64::from(PARTS);
        let (requests, retries) = self
            .parts
            .iter()
            .filter(in_interval)
            .fold((0, 0), |(requests, retries), part| (requests + part.requests, retries + part.retries));
        let RetryRate { count, interval } = self.settings.floor;
        let floor = u128::from(count) * self.settings.interval.as_millis() / interval.as_millis().max(1);
        let allowed = requests * u64::from(self.settings.percent) / 100 + u64::try_from(floor).unwrap_or(u64::MAX);
        allowed.saturating_sub(retries)
    }

    fn number(&self, now: Instant) -> u64 {
        let width = (self.settings.interval / PARTS).max(Duration::from_millis(1));
        u64::try_from(now.saturating_duration_since(self.began).as_nanos() / width.as_nanos()).unwrap_or(u64::MAX)
    }

    fn part(&mut self, now: Instant) -> Option<&mut Part> {
        let number = self.number(now);
        let at = usize::try_from(number % u64::from(PARTS)).ok()?;
        let part = self.parts.get_mut(at)?;
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a base for virtual time")]
    fn base() -> Instant {
        Instant::now()
    }

    /// Retries that `requests` requests at one moment pay for.
    fn spent(settings: BudgetSettings, requests: u32) -> u32 {
        let now = base();
        let mut budget = RetryBudget::new(settings, now);
        (0..requests).for_each(|_| budget.request(now));
        (0..100_000).take_while(|_| budget.try_spend(now)).count().try_into().unwrap()
    }

    #[test]
    fn percent_is_of_a_hundred_and_the_floor_is_per_second() {
        // One past each built-in limit: the 101st retry without requests, the 301st with a thousand.
        assert_eq!(spent(BudgetSettings::BUILT_IN, 0), RETRY_FLOOR_PER_SECOND * 10);
        assert_eq!(spent(BudgetSettings::BUILT_IN, 1_000), 1_000 * RETRY_BUDGET_PERCENT / 100 + 100);
        let floor = |count, seconds| RetryRate { count, interval: Duration::from_secs(seconds) };
        let slow = BudgetSettings { floor: floor(3, 5), ..BudgetSettings::BUILT_IN };
        assert_eq!(spent(slow, 0), 6, "a floor below one per second is kept");
        let no_floor = BudgetSettings { floor: floor(0, 1), ..BudgetSettings::BUILT_IN };
        assert_eq!(spent(no_floor, 4), 0);
        assert_eq!(spent(no_floor, 5), 1);
    }

    #[test]
    fn what_is_older_than_the_interval_neither_pays_nor_counts() {
        let no_floor = RetryRate { count: 0, interval: Duration::from_secs(1) };
        let (began, settings) = (base(), BudgetSettings { floor: no_floor, ..BudgetSettings::BUILT_IN });
        let mut budget = RetryBudget::new(settings, began);
        (0..100).for_each(|_| budget.request(began));
        assert_eq!(budget.left(began + RETRY_BUDGET_INTERVAL - Duration::from_millis(1)), 20);
        assert_eq!(budget.left(began + RETRY_BUDGET_INTERVAL), 0);
        let later = began + RETRY_BUDGET_INTERVAL * 1_000;
        budget.request(later);
        assert_eq!(budget.left(later), 0, "one request pays for no retry");
    }
}
