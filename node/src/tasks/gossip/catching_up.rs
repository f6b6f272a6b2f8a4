//! Asking for what was missed over `starling-trust/1`: updates of the trust bundle and our own certificate where dials end
//! because a certificate is believed no more, and the lists of renewed certificates that the newest bundle names.
//!
//! One question of each of the two kinds is under way at a time: whoever does not answer keeps only its own kind waiting.
//! While answers bring something the next one follows at once, to the next address; else the pause doubles from one second
//! to a minute, half of it by chance. While a bundle waits for its lists it stays at one second, and the first question goes
//! to who told of that bundle. Who answers is believed nothing: what the answers hold is judged like everything else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::Seed;
use starling_identity::chain::Question;
use starling_transport::quic::DialError;
use tracing::{debug, info};

use super::Context;
use super::bundles::TrustChain;
use crate::channel::Queue;

/// Addresses that are asked because of refusals, and seeds whose addresses are remembered.
const ADDRESSES_MAX: usize = 64;
/// A refusal is a reason to ask for this long.
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// Shortest and longest pause after a question that brought nothing.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What became of a question.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) turn: Turn,
    pub(super) question: Question,
    pub(super) by: SocketAddr,
    pub(super) answer: Result<Bytes, DialError>,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// We are refused, or refuse.
    Refused,
    /// Lists are lacking.
    Lists,
}

/// When to ask whom.
#[derive(Debug)]
pub(super) struct CatchingUp {
    answers: Queue<Answered>,
    /// Of seeds, as last looked up.
    seeds: BTreeMap<Seed, Vec<SocketAddr>>,
    /// Of those who refused us or whom we refused, the last one last.
    refusing: Vec<SocketAddr>,
    refused: Option<Instant>,
    /// Since when the newest bundle waits for its lists.
    waiting: Option<Instant>,
    /// Who told of the newest bundle, until it is asked: as a rule it has the lists.
    teller: Option<SocketAddr>,
    after_refusals: Pace,
    for_lists: Pace,
    asked: u64,
    seed: [u8; 32],
}

/// When the next question of a kind may be asked.
#[derive(Debug)]
struct Pace {
    is_asking: bool,
    due: Option<Instant>,
    pause: Duration,
}

impl Pace {
    const START: Self = Self { is_asking: false, due: None, pause: PAUSE_MIN };

    fn is_due(&self, now: Instant) -> bool {
        !self.is_asking && self.due.is_none_or(|due| now >= due)
    }

    /// Nothing puts the next question off, but for one that is under way.
    fn hurry(&mut self) {
        (self.due, self.pause) = (None, PAUSE_MIN);
    }
}

impl CatchingUp {
    pub(super) fn new(answers: Queue<Answered>, seed: [u8; 32]) -> Self {
        Self {
            answers,
            seeds: BTreeMap::new(),
            refusing: Vec::new(),
            refused: None,
            waiting: None,
            teller: None,
            after_refusals: Pace::START,
            for_lists: Pace::START,
            asked: 0,
            seed,
        }
    }

    /// A seed was looked up.
    pub(super) fn seed_is_at(&mut self, seed: &Seed, addresses: &[SocketAddr]) {
        if self.seeds.len() < ADDRESSES_MAX || self.seeds.contains_key(seed) {
            self.seeds.insert(seed.clone(), addresses.to_vec());
        }
    }

    pub(super) fn addresses_of(&self, seed: &Seed) -> Vec<SocketAddr> {
        self.seeds.get(seed).cloned().unwrap_or_default()
    }

    /// Somebody at one of these refused us, or we them.
    pub(super) fn refused(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        if addresses.is_empty() {
            return;
        }
        self.refusing.retain(|held| !addresses.contains(held));
        self.refusing.extend(addresses);
        let over = self.refusing.len().saturating_sub(ADDRESSES_MAX);
        self.refusing.drain(..over);
        if self.refused.replace(now).is_none_or(|at| now.saturating_duration_since(at) > REFUSED_FOR) {
            self.after_refusals.hurry();
        }
    }

    /// Updates came from here.
    pub(super) fn told_by(&mut self, teller: SocketAddr) {
        self.teller = Some(teller);
    }

    /// True when the newest bundle has waited for its lists for this long; its wait begins with the first call.
    pub(super) fn waited(&mut self, patience: Duration, now: Instant) -> bool {
        if self.waiting.is_none() {
            self.for_lists.hurry();
        }
        let since = *self.waiting.get_or_insert(now);
        now.saturating_duration_since(since) >= patience
    }

    /// The newest bundle waits no longer.
    pub(super) fn has_lists(&mut self) {
        self.waiting = None;
    }

    /// What to ask about now, if anything.
    pub(super) fn due(&mut self, lacks_lists: bool, now: Instant) -> Option<Turn> {
        let refused = self.refused.is_some_and(|at| now.saturating_duration_since(at) <= REFUSED_FOR);
        if !refused {
            self.refusing.clear();
        }
        if lacks_lists && self.for_lists.is_due(now) {
            return Some(Turn::Lists);
        }
        (refused && self.after_refusals.is_due(now)).then_some(Turn::Refused)
    }

    fn pace(&mut self, turn: Turn) -> &mut Pace {
        match turn {
            Turn::Refused => &mut self.after_refusals,
            Turn::Lists => &mut self.for_lists,
        }
    }

