//! The links of this node: which peers are connected, and with whom it wants to be (the active view).
//!
//! Up to 33 members every node is linked with every other. Above, the view has two parts. [`Rings`]: two rings, ordered
//! by differently salted hashes of the names, give each node its nearest neighbours on both; the choice is symmetric, so
//! both ends want the link. [`Rovers`]: random links, one of them replaced now and then, so that no cut of the rings lasts
//! and everybody meets everybody in time. A link that somebody else chose counts as well as one of our own, so each
//! node chooses half of the random ones itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use starling_model::NodeName;

use crate::hash;

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    pub(crate) since: Instant,
    /// The transport's estimate.
    pub(crate) rtt: Option<Duration>,
    /// We dialled it, so it is ours to close once nobody needs it.
    pub(crate) dialled: bool,
    /// When something last needed it.
    pub(crate) used: Instant,
}

/// Connected peers that hear news.
#[derive(Clone, Debug)]
pub(crate) struct Listeners {
    pub(crate) names: Arc<[NodeName]>,
    /// When one of them, dead for a while, hears no more.
    pub(crate) until: Option<Instant>,
}

/// All connections, by peer. A peer may be no member yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    up: BTreeMap<NodeName, Link>,
    /// Who hears news, as last looked at.
    listeners: Option<Listeners>,
    /// When spare ones were last looked for.
    pub(crate) swept: Option<Instant>,
}

impl Links {
    pub(crate) fn is_up(&self, peer: &NodeName) -> bool {
        self.up.contains_key(peer)
    }

    pub(crate) fn get(&self, peer: &NodeName) -> Option<&Link> {
        self.up.get(peer)
    }

    pub(crate) fn get_mut(&mut self, peer: &NodeName) -> Option<&mut Link> {
        self.up.get_mut(peer)
    }

    pub(crate) fn insert(&mut self, peer: NodeName, link: Link) {
        self.up.insert(peer, link);
        self.listeners = None;
    }

    pub(crate) fn remove(&mut self, peer: &NodeName) -> bool {
        self.listeners = None;
        self.up.remove(peer).is_some()
    }

    /// The state of a member is another: who hears news is looked at again.
    pub(crate) fn state_changed(&mut self, name: &NodeName) {
        if self.is_up(name) {
            self.listeners = None;
        }
    }

    /// Who hears news, if nothing changed since that was looked at.
    pub(crate) fn listeners(&self, now: Instant) -> Option<&Arc<[NodeName]>> {
        let known = self.listeners.as_ref()?;
        known.until.is_none_or(|until| now < until).then_some(&known.names)
    }

    pub(crate) fn set_listeners(&mut self, listeners: Listeners) {
        self.listeners = Some(listeners);
    }

    pub(crate) fn len(&self) -> usize {
        self.up.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Link)> {
        self.up.iter()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.up.keys()
    }
}

const SALTS: [&[u8]; 2] = [b"ring-0", b"ring-1"];
/// Of 32 links, this many go to neighbours on the rings: seven in each direction of each.
const RING_SHARE: (usize, usize) = (28, 32);

/// One direction on one ring: the nearest members, nearest first.
#[derive(Clone, Debug, Default)]
struct Side {
    near: Vec<(u64, NodeName)>,
    /// A neighbour went, and a member farther away takes its place.
    hole: bool,
}

/// Our neighbours on two rings, kept as members come and go: a newcomer costs two hashes, and only the loss of a
/// neighbour costs a look at everybody.
#[derive(Clone, Debug)]
pub(crate) struct Rings {
    me: [u64; 2],
    reach: usize,
    sides: [Side; 4],
}

impl Rings {
    /// The rings as `me` sees them, when it has so many `links` in all.
    pub(crate) fn new(me: &NodeName, links: usize) -> Self {
        let reach = links * RING_SHARE.0 / RING_SHARE.1 / (2 * SALTS.len());
        Self { me: places(me), reach: reach.max(1), sides: Default::default() }
    }

    /// How far away a member is in each of the four directions.
    fn distances(&self, name: &NodeName) -> [u64; 4] {
        let [a, b] = places(name);
        let [x, y] = self.me;
        [a.wrapping_sub(x), x.wrapping_sub(a), b.wrapping_sub(y), y.wrapping_sub(b)]
    }

    /// A member is present; true when it is a neighbour.
    pub(crate) fn add(&mut self, name: &NodeName) -> bool {
        let (distances, reach) = (self.distances(name), self.reach);
        let mut changed = false;
        for (side, distance) in self.sides.iter_mut().zip(distances) {
            changed |= side.add(distance, name, reach);
        }
        changed
    }

    /// A member is gone; true when it was a neighbour. [`Rings::fill`] finds who takes its place.
    pub(crate) fn remove(&mut self, name: &NodeName) -> bool {
        let mut changed = false;
        for side in &mut self.sides {
            let before = side.near.len();
            side.near.retain(|(_, near)| near != name);
            side.hole |= side.near.len() < before;
            changed |= side.near.len() < before;
        }
        changed
    }

    /// True when a neighbour went since the last [`Rings::fill`].
    pub(crate) fn has_hole(&self) -> bool {
        self.sides.iter().any(|side| side.hole)
    }

    /// Fills the places of neighbours that went from all members that are `present`.
    pub(crate) fn fill<'a>(&mut self, present: impl Iterator<Item = &'a NodeName>) {
        for name in present {
            self.add(name);
        }
        self.sides.iter_mut().for_each(|side| side.hole = false);
    }

    /// All neighbours.
    pub(crate) fn neighbours(&self) -> BTreeSet<NodeName> {
        self.sides.iter().flat_map(|side| &side.near).map(|(_, name)| name.clone()).collect()
    }
}

