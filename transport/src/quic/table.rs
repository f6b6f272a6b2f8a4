//! One connection per pair of nodes: which of several stays, and what is reported, in order.
//!
//! Two nodes that dial each other at once end up with two connections. Both know which one stays, without asking: the
//! one that the smaller name dialled. A peer whose instance has changed was restarted, and its old connections are
//! over. What one side closes as a duplicate is no event for the pair.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use starling_model::NodeName;

use super::limits::{CHANGES_MAX, CONNECTIONS_MAX, LINKS_PER_PEER_MAX};
use super::{CloseCode, DialTag, DownReason, NetEvent, Pair};

/// A connection that stood longer than this when the other side says that it holds none has died there.
const CROSSING_MAX: Duration = Duration::from_secs(2);

/// After a duplicate was closed from the other side, the one that stays may still be on its way.
pub(super) const REPLACEMENT_WAIT: Duration = Duration::from_secs(1);

/// Names one connection on this endpoint.
pub(super) type Number = u64;

/// One connection that has exchanged hellos.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) connection: quinn::Connection,
    pub(super) facts: LinkFacts,
}

/// What decides about a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkFacts {
    pub(super) number: Number,
    pub(super) dialled: Dialled,
    /// The peer's instance.
    pub(super) instance: u64,
    pub(super) since: Instant,
    /// The peer says that it holds another connection with us.
    pub(super) peer_holds_another: bool,
    pub(super) shown: Shown,
}

/// What the peer's certificates proved, for who sweeps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    pub(super) issuing_key_hash: [u8; 32],
    pub(super) root: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    ByUs,
    /// To replace one that we dialled before.
    Renewed,
    ByPeer,
}

impl Dialled {
    fn is_ours(self) -> bool {
        match self {
            Self::ByUs | Self::Renewed => true,
            Self::ByPeer => false,
        }
    }
}

/// What becomes of a new connection beside the one in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// The new one is used; the others of this pair are closed as duplicates when nothing runs on them any more.
    New,
    /// The new one is used; the others are the dialler's to close, at once or when nothing runs on them any more.
    NewBesideOld,
    /// The peer was restarted: the others are over.
    NewLife,
    /// The new one is a duplicate.
    Held,
}

fn choose(me: &NodeName, peer: &NodeName, held: &LinkFacts, new: &LinkFacts) -> Choice {
    if held.instance != new.instance {
        return Choice::NewLife;
    }
    if held.dialled.is_ours() == new.dialled.is_ours() {
        return match new.dialled {
            // It has just proven to work, which the old one has not.
            Dialled::ByUs => Choice::New,
            Dialled::Renewed | Dialled::ByPeer => Choice::NewBesideOld,
        };
    }
    let is_winner = new.dialled.is_ours() == (me < peer);
    let held_for = new.since.saturating_duration_since(held.since);
    let died_at_peer = !new.peer_holds_another && held_for > CROSSING_MAX;
    if is_winner || died_at_peer { Choice::New } else { Choice::Held }
}

/// How a new connection was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Registered {
    /// It is in use. These are duplicates now, to be retired.
    Kept(Vec<Number>),
    /// It is a duplicate, to be retired; until then it serves.
    Duplicate,
    /// No room.
    Busy,
    /// Trust has changed since its handshake.
    Untrusted,
}

#[derive(Debug, Default)]
struct Slot {
    /// The last one is in use.
    links: Vec<Link>,
}

/// All connections, and the reports about them that nobody has read yet.
#[derive(Debug)]
pub(super) struct Table {
    me: NodeName,
    slots: BTreeMap<NodeName, Slot>,
    changes: VecDeque<NetEvent>,
    next: Number,
    pub(super) duplicates: u64,
    /// Pairs that were disconnected, in the order of [`DownReason::ALL`].
    pub(super) ended: [u64; DownReason::ALL.len()],
}

impl Table {
    pub(super) fn new(me: NodeName) -> Self {
        Self { me, slots: BTreeMap::new(), changes: VecDeque::new(), next: 0, duplicates: 0, ended: Default::default() }
    }

    pub(super) fn next_number(&mut self) -> Number {
        self.next += 1;
        self.next
    }

    pub(super) fn current(&self, peer: &NodeName) -> Option<&Link> {
        self.slots.get(peer)?.links.last()
    }

