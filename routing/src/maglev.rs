//! Consistent hashing (Eisenbud et al., Maglev, NSDI 2016, section 3.4): the same key goes to the same endpoint, at every
//! agent alike, and when one comes or goes few keys of the others move.
//!
//! Each endpoint has a permutation of all slots, made of its name; in turns, each takes the next slot of its own that is
//! free, and the heavier take theirs more often. One table serves every part of a service: where a slot leads out of the
//! part, or to an endpoint that may not be used, the key is hashed once more, so a failing endpoint moves its own keys only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use starling_config::documents::starling_service::HashKey;

use crate::decision::Draws;
use crate::limits::{ENDPOINTS_PER_SERVICE_MAX, MAGLEV_PROBES_MAX, MAGLEV_SLOTS};
use crate::session::Mark;

const _: () = assert!(ENDPOINTS_PER_SERVICE_MAX <= u16::MAX as usize && ENDPOINTS_PER_SERVICE_MAX < MAGLEV_SLOTS);

/// An endpoint in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mark: Mark,
    /// Above 0.
    pub(crate) weight: u32,
    /// Its place among the service's endpoints.
    pub(crate) position: u32,
}

/// Which endpoint each hash means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maglev {
    pub(crate) key: HashKey,
    /// In the order of their names.
    entries: Vec<Entry>,
    /// Places in `entries`; empty without entries.
    slots: Arc<[u16]>,
}

impl Maglev {
    /// Fills a table; `previous` only saves work.
    pub(crate) fn new(key: HashKey, entries: Vec<Entry>, previous: Option<&Self>) -> Self {
        let shape = |entry: &Entry| (entry.mark, entry.weight);
        let same = previous.filter(|held| held.entries.iter().map(shape).eq(entries.iter().map(shape)));
        let slots = same.map_or_else(|| fill(&entries), |held| Arc::clone(&held.slots));
        Self { key, entries, slots }
    }

    /// The positions that a key means, best first; a few of them, with repetitions.
    pub(crate) fn positions(&self, key: u64) -> impl Iterator<Item = u32> {
        let slots = self.slots.len() as u64;
        let slot = move |n: u32| usize::try_from(Draws::from_seed(key).below_nth(n, slots)).ok();
        let at = move |n: u32| Some(self.entries.get(usize::from(*self.slots.get(slot(n)?)?))?.position);
        (0..MAGLEV_PROBES_MAX).map_while(at)
    }

    /// Of these positions the one that a key means where the table gives none of them: the highest of random weights
    /// (weighted rendezvous), which is as steady, and looks at each.
    pub(crate) fn highest(&self, key: u64, positions: impl Fn(u32) -> bool) -> Option<u32> {
        let of = |entry: &Entry| {
            let own = u64::from_be_bytes(halves(entry.mark).0);
            // In (0, 1): -ln of it is exponential, and the least of such times over weights is drawn by weight.
            let uniform = (Draws::from_seed(key ^ own).first() >> 11) as f64 + 0.5;
            let time = -(uniform / (1_u64 << 53) as f64).ln() / f64::from(entry.weight);
            (time, entry.position)
        };
        let all = self.entries.iter().filter(|entry| positions(entry.position)).map(of);
        all.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, position)| position)
    }
}

/// The number of a key: the same at every agent and in every release.
pub(crate) fn hash_key(parts: &[&[u8]]) -> u64 {
    let mut all = Sha256::new();
    for part in parts {
        all.update((part.len() as u64).to_be_bytes());
        all.update(part);
    }
    let mut kept = [0; 8];
    kept.iter_mut().zip(all.finalize()).for_each(|(to, from)| *to = from);
    u64::from_be_bytes(kept)
}

fn halves(mark: Mark) -> ([u8; 8], [u8; 8]) {
    let (mut first, mut second) = ([0; 8], [0; 8]);
    first.iter_mut().zip(mark.0).for_each(|(to, from)| *to = from);
    second.iter_mut().zip(mark.0.iter().skip(8)).for_each(|(to, from)| *to = *from);
    (first, second)
}

/// Where an endpoint looks for its next slot.
struct Walk {
    at: u64,
    step: u64,
    weight: u64,
    /// Slots that it has.
    taken: u64,
}

/// Rounds go by until all slots are taken; in each the heaviest take one, the others one whenever their share of a slot
/// has come together. Only who takes is looked at, so one heavy endpoint among thousands costs no more than equal ones.
fn fill(entries: &[Entry]) -> Arc<[u16]> {
    const FREE: u16 = u16::MAX;
    let len = MAGLEV_SLOTS as u64;
    let greatest = u64::from(entries.iter().map(|entry| entry.weight).max().unwrap_or_default());
    if greatest == 0 {
        return Arc::from([]);
    }
    let mut walks: Vec<Walk> = entries
        .iter()
        .map(|entry| {
            let (offset, skip) = halves(entry.mark);
            let at = u64::from_be_bytes(offset) % len;
            // The number of slots is prime, so every step but 0 comes by all of them.
            let step = u64::from_be_bytes(skip) % (len - 1) + 1;
            Walk { at, step, weight: u64::from(entry.weight), taken: 0 }
        })
        .collect();
    // The round in which each takes its next slot; within one, in the order of places.
    let round = |walk: &Walk| ((walk.taken + 1) * greatest).div_ceil(walk.weight.max(1));
    let mut next: BinaryHeap<Reverse<(u64, u16)>> = (0u16..)
        .zip(&walks)
        .filter(|(_, walk)| walk.weight > 0)
        .map(|(place, walk)| Reverse((round(walk), place)))
        .collect();
    let mut slots = vec![FREE; MAGLEV_SLOTS];
    let mut free = slots.len();
    while free > 0 {
        let Some(mut first) = next.peek_mut() else { break };
        let place = first.0.1;
        let Some(walk) = walks.get_mut(usize::from(place)) else { break };
        loop {
            let slot = usize::try_from(walk.at).ok().and_then(|at| slots.get_mut(at));
            walk.at = (walk.at + walk.step) % len;
            if let Some(slot) = slot.filter(|slot| **slot == FREE) {
                *slot = place;
                break;
            }
        }
        free -= 1;
        walk.taken += 1;
        first.0.0 = round(walk);
    }
    Arc::from(slots)
}

#[cfg(test)]
mod tests;
