//! [`SwimConfig`]: every knob of the protocol, named by its consequence, and the presets.

use std::time::Duration;

/// How a failed probe moves the local health score (LHA-Probe).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthRule {
    /// Not at all, and relays send no nacks, as in plain SWIM; for comparisons.
    Off,
    /// memberlist: +1 when no nacks were due, else one per missing nack; highest score 7.
    Memberlist,
    /// The paper (Lifeguard, IV-A): +1 for the failed probe and +1 per missing nack; highest score 8.
    Paper,
}

/// What a local health score above zero stretches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// Probe period and timeouts, as in the paper.
    PeriodAndTimeouts,
    /// The probe period alone, as in memberlist.
    PeriodOnly,
}

/// When the next round begins once a probe was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// After the scaled period, as the paper has it: a node in bad health also probes less.
    Scaled,
    /// After the plain interval, as in memberlist's code: only a probe that fails takes longer.
    Plain,
}

/// Where the wait for a direct ack comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectWait {
    /// The measured round trip, between 100 ms and `probe_timeout`.
    Measured,
    /// `probe_timeout`, as in the papers.
    Fixed,
}

/// Whose word makes a member dead here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Only this node's own failed probe ladder, whoever else says so.
    OwnVerdict,
    /// An expired suspicion or anybody's word, as in the papers, without any guard of ours: no cap on accusations, no
    /// hold when many seem to fail, no forgiveness for late turns; for replays and comparisons.
    AnyVerdict,
}

/// When a doubted member hears first of all what is held against it (Lifeguard, IV-C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Buddy {
    /// Never: its doubt comes by gossip, as in plain SWIM; for comparisons.
    Off,
    /// With every ping, for ourselves or as a relay, as in the paper.
    Pings,
    /// With answers to its own pings too.
    PingsAndAnswers,
}

/// Settings of one [`crate::Swim`]. Each value that depends on the size of the mesh follows it at run time.
#[derive(Clone, Debug, PartialEq)]
pub struct SwimConfig {
    /// Time between two probes. Lower finds crashes sooner and costs proportionally more packets.
    pub probe_interval: Duration,
    /// Longest wait for a direct ack before others are asked.
    pub probe_timeout: Duration,
    /// How many members are asked to ping a silent one (SWIM, k).
    pub indirect_probes: usize,
    /// Shortest suspicion, in probe intervals, before scaling by `log10(members)` (Lifeguard, alpha). This is how long
    /// a stalled host has to speak up once others doubt it too.
    pub suspicion_alpha: u32,
    /// Longest suspicion, as a multiple of the shortest (Lifeguard, beta): how long one accuser alone is doubted.
    pub suspicion_beta: u32,
    /// Independent confirmations that bring a suspicion down to its shortest time (Lifeguard, K).
    pub confirmations: u32,
    /// Copies of one update, in `ceil(log10(members + 1))`.
    pub retransmit_mult: u32,
    /// Time between two gossip ticks.
    pub gossip_interval: Duration,
    /// Members told per tick.
    pub gossip_targets: usize,
    /// Time between two full comparisons with a random member, up to 32 members.
    pub anti_entropy_interval: Duration,
    /// How long a dead member is still told what happens.
    pub gossip_to_dead: Duration,
    /// A pause of this length of the peer or of ourselves evicts nobody.
    pub pause_tolerated: Duration,
    /// Time between two calls to the dead.
    pub heal_interval: Duration,
    /// Changes that arrive within this time go out together.
    pub forward_window: Duration,
    /// Shortest wait before an unreachable member or seed is dialled again.
    pub dial_backoff_min: Duration,
    /// Longest wait before an unreachable member or seed is dialled again.
    pub dial_backoff_max: Duration,
    /// How long the node with the greater name waits for the other's dial before it dials itself.
    pub dial_grace: Duration,
    /// How long a graceful leave waits for acknowledgements.
    pub leave_timeout: Duration,
    /// How long a dead member is remembered.
    pub dead_retention: Duration,
    /// How long a member that left is remembered.
    pub left_retention: Duration,
    /// Members (this node included) up to which every node is linked with every other; above, rings choose the links.
    pub full_view_members_max: usize,
    /// Links per node above that size: most to neighbours on the rings, the rest at random.
    pub links: usize,
    /// How long until one of the random links is replaced.
    pub link_rotation: Duration,
    /// How the local health score moves.
    pub health_rule: HealthRule,
    /// What the local health score stretches.
    pub stretch: Stretch,
    /// When the next round begins.
    pub rounds: Rounds,
    /// Where the direct wait comes from.
    pub direct_wait: DirectWait,
    /// Whose word evicts.
    pub eviction: Eviction,
    /// When a doubted member is told.
    pub buddy: Buddy,
}

