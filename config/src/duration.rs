//! Durations as the Gateway API writes them (GEP-2257): `^([0-9]{1,5}(h|m|s|ms)){1,4}$`, for example `1h30m`, `500ms`.
//!
//! Strict on purpose: no blank, no fraction, no sign, no bare number, so that one text means one thing to every program.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::time::Duration;

/// Most pairs of number and unit.
const PARTS_MAX: usize = 4;
/// Most digits of one number.
const DIGITS_MAX: usize = 5;
/// Longest duration, 99999h59m59s999ms: the longest that the grammar can write with each unit once, as GEP-2257 has it.
pub const LONGEST: Duration = Duration::from_millis(99_999 * 3_600_000 + 3_599_999);

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a duration like 5s, 500ms or 1h30m (units h, m, s, ms; no blanks, no fractions; at most 99999h59m59s999ms)"
)]
pub struct DurationInvalid;

/// Reads one duration.
///
/// # Errors
/// [`DurationInvalid`] for every text outside the grammar of this module, and for a sum over [`LONGEST`].
pub fn parse(text: &str) -> Result<Duration, DurationInvalid> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0_usize;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits).ok_or(DurationInvalid)?;
        if digits == 0 || digits > DIGITS_MAX || parts == PARTS_MAX {
            return Err(DurationInvalid);
        }
        let number: u64 = number.parse().map_err(|_| DurationInvalid)?;
        // `ms` before `m`: the longer unit is meant whenever it fits.
        let (unit_ms, tail) = [("ms", 1_u64), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .iter()
            .find_map(|(unit, ms)| tail.strip_prefix(unit).map(|tail| (*ms, tail)))
            .ok_or(DurationInvalid)?;
        total = total.saturating_add(Duration::from_millis(number.saturating_mul(unit_ms)));
        parts = parts.saturating_add(1);
        rest = tail;
    }
    if parts == 0 || total > LONGEST { Err(DurationInvalid) } else { Ok(total) }
}

/// Writes a duration in the same grammar, largest units first; what is below a millisecond is left out, and what is over
/// [`LONGEST`] is written as that.
#[must_use]
pub fn format(duration: Duration) -> String {
    use std::fmt::Write as _;
    let duration = duration.min(LONGEST);
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 3_600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
    ];
    let mut text = String::new();
    for (number, unit) in parts.iter().filter(|(number, _)| *number > 0) {
        let _ = write!(text, "{number}{unit}");
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_grammar_is_strict() {
        let check = |text: &str, ms: Option<u64>| {
            assert_eq!(parse(text).ok(), ms.map(Duration::from_millis), "{text:?}");
        };
        check("5s", Some(5_000));
        check("1h30m", Some(5_400_000));
        check("500ms", Some(500));
        check("1h2m3s4ms", Some(3_723_004));
        check("0s", Some(0));
        check("99999h", Some(99_999 * 3_600_000));
        check("99999h59m59s999ms", Some(99_999 * 3_600_000 + 3_599_999));
        for bad in [
            "",
            "5",
            "s",
            "5 s",
            " 5s",
            "5s ",
            "1.5s",
            "-1s",
            "+1s",
            "100000s",
            "1s1s1s1s1s",
            "99999h59m60s",
            "99999h1h",
            "5S",
            "5sec",
            "5µs",
            "٥s",
        ] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(ms in 0_u64..200_000 * 3_600_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&format(duration)), Ok(duration.min(LONGEST)));
        }

        #[test]
        fn what_is_read_can_be_written(text in "([0-9]{1,5}(h|m|s|ms)){1,4}") {
            if let Ok(duration) = parse(&text) {
                prop_assert_eq!(parse(&format(duration)), Ok(duration));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
