//! Accusations that quote an `alive` which we do not hold: they wait for it, and are judged or dropped when it comes.
//! So nobody can invent a life, and no true word is lost because it overtook the record that proves it.

use std::collections::VecDeque;
use std::time::Instant;

use starling_model::{Life, NodeName};

use crate::limits::{ACCUSATIONS_PENDING_MAX, ACCUSATIONS_PENDING_PER_PEER_MAX, WAITING_TIME_MAX};
use crate::replica::Via;
use crate::wire::Accusation;

/// One that waits.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) from: NodeName,
    pub(crate) said: Accusation,
    pub(crate) via: Via,
    since: Instant,
}

/// All that wait, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    held: VecDeque<Held>,
}

impl Pending {
    /// Lets one wait; false when it waits already or there is no room.
    pub(crate) fn hold(&mut self, from: &NodeName, said: &Accusation, via: Via, now: Instant) -> bool {
        let known = self.held.iter().any(|held| held.from == *from && held.said == *said);
        let share = self.held.iter().filter(|held| held.from == *from).count();
        if known || share >= ACCUSATIONS_PENDING_PER_PEER_MAX || self.held.len() >= ACCUSATIONS_PENDING_MAX {
            return false;
        }
        self.held.push_back(Held { from: from.clone(), said: said.clone(), via, since: now });
        true
    }

    /// The subject has proved this life: those that quote it, to be judged. What quotes an earlier one is void.
    pub(crate) fn take(&mut self, subject: &NodeName, life: Life, proof: u64) -> Vec<Held> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        self.held.retain(|held| {
            let said = &held.said;
            if said.subject != *subject || said.life > life {
                return true;
            }
            if said.life == life && said.proof == proof {
                taken.push(held.clone());
            }
            false
        });
        taken
    }

    /// Drops what waited too long; returns how many.
    pub(crate) fn sweep(&mut self, now: Instant) -> usize {
        let before = self.held.len();
        self.held.retain(|held| now.saturating_duration_since(held.since) <= WAITING_TIME_MAX);
        before - self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use starling_model::{BootEpoch, MemberState};

    use super::*;
    use crate::testing::{base, node};

    fn said(subject: &str, epoch: u64, proof: u64) -> Accusation {
        let life = Life::first(BootEpoch(epoch));
        Accusation { state: MemberState::Suspect, subject: node(subject), life, proof, accuser: node("x") }
    }

    #[test]
    fn a_proved_life_takes_its_accusations_and_voids_earlier_ones() {
        let mut pending = Pending::default();
        for one in [said("m", 1, 1), said("m", 2, 2), said("m", 2, 9), said("m", 3, 3), said("o", 2, 2)] {
            assert!(pending.hold(&node("a"), &one, Via::Gossip, base()));
            assert!(!pending.hold(&node("a"), &one, Via::Gossip, base()), "it waits already");
        }
        let taken = pending.take(&node("m"), Life::first(BootEpoch(2)), 2);
        assert_eq!(taken.into_iter().map(|held| held.said).collect::<Vec<_>>(), [said("m", 2, 2)]);
        assert_eq!(pending.held.len(), 2, "of a later life, and of somebody else");
        assert_eq!(pending.sweep(base() + WAITING_TIME_MAX + Duration::from_millis(1)), 2);
    }

    #[test]
    fn one_peer_and_all_together_have_their_limits() {
        let mut pending = Pending::default();
        let mut hold = |from: usize, at: usize| {
            pending.hold(&node(&format!("p{from}")), &said(&format!("m{at}"), 1, 1), Via::Gossip, base())
        };
        assert!((0..ACCUSATIONS_PENDING_PER_PEER_MAX).all(|at| hold(0, at)));
        assert!(!hold(0, ACCUSATIONS_PENDING_PER_PEER_MAX));
        let peers = ACCUSATIONS_PENDING_MAX / ACCUSATIONS_PENDING_PER_PEER_MAX;
        assert!((1..peers).all(|from| (0..ACCUSATIONS_PENDING_PER_PEER_MAX).all(|at| hold(from, at))));
        assert!(!hold(peers, 0));
    }
}