impl SwimConfig {
    /// One data centre: 1 s probes (memberlist's LAN with Consul's beta).
    #[must_use]
    pub fn lan() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            suspicion_alpha: 4,
            suspicion_beta: 6,
            confirmations: 2,
            retransmit_mult: 4,
            gossip_interval: Duration::from_millis(200),
            gossip_targets: 3,
            anti_entropy_interval: Duration::from_secs(30),
            gossip_to_dead: Duration::from_secs(30),
            pause_tolerated: Duration::from_secs(2),
            heal_interval: Duration::from_secs(5),
            forward_window: Duration::from_millis(20),
            dial_backoff_min: Duration::from_millis(250),
            dial_backoff_max: Duration::from_secs(10),
            dial_grace: Duration::from_millis(250),
            leave_timeout: Duration::from_secs(1),
            dead_retention: Duration::from_secs(24 * 3600),
            left_retention: Duration::from_secs(3600),
            full_view_members_max: 33,
            links: 32,
            link_rotation: Duration::from_secs(30),
            health_rule: HealthRule::Memberlist,
            stretch: Stretch::PeriodAndTimeouts,
            rounds: Rounds::Plain,
            direct_wait: DirectWait::Measured,
            eviction: Eviction::OwnVerdict,
            buddy: Buddy::PingsAndAnswers,
        }
    }

    /// Sites joined by slow links.
    #[must_use]
    pub fn wan() -> Self {
        Self {
            probe_interval: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(3),
            suspicion_alpha: 6,
            confirmations: 4,
            gossip_interval: Duration::from_millis(500),
            gossip_targets: 4,
            anti_entropy_interval: Duration::from_secs(60),
            gossip_to_dead: Duration::from_secs(60),
            heal_interval: Duration::from_secs(30),
            dial_backoff_min: Duration::from_secs(1),
            dial_backoff_max: Duration::from_secs(30),
            dial_grace: Duration::from_secs(1),
            leave_timeout: Duration::from_secs(3),
            ..Self::lan()
        }
    }

    /// Processes on one host, for tests (memberlist's Local).
    #[must_use]
    pub fn local() -> Self {
        Self {
            probe_timeout: Duration::from_millis(200),
            indirect_probes: 1,
            suspicion_alpha: 3,
            confirmations: 1,
            retransmit_mult: 2,
            gossip_interval: Duration::from_millis(100),
            anti_entropy_interval: Duration::from_secs(15),
            gossip_to_dead: Duration::from_secs(15),
            ..Self::lan()
        }
    }

    /// One site with quick links, where a crash should be known within about 3 s.
    #[must_use]
    pub fn fast() -> Self {
        Self {
            probe_interval: Duration::from_millis(300),
            probe_timeout: Duration::from_millis(150),
            suspicion_alpha: 2,
            confirmations: 3,
            gossip_interval: Duration::from_millis(100),
            anti_entropy_interval: Duration::from_secs(15),
            pause_tolerated: Duration::from_millis(500),
            heal_interval: Duration::from_secs(3),
            dial_backoff_min: Duration::from_millis(150),
            dial_backoff_max: Duration::from_secs(5),
            dial_grace: Duration::from_millis(150),
            ..Self::lan()
        }
    }

    /// memberlist's rules on LAN figures, for comparisons: whoever says "dead" is believed.
    #[must_use]
    pub fn memberlist() -> Self {
        Self {
            stretch: Stretch::PeriodOnly,
            direct_wait: DirectWait::Fixed,
            eviction: Eviction::AnyVerdict,
            buddy: Buddy::Pings,
            ..Self::lan()
        }
    }

    /// The Lifeguard paper's rules with all three components, for replays.
    #[must_use]
    pub fn paper() -> Self {
        Self {
            suspicion_alpha: 5,
            confirmations: 3,
            health_rule: HealthRule::Paper,
            rounds: Rounds::Scaled,
            direct_wait: DirectWait::Fixed,
            eviction: Eviction::AnyVerdict,
            buddy: Buddy::Pings,
            ..Self::lan()
        }
    }

    /// Plain SWIM as the paper's baseline has it (V-C): each of its three components is off, and a suspicion lasts as
    /// long as the paper's shortest; for comparisons.
    #[must_use]
    pub fn swim() -> Self {
        Self { suspicion_beta: 1, confirmations: 0, health_rule: HealthRule::Off, buddy: Buddy::Off, ..Self::paper() }
    }

    /// Copies of one update among `members` (memberlist): `mult * ceil(log10(members + 1))`.
    #[must_use]
    pub fn copies(&self, members: usize) -> u32 {
        let mut digits = 0;
        let mut power: u128 = 1;
        // ceil(log10(n + 1)) without floating point: the least power of ten that is not below n + 1.
        while power < members as u128 + 1 {
            power *= 10;
            digits += 1;
        }
        self.retransmit_mult * digits
    }

    /// Time between two comparisons among `members`: the base up to 32, then growing with the logarithm, so that the
    /// whole mesh never syncs in lockstep (memberlist's push-pull scale).
    #[must_use]
    pub fn anti_entropy_among(&self, members: usize) -> Duration {
        let mut scale = 1;
        let mut bound = 32_u128;
        while (members as u128) > bound {
            bound *= 2;
            scale += 1;
        }
        self.anti_entropy_interval * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit vector V4 (memberlist's tables).
    #[test]
    fn copies_grow_with_the_logarithm() {
        let config = SwimConfig { retransmit_mult: 3, ..SwimConfig::lan() };
        let check = |members: usize, want: u32| assert_eq!(config.copies(members), want, "{members} members");
        check(0, 0);
        check(1, 3);
        check(9, 3);
        check(10, 6);
        check(99, 6);
        check(100, 9);
    }

    /// Unit vector V5 (memberlist's tables).
    #[test]
    fn anti_entropy_slows_down_past_32_members() {
        let check = |members: usize, scale: u32| {
            assert_eq!(SwimConfig::lan().anti_entropy_among(members), Duration::from_secs(30) * scale, "{members}");
        };
        check(1, 1);
        check(32, 1);
        check(33, 2);
        check(64, 2);
        check(65, 3);
        check(128, 3);
        check(1000, 6);
    }
}
