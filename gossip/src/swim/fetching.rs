//! Asking one peer for something that it has, on a stream of its own: documents, members and records that it announced,
//! and credentials that certify what it told.

use std::collections::BTreeMap;
use std::time::Instant;

use starling_model::{MemberState, NodeName};

use super::Swim;
use crate::action::ExchangeId;
use crate::anti_entropy::{Holding, Purpose, compare_member};
use crate::broadcasts::Subject;
use crate::limits::{EXCHANGES_MAX, EXCHANGES_PER_PEER_MAX, WANT_ITEMS_MAX};
use crate::members::Member;
use crate::stats::Drop;
use crate::timers::Timer;
use crate::wire::{MemberDigest, Message, Want};

impl Swim {
    /// Asks one peer for something; the answer comes on the stream.
    pub(super) fn fetch(&mut self, from: &NodeName, wants: Vec<Want>, now: Instant) {
        self.fetch_message(from, Message::Want(wants), now);
    }

    /// Asks one peer on a stream of its own; false when no stream could be had.
    pub(super) fn fetch_message(&mut self, from: &NodeName, question: Message, now: Instant) -> bool {
        let least = ExchangeId(0);
        let same = self.exchanges.range((from.clone(), least)..).take_while(|((peer, _), _)| peer == from).count();
        // What one peer claims to have must not take the streams that comparisons with others need.
        if !self.links.is_up(from) || same >= EXCHANGES_PER_PEER_MAX || self.exchanges.len() >= EXCHANGES_MAX {
            self.stats.drop(Drop::Busy);
            return false;
        }
        let id = self.open_exchange(from, Purpose::Fetch, now);
        self.send_sync(from, id, &[question], true);
        true
    }

    /// Asks `from` for documents that it says it has.
    pub(super) fn fetch_documents(&mut self, from: &NodeName, hashes: &[[u8; 32]], now: Instant) {
        for chunk in hashes.chunks(WANT_ITEMS_MAX) {
            if !self.fetch_message(from, Message::WantHashes(chunk.to_vec()), now) {
                // The next one who says so is asked at once.
                for hash in chunk {
                    self.operators.fetches.answered(hash);
                }
            }
        }
    }

    /// `from` has this, and we lack it: it is asked at the end of the turn, together with all else that the turn lacks of
    /// it, or later should somebody else be asked already and stay silent.
    pub(super) fn want(&mut self, want: Want, from: &NodeName, now: Instant) {
        match self.fetches.mention(want.clone(), from, now) {
            Ok(()) => self.wants.entry(from.clone()).or_default().push(want),
            Err(Drop::Duplicate) => {
                if let Some(at) = self.fetches.overdue_at(&want) {
                    self.timers.set_earlier(Timer::Fetches, at.max(now));
                }
            }
            Err(why) => self.stats.drop(why),
        }
    }

    /// `from` told something that rests on this credential.
    pub(super) fn want_credential(&mut self, owner: NodeName, hash: [u8; 32], from: &NodeName, now: Instant) {
        if !self.room.judges(&owner, &hash) {
            self.want(Want::Credential(owner, hash), from, now);
        }
    }

    /// Lives that exist at `from`: while much is told at once, nodes say what they have, and who lacks it asks.
    pub(super) fn on_have_members(&mut self, from: &NodeName, list: &[MemberDigest], now: Instant) {
        for theirs in list {
            if theirs.name == self.me.name {
                continue;
            }
            let held = self.members.get(&theirs.name).filter(|member| member.state != MemberState::Joining);
            let ours = held.map(Member::holding);
            if ours.is_some_and(|ours| ours.proof == theirs.proof) {
                self.broadcasts.heard(&Subject::Life(theirs.name.clone()), from);
                self.stats.drop(Drop::Duplicate);
            } else if !compare_member(ours, Some(Holding::listed(theirs))).want {
                self.stats.drop(Drop::Stale);
            } else if !self.room.holds_life(theirs.proof) {
                self.want(Want::Member(theirs.name.clone()), from, now);
            }
        }
    }

    /// Asks for what the turn lacked.
    pub(super) fn send_wants(&mut self, now: Instant) {
        for (from, wants) in std::mem::take(&mut self.wants) {
            for chunk in wants.chunks(WANT_ITEMS_MAX) {
                if !self.fetch_message(&from, Message::Want(chunk.to_vec()), now) {
                    // The next one who tells it is asked at once.
                    for want in chunk {
                        self.fetches.answered(want);
                    }
                }
            }
        }
    }

    fn arm_fetches(&mut self, now: Instant) {
        let next = self.fetches.next_overdue().into_iter().chain(self.operators.fetches.next_overdue()).min();
        if let Some(at) = next {
            self.timers.set_earlier(Timer::Fetches, at.max(now));
        }
    }

    /// The streams of this peer are gone, and with them its answers.
    pub(super) fn fetches_lost(&mut self, peer: &NodeName, now: Instant) {
        for (from, hash) in self.operators.fetches.lost(peer, now) {
            self.fetch_documents(&from, &[hash], now);
        }
        for (from, want) in self.fetches.lost(peer, now) {
            self.wants.entry(from).or_default().push(want);
        }
        self.send_wants(now);
    }

    /// Who was asked stays silent: the next one is asked.
    pub(super) fn fetches_overdue(&mut self, now: Instant) {
        let mut by_peer: BTreeMap<NodeName, Vec<[u8; 32]>> = BTreeMap::new();
        for (from, hash) in self.operators.fetches.overdue(now) {
            by_peer.entry(from).or_default().push(hash);
        }
        for (from, hashes) in by_peer {
            self.fetch_documents(&from, &hashes, now);
        }
        for (from, want) in self.fetches.overdue(now) {
            self.wants.entry(from).or_default().push(want);
        }
        self.send_wants(now);
        self.arm_fetches(now);
    }
}
