//! The mass-down guard: when very many members fall silent at once, the likelier explanation is that *we* are cut off.
//! Verdicts are held, routes stay, seeds are dialled. It never guards against few deaths: in a mesh of three, one of two
//! peers may die.
//!
//! Two signs, since one alone is blind: deaths counted within a window are too few where bad health slows our probing and
//! the mesh is large, so that a node cut off would bury all others one by one; a row of silent probes says the same at
//! every size, but only when nearly nobody is heard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use starling_model::NodeName;

/// Deaths that are always believed.
const DEATHS_MIN: usize = 3;
/// Beyond that: this share of the members, in percent.
const DEATHS_PERCENT: usize = 30;
/// Probes of our rounds in a row that nobody answered; each goes to another member where there are as many. With three in
/// ten of all members really lost, one row in 1,400 is as long.
const SILENCE: u32 = 6;
/// Verdicts are held at most this long.
const HOLD_MAX: Duration = Duration::from_secs(300);
/// Live peers that must report a death on their own connections before we believe it while isolated.
const WITNESSES: usize = 3;

/// What to do with a verdict of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Believe it.
    Pass,
    /// Hold it: we are isolated.
    Hold,
}

/// The guard's state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Isolation {
    deaths: VecDeque<Instant>,
    since: Option<Instant>,
    witnesses: BTreeMap<NodeName, BTreeSet<NodeName>>,
    /// Probes in a row that nobody answered.
    silent: u32,
    /// After a hold ran out, verdicts pass until things calm down.
    released: bool,
}

impl Isolation {
    pub(crate) fn is_isolated(&self) -> bool {
        self.since.is_some()
    }

    /// A probe of the round ended without any answer.
    pub(crate) fn unanswered(&mut self) {
        self.silent = self.silent.saturating_add(1);
    }

    /// Somebody answered a probe.
    pub(crate) fn answered(&mut self) {
        self.silent = 0;
    }

    /// Judges one more death among `peers` others, where a suspicion lasts at most `window`.
    pub(crate) fn judge(&mut self, member: &NodeName, peers: usize, window: Duration, now: Instant) -> Guard {
        while self.deaths.front().is_some_and(|at| now.saturating_duration_since(*at) > window) {
            self.deaths.pop_front();
        }
        if self.deaths.is_empty() {
            self.released = false;
        }
        let believed = DEATHS_MIN.max(peers * DEATHS_PERCENT / 100);
        let witnessed = self.witnesses.get(member).is_some_and(|names| names.len() >= WITNESSES);
        // Once isolated, time alone makes no verdict believable.
        let deaf = self.silent >= SILENCE && peers > DEATHS_MIN;
        let few = self.deaths.len() < believed && !deaf && self.since.is_none();
        if few || self.released || witnessed {
            self.deaths.push_back(now);
            return Guard::Pass;
        }
        self.since.get_or_insert(now);
        Guard::Hold
    }

    /// A live peer said on its own connection that `member` is dead. True once enough have said so.
    pub(crate) fn witness(&mut self, member: &NodeName, peer: &NodeName) -> bool {
        let names = self.witnesses.entry(member.clone()).or_default();
        if names.len() < WITNESSES {
            names.insert(peer.clone());
        }
        names.len() >= WITNESSES
    }

    /// The member lives, or is forgotten.
    pub(crate) fn forget(&mut self, member: &NodeName) {
        self.witnesses.remove(member);
    }

    /// When the hold ends.
    pub(crate) fn ends(&self) -> Option<Instant> {
        self.since.map(|since| since + HOLD_MAX)
    }

    /// Somebody who was silent answers again, or the hold ran out (`forced`): verdicts pass.
    pub(crate) fn end(&mut self, forced: bool) -> bool {
        self.released |= forced;
        if !forced {
            self.deaths.clear();
        }
        self.since.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{base, node};

    const WINDOW: Duration = Duration::from_secs(24);

    #[test]
    fn few_deaths_pass_and_very_many_are_held() {
        let check = |peers: usize, passing: usize| {
            let mut guard = Isolation::default();
            let judged = (0..peers).map(|at| guard.judge(&node(&format!("n{at}")), peers, WINDOW, base()));
            let passed = judged.filter(|judged| *judged == Guard::Pass).count();
            assert_eq!(passed, passing, "{peers} peers");
        };
        check(2, 2);
        check(3, 3);
        check(10, 3);
        check(99, 29);
    }

    /// Silent probes, how many answers follow, peers, and whether the first death is believed.
    #[test]
    fn who_hears_nobody_believes_no_death() {
        let check = |silent: u32, answers: u32, peers: usize, verdict: Guard| {
            let mut guard = Isolation::default();
            (0..silent).for_each(|_| guard.unanswered());
            (0..answers).for_each(|_| guard.answered());
            assert_eq!(guard.judge(&node("n1"), peers, WINDOW, base()), verdict, "{silent} {answers} {peers}");
        };
        check(SILENCE - 1, 0, 99, Guard::Pass);
        check(SILENCE, 0, 99, Guard::Hold);
        check(SILENCE, 0, 999, Guard::Hold);
        check(SILENCE, 1, 999, Guard::Pass);
        // All two or three peers may have died.
        check(SILENCE, 0, 3, Guard::Pass);
        check(SILENCE, 0, 4, Guard::Hold);
    }

    #[test]
    fn the_hold_ends_by_witnesses_or_by_time() {
        let mut guard = Isolation::default();
        (0..10).for_each(|at| {
            guard.judge(&node(&format!("n{at}")), 10, WINDOW, base());
        });
        assert!(guard.is_isolated());
        let enough = ["a", "b", "b", "c"].map(|peer| guard.witness(&node("n9"), &node(peer)));
        assert_eq!(enough, [false, false, false, true]);
        assert_eq!(guard.judge(&node("n9"), 10, WINDOW, base()), Guard::Pass);
        assert_eq!(guard.judge(&node("n8"), 10, WINDOW, base()), Guard::Hold);
        assert!(guard.end(true));
        assert_eq!(guard.judge(&node("n8"), 10, WINDOW, base()), Guard::Pass);
    }
}
