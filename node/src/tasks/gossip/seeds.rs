//! Seeds: looking up their names beside the loop, and saying once per cause why one did not let us in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use starling_gossip::{DownReason, Seed};
use starling_model::{Code, NodeName, codes};
use starling_transport::quic::{DialError, DialTag};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::names::{resolve, service_of};
use crate::channel::Queue;

/// Look-ups and probes at a time; a further one is answered as failed and tried again by the machine.
const LOOK_UPS_MAX: usize = 16;
/// How long the TCP probe of a silent seed may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// The answer to a look-up.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) seed: Seed,
    pub(super) addresses: Result<Vec<SocketAddr>, String>,
}

/// Marks dials of members.
const MEMBER_TAG: &str = "member:";
/// Marks dials of seeds.
const SEED_TAG: &str = "seed:";

pub(super) fn member_tag(name: &NodeName) -> DialTag {
    DialTag(format!("{MEMBER_TAG}{name}"))
}

/// What is known of the seeds.
#[derive(Debug)]
pub(super) struct Seeds {
    resolved: Queue<Resolved>,
    permits: std::sync::Arc<tokio::sync::Semaphore>,
    told: BTreeMap<Seed, BTreeSet<u16>>,
}

impl Seeds {
    pub(super) fn new(resolved: Queue<Resolved>) -> Self {
        let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(LOOK_UPS_MAX));
        Self { resolved, permits, told: BTreeMap::new() }
    }

    pub(super) fn tag(&self, seed: &Seed) -> DialTag {
        DialTag(format!("{SEED_TAG}{}", seed.0))
    }

    /// The seed of a tag, if it is one of a seed.
    pub(super) fn of(&self, tag: &DialTag) -> Option<Seed> {
        tag.0.strip_prefix(SEED_TAG).map(|seed| Seed(seed.to_owned()))
    }

    /// Looks a seed's name up beside the loop; the answer comes back as an input.
    pub(super) fn look_up(&self, seed: Seed) {
        let queue = self.resolved.clone();
        if let Ok(address) = seed.0.parse::<SocketAddr>() {
            queue.offer(Resolved { seed, addresses: Ok(vec![address]) });
            return;
        }
        let Ok(permit) = std::sync::Arc::clone(&self.permits).try_acquire_owned() else {
            queue.offer(Resolved { seed, addresses: Err("too many look-ups at a time".to_owned()) });
            return;
        };
        tokio::spawn(async move {
            let addresses = resolve(&seed.0).await;
            queue.offer(Resolved { seed, addresses });
            drop(permit);
        });
    }

    /// A seed let us in: should it fail later, that is worth a line again.
    pub(super) fn answered(&mut self, seed: &Seed, peer: &NodeName) {
        debug!(seed = %seed.0, member = %peer, "seed answered");
        if self.told.remove(seed).is_some() {
            info!(seed = %seed.0, member = %peer, "the seed answers");
        }
    }

    pub(super) fn explain_name(&mut self, seed: &Seed, error: &str) {
        self.tell(seed, codes::NO_QUIC_ANSWER, &format!("the seed {} cannot be looked up: {error}", seed.0));
    }

    /// Says why a dial failed, once per seed and cause.
    pub(super) fn explain(&mut self, seed: &Seed, error: &DialError) {
        let code = error.code();
        debug!(seed = %seed.0, %error, "dial failed");
        let Some(code) = code else { return };
        if code == codes::NO_QUIC_ANSWER {
            self.explain_silence(seed);
            return;
        }
        self.tell(seed, code, &format!("{} does not let us in: {error}", seed.0));
    }

    fn is_first(&mut self, seed: &Seed, code: Code) -> bool {
        // Seeds come from this host's own configuration and API; their number is small.
        self.told.entry(seed.clone()).or_default().insert(code.number)
    }

    fn tell(&mut self, seed: &Seed, code: Code, what: &str) {
        if self.is_first(seed, code) {
            warn!(%code, help = code.help, "{what}; trying on");
        }
    }

    /// Silence on UDP: whether the host answers on TCP tells a filter from a host that is down.
    fn explain_silence(&mut self, seed: &Seed) {
        let code = codes::NO_QUIC_ANSWER;
        if !self.is_first(seed, code) {
            return;
        }
        if service_of(&seed.0).is_some() {
            return warn!(%code, help = code.help, "no QUIC answer from any host of {}; trying on", seed.0);
        }
        let seed = seed.clone();
        tokio::spawn(async move {
            let why = match timeout(PROBE_DEADLINE, TcpStream::connect(&seed.0)).await {
                Ok(Ok(_connection)) => "but its agent answers on TCP: UDP is probably filtered",
                // A refusal comes from the host as well.
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    "the host is up, but no agent listens there"
                }
                Ok(Err(_)) | Err(_) => "and the host does not answer on TCP either",
            };
            warn!(%code, help = code.help, "no QUIC answer from {}, {why}; trying on", seed.0);
        });
    }
}

/// A failed dial of a known member, in the machine's words.
pub(super) fn as_down(error: &DialError) -> DownReason {
    super::down_reason(error.as_down())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The look-ups themselves do not run before the test waits, because it has the only thread.
    #[tokio::test]
    async fn one_look_up_more_than_run_at_a_time_is_answered_at_once_as_failed() {
        let (queue, mut resolved) = Queue::new("resolved", LOOK_UPS_MAX + 1);
        let seeds = Seeds::new(queue);
        let seed = |n: usize| Seed(format!("seed-{n}.invalid:7740"));
        (0..LOOK_UPS_MAX).for_each(|n| seeds.look_up(seed(n)));
        assert!(resolved.try_recv().is_err(), "all of them run");
        seeds.look_up(seed(LOOK_UPS_MAX));
        let answer = resolved.try_recv().unwrap();
        assert_eq!(
            (answer.seed, answer.addresses),
            (seed(LOOK_UPS_MAX), Err("too many look-ups at a time".to_owned()))
        );
        // An address needs no look-up.
        seeds.look_up(Seed("127.0.0.1:7740".to_owned()));
        assert_eq!(resolved.try_recv().unwrap().addresses, Ok(vec!["127.0.0.1:7740".parse().unwrap()]));
    }
}
