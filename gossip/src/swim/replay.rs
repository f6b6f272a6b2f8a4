//! Deadlines of one kind alone: how a simulator plays an agent of several threads, of which one hangs in a blocked send
//! while the timers of the others run on. Drivers never call these.

use std::time::Instant;

use super::{Swim, TIMERS_PER_TURN_MAX};
use crate::action::Wake;

impl Swim {
    /// Fires what is due for this reason and leaves everything else as it is.
    pub fn handle_timeout_of(&mut self, why: Wake, now: Instant) {
        for _ in 0..TIMERS_PER_TURN_MAX {
            let Some(timer) = self.timers.pop_due_of(why, now) else { break };
            self.fire(timer, now);
        }
        self.finish_turn(now);
    }

    /// The next deadline for this reason.
    #[must_use]
    pub fn poll_timeout_of(&self, why: Wake) -> Option<Instant> {
        self.timers.next_of(why)
    }
}
