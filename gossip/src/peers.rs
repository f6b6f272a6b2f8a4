//! The links of this node: which peers are connected, and with whom it wants to be (the active view).
//!
//! Up to 33 members every node is linked with every other. Above, two rings, ordered by differently salted hashes of
//! the names, give each node its nearest neighbours on both; the choice is symmetric, so both ends want the link.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
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
}

/// All connections, by peer. A peer may be no member yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    up: BTreeMap<NodeName, Link>,
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
    }

    pub(crate) fn remove(&mut self, peer: &NodeName) -> bool {
        self.up.remove(peer).is_some()
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

const RINGS: [&[u8]; 2] = [b"ring-0", b"ring-1"];

/// With whom `me` wants a link, among the `others` that are present.
pub(crate) fn wanted(me: &NodeName, others: &[NodeName], full_max: usize, links: usize) -> BTreeSet<NodeName> {
    if others.len() < full_max {
        return others.iter().cloned().collect();
    }
    let reach = links / (2 * RINGS.len());
    let mut chosen = BTreeSet::new();
    for salt in RINGS {
        let place = |name: &NodeName| (hash::head(&[salt, name.as_str().as_bytes()]), name.clone());
        let mut ring: Vec<(u64, NodeName)> = others.iter().map(place).collect();
        ring.sort();
        let here = ring.partition_point(|at| *at < place(me));
        let around =
            (0..reach).flat_map(|step| [(here + step) % ring.len(), (here + ring.len() * 2 - 1 - step) % ring.len()]);
        chosen.extend(around.filter_map(|at| ring.get(at)).map(|(_, name)| name.clone()));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    fn views(count: usize) -> Vec<(NodeName, BTreeSet<NodeName>)> {
        let names: Vec<NodeName> = (0..count).map(|at| node(&format!("n{at}"))).collect();
        let view = |me: &NodeName| {
            let others: Vec<NodeName> = names.iter().filter(|name| *name != me).cloned().collect();
            (me.clone(), wanted(me, &others, 33, 32))
        };
        names.iter().map(view).collect()
    }

    #[test]
    fn a_small_mesh_is_complete() {
        assert!(views(33).iter().all(|(_, view)| view.len() == 32));
    }

    #[test]
    fn in_a_large_mesh_both_ends_want_each_link() {
        let views: BTreeMap<_, _> = views(200).into_iter().collect();
        for (me, view) in &views {
            assert!((16..=32).contains(&view.len()), "{me} has {} links", view.len());
            assert!(!view.contains(me));
            assert!(view.iter().all(|peer| views[peer].contains(me)), "{me}");
        }
    }
}
