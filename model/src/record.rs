//! Owner-signed records: the at most three things a node says about itself, each always full.

use crate::document::DocumentVersion;
use crate::endpoint::{Labels, Protocol, Readiness, Weight};
use crate::life::BootEpoch;
use crate::mesh::Digest;
use crate::names::{InstanceName, PortName, ServiceKey};

/// Which of an owner's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// What the node offers ([`ServicesRecord`]); sharded when large.
    Services,
    /// Readiness of what it offers ([`HealthRecord`]).
    Health,
    /// The node's own condition ([`StatusRecord`]).
    Status,
    /// A kind of a newer release: verified, kept and forwarded byte for byte, never read.
    Unknown(u8),
}

impl RecordKind {
    /// The kind's byte on the wire.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Services => 1,
            Self::Health => 2,
            Self::Status => 3,
            Self::Unknown(byte) => byte,
        }
    }

    /// Every byte is a kind.
    #[must_use]
    pub fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Services,
            2 => Self::Health,
            3 => Self::Status,
            other => Self::Unknown(other),
        }
    }
}

/// Order of an owner's records of one kind: epochs first, then the count within the epoch. No clock takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordVersion {
    /// The owner's boot epoch when it wrote the record.
    pub epoch: BootEpoch,
    /// Rises by one with each write.
    pub version: u64,
}

/// One instance that a node announces: one port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Unique on the node.
    pub instance: InstanceName,
    /// What it is an instance of.
    pub service: ServiceKey,
    /// Which port of the service it serves.
    pub port: PortName,
    /// What it speaks.
    pub protocol: Protocol,
    /// Choose subsets and localities.
    pub labels: Labels,
    /// Its share among instances.
    pub weight: Weight,
}

/// Everything a node announces, ordered by instance name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesRecord {
    /// At most 256.
    pub instances: Vec<Announcement>,
}

/// Readiness of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEntry {
    /// Which instance of the owner.
    pub instance: InstanceName,
    /// What its owner says of it.
    pub readiness: Readiness,
}

/// Readiness of all of a node's instances; one that is not listed counts as unready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthRecord {
    /// Ordered by instance name.
    pub entries: Vec<HealthEntry>,
}

/// A node's own condition, for `members` and `status` elsewhere. Default values cost no write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusRecord {
    /// Release of the agent, e.g. `0.1.0`.
    pub release: String,
    /// The node's labels (zone, rack).
    pub labels: Labels,
    /// How many documents are in use there.
    pub documents: u32,
    /// Their digest.
    pub digest: Digest,
    /// Sequence of the trust bundle in use.
    pub bundle_sequence: u64,
    /// True when the node derives its identity from a shared issuer (ST0604).
    pub shared_issuer: bool,
    /// End of the node's issuing certificate, Unix seconds.
    pub certificate_not_after: u64,
    /// End of the leaf in use, Unix seconds.
    pub leaf_not_after: u64,
    /// Head of the hash of the root that its chain ends in.
    pub root: [u8; 4],
    /// How many documents of the mesh it does not use as the mesh has them.
    pub held_back_count: u32,
    /// The first of these, at most [`HELD_BACK_TOLD_MAX`](crate::limits::HELD_BACK_TOLD_MAX).
    pub held_back: Vec<HeldDocument>,
}

/// A document that a node does not use as the mesh has it. It is named by its hash: whoever holds it knows which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldDocument {
    /// The version of the mesh; of one that is deleted in the mesh and still used, that one.
    pub hash: Digest,
    /// What is used in its place.
    pub used: Option<DocumentVersion>,
    /// Why.
    pub why: HeldWhy,
}

/// Why a document is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldWhy {
    /// That release cannot read it.
    Unreadable,
    /// Quarantined: compiling panicked.
    Panicked,
    /// Quarantined: compiling did not end in time.
    TimedOut,
    /// Quarantined: the agent ended while it was tried.
    Crashed,
    /// It would take the last endpoint from a service with traffic.
    Empties,
    /// It was not tried yet.
    Untried,
    /// A reason of a newer release.
    Unknown(u8),
}

impl HeldWhy {
    /// The reason's byte on the wire.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Unreadable => 1,
            Self::Panicked => 2,
            Self::TimedOut => 3,
            Self::Crashed => 4,
            Self::Empties => 5,
            Self::Untried => 6,
            Self::Unknown(byte) => byte,
        }
    }

    /// Every byte is a reason.
    #[must_use]
    pub fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Unreadable,
            2 => Self::Panicked,
            3 => Self::TimedOut,
            4 => Self::Crashed,
            5 => Self::Empties,
            6 => Self::Untried,
            other => Self::Unknown(other),
        }
    }

    /// True for contents with which no table came about there.
    #[must_use]
    pub fn is_quarantine(self) -> bool {
        match self {
            Self::Panicked | Self::TimedOut | Self::Crashed => true,
            Self::Unreadable | Self::Empties | Self::Untried | Self::Unknown(_) => false,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
            Self::Empties => "empties",
            Self::Untried => "untried",
            Self::Unknown(_) => "unknown",
        }
    }
}
