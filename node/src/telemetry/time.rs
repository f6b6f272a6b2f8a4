//! Times for people and for JSON: RFC 3339 in UTC. Monotonic instants are translated by one pair of clock readings.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Seconds since 1970 by the host's clock; 0 if that lies before.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `2026-11-22T15:31:59.120Z`.
#[must_use]
pub fn rfc3339_millis(at: SystemTime) -> String {
    match Timestamp::try_from(at) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => String::new(),
    }
}

/// `2026-11-22T15:31:59Z` of Unix seconds; empty when the year is beyond 9999.
#[must_use]
pub fn rfc3339_seconds(unix: u64) -> String {
    let at = i64::try_from(unix).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}

/// `22/Nov/2026:15:31:59 +0000`, as web servers write it.
#[must_use]
pub fn common(at: SystemTime) -> String {
    match Timestamp::try_from(at) {
        Ok(at) => at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
        Err(_) => String::new(),
    }
}

/// One reading of both clocks, to show instants as times of day.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    monotonic: Instant,
    wall: SystemTime,
}

impl Clocks {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// A pair of readings that were taken elsewhere.
    #[must_use]
    pub fn of_then(monotonic: Instant, wall: SystemTime) -> Self {
        Self { monotonic, wall }
    }

    /// The monotonic reading.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.monotonic
    }

    /// The wall-clock reading.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        self.wall
    }

    /// The time of day of an instant, whole seconds.
    #[must_use]
    pub fn show(&self, at: Instant) -> String {
        self.of(at)
            .and_then(|wall| wall.duration_since(UNIX_EPOCH).ok())
            .map(|since| rfc3339_seconds(since.as_secs()))
            .unwrap_or_default()
    }

    /// The same with milliseconds.
    #[must_use]
    pub fn show_millis(&self, at: Instant) -> String {
        self.of(at).map(rfc3339_millis).unwrap_or_default()
    }

    fn of(&self, at: Instant) -> Option<SystemTime> {
        match at.checked_duration_since(self.monotonic) {
            Some(ahead) => self.wall.checked_add(ahead),
            None => self.wall.checked_sub(self.monotonic.saturating_duration_since(at)),
        }
    }
}

/// Milliseconds with a fraction, as JSON and tables show latencies: three digits after the point.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// `0.4ms`, `12ms`: for log lines.
#[must_use]
pub fn short(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.1}ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0}ms")
    } else {
        format!("{:.0}s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_361_519_120);
        assert_eq!(rfc3339_millis(at), "2026-11-22T15:31:59.120Z");
        assert_eq!(rfc3339_seconds(1_795_361_519), "2026-11-22T15:31:59Z");
        assert_eq!(rfc3339_seconds(u64::MAX), "");
    }

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(short(Duration::from_micros(412)), "0.4ms");
        assert_eq!(short(Duration::from_millis(18)), "18ms");
        assert_eq!(millis(Duration::from_nanos(412_345)), 0.412);
    }

    #[test]
    fn instants_are_shown_around_the_reading() {
        let clocks = Clocks { monotonic: Instant::now(), wall: UNIX_EPOCH + Duration::from_secs(1_795_361_519) };
        assert_eq!(clocks.show(clocks.now() + Duration::from_secs(1)), "2026-11-22T15:32:00Z");
        assert_eq!(clocks.show(clocks.now()), "2026-11-22T15:31:59Z");
    }
}
