//! The life of the agent from the outside: starting, ready, draining, gone; and who asked it to stop.
//!
//! The ordered end itself stands in `run.rs`; every step of it is bounded, so that the whole takes at most
//! [`STOP_DEADLINE`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Longest ordered end; then the process ends anyway.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long others get to hear that our instances drain, before our data plane says `goaway`.
pub const DRAIN_SPREAD: Duration = Duration::from_millis(400);
/// How long requests in flight may take to finish.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(6);
/// How long the signed leave may take to reach peers.
pub const LEAVE_DEADLINE: Duration = Duration::from_secs(2);

/// Where the agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Waits for its first view of the mesh.
    Starting,
    /// Serves.
    Ready,
    /// Finishes what it has; nothing new.
    Draining,
    /// Has left, or could not in time.
    Gone,
}

impl Phase {
    /// The word of `status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }
}

/// How the leave went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Peers that confirmed it.
    pub acknowledged: usize,
}

/// Shared by everybody who looks at the phase or asks for the end.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    stop: watch::Sender<Option<String>>,
    left: watch::Sender<Option<Left>>,
    waiting_for: Arc<Mutex<Vec<String>>>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Starting),
            stop: watch::Sender::new(None),
            left: watch::Sender::new(None),
            waiting_for: Arc::new(Mutex::new(vec!["the first exchange with a peer".to_owned()])),
        }
    }
}

impl Lifecycle {
    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a later phase; never back. Returns whether anything changed.
    pub fn advance(&self, phase: Phase) -> bool {
        let advanced = self.phase.send_if_modified(|current| {
            let later = phase > *current;
            if later {
                *current = phase;
            }
            later
        });
        if advanced {
            let reasons = match phase {
                Phase::Starting | Phase::Ready => Vec::new(),
                Phase::Draining => vec!["it is draining before it leaves".to_owned()],
                Phase::Gone => vec!["it has left".to_owned()],
            };
            *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = reasons;
        }
        advanced
    }

    /// Why the agent is not ready; empty when it is.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the phase is `phase` or later.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|current| *current >= phase).await;
    }

    /// Asks for the ordered end. The first cause counts.
    pub fn stop(&self, cause: &str) {
        self.stop.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(cause.to_owned());
            }
            first
        });
    }

    /// Waits until somebody asks for the end; returns the cause.
    pub async fn stopped(&self) -> String {
        match self.stop.subscribe().wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Tells how the leave went. The first word counts.
    pub fn tell_left(&self, left: Left) {
        self.left.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(left);
            }
            first
        });
    }

    /// How the leave went, once it is done.
    #[must_use]
    pub fn left(&self) -> Option<Left> {
        *self.left.borrow()
    }

    /// Waits until the leave is done.
    pub async fn leave_done(&self) -> Left {
        match self.left.subscribe().wait_for(Option::is_some).await {
            Ok(left) => left.unwrap_or_default(),
            Err(_) => Left::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_never_go_back_and_the_first_cause_counts() {
        let life = Lifecycle::default();
        assert!(!life.waiting_for().is_empty());
        assert!(life.advance(Phase::Ready));
        assert!(life.waiting_for().is_empty());
        assert!(life.advance(Phase::Draining));
        assert!(!life.advance(Phase::Ready));
        assert_eq!((life.phase(), life.waiting_for().len()), (Phase::Draining, 1));
        life.reached(Phase::Ready).await;
        life.stop("one");
        life.stop("two");
        assert_eq!(life.stopped().await, "one");
        life.tell_left(Left { acknowledged: 2 });
        life.tell_left(Left { acknowledged: 0 });
        assert_eq!(life.leave_done().await.acknowledged, 2);
    }
}
