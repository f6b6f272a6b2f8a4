//! Who said something that a compile step hung with, and how long nothing new of theirs is tried.
//!
//! Each hang costs a deadline and a thread, and whoever may sign or announce can do it again with other contents. So an
//! owner (an operator's key, a member) is left alone for a time that doubles with each turn in which something of it
//! hung, and altogether while as many of its threads hang as it may have. Nobody else waits for that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::worker::Late;

/// First time-out: as long as documents wait that may do later.
pub(super) const DELAY_FIRST: Duration = Duration::from_secs(10);
/// Longest time-out: somebody who looks into it is not held up for much longer than that takes.
const DELAY_MAX: Duration = Duration::from_secs(600);
/// How long after its last time-out an owner begins anew, once none of its threads hangs.
const MEMORY: Duration = Duration::from_secs(3_600);
/// Owners that are remembered; the one whose time ends first is forgotten for another.
const OWNERS_MAX: usize = 1_024;

/// Owners that hung a step.
#[derive(Debug)]
pub(super) struct Penalties<Owner> {
    hanging_max: usize,
    first: Duration,
    held: BTreeMap<Owner, Penalty>,
}

#[derive(Debug)]
struct Penalty {
    /// Turns in which something of it hung.
    hangs: u32,
    /// Until then nothing new of it is tried.
    until: Instant,
    /// Something of it hung in this turn.
    is_new: bool,
    threads: Vec<Late>,
}

impl Penalty {
    fn hanging(&self) -> usize {
        self.threads.iter().filter(|late| !late.is_over()).count()
    }
}

impl<Owner: Ord + Clone> Penalties<Owner> {
    /// An owner is left alone while `hanging_max` threads or more hang with what it said.
    pub(super) fn new(hanging_max: usize, first: Duration) -> Self {
        Self { hanging_max, first, held: BTreeMap::new() }
    }

    /// A step with something of this owner was given up.
    pub(super) fn blame(&mut self, owner: &Owner, threads: impl IntoIterator<Item = Late>, now: Instant) {
        if !self.held.contains_key(owner) && self.held.len() >= OWNERS_MAX {
            let next = self.held.iter().min_by_key(|(_, penalty)| penalty.until).map(|(owner, _)| owner.clone());
            next.and_then(|owner| self.held.remove(&owner));
        }
        let new = || Penalty { hangs: 0, until: now, is_new: false, threads: Vec::new() };
        let penalty = self.held.entry(owner.clone()).or_insert_with(new);
        penalty.is_new = true;
        penalty.threads.retain(|late| !late.is_over());
        for late in threads {
            if !penalty.threads.contains(&late) {
                penalty.threads.push(late);
            }
        }
    }

    /// Ends a turn: whoever was blamed in it is left alone for a while, and who was not for long is forgotten.
    pub(super) fn end_turn(&mut self, now: Instant) {
        let first = self.first;
        for penalty in self.held.values_mut().filter(|penalty| penalty.is_new) {
            penalty.is_new = false;
            let delay = first.saturating_mul(1_u32.checked_shl(penalty.hangs).unwrap_or(u32::MAX)).min(DELAY_MAX);
            penalty.until = now + delay;
            penalty.hangs = penalty.hangs.saturating_add(1);
        }
        self.held.retain(|_, penalty| penalty.hanging() > 0 || now < penalty.until + MEMORY);
    }

    /// True where something new of this owner may be tried.
    pub(super) fn admits(&self, owner: &Owner, now: Instant) -> bool {
        self.has_thread(owner) && self.held.get(owner).is_none_or(|penalty| now >= penalty.until)
    }

    /// True while fewer of its threads hang than may.
    pub(super) fn has_thread(&self, owner: &Owner) -> bool {
        self.held.get(owner).is_none_or(|penalty| penalty.hanging() < self.hanging_max)
    }

    /// True while something of this owner hangs: what it says is tried by itself.
    pub(super) fn is_suspect(&self, owner: &Owner) -> bool {
        self.held.get(owner).is_some_and(|penalty| penalty.hanging() > 0)
    }

    /// Those of whom nothing new is tried.
    pub(super) fn delayed(&self, now: Instant) -> impl Iterator<Item = &Owner> {
        self.held.keys().filter(move |owner| !self.admits(owner, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_with_a_hang_doubles_the_delay_up_to_a_bound_and_only_its_owner_waits() {
        let mut penalties = Penalties::new(9, DELAY_FIRST);
        let mut now = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..9 {
            // Two of one turn count once.
            for _ in 0..2 {
                let late = Late::default();
                penalties.blame(&"k1", [late.clone()], now);
                late.end();
            }
            penalties.end_turn(now);
            assert!(penalties.admits(&"k2", now));
            assert_eq!(penalties.delayed(now).collect::<Vec<_>>(), [&"k1"]);
            let delay = (0..).find(|s| penalties.admits(&"k1", now + Duration::from_secs(*s))).unwrap();
            delays.push(delay);
            now += Duration::from_secs(delay);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        penalties.end_turn(now + MEMORY - Duration::from_secs(1));
        assert!(penalties.held.contains_key("k1") && !penalties.is_suspect(&"k1"), "none of its threads hangs");
        penalties.end_turn(now + MEMORY);
        assert!(penalties.held.is_empty(), "forgotten");
    }

    #[test]
    fn who_has_as_many_threads_hanging_as_may_be_waits_until_one_ends_however_long() {
        let mut penalties = Penalties::new(2, DELAY_FIRST);
        let (now, late) = (Instant::now(), Late::default());
        let years = now + Duration::from_secs(100_000_000);
        penalties.blame(&1, [late.clone()], now);
        penalties.end_turn(now);
        assert!(penalties.admits(&1, years), "one is under the bound");
        penalties.blame(&1, [late.clone()], now);
        assert!(penalties.has_thread(&1), "it is the same one");
        penalties.blame(&1, [Late::default()], now);
        penalties.end_turn(years);
        assert!(!penalties.has_thread(&1) && !penalties.admits(&1, years + DELAY_MAX));
        late.end();
        assert!(penalties.admits(&1, years + DELAY_MAX) && penalties.is_suspect(&1));
    }

    #[test]
    fn one_owner_more_than_are_remembered_takes_the_place_of_the_first_to_be_over() {
        let mut penalties = Penalties::new(1, DELAY_FIRST);
        let now = Instant::now();
        for owner in 0..=OWNERS_MAX {
            penalties.blame(&owner, [Late::default()], now + Duration::from_secs(owner as u64));
        }
        assert_eq!(penalties.held.len(), OWNERS_MAX);
        assert!(!penalties.is_suspect(&0) && penalties.is_suspect(&1) && penalties.is_suspect(&OWNERS_MAX));
    }
}