    pub(super) fn is_current(&self, peer: &NodeName, number: Number) -> bool {
        self.current(peer).is_some_and(|link| link.facts.number == number)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (&NodeName, &Link)> {
        self.slots.iter().filter_map(|(peer, slot)| Some((peer, slot.links.last()?)))
    }

    pub(super) fn links_len(&self) -> usize {
        self.slots.values().map(|slot| slot.links.len()).sum()
    }

    pub(super) fn next_change(&mut self) -> Option<NetEvent> {
        self.changes.pop_front()
    }

    /// A change that concerns no connection: a dial that failed, or one that was not needed.
    pub(super) fn report(&mut self, event: NetEvent) -> bool {
        let has_room = self.changes.len() < CHANGES_MAX;
        if has_room {
            self.changes.push_back(event);
        }
        has_room
    }

    /// Takes a connection whose hello has come, and says who stays.
    pub(super) fn register(&mut self, peer: &NodeName, link: Link, tag: Option<DialTag>) -> Registered {
        if self.links_len() >= CONNECTIONS_MAX || self.changes.len() >= CHANGES_MAX {
            close(&link, CloseCode::Busy);
            return Registered::Busy;
        }
        let me = &self.me;
        let slot = self.slots.entry(peer.clone()).or_default();
        let choice = slot.links.last().map(|held| choose(me, peer, &held.facts, &link.facts));
        if slot.links.len() >= LINKS_PER_PEER_MAX {
            close(&slot.links.remove(0), CloseCode::Duplicate);
        }
        let (mut retire, mut pair) = (Vec::new(), Pair::Same);
        match choice {
            // Also when it replaces one that the peer closed meanwhile: what ran on that is gone.
            None => pair = Pair::New,
            Some(Choice::New) => retire.extend(slot.links.iter().map(|old| old.facts.number)),
            Some(Choice::NewBesideOld) => {}
            Some(Choice::NewLife) => {
                slot.links.drain(..).for_each(|old| close(&old, CloseCode::Stale));
                pair = Pair::New;
            }
            Some(Choice::Held) => {
                // Behind the one in use: the peer may have taken it first and begun something on it.
                slot.links.insert(0, link);
                self.duplicates += 1;
                if tag.is_some() {
                    self.report_up(peer, Pair::Same, tag);
                }
                return Registered::Duplicate;
            }
        }
        slot.links.push(link);
        self.duplicates += retire.len() as u64;
        if choice == Some(Choice::NewLife) {
            self.report_down(peer, DownReason::Reset);
        }
        if pair == Pair::New || tag.is_some() {
            self.report_up(peer, pair, tag);
        }
        Registered::Kept(retire)
    }

    /// Says that the pair is connected, by the connection in use. False when it is not.
    pub(super) fn report_up(&mut self, peer: &NodeName, pair: Pair, dialled: Option<DialTag>) -> bool {
        let Some(link) = self.current(peer) else { return false };
        let (address, rtt) = (canonical(link.connection.remote_address()), link.connection.rtt());
        self.changes.push_back(NetEvent::Up { peer: peer.clone(), address, pair, dialled, rtt });
        true
    }

    fn report_down(&mut self, peer: &NodeName, reason: DownReason) {
        let at = DownReason::ALL.iter().position(|known| *known == reason);
        if let Some(count) = at.and_then(|at| self.ended.get_mut(at)) {
            *count += 1;
        }
        self.changes.push_back(NetEvent::Down { peer: peer.clone(), reason });
    }

    /// Closes a connection that has been replaced, if it is there and another is in use.
    pub(super) fn retire(&mut self, peer: &NodeName, number: Number) {
        let Some(slot) = self.slots.get_mut(peer) else { return };
        let replaced = slot.links.len().saturating_sub(1);
        if let Some(at) = slot.links.iter().take(replaced).position(|link| link.facts.number == number) {
            close(&slot.links.remove(at), CloseCode::Duplicate);
        }
    }

    /// A connection ended by itself. True when the caller should call [`expire`](Self::expire) after
    /// [`REPLACEMENT_WAIT`].
    pub(super) fn ended(&mut self, peer: &NodeName, number: Number, end: End) -> bool {
        let Some(slot) = self.slots.get_mut(peer) else { return false };
        let before = slot.links.len();
        slot.links.retain(|link| link.facts.number != number);
        if slot.links.len() == before || !slot.links.is_empty() {
            return false;
        }
        match end {
            End::Duplicate => true,
            End::Down(reason) => {
                self.slots.remove(peer);
                self.report_down(peer, reason);
                false
            }
        }
    }

    /// The replacement of a duplicate has not come.
    pub(super) fn expire(&mut self, peer: &NodeName) {
        if self.slots.get(peer).is_some_and(|slot| slot.links.is_empty()) {
            self.slots.remove(peer);
            self.report_down(peer, DownReason::Other);
        }
    }

    /// Closes the connections that may not stand; returns how many they were.
    pub(super) fn close_unless(&mut self, keep: impl Fn(&NodeName, &Shown) -> bool) -> u64 {
        let (mut closed, mut gone) = (0, Vec::new());
        for (peer, slot) in &mut self.slots {
            let before = slot.links.len();
            slot.links.retain(|link| {
                let keeps = keep(peer, &link.facts.shown);
                if !keeps {
                    close(link, CloseCode::Untrusted);
                }
                keeps
            });
            closed += (before - slot.links.len()) as u64;
            if before > 0 && slot.links.is_empty() {
                gone.push(peer.clone());
            }
        }
        for peer in gone {
            self.slots.remove(&peer);
            self.report_down(&peer, DownReason::Local);
        }
        closed
    }

    /// Closes every connection with `peer`.
    pub(super) fn close(&mut self, peer: &NodeName, code: CloseCode) {
        if let Some(slot) = self.slots.remove(peer) {
            slot.links.iter().for_each(|link| close(link, code));
            self.report_down(peer, DownReason::Local);
        }
    }
}

/// How a connection ended, as far as the table cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed it in favour of another one.
    Duplicate,
    Down(DownReason),
}

