//! Comparing what operators signed. The documents root is exact, so any difference that does not settle by itself ends in
//! a comparison: the lister names the hashes of all that is live here, the comparer sends what the lister lacks and asks
//! for what it lacks itself, revocations first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use starling_model::{Digest, NodeName};

use super::sync::{EXCHANGE_BYTES_MAX, Key};
use super::{Phase, Swim, Synced};
use crate::action::{OperatorClaim, Roots};
use crate::anti_entropy::{Listing, Purpose};
use crate::digest::Mask;
use crate::limits::{DIGEST_ITEMS_MAX, EXCHANGES_MAX, OUTBOUND_SYNCS_MAX, WANT_ITEMS_MAX};
use crate::stats::Drop;
use crate::timers::Timer;
use crate::wire::{Message, SignedDigest};

/// Former roots that we remember: a peer that shows one of them is behind, and what it lacks is on its way.
const PAST_ROOTS: usize = 64;
/// Linked peers hear of a new root at most this often. Acks tell it too, but a peer sees ours once in a round of its
/// probes, 25 s in a mesh of 25; people wait for it.
const ROOTS_PAUSE: Duration = Duration::from_millis(100);
/// For this long what a peer lacks may be on its way.
const UNDER_WAY: Duration = Duration::from_secs(1);

impl Swim {
    /// Remembers the root that was ours until now.
    pub(super) fn root_moved(&mut self, before: u64, now: Instant) {
        if self.operators.root() == before {
            return;
        }
        if self.operators.past.len() >= PAST_ROOTS {
            self.operators.past.pop_front();
        }
        self.operators.past.push_back((now, before));
        self.timers.set_earlier(Timer::Roots, now + ROOTS_PAUSE);
    }

    /// Tells linked peers the root that is ours by now: one small datagram each, and none while nothing changes.
    pub(super) fn tell_roots(&mut self, now: Instant) {
        let root = self.operators.root();
        if self.synced != Synced::Yes || self.phase != Phase::Joined || self.operators.told == root {
            return;
        }
        self.operators.told = root;
        let word = [Message::SyncOpen { roots: self.roots() }];
        for peer in self.listeners(now).iter() {
            self.send(peer, &word);
        }
    }

    /// A peer told its roots. Whether to compare is left to its next ack: while a change spreads, roots differ.
    pub(super) fn on_roots(&mut self, from: &NodeName, roots: Roots) {
        if self.note_roots(from, roots).is_none() {
            self.stats.drop(Drop::UnknownSubject);
        }
    }

    /// Keeps the roots that a peer told; `None` when there is no such member.
    pub(super) fn note_roots(&mut self, from: &NodeName, roots: Roots) -> Option<()> {
        let before = self.members.get_mut(from)?.contact_mut().roots.replace(roots);
        if before.map(|before| before.documents) != Some(roots.documents) {
            self.operators.heard = self.operators.heard.wrapping_add(1);
        }
        Some(())
    }

    /// Changes whenever a peer tells another documents root than before, so that a snapshot of who agrees can follow.
    #[must_use]
    pub fn roots_heard(&self) -> u64 {
        self.operators.heard
    }

    /// An ack showed other documents than ours: compare, unless it settles within two windows.
    pub(super) fn advise_agreement(&mut self, peer: &NodeName, now: Instant) {
        if self.synced == Synced::No || self.operators.due.contains_key(peer) {
            return;
        }
        let at = now + self.config.forward_window * 2;
        self.operators.due.insert(peer.clone(), at);
        self.timers.set_earlier(Timer::Agreement, at);
    }

    /// Begins the comparisons that are due and still needed.
    pub(super) fn agreement_tick(&mut self, now: Instant) {
        if self.phase != Phase::Joined {
            return;
        }
        let due: Vec<NodeName> =
            self.operators.due.iter().filter(|(_, at)| **at <= now).map(|(peer, _)| peer.clone()).collect();
        for peer in due {
            self.operators.due.remove(&peer);
            if self.disagrees(&peer, now) {
                self.start_agreement(&peer, now);
            }
        }
        if let Some(at) = self.operators.due.values().min().copied() {
            self.timers.set(Timer::Agreement, at);
        }
    }

    fn disagrees(&self, peer: &NodeName, now: Instant) -> bool {
        let Some(theirs) =
            self.members.get(peer).and_then(|member| member.contact().roots).map(|roots| roots.documents)
        else {
            return false;
        };
        let ours = self.operators.root();
        let behind = self
            .operators
            .past
            .iter()
            .any(|(until, root)| *root == theirs && now.saturating_duration_since(*until) < UNDER_WAY);
        // Two that stay apart, because one of them is full or trusts another operator, compare at the usual interval.
        let pause = self.config.anti_entropy_among(self.size()) / 4;
        let compared = self.operators.compared.get(peer).is_some_and(|(mine, other, at)| {
            (*mine, *other) == (ours, theirs) && now.saturating_duration_since(*at) < pause
        });
        let open = self.exchanges.iter().any(|((name, _), exchange)| {
            name == peer && matches!(exchange.purpose, Purpose::Sync(_)) && !exchange.closed
        });
        theirs != ours && !behind && !compared && !open && self.links.is_up(peer)
    }

