//! Signed things in: what may wait for a verdict, what a verdict does, and the records that follow.

use std::sync::Arc;
use std::time::Instant;

use starling_model::{MemberState, NodeName, RecordKind};

use super::documents::operator_claim;
use super::{Swim, Synced};
use crate::action::{Action, Alarm, Change, ClaimKind, Event, OperatorClaim, SignedClaim, Ticket, Verdict};
use crate::announced::Announced;
use crate::broadcasts::{Class, Subject};
use crate::digest::{self, of_life, of_record};
use crate::limits::MEMBERS_MAX;
use crate::members::Member;
use crate::payload;
use crate::replica::{Credential, Item, Source, Via, Waiting};
use crate::stats::Drop;
use crate::wire::{HashedLife, LifeClaim, Message, RecordParts, SignedLife};

impl Swim {
    /// Takes something unverified, if it could be news, into the waiting room.
    pub(super) fn offer(&mut self, item: Item, source: Source, now: Instant) {
        let admitted = match &item {
            Item::Credential { owner, hash, .. } => self.admit_credential(owner, hash),
            Item::Life { claim, signed, .. } => self.admit_life(claim, signed, &source),
            Item::Record { parts, bytes } => self.admit_record(parts, bytes, &source, now),
            Item::Document(document) => self.admit_document(document, &source, now),
            Item::Revocation(revocation) => self.admit_revocation(revocation, &source, now),
        };
        if let Err(why) = admitted {
            return self.stats.drop(why);
        }
        let lacking = item.credential().filter(|(hash, owner)| self.credentials.get(owner, hash).is_none());
        let from = source.from.clone();
        let waiting = self.room.enter(item, source, now);
        // Whoever tells it again can be asked as well, should the first stay silent.
        if let (Ok(_) | Err(Drop::Duplicate), Some(key), Some(from)) = (&waiting, &lacking, &from) {
            let (hash, owner) = key.clone();
            self.want_credential(owner, hash, from, now);
        }
        match (waiting, lacking) {
            (Err(why), _) => self.stats.drop(why),
            (Ok(waiting), None) => self.ask(waiting),
            (Ok(waiting), Some(key)) => self.room.block(key, waiting),
        }
    }

    fn admit_credential(&self, owner: &NodeName, hash: &[u8; 32]) -> Result<(), Drop> {
        if self.credentials.get(owner, hash).is_some() {
            return Err(Drop::Duplicate);
        }
        if !self.credentials.knows(owner) && self.credentials.owners() > MEMBERS_MAX {
            return Err(Drop::TableFull);
        }
        Ok(())
    }

    fn admit_life(&mut self, claim: &LifeClaim, signed: &SignedLife, source: &Source) -> Result<(), Drop> {
        let name = claim.name();
        if *name == self.me.name {
            // Only a life that is not below ours, and not ours, is worth a verdict.
            let ours = self.own_life.as_ref().is_some_and(|own| own == signed);
            let tag = match claim {
                LifeClaim::Alive(alive) => Some(alive.tag),
                LifeClaim::Leave(_) => None,
            };
            let outdated = claim.life() < self.life || tag == Some(self.me.instance_tag);
            return if ours || outdated { Err(Drop::Duplicate) } else { Ok(()) };
        }
        let Some(member) = self.members.get(name) else { return Ok(()) };
        let known = match claim {
            LifeClaim::Alive(_) => member.announced().is(signed),
            LifeClaim::Leave(_) => member.contact().leave.as_ref().is_some_and(|leave| leave.is(signed)),
        };
        if known {
            if let Some(from) = &source.from {
                self.broadcasts.heard(&Subject::Life(name.clone()), from);
            }
            return Err(Drop::Duplicate);
        }
        if claim.life() < member.life() {
            let (name, from) = (name.clone(), source.from.clone());
            if let Some(from) = from.filter(|from| source.via == Via::Gossip && *from == name) {
                // The member itself speaks with an old life: it must learn of the newer one that we hold.
                if let Some(member) = self.members.get(&name) {
                    let newest = member.newest();
                    self.send(&from, &[Message::Life(newest)]);
                }
            }
            return Err(Drop::Stale);
        }
        Ok(())
    }

