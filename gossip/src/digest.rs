//! What this node holds, as hashes: one sum per bucket and one over all. Sums change with each entry, so keeping them
//! costs one hash per change and asking for the root costs nothing.

use std::collections::BTreeMap;

use starling_model::{Life, NodeName, RecordKind, RecordVersion};

use crate::hash;
use crate::limits::BUCKETS;

/// What one hash stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    Life(NodeName),
    Record(NodeName, RecordKind, u8),
}

/// The bucket of everything that belongs to a name.
pub(crate) fn bucket(name: &NodeName) -> usize {
    usize::from(hash::sha256(&[b"bucket", name.as_str().as_bytes()])[0])
}

/// Sums over members that are present and their records. Tombstones are in no sum.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    entries: BTreeMap<Entry, u64>,
    buckets: Vec<u64>,
    root: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), buckets: vec![0; BUCKETS], root: 0 }
    }
}

impl Sums {
    pub(crate) fn life(&mut self, name: &NodeName, life: Option<Life>) {
        let hash = life.map(|life| {
            hash::head(&[
                b"life",
                name.as_str().as_bytes(),
                &life.epoch.0.to_le_bytes(),
                &life.incarnation.0.to_le_bytes(),
            ])
        });
        self.set(Entry::Life(name.clone()), name, hash);
    }

    pub(crate) fn record(&mut self, owner: &NodeName, kind: RecordKind, shard: u8, version: Option<RecordVersion>) {
        let hash = version.map(|version| {
            hash::head(&[
                b"record",
                owner.as_str().as_bytes(),
                &[kind.to_wire(), shard],
                &version.epoch.0.to_le_bytes(),
                &version.version.to_le_bytes(),
            ])
        });
        self.set(Entry::Record(owner.clone(), kind, shard), owner, hash);
    }

    fn set(&mut self, entry: Entry, name: &NodeName, hash: Option<u64>) {
        let old = match hash {
            Some(hash) => self.entries.insert(entry, hash),
            None => self.entries.remove(&entry),
        };
        let change = hash.unwrap_or(0).wrapping_sub(old.unwrap_or(0));
        if let Some(sum) = self.buckets.get_mut(bucket(name)) {
            *sum = sum.wrapping_add(change);
        }
        self.root = self.root.wrapping_add(change);
    }

    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    pub(crate) fn buckets(&self) -> &[u64] {
        &self.buckets
    }
}

/// A set of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask(pub(crate) [u8; BUCKETS / 8]);

impl Mask {
    pub(crate) const ALL: Self = Self([0xff; BUCKETS / 8]);
    pub(crate) const NONE: Self = Self([0; BUCKETS / 8]);

    /// The buckets whose sums differ.
    pub(crate) fn differing(ours: &[u64], theirs: &[u64]) -> Self {
        let mut mask = [0; BUCKETS / 8];
        for (at, (a, b)) in ours.iter().zip(theirs).enumerate() {
            if let Some(byte) = mask.get_mut(at / 8).filter(|_| a != b) {
                *byte |= 1 << (at % 8);
            }
        }
        Self(mask)
    }

    pub(crate) fn holds(&self, name: &NodeName) -> bool {
        let at = bucket(name);
        self.0.get(at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use starling_model::BootEpoch;

    use super::*;
    use crate::testing::node;

    #[test]
    fn the_root_depends_on_what_is_held_and_not_on_how_it_came() {
        let life = |epoch| Some(Life::first(BootEpoch(epoch)));
        let (mut a, mut b) = (Sums::default(), Sums::default());
        a.life(&node("x"), life(1));
        a.life(&node("y"), life(2));
        b.life(&node("y"), life(9));
        b.life(&node("z"), life(3));
        b.life(&node("x"), life(1));
        b.life(&node("y"), life(2));
        assert_ne!(a.root(), b.root());
        assert!(Mask::differing(a.buckets(), b.buckets()).holds(&node("z")));
        b.life(&node("z"), None);
        assert_eq!((a.root(), a.buckets()), (b.root(), b.buckets()));
        assert_eq!(Mask::differing(a.buckets(), b.buckets()), Mask([0; BUCKETS / 8]));
    }
}