fn close(link: &Link, code: CloseCode) {
    link.connection.close(code.number(), code.word());
}

/// An IPv4 peer of an IPv6 socket is shown as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(dialled: Dialled, instance: u64, since: Instant) -> LinkFacts {
        LinkFacts { number: 0, dialled, instance, since, peer_holds_another: false, shown: Shown::default() }
    }

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    /// Both ends of a pair, whatever they see first, keep the same of two connections that crossed.
    #[test]
    fn both_ends_keep_the_dial_of_the_smaller_name() {
        let now = Instant::now();
        let check = |me: &str, peer: &str, held, new, want| {
            let choice = choose(&name(me), &name(peer), &facts(held, 1, now), &facts(new, 1, now));
            assert_eq!(choice, want, "{me} holds {held:?}, new {new:?}");
        };
        // Of a and b, the connection that a dialled stays.
        check("a", "b", Dialled::ByUs, Dialled::ByPeer, Choice::Held);
        check("a", "b", Dialled::ByPeer, Dialled::ByUs, Choice::New);
        check("b", "a", Dialled::ByUs, Dialled::ByPeer, Choice::New);
        check("b", "a", Dialled::ByPeer, Dialled::ByUs, Choice::Held);
        // Of two dials of one side the newer stays, and only the dialler closes the other.
        check("a", "b", Dialled::ByUs, Dialled::ByUs, Choice::New);
        check("a", "b", Dialled::ByPeer, Dialled::ByPeer, Choice::NewBesideOld);
    }

    #[test]
    fn a_restarted_peer_is_not_locked_out_by_its_former_life() {
        let now = Instant::now();
        let held = facts(Dialled::ByUs, 1, now);
        let new = facts(Dialled::ByPeer, 2, now);
        assert_eq!(choose(&name("a"), &name("b"), &held, &new), Choice::NewLife);
    }

    #[test]
    fn a_connection_that_died_at_the_other_end_only_gives_way() {
        let now = Instant::now();
        let held = facts(Dialled::ByUs, 1, now);
        let new = facts(Dialled::ByPeer, 1, now + CROSSING_MAX + Duration::from_millis(1));
        let (a, b) = (name("a"), name("b"));
        assert_eq!(choose(&a, &b, &held, &new), Choice::New);
        assert_eq!(choose(&a, &b, &held, &LinkFacts { peer_holds_another: true, ..new }), Choice::Held);
        assert_eq!(choose(&a, &b, &held, &LinkFacts { since: now + CROSSING_MAX, ..new }), Choice::Held);
    }
}
