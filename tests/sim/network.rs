//! What lies between two hosts: latency, loss (single or in bursts), duplication, detours that let later packets pass
//! earlier ones, a largest size, and edges that carry nothing in one direction or both. Directions are independent, so
//! half-open edges are as easy to make as a split.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Dice;
use crate::cluster::HostId;

/// Largest UDP payload of an Ethernet path over IPv4: 1,500 bytes less 28 of headers.
pub const PACKET_BYTES_MAX: usize = 1_472;

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
    /// Share of packets that take a detour, so that later ones arrive before them.
    pub detours: f64,
    /// Longest detour.
    pub detour: Duration,
    /// Loss in bursts, on top of `loss`.
    pub bursts: Option<Bursts>,
    /// Largest UDP payload that passes, in bytes; what is larger vanishes without a word, as in an MTU black hole.
    pub packet_bytes_max: usize,
}

/// Loss in bursts (Gilbert and Elliott): a direction is good or bad, and each packet may change which.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    /// Chance with each packet that a good direction turns bad.
    pub begin: f64,
    /// Chance with each packet that a bad direction turns good; its inverse is the mean length of a burst.
    pub end: f64,
    /// Share of packets lost while it is bad.
    pub loss: f64,
}

impl Bursts {
    /// Bursts of this many packets on average that lose this share of all packets.
    #[must_use]
    pub fn of(share: f64, packets: f64) -> Self {
        let end = 1.0 / packets;
        // In the long run a direction is bad for begin / (begin + end) of its packets.
        Self { begin: end * share / (1.0 - share), end, loss: 1.0 }
    }
}

impl Link {
    /// Hosts of one site.
    #[must_use]
    pub fn site() -> Self {
        Self {
            latency: Duration::from_micros(250),
            jitter: Duration::from_micros(250),
            loss: 0.0,
            duplication: 0.0,
            detours: 0.0,
            detour: Duration::ZERO,
            bursts: None,
            packet_bytes_max: PACKET_BYTES_MAX,
        }
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

    /// The same link with loss in bursts.
    #[must_use]
    pub fn in_bursts(self, bursts: Bursts) -> Self {
        Self { bursts: Some(bursts), ..self }
    }

    /// The same link, on which this share of packets takes up to so much longer.
    #[must_use]
    pub fn reordering(self, detours: f64, detour: Duration) -> Self {
        Self { detours, detour, ..self }
    }

    /// The same link that swallows packets above this size.
    #[must_use]
    pub fn narrowed(self, packet_bytes_max: usize) -> Self {
        Self { packet_bytes_max, ..self }
    }
}

/// What became of packets; a fault that these do not show did not take place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Delivered, copies included.
    pub delivered: u64,
    /// Lost by chance, one by one.
    pub lost: u64,
    /// Lost in bursts.
    pub lost_in_bursts: u64,
    /// Bursts.
    pub bursts: u64,
    /// Packets that took a detour.
    pub detours: u64,
    /// Swallowed for their size.
    pub too_large: u64,
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
    /// Directions that are in a burst of loss.
    bad: BTreeSet<(HostId, HostId)>,
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
            bad: BTreeSet::new(),
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

    /// Decides what becomes of one packet with this many bytes of UDP payload.
    pub fn send(&mut self, from: HostId, to: HostId, bytes: usize) -> Fate {
        if !self.passes(from, to) {
            self.counts.blocked += 1;
            return Fate::Vanishes;
        }
        let link = self.link(from, to);
        if bytes > link.packet_bytes_max {
            self.counts.too_large += 1;
            return Fate::Vanishes;
        }
        if self.dice.chance(link.loss) {
            self.counts.lost += 1;
            return Fate::Vanishes;
        }
        if let Some(bursts) = link.bursts
            && self.lost_in_burst((from, to), bursts)
        {
            self.counts.lost_in_bursts += 1;
            return Fate::Vanishes;
        }
        let delay = self.delay(&link);
        self.counts.delivered += 1;
        if self.dice.chance(link.duplication) {
            self.counts.duplicated += 1;
            self.counts.delivered += 1;
            return Fate::Twice(delay, self.delay(&link));
        }
        Fate::Arrives(delay)
    }

