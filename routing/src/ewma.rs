//! Peak-sensitive moving average of latency (Finagle's `PeakEwma`): a worse sample counts at once, a better one slowly,
//! and silence is forgiven. Reading does not change it.

use std::time::Duration;

use crate::limits::EWMA_DECAY;

/// Longest latency that is told apart: over eleven days.
const MICROS_MAX: f32 = 1e12;

/// The average and when it was last fed, small enough to live in one atomic word.
///
/// Times are milliseconds since any fixed moment of the caller's choice; they may wrap (after 49 days), which at worst
/// forgives one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeakEwma {
    micros: f32,
    at_ms: u32,
}

impl PeakEwma {
    /// Feeds one sample.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a latency in f32 microseconds keeps seven digits, which is plenty"
    )]
    pub fn observe(self, sample: Duration, now_ms: u32) -> Self {
        let sample = (sample.as_secs_f64() * 1e6).clamp(1.0, f64::from(MICROS_MAX)) as f32;
        if self.micros <= 0.0 || sample >= self.micros {
            return Self { micros: sample, at_ms: now_ms };
        }
        let keep = self.keep(now_ms);
        Self { micros: self.micros * keep + sample * (1.0 - keep), at_ms: now_ms }
    }

    /// The average as of now, decayed over the time since the last sample; `None` before the first one.
    #[must_use]
    pub fn read(self, now_ms: u32) -> Option<Duration> {
        if self.micros <= 0.0 {
            return None;
        }
        let micros = f64::from(self.micros * self.keep(now_ms)).max(1.0);
        Some(Duration::from_secs_f64(micros / 1e6))
    }

    fn keep(self, now_ms: u32) -> f32 {
        // A sample from another thread may be a little ahead of our clock reading: then no time has passed.
        let elapsed = now_ms.wrapping_sub(self.at_ms);
        let elapsed = if elapsed > u32::MAX / 2 { 0 } else { elapsed };
        (-(Duration::from_millis(u64::from(elapsed)).as_secs_f32() / EWMA_DECAY.as_secs_f32())).exp()
    }

    /// The word for an atomic; 0 is "never fed".
    #[must_use]
    pub fn pack(self) -> u64 {
        (u64::from(self.micros.to_bits()) << 32) | u64::from(self.at_ms)
    }

    /// Back from [`Self::pack`]. Every word is a value; one that no `pack` made reads as something finite.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
    pub fn unpack(word: u64) -> Self {
        let micros = f32::from_bits((word >> 32) as u32);
        let sound = micros.is_finite() && (0.0..=MICROS_MAX).contains(&micros);
        Self { micros: if sound { micros } else { 0.0 }, at_ms: word as u32 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_worse_sample_counts_at_once_and_a_better_one_slowly() {
        let slow = PeakEwma::default().observe(MS, 0).observe(100 * MS, 10);
        assert_eq!(slow.read(10), Some(100 * MS));
        let after = slow.observe(MS, 20).read(20).unwrap();
        assert!(after > 99 * MS, "{after:?}");
    }

    #[test]
    fn silence_is_forgiven_with_the_time_constant() {
        let once = PeakEwma::default().observe(100 * MS, 0);
        let later = once.read(10_000).unwrap();
        assert!((36 * MS..37 * MS).contains(&later), "{later:?}");
        assert_eq!(once.read(0), Some(100 * MS), "reading changes nothing");
    }

    #[test]
    fn never_fed_reads_as_nothing() {
        assert_eq!(PeakEwma::default().read(5), None);
        assert_eq!(PeakEwma::unpack(0), PeakEwma::default());
    }

    proptest! {
        #[test]
        fn packing_keeps_the_value(us in 1u64..10_000_000, at in any::<u32>()) {
            let fed = PeakEwma::default().observe(Duration::from_micros(us), at);
            prop_assert_eq!(PeakEwma::unpack(fed.pack()), fed);
        }

        #[test]
        fn any_word_reads_without_panic(word in any::<u64>(), now in any::<u32>()) {
            let _ = PeakEwma::unpack(word).observe(MS, now).read(now);
        }
    }
}
