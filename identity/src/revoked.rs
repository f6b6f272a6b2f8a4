//! [`Revoked`]: whose certificates prove nothing any more.

use std::collections::{BTreeMap, BTreeSet};

use starling_model::NodeName;

/// The issuing keys that are out, by node: all of a node's keys but those that its revocation keeps. Made anew from the
/// revocations in force whenever one comes; it only grows, because they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked(BTreeMap<NodeName, BTreeSet<[u8; 32]>>);

impl Revoked {
    /// From each revocation in force: its node, and the SHA-256 of the SPKI of each issuing key that it keeps. Where one
    /// node has several, only what all of them keep stays.
    #[must_use]
    pub fn new(revocations: impl IntoIterator<Item = (NodeName, Vec<[u8; 32]>)>) -> Self {
        let mut nodes: BTreeMap<NodeName, BTreeSet<[u8; 32]>> = BTreeMap::new();
        for (node, kept) in revocations {
            let kept: BTreeSet<[u8; 32]> = kept.into_iter().collect();
            nodes.entry(node).and_modify(|held| held.retain(|key| kept.contains(key))).or_insert(kept);
        }
        Self(nodes)
    }

    /// The same with the nodes of `held` that are not among these.
    #[must_use]
    pub fn beside(mut self, held: &Self) -> Self {
        for (node, kept) in &held.0 {
            self.0.entry(node.clone()).or_insert_with(|| kept.clone());
        }
        self
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

    #[test]
    fn of_several_revocations_of_a_node_only_what_all_keep_stays() {
        let name = |text: &str| NodeName::new(text).unwrap();
        for turn in [false, true] {
            let mut both = vec![(name("vm-7"), vec![[1; 32], [2; 32]]), (name("vm-7"), vec![[2; 32], [3; 32]])];
            if turn {
                both.reverse();
            }
            let revoked = Revoked::new(both);
            let held = [1, 2, 3].map(|key| revoked.holds(&name("vm-7"), &[key; 32]));
            assert_eq!(held, [true, false, true]);
        }
    }

    #[test]
    fn who_was_out_stays_out_beside_newcomers_and_a_newer_word_on_a_node_counts() {
        let name = |text: &str| NodeName::new(text).unwrap();
        let held = Revoked::new([(name("vm-7"), Vec::new()), (name("vm-8"), Vec::new())]);
        let revoked = Revoked::new([(name("vm-8"), vec![[1; 32]]), (name("vm-9"), Vec::new())]).beside(&held);
        assert!(revoked.holds(&name("vm-7"), &[1; 32]) && revoked.holds(&name("vm-9"), &[1; 32]));
        assert!(!revoked.holds(&name("vm-8"), &[1; 32]));
    }
}
