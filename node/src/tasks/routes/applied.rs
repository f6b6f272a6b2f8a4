//! Which documents the table in use is made of, for everybody else: what a node says that it uses must be what it uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use starling_gossip::DocumentView;
use starling_model::limits::HELD_BACK_TOLD_MAX;
use starling_model::{Digest, DocumentKey, DocumentVersion, HeldDocument, HeldWhy, ServiceKey};
use starling_routing::Documents;

/// Where the newest one is.
pub type AppliedCell = Arc<ArcSwap<Applied>>;

/// The documents of the table in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Their digest.
    pub digest: Digest,
    /// How many they are.
    pub documents: usize,
    /// Documents of the mesh that are held back here (ST0414).
    pub held_back: BTreeMap<DocumentKey, HeldBack>,
}

/// One document that is not used as the mesh has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The version that the mesh uses; `None`: it is deleted.
    pub meant: Option<DocumentVersion>,
    /// The version that is used in its place; `None`: it has no effect here.
    pub used: Option<DocumentVersion>,
    /// Why.
    pub why: Why,
}

/// Why a document is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// This release cannot read it.
    Unreadable,
    /// Reading it, or compiling a table with it, panicked. It is not tried again by this agent.
    Panicked,
    /// Reading it, or compiling a table with it, did not end in time. It is tried again if that step ends after all.
    TimedOut,
    /// The agent ended twice while it was tried. It is tried again once the agent has been up for long.
    Crashed,
    /// It would take the last endpoint from a service with traffic. Tried again until it does not.
    Empties(ServiceKey),
    /// It was not tried yet: too many compile steps hang. Tried again.
    Waiting,
    /// It was not tried yet: others that its key signed hang. Tried again later, at growing intervals.
    Delayed,
}

impl Why {
    /// True for contents with which no table came about.
    #[must_use]
    pub fn is_quarantine(&self) -> bool {
        match self {
            Self::Panicked | Self::TimedOut | Self::Crashed => true,
            Self::Unreadable | Self::Empties(_) | Self::Waiting | Self::Delayed => false,
        }
    }

    /// What other members are told.
    #[must_use]
    pub fn told(&self) -> HeldWhy {
        match self {
            Self::Unreadable => HeldWhy::Unreadable,
            Self::Panicked => HeldWhy::Panicked,
            Self::TimedOut => HeldWhy::TimedOut,
            Self::Crashed => HeldWhy::Crashed,
            Self::Empties(_) => HeldWhy::Empties,
            Self::Waiting | Self::Delayed => HeldWhy::Untried,
        }
    }

    /// True for one that was not tried with what there is now.
    #[must_use]
    pub fn is_untried(&self) -> bool {
        match self {
            Self::Waiting | Self::Delayed => true,
            Self::Unreadable | Self::Panicked | Self::TimedOut | Self::Crashed | Self::Empties(_) => false,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("this agent cannot read it"),
            Self::Panicked => f.write_str("no route table comes about with it (panic); it is quarantined"),
            Self::TimedOut => f.write_str("no route table comes about with it within 5 s; it is quarantined"),
            Self::Crashed => f.write_str("the agent ended twice while it was tried; it is quarantined"),
            Self::Empties(service) => {
                write!(f, "it would take the last endpoint from service {service}, which has traffic")
            }
            Self::Waiting => f.write_str("it is not tried: too many compile steps hang"),
            Self::Delayed => {
                f.write_str("it is not tried yet: compile steps with other documents of its signer did not end in time")
            }
        }
    }
}

impl Applied {
    /// `used` of those that the mesh uses, and why the others are not.
    #[must_use]
    pub fn new(meant: &[DocumentView], used: &Documents, why: &BTreeMap<DocumentKey, Why>) -> Self {
        let why = |key: &DocumentKey| why.get(key).cloned().unwrap_or(Why::Waiting);
        let others = meant.iter().filter_map(|view| {
            let used = used.get(&view.key).map(|used| used.version);
            let held = || HeldBack { meant: Some(view.version), used, why: why(&view.key) };
            (used != Some(view.version)).then(|| (view.key.clone(), held()))
        });
        let keys: BTreeSet<&DocumentKey> = meant.iter().map(|view| &view.key).collect();
        // Deleted in the mesh, and still used here.
        let kept = used.iter().filter(|one| !keys.contains(&one.document.key)).map(|one| {
            let key = one.document.key.clone();
            let why = why(&key);
            (key, HeldBack { meant: None, used: Some(one.version), why })
        });
        Self { digest: used.digest(), documents: used.len(), held_back: others.chain(kept).collect() }
    }

    /// What of it the own status tells: the first ones, those that are quarantined before all others.
    #[must_use]
    pub fn told(&self) -> Vec<HeldDocument> {
        let mut all: Vec<(bool, HeldDocument)> = self
            .held_back
            .values()
            .filter_map(|held| {
                let hash = held.meant.or(held.used)?.hash;
                Some((!held.why.is_quarantine(), HeldDocument { hash, used: held.used, why: held.why.told() }))
            })
            .collect();
        all.sort_by_key(|(is_other, _)| *is_other);
        all.into_iter().map(|(_, held)| held).take(HELD_BACK_TOLD_MAX).collect()
    }

    /// Documents whose contents are quarantined here.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.held_back.values().filter(|held| held.why.is_quarantine()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh_view::tests::document;

    #[test]
    fn a_status_names_what_is_quarantined_first_and_one_more_is_only_counted() {
        let version = |name: &str, generation| document(name, generation).version;
        let held = |at: usize, why: Why| {
            let name = format!("d-{at}");
            let (meant, used) = (Some(version(&name, 2)), Some(version(&name, 1)));
            (document(&name, 2).key, HeldBack { meant, used, why })
        };
        let mut held_back: BTreeMap<_, _> = (0..HELD_BACK_TOLD_MAX).map(|at| held(at, Why::Waiting)).collect();
        held_back.extend([held(HELD_BACK_TOLD_MAX, Why::TimedOut)]);
        let gone = HeldBack { meant: None, used: Some(version("z", 7)), why: Why::Panicked };
        held_back.insert(document("z", 7).key, gone);
        let told = Applied { held_back, ..Applied::default() }.told();
        assert_eq!(told.len(), HELD_BACK_TOLD_MAX);
        let first: Vec<_> = told[..3].iter().map(|held| (held.hash, held.why)).collect();
        let want = [
            (version(&format!("d-{HELD_BACK_TOLD_MAX}"), 2).hash, HeldWhy::TimedOut),
            (version("z", 7).hash, HeldWhy::Panicked),
            (version("d-0", 2).hash, HeldWhy::Untried),
        ];
        assert_eq!(first, want);
    }
}
