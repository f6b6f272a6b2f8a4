//! The shrinking timeout of a suspicion (Lifeguard, IV-B; memberlist's rounding): one accuser alone must wait long, since
//! it may be the slow one; with each independent confirmation the end comes nearer, logarithmically.

use std::time::{Duration, Instant};

use starling_model::{Life, NodeName};

use crate::config::SwimConfig;
use crate::limits::ACCUSERS_PER_SUSPICION_MAX;

/// Bounds of all suspicions at the mesh's present size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Shortest time, once enough others confirm.
    pub(crate) min: Duration,
    /// Longest time, with one accuser.
    pub(crate) max: Duration,
    /// Confirmations that lead from the one to the other.
    pub(crate) k: u32,
}

impl Window {
    /// `alpha x max(1, log10(N)) x interval`, the scale cut to three decimals, and its multiple. `members` counts us.
    pub(crate) fn among(config: &SwimConfig, members: usize) -> Self {
        let min = minimum(config.suspicion_alpha, config.probe_interval, members).max(config.pause_tolerated);
        // With fewer than k members besides the accuser and the accused, nobody could confirm.
        let witnesses = u32::try_from(members.saturating_sub(2)).unwrap_or(u32::MAX);
        let k = if witnesses < config.confirmations { 0 } else { config.confirmations };
        Self { min, max: min * config.suspicion_beta, k }
    }

    /// The whole length of a suspicion with `n` confirmations.
    pub(crate) fn length(&self, n: u32) -> Duration {
        if self.k == 0 {
            return self.min;
        }
        let fraction = f64::from(n + 1).ln() / f64::from(self.k + 1).ln();
        let seconds = self.max.as_secs_f64() - fraction * (self.max.as_secs_f64() - self.min.as_secs_f64());
        // Negative once n exceeds k: then the minimum holds.
        let floored = Duration::try_from_secs_f64((seconds * 1000.0).floor() / 1000.0).unwrap_or(Duration::ZERO);
        floored.max(self.min)
    }
}

fn minimum(alpha: u32, interval: Duration, members: usize) -> Duration {
    // The count is at most 10,000, far below what f64 holds exactly.
    let count = f64::from(u32::try_from(members).unwrap_or(u32::MAX));
    let scale = count.max(1.0).log10().max(1.0);
    Duration::try_from_secs_f64((scale * 1000.0).floor() / 1000.0)
        .map_or(interval * alpha, |scale| mul(interval * alpha, scale))
}

/// `duration x scale`, the scale given as seconds with three decimals, in whole numbers.
fn mul(duration: Duration, scale: Duration) -> Duration {
    let thousandths = u32::try_from(scale.as_millis()).unwrap_or(u32::MAX);
    duration.saturating_mul(thousandths) / 1000
}

/// One running suspicion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspicion {
    /// The accused life.
    pub(crate) life: Life,
    /// Who doubts, the first accuser first.
    pub(crate) accusers: Vec<NodeName>,
    /// Accusers that said so to us themselves; a relayed name is no proof.
    pub(crate) proven: Vec<NodeName>,
    /// When it began here.
    pub(crate) start: Instant,
    /// When one of our own probe ladders against this life failed, if any did.
    pub(crate) own_failure: Option<Instant>,
    /// Own ladders in a row that failed while their helpers were silent too.
    pub(crate) inconclusive: u32,
    /// Its time is over, but our own verdict is still open.
    pub(crate) expired: bool,
    /// Somebody called the member dead: our own failed ladder is enough.
    pub(crate) called_dead: bool,
    /// It was told that one of our own probes was answered meanwhile.
    pub(crate) answered: bool,
    /// It was told that the verdict is held.
    pub(crate) held: bool,
    window: Window,
}

impl Suspicion {
    pub(crate) fn new(life: Life, accuser: NodeName, window: Window, now: Instant) -> Self {
        let accusers = vec![accuser];
        Self {
            life,
            accusers,
            proven: Vec::new(),
            start: now,
            own_failure: None,
            inconclusive: 0,
            expired: false,
            called_dead: false,
            answered: false,
            held: false,
            window,
        }
    }

