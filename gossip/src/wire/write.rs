//! Writing: messages one behind the other in one buffer, and the envelope around them.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::Bytes;

use super::reader::put_name;
use super::structs::{
    AccusationV1, AckV1, BundleV1, EndV1, ListV1, MemberV1, NonceV1, PingReqV1, RecordV1, RootsV1, SignedV1, WantV1,
    raw_member, raw_record, raw_signed, raw_want, state_byte,
};
use super::{ENVELOPE_BYTES, Envelope, MAGIC, MESSAGE_HEADER_BYTES, Message, STRUCT_BYTES_MAX, WIDE, WireError, kind};
use crate::codec::{Decode, Encode, Name, append};
use crate::limits::{
    BUCKETS, CREDENTIAL_BYTES_MAX, DIGEST_ITEMS_MAX, DOCUMENT_BYTES_MAX, LIFE_BYTES_MAX, RECORD_BYTES_MAX,
    REVOCATION_BYTES_MAX, SIGNATURE_BYTES, SYNC_FRAME_BYTES_TARGET, UPDATES_BYTES_MAX, UPDATES_REQUEST_BYTES_MAX,
    WANT_ITEMS_MAX,
};

/// Bytes for which room is made at once where a message's length is not known before.
const RESERVE: usize = 64;
/// Bytes of a list before its first entry.
const LIST_BYTES: usize = 4;
/// Bytes of a member's digest without its name: the name's length, life, state, proof, credential.
pub(super) const MEMBER_FIXED_BYTES: usize = 1 + 8 + 4 + 1 + 8 + 8;

/// One encoded message: header and payload, ready to be packed.
///
/// # Errors
/// When the message breaks a limit of its reader; it could not be understood, so it must not be sent.
pub(crate) fn message(message: &Message) -> Result<Bytes, WireError> {
    let mut out = Vec::with_capacity(expected_len(message));
    put(&mut out, message)?;
    Ok(out.into())
}

/// Bytes of an encoded message: exact for what is long and often sent, a guess for the rest.
pub(crate) fn expected_len(message: &Message) -> usize {
    let payload = match message {
        Message::Life(signed) => SIGNATURE_BYTES.saturating_add(signed.body.len()),
        Message::Record(bytes) | Message::Revocation(bytes) | Message::WantUpdates(bytes) => bytes.len(),
        Message::Document(bytes) | Message::Updates(bytes) => bytes.len().saturating_add(2),
        Message::Credential { owner, bytes } => bytes.len().saturating_add(1).saturating_add(owner.as_str().len()),
        Message::Members(list) => list.iter().fold(LIST_BYTES, |sum, digest| {
            sum.saturating_add(digest.name.as_str().len()).saturating_add(MEMBER_FIXED_BYTES)
        }),
        Message::Ping { .. }
        | Message::Ack { .. }
        | Message::PingReq { .. }
        | Message::Nack { .. }
        | Message::RelayedAck { .. }
        | Message::Accusation(_)
        | Message::Have(_)
        | Message::HaveDocument(_)
        | Message::Bundle(_)
        | Message::Hashes(_)
        | Message::WantHashes(_)
        | Message::SyncOpen { .. }
        | Message::Buckets(_)
        | Message::Records(_)
        | Message::DigestEnd { .. }
        | Message::Want(_)
        | Message::LeaveAck
        | Message::Busy
        | Message::Done => RESERVE,
    };
    payload.saturating_add(MESSAGE_HEADER_BYTES)
}

/// Appends a message; leaves nothing behind when it cannot be sent.
fn put(out: &mut Vec<u8>, message: &Message) -> Result<(), WireError> {
    let start = out.len();
    let done = put_all(out, message);
    if done.is_err() {
        out.truncate(start);
    }
    done
}

fn put_all(out: &mut Vec<u8>, message: &Message) -> Result<(), WireError> {
    let kind = kind_of(message);
    out.push(kind);
    let length_at = out.len();
    out.extend_from_slice(if kind < WIDE { &[0; 2] } else { &[0; 4] });
    let payload_at = out.len();
    put_payload(out, message)?;
    let len = out.len().saturating_sub(payload_at);
    if kind < WIDE {
        patch(out, length_at, u16::try_from(len).map_err(|_| WireError::TooLong)?.to_le_bytes());
    } else {
        patch(out, length_at, u32::try_from(len).map_err(|_| WireError::TooLong)?.to_le_bytes());
    }
    Ok(())
}

fn patch<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<N>) {
        *place = bytes;
    }
}

