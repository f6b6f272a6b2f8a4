//! Alarms: what a person should look at.

use starling_model::{Code, NodeName, codes};

use super::operators::{OperatorClaim, Void};

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Two agents live under one name and identity (a cloned disk). `quiet` is true when it is our own name and we
    /// are the one that stays silent.
    DuplicateIdentity {
        /// The name.
        name: NodeName,
        /// True when this node announces nothing because of it.
        quiet: bool,
    },
    /// We have just started, and another agent answers under our name: we stay outside.
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// A table is full; newcomers or new state are refused.
    TableFull,
    /// One member accuses more than a healthy one would.
    AccuserOverCap {
        /// Who.
        accuser: NodeName,
    },
    /// A peer brought a word of an operator whose signature counts for nothing here. It may relay it in good faith: its
    /// trust may be older or newer than ours.
    WordRefused {
        /// Who brought it.
        from: NodeName,
        /// What it is.
        kind: OperatorClaim,
        /// Why it counts for nothing.
        why: Void,
    },
    /// An own record does not fit and is announced in part or not at all.
    OwnRecordTooLarge,
}

impl Alarm {
    /// The catalogue's entry, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::DuplicateIdentity { .. } => Some(codes::DUPLICATE_IDENTITY),
            Self::NameTaken { .. } => Some(codes::NAME_TAKEN),
            Self::WordRefused { why: Void::UnknownKey | Void::BadSignature, .. } => Some(codes::SIGNATURE_INVALID),
            Self::WordRefused { why: Void::Role, .. } => Some(codes::ROLE_MISSING),
            Self::TableFull | Self::AccuserOverCap { .. } | Self::OwnRecordTooLarge => None,
        }
    }
}