    /// Asks the next of those who may know. `peers` are the addresses of open connections.
    pub(super) fn ask(
        &mut self,
        turn: Turn,
        context: &Context,
        trust: &TrustChain,
        peers: Vec<SocketAddr>,
        now: Instant,
    ) {
        let round = usize::try_from(self.asked).unwrap_or_default();
        self.asked = self.asked.wrapping_add(1);
        let node = &context.identity.node;
        let mesh_id = node.mesh_id();
        let question = match turn {
            Turn::Refused if round % 4 >= 2 && !node.is_under(&context.identity.current.trust()) => {
                Question::Key { mesh_id, hash: node.issuing_key_hash() }
            }
            Turn::Refused => trust.whatever_follows(),
            Turn::Lists => match trust.lacking().first() {
                Some(hash) => Question::List { mesh_id, hash: *hash },
                None => return self.answered(turn, false, now),
            },
        };
        let mut whom = match turn {
            Turn::Refused => self.refusing.clone(),
            Turn::Lists => peers,
        };
        if whom.is_empty() {
            whom.extend(self.refusing.iter().chain(self.seeds.values().flatten()));
        }
        let any = whom.get(self.chance(round).checked_rem(whom.len()).unwrap_or_default()).copied();
        // The first question for lists goes to who told of the bundle, the others to anybody: it may be gone.
        let teller = if turn == Turn::Lists { self.teller.take() } else { None };
        let Some(by) = teller.or(any) else {
            return self.answered(turn, false, now);
        };
        let Ok(bytes) = question.encode() else { return self.answered(turn, false, now) };
        debug!(%by, ?turn, "asking about trust");
        self.pace(turn).is_asking = true;
        let (asked, queue) = (context.net.ask_trust(by, bytes.into()), self.answers.clone());
        tokio::spawn(async move {
            let answer = asked.await;
            queue.send(Answered { turn, question, by, answer }).await;
        });
    }

    /// The answer to a question came, or none did; `brought` when it told something new.
    pub(super) fn answered(&mut self, turn: Turn, brought: bool, now: Instant) {
        let round = usize::try_from(self.asked).unwrap_or_default();
        let spread = u32::try_from(self.chance(round) % 256).unwrap_or_default();
        // A bundle waits for its lists for a few seconds only.
        let is_urgent = turn == Turn::Lists && self.waiting.is_some();
        let pace = self.pace(turn);
        pace.is_asking = false;
        if brought {
            info!("what was missed about trust came from who was asked");
            return pace.hurry();
        }
        pace.due = Some(now + pace.pause / 2 + pace.pause / 512 * spread);
        if !is_urgent {
            pace.pause = (pace.pause * 2).min(PAUSE_MAX);
        }
    }

    /// Some number: another one for each round and each agent.
    fn chance(&self, round: usize) -> usize {
        let byte = |at: usize| usize::from(self.seed.get(at % self.seed.len()).copied().unwrap_or_default());
        round.wrapping_mul(7).wrapping_add(byte(round)).wrapping_add(byte(round / self.seed.len()) << 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], u16::try_from(number).unwrap()))
    }

    #[tokio::test]
    async fn refusals_are_a_reason_for_a_while_and_few_addresses_are_kept() {
        let (queue, _answers) = Queue::new("trust answers", 1);
        let (mut catching, now) = (CatchingUp::new(queue, [7; 32]), Instant::now());
        assert_eq!(catching.due(false, now), None);
        (1..=ADDRESSES_MAX + 1).for_each(|number| catching.refused(vec![at(number)], now));
        assert_eq!(catching.refusing.len(), ADDRESSES_MAX);
        assert!(!catching.refusing.contains(&at(1)) && catching.refusing.contains(&at(2)));
        for number in 0..=ADDRESSES_MAX {
            catching.seed_is_at(&Seed(format!("seed-{number}")), &[at(1)]);
        }
        assert_eq!(catching.seeds.len(), ADDRESSES_MAX);
        assert_eq!(catching.due(false, now), Some(Turn::Refused));
        // Nothing came of it: the pause doubles to its end, and no further.
        for _ in 0..20 {
            catching.answered(Turn::Refused, false, now);
        }
        let due = catching.after_refusals.due.unwrap();
        assert!((PAUSE_MAX / 2..=PAUSE_MAX).contains(&(due - now)), "{:?}", due - now);
        assert_eq!(catching.due(false, now), None);
        // A bundle that waits for lists is not put off by that, nor by who does not answer: it asks each second.
        catching.after_refusals.is_asking = true;
        assert!(!catching.waited(Duration::from_secs(10), now));
        for _ in 0..20 {
            assert_eq!(catching.due(true, now), Some(Turn::Lists));
            catching.answered(Turn::Lists, false, now);
            let due = catching.for_lists.due.take().unwrap();
            assert!((PAUSE_MIN / 2..=PAUSE_MIN).contains(&(due - now)), "{:?}", due - now);
        }
        assert!(catching.waited(Duration::from_secs(10), now + Duration::from_secs(10)));
        assert_eq!(catching.due(false, now + REFUSED_FOR + Duration::from_secs(1)), None);
        assert!(catching.refusing.is_empty());
    }
}
