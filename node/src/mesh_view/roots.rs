//! What a member's digest and root tell about the documents that it uses.
//!
//! The digest in a member's status covers the documents that it uses, the root on its link all that it holds. Both are
//! hashes, so they name a set only to somebody who held that set: a digest of ours, of now or of before, says which
//! documents in which versions. A member that holds what we hold and uses something else holds documents back; its status
//! names them, and a set of ours with these changes gives its digest. A release that does not name them is understood
//! where it is one document: leaving it out or putting a former version in its place gives the digest. Of any other
//! digest nothing is known but that it is not ours.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use starling_gossip::{DocumentView, MemberView};
use starling_model::{Digest, DocumentKey, DocumentVersion, Generation, HeldDocument, NodeName};
use starling_routing::documents::digest_of;

/// Former roots that are remembered: at ten changes a second a member may be three seconds behind, at one in a minute
/// half an hour. Each holds a key and a number for every document.
pub const ROOTS_KEPT: usize = 32;

/// Digests that are computed to find out which document one member holds back. Each reads 32 bytes for every document, so
/// that many cost a few milliseconds at a thousand documents; with more documents than this none is found.
pub const SEARCHED_MAX: usize = 1_024;

/// A set of documents in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    versions: BTreeMap<DocumentKey, DocumentVersion>,
    digest: Digest,
}

impl Used {
    /// Of these versions.
    #[must_use]
    pub fn new(versions: BTreeMap<DocumentKey, DocumentVersion>) -> Self {
        let digest = digest_of(versions.values().map(|version| &version.hash));
        Self { versions, digest }
    }

    /// Their digest, as statuses carry it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The generation of one document; `None`: it has none.
    #[must_use]
    pub fn generation(&self, key: &DocumentKey) -> Option<Generation> {
        self.versions.get(key).map(|version| version.generation)
    }

    /// The same with another version of one document, or without it.
    #[must_use]
    pub fn but(&self, key: &DocumentKey, version: Option<DocumentVersion>) -> Self {
        let mut versions = self.versions.clone();
        match version {
            Some(version) => versions.insert(key.clone(), version),
            None => versions.remove(key),
        };
        Self::new(versions)
    }

