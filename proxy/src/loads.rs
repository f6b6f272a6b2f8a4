//! What this node's own traffic knows of each endpoint: in flight, latency, failures. Atomics that survive table swaps.
//!
//! Kept by [`EndpointIndex`], which is stable while the endpoint exists. An index that passes to another endpoint comes
//! with another birth, and its slot starts afresh. Any number of threads write; a pick reads the few candidates it looks
//! at. Nothing here waits.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use starling_model::MemberState;
use starling_routing::{Endpoint, EndpointIndex, Load, PeakEwma, RouteTable};

use crate::limits::{ENDPOINTS_MAX, FAILING_FIRST, FAILING_MAX, FAILING_TIMED_OUT};

/// Slots allocated at a time; a small mesh uses one such block (16 KiB).
const BLOCK: usize = 256;
const BLOCKS: usize = ENDPOINTS_MAX / BLOCK;

/// For how long an agent that starts learns of endpoints that are not new: joining a mesh takes a few seconds.
const SETTLING: Duration = Duration::from_secs(10);

/// See [`Slot::was_out`].
const UNSEEN: u32 = 0;
const OUT: u32 = 1;
const IN: u32 = 2;

/// Times are milliseconds since `base`, plus one: 0 is never.
#[derive(Debug, Default)]
struct Slot {
    birth: AtomicU64,
    ewma: AtomicU64,
    failing_until: AtomicU64,
    last_success: AtomicU64,
    in_flight: AtomicU32,
    failures: AtomicU32,
    /// The worst member state seen since the last good one: a node that came back is tried at once.
    was_gone: AtomicU32,
    /// Not to be used when last looked at, or never looked at.
    was_out: AtomicU32,
    /// Since when it may be used; 0: so long that nobody remembers.
    ready_since: AtomicU64,
    /// Turns that were taken, where this endpoint counts them.
    turns: AtomicU32,
}

/// How a connection attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// At once: refused, reset, unreachable.
    Quick,
    /// After the whole deadline.
    TimedOut,
}

/// All slots.
#[derive(Debug)]
pub struct Loads {
    blocks: Vec<OnceLock<Box<[Slot]>>>,
    base: Instant,
    /// The first turn of all: agents that start together do not all begin at the same endpoint.
    first_turn: u32,
    /// Endpoints beyond the last slot; they are balanced as if they had no load.
    beyond: AtomicU64,
}

impl Default for Loads {
    fn default() -> Self {
        Self::new()
    }
}

impl Loads {
    /// Without any load.
    #[must_use]
    pub fn new() -> Self {
        let mut blocks = Vec::new();
        blocks.resize_with(BLOCKS, OnceLock::new);
        // The standard library's own entropy: it needs to differ, not to be secret.
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let first_turn = RandomState::new().hash_one(0u8) as u32;
        Self { blocks, base: Instant::now(), first_turn, beyond: AtomicU64::new(0) }
    }

    /// Fits the slots to a table that is about to be published at `now`: an endpoint new under its index starts afresh, one
    /// whose node came back is no longer held to be failing, and one that may be used from now on is new. What is found
    /// while the agent itself is new has been there before it.
    pub fn adopt(&self, table: &RouteTable, now: Instant) {
        let settling = now.saturating_duration_since(self.base) < SETTLING;
        for service in table.services() {
            for endpoint in &service.endpoints {
                let Some(slot) = self.slot(endpoint.index) else { continue };
                slot.adopt(endpoint.birth);
                let gone = match endpoint.member {
                    MemberState::Joining | MemberState::Suspect | MemberState::Dead | MemberState::Left => true,
                    MemberState::Alive => false,
                };
                let before = slot.was_gone.swap(u32::from(gone), Ordering::Relaxed) == 1;
                if before && !gone {
                    slot.failing_until.store(0, Ordering::Relaxed);
                    slot.failures.store(0, Ordering::Relaxed);
                }
                // A suspicion comes and goes, and its traffic went on.
                let out = !endpoint.admissible() || endpoint.member == MemberState::Dead;
                let was_out = slot.was_out.swap(if out { OUT } else { IN }, Ordering::Relaxed) != IN;
                if was_out && !out {
                    let since = if settling { 0 } else { self.millis(now) };
                    slot.ready_since.store(since, Ordering::Relaxed);
                }
            }
        }
    }

    /// What a pick reads.
    #[must_use]
    pub fn load(&self, index: EndpointIndex, now: Instant) -> Load {
        let Some(slot) = self.peek(index) else { return Load::default() };
        Load {
            latency: PeakEwma::unpack(slot.ewma.load(Ordering::Relaxed)).read(self.short(now)),
            in_flight: slot.in_flight.load(Ordering::Relaxed),
            failing_until: self.instant(slot.failing_until.load(Ordering::Relaxed)),
            last_success: self.instant(slot.last_success.load(Ordering::Relaxed)),
            ready_since: self.instant(slot.ready_since.load(Ordering::Relaxed)),
            turn: self.first_turn.wrapping_add(slot.turns.load(Ordering::Relaxed)),
        }
    }

