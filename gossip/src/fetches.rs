//! What is being fetched, documents or credentials: from whom, since when, and who else has it. Whoever announces and then
//! stays silent costs a short wait, not the thing itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use starling_model::NodeName;

use crate::limits::{EXCHANGE_TIME_MAX, FETCH_ALTERNATIVES_MAX, FETCHES_MAX, FETCHES_PER_PEER_MAX};
use crate::stats::Drop;

/// After this long without an answer the next one who has it is asked.
pub(crate) const FETCH_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
struct Fetch {
    from: NodeName,
    since: Instant,
    others: VecDeque<NodeName>,
}

/// All fetches of one sort, by the key of what is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Fetches<K> {
    under_way: BTreeMap<K, Fetch>,
    shares: BTreeMap<NodeName, usize>,
}

impl<K> Default for Fetches<K> {
    fn default() -> Self {
        Self { under_way: BTreeMap::new(), shares: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Fetches<K> {
    /// `from` says that it has this; `Ok` when it shall be asked now.
    ///
    /// # Errors
    /// It is being fetched already, or too much is.
    pub(crate) fn mention(&mut self, key: K, from: &NodeName, now: Instant) -> Result<(), Drop> {
        if let Some(fetch) = self.under_way.get_mut(&key) {
            if now.saturating_duration_since(fetch.since) < FETCH_PATIENCE {
                if fetch.others.len() < FETCH_ALTERNATIVES_MAX && fetch.from != *from && !fetch.others.contains(from) {
                    fetch.others.push_back(from.clone());
                }
                return Err(Drop::Duplicate);
            }
            self.remove(&key);
        }
        let share = self.shares.get(from).copied().unwrap_or_default();
        if self.under_way.len() >= FETCHES_MAX || share >= FETCHES_PER_PEER_MAX {
            return Err(Drop::Busy);
        }
        self.shares.insert(from.clone(), share + 1);
        self.under_way.insert(key, Fetch { from: from.clone(), since: now, others: VecDeque::new() });
        Ok(())
    }

    /// It came, from whomever; false when it was not asked for.
    pub(crate) fn answered(&mut self, key: &K) -> bool {
        self.remove(key).is_some()
    }

    fn remove(&mut self, key: &K) -> Option<Fetch> {
        let fetch = self.under_way.remove(key)?;
        if let Some(share) = self.shares.get_mut(&fetch.from) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&fetch.from);
            }
        }
        Some(fetch)
    }

