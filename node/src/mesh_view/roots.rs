//! What a member's root tells about the documents that it uses.
//!
//! A root is a hash, so it names a set only to somebody who held that set. A member with our root uses what we use; one
//! with a former root of ours uses what we used then; of any other root nothing is known but that it is not ours. A
//! member without a link tells no root: then the digest in its status is compared, which names no set.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use starling_gossip::{DocumentView, MemberView};
use starling_model::{DocumentKey, Generation, NodeName};

/// Former roots that are remembered: at ten changes a second a member may be three seconds behind, at one in a minute
/// half an hour. Each holds a key and a number for every document.
pub const ROOTS_KEPT: usize = 32;

/// Generations by document.
pub type Used = BTreeMap<DocumentKey, Generation>;

/// Our roots, and since when each member has its own.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// The present one last.
    own: VecDeque<(u64, Arc<Used>)>,
    members: BTreeMap<NodeName, (u64, SystemTime)>,
}

impl Roots {
    /// Notes our root with what it stands for, if it is new. True when it is.
    pub fn note_own<'a>(&mut self, root: u64, documents: impl IntoIterator<Item = &'a DocumentView>) -> bool {
        if self.own.back().is_some_and(|(last, _)| *last == root) {
            return false;
        }
        // The same set again is the same root: one entry is enough.
        self.own.retain(|(past, _)| *past != root);
        if self.own.len() >= ROOTS_KEPT {
            self.own.pop_front();
        }
        let used = documents.into_iter().map(|document| (document.key.clone(), document.version.generation)).collect();
        self.own.push_back((root, Arc::new(used)));
        true
    }

    /// Notes the roots that members tell on their links; who tells none is forgotten.
    pub fn note_members(&mut self, members: &[MemberView], now: SystemTime) {
        let mut noted = BTreeMap::new();
        for member in members {
            if let Some(root) = member.documents_root {
                let held = self.members.get(&member.name).filter(|(known, _)| *known == root);
                noted.insert(member.name.clone(), held.copied().unwrap_or((root, now)));
            }
        }
        self.members = noted;
    }

    /// What a member with this root uses; `None` when we never held that set, or no longer know it.
    #[must_use]
    pub fn used(&self, root: u64) -> Option<Arc<Used>> {
        self.own.iter().rev().find(|(known, _)| *known == root).map(|(_, used)| Arc::clone(used))
    }

    /// Since when this member tells the root that it tells now, as seen here.
    #[must_use]
    pub fn since(&self, member: &NodeName) -> Option<SystemTime> {
        self.members.get(member).map(|(_, since)| *since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use starling_model::MemberState;

    use super::super::tests::{document, member};
    use super::*;

    #[test]
    fn a_former_root_of_ours_tells_what_its_holder_uses() {
        let mut roots = Roots::default();
        assert!(roots.note_own(1, []));
        assert!(roots.note_own(2, [&document("orders", 1)]));
        assert!(!roots.note_own(2, [&document("orders", 9)]), "nothing changed");
        assert!(roots.note_own(3, [&document("orders", 2), &document("web", 1)]));
        let used = |roots: &Roots, root, name: &str| {
            roots.used(root).map(|used| used.get(&document(name, 1).key).map(|generation| generation.get()))
        };
        assert_eq!(used(&roots, 3, "orders"), Some(Some(2)));
        assert_eq!(used(&roots, 2, "orders"), Some(Some(1)));
        assert_eq!((used(&roots, 2, "web"), used(&roots, 1, "orders")), (Some(None), Some(None)));
        assert_eq!(used(&roots, 4, "orders"), None, "never ours");
    }

    #[test]
    fn one_root_more_than_are_kept_forgets_the_oldest() {
        let mut roots = Roots::default();
        let last = u64::try_from(ROOTS_KEPT).unwrap();
        (0..last).for_each(|root| assert!(roots.note_own(root, [])));
        assert!(roots.used(0).is_some());
        roots.note_own(last, []);
        assert_eq!((roots.used(0), roots.own.len()), (None, ROOTS_KEPT));
        assert!(roots.used(1).is_some() && roots.used(last).is_some());
    }

    #[test]
    fn a_member_has_its_root_since_it_told_another() {
        let (mut roots, at, now) = (Roots::default(), SystemTime::UNIX_EPOCH, Instant::now());
        let mut vm = member("vm-2", MemberState::Alive, now);
        let later = |seconds| at + Duration::from_secs(seconds);
        vm.documents_root = Some(1);
        roots.note_members(&[vm.clone()], later(1));
        roots.note_members(&[vm.clone()], later(2));
        assert_eq!(roots.since(&vm.name), Some(later(1)));
        vm.documents_root = Some(2);
        roots.note_members(&[vm.clone()], later(3));
        assert_eq!(roots.since(&vm.name), Some(later(3)));
        vm.documents_root = None;
        roots.note_members(&[vm.clone()], later(4));
        assert_eq!(roots.since(&vm.name), None);
    }
}
