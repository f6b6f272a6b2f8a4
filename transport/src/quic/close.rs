//! Why connections end: what one side says on the wire, and what the other makes of it.

use quinn::{ConnectionError, VarInt};

use super::table::End;
use crate::error::DialError;

/// Why a pair is no longer connected. None of it is a verdict on the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DownReason {
    /// The peer closed because it leaves.
    Left,
    /// The peer has no more need of the connection.
    Evicted,
    /// The peer's process is new: a stateless reset, or a hello of another instance.
    Reset,
    /// Silence for the idle time.
    TimedOut,
    /// The peer refused us.
    Refused,
    /// The peer is of another mesh, or speaks no common version.
    Foreign,
    /// We closed it.
    Local,
    /// Anything else.
    Other,
}

impl DownReason {
    /// All of them, in the order of [`NetStats::ended`](super::NetStats::ended).
    pub const ALL: [Self; 8] = [
        Self::Left,
        Self::Evicted,
        Self::Reset,
        Self::TimedOut,
        Self::Refused,
        Self::Foreign,
        Self::Local,
        Self::Other,
    ];

    /// One word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Evicted => "evicted",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Foreign => "foreign",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

impl DialError {
    /// The same, for those who only care about the connection.
    #[must_use]
    pub fn as_down(&self) -> DownReason {
        match self {
            Self::Timeout => DownReason::TimedOut,
            Self::Unreachable(_) | Self::OurCertificate(_) | Self::OtherProtocol => DownReason::Refused,
            Self::PeerCertificate(_) | Self::OtherMesh(_) | Self::NoCommonVersion { .. } | Self::OurOwnName(_) => {
                DownReason::Foreign
            }
            Self::NotDialled(_) => DownReason::Local,
            Self::Handshake(_) | Self::Closed(_) => DownReason::Other,
        }
    }
}

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// Why one side closes a connection, as said on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CloseCode {
            $($(#[$doc])* $name,)*
        }

        impl CloseCode {
            pub(super) const fn number(self) -> VarInt {
                VarInt::from_u32(match self {
                    $(Self::$name => $number,)*
                })
            }

            pub(super) const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            pub(super) const fn word(self) -> &'static [u8] {
                self.text().as_bytes()
            }

            pub(super) fn of(number: VarInt) -> Option<Self> {
                match number.into_inner() {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

close_codes! {
    /// This node leaves; its signed leave has gone out before.
    Leaving = 1, "leaving";
    /// The link is not needed.
    Evicted = 2, "evicted";
    /// Answers are missing: a fresh connection is to replace this one.
    Stale = 3, "stale";
    /// Another connection of this pair stays.
    Duplicate = 4, "duplicate";
    /// The agent stops, without leaving.
    Shutdown = 5, "shutdown";
    /// The hello named another mesh.
    OtherMesh = 6, "other mesh";
    /// The hello had no version in common.
    NoCommonVersion = 7, "no common version";
    /// Too many connections.
    Busy = 8, "busy";
    /// Not a word of this protocol.
    Malformed = 9, "malformed";
    /// The peer's key is revoked.
    Revoked = 10, "revoked";
    /// A question about trust has its answer.
    Answered = 11, "answered";
    /// What the peer showed leads to no root any more.
    Untrusted = 12, "untrusted";
}

/// What the end of a connection means for the pair.
pub(super) fn end_of(error: &ConnectionError) -> End {
    let reason = match error {
        ConnectionError::ApplicationClosed(close) => match CloseCode::of(close.error_code) {
            Some(CloseCode::Duplicate) => return End::Duplicate,
            Some(CloseCode::Leaving) => DownReason::Left,
            Some(CloseCode::Evicted) => DownReason::Evicted,
            Some(CloseCode::OtherMesh | CloseCode::NoCommonVersion) => DownReason::Foreign,
            Some(CloseCode::Busy | CloseCode::Revoked | CloseCode::Untrusted) => DownReason::Refused,
            Some(CloseCode::Stale | CloseCode::Shutdown | CloseCode::Malformed | CloseCode::Answered) | None => {
                DownReason::Other
            }
        },
        ConnectionError::Reset => DownReason::Reset,
        ConnectionError::TimedOut => DownReason::TimedOut,
        ConnectionError::LocallyClosed => DownReason::Local,
        ConnectionError::ConnectionClosed(_) => DownReason::Refused,
        ConnectionError::VersionMismatch | ConnectionError::TransportError(_) | ConnectionError::CidsExhausted => {
            DownReason::Other
        }
    };
    End::Down(reason)
}