    /// A turn was taken that this endpoint counts.
    pub fn turned(&self, counter: EndpointIndex) {
        if let Some(slot) = self.peek(counter) {
            slot.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a request or connection until its [`Self::end`].
    pub fn begin(&self, endpoint: &Endpoint) {
        if let Some(slot) = self.slot(endpoint.index) {
            slot.adopt(endpoint.birth);
            slot.in_flight.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request or connection to the endpoint of this birth is over.
    pub fn end(&self, index: EndpointIndex, birth: u64) {
        if let Some(slot) = self.peek(index).filter(|slot| slot.is(birth)) {
            // Never below zero, even if a new endpoint took over and gave back in between.
            let less = |n: u32| n.checked_sub(1);
            let _ = slot.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// An answer came, after `latency`.
    pub fn succeeded(&self, endpoint: &Endpoint, latency: Duration, now: Instant) {
        let Some(slot) = self.slot(endpoint.index).filter(|slot| slot.is(endpoint.birth)) else { return };
        let at = self.short(now);
        let feed = |word| Some(PeakEwma::unpack(word).observe(latency, at).pack());
        let _ = slot.ewma.fetch_update(Ordering::Relaxed, Ordering::Relaxed, feed);
        slot.last_success.store(self.millis(now), Ordering::Relaxed);
        // Stores to shared lines cost even when they change nothing.
        if slot.failures.load(Ordering::Relaxed) != 0 {
            slot.failures.store(0, Ordering::Relaxed);
            slot.failing_until.store(0, Ordering::Relaxed);
        }
    }

    /// A first byte came back on a tunnel, or on a stream that was only just opened: it answers, however fast.
    pub fn reached(&self, endpoint: &Endpoint, now: Instant) {
        let Some(slot) = self.slot(endpoint.index).filter(|slot| slot.is(endpoint.birth)) else { return };
        slot.last_success.store(self.millis(now), Ordering::Relaxed);
        slot.failures.store(0, Ordering::Relaxed);
        slot.failing_until.store(0, Ordering::Relaxed);
    }

    /// No connection came about, or it broke before an answer.
    pub fn failed(&self, endpoint: &Endpoint, failure: Failure, now: Instant) {
        let Some(slot) = self.slot(endpoint.index).filter(|slot| slot.is(endpoint.birth)) else { return };
        let failures = slot.failures.fetch_add(1, Ordering::Relaxed).min(8);
        let wait = match failure {
            Failure::Quick => (FAILING_FIRST * 2u32.pow(failures)).min(FAILING_MAX),
            Failure::TimedOut => FAILING_TIMED_OUT,
        };
        slot.last_success.store(0, Ordering::Relaxed);
        slot.failing_until.store(self.millis(now + wait), Ordering::Relaxed);
    }

    /// Endpoints that were met and have no slot.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        self.beyond.load(Ordering::Relaxed)
    }

    fn peek(&self, index: EndpointIndex) -> Option<&Slot> {
        let at = index.0 as usize;
        self.blocks.get(at / BLOCK)?.get()?.get(at % BLOCK)
    }

    fn slot(&self, index: EndpointIndex) -> Option<&Slot> {
        let at = index.0 as usize;
        let Some(block) = self.blocks.get(at / BLOCK) else {
            self.beyond.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        block.get_or_init(|| (0..BLOCK).map(|_| Slot::default()).collect()).get(at % BLOCK)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    #[expect(clippy::cast_possible_truncation, reason = "the average counts in wrapping milliseconds")]
    fn short(&self, at: Instant) -> u32 {
        self.millis(at) as u32
    }

    fn instant(&self, millis: u64) -> Option<Instant> {
        millis.checked_sub(1).and_then(|millis| self.base.checked_add(Duration::from_millis(millis)))
    }
}

impl Slot {
    fn is(&self, birth: u64) -> bool {
        self.birth.load(Ordering::Relaxed) == birth
    }

    /// Starts afresh when the endpoint is another one. Two threads that race here both mean the same endpoint.
    fn adopt(&self, birth: u64) {
        if self.is(birth) || self.birth.swap(birth, Ordering::Relaxed) == birth {
            return;
        }
        self.ewma.store(0, Ordering::Relaxed);
        self.failing_until.store(0, Ordering::Relaxed);
        self.last_success.store(0, Ordering::Relaxed);
        self.in_flight.store(0, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.was_out.store(UNSEEN, Ordering::Relaxed);
        self.ready_since.store(0, Ordering::Relaxed);
        self.turns.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
