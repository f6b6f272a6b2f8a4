//! First receipt: news goes on at once, to all connected peers while they are few, and what arrives within one window
//! goes together.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;

use crate::limits::FORWARD_TO_ALL_MAX;

/// When the last flush was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// When the next flush may be: at once after a quiet window, else at its end.
    pub(crate) fn due(self, window: Duration, now: Instant) -> Instant {
        self.last.map_or(now, |last| (last + window).max(now))
    }

    pub(crate) fn flushed(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

/// Who hears of news at first receipt: all `links` in a mesh of up to 64, else `2 ceil(log2 members)` of them.
pub(crate) fn first_targets<N>(mut links: Vec<N>, members: usize, rng: &mut ChaCha8Rng) -> Vec<N> {
    if members > FORWARD_TO_ALL_MAX {
        let digits = usize::BITS - members.saturating_sub(1).leading_zeros();
        draw(&mut links, 2 * digits as usize, rng);
    }
    links
}

/// Leaves `count` names in place, drawn without replacement.
pub(crate) fn draw<N>(names: &mut Vec<N>, count: usize, rng: &mut ChaCha8Rng) {
    for at in 0..count.min(names.len()) {
        let other = rng.random_range(at..names.len());
        names.swap(at, other);
    }
    names.truncate(count);
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use starling_model::NodeName;

    use super::*;
    use crate::testing::{base, node};

    #[test]
    fn news_after_silence_goes_at_once_and_bursts_go_together() {
        let window = Duration::from_millis(20);
        let mut pace = Pace::default();
        assert_eq!(pace.due(window, base()), base());
        pace.flushed(base());
        assert_eq!(pace.due(window, base() + Duration::from_millis(5)), base() + window);
        assert_eq!(pace.due(window, base() + Duration::from_secs(1)), base() + Duration::from_secs(1));
    }

    #[test]
    fn targets_are_all_or_a_fair_draw() {
        let names: Vec<NodeName> = (0..100).map(|at| node(&format!("n{at}"))).collect();
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        assert_eq!(first_targets(names.clone(), 64, &mut rng).len(), 100);
        let mut some = first_targets(names, 1000, &mut rng);
        assert_eq!(some.len(), 20);
        some.sort();
        some.dedup();
        assert_eq!(some.len(), 20, "nobody is drawn twice");
    }
}