    /// Counts one more accuser; false when it adds nothing (known, or enough already).
    pub(crate) fn confirm(&mut self, accuser: &NodeName) -> bool {
        let enough = self.confirmations() >= self.window.k || self.accusers.len() >= ACCUSERS_PER_SUSPICION_MAX;
        if enough || self.accusers.contains(accuser) {
            return false;
        }
        self.accusers.push(accuser.clone());
        true
    }

    /// This accuser stands by it.
    pub(crate) fn prove(&mut self, accuser: &NodeName) {
        if self.proven.len() < ACCUSERS_PER_SUSPICION_MAX && !self.proven.contains(accuser) {
            self.proven.push(accuser.clone());
        }
    }

    fn confirmations(&self) -> u32 {
        u32::try_from(self.accusers.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// When it ends as things stand; may lie in the past.
    pub(crate) fn deadline(&self) -> Instant {
        self.start + self.window.length(self.confirmations())
    }

    /// The shortest time it can last.
    pub(crate) fn min(&self) -> Duration {
        self.window.min
    }

    /// A pause of our own does not count.
    pub(crate) fn forgive(&mut self, pause: Duration) {
        self.start += pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{base, node};

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn window(k: u32, min: u64, max: u64) -> Window {
        Window { min: MS(min), max: MS(max), k }
    }

    /// Unit vector V1 (memberlist's tables): what is left after t, in ms, negative when it is over.
    #[test]
    fn the_time_left_shrinks_with_confirmations() {
        let check = |n: u32, elapsed: i64, want: i64| {
            let length = i64::try_from(window(3, 2_000, 30_000).length(n).as_millis()).unwrap();
            assert_eq!(length - elapsed, want, "n {n}");
        };
        check(0, 0, 30_000);
        check(1, 2_000, 14_000);
        check(2, 3_000, 4_810);
        check(3, 4_000, -2_000);
        check(4, 5_000, -3_000);
        check(5, 10_000, -8_000);
    }

    /// Unit vector V2 (memberlist's tables).
    #[test]
    fn only_distinct_accusers_confirm() {
        let mut suspicion = Suspicion::new(Life::default(), node("first"), window(3, 500, 2_000), base());
        let mut check = |accuser: &str, counts: bool, want: u64| {
            assert_eq!(suspicion.confirm(&node(accuser)), counts, "{accuser}");
            assert_eq!(suspicion.deadline() - base(), MS(want), "{accuser}");
        };
        check("first", false, 2_000);
        check("a", true, 1_250);
        check("a", false, 1_250);
        check("b", true, 811);
        check("c", true, 500);
        check("d", false, 500);
    }

    /// Unit vector V3 (memberlist's tables): at three intervals of one second, divided by three.
    #[test]
    fn the_minimum_grows_with_the_logarithm() {
        let check = |members: usize, want: u64| {
            assert_eq!(minimum(3, Duration::from_secs(1), members) / 3, MS(want), "{members} members");
        };
        check(5, 1_000);
        check(10, 1_000);
        check(50, 1_698);
        check(100, 2_000);
        check(500, 2_698);
        check(1000, 3_000);
    }

    /// Unit vector V7 (memberlist's tables); the count includes ourselves.
    #[test]
    fn in_a_tiny_mesh_nobody_could_confirm() {
        let config = SwimConfig {
            suspicion_alpha: 5,
            suspicion_beta: 2,
            confirmations: 3,
            probe_interval: MS(100),
            pause_tolerated: MS(0),
            ..SwimConfig::lan()
        };
        let check = |members: usize, n: u32, want: u64| {
            assert_eq!(Window::among(&config, members).length(n), MS(want), "{members} members, {n} confirmations");
        };
        for members in 2..=4 {
            check(members, 0, 500);
        }
        check(5, 0, 1_000);
        check(6, 0, 1_000);
        check(6, 1, 750);
        check(6, 2, 603);
        check(6, 3, 500);
        check(6, 4, 500);
    }
}
