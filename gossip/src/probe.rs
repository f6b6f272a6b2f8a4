//! One probe and its paths (SWIM 3.1), and the order in which members are probed (SWIM 4.3).

use std::collections::BTreeSet;
use std::time::Instant;

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;
use starling_model::{Life, NodeName};

use crate::action::{PathResult, ProbeTrail, RelayResult};

/// Shuffled round robin: every member once per pass, so the time to a member's next probe is bounded, and no two nodes
/// probe in step. Newcomers enter at a random place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring {
    order: Vec<NodeName>,
    next: usize,
}

impl Ring {
    /// Brings the ring in line with `wanted`.
    pub(crate) fn update(&mut self, wanted: &BTreeSet<NodeName>, rng: &mut ChaCha8Rng) {
        let before: BTreeSet<&NodeName> =
            self.order.iter().take(self.next).filter(|name| wanted.contains(*name)).collect();
        let next = before.len();
        let known: BTreeSet<NodeName> = self.order.iter().cloned().collect();
        self.order.retain(|name| wanted.contains(name));
        self.next = next;
        for name in wanted.difference(&known) {
            let at = rng.random_range(0..=self.order.len());
            self.order.insert(at, name.clone());
            if at < self.next {
                self.next += 1;
            }
        }
    }

    /// The next member; a finished pass is shuffled anew.
    pub(crate) fn next(&mut self, rng: &mut ChaCha8Rng) -> Option<NodeName> {
        if self.next >= self.order.len() {
            self.order.shuffle(rng);
            self.next = 0;
        }
        let name = self.order.get(self.next).cloned();
        self.next += 1;
        name
    }
}

/// Why a member is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its turn in the round.
    Round,
    /// Somebody doubts it, and only our own verdict counts here.
    Verify,
}

/// One probe in flight. All of its paths share one nonce.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) target: NodeName,
    /// The probed life; a verdict on another life is void.
    pub(crate) life: Life,
    pub(crate) purpose: Purpose,
    pub(crate) began: Instant,
    /// When the direct ping left, once it did.
    pub(crate) pinged: Option<Instant>,
    /// True once other paths were tried: an ack then says nothing about the direct path.
    pub(crate) widened: bool,
    /// The ping on a stream.
    pub(crate) stream: PathResult,
    /// The dial, where there was no connection.
    pub(crate) dial: PathResult,
    pub(crate) verdict_at: Instant,
    /// Who was asked to ping it.
    pub(crate) asked: BTreeSet<NodeName>,
    /// Who of them answered that it got no ack.
    pub(crate) nacks: BTreeSet<NodeName>,
}

impl Probe {
    /// What became of each path, once all have failed.
    pub(crate) fn trail(&self, health_score: u8) -> ProbeTrail {
        let said = |name: &NodeName| if self.nacks.contains(name) { RelayResult::Nack } else { RelayResult::Silent };
        ProbeTrail {
            began: self.began,
            datagram: if self.pinged.is_some() { PathResult::Silent } else { PathResult::Unused },
            stream: self.stream,
            dial: self.dial,
            relays: self.asked.iter().map(|name| (name.clone(), said(name))).collect(),
            health_score,
        }
    }
}

/// A ping that we make for somebody else.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    pub(crate) origin: NodeName,
    pub(crate) origin_nonce: u64,
    pub(crate) target: NodeName,
    pub(crate) pinged: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng as _;

    use super::*;
    use crate::testing::node;

    fn names(count: usize) -> BTreeSet<NodeName> {
        (0..count).map(|at| node(&format!("n{at}"))).collect()
    }

    /// SWIM 4.3: at most 2d - 1 probes lie between two probes of one member, d members.
    #[test]
    fn every_pass_visits_everybody_once() {
        let mut rng = ChaCha8Rng::from_seed([3; 32]);
        let mut ring = Ring::default();
        ring.update(&names(10), &mut rng);
        for _ in 0..20 {
            let pass: BTreeSet<NodeName> = (0..10).filter_map(|_| ring.next(&mut rng)).collect();
            assert_eq!(pass, names(10));
        }
    }

    #[test]
    fn who_comes_or_goes_in_mid_pass_costs_nobody_a_turn() {
        let mut rng = ChaCha8Rng::from_seed([4; 32]);
        let mut ring = Ring::default();
        ring.update(&names(6), &mut rng);
        let mut seen: BTreeMap<NodeName, usize> = BTreeMap::new();
        for _ in 0..3 {
            *seen.entry(ring.next(&mut rng).unwrap()).or_default() += 1;
        }
        ring.update(&names(5).into_iter().chain([node("new")]).collect(), &mut rng);
        // Two at least are left of this pass, whether the one that went had had its turn or not.
        for _ in 0..2 {
            *seen.entry(ring.next(&mut rng).unwrap()).or_default() += 1;
        }
        assert!(seen.values().all(|count| *count == 1), "{seen:?}");
        assert_eq!(Ring::default().next(&mut rng), None);
    }
}