    fn start_agreement(&mut self, peer: &NodeName, now: Instant) {
        let ours = |(key, exchange): &(&Key, &crate::anti_entropy::Exchange)| {
            !key.1.is_inbound() && matches!(exchange.purpose, Purpose::Sync(_))
        };
        if self.exchanges.iter().filter(ours).count() >= OUTBOUND_SYNCS_MAX || self.exchanges.len() >= EXCHANGES_MAX {
            // The next ack asks again.
            return self.stats.drop(Drop::Busy);
        }
        self.note_compared(peer, now);
        self.stats.syncs_started += 1;
        let id = self.open_exchange(peer, Purpose::Sync(Listing::default()), now);
        if let Some(exchange) = self.exchanges.get_mut(&(peer.clone(), id)) {
            exchange.partial = true;
        }
        let mut messages = vec![Message::SyncOpen { roots: self.roots() }];
        messages.extend(self.hashes());
        messages.push(Message::DigestEnd { buckets: Mask::NONE.0 });
        self.send_sync(peer, id, &messages, false);
    }

    fn note_compared(&mut self, peer: &NodeName, now: Instant) {
        if let Some(theirs) = self.members.get(peer).and_then(|member| member.contact().roots) {
            let roots = (self.operators.root(), theirs.documents, now);
            self.operators.compared.insert(peer.clone(), roots);
        }
    }

    /// The hashes of all that is live here, at least one message; nothing for who holds the same as we.
    pub(super) fn hashes_for(&self, theirs: Option<u64>) -> Vec<Message> {
        if theirs == Some(self.operators.root()) { Vec::new() } else { self.hashes() }
    }

    fn hashes(&self) -> Vec<Message> {
        let revocations = self.operators.trust.iter().map(crate::trust::SignedRevocation::digest);
        let documents = self.operators.documents.live().map(crate::documents::SignedDocument::digest);
        let all: Vec<SignedDigest> = revocations.chain(documents).collect();
        let mut messages: Vec<Message> = self.operators.bundles.message().into_iter().collect();
        messages.extend(all.chunks(DIGEST_ITEMS_MAX).map(|chunk| Message::Hashes(chunk.to_vec())));
        if all.is_empty() {
            messages.push(Message::Hashes(Vec::new()));
        }
        messages
    }

    /// What the lister lacks and what we lack, once it has listed; `bytes` counts what is sent.
    pub(super) fn word_differences(&self, listed: &[SignedDigest], bytes: &mut usize) -> Vec<Message> {
        let theirs: BTreeSet<[u8; 32]> = listed.iter().map(|digest| digest.hash).collect();
        let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
        for digest in listed {
            let number = newest.entry(digest.subject).or_default();
            *number = digest.number.max(*number);
        }
        let behind = |ours: &SignedDigest, number: Option<u64>| {
            !theirs.contains(&ours.hash)
                && (ours.in_batch || newest.get(&ours.subject).copied() <= number.or(Some(ours.number)))
        };
        let mut messages: Vec<Message> = self.operators.bundles.message().into_iter().collect();
        for revocation in self.operators.trust.iter().filter(|one| behind(&one.digest(), None)) {
            *bytes += revocation.envelope.len();
            messages.push(Message::Revocation(revocation.envelope.clone()));
        }
        for document in self.operators.documents.live() {
            let digest = document.digest();
            let number = self.operators.documents.newest_of(digest.subject);
            if *bytes < EXCHANGE_BYTES_MAX && behind(&digest, number) {
                *bytes += document.envelope.len();
                messages.push(Message::Document(document.envelope.clone()));
            }
        }
        let wanted: Vec<[u8; 32]> =
            listed.iter().filter(|digest| self.lacks(digest, &newest)).map(|one| one.hash).collect();
        messages.extend(wanted.chunks(WANT_ITEMS_MAX).map(|chunk| Message::WantHashes(chunk.to_vec())));
        messages
    }

    /// Do we want what was listed? What only a document of ours has left behind is not asked for.
    fn lacks(&self, digest: &SignedDigest, newest: &BTreeMap<u64, u64>) -> bool {
        if self.operators.is_refused(&digest.hash) {
            return false;
        }
        match digest.kind {
            OperatorClaim::Revocation => self.operators.trust.get(&digest.hash).is_none(),
            OperatorClaim::Document => {
                let ours = self.operators.documents.newest_of(digest.subject);
                let outdated = ours > newest.get(&digest.subject).copied();
                let held = self.operators.documents.get(&Digest(digest.hash)).is_some();
                !held && !self.room.judges_document(&digest.hash) && (digest.in_batch || !outdated)
            }
        }
    }

    /// What was asked for by hash, as far as it is held and `given` leaves room.
    pub(super) fn wanted_words(&self, hashes: &[[u8; 32]], given: &mut usize) -> Vec<Message> {
        let mut messages = Vec::new();
        for hash in hashes {
            if *given >= EXCHANGE_BYTES_MAX {
                break;
            }
            if let Some(revocation) = self.operators.trust.get(hash) {
                *given += revocation.envelope.len();
                messages.push(Message::Revocation(revocation.envelope.clone()));
            } else if let Some(document) = self.operators.documents.get(&Digest(*hash)) {
                *given += document.envelope.len();
                messages.push(Message::Document(document.envelope.clone()));
            }
        }
        messages
    }

    /// The comparer asks by hash: only the lister answers, and only while its half is open.
    pub(super) fn on_want_hashes(&mut self, key: &Key, hashes: &[[u8; 32]]) {
        let sync = |purpose: &Purpose| matches!(purpose, Purpose::Sync(_));
        let open = self.exchanges.get(key).filter(|exchange| !exchange.closed && sync(&exchange.purpose));
        let Some(mut given) = open.map(|exchange| exchange.given) else {
            return self.stats.drop(Drop::StrayFrame);
        };
        let messages = self.wanted_words(hashes, &mut given);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.given = given;
        }
        self.send_sync(&key.0, key.1, &messages, false);
    }
}
