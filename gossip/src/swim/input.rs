//! Frames in: which message means what, by the way it came.

use std::time::Instant;

use starling_model::{MemberState, NodeName};

use super::{Phase, Swim};
use crate::action::{Action, ExchangeId, Reach, Rejected};
use crate::anti_entropy::{Exchange, Listing, Purpose};
use crate::broadcasts::Subject;
use crate::config::Buddy;
use crate::limits::{EXCHANGES_MAX, INBOUND_SYNCS_MAX, INBOUND_SYNCS_PER_PEER_MAX, MEMBERS_MAX};
use crate::replica::{Item, Source, Via};
use crate::stats::Drop;
use crate::wire::{
    self, Envelope, Frame, FrameWriter, Glimpse, LifeClaim, Message, RecordDigest, SignedLife, Want, WireError,
};

impl Swim {
    pub(super) fn datagram(&mut self, from: &NodeName, payload: &[u8], now: Instant) -> Result<(), Rejected> {
        self.stats.received_datagram_bytes += payload.len() as u64;
        let messages = self.open_news(from, payload)?;
        let mut documents = Vec::new();
        for message in messages {
            match message {
                Message::Ping { nonce } => self.answer_ping(from, nonce, now),
                Message::Ack { nonce, roots, health: _ } => self.on_ack(from, nonce, roots, Reach::Datagram, now),
                Message::PingReq { nonce, target, wait_ms } => self.on_ping_req(from, nonce, &target, wait_ms, now),
                Message::Nack { nonce } => self.on_nack(from, nonce),
                Message::RelayedAck { nonce } => self.on_relayed_ack(from, nonce, now),
                Message::Life(signed) => self.on_life(from, signed, Via::Gossip, now),
                Message::Accusation(said) => self.on_accusation(from, &said, Via::Gossip, now),
                Message::Record(bytes) => self.on_record(from, bytes, Via::Gossip, now),
                Message::Have(digest) => self.on_have(from, &digest, now),
                Message::Revocation(bytes) => self.on_revocation(from, &bytes, Via::Gossip, now),
                Message::Members(list) => self.on_have_members(from, &list, now),
                Message::HaveDocument(digest) => documents.extend(self.on_have_document(from, &digest, now)),
                Message::SyncOpen { roots } => self.on_roots(from, roots),
                Message::Bundle(head) => self.on_bundle(from, head, now),
                Message::Document(_)
                | Message::Hashes(_)
                | Message::WantHashes(_)
                | Message::WantUpdates(_)
                | Message::Updates(_)
                | Message::Buckets(_)
                | Message::Records(_)
                | Message::DigestEnd { .. }
                | Message::Want(_)
                | Message::Credential { .. }
                | Message::LeaveAck
                | Message::Busy
                | Message::Done => self.stats.drop(Drop::StrayFrame),
            }
        }
        self.fetch_documents(from, &documents, now);
        Ok(())
    }

    /// The messages of a stream's frame.
    fn open(&mut self, from: &NodeName, bytes: &[u8]) -> Result<Vec<Message>, Rejected> {
        self.may_speak(from)?;
        let frame = wire::read_frame(Envelope::Sync, &self.mesh, bytes);
        self.opened(frame)
    }

    /// The messages of a datagram, but for signed ones that we hold word for word, or the news that there are such: most
    /// of what peers repeat. Those count as duplicates unread.
    fn open_news(&mut self, from: &NodeName, bytes: &[u8]) -> Result<Vec<Message>, Rejected> {
        self.may_speak(from)?;
        let (mut count, mut subjects) = (0, Vec::new());
        // Whoever repeats what we still tell has no need to hear it.
        let tells = self.broadcasts.len() > 0;
        let frame = wire::read_news(Envelope::Datagram, &self.mesh, bytes, |glimpse| {
            let Some(owner) = self.held(glimpse) else { return false };
            count += 1;
            subjects.extend(tells.then(|| subject(glimpse, owner)));
            true
        });
        let messages = self.opened(frame)?;
        self.stats.drop_all(Drop::Duplicate, count);
        self.broadcasts.heard_all(&subjects, from);
        Ok(messages)
    }