impl Side {
    fn add(&mut self, distance: u64, name: &NodeName, reach: usize) -> bool {
        let at = self.near.partition_point(|(near, other)| (*near, other) < (distance, name));
        let known = self.near.get(at).is_some_and(|(_, other)| other == name);
        if known || at >= reach {
            return false;
        }
        self.near.insert(at, (distance, name.clone()));
        self.near.truncate(reach);
        true
    }
}

/// Where a name lies on each ring.
fn places(name: &NodeName) -> [u64; 2] {
    SALTS.map(|salt| hash::head(&[salt, name.as_str().as_bytes()]))
}

/// With whom we want links, and probe.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) wanted: BTreeSet<NodeName>,
    /// Members or links came or went since `wanted` was made.
    pub(crate) stale: bool,
    pub(crate) rings: Rings,
    pub(crate) rovers: Rovers,
}

impl View {
    pub(crate) fn new(me: &NodeName, links: usize) -> Self {
        Self { wanted: BTreeSet::new(), stale: false, rings: Rings::new(me, links), rovers: Rovers::default() }
    }

    /// A member came, or went; true when it was or becomes one of those that we want.
    pub(crate) fn presence(&mut self, name: &NodeName, present: bool) -> bool {
        let near = if present { self.rings.add(name) } else { self.rings.remove(name) };
        near || self.wanted.contains(name)
    }
}

/// The random links that we chose ourselves, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rovers {
    chosen: Vec<NodeName>,
    /// The last one chosen takes the oldest one's place once its link is up.
    replacing: bool,
}

impl Rovers {
    /// How many a node chooses itself beside `ring` neighbours, of so many `links`: its peers choose the other half.
    pub(crate) fn share(links: usize, ring: usize) -> usize {
        links.saturating_sub(ring).div_ceil(2)
    }

    pub(crate) fn len(&self) -> usize {
        self.chosen.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &NodeName> {
        self.chosen.iter()
    }

    pub(crate) fn choose(&mut self, name: NodeName) {
        self.chosen.push(name);
    }

    /// Chooses one that is to take the oldest one's place.
    pub(crate) fn replace(&mut self, name: NodeName) {
        self.chosen.push(name);
        self.replacing = true;
    }

    /// True while a replacement is on its way.
    pub(crate) fn is_replacing(&self) -> bool {
        self.replacing
    }

    /// The link with `name` is up; the oldest one if that releases it.
    pub(crate) fn arrived(&mut self, name: &NodeName) -> Option<NodeName> {
        let done = self.replacing && self.chosen.last() == Some(name) && self.chosen.len() > 1;
        self.replacing &= !done;
        done.then(|| self.chosen.remove(0))
    }

    /// Keeps those that `stay`.
    pub(crate) fn retain(&mut self, stay: impl Fn(&NodeName) -> bool) {
        let newest = self.chosen.last().cloned();
        self.chosen.retain(stay);
        self.replacing &= newest.is_some() && self.chosen.last() == newest.as_ref();
    }

    /// Drops the oldest ones beyond `most`.
    pub(crate) fn trim(&mut self, most: usize) {
        let most = most + usize::from(self.replacing);
        let over = self.chosen.len().saturating_sub(most);
        self.chosen.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    fn names(count: usize) -> Vec<NodeName> {
        (0..count).map(|at| node(&format!("n{at}"))).collect()
    }

    fn rings(me: &NodeName, names: &[NodeName]) -> Rings {
        let mut rings = Rings::new(me, 32);
        names.iter().filter(|name| *name != me).for_each(|name| {
            rings.add(name);
        });
        rings
    }

    #[test]
    fn both_ends_are_neighbours_of_each_other() {
        let names = names(200);
        let views: BTreeMap<_, _> = names.iter().map(|me| (me, rings(me, &names).neighbours())).collect();
        for (me, view) in &views {
            assert!((20..=28).contains(&view.len()), "{me} has {} neighbours", view.len());
            assert!(!view.contains(*me));
            assert!(view.iter().all(|peer| views[peer].contains(*me)), "{me}");
        }
    }

    #[test]
    fn neighbours_are_the_same_whatever_the_order_of_events() {
        let names = names(120);
        let me = &names[0];
        let mut rings = rings(me, &names);
        for name in &names[40..80] {
            rings.remove(name);
        }
        assert!(rings.has_hole());
        let present = || names[1..40].iter().chain(&names[80..]);
        rings.fill(present());
        assert!(!rings.has_hole());
        let mut fresh = Rings::new(me, 32);
        present().rev().for_each(|name| {
            fresh.add(name);
        });
        assert_eq!(rings.neighbours(), fresh.neighbours());
        assert!(!fresh.add(&names[1]) || !rings.neighbours().contains(&names[1]), "nobody is added twice");
    }

    #[test]
    fn a_rover_goes_only_when_its_replacement_is_there() {
        let mut rovers = Rovers::default();
        ["a", "b"].iter().for_each(|name| rovers.choose(node(name)));
        rovers.replace(node("c"));
        rovers.trim(2);
        assert_eq!(rovers.len(), 3);
        assert!(rovers.arrived(&node("b")).is_none() && rovers.is_replacing());
        assert_eq!(rovers.arrived(&node("c")), Some(node("a")));
        assert!(!rovers.is_replacing());
        assert_eq!(rovers.iter().cloned().collect::<Vec<_>>(), [node("b"), node("c")]);
        rovers.replace(node("d"));
        rovers.retain(|name| *name != node("d"));
        assert!(!rovers.is_replacing(), "its dial failed");
        rovers.trim(1);
        assert_eq!(rovers.len(), 1);
        assert_eq!((Rovers::share(32, 28), Rovers::share(32, 27), Rovers::share(8, 40)), (2, 3, 0));
    }
}
