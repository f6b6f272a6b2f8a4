//! What many measured times say together.

use std::time::Duration;

/// Measured times in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times(Vec<Duration>);

impl Times {
    /// These times, in any order.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The least time that this share of all does not exceed (nearest rank); zero without any.
    #[must_use]
    pub fn at(&self, share: f64) -> Duration {
        let wanted = share * self.0.len() as f64;
        let below = (1..self.0.len()).find(|rank| *rank as f64 >= wanted).unwrap_or(self.0.len());
        self.0.get(below.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Half of all take no longer.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.at(0.5)
    }

    /// Their sum divided by their number; zero without any.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.iter().sum::<Duration>().checked_div(count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_nearest_ranks() {
        let times = Times::new((1..=1_000).rev().map(Duration::from_secs).collect());
        let check = |share: f64, want: u64| assert_eq!(times.at(share), Duration::from_secs(want), "{share}");
        check(0.0, 1);
        check(0.5, 500);
        check(0.99, 990);
        check(0.999, 999);
        check(1.0, 1_000);
        assert_eq!(times.mean(), Duration::from_millis(500_500));
        assert_eq!((times.count(), Times::default().median()), (1_000, Duration::ZERO));
        assert_eq!(Times::new(vec![Duration::from_secs(3)]).at(0.999), Duration::from_secs(3));
    }
}
