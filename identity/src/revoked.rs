//! [`Revoked`]: whose certificates prove nothing any more.

use std::collections::{BTreeMap, BTreeSet};

use starling_model::NodeName;

/// The issuing keys that are out, by node: all of a node's keys but those that its revocation keeps. Made anew from the
/// revocations in force whenever one comes; it only grows, because they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked(BTreeMap<NodeName, BTreeSet<[u8; 32]>>);

impl Revoked {
    /// From each revocation in force: its node, and the SHA-256 of the SPKI of each issuing key that it keeps.
    #[must_use]
    pub fn new(revocations: impl IntoIterator<Item = (NodeName, Vec<[u8; 32]>)>) -> Self {
        Self(revocations.into_iter().map(|(node, kept)| (node, kept.into_iter().collect())).collect())
    }

    /// True when this issuing key of this node is out.
    #[must_use]
    pub fn holds(&self, node: &NodeName, issuing_key_hash: &[u8; 32]) -> bool {
        self.0.get(node).is_some_and(|kept| !kept.contains(issuing_key_hash))
    }

    /// Revoked nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.0.keys()
    }

    /// True when nobody is out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_hits_all_keys_but_the_kept() {
        let name = |text: &str| NodeName::new(text).unwrap();
        let revoked = Revoked::new([(name("vm-7"), Vec::new()), (name("vm-8"), vec![[1; 32]])]);
        assert!(revoked.holds(&name("vm-7"), &[1; 32]));
        assert!(revoked.holds(&name("vm-8"), &[2; 32]));
        assert!(!revoked.holds(&name("vm-8"), &[1; 32]));
        assert!(!revoked.holds(&name("vm-9"), &[1; 32]));
        assert!(Revoked::default().is_empty() && !revoked.is_empty());
        assert_eq!(revoked.nodes().count(), 2);
    }
}
