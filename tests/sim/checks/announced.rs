//! What only a member itself can say of itself: the address and the release of each of its lives, and that it left.

use std::net::SocketAddr;

use starling_gossip::MemberView;
use starling_model::{BootEpoch, Life, MemberState, MeshId};

use crate::cluster::Host;
use crate::names::{ByName, NameId};

/// What the bearers of each name have said of themselves.
#[derive(Debug, Default)]
pub(crate) struct Announced(ByName<Vec<Word>>);

/// One epoch of one bearer of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    mesh: MeshId,
    epoch: BootEpoch,
    address: SocketAddr,
    release: String,
    /// The life in which it left.
    left: Option<Life>,
}

impl Announced {
    /// Notes what a machine says of itself after a turn.
    pub(crate) fn says(&mut self, host: &Host, state: MemberState, life: Life) {
        let left = (state == MemberState::Left).then_some(life);
        let same = |word: &Word| {
            word.mesh == host.mesh
                && word.epoch == life.epoch
                && word.address == host.address
                && word.release == host.release
        };
        let word =
            || Word { mesh: host.mesh, epoch: life.epoch, address: host.address, release: host.release.clone(), left };
        if let Some(words) = self.0.get_mut(host.name_id) {
            match words.iter_mut().rev().find(|word| same(word)) {
                Some(word) => word.left = word.left.max(left),
                None => words.push(word()),
            }
        } else {
            self.0.set(host.name_id, Some(vec![word()]));
        }
    }

    /// Attributes belong to a life: what is told of one is what its bearer said in it, and nobody else says that it
    /// left.
    pub(crate) fn foreign(&self, id: NameId, mesh: &MeshId, told: &MemberView) -> Option<&'static str> {
        let words = self.0.get(id).map_or(&[][..], Vec::as_slice);
        let mut of_life = words.iter().filter(|word| word.mesh == *mesh && word.epoch == told.life.epoch);
        match told.state {
            MemberState::Left => (!of_life.any(|word| word.left == Some(told.life))).then_some("it never left"),
            MemberState::Alive | MemberState::Suspect => {
                let same = |word: &Word| told.addresses.first() == Some(&word.address) && told.release == word.release;
                (!of_life.any(same)).then_some("these are not the attributes of this life")
            }
            // Nothing signed may have come yet, or it may be older than the life that ended.
            MemberState::Joining | MemberState::Dead => None,
        }
    }
}
