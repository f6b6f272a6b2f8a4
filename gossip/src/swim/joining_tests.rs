//! Coming in through a seed that has no room, and what acks advise while a mesh changes.

use std::time::Instant;

use super::Swim;
use super::hostile_tests::machine;
use super::sync::ADVICE_PAUSE_MIN;
use super::test_mesh::{MS, local};
use crate::action::{Action, Command, ConnectionChange, DialTarget, DownReason, Seed};
use crate::config::SwimConfig;
use crate::testing::{base, node};

const SEED: &str = "127.0.0.1:7800";

/// How often the seed is dialled until `end`.
fn dials(swim: &mut Swim, end: Instant) -> usize {
    let mut dials = 0;
    loop {
        while let Some(action) = swim.poll_action() {
            dials += usize::from(matches!(action, Action::Dial { target: DialTarget::Seed(_), .. }));
        }
        let Some((at, _)) = swim.poll_timeout().filter(|(at, _)| *at <= end) else { return dials };
        swim.handle_timeout(at);
    }
}

/// Found among 1,000 that started at once with one seed, which holds 512 links: the others stood idle for 15 s.
#[test]
fn a_seed_that_lets_us_out_again_at_once_is_dialled_again_soon() {
    let config = SwimConfig::lan();
    let pause = config.dial_backoff_min;
    let mut swim = Swim::new(local("me", 10, 1), config, [1; 32], base());
    swim.handle_command(Command::Join { seeds: vec![Seed(SEED.to_owned())] }, base());
    assert_eq!(dials(&mut swim, base()), 1);
    swim.handle_connection(&node("full"), ConnectionChange::Up { address: SEED.parse().unwrap() }, base() + MS(1));
    assert_eq!(dials(&mut swim, base() + MS(2)), 0);
    let reason = DownReason::Evicted;
    swim.handle_connection(&node("full"), ConnectionChange::Down { reason }, base() + MS(2));
    assert_eq!(dials(&mut swim, base() + pause / 2), 0, "after a pause");
    assert_eq!(dials(&mut swim, base() + pause * 3 / 2), 1);
}

/// Acks that show another root, at these ms, and whether ours is another than at the last one: when a comparison begins.
#[test]
fn what_is_on_its_way_is_waited_for() {
    let longest = u64::try_from(SwimConfig::lan().anti_entropy_among(1).as_millis()).unwrap() / 4;
    let check = |acks: &[(u64, bool)], begun: &[u64]| {
        let mut swim = machine();
        let mut at = Vec::new();
        for (ms, changed) in acks {
            let before = swim.stats().syncs_advised;
            if *changed {
                swim.advice.root ^= 1;
            }
            swim.advise_sync(&node("p1"), base() + MS(*ms));
            at.extend((swim.stats().syncs_advised > before).then_some(*ms));
        }
        assert_eq!(at, begun, "{acks:?}");
    };
    let pause = u64::try_from(ADVICE_PAUSE_MIN.as_millis()).unwrap();
    check(&[(0, true)], &[]);
    check(&[(0, true), (700, false), (1_000, false), (1_500, false), (1_000 + pause, false)], &[1_000, 1_000 + pause]);
    // Ours changes between any two acks: once per quarter of the interval.
    let storm: Vec<(u64, bool)> = (0..=2 * longest / 500).map(|half| (half * 500, true)).collect();
    check(&storm, &[longest, 2 * longest]);
}
