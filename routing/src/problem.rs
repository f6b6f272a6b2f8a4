//! What of the documents in use does not come out as written, in the words of the Gateway API's conditions.
//!
//! A finding never stops a table: the rest of its document counts, and what it speaks of answers as the standard says.

use std::fmt;

use starling_config::Problem;
use starling_model::DocumentKey;
use starling_model::codes::Code;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whose.
    pub document: DocumentKey,
    /// The condition's reason.
    pub reason: Reason,
    /// Code, sentence, and the pointer to the value.
    pub problem: Problem,
}

impl Finding {
    pub(crate) fn new(
        document: &DocumentKey,
        (reason, code): (Reason, Code),
        pointer: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let problem = Problem { pointer: Some(pointer.into()), ..Problem::new(code, message) };
        Self { document: document.clone(), reason, problem }
    }
}

/// Reasons of the conditions `Accepted` and `ResolvedRefs` (Gateway API v1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Not accepted: another document has the place.
    Conflicted,
    /// Not accepted: no such parent, port or section.
    NoMatchingParent,
    /// Not accepted: the listener takes no routes of this kind, or of this namespace.
    NotAllowedByListeners,
    /// Not accepted: the listener and the route hold for no name in common.
    NoMatchingListenerHostname,
    /// Not accepted: this release does not have it.
    UnsupportedValue,
    /// A reference to a kind that is not known here.
    InvalidKind,
    /// A reference to a service, port or subset that is not there.
    BackendNotFound,
    /// A reference to another namespace, which nobody there permits.
    RefNotPermitted,
    /// A reference to a port that speaks something else.
    UnsupportedProtocol,
    /// What a grant names is not there (`PolicyConditionReason`).
    TargetNotFound,
}

impl Reason {
    /// As conditions write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflicted => "Conflicted",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::NotAllowedByListeners => "NotAllowedByListeners",
            Self::NoMatchingListenerHostname => "NoMatchingListenerHostname",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::InvalidKind => "InvalidKind",
            Self::BackendNotFound => "BackendNotFound",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::TargetNotFound => "TargetNotFound",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
