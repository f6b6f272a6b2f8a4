//! What to retell (SWIM 4.1): updates keyed by subject, the newest replacing the older, so the queue is never longer than
//! what there is to know. Least-told first, bounded copies, and one version never twice to one target.
//!
//! Each peer has a place in a bit set, so that an update costs the same however many have heard it, and an index holds
//! the order in which updates are told: a pick looks at few, even when a whole mesh starts at once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use starling_model::{NodeName, RecordKind};

use crate::by_name::ByName;
use crate::limits::{DATAGRAMS_PER_FLUSH_MAX, LINKS_MAX};
use crate::wire::DATAGRAM_MESSAGE_MAX;

/// What an update is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    /// The newest `alive` or `leave` of a member.
    Life(NodeName),
    /// The newest doubt about it.
    Doubt(NodeName),
    /// One shard of one record.
    Record(NodeName, RecordKind, u8),
    /// One version of a document, by its hash.
    Document([u8; 32]),
    /// One revocation, by its hash.
    Revocation([u8; 32]),
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// What this node says about itself: a refutation must overtake the doubt.
    Own,
    /// Before any doubt: who is out must not be listened to.
    Revocation,
    Doubt,
    Life,
    Document,
    Record,
}

/// To how many peers news go at first receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// State and our own words: to all links while they are few.
    Wide,
    /// Membership of others: to as many as a tick has targets; rumours spread by being many.
    Narrow,
}

impl Class {
    pub(crate) fn reach(self) -> Reach {
        match self {
            Self::Own | Self::Revocation | Self::Document | Self::Record => Reach::Wide,
            Self::Doubt | Self::Life => Reach::Narrow,
        }
    }
}

/// How an update travels to one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parcel {
    /// In a datagram, together with others.
    Datagram(Bytes),
    /// Alone, on a stream.
    Stream(Bytes),
}

/// Peers that are told apart at a time; beyond it the one that got its place first is taken for new.
const PEERS_MAX: usize = LINKS_MAX;
/// Updates that one pick looks at: with that many told to this target already, the rest waits for the next.
const LOOK_MAX: usize = 256;
/// Subjects for which an empty queue keeps memory; what a burst took beyond it is given back.
const SUBJECTS_KEPT: usize = 64;
/// No message is shorter, so a pick ends when less room is left.
const MESSAGE_BYTES_MIN: usize = 16;

/// A set of peers, by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Peers([u64; PEERS_MAX / 64]);

impl Peers {
    fn insert(&mut self, place: usize) -> bool {
        let fresh = !self.holds(place);
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
        fresh
    }

    fn remove(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word &= !(1 << (place % 64));
        }
    }

    fn holds(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn without(&self, other: &Self) -> Self {
        let mut rest = *self;
        rest.0.iter_mut().zip(other.0).for_each(|(word, gone)| *word &= !gone);
        rest
    }

    fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
    }
}

#[derive(Clone, Debug)]
struct Update {
    subject: Subject,
    class: Class,
    parcel: Parcel,
    told: Peers,
    sent: u32,
    /// How many told us: each saves us one telling in two.
    heard: u32,
}

/// The order in which updates are told.
type Key = (Class, u32, u64);

/// The queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broadcasts {
    updates: BTreeMap<u64, Update>,
    subjects: HashMap<Subject, u64, FixedState>,
    order: BTreeSet<Key>,
    /// Those that no flush has seen yet.
    fresh: Vec<u64>,
    next: u64,
    places: ByName<usize>,
    names: Vec<NodeName>,
    /// The place that is given away next once all are taken.
    oldest: usize,
}

/// Room for messages in one datagram.
pub(crate) const ROOM: usize = DATAGRAM_MESSAGE_MAX;

impl Broadcasts {
    /// Queues an update; it replaces what was queued about the subject. `knows` is whoever told us.
    pub(crate) fn push(&mut self, subject: Subject, class: Class, parcel: Parcel, knows: Option<&NodeName>) {
        self.remove(&subject);
        self.next += 1;
        let id = self.next;
        let mut update = Update { subject: subject.clone(), class, parcel, told: Peers::default(), sent: 0, heard: 0 };
        if let Some(peer) = knows {
            update.told.insert(self.place(peer));
        }
        self.subjects.insert(subject, id);
        self.order.insert((class, 0, id));
        self.updates.insert(id, update);
        self.fresh.push(id);
    }

