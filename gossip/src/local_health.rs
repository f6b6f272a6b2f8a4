//! How slow am I? The Local Health Multiplier of Lifeguard (IV-A): a node that misses acks, or the nacks of its helpers,
//! doubts itself first and gives everybody more time.

use crate::config::HealthRule;

/// Highest score of memberlist: intervals stretch at most eightfold.
const SCORE_MAX: u8 = 7;
/// Highest score of the paper.
const SCORE_MAX_PAPER: u8 = 8;

/// 0 is healthy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalHealth {
    score: u8,
    rule: HealthRule,
}

impl LocalHealth {
    pub(crate) fn new(rule: HealthRule) -> Self {
        Self { score: 0, rule }
    }

    pub(crate) fn score(self) -> u8 {
        self.score
    }

    /// What periods and timeouts are multiplied by.
    pub(crate) fn factor(self) -> u32 {
        u32::from(self.score) + 1
    }

    /// A probe was answered.
    pub(crate) fn probe_acked(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// A probe failed; of `due` nacks, `came` arrived.
    pub(crate) fn probe_failed(&mut self, due: usize, came: usize) {
        let missing = u8::try_from(due.saturating_sub(came)).unwrap_or(u8::MAX);
        self.worsen(match self.rule {
            HealthRule::Off => 0,
            HealthRule::Memberlist if due == 0 => 1,
            HealthRule::Memberlist => missing,
            HealthRule::Paper => missing.saturating_add(1),
        });
    }

    /// We had to refute a suspicion, our loop ran late, or our send queue is long.
    pub(crate) fn blamed(&mut self) {
        self.worsen(1);
    }

    fn worsen(&mut self, by: u8) {
        let max = match self.rule {
            HealthRule::Off => 0,
            HealthRule::Memberlist => SCORE_MAX,
            HealthRule::Paper => SCORE_MAX_PAPER,
        };
        self.score = self.score.saturating_add(by).min(max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit vector V6 (memberlist's tables).
    #[test]
    fn the_score_stays_between_zero_and_seven() {
        let mut health = LocalHealth::new(HealthRule::Memberlist);
        assert_eq!(health.score(), 0);
        health.probe_acked();
        assert_eq!(health.score(), 0);
        (0..10).for_each(|_| health.blamed());
        assert_eq!((health.score(), health.factor()), (7, 8));
    }

    #[test]
    fn the_paper_saturates_at_eight_and_plain_swim_has_no_score() {
        let check = |rule, want| {
            let mut health = LocalHealth::new(rule);
            (0..10).for_each(|_| health.blamed());
            assert_eq!((health.score(), health.factor()), (want, u32::from(want) + 1), "{rule:?}");
        };
        check(HealthRule::Paper, 8);
        check(HealthRule::Off, 0);
    }

    /// Unit vector V8 (memberlist's tables), and the paper's counter.
    #[test]
    fn only_missing_nacks_speak_against_us() {
        let check = |rule, due, came, want| {
            let mut health = LocalHealth::new(rule);
            health.probe_failed(due, came);
            assert_eq!(health.score(), want, "{rule:?} {came} of {due}");
        };
        check(HealthRule::Memberlist, 3, 3, 0);
        check(HealthRule::Memberlist, 3, 2, 1);
        check(HealthRule::Memberlist, 0, 0, 1);
        check(HealthRule::Paper, 3, 3, 1);
        check(HealthRule::Paper, 3, 0, 4);
        check(HealthRule::Off, 3, 0, 0);
        let mut health = LocalHealth::new(HealthRule::Memberlist);
        health.blamed();
        health.probe_acked();
        assert_eq!(health.score(), 0, "an acked probe takes one back");
    }
}
