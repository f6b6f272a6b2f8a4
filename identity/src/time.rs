//! Wall time as certificates know it: whole seconds since 1970, always a parameter, never read here.

use std::fmt;
use std::time::Duration;

/// One day in seconds.
pub const DAY_SECONDS: u64 = 86_400;

/// Last second of the year 9999, the end of X.509's GeneralizedTime (RFC 5280, 4.1.2.5.2).
pub const LAST_SECOND: UnixTime = UnixTime(253_402_300_799);

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This much later, at most [`LAST_SECOND`].
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds)).min(LAST_SECOND)
    }

    /// This much earlier, at least 1970.
    #[must_use]
    pub fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// How long from `self` until `later`; zero when it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_secs(later.0.saturating_sub(self.0))
    }

    /// From the signed seconds of an X.509 date; before 1970 counts as 1970.
    pub(crate) fn from_signed(seconds: i64) -> Self {
        Self(u64::try_from(seconds).unwrap_or(0))
    }

    pub(crate) fn to_pki(self) -> rustls_pki_types::UnixTime {
        rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(self.0))
    }

    pub(crate) fn from_pki(time: rustls_pki_types::UnixTime) -> Self {
        Self(time.as_secs())
    }
}

impl fmt::Display for UnixTime {
    /// `2026-11-22T15:31:59Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = (*self).min(LAST_SECOND).0;
        let (days, second) = (at / DAY_SECONDS, at % DAY_SECONDS);
        // Days to civil date: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
        let z = days + 719_468;
        let (era, day_of_era) = (z / 146_097, z % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_as_iso_8601() {
        let check = |seconds: u64, want: &str| assert_eq!(UnixTime(seconds).to_string(), want);
        check(0, "1970-01-01T00:00:00Z");
        check(951_827_696, "2000-02-29T12:34:56Z");
        check(1_795_361_519, "2026-11-22T15:31:59Z");
        check(LAST_SECOND.0, "9999-12-31T23:59:59Z");
        check(u64::MAX, "9999-12-31T23:59:59Z");
    }

    #[test]
    fn time_never_leaves_its_range() {
        assert_eq!(UnixTime(5).minus(9), UnixTime(0));
        assert_eq!(UnixTime(u64::MAX).plus(9), LAST_SECOND);
        assert_eq!(UnixTime(9).until(UnixTime(5)), Duration::ZERO);
        assert_eq!(UnixTime::from_signed(-1), UnixTime(0));
    }
}
