//! What happened lately, for people and programs: a ring of events that every reader pages through or follows.
//!
//! Writers never wait: a full ring forgets its oldest event and counts it. Each event has a number that rises by one, so
//! a reader that comes back knows how many it missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::Value;
use starling_model::BootEpoch;
use tokio::sync::watch;

use crate::api::views::Event;
use crate::telemetry::time::rfc3339_millis;

/// Events that are remembered: a death is about ten of them, so the loss of a rack of 100 among 1,000 still fits four
/// times over, in about 2 MiB.
pub const EVENTS_MAX: usize = 4_096;

/// Which part of the agent an event is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who is in the mesh, and why.
    Membership,
    /// Documents: in use, refused, in conflict.
    Config,
    /// Who is revoked, and who was refused for it.
    Identity,
}

/// All kinds, as the API names them.
pub const KINDS: [&str; 3] = ["membership", "config", "identity"];

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Membership => "membership",
            Self::Config => "config",
            Self::Identity => "identity",
        }
    }
}

/// What is told; the ring adds number and time.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// Which part of the agent.
    pub kind: Kind,
    /// The node that it is about; of a document the node that tells it.
    pub node: String,
    /// What it is about: the node, or a document.
    pub subject: String,
    /// One word.
    pub step: &'static str,
    /// A sentence.
    pub what: String,
    /// Particulars.
    pub evidence: Value,
}

/// One event with the moment at which it entered, which filters compare.
#[derive(Debug)]
pub struct Entry {
    /// Its number; the first is 1.
    pub number: u64,
    /// When it entered.
    pub at: SystemTime,
    /// As the API shows it.
    pub event: Event,
}

/// The ring. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Events {
    epoch: BootEpoch,
    ring: Arc<Mutex<Ring>>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    last: u64,
}

/// Some events after a number.
#[derive(Debug)]
pub struct Slice {
    /// Oldest first.
    pub entries: Vec<Arc<Entry>>,
    /// How many after the asked number are forgotten.
    pub dropped: u64,
    /// The newest number that was looked at: where to go on.
    pub seen: u64,
    /// True when there are more.
    pub more: bool,
}

impl Events {
    /// An empty ring of this start of the agent.
    #[must_use]
    pub fn new(epoch: BootEpoch) -> Self {
        Self { epoch, ring: Arc::default(), newest: watch::Sender::new(0) }
    }

    /// Adds one event.
    pub fn tell(&self, news: News, at: SystemTime) {
        let News { kind, node, subject, step, what, evidence } = news;
        let mut ring = self.lock();
        ring.last += 1;
        let number = ring.last;
        let event = Event {
            id: self.id(number),
            time: rfc3339_millis(at),
            kind: kind.as_str().to_owned(),
            subject,
            node,
            step: step.to_owned(),
            what,
            evidence,
        };
        if ring.entries.len() >= EVENTS_MAX {
            ring.entries.pop_front();
        }
        ring.entries.push_back(Arc::new(Entry { number, at, event }));
        drop(ring);
        self.newest.send_replace(number);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a number.
    #[must_use]
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch)
    }

    /// The number of an id: `None` when it is no id, 0 when it is of another start of the agent.
    #[must_use]
    pub fn number(&self, id: &str) -> Option<u64> {
        let (epoch, number) = id.split_once('-')?;
        let (epoch, number): (u64, u64) = (epoch.parse().ok()?, number.parse().ok()?);
        Some(if epoch == self.epoch.0 { number } else { 0 })
    }

    /// At most `limit` events after number `after` that `wanted` takes.
    #[must_use]
    pub fn after(&self, after: u64, limit: usize, wanted: impl Fn(&Entry) -> bool) -> Slice {
        let ring = self.lock();
        let oldest = ring.entries.front().map_or(ring.last + 1, |entry| entry.number);
        // A number that this ring never gave is of no start that we know: begin with the oldest.
        let after = if after > ring.last { 0 } else { after };
        let dropped = oldest.saturating_sub(after + 1);
        let skip = usize::try_from((after + 1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        let mut slice = Slice { entries: Vec::new(), dropped, seen: after, more: false };
        for entry in ring.entries.iter().skip(skip) {
            let takes = wanted(entry);
            if takes && slice.entries.len() >= limit {
                slice.more = true;
                return slice;
            }
            slice.seen = entry.number;
            if takes {
                slice.entries.push(Arc::clone(entry));
            }
        }
        slice
    }

    /// Tells when something was added.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Events forgotten so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let ring = self.lock();
        ring.last - ring.entries.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(count: usize) -> Events {
        let events = Events::new(BootEpoch(7));
        for at in 0..count {
            let node = format!("vm-{}", at % 2);
            let subject = node.clone();
            let (kind, step, what, evidence) = (Kind::Membership, "alive", String::new(), Value::Null);
            let news = News { kind, node, subject, step, what, evidence };
            events.tell(news, SystemTime::UNIX_EPOCH);
        }
        events
    }

    fn numbers(slice: &Slice) -> Vec<u64> {
        slice.entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn pages_follow_each_other_and_the_last_one_says_so() {
        let events = ring(5);
        let first = events.after(0, 2, |_| true);
        assert_eq!((numbers(&first), first.more, first.dropped), (vec![1, 2], true, 0));
        let second = events.after(first.seen, 2, |_| true);
        assert_eq!((numbers(&second), second.more), (vec![3, 4], true));
        let third = events.after(second.seen, 2, |_| true);
        assert_eq!((numbers(&third), third.more), (vec![5], false));
        assert!(events.after(5, 2, |_| true).entries.is_empty());
    }

    #[test]
    fn a_filter_skips_and_the_cursor_still_reaches_the_end() {
        let events = ring(6);
        let slice = events.after(0, 2, |entry| entry.event.node == "vm-1");
        assert_eq!((numbers(&slice), slice.more, slice.seen), (vec![2, 4], true, 5));
        let slice = events.after(slice.seen, 2, |entry| entry.event.node == "vm-1");
        assert_eq!((numbers(&slice), slice.more, slice.seen), (vec![6], false, 6));
    }

    #[test]
    fn one_more_than_the_limit_forgets_the_oldest_and_says_how_many() {
        let events = ring(EVENTS_MAX + 3);
        assert_eq!(events.dropped(), 3);
        let slice = events.after(0, 1, |_| true);
        assert_eq!((numbers(&slice), slice.dropped), (vec![4], 3));
        let slice = events.after(2, 1, |_| true);
        assert_eq!((numbers(&slice), slice.dropped), (vec![4], 1));
        let slice = events.after(3, 1, |_| true);
        assert_eq!((numbers(&slice), slice.dropped), (vec![4], 0));
    }

    #[test]
    fn ids_are_of_one_start_of_the_agent() {
        let events = ring(2);
        assert_eq!(events.number(&events.id(2)), Some(2));
        assert_eq!(events.number("6-2"), Some(0));
        assert_eq!(events.number("2"), None);
        assert_eq!(numbers(&events.after(99, 5, |_| true)), [1, 2]);
    }
}