    fn admit_record(&mut self, parts: &RecordParts, bytes: &[u8], source: &Source, now: Instant) -> Result<(), Drop> {
        let head = &parts.head;
        if head.owner == self.me.name {
            return self.admit_own_record(parts, bytes);
        }
        if !self.records.is_newer(head) {
            let held = self.records.get(&head.owner, head.kind, head.shard).map(|held| held.version);
            if held != Some(head.version) {
                return Err(Drop::Stale);
            }
            if let Some(from) = &source.from {
                let subject = Subject::Record(head.owner.clone(), head.kind, head.shard);
                self.broadcasts.heard(&subject, from);
            }
            return Err(Drop::Duplicate);
        }
        let left = self.members.get(&head.owner);
        if left.is_some_and(|member| member.state == MemberState::Left && head.version.epoch <= member.life().epoch) {
            return Err(Drop::Stale);
        }
        self.records.admits(head, bytes.len())?;
        // Not verified yet, so nothing is taken: a forger must not spend what the owner has.
        let has = match source.via {
            Via::Gossip => self.quota.has(&head.owner, now),
            Via::Sync => self.sync_quota.has(&head.owner, now),
            Via::Snapshot => true,
        };
        if has { Ok(()) } else { Err(Drop::OwnerRate) }
    }

    /// One verified write of an owner, by the way it came: a comparison may bring all shards at once.
    fn takes_write(&mut self, owner: &NodeName, via: Via, now: Instant) -> bool {
        match via {
            Via::Gossip => self.quota.take(owner, now),
            Via::Sync => self.sync_quota.take(owner, now),
            Via::Snapshot => true,
        }
    }

    fn ask(&mut self, waiting: Box<Waiting>) {
        let claim = match &waiting.item {
            Item::Credential { owner, bytes, .. } => {
                SignedClaim::Credential { owner: owner.clone(), bytes: bytes.clone() }
            }
            Item::Life { claim, signed, .. } => {
                let Some(key) = self.credentials.get(claim.name(), claim.credential()) else {
                    return self.dismiss(&waiting, Drop::Refused);
                };
                SignedClaim::Owned {
                    owner: claim.name().clone(),
                    record_key: key.record_key,
                    kind: ClaimKind::Life,
                    body: signed.body.clone(),
                    signature: signed.signature,
                }
            }
            Item::Record { parts, .. } => {
                let Some(key) = self.credentials.get(&parts.head.owner, &parts.head.statement) else {
                    return self.dismiss(&waiting, Drop::Refused);
                };
                SignedClaim::Owned {
                    owner: parts.head.owner.clone(),
                    record_key: key.record_key,
                    kind: ClaimKind::Record,
                    body: parts.signed.clone(),
                    signature: parts.signature,
                }
            }
            Item::Document(document) => {
                operator_claim(OperatorClaim::Document, document.version.signer, &document.envelope)
            }
            Item::Revocation(revocation) => {
                operator_claim(OperatorClaim::Revocation, revocation.said.signer, &revocation.envelope)
            }
        };
        let ticket = self.ticket();
        self.room.ask(ticket, waiting);
        self.act(Action::Verify { ticket, claim });
    }

    fn dismiss(&mut self, waiting: &Waiting, why: Drop) {
        self.room.left(waiting);
        self.stats.drop(why);
    }

