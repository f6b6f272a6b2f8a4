//! Round-trip estimate of one member (RFC 6298) and the wait for its direct ack.

use std::time::Duration;

/// Shortest wait for a direct ack: scheduling noise of a busy host stays below it.
const DIRECT_WAIT_MIN: Duration = Duration::from_millis(100);
/// Added to the estimate: the peer's own turn.
const DIRECT_WAIT_SLACK: Duration = Duration::from_millis(50);

/// Smoothed round trip and its variation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rtt {
    estimate: Option<(Duration, Duration)>,
}

impl Rtt {
    /// Before the first measurement.
    pub(crate) const UNKNOWN: Self = Self { estimate: None };

    /// Takes one measurement (RFC 6298, 2.2 and 2.3).
    pub(crate) fn observe(&mut self, rtt: Duration) {
        self.estimate = Some(match self.estimate {
            None => (rtt, rtt / 2),
            Some((srtt, var)) => ((srtt * 7 + rtt) / 8, (var * 3 + srtt.abs_diff(rtt)) / 4),
        });
    }

    /// The smoothed round trip.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.estimate.map(|(srtt, _)| srtt)
    }

    /// How much it varies (RFC 6298's RTTVAR).
    pub(crate) fn variation(&self) -> Option<Duration> {
        self.estimate.map(|(_, var)| var)
    }

    /// How long to wait for a direct ack before others are asked; at most `max`.
    pub(crate) fn direct_wait(&self, max: Duration) -> Duration {
        match self.estimate {
            None => max,
            Some((srtt, var)) => (srtt + var * 4 + DIRECT_WAIT_SLACK).max(DIRECT_WAIT_MIN).min(max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_measured_path_within_its_bounds() {
        let ms = Duration::from_millis;
        let check = |samples: &[u64], want: Duration| {
            let mut rtt = Rtt::default();
            samples.iter().for_each(|sample| rtt.observe(ms(*sample)));
            assert_eq!(rtt.direct_wait(ms(500)), want, "{samples:?}");
        };
        check(&[], ms(500));
        check(&[1, 1, 1, 1], ms(100));
        check(&[40], ms(40 + 80 + 50));
        check(&[400], ms(500));
    }
}