    /// `peer` told us the same: it needs no telling.
    pub(crate) fn heard(&mut self, subject: &Subject, peer: &NodeName) {
        self.heard_all(std::slice::from_ref(subject), peer);
    }

    /// `peer` told us all these.
    pub(crate) fn heard_all(&mut self, subjects: &[Subject], peer: &NodeName) {
        let mut place = None;
        for subject in subjects {
            let Some(id) = self.subjects.get(subject).copied() else { continue };
            let place = *place.get_or_insert_with(|| self.place(peer));
            if let Some(update) = self.updates.get_mut(&id)
                && update.told.insert(place)
            {
                update.heard = update.heard.saturating_add(1);
            }
        }
    }

    /// Its owner tells everybody itself, so it counts as heard from so many already.
    pub(crate) fn told_by_owner(&mut self, subject: &Subject, hearings: u32) {
        if let Some(update) = self.subjects.get(subject).and_then(|id| self.updates.get_mut(id)) {
            update.heard = update.heard.max(hearings);
        }
    }

    /// Has `peer` heard the queued update about this?
    pub(crate) fn was_told(&self, subject: &Subject, peer: &NodeName) -> bool {
        let update = self.subjects.get(subject).and_then(|id| self.updates.get(id));
        update.is_some_and(|update| self.places.get(peer).is_some_and(|place| update.told.holds(*place)))
    }

    /// The subject is settled otherwise.
    pub(crate) fn remove(&mut self, subject: &Subject) {
        if let Some(id) = self.subjects.get(subject).copied() {
            self.retire_one(id);
        }
    }

    fn retire_one(&mut self, id: u64) {
        if let Some(update) = self.updates.remove(&id) {
            self.order.remove(&(update.class, update.sent, id));
            self.subjects.remove(&update.subject);
        }
        if self.updates.is_empty() {
            self.fresh.clear();
            if self.subjects.capacity() > SUBJECTS_KEPT {
                self.subjects = HashMap::default();
            }
            self.places = ByName::default();
            self.names.clear();
            self.oldest = 0;
        }
    }

    /// Everything about this name.
    pub(crate) fn forget(&mut self, name: &NodeName) {
        let gone: Vec<u64> = self
            .subjects
            .iter()
            .filter(|(subject, _)| match subject {
                Subject::Life(about) | Subject::Doubt(about) | Subject::Record(about, _, _) => about == name,
                Subject::Document(_) | Subject::Revocation(_) => false,
            })
            .map(|(_, id)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.retire_one(id));
    }

    pub(crate) fn len(&self) -> usize {
        self.updates.len()
    }

    /// The place of a peer in the bit sets; a newcomer beyond the last takes the oldest one's.
    fn place(&mut self, peer: &NodeName) -> usize {
        if let Some(place) = self.places.get(peer) {
            return *place;
        }
        let place = self.names.len();
        if place < PEERS_MAX {
            self.names.push(peer.clone());
            self.places.insert(peer.clone(), place);
            return place;
        }
        let place = self.oldest % PEERS_MAX;
        self.oldest += 1;
        if let Some(name) = self.names.get_mut(place) {
            let gone = std::mem::replace(name, peer.clone());
            self.places.remove(&gone);
        }
        self.places.insert(peer.clone(), place);
        self.updates.values_mut().for_each(|update| update.told.remove(place));
        place
    }

    /// Does a flush have anything for many?
    pub(crate) fn has_wide_news(&self) -> bool {
        let wide = |id: &u64| self.updates.get(id).is_some_and(|update| update.class.reach() == Reach::Wide);
        self.fresh.iter().any(wide)
    }

    /// First receipt: of the updates since the last flush, what `target` shall hear. `reach` is [`Reach::Narrow`] for a
    /// target that hears everything, [`Reach::Wide`] for one that hears only what goes to many. Marked as told.
    pub(crate) fn news(&mut self, target: &NodeName, reach: Reach) -> Vec<Parcel> {
        let place = self.place(target);
        let mut ids: Vec<Key> = self
            .fresh
            .iter()
            .filter_map(|id| {
                let update = self.updates.get(id)?;
                let meant = reach == Reach::Narrow || update.class.reach() == Reach::Wide;
                (meant && !update.told.holds(place)).then_some((update.class, update.sent, *id))
            })
            .collect();
        ids.sort_unstable_by_key(|(class, _, id)| (*class, *id));
        self.take(&ids, place, Self::flush_room(), Streams::Sent)
    }