    fn may_speak(&self, from: &NodeName) -> Result<(), Rejected> {
        if matches!(self.phase, Phase::Left | Phase::Out) {
            return Err(Rejected::Leaving);
        }
        if *from == self.me.name {
            return Err(Rejected::OwnName);
        }
        Ok(())
    }

    fn opened(&mut self, frame: Result<Frame, WireError>) -> Result<Vec<Message>, Rejected> {
        match frame.map_err(Rejected::Malformed)? {
            Frame::Foreign => Err(Rejected::OtherMesh),
            Frame::Ours(messages, unknown) => {
                self.stats.drop_all(Drop::UnknownKind, unknown);
                Ok(messages)
            }
        }
    }

    /// Whose word this is, if we hold it, byte for byte. Our own are told apart from a clone's elsewhere.
    fn held(&self, glimpse: &Glimpse<'_>) -> Option<&NodeName> {
        match *glimpse {
            Glimpse::Life { owner, signed } => {
                let (name, member) = self.members.find(owner)?;
                member.has_said(signed).then_some(name)
            }
            Glimpse::Announcement { owner, proof } => {
                let (name, member) = self.members.find(owner)?;
                (member.proof == proof && member.state != MemberState::Joining).then_some(name)
            }
            Glimpse::Record { owner, kind, shard, bytes } => {
                let (name, held) = self.records.find(owner, kind, shard)?;
                (held.bytes == bytes && *name != self.me.name).then_some(name)
            }
        }
    }

    pub(super) fn sync_frame(
        &mut self,
        from: &NodeName,
        id: ExchangeId,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), Rejected> {
        self.stats.received_sync_bytes += frame.len() as u64;
        if frame.is_empty() {
            return Ok(());
        }
        let messages = self.open(from, frame)?;
        let key = (from.clone(), id);
        if !self.exchanges.contains_key(&key) {
            if !id.is_inbound() {
                return Err(Rejected::StrayFrame);
            }
            if !messages.iter().any(|message| matches!(message, Message::SyncOpen { .. })) {
                self.answer_once(from, id, messages, now);
                return Ok(());
            }
            let inbound = self.exchanges.keys().filter(|(_, id)| id.is_inbound()).count();
            let same = self.exchanges.keys().filter(|(peer, id)| peer == from && id.is_inbound()).count();
            if inbound >= INBOUND_SYNCS_MAX
                || same >= INBOUND_SYNCS_PER_PEER_MAX
                || self.exchanges.len() >= EXCHANGES_MAX
            {
                self.send_sync(from, id, &[Message::Busy], true);
                return Err(Rejected::TooManyExchanges);
            }
            self.stats.syncs_answered += 1;
            self.sync_due.remove(from);
            self.first_due.remove(from);
            let purpose = Purpose::Sync(Listing::default());
            self.exchanges.insert(key, Exchange::new(purpose, now));
        }
        for message in messages {
            self.sync_message(from, id, message, now);
        }
        Ok(())
    }

