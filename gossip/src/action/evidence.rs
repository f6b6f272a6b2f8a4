//! Why a member is held to be what it is: each step from the first doubt to its end, typed, so that a person can be told
//! the whole chain. Emitted when something changes, never for a healthy probe; of one suspicion at most a fixed number
//! of steps (its accusers are capped), so a storm of doubts cannot become a storm of evidence.

use std::time::{Duration, Instant};

use starling_model::{BootEpoch, Life, MemberState, NodeName};

use super::DownReason;

/// One step in the story of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Whom it is about; ourselves for [`Step::Answered`].
    pub subject: NodeName,
    /// Which life of it.
    pub life: Life,
    /// What happened.
    pub step: Step,
}

/// How an accuser's word came to us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// We are the accuser: our own probes failed.
    Own,
    /// The accuser said so on its own connection.
    Direct,
    /// This member passed it on; nothing proves that the accuser said it.
    Relayed(NodeName),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first accuser: a suspicion began.
    Suspected {
        /// Who.
        by: NodeName,
        /// How we know.
        word: Word,
        /// When it ends unless refuted or confirmed.
        until: Instant,
    },
    /// A further accuser: the end came nearer.
    Confirmed {
        /// Who.
        by: NodeName,
        /// How we know.
        word: Word,
        /// When it ends now.
        until: Instant,
    },
    /// One of our own probes failed on every path.
    ProbeFailed(ProbeTrail),
    /// While it was doubted, one of our own probes was answered. Only the member's own word ends the doubt.
    ProbeAnswered {
        /// On which path.
        path: Reach,
    },
    /// Somebody holds it dead; our own failed probe decides.
    CalledDead {
        /// Who.
        by: NodeName,
        /// How we know.
        word: Word,
    },
    /// Its time is over, but so many fell silent at once that we rather doubt ourselves.
    Held,
    /// It answered by a higher life.
    Refuted {
        /// The doubted life.
        before: Life,
        /// Who had doubted, the first accuser first.
        accusers: Vec<NodeName>,
        /// How long the suspicion lasted here.
        lasted: Duration,
    },
    /// Declared dead.
    Failed {
        /// Who doubted, the first accuser first.
        accusers: Vec<NodeName>,
        /// How long the suspicion lasted here.
        lasted: Duration,
        /// When the own probe that decided failed; `None` where own probes do not decide.
        own_failure: Option<Instant>,
    },
    /// Its agent is new: the old life is over, without a doubt.
    Restarted {
        /// Epoch of the old life.
        before: BootEpoch,
        /// What we held of that life.
        held: MemberState,
    },
    /// Somebody doubted us, and we answered by this higher life.
    Answered {
        /// Who doubted.
        by: NodeName,
        /// How we know.
        word: Word,
    },
}

impl Step {
    /// The name of the step, for traces and programs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Suspected { .. } => "suspected",
            Self::Confirmed { .. } => "confirmed",
            Self::ProbeFailed(_) => "probe_failed",
            Self::ProbeAnswered { .. } => "probe_answered",
            Self::CalledDead { .. } => "called_dead",
            Self::Held => "held",
            Self::Refuted { .. } => "refuted",
            Self::Failed { .. } => "failed",
            Self::Restarted { .. } => "restarted",
            Self::Answered { .. } => "answered",
        }
    }
}

/// Which path brought an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// A datagram on our connection.
    Datagram,
    /// A stream of our connection.
    Stream,
    /// A datagram of this relay, on whose word it rests.
    Relay(NodeName),
}

/// What became of one path of a failed probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathResult {
    /// Not tried: there was no connection for it, or a connection made a dial needless.
    Unused,
    /// Tried, and no answer came.
    Silent,
    /// The dial ended with this.
    Broken(DownReason),
}

/// What a relay said of a failed probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RelayResult {
    /// It got no answer either, and said so: our path to the relay works.
    Nack,
    /// It said nothing.
    Silent,
}

/// All paths of one failed probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTrail {
    /// When it began.
    pub began: Instant,
    /// The ping as a datagram.
    pub datagram: PathResult,
    /// The ping on a stream of the same connection.
    pub stream: PathResult,
    /// A dial, where no connection was open.
    pub dial: PathResult,
    /// Each member that was asked to ping it; at most [`crate::SwimConfig::indirect_probes`].
    pub relays: Vec<(NodeName, RelayResult)>,
    /// How slow we were ourselves; 0 is healthy.
    pub health_score: u8,
}
