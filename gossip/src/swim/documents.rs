//! What operators signed, in: documents and revocations of peers and of our own store, what a verdict does with them, and
//! the news that follow.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_model::{Digest, DocumentKey, NodeName};

use super::{Phase, Swim, Synced};
use crate::action::{
    Alarm, Change, DocumentView, DocumentsEvent, Event, OperatorClaim, RevocationView, SignedClaim, SubmitId, Ticket,
    Verdict, Void,
};
use crate::broadcasts::{Class, Subject};
use crate::documents::{Changes, Documents, SignedDocument, Unfit};
use crate::fetches::Fetches;
use crate::limits::{REFUSED_MAX, SIGNATURE_BYTES};
use crate::replica::{Item, Source, Via};
use crate::stats::Drop;
use crate::timers::Timer;
use crate::trust::{SignedRevocation, Trust};
use crate::wire::{Message, SignedDigest};

/// A word whose signature counted for nothing is not asked for again this long: the bundle may change meanwhile.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Everything that this machine holds of operators' words.
#[derive(Debug, Default)]
pub(super) struct Operators {
    pub(super) documents: Documents,
    pub(super) trust: Trust,
    pub(super) bundles: super::bundles::Bundles,
    pub(super) submissions: BTreeMap<SubmitId, super::submit::Submission>,
    pub(super) judging: BTreeMap<Ticket, (SubmitId, usize)>,
    /// What was asked for.
    pub(super) fetches: Fetches<[u8; 32]>,
    /// Whose signatures counted for nothing, since when.
    pub(super) refused: BTreeMap<[u8; 32], Instant>,
    /// Nodes with revocations, and the last ticket that was judged without the newest of them.
    revoked: BTreeMap<NodeName, Ticket>,
    /// Peers whose acks showed other documents, and when to compare.
    pub(super) due: BTreeMap<NodeName, Instant>,
    /// The roots that the last comparison with a peer was about, ours first.
    pub(super) compared: BTreeMap<NodeName, (u64, u64, Instant)>,
    /// What is judged again because trust changed.
    pub(super) rejudging: super::rejudging::Rejudging,
    /// The root that linked peers were told last, besides in acks.
    pub(super) told: u64,
    /// How often a peer told another documents root than before.
    pub(super) heard: u64,
    /// Our former roots, and when they ceased to be ours.
    pub(super) past: VecDeque<(Instant, u64)>,
}

/// From where a document came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin<'a> {
    Submitted,
    Source(&'a Source),
}

impl Origin<'_> {
    fn peer(&self) -> Option<&NodeName> {
        match self {
            Self::Submitted => None,
            Self::Source(source) => source.from.as_ref(),
        }
    }

    fn is_snapshot(&self) -> bool {
        matches!(self, Self::Source(source) if source.via == Via::Snapshot)
    }
}

impl Operators {
    pub(super) fn root(&self) -> u64 {
        self.documents.root().wrapping_add(self.trust.root()).wrapping_add(self.bundles.root())
    }

    /// Is this hash known to count for nothing?
    pub(super) fn is_refused(&self, hash: &[u8; 32]) -> bool {
        self.refused.contains_key(hash)
    }

    pub(super) fn refuse(&mut self, hash: [u8; 32], now: Instant) {
        if self.refused.len() < REFUSED_MAX {
            self.refused.insert(hash, now);
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.refused.retain(|_, since| now.saturating_duration_since(*since) < REFUSED_PAUSE);
    }
}

/// The question that a signed word asks of the driver.
pub(super) fn operator_claim(kind: OperatorClaim, signer: starling_model::KeyId, envelope: &Bytes) -> SignedClaim {
    // Whoever read the form has split it here before.
    let split = envelope.len().saturating_sub(SIGNATURE_BYTES);
    let signature = envelope.last_chunk().copied().unwrap_or([0; SIGNATURE_BYTES]);
    SignedClaim::Operator { kind, signer, body: envelope.slice(..split), signature }
}

/// How a verdict on an operator's word is counted.
pub(super) fn reason(verdict: Verdict) -> Drop {
    match verdict {
        Verdict::Void(Void::UnknownKey) => Drop::UnknownSigner,
        Verdict::Void(Void::Role) => Drop::SignerRole,
        Verdict::Void(Void::BadSignature) => Drop::BadOperatorSignature,
        Verdict::Refused | Verdict::Valid | Verdict::Credential { .. } => Drop::Refused,
    }
}

impl Swim {
    /// All documents as they are in use, deleted ones included.
    pub fn documents(&self) -> impl Iterator<Item = DocumentView> + '_ {
        self.operators.documents.all_used().map(SignedDocument::view)
    }