    /// A stream with one frame and one answer: a ping, a push, a question, a leave.
    fn answer_once(&mut self, from: &NodeName, id: ExchangeId, messages: Vec<Message>, now: Instant) {
        let (mut answer, mut given) = (Vec::new(), 0);
        for message in messages {
            match message {
                Message::Ping { nonce } => {
                    answer.extend(self.buddy(from, Buddy::PingsAndAnswers));
                    answer.push(self.ack(nonce));
                }
                // The asker forgets the stream at once: fetches are many while a mesh forms, or where documents change often.
                Message::Want(list) => {
                    answer.extend(self.wanted(&list, &mut given));
                    answer.push(Message::Done);
                }
                Message::WantHashes(list) => {
                    answer.extend(self.wanted_words(&list, &mut given));
                    answer.push(Message::Done);
                }
                Message::WantUpdates(request) => {
                    if self.on_want_updates(from, id, request, now) {
                        return;
                    }
                }
                Message::Revocation(bytes) => self.on_revocation(from, &bytes, Via::Gossip, now),
                Message::Life(signed) => {
                    let leaves = matches!(wire::read_life(&signed.body), Ok(LifeClaim::Leave(_)));
                    self.on_life(from, signed, Via::Gossip, now);
                    if leaves {
                        answer.push(Message::LeaveAck);
                    }
                }
                Message::Accusation(said) => self.on_accusation(from, &said, Via::Gossip, now),
                Message::Record(bytes) => self.on_record(from, bytes, Via::Gossip, now),
                Message::Credential { owner, bytes } => self.on_credential(from, owner, bytes, now),
                Message::Ack { .. }
                | Message::PingReq { .. }
                | Message::Nack { .. }
                | Message::RelayedAck { .. }
                | Message::Have(_)
                | Message::HaveDocument(_)
                | Message::Document(_)
                | Message::Bundle(_)
                | Message::Updates(_)
                | Message::Hashes(_)
                | Message::SyncOpen { .. }
                | Message::Buckets(_)
                | Message::Members(_)
                | Message::Records(_)
                | Message::DigestEnd { .. }
                | Message::LeaveAck
                | Message::Busy
                | Message::Done => self.stats.drop(Drop::StrayFrame),
            }
        }
        self.send_sync(from, id, &answer, true);
    }

    /// A message on a stream that has a state here.
    fn sync_message(&mut self, from: &NodeName, id: ExchangeId, message: Message, now: Instant) {
        let key = (from.clone(), id);
        let waiting = self.room.len();
        match message {
            Message::Life(signed) => self.on_life(from, signed, Via::Sync, now),
            Message::Accusation(said) => self.on_accusation(from, &said, Via::Sync, now),
            Message::Record(bytes) => self.on_record(from, bytes, Via::Sync, now),
            Message::Credential { owner, bytes } => self.on_credential(from, owner, bytes, now),
            Message::Ack { nonce, roots, health: _ } => {
                self.exchanges.remove(&key);
                self.on_ack(from, nonce, roots, Reach::Stream, now);
            }
            Message::LeaveAck => self.on_leave_ack(&key, now),
            Message::Busy => self.on_busy(&key, now),
            Message::SyncOpen { roots } => {
                // Who asks for a comparison may be unknown yet.
                let _ = self.note_roots(from, roots);
                self.on_listing(&key, |listing| {
                    listing.root = Some(roots.documents);
                    true
                });
            }
            Message::Buckets(sums) => self.on_buckets(&key, &sums),
            Message::Members(list) => self.on_listing(&key, |listing| listing.add_members(list)),
            Message::Records(list) => self.on_listing(&key, |listing| listing.add_records(list)),
            Message::Hashes(list) => self.on_listing(&key, |listing| listing.add_words(list)),
            Message::WantHashes(list) => self.on_want_hashes(&key, &list),
            Message::Document(bytes) => self.on_streamed_document(&key, &bytes, now),
            Message::Revocation(bytes) => self.on_revocation(from, &bytes, Via::Sync, now),
            Message::DigestEnd { buckets } => self.on_digest_end(&key, buckets),
            Message::Bundle(head) => self.on_bundle(from, head, now),
            Message::Updates(updates) => self.on_updates(&key, updates),
            Message::Want(list) => self.on_want(&key, &list),
            Message::Done => self.on_done(&key, now),
            Message::Ping { .. }
            | Message::PingReq { .. }
            | Message::Nack { .. }
            | Message::RelayedAck { .. }
            | Message::Have(_)
            | Message::WantUpdates(_)
            | Message::HaveDocument(_) => self.stats.drop(Drop::StrayFrame),
        }
        // What a full table must leave out comes again each time.
        if self.room.len() > waiting
            && self.members.len() < MEMBERS_MAX
            && let Some(exchange) = self.exchanges.get_mut(&key)
        {
            exchange.useful = true;
        }
    }

    pub(super) fn on_life(&mut self, from: &NodeName, signed: SignedLife, via: Via, now: Instant) {
        match wire::read_life(&signed.body) {
            Ok(claim) => {
                self.fetches.answered(&Want::Member(claim.name().clone()));
                let source = Source { from: Some(from.clone()), via };
                let proof = signed.hash();
                self.offer(Item::Life { claim, signed, proof }, source, now);
            }
            Err(_) => self.stats.drop(Drop::Refused),
        }
    }

