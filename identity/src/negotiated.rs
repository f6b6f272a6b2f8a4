//! The key exchange that was negotiated with each node at the last handshake. Both transports tell it here; people read it
//! beside members and certificates, so that what is promised (X25519MLKEM768) is what they see.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rustls::NamedGroup;
use starling_model::NodeName;

use crate::limits::GROUP_NODES_MAX;

/// What was negotiated last with whom.
#[derive(Debug, Default)]
pub struct Negotiated(Mutex<BTreeMap<NodeName, NamedGroup>>);

impl Negotiated {
    /// Keeps what was negotiated with a node that is proven; of more than [`GROUP_NODES_MAX`] nodes, which no mesh has,
    /// those that came first.
    pub fn note(&self, node: &NodeName, group: NamedGroup) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = groups.get_mut(node) {
            *held = group;
        } else if groups.len() < GROUP_NODES_MAX {
            groups.insert(node.clone(), group);
        }
    }

    /// The group of the last handshake with a node, e.g. `X25519MLKEM768`.
    #[must_use]
    pub fn with(&self, node: &NodeName) -> Option<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(node).map(|group| name_of(*group))
    }

    /// The groups of the last handshakes with all nodes, each once.
    #[must_use]
    pub fn groups(&self) -> Vec<&'static str> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<&'static str> = groups.values().map(|group| name_of(*group)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn name_of(group: NamedGroup) -> &'static str {
    group.as_str().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::name;

    #[test]
    fn the_last_group_with_a_node_counts_and_one_node_too_many_is_not_kept() {
        let negotiated = Negotiated::default();
        negotiated.note(&name("vm-0"), NamedGroup::X25519);
        negotiated.note(&name("vm-0"), NamedGroup::X25519MLKEM768);
        assert_eq!(negotiated.with(&name("vm-0")), Some("X25519MLKEM768"));
        for n in 1..=GROUP_NODES_MAX {
            negotiated.note(&name(&format!("vm-{n}")), NamedGroup::X25519);
        }
        assert_eq!(negotiated.with(&name(&format!("vm-{}", GROUP_NODES_MAX - 1))), Some("X25519"));
        assert_eq!(negotiated.with(&name(&format!("vm-{GROUP_NODES_MAX}"))), None);
        assert_eq!(negotiated.groups(), ["X25519", "X25519MLKEM768"]);
        negotiated.note(&name("vm-0"), NamedGroup::X25519);
        assert_eq!((negotiated.with(&name("vm-0")), negotiated.groups()), (Some("X25519"), vec!["X25519"]));
    }
}
