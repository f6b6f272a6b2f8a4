//! What this node holds, as hashes: one sum per bucket and one over all. Sums change with each entry, so keeping them
//! costs one hash per change and asking for the root costs nothing.

use starling_model::{Life, NodeName, RecordKind, RecordVersion};

use crate::hash;
use crate::limits::BUCKETS;

/// The bucket of everything that belongs to a name.
pub(crate) fn bucket(name: &NodeName) -> u8 {
    hash::sha256(&[b"bucket", name.as_str().as_bytes()])[0]
}

/// Sums over members that are present and their records. Tombstones are in no sum. What one owner adds to them is kept
/// with the owner.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    buckets: Vec<u64>,
    root: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], root: 0 }
    }
}

/// What a life adds.
pub(crate) fn of_life(name: &NodeName, life: Life) -> u64 {
    hash::head(&[b"life", name.as_str().as_bytes(), &life.epoch.0.to_le_bytes(), &life.incarnation.0.to_le_bytes()])
}

/// What one shard of a record adds.
pub(crate) fn of_record(owner: &NodeName, kind: RecordKind, shard: u8, version: RecordVersion) -> u64 {
    hash::head(&[
        b"record",
        owner.as_str().as_bytes(),
        &[kind.to_wire(), shard],
        &version.epoch.0.to_le_bytes(),
        &version.version.to_le_bytes(),
    ])
}

impl Sums {
    /// An owner in `bucket` adds `new`, and no longer `old`.
    pub(crate) fn replace(&mut self, bucket: u8, old: u64, new: u64) {
        if old == new {
            return;
        }
        let change = new.wrapping_sub(old);
        if let Some(sum) = self.buckets.get_mut(usize::from(bucket)) {
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
        self.has(bucket(name))
    }

    /// Is this bucket in it?
    pub(crate) fn has(&self, bucket: u8) -> bool {
        self.0.get(usize::from(bucket / 8)).is_some_and(|byte| byte & (1 << (bucket % 8)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use starling_model::BootEpoch;

    use super::*;
    use crate::testing::node;

    #[test]
    fn the_root_depends_on_what_is_held_and_not_on_how_it_came() {
        let life = |name: &str, epoch| of_life(&node(name), Life::first(BootEpoch(epoch)));
        let (mut a, mut b) = (Sums::default(), Sums::default());
        a.replace(bucket(&node("x")), 0, life("x", 1));
        a.replace(bucket(&node("y")), 0, life("y", 2));
        b.replace(bucket(&node("y")), 0, life("y", 9));
        b.replace(bucket(&node("z")), 0, life("z", 3));
        b.replace(bucket(&node("x")), 0, life("x", 1));
        b.replace(bucket(&node("y")), life("y", 9), life("y", 2));
        assert_ne!(a.root(), b.root());
        assert!(Mask::differing(a.buckets(), b.buckets()).holds(&node("z")));
        b.replace(bucket(&node("z")), life("z", 3), 0);
        assert_eq!((a.root(), a.buckets()), (b.root(), b.buckets()));
        assert_eq!(Mask::differing(a.buckets(), b.buckets()), Mask([0; BUCKETS / 8]));
    }
}
