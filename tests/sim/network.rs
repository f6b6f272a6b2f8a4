//! What lies between two hosts: latency, loss, duplication, and edges that carry nothing in one direction or both.
//! Directions are independent, so half-open edges are as easy to make as a split.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Dice;
use crate::cluster::HostId;

/// What a link does to one packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Shortest way from end to end.
    pub latency: Duration,
    /// Added evenly on top; packets overtake each other within it.
    pub jitter: Duration,
    /// Share of packets that vanish.
    pub loss: f64,
    /// Share of datagrams that arrive twice.
    pub duplication: f64,
}

impl Link {
    /// Hosts of one site.
    #[must_use]
    pub fn site() -> Self {
        Self { latency: Duration::from_micros(250), jitter: Duration::from_micros(250), loss: 0.0, duplication: 0.0 }
    }

    /// Hosts far apart.
    #[must_use]
    pub fn far() -> Self {
        Self { latency: Duration::from_millis(40), jitter: Duration::from_millis(8), ..Self::site() }
    }

    /// The same link with this share lost in each direction.
    #[must_use]
    pub fn losing(self, loss: f64) -> Self {
        Self { loss, ..self }
    }
}

/// What became of packets; a fault that these do not show did not take place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Delivered, copies included.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Stopped by a broken edge.
    pub blocked: u64,
    /// Copies made.
    pub duplicated: u64,
}

/// Where a packet ends up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after this time.
    Arrives(Duration),
    /// It arrives twice.
    Twice(Duration, Duration),
    /// It never arrives.
    Vanishes,
}

impl Fate {
    /// The first arrival, if any.
    #[must_use]
    pub fn first(self) -> Option<Duration> {
        match self {
            Self::Arrives(delay) | Self::Twice(delay, _) => Some(delay),
            Self::Vanishes => None,
        }
    }
}

/// All links of a run. Keys are (from, to).
#[derive(Debug)]
pub struct Network {
    dice: Dice,
    default: Link,
    links: BTreeMap<(HostId, HostId), Link>,
    blocked: BTreeSet<(HostId, HostId)>,
    /// What became of packets so far.
    pub counts: NetworkCounts,
}

impl Network {
    /// Every link is like this one.
    #[must_use]
    pub fn new(seed: u64, default: Link) -> Self {
        Self {
            dice: Dice::new(seed, 1),
            default,
            links: BTreeMap::new(),
            blocked: BTreeSet::new(),
            counts: NetworkCounts::default(),
        }
    }

    /// Changes every link that has no character of its own.
    pub fn set_default(&mut self, link: Link) {
        self.default = link;
    }

    /// The link of most pairs.
    #[must_use]
    pub fn default_link(&self) -> Link {
        self.default
    }

    /// Changes one direction of one pair.
    pub fn set_link(&mut self, from: HostId, to: HostId, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Lets nothing more through in one direction.
    pub fn block(&mut self, from: HostId, to: HostId) {
        self.blocked.insert((from, to));
    }

    /// Lets everything through again between two hosts.
    pub fn unblock(&mut self, a: HostId, b: HostId) {
        self.blocked.remove(&(a, b));
        self.blocked.remove(&(b, a));
    }

    /// Lets everything through again.
    pub fn unblock_all(&mut self) {
        self.blocked.clear();
    }

    /// True where packets of one direction can pass at all.
    #[must_use]
    pub fn passes(&self, from: HostId, to: HostId) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// How long one direction takes without jitter.
    #[must_use]
    pub fn latency(&self, from: HostId, to: HostId) -> Duration {
        self.link(from, to).latency
    }

    fn link(&self, from: HostId, to: HostId) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or(self.default)
    }

    /// Decides what becomes of one packet.
    pub fn send(&mut self, from: HostId, to: HostId) -> Fate {
        if !self.passes(from, to) {
            self.counts.blocked += 1;
            return Fate::Vanishes;
        }
        let link = self.link(from, to);
        if self.dice.chance(link.loss) {
            self.counts.lost += 1;
            return Fate::Vanishes;
        }
        let delay = link.latency + self.dice.up_to(link.jitter);
        self.counts.delivered += 1;
        if self.dice.chance(link.duplication) {
            self.counts.duplicated += 1;
            self.counts.delivered += 1;
            return Fate::Twice(delay, link.latency + self.dice.up_to(link.jitter));
        }
        Fate::Arrives(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = HostId(0);
    const B: HostId = HostId(1);

    #[test]
    fn loss_is_a_share_and_a_blocked_direction_is_only_one() {
        let mut network = Network::new(3, Link::site().losing(0.3));
        let arrived = (0..10_000).filter(|_| network.send(A, B).first().is_some()).count();
        assert!((6_800..7_200).contains(&arrived), "{arrived}");
        assert_eq!(network.counts.lost + network.counts.delivered, 10_000);
        network.set_default(Link::site());
        network.block(A, B);
        assert_eq!(network.send(A, B), Fate::Vanishes);
        assert!(network.send(B, A).first().is_some());
        network.unblock(B, A);
        assert!(network.send(A, B).first().is_some());
        assert_eq!(network.counts.blocked, 1);
    }

    #[test]
    fn latency_has_bounds_and_copies_are_counted() {
        let link = Link { duplication: 1.0, ..Link::site() };
        let mut network = Network::new(3, link);
        for _ in 0..100 {
            let fate = network.send(A, B);
            assert!(matches!(fate, Fate::Twice(..)), "{fate:?}");
            let delay = fate.first().expect("it arrives");
            assert!(delay >= link.latency && delay <= link.latency + link.jitter);
        }
        assert_eq!(network.counts.duplicated, 100);
    }
}
