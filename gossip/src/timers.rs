//! One table of deadlines. A timer is named by what it is about; setting it again replaces it, so a deadline whose
//! cause has moved on cannot fire.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use starling_model::NodeName;

use crate::action::Wake;

/// What a deadline is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Before everything else at the same instant: it reads who was acked.
    ProbeVerdict(u64),
    ProbeDirect(u64),
    ProbeTick,
    RelayNack(u64),
    RelayEnd(u64),
    Ping(u64),
    Verification(NodeName),
    Suspicion(NodeName),
    Forward,
    Gossip,
    AntiEntropy,
    /// Acks showed other documents.
    Agreement,
    /// A batch becomes overdue.
    Batches,
    /// A document does not come: the next one who has it is asked.
    Fetches,
    /// What a peer told of its trust bundle came too soon after another word.
    Bundles,
    /// Our root over documents and trust moved: linked peers hear of it.
    Roots,
    /// Trust changed: what was judged by the former one is asked again.
    Rejudging,
    OwnRecords,
    Links,
    /// One random link is replaced.
    Rotate,
    Heal,
    Isolation,
    Leave,
    Sweep,
}

impl Timer {
    /// The reason as the driver sees it.
    pub(crate) fn wake(&self) -> Wake {
        match self {
            Self::ProbeVerdict(_) => Wake::ProbeVerdict,
            Self::ProbeDirect(_) => Wake::ProbeDirect,
            Self::ProbeTick => Wake::ProbeTick,
            Self::RelayNack(_) | Self::RelayEnd(_) => Wake::Relay,
            Self::Ping(_) => Wake::Ping,
            Self::Verification(_) => Wake::Verification,
            Self::Suspicion(_) => Wake::Suspicion,
            Self::Forward => Wake::Forward,
            Self::Gossip => Wake::Gossip,
            Self::AntiEntropy | Self::Agreement | Self::Roots | Self::Fetches | Self::Bundles => Wake::AntiEntropy,
            Self::OwnRecords => Wake::OwnRecords,
            Self::Links | Self::Rotate => Wake::Links,
            Self::Heal => Wake::Heal,
            Self::Isolation => Wake::Isolation,
            Self::Leave => Wake::Leave,
            Self::Batches | Self::Rejudging | Self::Sweep => Wake::Sweep,
        }
    }

    /// True for deadlines that measure somebody else's silence: a pause of our own must not run them down.
    fn measures_silence(&self) -> bool {
        match self {
            Self::ProbeVerdict(_) | Self::ProbeDirect(_) | Self::Ping(_) | Self::Suspicion(_) => true,
            Self::ProbeTick
            | Self::RelayNack(_)
            | Self::RelayEnd(_)
            | Self::Verification(_)
            | Self::Forward
            | Self::Gossip
            | Self::AntiEntropy
            | Self::Agreement
            | Self::Batches
            | Self::Fetches
            | Self::Bundles
            | Self::Roots
            | Self::Rejudging
            | Self::OwnRecords
            | Self::Links
            | Self::Rotate
            | Self::Heal
            | Self::Isolation
            | Self::Leave
            | Self::Sweep => false,
        }
    }
}

/// All deadlines, by time and by name.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<Timer, Instant>,
    order: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.cancel(&timer);
        self.order.insert((at, timer.clone()));
        self.at.insert(timer, at);
    }

    /// Sets a deadline unless an earlier one stands.
    pub(crate) fn set_earlier(&mut self, timer: Timer, at: Instant) {
        if self.at.get(&timer).is_none_or(|held| at < *held) {
            self.set(timer, at);
        }
    }

    pub(crate) fn cancel(&mut self, timer: &Timer) {
        if let Some(at) = self.at.remove(timer) {
            self.order.remove(&(at, timer.clone()));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.at.clear();
        self.order.clear();
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<(Instant, Wake)> {
        self.order.first().map(|(at, timer)| (*at, timer.wake()))
    }

    /// Takes the earliest deadline that is not after `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, timer) = self.order.pop_first()?;
        self.at.remove(&timer);
        Some(timer)
    }

    /// The next deadline for this reason. Looks at all of them.
    pub(crate) fn next_of(&self, why: Wake) -> Option<Instant> {
        self.order.iter().find(|(_, timer)| timer.wake() == why).map(|(at, _)| *at)
    }

    /// Takes the earliest deadline for this reason that is not after `now`. Looks at all of them.
    pub(crate) fn pop_due_of(&mut self, why: Wake, now: Instant) -> Option<Timer> {
        let due = self.order.iter().take_while(|(at, _)| *at <= now).find(|(_, timer)| timer.wake() == why);
        let timer = due.map(|(_, timer)| timer.clone())?;
        self.cancel(&timer);
        Some(timer)
    }

    /// How long the earliest deadline is over.
    pub(crate) fn lateness(&self, now: Instant) -> Duration {
        self.order.first().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }

    /// After a pause of our own: whoever was silent meanwhile had nobody to talk to.
    pub(crate) fn forgive(&mut self, pause: Duration) {
        let late: Vec<Timer> = self.at.keys().filter(|timer| timer.measures_silence()).cloned().collect();
        for timer in late {
            if let Some(at) = self.at.get(&timer).copied() {
                self.set(timer, at + pause);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::base;

    #[test]
    fn a_timer_that_was_set_again_fires_once_and_later() {
        let (t0, second) = (base(), Duration::from_secs(1));
        let mut timers = Timers::default();
        timers.set(Timer::Gossip, t0 + second);
        timers.set(Timer::Gossip, t0 + 2 * second);
        timers.set(Timer::Sweep, t0 + 3 * second);
        timers.set_earlier(Timer::Sweep, t0 + 4 * second);
        assert_eq!(timers.next(), Some((t0 + 2 * second, Wake::Gossip)));
        assert_eq!(timers.pop_due(t0 + second), None);
        assert_eq!(timers.pop_due(t0 + 5 * second), Some(Timer::Gossip));
        assert_eq!(timers.pop_due(t0 + 5 * second), Some(Timer::Sweep));
        assert_eq!(timers.pop_due(t0 + 5 * second), None);
    }

    #[test]
    fn deadlines_of_one_kind_can_be_taken_alone() {
        let (t0, second) = (base(), Duration::from_secs(1));
        let mut timers = Timers::default();
        timers.set(Timer::Gossip, t0 + second);
        timers.set(Timer::ProbeVerdict(2), t0 + 2 * second);
        timers.set(Timer::ProbeVerdict(3), t0 + 3 * second);
        assert_eq!(timers.next_of(Wake::ProbeVerdict), Some(t0 + 2 * second));
        assert_eq!(timers.pop_due_of(Wake::ProbeVerdict, t0 + second), None);
        assert_eq!(timers.pop_due_of(Wake::ProbeVerdict, t0 + 2 * second), Some(Timer::ProbeVerdict(2)));
        assert_eq!(timers.pop_due_of(Wake::ProbeVerdict, t0 + 2 * second), None);
        assert_eq!(timers.next(), Some((t0 + second, Wake::Gossip)));
    }

    #[test]
    fn a_pause_of_our_own_moves_only_what_measures_silence() {
        let (t0, second) = (base(), Duration::from_secs(1));
        let mut timers = Timers::default();
        timers.set(Timer::ProbeVerdict(1), t0);
        timers.set(Timer::Gossip, t0);
        timers.forgive(3 * second);
        assert_eq!(timers.pop_due(t0 + second), Some(Timer::Gossip));
        assert_eq!(timers.next(), Some((t0 + 3 * second, Wake::ProbeVerdict)));
    }
}