    /// What is overdue and who is asked for it next.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<(NodeName, K)> {
        let late = |fetch: &Fetch| now.saturating_duration_since(fetch.since);
        let due: Vec<K> = self
            .under_way
            .iter()
            .filter(|(_, fetch)| {
                let waited = late(fetch);
                waited >= EXCHANGE_TIME_MAX || (waited >= FETCH_PATIENCE && !fetch.others.is_empty())
            })
            .map(|(key, _)| key.clone())
            .collect();
        self.turn_to_others(due, now)
    }

    /// This peer cannot be asked, or will not answer; who is asked instead, where there is somebody.
    pub(crate) fn lost(&mut self, peer: &NodeName, now: Instant) -> Vec<(NodeName, K)> {
        if !self.shares.contains_key(peer) {
            return Vec::new();
        }
        let due = self.under_way.iter().filter(|(_, fetch)| fetch.from == *peer);
        let due = due.map(|(key, _)| key.clone()).collect();
        self.turn_to_others(due, now)
    }

    fn turn_to_others(&mut self, due: Vec<K>, now: Instant) -> Vec<(NodeName, K)> {
        let mut next = Vec::new();
        for key in due {
            let Some(mut fetch) = self.remove(&key) else { continue };
            if let Some(from) = fetch.others.pop_front() {
                *self.shares.entry(from.clone()).or_default() += 1;
                let fetch = Fetch { from: from.clone(), since: now, others: fetch.others };
                self.under_way.insert(key.clone(), fetch);
                next.push((from, key));
            }
        }
        next
    }

    /// When the next one who has this is asked for it, where there is somebody.
    pub(crate) fn overdue_at(&self, key: &K) -> Option<Instant> {
        let fetch = self.under_way.get(key).filter(|fetch| !fetch.others.is_empty())?;
        Some(fetch.since + FETCH_PATIENCE)
    }

    /// When the next other one is asked for anything: looks through all that is being fetched.
    pub(crate) fn next_overdue(&self) -> Option<Instant> {
        let waits = self.under_way.values().filter(|fetch| !fetch.others.is_empty());
        waits.map(|fetch| fetch.since + FETCH_PATIENCE).min()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.under_way.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{base, node};

    #[test]
    fn the_next_one_who_has_it_is_asked_when_the_first_stays_silent() {
        let mut fetches = Fetches::default();
        let hash = [1; 32];
        assert_eq!(fetches.mention(hash, &node("a"), base()), Ok(()));
        for other in ["b", "a", "b", "c"] {
            assert_eq!(fetches.mention(hash, &node(other), base()), Err(Drop::Duplicate));
        }
        assert_eq!(fetches.next_overdue(), Some(base() + FETCH_PATIENCE));
        assert_eq!((fetches.overdue_at(&hash), fetches.overdue_at(&[2; 32])), (fetches.next_overdue(), None));
        assert!(fetches.overdue(base() + FETCH_PATIENCE / 2).is_empty());
        assert_eq!(fetches.overdue(base() + FETCH_PATIENCE), [(node("b"), hash)]);
        assert_eq!(fetches.overdue(base() + FETCH_PATIENCE * 2), [(node("c"), hash)]);
        assert_eq!((fetches.next_overdue(), fetches.len()), (None, 1));
        assert_eq!(fetches.overdue_at(&hash), None);
        assert!(fetches.answered(&hash) && !fetches.answered(&hash));
        assert!(fetches.shares.is_empty());
    }

    #[test]
    fn whoever_is_gone_is_replaced_at_once() {
        let mut fetches = Fetches::default();
        for (hash, from) in [(1, "a"), (1, "b"), (2, "a"), (3, "c")] {
            let _ = fetches.mention([hash; 32], &node(from), base());
        }
        assert_eq!(fetches.lost(&node("a"), base()), [(node("b"), [1; 32])]);
        assert_eq!((fetches.len(), fetches.lost(&node("x"), base())), (2, Vec::new()));
        assert_eq!(fetches.mention([2; 32], &node("d"), base()), Ok(()), "what nobody else had is asked of the next");
    }

    #[test]
    fn a_mention_after_the_wait_asks_anew_and_all_ends_by_itself() {
        let mut fetches = Fetches::default();
        assert_eq!(fetches.mention([1; 32], &node("a"), base()), Ok(()));
        assert_eq!(fetches.mention([1; 32], &node("b"), base() + FETCH_PATIENCE), Ok(()));
        assert!(fetches.overdue(base() + FETCH_PATIENCE + EXCHANGE_TIME_MAX).is_empty());
        assert!(fetches.under_way.is_empty() && fetches.shares.is_empty());
    }

    #[test]
    fn one_past_each_limit_is_refused() {
        let mut fetches = Fetches::default();
        let hash = |at: usize| crate::hash::sha256(&[&at.to_le_bytes()]);
        for at in 0..FETCHES_MAX {
            let peer = node(&format!("p{}", at / FETCHES_PER_PEER_MAX));
            assert_eq!(fetches.mention(hash(at), &peer, base()), Ok(()));
            if (at + 1) % FETCHES_PER_PEER_MAX == 0 {
                assert_eq!(fetches.mention(hash(FETCHES_MAX + at), &peer, base()), Err(Drop::Busy));
            }
        }
        assert_eq!(fetches.mention(hash(FETCHES_MAX), &node("other"), base()), Err(Drop::Busy));
        for at in 0..=FETCH_ALTERNATIVES_MAX {
            let _ = fetches.mention(hash(0), &node(&format!("x{at}")), base());
        }
        assert_eq!(fetches.under_way[&hash(0)].others.len(), FETCH_ALTERNATIVES_MAX);
    }
}