    /// All fresh updates had their flush; from now on ticks and probes repeat them.
    pub(crate) fn flushed(&mut self) {
        self.fresh.clear();
    }

    /// What `target` shall hear, at most `room` bytes of datagram messages besides streams. Marked as told.
    pub(crate) fn pick(&mut self, target: &NodeName, room: usize) -> Vec<Parcel> {
        if self.updates.is_empty() {
            return Vec::new();
        }
        let place = self.place(target);
        // Piggybacked picks have little room; streams wait for a flush or a tick.
        let streams = if room <= ROOM { Streams::Left } else { Streams::Sent };
        let untold = |(_, _, id): &&Key| self.updates.get(id).is_some_and(|update| !update.told.holds(place));
        let keys: Vec<Key> = self.order.iter().take(LOOK_MAX).filter(untold).copied().collect();
        self.take(&keys, place, room, streams)
    }

    fn take(&mut self, keys: &[Key], place: usize, room: usize, streams: Streams) -> Vec<Parcel> {
        let (mut left, mut parcels) = (room, Vec::new());
        for key in keys {
            let (_, _, id) = *key;
            let Some(update) = self.updates.get_mut(&id) else { continue };
            match &update.parcel {
                Parcel::Datagram(message) if message.len() > left => continue,
                Parcel::Datagram(message) => left -= message.len(),
                Parcel::Stream(_) if streams == Streams::Left => continue,
                Parcel::Stream(_) => {}
            }
            update.told.insert(place);
            update.sent = update.sent.saturating_add(1);
            parcels.push(update.parcel.clone());
            let (class, sent) = (update.class, update.sent);
            self.order.remove(key);
            self.order.insert((class, sent, id));
            if left < MESSAGE_BYTES_MIN {
                break;
            }
        }
        parcels
    }

    /// Room of one flush to one target.
    pub(crate) fn flush_room() -> usize {
        ROOM * DATAGRAMS_PER_FLUSH_MAX
    }

    /// Drops what was told often enough: to all of `targets`, or as often as `copies` says for its reach, where two that
    /// told us count as one copy. Returns those of `targets` that still have something to hear.
    pub(crate) fn retire<'a>(
        &mut self,
        targets: &'a [NodeName],
        copies: impl Fn(Reach) -> Option<u32>,
    ) -> Vec<&'a NodeName> {
        if self.updates.is_empty() {
            return Vec::new();
        }
        let places: Vec<usize> = targets.iter().map(|target| self.place(target)).collect();
        let mut all = Peers::default();
        places.iter().for_each(|place| {
            all.insert(*place);
        });
        let (mut owed, mut gone) = (Peers::default(), Vec::new());
        for (id, update) in &self.updates {
            let untold = all.without(&update.told);
            if untold.is_empty()
                || copies(update.class.reach()).is_some_and(|most| update.sent + update.heard / 2 >= most)
            {
                gone.push(*id);
            } else {
                owed.extend(&untold);
            }
        }
        gone.into_iter().for_each(|id| self.retire_one(id));
        targets.iter().zip(places).filter(|(_, place)| owed.holds(*place)).map(|(target, _)| target).collect()
    }
}

/// What a pick does with updates that travel on a stream of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    Sent,
    Left,
}