    /// The digest of that, without a copy of everything.
    fn digest_but(&self, key: &DocumentKey, version: Option<&DocumentVersion>) -> Digest {
        let one = |(held, used): (&DocumentKey, &DocumentVersion)| {
            if held == key { version.map(|version| version.hash) } else { Some(used.hash) }
        };
        let hashes: Vec<Digest> = self.versions.iter().filter_map(one).collect();
        digest_of(&hashes)
    }
}

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
        let used = documents.into_iter().map(|document| (document.key.clone(), document.version)).collect();
        self.own.push_back((root, Arc::new(Used::new(used))));
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

    /// What a member with this digest uses; `root` is over what it holds, where that is known. `None` when we never held
    /// that set, no longer know it, or when it holds back more than one document.
    #[must_use]
    pub fn used(&self, digest: Digest, root: Option<u64>) -> Option<Arc<Used>> {
        let known = self.own.iter().rev().find(|(_, used)| used.digest == digest);
        known.map(|(_, used)| Arc::clone(used)).or_else(|| {
            let held = self.own.iter().rev().find(|(known, _)| Some(*known) == root)?;
            self.but_for_one(&held.1, digest).map(Arc::new)
        })
    }

    /// What a member with this digest uses that says which documents it holds back; `None` where that does not give the
    /// digest: it names only some of them, or we never held what it holds.
    #[must_use]
    pub fn used_but(&self, digest: Digest, held_back: &[HeldDocument]) -> Option<Arc<Used>> {
        let names = self.names();
        let changes: Vec<(&DocumentKey, Option<DocumentVersion>)> =
            held_back.iter().map(|held| Some((names.get(&held.hash)?.0, held.used))).collect::<Option<_>>()?;
        let with = |used: &Used| {
            let mut versions = used.versions.clone();
            for (key, version) in &changes {
                match version {
                    Some(version) => versions.insert((*key).clone(), *version),
                    None => versions.remove(*key),
                };
            }
            Used::new(versions)
        };
        self.own.iter().rev().map(|(_, used)| with(used)).find(|used| used.digest == digest).map(Arc::new)
    }

    /// Which documents hashes are of, as far as any of our sets held them.
    #[must_use]
    pub fn names(&self) -> BTreeMap<Digest, (&DocumentKey, Generation)> {
        let all = self.own.iter().flat_map(|(_, used)| &used.versions);
        all.map(|(key, version)| (version.hash, (key, version.generation))).collect()
    }

    /// The newest set of ours; `None` before there is one.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Used>> {
        self.own.back().map(|(_, used)| used)
    }

    /// `held` without one document, or with a former version of it, that has this digest.
    fn but_for_one(&self, held: &Used, digest: Digest) -> Option<Used> {
        if held.versions.len() > SEARCHED_MAX {
            return None;
        }
        let former = |key: &DocumentKey, newest: &DocumentVersion| -> BTreeSet<DocumentVersion> {
            let all = self.own.iter().filter_map(|(_, used)| used.versions.get(key)).copied();
            all.filter(|version| version != newest).collect()
        };
        let missing = held.versions.keys().map(|key| (key.clone(), None));
        let older = held.versions.iter().flat_map(|(key, newest)| {
            former(key, newest).into_iter().rev().map(|version| (key.clone(), Some(version)))
        });
        let mut tried = older.chain(missing).take(SEARCHED_MAX);
        let found = tried.find(|(key, version)| held.digest_but(key, version.as_ref()) == digest);
        found.map(|(key, version)| held.but(&key, version))
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

    fn set(documents: &[DocumentView]) -> Digest {
        digest_of(documents.iter().map(|one| &one.version.hash))
    }

    #[test]
    fn a_former_set_of_ours_tells_what_its_user_uses() {
        let mut roots = Roots::default();
        assert!(roots.note_own(1, []));
        assert!(roots.note_own(2, [&document("orders", 1)]));
        assert!(!roots.note_own(2, [&document("orders", 9)]), "nothing changed");
        assert!(roots.note_own(3, [&document("orders", 2), &document("web", 1)]));
        let used = |digest: Digest, root, name: &str| {
            roots.used(digest, root).map(|used| used.generation(&document(name, 1).key).map(Generation::get))
        };
        let both = set(&[document("orders", 2), document("web", 1)]);
        assert_eq!(used(both, None, "orders"), Some(Some(2)));
        let first = set(&[document("orders", 1)]);
        assert_eq!((used(first, Some(2), "orders"), used(first, None, "web")), (Some(Some(1)), Some(None)));
        assert_eq!(used(Digest::default(), Some(1), "orders"), Some(None));
        assert_eq!(used(Digest([9; 32]), Some(3), "orders"), None, "never ours");
        // It has told what it uses, and what it holds by now is newer.
        assert_eq!(used(first, Some(3), "orders"), Some(Some(1)));
    }

    #[test]
    fn a_document_that_a_member_holds_back_is_found_by_its_digest() {
        let mut roots = Roots::default();
        roots.note_own(1, [&document("a", 1), &document("b", 1)]);
        roots.note_own(2, &[document("a", 2), document("b", 1), document("c", 1)]);
        let used = |uses: &[DocumentView], root| {
            let used = roots.used(set(uses), Some(root))?;
            Some(["a", "b", "c"].map(|name| used.generation(&document(name, 1).key).map(Generation::get)))
        };
        assert_eq!(used(&[document("a", 1), document("b", 1), document("c", 1)], 2), Some([Some(1), Some(1), Some(1)]));
        assert_eq!(used(&[document("a", 2), document("b", 1)], 2), Some([Some(2), Some(1), None]));
        assert_eq!(used(&[document("a", 2)], 2), None, "two of them");
        assert_eq!(used(&[document("a", 2), document("b", 1)], 7), None, "nobody knows what it holds");
    }

    #[test]
    fn several_documents_that_a_member_holds_back_are_known_by_what_it_says() {
        use starling_model::HeldWhy;
        let mut roots = Roots::default();
        roots.note_own(1, [&document("a", 1), &document("b", 1), &document("old", 1)]);
        roots.note_own(2, &[document("a", 2), document("b", 2), document("c", 1), document("d", 1)]);
        let held = |meant: DocumentView, used: Option<DocumentView>| HeldDocument {
            hash: meant.version.hash,
            used: used.map(|used| used.version),
            why: HeldWhy::Panicked,
        };
        // It never got further than b 1 and cannot use a 2 and c at all; `old` is deleted, and still used there.
        let says = [
            held(document("a", 2), None),
            held(document("b", 2), Some(document("b", 1))),
            held(document("c", 1), None),
            held(document("old", 1), Some(document("old", 1))),
        ];
        let digest = set(&[document("b", 1), document("d", 1), document("old", 1)]);
        let used = roots.used_but(digest, &says).unwrap();
        let generation = |name: &str| used.generation(&document(name, 1).key).map(Generation::get);
        assert_eq!(["a", "b", "c", "d", "old"].map(generation), [None, Some(1), None, Some(1), Some(1)]);
        assert_eq!(roots.used_but(digest, &says[1..]), None, "that is not all");
        assert_eq!(roots.used_but(digest, &[held(document("x", 9), None)]), None, "nobody knows that one");
    }

    #[test]
    fn one_document_more_than_can_be_searched_is_not_searched() {
        let search = |len: usize| {
            let all: Vec<DocumentView> = (0..len).map(|n| document(&format!("d-{n}"), 1)).collect();
            let mut roots = Roots::default();
            roots.note_own(1, &all);
            let mut names: Vec<&DocumentView> = all.iter().collect();
            names.sort_by(|a, b| a.key.cmp(&b.key));
            roots.used(digest_of(names[1..].iter().map(|one| &one.version.hash)), Some(1)).is_some()
        };
        assert!(search(SEARCHED_MAX) && !search(SEARCHED_MAX + 1));
    }

    #[test]
    fn one_root_more_than_are_kept_forgets_the_oldest() {
        let mut roots = Roots::default();
        let last = u64::try_from(ROOTS_KEPT).unwrap();
        let of = |root: u64| [document("orders", root + 1)];
        let known = |roots: &Roots, root: u64| roots.used(set(&of(root)), None).is_some();
        (0..last).for_each(|root| assert!(roots.note_own(root, &of(root))));
        assert!(known(&roots, 0));
        roots.note_own(last, &of(last));
        assert_eq!((known(&roots, 0), roots.own.len()), (false, ROOTS_KEPT));
        assert!(known(&roots, 1) && known(&roots, last));
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