    /// A verdict: the item leaves the room and counts, or is gone.
    pub(super) fn judged(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) {
        if self.submission_judged(ticket, verdict, now) || self.rejudged(ticket, verdict, now) {
            return;
        }
        let Some(waiting) = self.room.take(ticket) else {
            return self.stats.drop(Drop::UnaskedAnswer);
        };
        if self.operators.rejudging.predates(ticket) {
            // Asked before trust changed: asked again.
            self.room.left_and_back(&waiting);
            return self.ask(waiting);
        }
        let waiting = *waiting;
        match (waiting.item, verdict) {
            (Item::Credential { owner, hash, bytes }, Verdict::Credential { .. })
                if self.predates_revocation(&owner, ticket) =>
            {
                // What waited for it waits on, for a verdict that counts the revocation.
                self.offer(Item::Credential { owner, hash, bytes }, waiting.source, now);
            }
            (Item::Credential { owner, hash, bytes }, Verdict::Credential { record_key, epoch }) => {
                self.persist(|| Change::Credential { owner: owner.clone(), bytes: bytes.clone() });
                self.hold_credential(&owner, Credential { hash, bytes, record_key, epoch });
                for blocked in self.room.unblock(&(hash, owner)) {
                    self.ask(blocked);
                }
            }
            (Item::Credential { owner, hash, .. }, Verdict::Valid | Verdict::Refused | Verdict::Void(_)) => {
                self.stats.drop(Drop::Refused);
                let anew = waiting.source == Source { from: None, via: Via::Sync };
                let last = !self.credentials.knows(&owner) && !self.room.judges_any_of(&owner);
                if (self.is_revoked(&owner) || (anew && last)) && owner != self.me.name {
                    self.drop_records(&owner);
                    self.persist(|| Change::ForgetOwner(owner.clone()));
                }
                for blocked in self.room.unblock(&(hash, owner)) {
                    self.dismiss(&blocked, Drop::Refused);
                }
            }
            (Item::Life { claim, signed, proof }, Verdict::Valid) => {
                self.apply_life(claim, HashedLife { signed, proof }, &waiting.source, now);
            }
            (Item::Record { parts, bytes }, Verdict::Valid) => {
                self.apply_record(&parts, bytes, &waiting.source, now);
            }
            (Item::Document(document), verdict) => self.document_judged(*document, verdict, &waiting.source, now),
            (Item::Revocation(revocation), verdict) => {
                self.revocation_judged(*revocation, verdict, &waiting.source, now);
            }
            (
                Item::Life { .. } | Item::Record { .. },
                Verdict::Refused | Verdict::Credential { .. } | Verdict::Void(_),
            ) => {
                self.stats.drop(Drop::Refused);
            }
        }
    }

    fn apply_life(&mut self, claim: LifeClaim, word: HashedLife, source: &Source, now: Instant) {
        // The statement must not be older than the life it certifies, nor belong to a life before it.
        let epoch = self.credentials.get(claim.name(), claim.credential()).map(|credential| credential.epoch);
        if epoch.is_none_or(|epoch| epoch > claim.life().epoch) {
            return self.stats.drop(Drop::Refused);
        }
        match claim {
            LifeClaim::Alive(alive) if alive.name == self.me.name => self.met_ourselves(&alive, now),
            LifeClaim::Leave(leave) if leave.name == self.me.name => self.met_own_leave(&leave, now),
            LifeClaim::Alive(alive) => self.apply_alive(&alive, word, source, now),
            LifeClaim::Leave(leave) => self.apply_leave(&leave, word.signed, source, now),
        }
    }

    fn apply_record(&mut self, parts: &RecordParts, bytes: bytes::Bytes, source: &Source, now: Instant) {
        let head = &parts.head;
        if head.owner == self.me.name {
            return self.met_own_record(head, now);
        }
        // It may have become old while it waited.
        if !self.records.is_newer(head) {
            return self.stats.drop(Drop::Stale);
        }
        if let Err(why) = self.records.admits(head, bytes.len()) {
            if why == Drop::TableFull {
                self.alarm(Alarm::TableFull, now);
            }
            return self.stats.drop(why);
        }
        if !self.takes_write(&head.owner, source.via, now) {
            return self.stats.drop(Drop::OwnerRate);
        }
        self.hold_record(parts, bytes.clone(), false);
        if self.retells(&head.owner, source) {
            let subject = Subject::Record(head.owner.clone(), head.kind, head.shard);
            self.spread(subject, Class::Record, &Message::Record(bytes), source.from.as_ref(), now);
        }
    }