/// Packs encoded messages into as few datagram bodies as their order allows.
pub(crate) fn pack(messages: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let mut bodies: Vec<Vec<Bytes>> = Vec::new();
    let mut left = 0;
    for message in messages {
        if message.len() > left || bodies.is_empty() {
            bodies.push(Vec::new());
            left = ROOM;
        }
        left = left.saturating_sub(message.len());
        if let Some(body) = bodies.last_mut() {
            body.push(message);
        }
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    fn message(len: usize) -> Parcel {
        Parcel::Datagram(vec![0; len].into())
    }

    #[test]
    fn one_version_goes_once_to_each_target_and_never_back() {
        let mut queue = Broadcasts::default();
        queue.push(Subject::Life(node("x")), Class::Life, message(10), Some(&node("a")));
        assert!(queue.pick(&node("a"), ROOM).is_empty());
        assert_eq!(queue.pick(&node("b"), ROOM).len(), 1);
        assert!(queue.pick(&node("b"), ROOM).is_empty());
        queue.push(Subject::Life(node("x")), Class::Life, message(11), None);
        assert_eq!((queue.pick(&node("b"), ROOM).len(), queue.len()), (1, 1), "a newer version replaces the older");
    }

    #[test]
    fn own_words_go_first_then_doubts_then_the_least_told() {
        let mut queue = Broadcasts::default();
        queue.push(Subject::Life(node("told")), Class::Life, message(1), None);
        queue.pick(&node("other"), ROOM);
        queue.push(Subject::Life(node("untold")), Class::Life, message(2), None);
        queue.push(Subject::Record(node("r"), RecordKind::Status, 0), Class::Record, message(3), None);
        queue.push(Subject::Doubt(node("d")), Class::Doubt, message(4), None);
        queue.push(Subject::Life(node("me")), Class::Own, message(5), None);
        let lens: Vec<usize> = queue
            .pick(&node("t"), ROOM)
            .into_iter()
            .map(|parcel| match parcel {
                Parcel::Datagram(bytes) | Parcel::Stream(bytes) => bytes.len(),
            })
            .collect();
        assert_eq!(lens, [5, 4, 2, 1, 3]);
    }

    #[test]
    fn what_does_not_fit_waits_and_what_everybody_knows_goes() {
        let mut queue = Broadcasts::default();
        queue.push(Subject::Life(node("x")), Class::Life, message(ROOM), None);
        queue.push(Subject::Life(node("y")), Class::Life, message(10), None);
        assert_eq!(queue.pick(&node("a"), ROOM).len(), 1);
        assert_eq!(queue.retire(&[node("a")], |_| None), [&node("a")]);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.pick(&node("a"), ROOM).len(), 1);
        assert!(queue.retire(&[node("a")], |_| None).is_empty());
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_flush_tells_news_once_and_only_state_goes_to_many() {
        let mut queue = Broadcasts::default();
        queue.push(Subject::Life(node("x")), Class::Life, message(20), None);
        queue.push(Subject::Record(node("r"), RecordKind::Status, 0), Class::Record, message(30), None);
        assert!(queue.has_wide_news());
        assert_eq!(queue.news(&node("near"), Reach::Narrow).len(), 2);
        assert_eq!(queue.news(&node("far"), Reach::Wide), [message(30)]);
        queue.flushed();
        assert!(queue.news(&node("third"), Reach::Narrow).is_empty() && !queue.has_wide_news());
        assert_eq!(queue.pick(&node("far"), ROOM), [message(20)]);
    }

    /// Copies are counted, and who tells us saves half a copy.
    #[test]
    fn an_update_retires_after_its_copies() {
        let mut queue = Broadcasts::default();
        let peers: Vec<NodeName> = (0..40).map(|at| node(&format!("p{at}"))).collect();
        queue.push(Subject::Life(node("x")), Class::Life, message(20), None);
        peers[..4].iter().for_each(|peer| queue.heard(&Subject::Life(node("x")), peer));
        for (at, peer) in peers[4..].iter().enumerate().take(6) {
            assert_eq!(queue.retire(&peers, |_| Some(8)).len(), 36 - at, "{at} were told");
            assert_eq!(queue.pick(peer, ROOM).len(), 1);
        }
        assert!(queue.retire(&peers, |_| Some(8)).is_empty() && queue.len() == 0);
    }

    /// One peer past the last: the oldest loses its place, nobody else is told twice.
    #[test]
    fn peers_beyond_the_bit_sets_take_the_oldest_place() {
        let mut queue = Broadcasts::default();
        let peers: Vec<NodeName> = (0..=PEERS_MAX).map(|at| node(&format!("p{at}"))).collect();
        queue.push(Subject::Life(node("x")), Class::Life, message(20), None);
        assert!(peers.iter().all(|peer| queue.pick(peer, ROOM).len() == 1));
        assert!(peers[1..].iter().all(|peer| queue.was_told(&Subject::Life(node("x")), peer)));
        assert!(!queue.was_told(&Subject::Life(node("x")), &peers[0]));
    }

    #[test]
    fn packing_keeps_order_and_limit() {
        let bodies = pack(vec![vec![0; ROOM - 1].into(), vec![1; 1].into(), vec![2; 1].into()]);
        assert_eq!(bodies.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
