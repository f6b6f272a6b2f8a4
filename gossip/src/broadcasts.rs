//! What to retell (SWIM 4.1): updates keyed by subject, the newest replacing the older, so the queue is never longer than
//! what there is to know. Least-told first, bounded copies, and one version never twice to one target.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use starling_model::{NodeName, RecordKind};

use crate::limits::DATAGRAMS_PER_FLUSH_MAX;
use crate::wire::DATAGRAM_MESSAGE_MAX;

/// What an update is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The newest `alive` or `leave` of a member.
    Life(NodeName),
    /// The newest doubt about it.
    Doubt(NodeName),
    /// One shard of one record.
    Record(NodeName, RecordKind, u8),
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// What this node says about itself: a refutation must overtake the doubt.
    Own,
    Doubt,
    Life,
    Record,
}

/// How an update travels to one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parcel {
    /// In a datagram, together with others.
    Datagram(Bytes),
    /// Alone, on a stream.
    Stream(Bytes),
}

#[derive(Clone, Debug)]
struct Update {
    class: Class,
    parcel: Parcel,
    told: BTreeSet<NodeName>,
    sent: u32,
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broadcasts {
    updates: BTreeMap<Subject, Update>,
}

/// Room for messages in one datagram.
pub(crate) const ROOM: usize = DATAGRAM_MESSAGE_MAX;

impl Broadcasts {
    /// Queues an update; it replaces what was queued about the subject. `knows` is whoever told us.
    pub(crate) fn push(&mut self, subject: Subject, class: Class, parcel: Parcel, knows: Option<&NodeName>) {
        let told = knows.into_iter().cloned().collect();
        self.updates.insert(subject, Update { class, parcel, told, sent: 0 });
    }

    /// `peer` told us the same: it needs no telling.
    pub(crate) fn heard(&mut self, subject: &Subject, peer: &NodeName) {
        if let Some(update) = self.updates.get_mut(subject) {
            update.told.insert(peer.clone());
        }
    }

    /// Has `peer` heard the queued update about this?
    pub(crate) fn was_told(&self, subject: &Subject, peer: &NodeName) -> bool {
        self.updates.get(subject).is_some_and(|update| update.told.contains(peer))
    }

    /// The subject is settled otherwise.
    pub(crate) fn remove(&mut self, subject: &Subject) {
        self.updates.remove(subject);
    }

    /// Everything about this name.
    pub(crate) fn forget(&mut self, name: &NodeName) {
        self.updates.retain(|subject, _| match subject {
            Subject::Life(about) | Subject::Doubt(about) | Subject::Record(about, _, _) => about != name,
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.updates.len()
    }

    /// What `target` shall hear, at most `room` bytes of datagram messages besides streams. Marked as told.
    pub(crate) fn pick(&mut self, target: &NodeName, room: usize) -> Vec<Parcel> {
        let mut order: Vec<(Class, u32, &Subject)> = self
            .updates
            .iter()
            .filter(|(_, update)| !update.told.contains(target))
            .map(|(subject, update)| (update.class, update.sent, subject))
            .collect();
        order.sort_unstable();
        let (mut left, mut chosen) = (room, Vec::new());
        for (_, _, subject) in order {
            match self.updates.get(subject).map(|update| &update.parcel) {
                Some(Parcel::Datagram(message)) if message.len() > left => continue,
                Some(Parcel::Datagram(message)) => left -= message.len(),
                // Piggybacked picks have little room; streams wait for a flush.
                Some(Parcel::Stream(_)) if room <= ROOM => continue,
                Some(Parcel::Stream(_)) | None => {}
            }
            chosen.push(subject.clone());
        }
        let mut parcels = Vec::with_capacity(chosen.len());
        for subject in chosen {
            if let Some(update) = self.updates.get_mut(&subject) {
                update.told.insert(target.clone());
                update.sent += 1;
                parcels.push(update.parcel.clone());
            }
        }
        parcels
    }

    /// Room of one flush to one target.
    pub(crate) fn flush_room() -> usize {
        ROOM * DATAGRAMS_PER_FLUSH_MAX
    }

    /// Drops what was told often enough: to all of `targets`, or, in a mesh too large for that, `copies` times.
    pub(crate) fn retire(&mut self, targets: &[NodeName], copies: Option<u32>) {
        self.updates.retain(|_, update| {
            let enough = copies.is_some_and(|copies| update.sent >= copies);
            !enough && targets.iter().any(|target| !update.told.contains(target))
        });
    }

    /// True when `target` has something to hear.
    pub(crate) fn owes(&self, target: &NodeName) -> bool {
        self.updates.values().any(|update| !update.told.contains(target))
    }
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
        queue.retire(&[node("a")], None);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.pick(&node("a"), ROOM).len(), 1);
        queue.retire(&[node("a")], None);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn packing_keeps_order_and_limit() {
        let bodies = pack(vec![vec![0; ROOM - 1].into(), vec![1; 1].into(), vec![2; 1].into()]);
        assert_eq!(bodies.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
