//! Which documents the table in use is made of, for everybody else: what a node says that it uses must be what it uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use starling_gossip::DocumentView;
use starling_model::{Digest, DocumentKey, DocumentVersion, ServiceKey};
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
    /// Reading it, or compiling a table with it, did not end in time. It is not tried again by this agent.
    TimedOut,
    /// The agent ended twice while it was tried. It is not tried again by this release.
    Crashed,
    /// It would take the last endpoint from a service with traffic. Tried again until it does not.
    Empties(ServiceKey),
    /// It was not tried yet: too many compile steps hang. Tried again.
    Waiting,
}

impl Why {
    /// True where trying it again is of no use while this agent runs.
    #[must_use]
    pub fn is_quarantine(&self) -> bool {
        match self {
            Self::Panicked | Self::TimedOut | Self::Crashed => true,
            Self::Unreadable | Self::Empties(_) | Self::Waiting => false,
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
            (used != Some(view.version)).then(|| (view.key.clone(), HeldBack { used, why: why(&view.key) }))
        });
        let keys: BTreeSet<&DocumentKey> = meant.iter().map(|view| &view.key).collect();
        // Deleted in the mesh, and still used here.
        let kept = used.iter().filter(|one| !keys.contains(&one.document.key)).map(|one| {
            let key = one.document.key.clone();
            let why = why(&key);
            (key, HeldBack { used: Some(one.version), why })
        });
        Self { digest: used.digest(), documents: used.len(), held_back: others.chain(kept).collect() }
    }

    /// Documents whose contents are quarantined here.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.held_back.values().filter(|held| held.why.is_quarantine()).count()
    }
}