fn kind_of(message: &Message) -> u8 {
    match message {
        Message::Ping { .. } => kind::PING,
        Message::Ack { .. } => kind::ACK,
        Message::PingReq { .. } => kind::PING_REQ,
        Message::Nack { .. } => kind::NACK,
        Message::RelayedAck { .. } => kind::RELAYED_ACK,
        Message::Life(_) => kind::LIFE,
        Message::Accusation(_) => kind::ACCUSATION,
        Message::Record(_) => kind::RECORD,
        Message::Have(_) => kind::HAVE,
        Message::Document(_) => kind::DOCUMENT,
        Message::Revocation(_) => kind::REVOCATION,
        Message::HaveDocument(_) => kind::HAVE_DOCUMENT,
        Message::Bundle(_) => kind::BUNDLE,
        Message::WantUpdates(_) => kind::WANT_UPDATES,
        Message::Updates(_) => kind::UPDATES,
        Message::Hashes(_) => kind::HASHES,
        Message::WantHashes(_) => kind::WANT_HASHES,
        Message::SyncOpen { .. } => kind::SYNC_OPEN,
        Message::Buckets(_) => kind::BUCKETS,
        Message::Members(_) => kind::MEMBERS,
        Message::Records(_) => kind::RECORDS,
        Message::DigestEnd { .. } => kind::DIGEST_END,
        Message::Want(_) => kind::WANT,
        Message::Credential { .. } => kind::CREDENTIAL,
        Message::LeaveAck => kind::LEAVE_ACK,
        Message::Done => kind::DONE,
        Message::Busy => kind::BUSY,
    }
}

fn put_payload(out: &mut Vec<u8>, message: &Message) -> Result<(), WireError> {
    match message {
        Message::Ping { nonce } | Message::Nack { nonce } | Message::RelayedAck { nonce } => {
            fixed(out, &NonceV1 { nonce: *nonce })
        }
        Message::Ack { nonce, roots, health } => {
            fixed(out, &AckV1 { nonce: *nonce, documents: roots.documents, state: roots.state, health: *health })
        }
        Message::PingReq { nonce, target, wait_ms } => {
            fixed(out, &PingReqV1 { nonce: *nonce, target: Name(target.clone()), wait_ms: *wait_ms })
        }
        Message::Life(signed) => {
            out.extend_from_slice(&signed.signature);
            bounded(out, &signed.body, LIFE_BYTES_MAX)
        }
        Message::Accusation(said) => {
            let raw = AccusationV1 {
                state: state_byte(said.state),
                subject: Name(said.subject.clone()),
                epoch: said.life.epoch.0,
                incarnation: said.life.incarnation.0,
                proof: said.proof,
                accuser: Name(said.accuser.clone()),
            };
            fixed(out, &raw)
        }
        Message::Record(bytes) => bounded(out, bytes, RECORD_BYTES_MAX),
        Message::Have(digest) => fixed(out, &raw_record(digest)),
        Message::Document(bytes) => bounded(out, bytes, DOCUMENT_BYTES_MAX),
        Message::Revocation(bytes) => bounded(out, bytes, REVOCATION_BYTES_MAX),
        Message::HaveDocument(digest) => fixed(out, &raw_signed(digest)),
        Message::Bundle(head) => fixed(out, &BundleV1 { sequence: head.sequence, hash: head.hash }),
        Message::WantUpdates(bytes) => bounded(out, bytes, UPDATES_REQUEST_BYTES_MAX),
        Message::Updates(bytes) => bounded(out, bytes, UPDATES_BYTES_MAX),
        Message::Hashes(list) => {
            fixed(out, &ListV1::<SignedV1, DIGEST_ITEMS_MAX>::new(list.iter().map(raw_signed).collect())?)
        }
        Message::WantHashes(list) => fixed(out, &ListV1::<[u8; 32], WANT_ITEMS_MAX>::new(list.clone())?),
        Message::SyncOpen { roots } => fixed(out, &RootsV1 { documents: roots.documents, state: roots.state }),
        Message::Buckets(sums) => fixed(out, &ListV1::<u64, BUCKETS>::new(sums.clone())?),
        Message::Members(list) => {
            fixed(out, &ListV1::<MemberV1, DIGEST_ITEMS_MAX>::new(list.iter().map(raw_member).collect())?)
        }
        Message::Records(list) => {
            fixed(out, &ListV1::<RecordV1, DIGEST_ITEMS_MAX>::new(list.iter().map(raw_record).collect())?)
        }
        Message::DigestEnd { buckets } => fixed(out, &EndV1 { buckets: *buckets }),
        Message::Want(list) => {
            let raw = list.iter().map(raw_want).collect::<Result<_, _>>()?;
            fixed(out, &ListV1::<WantV1, WANT_ITEMS_MAX>::new(raw)?)
        }
        Message::Credential { owner, bytes } => {
            put_name(out, owner);
            bounded(out, bytes, CREDENTIAL_BYTES_MAX)
        }
        Message::LeaveAck | Message::Done | Message::Busy => Ok(()),
    }
}

