//! All matches that compete for the requests of one service and port: routes of one kind, sorted once.
//!
//! Order: [`Rank`]; then the route's `namespace/name`; then the rule's place; then the match's place. The standard asks
//! for the oldest route before the name; no clock has that authority here.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::matching::{Conditions, HttpFacts, Miss, PathIndex, Rank};
use crate::rules::Rule;

/// One match with what decides its place.
#[derive(Clone, Debug)]
struct Entry {
    conditions: Conditions,
    rule: Arc<Rule>,
    /// The match's place in its rule.
    at: u16,
    rank: Rank,
}

/// A sorted group with its path index. Immutable.
#[derive(Clone, Debug, Default)]
pub struct RouteGroup {
    entries: Vec<Entry>,
    index: PathIndex,
}

/// A match of the group: the winner, or one that lost.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Whose match it is.
    pub rule: &'a Arc<Rule>,
    /// Its place in the rule.
    pub at: u16,
    /// What it asks for.
    pub conditions: &'a Conditions,
}

impl Entry {
    fn candidate(&self) -> Candidate<'_> {
        Candidate { rule: &self.rule, at: self.at, conditions: &self.conditions }
    }
}

impl RouteGroup {
    /// Sorts the rules' matches; the order of `rules` itself does not matter. A rule without matches takes everything.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = (Arc<Rule>, Vec<Conditions>)>) -> Self {
        let mut entries = Vec::new();
        for (rule, mut matches) in rules {
            if matches.is_empty() {
                matches.push(Conditions::everything());
            }
            for (at, conditions) in (0u16..).zip(matches) {
                let rank = conditions.rank();
                entries.push(Entry { conditions, rule: rule.clone(), at, rank });
            }
        }
        entries.sort_by(|a, b| (b.rank, &a.rule.id, a.at).cmp(&(a.rank, &b.rule.id, b.at)));
        let conditions: Vec<&Conditions> = entries.iter().map(|entry| &entry.conditions).collect();
        let index = PathIndex::new(&conditions);
        Self { entries, index }
    }

    /// All matches in the order in which they are tried.
    pub fn candidates(&self) -> impl ExactSizeIterator<Item = Candidate<'_>> {
        self.entries.iter().map(Entry::candidate)
    }

    /// The match that wins; `None` where none holds, which is answered with 404.
    #[must_use]
    pub fn find(&self, request: &HttpFacts<'_>) -> Option<Candidate<'_>> {
        let holds = |at: u32| self.entry(at).is_some_and(|entry| entry.conditions.holds(request).is_ok());
        self.index.first(request, holds).and_then(|at| self.entry(at)).map(Entry::candidate)
    }

    /// Every match that was tried in vain before the winner, best first, with the condition that failed; all of them
    /// where none holds. For explanations: it does not skip by path.
    pub fn losers<'a>(&'a self, request: &'a HttpFacts<'a>) -> impl Iterator<Item = (Candidate<'a>, Miss)> + 'a {
        self.entries
            .iter()
            .map_while(|entry| entry.conditions.holds(request).err().map(|miss| (entry.candidate(), miss)))
    }

    /// The loser that failed latest (path before method before headers before query), the better one of equals.
    #[must_use]
    pub fn nearest_miss<'a>(&'a self, request: &'a HttpFacts<'a>) -> Option<(Candidate<'a>, Miss)> {
        self.losers(request).reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// Matches that never win, since one of another route that comes before them asks for exactly the same: that one,
    /// the loser, and the loser's place in its rule.
    pub(crate) fn overlaps(&self) -> Vec<(&Rule, &Rule, u16)> {
        let mut found = Vec::new();
        for run in self.entries.chunk_by(|a, b| a.rank == b.rank).filter(|run| run.len() > 1) {
            let mut first: BTreeMap<String, &Entry> = BTreeMap::new();
            for entry in run {
                let held = *first.entry(format!("{:?}", entry.conditions)).or_insert(entry);
                if held.rule.id.route != entry.rule.id.route {
                    found.push((&*held.rule, &*entry.rule, entry.at));
                }
            }
        }
        found
    }

    fn entry(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at as usize)
    }
}

#[cfg(test)]
mod tests;
