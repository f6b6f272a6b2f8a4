//! Whether the other end still answers: a ping after 1 s without an answer, no new streams 2 s later, closed after 15 s.

use std::time::{Duration, Instant};

/// Silence after something was sent that makes us ask.
pub const PING_AFTER: Duration = Duration::from_secs(1);

/// Silence after something was sent that keeps new streams away: a host that vanished is left within 3 s.
pub const STALLED_AFTER: Duration = Duration::from_secs(3);

/// Silence after something was sent that closes the connection: beyond every pause of a living host that we want to
/// survive, below the patience of a person.
pub const CLOSED_AFTER: Duration = Duration::from_secs(15);

/// A connection with streams and no traffic asks this often, so that a tunnel which only listens notices a dead host.
pub const PING_QUIET_STREAMS: Duration = Duration::from_secs(5);

/// A connection without streams asks this often, so that a kept one is usually alive when it is needed.
pub const PING_IDLE: Duration = Duration::from_secs(15);

const _: () = assert!(PING_AFTER.as_secs() < STALLED_AFTER.as_secs());
const _: () = assert!(STALLED_AFTER.as_secs() < CLOSED_AFTER.as_secs());

/// Clock readings of one connection.
#[derive(Debug)]
pub(super) struct Liveness {
    heard: Instant,
    /// When we sent something and had heard nothing since.
    waiting_since: Option<Instant>,
    pinged: bool,
}

/// What the time says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Nothing to do yet.
    Fine,
    /// Ask now.
    Ping,
    /// Nobody is there.
    Dead,
}

impl Liveness {
    pub(super) const fn new(now: Instant) -> Self {
        Self { heard: now, waiting_since: None, pinged: false }
    }

    /// Any byte is an answer.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.waiting_since = None;
        self.pinged = false;
    }

    /// Something left that a living peer answers, if only the ping that follows it.
    pub(super) const fn sent(&mut self, now: Instant) {
        if self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
    }

    /// No answer for so long that new streams should go elsewhere.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= STALLED_AFTER)
    }

    pub(super) fn check(&mut self, now: Instant, has_streams: bool) -> Pulse {
        let silent = match self.waiting_since {
            Some(since) => now.saturating_duration_since(since),
            None if now.saturating_duration_since(self.heard) >= quiet(has_streams) => {
                self.waiting_since = Some(now);
                self.pinged = true;
                return Pulse::Ping;
            }
            None => return Pulse::Fine,
        };
        if silent >= CLOSED_AFTER {
            return Pulse::Dead;
        }
        if silent >= PING_AFTER && !self.pinged {
            self.pinged = true;
            return Pulse::Ping;
        }
        Pulse::Fine
    }

    /// When `check` should be called next.
    pub(super) fn deadline(&self, has_streams: bool) -> Instant {
        match self.waiting_since {
            Some(since) if !self.pinged => later(since, PING_AFTER),
            Some(since) => later(since, CLOSED_AFTER),
            None => later(self.heard, quiet(has_streams)),
        }
    }
}

const fn quiet(has_streams: bool) -> Duration {
    if has_streams { PING_QUIET_STREAMS } else { PING_IDLE }
}

/// The end of time, if the clock has one, is late enough.
fn later(at: Instant, by: Duration) -> Instant {
    at.checked_add(by).unwrap_or(at)
}