    /// True once what the store held was judged: before, a document may be missing that is in use.
    #[must_use]
    pub fn documents_settled(&self) -> bool {
        self.operators.documents.is_settled()
    }

    /// All documents of which a version is held, whether or not one is in use.
    pub fn document_keys(&self) -> impl Iterator<Item = &DocumentKey> {
        self.operators.documents.keys()
    }

    /// All versions that are held of one document, the newest first: up to ten generations, and those that wait.
    pub fn document_versions<'a>(&'a self, key: &DocumentKey) -> impl Iterator<Item = DocumentView> + use<'a> {
        self.operators.documents.versions(key).map(SignedDocument::view)
    }

    /// All revocations in force.
    pub fn revocations(&self) -> impl Iterator<Item = RevocationView> + '_ {
        self.operators.trust.iter().map(SignedRevocation::view)
    }

    /// A document's body: part of a comparison, or the answer to a fetch (`via` is then gossip).
    pub(super) fn on_document(&mut self, from: &NodeName, envelope: &Bytes, via: Via, now: Instant) {
        match SignedDocument::read(envelope) {
            Ok(document) => {
                let asked = self.operators.fetches.answered(&document.version.hash.0);
                if via == Via::Gossip && !asked {
                    return self.stats.drop(Drop::UnaskedAnswer);
                }
                let source = Source { from: Some(from.clone()), via };
                self.offer(Item::Document(Box::new(document)), source, now);
            }
            Err(_) => self.stats.drop(Drop::Refused),
        }
    }

    /// A revocation, by whichever way.
    pub(super) fn on_revocation(&mut self, from: &NodeName, envelope: &Bytes, via: Via, now: Instant) {
        match SignedRevocation::read(envelope) {
            Ok(revocation) => {
                let source = Source { from: Some(from.clone()), via };
                self.offer(Item::Revocation(Box::new(revocation)), source, now);
            }
            Err(_) => self.stats.drop(Drop::Refused),
        }
    }

    /// A document exists at `from`; its hash when we shall fetch it.
    pub(super) fn on_have_document(
        &mut self,
        from: &NodeName,
        digest: &SignedDigest,
        now: Instant,
    ) -> Option<[u8; 32]> {
        let operators = &self.operators;
        if operators.documents.get(&Digest(digest.hash)).is_some() {
            self.broadcasts.heard(&Subject::Document(digest.hash), from);
            return None;
        }
        let outdated = operators.documents.newest_of(digest.subject).is_some_and(|newest| newest > digest.number);
        let fetch = if operators.is_refused(&digest.hash) {
            Err(Drop::Refused)
        } else if self.room.judges_document(&digest.hash) {
            Err(Drop::Duplicate)
        } else if outdated {
            // Should a batch need it all the same, a comparison brings it.
            Err(Drop::Stale)
        } else {
            self.operators.fetches.mention(digest.hash, from, now)
        };
        if let Err(why) = fetch {
            if let Some(at) = self.operators.fetches.overdue_at(&digest.hash) {
                self.timers.set_earlier(Timer::Fetches, at.max(now));
            }
            self.stats.drop(why);
        }
        fetch.is_ok().then_some(digest.hash)
    }

    pub(super) fn admit_document(
        &mut self,
        document: &SignedDocument,
        source: &Source,
        now: Instant,
    ) -> Result<(), Drop> {
        let hash = document.version.hash.0;
        if self.operators.is_refused(&hash) && source.via != Via::Snapshot {
            return Err(Drop::Refused);
        }
        let unfit = self.operators.documents.admits(document).err();
        if let (Some(Unfit::Held), Some(from)) = (unfit, &source.from) {
            self.broadcasts.heard(&Subject::Document(hash), from);
        }
        unfit.map_or(Ok(()), |unfit| Err(self.unfit(unfit, now)))
    }

    pub(super) fn admit_revocation(
        &mut self,
        revocation: &SignedRevocation,
        source: &Source,
        now: Instant,
    ) -> Result<(), Drop> {
        if self.operators.is_refused(&revocation.hash) && source.via != Via::Snapshot {
            return Err(Drop::Refused);
        }
        let unfit = self.operators.trust.admits(revocation).err();
        if let (Some(Unfit::Held), Some(from)) = (unfit, &source.from) {
            self.broadcasts.heard(&Subject::Revocation(revocation.hash), from);
        }
        unfit.map_or(Ok(()), |unfit| Err(self.unfit(unfit, now)))
    }

    fn unfit(&mut self, unfit: Unfit, now: Instant) -> Drop {
        match unfit {
            Unfit::Held => Drop::Duplicate,
            Unfit::Stale => Drop::Stale,
            Unfit::Full => {
                self.alarm(Alarm::TableFull, now);
                Drop::TableFull
            }
        }
    }

    /// The verdict on a document that came from elsewhere.
    pub(super) fn document_judged(
        &mut self,
        document: SignedDocument,
        verdict: Verdict,
        source: &Source,
        now: Instant,
    ) {
        let hash = document.version.hash;
        if verdict != Verdict::Valid {
            self.word_refused(OperatorClaim::Document, verdict, source, now);
            self.operators.refuse(hash.0, now);
            if source.via == Via::Snapshot {
                self.persist(|| Change::ForgetDocument { hash });
            }
            return;
        }
        if let Err(unfit) = self.hold_document(document, Origin::Source(source), now) {
            let why = self.unfit(unfit, now);
            self.stats.drop(why);
        }
    }

    /// Counted, and told of each peer and reason once a minute.
    fn word_refused(&mut self, kind: OperatorClaim, verdict: Verdict, source: &Source, now: Instant) {
        self.stats.drop(reason(verdict));
        if let (Verdict::Void(why), Some(from)) = (verdict, source.from.clone()) {
            self.alarm(Alarm::WordRefused { from, kind, why }, now);
        }
    }

    /// Takes in a verified document: store, news, and on to the others.
    pub(super) fn hold_document(
        &mut self,
        document: SignedDocument,
        origin: Origin<'_>,
        now: Instant,
    ) -> Result<(), Unfit> {
        let (key, hash, bytes) = (document.key().clone(), document.version.hash, document.envelope.clone());
        let (digest, batched) = (document.digest(), document.head.batch.is_some());
        let before = self.operators.root();
        let changes = self.operators.documents.insert(document, now)?;
        self.root_moved(before, now);
        if !origin.is_snapshot() {
            let durable = matches!(origin, Origin::Submitted);
            self.persist(|| Change::Document { key, hash, bytes, durable });
        }
        let live = changes.live;
        self.tell_changes(changes);
        if batched {
            self.timers.set_earlier(Timer::Batches, now + crate::documents::BATCH_PATIENCE);
        }
        if live && self.passes_on(origin) {
            let subject = Subject::Document(hash.0);
            self.spread(subject, Class::Document, &Message::HaveDocument(digest), origin.peer(), now);
        }
        Ok(())
    }

    /// A newcomer does not tell the mesh what the mesh has just told it.
    fn passes_on(&self, origin: Origin<'_>) -> bool {
        match origin {
            Origin::Submitted => true,
            Origin::Source(source) => match source.via {
                Via::Gossip => true,
                Via::Sync => self.synced == Synced::Yes,
                Via::Snapshot => false,
            },
        }
    }

    pub(super) fn tell_changes(&mut self, changes: Changes) {
        for hash in changes.faded {
            self.broadcasts.remove(&Subject::Document(hash.0));
        }
        for hash in changes.forgotten {
            self.persist(|| Change::ForgetDocument { hash });
        }
        if !self.operators.documents.is_settled() {
            return;
        }
        if !changes.activated.is_empty() {
            let documents = changes.activated.iter().map(SignedDocument::view).collect();
            self.emit(Event::Documents(DocumentsEvent::Activated { documents }));
        }
        if let Some(known) = changes.known {
            let (key, version) = (known.key().clone(), known.version);
            self.emit(Event::Documents(DocumentsEvent::Known { document: known.view() }));
            if changes.conflict_ended {
                self.emit(Event::Documents(DocumentsEvent::ConflictEnded { key, version }));
            }
        }
        if let Some(winner) = changes.conflict.first()
            && let Some(document) = self.operators.documents.get(&winner.hash)
        {
            let key = document.key().clone();
            self.emit(Event::Documents(DocumentsEvent::Conflict { key, versions: changes.conflict }));
        }
    }

    /// Once what the store held was judged, all of it counts at once.
    pub(super) fn settle_documents(&mut self, now: Instant) {
        if self.phase != Phase::Joined || self.operators.documents.is_settled() || self.restores_words() {
            return;
        }
        let before = self.operators.root();
        for changes in self.operators.documents.settle(now) {
            self.tell_changes(changes);
        }
        self.root_moved(before, now);
        self.batches_overdue(now);
    }

    /// Reports batches whose time is over.
    pub(super) fn batches_overdue(&mut self, now: Instant) {
        for (batch, present) in self.operators.documents.overdue(now) {
            self.emit(Event::Documents(DocumentsEvent::Incomplete { batch, present }));
        }
        if let Some(at) = self.operators.documents.next_overdue() {
            self.timers.set(Timer::Batches, at.max(now));
        }
    }

    /// The verdict on a revocation that came from elsewhere.
    pub(super) fn revocation_judged(
        &mut self,
        revocation: SignedRevocation,
        verdict: Verdict,
        source: &Source,
        now: Instant,
    ) {
        let hash = revocation.hash;
        // It was in force here: a key that signs no more undoes none of its revocations (security.md, 9).
        let was_in_force = source.via == Via::Snapshot
            && matches!(verdict, Verdict::Void(Void::UnknownKey) | Verdict::Void(Void::Role));
        if verdict != Verdict::Valid && !was_in_force {
            self.word_refused(OperatorClaim::Revocation, verdict, source, now);
            self.operators.refuse(hash, now);
            if source.via == Via::Snapshot {
                self.persist(|| Change::ForgetRevocation { hash });
            }
            return;
        }
        if let Err(unfit) = self.hold_revocation(revocation, Origin::Source(source), now) {
            let why = self.unfit(unfit, now);
            self.stats.drop(why);
        }
    }

    /// Takes in a verified revocation: store, news, what it undoes here, and on to the others.
    pub(super) fn hold_revocation(
        &mut self,
        revocation: SignedRevocation,
        origin: Origin<'_>,
        now: Instant,
    ) -> Result<(), Unfit> {
        let (node, hash, bytes) = (revocation.said.node.clone(), revocation.hash, revocation.envelope.clone());
        let view = revocation.view();
        let before = self.operators.root();
        let gone = self.operators.trust.insert(revocation)?;
        self.root_moved(before, now);
        if !origin.is_snapshot() {
            self.persist(|| Change::Revocation { node: node.clone(), hash, bytes: bytes.clone() });
        }
        for hash in gone {
            self.broadcasts.remove(&Subject::Revocation(hash));
            self.persist(|| Change::ForgetRevocation { hash });
        }
        self.emit(Event::Revoked(view));
        self.operators.revoked.insert(node.clone(), Ticket(self.next_ticket));
        self.judge_credentials_anew(&node, now);
        if self.passes_on(origin) {
            let message = Message::Revocation(bytes);
            self.spread(Subject::Revocation(hash), Class::Revocation, &message, origin.peer(), now);
        }
        Ok(())
    }

    /// What a revoked node said rests on its credentials: each of them needs a verdict that counts the revocation.
    pub(super) fn judge_credentials_anew(&mut self, node: &NodeName, now: Instant) {
        if *node == self.me.name {
            return;
        }
        for credential in self.credentials.take(node) {
            let item = Item::Credential { owner: node.clone(), hash: credential.hash, bytes: credential.bytes.clone() };
            self.offer(item, Source { from: None, via: Via::Sync }, now);
        }
    }

    /// True for a verdict that was asked for before the newest revocation of this node was known.
    pub(super) fn predates_revocation(&self, owner: &NodeName, ticket: Ticket) -> bool {
        self.operators.revoked.get(owner).is_some_and(|last| ticket <= *last)
    }

    pub(super) fn is_revoked(&self, owner: &NodeName) -> bool {
        self.operators.revoked.contains_key(owner)
    }

    pub(super) fn sweep_operators(&mut self, now: Instant) {
        self.operators.sweep(now);
        self.sweep_submissions(now);
        self.fetches_overdue(now);
        let links = &self.links;
        self.operators.compared.retain(|peer, _| links.is_up(peer));
        self.operators.due.retain(|peer, _| links.is_up(peer));
        self.stats.documents = self.operators.documents.len();
        self.stats.documents_bytes = self.operators.documents.bytes();
        self.stats.documents_conflicting = self.operators.documents.conflicting();
        self.stats.batches_incomplete = self.operators.documents.awaited();
        self.stats.revocations = self.operators.trust.len();
    }
}