    fn delay(&mut self, link: &Link) -> Duration {
        let delay = link.latency + self.dice.up_to(link.jitter);
        if !self.dice.chance(link.detours) {
            return delay;
        }
        self.counts.detours += 1;
        delay + self.dice.up_to(link.detour)
    }

    /// One step of a direction's two states, then its loss.
    fn lost_in_burst(&mut self, direction: (HostId, HostId), bursts: Bursts) -> bool {
        let was_bad = self.bad.contains(&direction);
        let is_bad = if was_bad { !self.dice.chance(bursts.end) } else { self.dice.chance(bursts.begin) };
        if is_bad && !was_bad {
            self.counts.bursts += 1;
            self.bad.insert(direction);
        } else if was_bad && !is_bad {
            self.bad.remove(&direction);
        }
        is_bad && self.dice.chance(bursts.loss)
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
        let arrived = (0..10_000).filter(|_| network.send(A, B, 100).first().is_some()).count();
        assert!((6_800..7_200).contains(&arrived), "{arrived}");
        assert_eq!(network.counts.lost + network.counts.delivered, 10_000);
        network.set_default(Link::site());
        network.block(A, B);
        assert_eq!(network.send(A, B, 100), Fate::Vanishes);
        assert!(network.send(B, A, 100).first().is_some());
        network.unblock(B, A);
        assert!(network.send(A, B, 100).first().is_some());
        assert_eq!(network.counts.blocked, 1);
    }

    #[test]
    fn latency_has_bounds_and_copies_are_counted() {
        let link = Link { duplication: 1.0, ..Link::site() };
        let mut network = Network::new(3, link);
        for _ in 0..100 {
            let fate = network.send(A, B, 100);
            assert!(matches!(fate, Fate::Twice(..)), "{fate:?}");
            let delay = fate.first().expect("it arrives");
            assert!(delay >= link.latency && delay <= link.latency + link.jitter);
        }
        assert_eq!(network.counts.duplicated, 100);
    }

    #[test]
    fn bursts_lose_their_share_in_runs_of_their_length() {
        let mut network = Network::new(3, Link::site().in_bursts(Bursts::of(0.05, 10.0)));
        let fates: Vec<bool> = (0..100_000).map(|_| network.send(A, B, 100).first().is_some()).collect();
        let lost = fates.iter().filter(|arrived| !**arrived).count();
        let runs = fates.chunk_by(|one, next| one == next).filter(|run| !run[0]).count();
        assert!((4_000..6_000).contains(&lost), "{lost} of 100,000 lost, 5 % are wanted");
        assert!((8..=12).contains(&(lost / runs)), "bursts of {} packets, 10 are wanted", lost / runs);
        assert_eq!(network.counts.lost_in_bursts, lost as u64);
        assert_eq!(network.counts.bursts, runs as u64);
        assert_eq!(network.counts.lost, 0);
    }

    #[test]
    fn a_detour_lets_later_packets_pass_earlier_ones() {
        let detour = Duration::from_millis(50);
        let mut network = Network::new(3, Link::site().reordering(0.5, detour));
        let gap = Duration::from_millis(1);
        let arrivals: Vec<Duration> =
            (0..1_000_u32).filter_map(|at| Some(gap * at + network.send(A, B, 100).first()?)).collect();
        let overtaken = arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert_eq!(arrivals.len(), 1_000);
        assert!(overtaken > 200, "{overtaken} of 1,000 were overtaken");
        assert!((400..600).contains(&network.counts.detours), "{}", network.counts.detours);
    }

    #[test]
    fn a_narrow_link_swallows_what_is_one_byte_too_large() {
        let mut network = Network::new(3, Link::site().narrowed(1_200));
        assert!(network.send(A, B, 1_200).first().is_some());
        assert_eq!(network.send(A, B, 1_201), Fate::Vanishes);
        assert_eq!(network.counts.too_large, 1);
    }
}
