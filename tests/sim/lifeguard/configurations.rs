//! Who is compared with whom.

use starling_gossip::SwimConfig;
use starling_gossip::config::{Buddy, HealthRule};

/// Settings with a name.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The paper's name for it, or ours.
    pub name: &'static str,
    /// What all agents run.
    pub config: SwimConfig,
}

/// Every agent is linked with every other, as the paper's agents are.
fn full_view(name: &'static str, mut config: SwimConfig) -> Configuration {
    config.full_view_members_max = usize::MAX;
    Configuration { name, config }
}

/// What all others are compared with: SWIM with alpha 5 and beta 1, every component off.
#[must_use]
pub fn baseline() -> Configuration {
    full_view("SWIM", SwimConfig::swim())
}

/// All three components, alpha 5 and beta 6.
#[must_use]
pub fn lifeguard() -> Configuration {
    full_view("Lifeguard", SwimConfig::paper())
}

/// Our defaults, but for the full view.
#[must_use]
pub fn ours() -> Configuration {
    full_view("ours (LAN)", SwimConfig::lan())
}

/// memberlist's rules with the paper's alpha; its K is alpha - 2.
#[must_use]
pub fn memberlist() -> Configuration {
    full_view("memberlist, alpha 5", SwimConfig { suspicion_alpha: 5, confirmations: 3, ..SwimConfig::memberlist() })
}

/// The paper's five, then memberlist's rules and ours, the latter with the paper's alpha too.
#[must_use]
pub fn all() -> Vec<Configuration> {
    let paper = SwimConfig::paper();
    let swim = SwimConfig::swim;
    let suspicion = (paper.suspicion_beta, paper.confirmations);
    vec![
        baseline(),
        full_view("LHA-Probe", SwimConfig { health_rule: HealthRule::Paper, ..swim() }),
        full_view("LHA-Suspicion", SwimConfig { suspicion_beta: suspicion.0, confirmations: suspicion.1, ..swim() }),
        full_view("Buddy", SwimConfig { buddy: Buddy::Pings, ..swim() }),
        lifeguard(),
        memberlist(),
        full_view("ours, alpha 5", SwimConfig { suspicion_alpha: 5, confirmations: 3, ..SwimConfig::lan() }),
        ours(),
    ]
}

/// Lifeguard with another alpha and beta (the paper's Table VII); K stays 3.
#[must_use]
pub fn lifeguard_with(alpha: u32, beta: u32) -> Configuration {
    let config = SwimConfig { suspicion_alpha: alpha, suspicion_beta: beta, ..SwimConfig::paper() };
    let name = match (alpha, beta) {
        (2, 6) => "Lifeguard, alpha 2",
        (4, 6) => "Lifeguard, alpha 4",
        _ => "Lifeguard, other",
    };
    full_view(name, config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component alone differs from the baseline in nothing but itself, and all together are the paper's rules.
    #[test]
    fn components_add_up_to_lifeguard() {
        let all = all();
        let by_name = |name: &str| all.iter().find(|one| one.name == name).map(|one| one.config.clone()).unwrap();
        let (probe, suspicion, buddy) = (by_name("LHA-Probe"), by_name("LHA-Suspicion"), by_name("Buddy"));
        let sum = SwimConfig {
            health_rule: probe.health_rule,
            suspicion_beta: suspicion.suspicion_beta,
            confirmations: suspicion.confirmations,
            buddy: buddy.buddy,
            ..by_name("SWIM")
        };
        assert_eq!(sum, by_name("Lifeguard"));
        for alone in [probe, suspicion, buddy] {
            assert_ne!(alone, by_name("SWIM"));
        }
    }
}
