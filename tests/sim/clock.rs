//! Virtual time, and chance from a seed.

use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};

/// Time since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimTime(Duration);

impl SimTime {
    /// The start of the run.
    pub const START: Self = Self(Duration::ZERO);

    /// That much later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long ago `earlier` was; zero when it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The next whole multiple of `step`; itself if it is one.
    #[must_use]
    pub fn rounded_up(self, step: Duration) -> Self {
        let (nanos, step) = (self.0.as_nanos(), step.as_nanos().max(1));
        let up = nanos.div_ceil(step) * step;
        Self(Duration::from_nanos(u64::try_from(up).unwrap_or(u64::MAX)))
    }

    /// Time since the start of the run.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.3} s", self.0.as_secs_f64()))
    }
}

/// Turns virtual time into the `Instant`s that the machine takes. It only ever subtracts them, so the one real reading
/// that they begin at cannot reach a decision; equal trace hashes of two runs prove it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
}

impl Clock {
    /// A clock whose start is this moment.
    #[must_use]
    pub fn start() -> Self {
        Self { base: Instant::now() }
    }

    /// The machine's form of a virtual time.
    #[must_use]
    pub fn instant(&self, at: SimTime) -> Instant {
        self.base + at.0
    }

    /// The virtual time of a machine's deadline.
    #[must_use]
    pub fn time(&self, at: Instant) -> SimTime {
        SimTime(at.saturating_duration_since(self.base))
    }
}

/// Chance that repeats itself for equal seeds. Each concern has dice of its own, so that one draw more in one place
/// does not change all others.
#[derive(Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Dice for one concern of one run.
    #[must_use]
    pub fn new(seed: u64, concern: u64) -> Self {
        Self(ChaCha8Rng::from_seed(Self::seed_bytes(seed, concern)))
    }

    /// 32 bytes from a seed and a concern, as machines take them.
    #[must_use]
    pub fn seed_bytes(seed: u64, concern: u64) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&concern.to_le_bytes());
        bytes
    }

    /// True in this share of draws. A share of zero draws nothing.
    pub fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.0.random::<f64>() < share
    }

    /// Evenly between nothing and `most`.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.0.random::<f64>())
    }

    /// One of `0..count`; zero when there is nothing to choose.
    pub fn index(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { self.0.random_range(0..count) }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_survives_the_way_through_the_machine() {
        let clock = Clock::start();
        let at = SimTime::START.after(Duration::from_micros(1_234_567));
        assert_eq!(clock.time(clock.instant(at)), at);
        assert_eq!(at.to_string(), "1.235 s");
        let (micro, milli) = (Duration::from_micros(1), Duration::from_millis(1));
        assert_eq!(at.rounded_up(micro), at);
        assert_eq!(at.rounded_up(milli), SimTime::START.after(milli * 1_235));
    }

    #[test]
    fn equal_seeds_draw_equally_and_concerns_are_apart() {
        let draw = |seed, concern| Dice::new(seed, concern).number();
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
        assert!(!Dice::new(1, 1).chance(0.0));
        assert!(Dice::new(1, 1).chance(1.0));
    }
}