    /// Is this news for others too? Who joins learns in its first comparison what everybody knows: of that, only what a
    /// peer says of itself can be new to somebody.
    pub(super) fn retells(&self, about: &NodeName, source: &Source) -> bool {
        match source.via {
            Via::Snapshot => false,
            Via::Gossip => true,
            Via::Sync => self.synced == Synced::Yes || source.from.as_ref() == Some(about),
        }
    }

    /// Takes a verified record (or an own one) into the table: sums, store, event.
    pub(super) fn hold_record(&mut self, parts: &RecordParts, bytes: bytes::Bytes, own: bool) {
        let head = &parts.head;
        let payload = payload::read(head.kind, head.schema, &parts.payload).unwrap_or_else(|_| {
            self.stats.drop(Drop::UnreadablePayload);
            None
        });
        let outdated = self.records.insert(head, bytes.clone(), payload);
        for shard in outdated {
            self.broadcasts.remove(&Subject::Record(head.owner.clone(), head.kind, shard));
        }
        self.sum_owner(&head.owner);
        let (owner, kind, shard) = (&head.owner, head.kind, head.shard);
        self.persist(|| Change::Record { owner: owner.clone(), kind, shard, bytes, own });
        self.emit_record(owner, kind);
    }

    fn emit_record(&mut self, owner: &NodeName, kind: RecordKind) {
        let owner = owner.clone();
        let event = match kind {
            RecordKind::Services => self.records.services(&owner).map(|record| Event::Services { owner, record }),
            RecordKind::Health => self.records.health(&owner).map(|record| Event::Health { owner, record }),
            RecordKind::Status => self.records.status(&owner).map(|record| Event::Status { owner, record }),
            RecordKind::Unknown(_) => None,
        };
        if let Some(event) = event {
            self.emit(event);
        }
    }

    /// Brings the sums in line with what is held of one owner; tombstones are in no sum.
    pub(super) fn sum_owner(&mut self, name: &NodeName) {
        let life = if *name == self.me.name {
            self.own_life.is_some().then_some(self.life)
        } else {
            self.members.get(name).filter(|member| member.is_present()).map(Member::life)
        };
        let records = self.records.of(name).map(|(kind, shard, held)| of_record(name, kind, shard, held.version));
        let all = life.map_or(0, |life| records.fold(of_life(name, life), u64::wrapping_add));
        let (bucket, summed) = match self.members.get_mut(name) {
            Some(member) => (member.bucket(), &mut member.summed),
            None if *name == self.me.name => (digest::bucket(name), &mut self.own_summed),
            None => return,
        };
        let before = std::mem::replace(summed, all);
        self.sums.replace(bucket, before, all);
    }

    /// Takes a verified life into memory, shared if we share.
    pub(super) fn hold_life(&self, word: &HashedLife) -> Announced {
        match &self.pool {
            Some(pool) => pool.life(word.proof, &word.signed),
            None => Announced::new(&word.signed),
        }
    }

    fn hold_credential(&mut self, owner: &NodeName, credential: Credential) {
        let credential = Arc::new(credential);
        let (owner, credential) = match &self.pool {
            Some(pool) => (pool.name(owner.clone()), pool.credential(credential)),
            None => (owner.clone(), credential),
        };
        self.credentials.insert(&owner, credential);
    }

    /// Drops all records of an owner.
    pub(super) fn drop_records(&mut self, owner: &NodeName) {
        let gone = self.records.forget(owner);
        if gone.is_empty() {
            return;
        }
        self.sum_owner(owner);
        self.emit(Event::OwnerDropped(owner.clone()));
    }
}
