//! States of a member as SWIM knows them.

use std::fmt;

/// What this node holds about a member; ordered, so that within one life worse news wins (SWIM 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// Seen, but its signed `alive` is not verified yet. Never on the wire.
    Joining,
    /// Answers, or nobody doubts it.
    Alive,
    /// Doubted; still used by routing unless our own traffic fails.
    Suspect,
    /// Did not refute in time. Shown to people as `failed`.
    Dead,
    /// Left by its own signed word.
    Left,
}

impl MemberState {
    /// All states, in order.
    pub const ALL: [Self; 5] = [Self::Joining, Self::Alive, Self::Suspect, Self::Dead, Self::Left];

    /// The word that tables, JSON and metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "failed",
            Self::Left => "left",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
