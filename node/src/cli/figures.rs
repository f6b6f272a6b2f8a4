//! Figures for people: ages, latencies, shares, counts. Pure.

use jiff::Timestamp;

/// Whole seconds from `earlier` to `later`, both RFC 3339; `None` when one is no time. Never negative: clocks differ.
pub(crate) fn seconds_between(earlier: &str, later: &str) -> Option<u64> {
    let (earlier, later): (Timestamp, Timestamp) = (earlier.parse().ok()?, later.parse().ok()?);
    Some(u64::try_from(later.as_second().saturating_sub(earlier.as_second())).unwrap_or(0))
}

/// An age in one unit: `40s`, `3m`, `2h`, `361d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        86_400.. => format!("{}d", seconds / 86_400),
    }
}

/// The same within a sentence: `40 s`.
pub(crate) fn age_in_words(seconds: u64) -> String {
    let mut text = age(seconds);
    text.insert(text.len().saturating_sub(1), ' ');
    text
}

/// A span in two units: `3d 4h`, `12m 5s`.
pub(crate) fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units.iter().skip(first).take(2) {
        let number = rest / size;
        rest %= size;
        if number > 0 || parts.is_empty() {
            parts.push(format!("{number}{unit}"));
        }
    }
    parts.join(" ")
}

/// A latency: `0.04 ms`, `0.4 ms`, `2.9 ms`, `3 ms`, `18 ms`, `1.2 s`.
pub(crate) fn milliseconds(ms: f64) -> String {
    if !ms.is_finite() || ms < 0.0 {
        return "-".to_owned();
    }
    if ms < 0.095 {
        format!("{ms:.2} ms")
    } else if ms < 9.95 {
        format!("{} ms", trim(format!("{ms:.1}")))
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else {
        format!("{} s", trim(format!("{:.1}", ms / 1_000.0)))
    }
}

fn trim(number: String) -> String {
    match number.strip_suffix(".0") {
        Some(whole) => whole.to_owned(),
        None => number,
    }
}

/// A success rate: `99.64%`. Only what is whole says `100.00%`.
pub(crate) fn rate(share: f64) -> String {
    let percent = share * 100.0;
    if share < 1.0 && percent > 99.99 { "99.99%".to_owned() } else { format!("{percent:.2}%") }
}

/// A share of traffic: `45.0%`.
pub(crate) fn share(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A configured share: `90%`, with one decimal only where it has one.
pub(crate) fn weight(share: f64) -> String {
    format!("{}%", trim(format!("{:.1}", share * 100.0)))
}

/// A count with thousands: `1,204`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The date of an RFC 3339 time; the text itself when it is none.
pub(crate) fn date(time: &str) -> String {
    time.split_once('T').map_or(time, |(date, _)| date).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_spans_take_the_largest_units() {
        for (seconds, short, long) in [
            (0, "0s", "0s"),
            (59, "59s", "59s"),
            (60, "1m", "1m"),
            (3_599, "59m", "59m 59s"),
            (7_200, "2h", "2h"),
            (273_600, "3d", "3d 4h"),
            (31_190_400, "361d", "361d"),
        ] {
            assert_eq!((age(seconds).as_str(), span(seconds).as_str()), (short, long));
        }
        assert_eq!((age_in_words(2), age_in_words(273_600)), ("2 s".to_owned(), "3 d".to_owned()));
        assert_eq!(seconds_between("2026-11-22T15:31:58Z", "2026-11-22T15:31:59.120Z"), Some(1));
        assert_eq!(seconds_between("2026-11-22T15:31:59Z", "2026-11-22T15:31:58Z"), Some(0));
        assert_eq!(seconds_between("yesterday", "2026-11-22T15:31:58Z"), None);
    }

    #[test]
    fn latencies_keep_two_digits_that_matter() {
        for (ms, want) in [
            (0.041, "0.04 ms"),
            (0.41, "0.4 ms"),
            (2.9, "2.9 ms"),
            (3.0, "3 ms"),
            (9.96, "10 ms"),
            (18.2, "18 ms"),
            (1_240.0, "1.2 s"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(milliseconds(ms), want);
        }
    }

    #[test]
    fn a_rate_below_one_never_reads_as_whole() {
        for (value, want) in [(1.0, "100.00%"), (0.9964, "99.64%"), (0.999_999, "99.99%"), (0.0, "0.00%")] {
            assert_eq!(rate(value), want);
        }
        assert_eq!((share(0.45), weight(0.9), weight(0.125)), ("45.0%".into(), "90%".into(), "12.5%".into()));
    }

    #[test]
    fn counts_have_thousands() {
        for (number, want) in [(0, "0"), (999, "999"), (1_204, "1,204"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), want);
        }
    }
}
