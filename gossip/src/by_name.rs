//! A table by name in which a look or a newcomer costs one hash, however many there are.
//!
//! A machine looks members up many times in each turn, and a tree of thousands compares a dozen and more names each
//! time, which lie all over the memory. The order is that in which entries came, and who comes takes the place of who
//! went: not that of the names, but the same in each run.

use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use starling_model::NodeName;

/// Where an entry lies.
pub(crate) type Slot = u32;

/// Entries of one block: a table grows by blocks, so that nothing of it moves and little of it is empty.
const BLOCK: usize = 64;

/// What lies in a slot that is taken.
type Entry<T> = (NodeName, T);

/// Values by name.
#[derive(Clone, Debug)]
pub(crate) struct ByName<T> {
    /// All but the last have [`BLOCK`] places.
    blocks: Vec<Vec<Option<Entry<T>>>>,
    /// Slots that are empty.
    free: Vec<Slot>,
    /// Taken slots by the hash of the name.
    index: HashTable<Slot>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), free: Vec::new(), index: HashTable::new() }
    }
}

/// Names come from certificates that an operator's key vouches for, so nobody is free to choose many that collide; the
/// hash is a fixed one, and a run is the same each time.
fn hash(name: &str) -> u64 {
    FixedState::default().hash_one(name)
}

fn place<T>(blocks: &[Vec<Option<Entry<T>>>], slot: Slot) -> Option<&Entry<T>> {
    blocks.get(slot as usize / BLOCK)?.get(slot as usize % BLOCK)?.as_ref()
}

fn place_mut<T>(blocks: &mut [Vec<Option<Entry<T>>>], slot: Slot) -> Option<&mut Option<Entry<T>>> {
    blocks.get_mut(slot as usize / BLOCK)?.get_mut(slot as usize % BLOCK)
}

impl<T> ByName<T> {
    fn entry(&self, slot: Slot) -> Option<(&NodeName, &T)> {
        place(&self.blocks, slot).map(|(name, value)| (name, value))
    }

    /// The slot of a name, for [`Marks`].
    pub(crate) fn place(&self, name: &NodeName) -> Option<(Slot, &T)> {
        let slot = self.slot(name.as_str())?;
        self.entry(slot).map(|(_, value)| (slot, value))
    }

    fn name(&self, slot: Slot) -> &str {
        self.entry(slot).map_or("", |(name, _)| name.as_str())
    }

    fn slot(&self, name: &str) -> Option<Slot> {
        self.index.find(hash(name), |slot| self.name(*slot) == name).copied()
    }

    /// The entry of a name as it came.
    pub(crate) fn find(&self, name: &str) -> Option<(&NodeName, &T)> {
        self.entry(self.slot(name)?)
    }

    pub(crate) fn get(&self, name: &NodeName) -> Option<&T> {
        self.find(name.as_str()).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, name: &NodeName) -> Option<&mut T> {
        let slot = self.slot(name.as_str())?;
        place_mut(&mut self.blocks, slot)?.as_mut().map(|(_, value)| value)
    }

    /// A slot that is empty.
    fn empty(&mut self) -> Slot {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::new());
        }
        let before = self.blocks.len().saturating_sub(1) * BLOCK;
        let Some(block) = self.blocks.last_mut() else { return Slot::MAX };
        block.push(None);
        Slot::try_from(before + block.len() - 1).unwrap_or(Slot::MAX)
    }

    /// Sets the value of a name; returns the former one.
    pub(crate) fn insert(&mut self, name: NodeName, value: T) -> Option<T> {
        if let Some(held) = self.get_mut(&name) {
            return Some(std::mem::replace(held, value));
        }
        let hashed = hash(name.as_str());
        let slot = self.empty();
        if let Some(place) = place_mut(&mut self.blocks, slot) {
            *place = Some((name, value));
        }
        let blocks = &self.blocks;
        let rehash = |slot: &Slot| hash(place(blocks, *slot).map_or("", |(name, _)| name.as_str()));
        self.index.insert_unique(hashed, slot, rehash);
        None
    }

    pub(crate) fn remove(&mut self, name: &NodeName) -> Option<T> {
        let slot = self.slot(name.as_str())?;
        if let Ok(taken) = self.index.find_entry(hash(name.as_str()), |held| *held == slot) {
            taken.remove();
        }
        self.free.push(slot);
        place_mut(&mut self.blocks, slot)?.take().map(|(_, value)| value)
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// All.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeName, &T)> {
        self.blocks.iter().flatten().flatten().map(|(name, value)| (name, value))
    }

    /// All that are not marked.
    pub(crate) fn unmarked(&self, marks: &Marks) -> impl Iterator<Item = (&NodeName, &T)> {
        let places = self.blocks.iter().flatten().zip(0..);
        places
            .filter(|(_, slot)| !marks.has(*slot))
            .filter_map(|(place, _)| place.as_ref().map(|(name, value)| (name, value)))
    }
}

/// Entries of one table that were looked at, while it does not change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(Vec<u64>);

impl Marks {
    pub(crate) fn mark(&mut self, slot: Slot) {
        let (word, bit) = (slot as usize / 64, slot % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    fn has(&self, slot: Slot) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::node;

    proptest! {
        /// It does what a tree does.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..160_u32, 0..3_u8, any::<u16>()), 0..600)) {
            let (mut table, mut tree) = (ByName::default(), BTreeMap::new());
            for (name, step, value) in steps {
                let name = node(&format!("n{name}"));
                match step {
                    0 => prop_assert_eq!(table.insert(name.clone(), value), tree.insert(name.clone(), value)),
                    1 => prop_assert_eq!(table.remove(&name), tree.remove(&name)),
                    _ => {
                        if let (Some(held), Some(other)) = (table.get_mut(&name), tree.get_mut(&name)) {
                            (*held, *other) = (value, value);
                        }
                    }
                }
                prop_assert_eq!(table.get(&name), tree.get(&name));
                prop_assert_eq!(table.find(name.as_str()), tree.get_key_value(&name));
                prop_assert_eq!(table.len(), tree.len());
            }
            let sorted = |entries: &mut dyn Iterator<Item = (&NodeName, &u16)>| -> BTreeMap<NodeName, u16> {
                entries.map(|(name, value)| (name.clone(), *value)).collect()
            };
            prop_assert_eq!((table.iter().count(), sorted(&mut table.iter())), (tree.len(), tree.clone()));
            let mut marks = Marks::default();
            for name in tree.keys().take(tree.len() / 2) {
                let (slot, value) = table.place(name).unwrap();
                prop_assert_eq!(Some(value), tree.get(name));
                marks.mark(slot);
            }
            let rest: BTreeMap<NodeName, u16> = tree.into_iter().skip(table.len() / 2).collect();
            prop_assert_eq!(sorted(&mut table.unmarked(&marks)), rest);
        }
    }
}