    fn on_record(&mut self, from: &NodeName, bytes: bytes::Bytes, via: Via, now: Instant) {
        match wire::read_record(&bytes) {
            Ok(parts) => {
                let head = &parts.head;
                self.fetches.answered(&Want::Record(head.owner.clone(), head.kind, head.shard));
                let source = Source { from: Some(from.clone()), via };
                self.offer(Item::Record { parts: Box::new(parts), bytes }, source, now);
            }
            Err(_) => self.stats.drop(Drop::Refused),
        }
    }

    fn on_credential(&mut self, from: &NodeName, owner: NodeName, bytes: bytes::Bytes, now: Instant) {
        let hash = crate::replica::credential_hash(&bytes);
        self.fetches.answered(&Want::Credential(owner.clone(), hash));
        let source = Source { from: Some(from.clone()), via: Via::Sync };
        self.offer(Item::Credential { owner, hash, bytes }, source, now);
    }

    /// A record that fits no datagram exists at `from`: ask for it unless we have it.
    fn on_have(&mut self, from: &NodeName, digest: &RecordDigest, now: Instant) {
        let subject = Subject::Record(digest.owner.clone(), digest.kind, digest.shard);
        let held = self.records.get(&digest.owner, digest.kind, digest.shard).map(|held| held.version);
        match held {
            Some(held) if held == digest.version => self.broadcasts.heard(&subject, from),
            Some(held) if held > digest.version => self.stats.drop(Drop::Stale),
            Some(_) | None if digest.owner == self.me.name => {}
            Some(_) | None => {
                let want = Want::Record(digest.owner.clone(), digest.kind, digest.shard);
                self.want(want, from, now);
            }
        }
    }

    /// A document on a stream that has a state here: part of a comparison, or the answer to a fetch.
    fn on_streamed_document(&mut self, key: &(NodeName, ExchangeId), bytes: &bytes::Bytes, now: Instant) {
        match self.exchanges.get(key).map(|exchange| &exchange.purpose) {
            Some(Purpose::Sync(_)) => self.on_document(&key.0, bytes, Via::Sync, now),
            Some(Purpose::Fetch) => self.on_document(&key.0, bytes, Via::Gossip, now),
            Some(Purpose::Ping | Purpose::Leave) | None => self.stats.drop(Drop::StrayFrame),
        }
    }

    /// A new stream of ours with a state.
    pub(super) fn open_exchange(&mut self, peer: &NodeName, purpose: Purpose, now: Instant) -> ExchangeId {
        self.next_exchange += 1;
        let id = ExchangeId(self.next_exchange);
        self.exchanges.insert((peer.clone(), id), Exchange::new(purpose, now));
        id
    }

    /// Sends messages on a stream, in as many frames as they need.
    pub(super) fn send_sync(&mut self, to: &NodeName, exchange: ExchangeId, messages: &[Message], last: bool) {
        let mut writer = FrameWriter::new(&self.mesh, messages);
        for message in messages {
            self.stats.sent_documents += u64::from(matches!(message, Message::Document(_)));
            // What cannot be encoded breaks our own limits: it is dropped here, not at every peer.
            if writer.put(message).is_err() {
                self.stats.drop(Drop::OwnTooLarge);
            }
        }
        let mut frames = writer.finish();
        if last && frames.is_empty() {
            frames.push(bytes::Bytes::new());
        }
        let count = frames.len();
        for (at, frame) in frames.into_iter().enumerate() {
            self.stats.sent_sync_bytes += frame.len() as u64;
            self.act(Action::SendSync { to: to.clone(), exchange, frame, last: last && at + 1 == count });
        }
    }
}

fn subject(glimpse: &Glimpse<'_>, owner: &NodeName) -> Subject {
    match *glimpse {
        Glimpse::Life { .. } | Glimpse::Announcement { .. } => Subject::Life(owner.clone()),
        Glimpse::Record { kind, shard, .. } => Subject::Record(owner.clone(), kind, shard),
    }
}
