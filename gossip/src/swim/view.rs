//! What others may know of the machine at little cost.

use starling_model::{Life, MemberState, NodeName};

use super::{Phase, Swim};

impl Swim {
    /// State and life of all other members, by name: the part of [`Swim::members`] that costs nothing.
    pub fn standings(&self) -> impl Iterator<Item = (&NodeName, MemberState, Life)> + '_ {
        self.members.iter().map(|(name, member)| (name, member.state, member.life))
    }

    /// State and life of this node.
    #[must_use]
    pub fn standing(&self) -> (MemberState, Life) {
        let state = match self.phase {
            Phase::Idle | Phase::Joined => MemberState::Alive,
            Phase::Leaving | Phase::Left => MemberState::Left,
        };
        (state, self.life)
    }
}
