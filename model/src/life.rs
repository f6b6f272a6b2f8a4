//! Which life of a member a statement is about (SWIM 4.2, extended by a boot epoch).

use std::fmt;

/// Counts the starts of one node's agent: persisted and raised at each start, so a restart outranks any refutation of
/// the life before. First start: Unix seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootEpoch(pub u64);

/// Counts refutations within one boot epoch; only the member itself raises it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u32);

/// Everything a member says about itself carries its life; epochs compare first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Which start of the agent.
    pub epoch: BootEpoch,
    /// Which refutation within it.
    pub incarnation: Incarnation,
}

impl Life {
    /// The first life of a start.
    #[must_use]
    pub fn first(epoch: BootEpoch) -> Self {
        Self { epoch, incarnation: Incarnation(0) }
    }

    /// The least life that outranks this one. An exhausted incarnation raises the epoch; `None` only when both
    /// counters are at their end.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match self.incarnation.0.checked_add(1) {
            Some(incarnation) => Some(Self { epoch: self.epoch, incarnation: Incarnation(incarnation) }),
            None => self.epoch.0.checked_add(1).map(|epoch| Self::first(BootEpoch(epoch))),
        }
    }
}

impl fmt::Display for BootEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.incarnation.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_outranks_any_refutation() {
        let old = Life { epoch: BootEpoch(7), incarnation: Incarnation(u32::MAX) };
        assert!(Life::first(BootEpoch(8)) > old);
        assert_eq!(old.next(), Some(Life::first(BootEpoch(8))));
    }
}
