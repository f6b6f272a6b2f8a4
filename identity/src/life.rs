//! When a node makes its next leaf: a timer without a clock. Nothing but time is asked, no issuer and no operator, so a mesh
//! lives as long as its node certificates do.

use std::time::Duration;

use crate::time::UnixTime;

/// Time from one leaf to the next, before the spread: a leaf of 24 h is renewed with 18 h left, which is how long a node may
/// fail to renew it before anybody is refused.
pub const LEAF_INTERVAL: Duration = Duration::from_secs(6 * 3_600);

/// When the next leaf is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafTimer {
    interval_seconds: u64,
    made: UnixTime,
}

impl LeafTimer {
    /// For a leaf made at `made`. Nodes that started together must not renew together: the interval is `mean`, give or take
    /// 10 %, by `spread` from 0 to 1. A spread outside of it counts as the nearer end.
    #[must_use]
    pub fn new(made: UnixTime, mean: Duration, spread: f64) -> Self {
        let spread = if spread.is_finite() { spread.clamp(0.0, 1.0) } else { 0.5 };
        Self { interval_seconds: mean.mul_f64(0.9 + 0.2 * spread).as_secs().max(1), made }
    }

    /// True when a new leaf is to be made: after the interval, or when the clock stands before the moment at which the leaf
    /// in use was made, for then that moment was wrong and the leaf's dates with it.
    #[must_use]
    pub fn is_due(&self, now: UnixTime) -> bool {
        now < self.made || now >= self.made.plus(self.interval_seconds)
    }

    /// One was made.
    pub fn made(&mut self, now: UnixTime) {
        self.made = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Mesh, NOW};
    use crate::time::DAY_SECONDS;
    use crate::verify::{Expected, verify_peer};

    /// How often a node looks at the clock.
    const TICK_SECONDS: usize = 60;

    #[test]
    fn a_leaf_is_renewed_after_its_interval_give_or_take_a_tenth() {
        let check = |spread: f64, due_after: u64| {
            let timer = LeafTimer::new(NOW, LEAF_INTERVAL, spread);
            assert!(!timer.is_due(NOW.plus(due_after - 1)) && timer.is_due(NOW.plus(due_after)), "{spread}");
        };
        check(0.0, 19_440);
        check(0.5, 21_600);
        check(1.0, 23_760);
        check(7.0, 23_760);
        check(f64::NAN, 21_600);
        let mut timer = LeafTimer::new(NOW, LEAF_INTERVAL, 0.5);
        timer.made(NOW.plus(21_600));
        assert!(!timer.is_due(NOW.plus(21_600 + 21_599)));
    }

    #[test]
    fn a_clock_that_was_set_back_renews_at_once_and_a_long_sleep_too() {
        let timer = LeafTimer::new(NOW, LEAF_INTERVAL, 0.5);
        assert!(!timer.is_due(NOW) && timer.is_due(NOW.minus(1)) && timer.is_due(NOW.plus(30 * DAY_SECONDS)));
    }

    /// 45 days without any operator or issuer: nothing but this node's own key makes leaves, and a peer takes it at every
    /// look, with its clock a day ahead or behind.
    #[test]
    fn a_mesh_lives_for_45_days_without_operator_and_issuer() {
        let (trust, node) = {
            let mesh = Mesh::new("prod.internal");
            // A certificate at the end of the half of its life after which its renewal is due.
            let issued = mesh.ca.issue_node(&crate::fixtures::name("web-1"), 46, NOW).unwrap();
            let key = crate::node::new_record_key();
            let (chain, issuing) = (&issued.chain_pem, &issued.issuing_key_pem);
            let node = crate::node::NodeIdentity::load(&mesh.made.bundle, chain, issuing, &key, NOW).unwrap();
            (mesh.trust, node)
        };
        let mut timer = LeafTimer::new(NOW, LEAF_INTERVAL, 0.8);
        let (mut leaf, mut made) = (node.mint_leaf(NOW).unwrap(), 1_u32);
        let mut least_left = u64::MAX;
        for at in (0..45 * DAY_SECONDS).step_by(TICK_SECONDS) {
            let now = NOW.plus(at);
            if timer.is_due(now) {
                let next = node.mint_leaf(now).unwrap();
                assert_ne!(next.chain[0], leaf.chain[0]);
                (leaf, made) = (next, made + 1);
                timer.made(now);
            }
            least_left = least_left.min(now.until(leaf.not_after).as_secs());
            if at % 3_600 == 0 {
                let judge = |clock: UnixTime| verify_peer(&leaf.chain, Expected::Exactly(node.node()), &trust, clock);
                let peer = judge(now).unwrap_or_else(|refused| panic!("{now}: {refused}"));
                assert_eq!(&peer.node, node.node());
                // Clocks that differ by what is promised: 17 h ahead, a day behind what was back-dated.
                assert!(judge(now.plus(17 * 3_600)).is_ok() && judge(now.minus(17 * 3_600)).is_ok(), "{now}");
            }
        }
        assert!((163..=201).contains(&made), "{made} leaves in 45 days");
        assert!(least_left >= 17 * 3_600, "{least_left} s were left at the worst moment");
    }

    /// The same for the 182 days of half a certificate's life.
    #[test]
    fn half_a_certificates_life_needs_nobody() {
        let mesh = Mesh::new("prod.internal");
        let node = mesh.node("web-1");
        for day in 0..182 {
            let now = NOW.plus(day * DAY_SECONDS);
            let leaf = node.mint_leaf(now).unwrap();
            assert_eq!(leaf.not_after, now.plus(DAY_SECONDS), "day {day}: a whole leaf");
        }
    }
}