fn bounded(out: &mut Vec<u8>, bytes: &[u8], max: usize) -> Result<(), WireError> {
    if bytes.len() > max {
        return Err(WireError::TooLong);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

fn fixed<T: Encode + Decode<()>>(out: &mut Vec<u8>, value: &T) -> Result<(), WireError> {
    append::<STRUCT_BYTES_MAX, T>(out, value)
}

/// A filling of `bytes` in all; nothing where a message's header does not fit.
pub(crate) fn padding(bytes: usize) -> Option<Bytes> {
    let len = bytes.checked_sub(MESSAGE_HEADER_BYTES)?;
    let [low, high] = u16::try_from(len).ok()?.to_le_bytes();
    let mut out = vec![kind::PADDING, low, high];
    out.resize(bytes, 0);
    Some(out.into())
}

/// Puts encoded messages into an envelope.
pub(crate) fn frame(which: Envelope, mesh: &[u8; 8], messages: &[Bytes]) -> Bytes {
    let len = messages.iter().fold(0_usize, |sum, message| sum.saturating_add(message.len()));
    debug_assert!(len.saturating_add(ENVELOPE_BYTES) <= which.bytes_max(), "the packer keeps to the limit");
    let mut out = Vec::with_capacity(len.saturating_add(ENVELOPE_BYTES));
    begin(&mut out, which, mesh);
    messages.iter().for_each(|message| out.extend_from_slice(message));
    end(&mut out);
    out.into()
}

/// Writes messages one behind the other into as many sync frames as they need.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    mesh: [u8; 8],
    out: Vec<u8>,
    done: Vec<Bytes>,
}

impl FrameWriter {
    /// With room for what these messages need, at most one frame.
    pub(crate) fn new(mesh: &[u8; 8], messages: &[Message]) -> Self {
        let len = messages.iter().map(expected_len).fold(0_usize, usize::saturating_add);
        let room = len.min(SYNC_FRAME_BYTES_TARGET).saturating_add(ENVELOPE_BYTES);
        let mut out = Vec::with_capacity(room);
        begin(&mut out, Envelope::Sync, mesh);
        Self { mesh: *mesh, out, done: Vec::new() }
    }

    /// Puts a message in; what was put in before it makes a frame of its own if both together are too large.
    ///
    /// # Errors
    /// It breaks a limit of its reader; it is left out.
    pub(crate) fn put(&mut self, message: &Message) -> Result<(), WireError> {
        let start = self.out.len();
        put(&mut self.out, message)?;
        if start > ENVELOPE_BYTES && self.out.len() > SYNC_FRAME_BYTES_TARGET.saturating_add(ENVELOPE_BYTES) {
            let last = self.out.get(start..).unwrap_or_default();
            let room = SYNC_FRAME_BYTES_TARGET.max(last.len()).saturating_add(ENVELOPE_BYTES);
            let mut next = Vec::with_capacity(room);
            begin(&mut next, Envelope::Sync, &self.mesh);
            next.extend_from_slice(last);
            self.out.truncate(start);
            self.close(next);
        }
        Ok(())
    }

    fn close(&mut self, next: Vec<u8>) {
        end(&mut self.out);
        // A frame may wait for its turn on the stream: without memory that it does not need.
        self.out.shrink_to_fit();
        self.done.push(std::mem::replace(&mut self.out, next).into());
    }

    /// The frames; none without messages.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        if self.out.len() > ENVELOPE_BYTES {
            self.close(Vec::new());
        }
        self.done
    }
}

/// Where an envelope tells its length.
const LENGTH_AT: usize = ENVELOPE_BYTES - 4;

fn begin(out: &mut Vec<u8>, which: Envelope, mesh: &[u8; 8]) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[which.byte(), 0]);
    out.extend_from_slice(mesh);
    out.extend_from_slice(&[0; 4]);
}

fn end(out: &mut [u8]) {
    let len = out.len().saturating_sub(ENVELOPE_BYTES);
    patch(out, LENGTH_AT, u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

/// Writes one datagram after another, each into the memory of the last: what goes to a peer at once is copied once.
#[derive(Clone, Debug, Default)]
pub(crate) struct DatagramWriter {
    out: Vec<u8>,
}

impl DatagramWriter {
    /// Begins a datagram; what was not finished is gone.
    pub(crate) fn begin(&mut self, mesh: &[u8; 8]) {
        self.out.clear();
        begin(&mut self.out, Envelope::Datagram, mesh);
    }

    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        Envelope::Datagram.bytes_max().saturating_sub(self.out.len())
    }

    /// Puts a message in.
    ///
    /// # Errors
    /// It does not fit any more, or it breaks a limit of its reader; the datagram is as before.
    pub(crate) fn put(&mut self, message: &Message) -> Result<(), WireError> {
        let start = self.out.len();
        put(&mut self.out, message)?;
        if self.out.len() > Envelope::Datagram.bytes_max() {
            self.out.truncate(start);
            return Err(WireError::TooLong);
        }
        Ok(())
    }

    /// Puts in an encoded message that fits.
    pub(crate) fn append(&mut self, encoded: &[u8]) {
        debug_assert!(encoded.len() <= self.room(), "the packer keeps to the limit");
        self.out.extend_from_slice(encoded);
    }

    /// The datagram.
    pub(crate) fn finish(&mut self) -> Bytes {
        end(&mut self.out);
        Bytes::copy_from_slice(&self.out)
    }
}
