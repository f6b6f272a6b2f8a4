//! A cap on what one member may accuse. A healthy prober has about f x window / period accusations open
//! (f = share of members that fail), one that hears nobody has window / period: the cap lies between.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use starling_model::NodeName;

use crate::limits::MEMBERS_MAX;

/// Refuted accusations within [`REFUTED_WINDOW`] after which an accuser is ignored.
const REFUTED_MAX: usize = 5;
const REFUTED_WINDOW: Duration = Duration::from_secs(60);
/// How long it is ignored.
const IGNORED_FOR: Duration = Duration::from_secs(600);
/// An accuser over its cap is probed so often at most, besides the rounds.
const LOOK_PAUSE: Duration = Duration::from_secs(60);
/// New accusations per suspicion window that always count.
const CAP_MIN: usize = 3;

/// What one accuser did lately.
#[derive(Clone, Debug, Default)]
struct Record {
    accusations: VecDeque<Instant>,
    refuted: VecDeque<Instant>,
    ignored_until: Option<Instant>,
    /// When it was last probed for what it says.
    looked_at: Option<Instant>,
}

/// All accusers; bounded by the member table, since only members are listened to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accusers {
    records: BTreeMap<NodeName, Record>,
}

impl Accusers {
    /// May a new accusation by this member count? Notes it if so.
    pub(crate) fn admit(&mut self, accuser: &NodeName, members: usize, window: Duration, now: Instant) -> bool {
        if self.records.len() >= MEMBERS_MAX && !self.records.contains_key(accuser) {
            return false;
        }
        let record = self.records.entry(accuser.clone()).or_default();
        if record.ignored_until.is_some_and(|until| now < until) {
            return false;
        }
        forget(&mut record.accusations, window, now);
        if record.accusations.len() >= CAP_MIN.max(members / 100) {
            return false;
        }
        record.accusations.push_back(now);
        true
    }

    /// Is it time to probe an accuser that is over its cap? Once in [`LOOK_PAUSE`]: everybody passes its accusations on,
    /// again and again, and in a storm of them there are many such accusers.
    pub(crate) fn looks_at(&mut self, accuser: &NodeName, now: Instant) -> bool {
        let Some(record) = self.records.get_mut(accuser) else { return false };
        let is_due = record.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_PAUSE);
        if is_due {
            record.looked_at = Some(now);
        }
        is_due
    }

    /// One of its accusations was refuted by the accused.
    pub(crate) fn refuted(&mut self, accuser: &NodeName, now: Instant) {
        let Some(record) = self.records.get_mut(accuser) else { return };
        forget(&mut record.refuted, REFUTED_WINDOW, now);
        record.refuted.push_back(now);
        if record.refuted.len() >= REFUTED_MAX {
            record.refuted.clear();
            record.ignored_until = Some(now + IGNORED_FOR);
        }
    }

    /// Forgets accusers of whom nothing counts any more.
    pub(crate) fn sweep(&mut self, window: Duration, now: Instant) {
        self.records.retain(|_, record| {
            forget(&mut record.accusations, window, now);
            forget(&mut record.refuted, REFUTED_WINDOW, now);
            let ignored = record.ignored_until.is_some_and(|until| now < until);
            let looked = record.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_PAUSE);
            ignored || looked || !record.accusations.is_empty() || !record.refuted.is_empty()
        });
    }

    pub(crate) fn forget(&mut self, name: &NodeName) {
        self.records.remove(name);
    }
}

fn forget(times: &mut VecDeque<Instant>, window: Duration, now: Instant) {
    while times.front().is_some_and(|at| now.saturating_duration_since(*at) > window) {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{base, node};

    const WINDOW: Duration = Duration::from_secs(16);

    #[test]
    fn an_accuser_over_its_cap_is_looked_at_once_in_a_while() {
        let mut accusers = Accusers::default();
        let (liar, now) = (node("n1"), base());
        assert!(!accusers.looks_at(&liar, now), "it said nothing");
        accusers.admit(&liar, 10, WINDOW, now);
        let looked = (0..160_u32).filter(|at| accusers.looks_at(&liar, now + LOOK_PAUSE / 100 * *at)).count();
        assert_eq!(looked, 2);
        // What it said is forgotten sooner than that it was looked at.
        accusers.sweep(WINDOW, now + LOOK_PAUSE + LOOK_PAUSE / 2);
        assert!(!accusers.looks_at(&liar, now + LOOK_PAUSE * 2 - LOOK_PAUSE / 10));
    }

    #[test]
    fn three_or_one_percent_count_per_window() {
        let check = |members: usize, want: usize| {
            let mut accusers = Accusers::default();
            let admitted = (0..100).filter(|_| accusers.admit(&node("a"), members, WINDOW, base())).count();
            assert_eq!(admitted, want, "{members} members");
            assert!(accusers.admit(&node("a"), members, WINDOW, base() + WINDOW + Duration::from_secs(1)));
        };
        check(3, 3);
        check(300, 3);
        check(1000, 10);
    }

    #[test]
    fn who_is_refuted_five_times_in_a_minute_is_ignored_for_ten() {
        let mut accusers = Accusers::default();
        assert!(accusers.admit(&node("a"), 3, WINDOW, base()));
        (0..5).for_each(|_| accusers.refuted(&node("a"), base()));
        accusers.sweep(WINDOW, base() + Duration::from_secs(599));
        assert!(!accusers.admit(&node("a"), 3, WINDOW, base() + Duration::from_secs(599)));
        accusers.sweep(WINDOW, base() + Duration::from_secs(601));
        assert!(accusers.records.is_empty(), "nothing is left to remember");
        assert!(accusers.admit(&node("a"), 3, WINDOW, base() + Duration::from_secs(601)));
    }
}
