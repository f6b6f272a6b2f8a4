//! May this outcome be tried on another endpoint? One function, so that live traffic and explanations agree.

use crate::policy::{Origin, Policy};

/// How one try ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryOutcome {
    /// No connection to the peer, or it was lost before the request went out: nothing was processed.
    NotSent,
    /// The peer or its instance refused the stream: nothing was processed.
    Refused,
    /// The connection broke after the request went out and before a response byte came.
    Broken {
        /// GET, HEAD, OPTIONS or TRACE without a body (RFC 9110, 9.2.1): a second run changes nothing.
        safe: bool,
    },
    /// No response head in time.
    TimedOut,
    /// A response byte was seen, or part of the body is gone.
    Begun,
}

/// What comes after a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTry {
    /// Pick another endpoint, avoiding those that were tried.
    Elsewhere,
    /// Answer the caller.
    GiveUp,
}

/// Judges try number `tries` (the first is 1).
#[must_use]
pub fn next_try(outcome: TryOutcome, tries: u32, policy: &Policy) -> NextTry {
    let tries_max = policy.tries_max.value;
    // After bytes were sent one further pick, unless a retry block says how many.
    let broken_max = match policy.tries_max.origin {
        Origin::BuiltIn => tries_max.min(2),
        Origin::Rule => tries_max,
    };
    let again = match outcome {
        TryOutcome::NotSent | TryOutcome::Refused => tries < tries_max,
        // Only where a second run is harmless.
        TryOutcome::Broken { safe } => safe && tries < broken_max,
        TryOutcome::TimedOut | TryOutcome::Begun => false,
    };
    if again { NextTry::Elsewhere } else { NextTry::GiveUp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_processed_or_is_safe_is_tried_again() {
        let check = |outcome, tries, want| assert_eq!(next_try(outcome, tries, &Policy::BUILT_IN), want, "{outcome:?}");
        check(TryOutcome::NotSent, 1, NextTry::Elsewhere);
        check(TryOutcome::NotSent, 2, NextTry::Elsewhere);
        check(TryOutcome::NotSent, 3, NextTry::GiveUp);
        check(TryOutcome::Refused, 1, NextTry::Elsewhere);
        check(TryOutcome::Broken { safe: true }, 1, NextTry::Elsewhere);
        check(TryOutcome::Broken { safe: true }, 2, NextTry::GiveUp);
        check(TryOutcome::Broken { safe: false }, 1, NextTry::GiveUp);
        check(TryOutcome::TimedOut, 1, NextTry::GiveUp);
        check(TryOutcome::Begun, 1, NextTry::GiveUp);
    }
}
