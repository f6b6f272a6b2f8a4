//! When do results of checks change the verdict? Pure.

use super::Verdict;

/// Counts results against the current verdict; a result that agrees with it starts the count anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hysteresis {
    verdict: Option<Verdict>,
    against: u32,
    unhealthy: u32,
    healthy: u32,
}

impl Hysteresis {
    /// Without a verdict yet. Thresholds of 0 count as 1.
    #[must_use]
    pub fn new(unhealthy: u32, healthy: u32) -> Self {
        Self { verdict: None, against: 0, unhealthy: unhealthy.max(1), healthy: healthy.max(1) }
    }

    /// The verdict so far.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Takes one result; returns the verdict if it is new.
    pub fn observe(&mut self, result: Verdict) -> Option<Verdict> {
        if self.verdict == Some(result) {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = match (self.verdict, result) {
            (None, _) => 1,
            (Some(_), Verdict::Ready) => self.healthy,
            (Some(_), Verdict::Unready) => self.unhealthy,
        };
        if self.against < needed {
            return None;
        }
        self.verdict = Some(result);
        self.against = 0;
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is a good check, `-` a bad one; upper-case letters stand where the verdict changes: `R`eady, `U`nready.
    fn check(results: &str, want: &str) {
        let mut state = Hysteresis::new(3, 2);
        let got: String = results
            .chars()
            .map(|c| match state.observe(if c == '+' { Verdict::Ready } else { Verdict::Unready }) {
                Some(Verdict::Ready) => 'R',
                Some(Verdict::Unready) => 'U',
                None => '.',
            })
            .collect();
        assert_eq!(got, want, "{results}");
    }

    #[test]
    fn the_first_result_counts_alone_and_then_the_thresholds_hold() {
        check("+", "R");
        check("-", "U");
        check("+--+--+", "R......");
        check("+---", "R..U");
        check("-+-+", "U...");
        check("-++", "U.R");
        check("+---++---", "R..U.R..U");
    }

    #[test]
    fn a_threshold_of_nothing_is_one() {
        let mut state = Hysteresis::new(0, 0);
        assert_eq!(state.observe(Verdict::Ready), Some(Verdict::Ready));
        assert_eq!(state.observe(Verdict::Unready), Some(Verdict::Unready));
    }
}
