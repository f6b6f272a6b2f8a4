//! Coming together: when to dial seeds, links and the dead again, with jittered backoff.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;

/// A dial without any answer counts as failed after this long, whatever the driver says.
const DIAL_TIME_MAX: Duration = Duration::from_secs(15);

/// The dials of one target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    failures: u32,
    next: Instant,
    in_flight: Option<Instant>,
}

impl Attempts {
    /// May be dialled from `at` on.
    pub(crate) fn from(at: Instant) -> Self {
        Self { failures: 0, next: at, in_flight: None }
    }

    /// True when it is time and no dial is under way.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next <= now && !self.is_in_flight(now)
    }

    pub(crate) fn is_in_flight(&self, now: Instant) -> bool {
        self.in_flight.is_some_and(|since| now.saturating_duration_since(since) < DIAL_TIME_MAX)
    }

    pub(crate) fn begin(&mut self, now: Instant) {
        self.in_flight = Some(now);
    }

    /// The dial failed: double the wait, up to `max`, give or take a quarter.
    pub(crate) fn failed(&mut self, min: Duration, max: Duration, rng: &mut ChaCha8Rng, now: Instant) {
        let wait = min.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures = self.failures.saturating_add(1);
        self.in_flight = None;
        self.next = now + wait.mul_f64(rng.random_range(0.75..1.25));
    }

    /// It answered. Failures are remembered until the connection has lasted ([`Attempts::ended`]).
    pub(crate) fn succeeded(&mut self, now: Instant) {
        self.in_flight = None;
        self.next = now;
    }

    /// The connection ended after `lived`. One that lasted is dialled again at once; one that did not counts as a failed
    /// dial. Two agents under one name take each other's connections away, and without the pause they do nothing else.
    pub(crate) fn ended(&mut self, lived: Duration, backoff: (Duration, Duration), rng: &mut ChaCha8Rng, now: Instant) {
        let (min, max) = backoff;
        if lived >= max {
            *self = Self::from(now);
        } else {
            self.failed(min, max, rng, now);
        }
    }

    /// True while it remembers a failure or a dial: without either a new one is as good.
    pub(crate) fn is_worth_keeping(&self, now: Instant) -> bool {
        self.is_in_flight(now) || self.failures > 0 || self.next > now
    }

    /// When it may be dialled again.
    pub(crate) fn next(&self) -> Instant {
        self.in_flight.map_or(self.next, |since| since + DIAL_TIME_MAX)
    }
}

/// All targets of one sort.
pub(crate) type Dials<K> = BTreeMap<K, Attempts>;

/// Should seeds be dialled? As long as nobody else is alive, and while fewer than half are alive of the most that ever
/// were.
pub(crate) fn is_lonely(alive: usize, high_water: usize) -> bool {
    alive == 0 || 2 * alive < high_water
}

/// How long a dead member waits for its next call: the longer it is dead, the rarer.
pub(crate) fn call_pause(dead_for: Duration, tick: Duration) -> Duration {
    (dead_for / 10).clamp(tick, CALL_PAUSE_MAX)
}

/// A member that is dead for a day is still called this often.
const CALL_PAUSE_MAX: Duration = Duration::from_secs(300);

/// The chance that this node calls in one tick, so that the whole mesh makes about three calls (Ringpop's healer).
pub(crate) fn call_chance(members: usize) -> f64 {
    (3.0 / f64::from(u32::try_from(members.max(1)).unwrap_or(u32::MAX))).min(1.0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::testing::base;

    #[test]
    fn waits_double_up_to_their_bound_and_a_success_forgets_them() {
        let ms = Duration::from_millis;
        let mut rng = ChaCha8Rng::from_seed([5; 32]);
        let mut attempts = Attempts::from(base());
        assert!(attempts.is_due(base()));
        for want in [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
            attempts.begin(base());
            assert!(!attempts.is_due(base()));
            attempts.failed(ms(250), ms(10_000), &mut rng, base());
            let wait = attempts.next() - base();
            assert!(wait >= ms(want) * 3 / 4 && wait <= ms(want) * 5 / 4, "{wait:?} for {want}");
        }
        attempts.succeeded(base());
        assert!(attempts.is_due(base()));
    }

    #[test]
    fn only_a_connection_that_lasted_is_dialled_again_at_once() {
        let ms = Duration::from_millis;
        let mut rng = ChaCha8Rng::from_seed([5; 32]);
        let mut attempts = Attempts::from(base());
        for want in [250, 500, 1000] {
            attempts.succeeded(base());
            attempts.ended(ms(10), (ms(250), ms(10_000)), &mut rng, base());
            let wait = attempts.next() - base();
            assert!(wait >= ms(want) * 3 / 4 && wait <= ms(want) * 5 / 4, "{wait:?} for {want}");
        }
        attempts.succeeded(base());
        attempts.ended(ms(10_000), (ms(250), ms(10_000)), &mut rng, base());
        assert!(attempts.is_due(base()));
        attempts.ended(ms(10), (ms(250), ms(10_000)), &mut rng, base());
        assert!(attempts.next() - base() <= ms(250) * 5 / 4, "what lasted is forgiven what came before");
    }

    #[test]
    fn seeds_are_dialled_while_alone_or_halved() {
        let check = |alive, high, lonely| assert_eq!(is_lonely(alive, high), lonely, "{alive} of {high}");
        check(0, 0, true);
        check(1, 1, false);
        check(1, 2, false);
        check(1, 3, true);
        check(5, 10, false);
        check(4, 10, true);
    }

    #[test]
    fn the_long_dead_are_called_rarely() {
        let second = Duration::from_secs(1);
        assert_eq!(call_pause(second, 5 * second), 5 * second);
        assert_eq!(call_pause(600 * second, 5 * second), 60 * second);
        assert_eq!(call_pause(86_400 * second, 5 * second), 300 * second);
        assert!((call_chance(2) - 1.0).abs() < 1e-9 && call_chance(300) < 0.011);
    }
}
