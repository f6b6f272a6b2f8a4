//! What a chain says of a bundle that somebody brings as a file.
//!
//! A file proves nothing by itself: after the first update neither its mesh id nor the signature of a root that it brings
//! along ties it to the mesh. What is held does: it is one of the chain, it follows it or wins a fork of it as an update would
//! ([`BundleChain::merge`]), or a root of the newest bundle signed it, which ends a gap that a file cannot fill.

use super::{BundleChain, Merged};
use crate::bundle::TrustBundle;

/// How a bundle stands to the chain that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The chain knows it, or loses nothing to it: the chain stays.
    Known,
    /// It takes the place of the newest bundle.
    Newer,
    /// Nothing that is held speaks for it.
    Unproven,
}

impl BundleChain {
    /// The installed bundle, and what is stored of the updates that follow it. Stored bundles that do not follow from it count
    /// for nothing, whoever wrote them.
    #[must_use]
    pub fn from_installed(installed: TrustBundle, stored: &[Vec<u8>]) -> Self {
        let mut chain = Self::new(installed);
        for raw in stored {
            // What comes before the installed one hangs on nothing here, and what is damaged proves nothing.
            let _ = chain.merge(&[raw]);
        }
        chain
    }

    /// The chain as it was stored, its oldest bundle believed; `None` where there is none.
    #[must_use]
    pub fn of_stored(stored: &[Vec<u8>]) -> Option<Self> {
        let (oldest, updates) = stored.split_first()?;
        Some(Self::from_installed(TrustBundle::read_unjudged(oldest).ok()?, updates))
    }

    /// How `offered` stands to this chain.
    #[must_use]
    pub fn standing(&self, offered: &TrustBundle) -> Standing {
        let mut tried = self.clone();
        match tried.merge(&[offered.raw()]) {
            Ok(Merged::Extended | Merged::Switched(_)) if tried.head() != self.head() => Standing::Newer,
            Ok(_) => Standing::Known,
            Err(_) if !self.newest().has_signed(offered) => Standing::Unproven,
            Err(_) if offered.sequence > self.newest().sequence => Standing::Newer,
            Err(_) => Standing::Known,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chain, update};
    use super::*;
    use crate::fixtures::Mesh;

    #[test]
    fn a_bundle_counts_only_as_what_is_held_speaks_for_it() {
        let mesh = Mesh::new("prod.internal");
        let held = chain(&mesh, "ab");
        let check = |what: &str, offered: &TrustBundle, want| assert_eq!(held.standing(offered), want, "{what}");
        check("the newest", held.newest(), Standing::Known);
        check("its ancestor", &mesh.made.bundle, Standing::Known);
        check("the next one by an admin", &update(&mesh, held.newest(), b'c', false), Standing::Newer);
        check("a fork that loses", &update(&mesh, &mesh.made.bundle, b'x', false), Standing::Known);
        check("a fork that wins by the root", &update(&mesh, &mesh.made.bundle, b'r', true), Standing::Newer);
        let (far, far_by_admin) = (chain(&mesh, "vwxyr"), chain(&mesh, "vwxyz"));
        check("beyond a gap, signed by a root that is held", far.newest(), Standing::Newer);
        check("beyond a gap, signed by an admin", far_by_admin.newest(), Standing::Unproven);
        check("behind a gap, signed by a root that is held", chain(&mesh, "xr").newest(), Standing::Known);
    }

    /// Whoever makes a root of his own can write any mesh id and any sequence into a bundle that stands by itself.
    #[test]
    fn a_bundle_of_a_foreign_root_with_our_mesh_id_is_unproven() {
        let (mesh, eve) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
        let forged = |sequence: u64, previous: [u8; 32]| {
            let made = eve.made.bundle.next(
                |bundle| {
                    bundle.mesh_id = mesh.made.bundle.mesh_id;
                    (bundle.sequence, bundle.previous) = (sequence, previous);
                },
                &crate::bundle::BundleSigner::Root {
                    at: 0,
                    key: &crate::keys::EcKey::from_pem(&eve.made.root_key_pem).unwrap(),
                },
            );
            TrustBundle::parse(&made.unwrap().to_file()).unwrap()
        };
        let held = chain(&mesh, "a");
        for (sequence, previous) in [(2, [0; 32]), (3, held.head().hash), (9, [7; 32]), (2, mesh.made.bundle.hash())] {
            let offered = forged(sequence, previous);
            assert_eq!(offered.mesh_id, mesh.made.bundle.mesh_id, "the fingerprint that people compared before");
            assert!(!offered.is_named_by_its_root() && mesh.made.bundle.is_named_by_its_root());
            assert_eq!(held.standing(&offered), Standing::Unproven, "sequence {sequence}");
        }
    }

    #[test]
    fn stored_updates_count_as_far_as_they_follow_from_the_installed_bundle() {
        let (mesh, eve) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
        let ours = chain(&mesh, "abc");
        let stored = ours.to_stored();
        assert_eq!(BundleChain::from_installed(mesh.made.bundle.clone(), &stored).head(), ours.head());
        let middle = TrustBundle::read_unjudged(&stored[2]).unwrap();
        assert_eq!(BundleChain::from_installed(middle, &stored).head(), ours.head(), "from the middle on");
        let foreign = chain(&eve, "abcd").to_stored();
        let held = BundleChain::from_installed(mesh.made.bundle.clone(), &foreign);
        assert_eq!(
            BundleChain::of_stored(&foreign).map(|chain| chain.standing(ours.newest())),
            Some(Standing::Unproven)
        );
        assert!(BundleChain::of_stored(&[]).is_none() && BundleChain::of_stored(&[vec![1]]).is_none());
        assert_eq!(held.newest().hash(), mesh.made.bundle.hash(), "whoever owns the folder makes nobody an author");
    }
}
