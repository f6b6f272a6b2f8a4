//! The last handshake with each node: which key exchange was negotiated, and when the node proved itself. Both transports tell
//! it here. People read the one beside members and certificates, so that what is promised (X25519MLKEM768) is what they see;
//! the other ends old connections of a node that proves itself nowhere any more.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rustls::NamedGroup;
use starling_model::NodeName;

use crate::limits::{HANDSHAKES_MAX, PROVED_WITHIN};

#[derive(Clone, Copy, Debug)]
struct Handshake {
    group: NamedGroup,
    at: Instant,
}

/// What was negotiated last with whom, and when.
#[derive(Debug, Default)]
pub struct Negotiated(Mutex<BTreeMap<NodeName, Handshake>>);

impl Negotiated {
    /// Keeps what was negotiated with a node that is proven now; of more than [`HANDSHAKES_MAX`] nodes those that proved
    /// themselves last.
    pub fn note(&self, node: &NodeName, group: NamedGroup, now: Instant) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let handshake = Handshake { group, at: now };
        if let Some(held) = nodes.get_mut(node) {
            *held = handshake;
            return;
        }
        if nodes.len() >= HANDSHAKES_MAX
            && let Some(oldest) = nodes.iter().min_by_key(|(_, last)| last.at).map(|(name, _)| name.clone())
        {
            nodes.remove(&oldest);
        }
        nodes.insert(node.clone(), handshake);
    }

    /// False once a node has not proved itself on any connection for [`PROVED_WITHIN`]: what runs on its old ones rests on
    /// certificates that it could not show again. True for nodes of which nothing is kept.
    #[must_use]
    pub fn is_fresh(&self, node: &NodeName, now: Instant) -> bool {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(node).is_none_or(|last| now.saturating_duration_since(last.at) <= PROVED_WITHIN)
    }

    /// The group of the last handshake with a node, e.g. `X25519MLKEM768`.
    #[must_use]
    pub fn with(&self, node: &NodeName) -> Option<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(node).map(|last| name_of(last.group))
    }

    /// The groups of the last handshakes with all nodes, each once.
    #[must_use]
    pub fn groups(&self) -> Vec<&'static str> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<&'static str> = nodes.values().map(|last| name_of(last.group)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn name_of(group: NamedGroup) -> &'static str {
    group.as_str().unwrap_or("unknown")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests begin at some moment")]
mod tests {
    use super::*;
    use crate::fixtures::name;

    #[test]
    fn the_last_group_with_a_node_counts_and_of_too_many_those_that_came_last() {
        let (negotiated, now) = (Negotiated::default(), Instant::now());
        negotiated.note(&name("vm-0"), NamedGroup::X25519, now);
        negotiated.note(&name("vm-0"), NamedGroup::X25519MLKEM768, now);
        assert_eq!(
            (negotiated.with(&name("vm-0")), negotiated.groups()),
            (Some("X25519MLKEM768"), vec!["X25519MLKEM768"])
        );
        let second = std::time::Duration::from_secs(1);
        for n in 1..HANDSHAKES_MAX {
            negotiated.note(&name(&format!("vm-{n}")), NamedGroup::X25519, now + second);
        }
        assert_eq!(negotiated.groups(), ["X25519", "X25519MLKEM768"]);
        negotiated.note(&name("vm-one-more"), NamedGroup::X25519, now + second);
        assert_eq!((negotiated.with(&name("vm-0")), negotiated.with(&name("vm-one-more"))), (None, Some("X25519")));
    }

    #[test]
    fn a_node_is_fresh_for_a_day_behind_its_last_proof() {
        let (negotiated, now) = (Negotiated::default(), Instant::now());
        let vm = name("vm-0");
        assert!(negotiated.is_fresh(&vm, now), "nothing is known of it");
        negotiated.note(&vm, NamedGroup::X25519MLKEM768, now);
        let second = std::time::Duration::from_secs(1);
        assert!(negotiated.is_fresh(&vm, now + PROVED_WITHIN));
        assert!(!negotiated.is_fresh(&vm, now + PROVED_WITHIN + second));
        negotiated.note(&vm, NamedGroup::X25519MLKEM768, now + second);
        assert!(negotiated.is_fresh(&vm, now + PROVED_WITHIN + second));
    }
}
