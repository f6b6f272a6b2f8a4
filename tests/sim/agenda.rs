//! What is still to happen, in the order of time; equal times in the order in which they were added.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::SimTime;

/// A queue by time. The heap moves keys only; what happens lies still beside it.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    keys: BinaryHeap<Reverse<(SimTime, u64, usize)>>,
    order: u64,
    items: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { keys: BinaryHeap::new(), order: 0, items: Vec::new(), free: Vec::new() }
    }
}

impl<T> Agenda<T> {
    /// Adds something for a point in time.
    pub(crate) fn add(&mut self, at: SimTime, item: T) {
        let place = match self.free.pop() {
            Some(place) => {
                self.items[place] = Some(item);
                place
            }
            None => {
                self.items.push(Some(item));
                self.items.len() - 1
            }
        };
        self.order += 1;
        self.keys.push(Reverse((at, self.order, place)));
    }

    /// When the next is.
    pub(crate) fn next_at(&self) -> Option<SimTime> {
        self.keys.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes what is next, if that is not after `end`.
    pub(crate) fn next_until(&mut self, end: SimTime) -> Option<(SimTime, T)> {
        let Reverse((at, ..)) = self.keys.peek()?;
        if *at > end {
            return None;
        }
        let Reverse((at, _, place)) = self.keys.pop()?;
        self.free.push(place);
        self.items[place].take().map(|item| (at, item))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_decides_then_the_order_of_adding() {
        let at = |seconds| SimTime::START.after(Duration::from_secs(seconds));
        let mut agenda = Agenda::default();
        for (seconds, what) in [(2, "c"), (1, "a"), (1, "b"), (3, "d")] {
            agenda.add(at(seconds), what);
        }
        let mut taken = Vec::new();
        while let Some((_, what)) = agenda.next_until(at(2)) {
            taken.push(what);
        }
        assert_eq!(taken, ["a", "b", "c"]);
        agenda.add(at(0), "e");
        assert_eq!(agenda.next_until(at(9)), Some((at(0), "e")));
        assert_eq!(agenda.next_until(at(9)), Some((at(3), "d")));
        assert_eq!(agenda.next_until(at(9)), None);
    }
}
