//! What travels: envelopes, messages, and the two forms that owners sign.
//!
//! ```text
//! envelope := "S1" | kind u8 (1 datagram, 2 sync) | flags u8 | mesh [8] | len u32le | message*
//! message  := kind u8 | len u16le, u32le from kind 128 on | payload   an unknown kind is skipped and counted, kind 0 (a
//!                                                                  filling) is skipped
//! life     := form u8 (1 alive, 2 leave) | schema u8 | nlen u8 | name | epoch u64 | incarnation u32 | credential [32]
//!             alive only: tag u64 | proto_min u16 | proto_max u16 | features u64 | region | release | n u8 | address*
//!             | elen u16 | extension                               newer fields go into the extension
//! address  := 4 u8 | ip [4] | port u16     or     6 u8 | ip [16] | port u16
//! record   := nlen u8 | node | kind u8 | shard u8 | epoch u64 | version u64 | schema u16 | ttl_s u32 | statement [32]
//!             | plen u16 <= 8192 | payload | signature [64]
//! ```
//!
//! All integers are little endian. Envelopes, `life` and `record` are read by hand, so that every release can read the
//! life and the version of what a newer one signed; small fixed messages go through [`crate::codec`]. Signatures and
//! hashes cover bytes as received; nothing signed is ever encoded a second time.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod reader;
mod signed;
mod structs;
mod write;

use bytes::Bytes;
use starling_model::{Life, MemberState, MeshId, NodeName, RecordKind, RecordVersion};

use reader::Reader;
pub(crate) use signed::{
    Alive, Attributes, Glimpse, Leave, LifeClaim, RecordHead, RecordParts, read_credential, read_life, read_record,
};

use structs::{
    AccusationV1, AckV1, BundleV1, EndV1, ListV1, MemberV1, NonceV1, PingReqV1, RecordV1, RootsV1, SignedV1, WantV1,
    life, member_digest, record_digest, signed_digest, want,
};
pub(crate) use write::{DatagramWriter, FrameWriter, expected_len, frame, message, padding};

use crate::action::{OperatorClaim, Roots};
use crate::bundles::BundleHead;
pub(crate) use crate::codec::WireError;
use crate::codec::{Decode, decode};
use crate::hash;
use crate::limits::{
    BUCKETS, CREDENTIAL_BYTES_MAX, DATAGRAM_BYTES_MAX, DIGEST_ITEMS_MAX, DOCUMENT_BYTES_MAX, LIFE_BYTES_MAX,
    MESSAGE_BYTES_MAX, RECORD_BYTES_MAX, REVOCATION_BYTES_MAX, SIGNATURE_BYTES, SYNC_FRAME_BYTES_MAX,
    UPDATES_BYTES_MAX, UPDATES_REQUEST_BYTES_MAX, WANT_ITEMS_MAX,
};

/// Bytes of an envelope before its first message.
pub(crate) const ENVELOPE_BYTES: usize = 16;
/// Bytes of a message before its payload.
pub(crate) const MESSAGE_HEADER_BYTES: usize = 3;
/// Kinds from here on have a length of 32 bits: what may be larger than 64 KiB.
const WIDE: u8 = 128;
/// Largest encoded message that fits a datagram alone.
pub(crate) const DATAGRAM_MESSAGE_MAX: usize = DATAGRAM_BYTES_MAX - ENVELOPE_BYTES;
const _: () = assert!(LIFE_BYTES_MAX + SIGNATURE_BYTES + MESSAGE_HEADER_BYTES <= DATAGRAM_MESSAGE_MAX);

const MAGIC: [u8; 2] = *b"S1";
/// Messages in one frame: a frame of empty ones must not become a list of many times its size. Our own writer fills
/// 48 KiB, and the least message has three bytes.
const MESSAGES_MAX: u32 = 16_384;
const _: () = assert!(MESSAGES_MAX as usize * MESSAGE_HEADER_BYTES >= crate::limits::SYNC_FRAME_BYTES_TARGET);
/// Largest message that goes through bincode: a full list of digests.
const STRUCT_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Which envelope: decides its size limit and what its messages may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Envelope {
    Datagram,
    Sync,
}

impl Envelope {
    fn byte(self) -> u8 {
        match self {
            Self::Datagram => 1,
            Self::Sync => 2,
        }
    }

    fn bytes_max(self) -> usize {
        match self {
            Self::Datagram => DATAGRAM_BYTES_MAX,
            Self::Sync => SYNC_FRAME_BYTES_MAX,
        }
    }
}

/// A signed `alive` or `leave`, as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedLife {
    pub(crate) body: Bytes,
    pub(crate) signature: [u8; SIGNATURE_BYTES],
}

impl SignedLife {
    /// Names this statement; an accusation quotes it.
    pub(crate) fn hash(&self) -> u64 {
        hash::head(&[&self.body, &self.signature])
    }
}

/// A signed life with its hash, so that it is hashed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HashedLife {
    pub(crate) signed: SignedLife,
    /// [`SignedLife::hash`].
    pub(crate) proof: u64,
}

/// A doubt about a member, or the word that it is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accusation {
    /// `Suspect` or `Dead`.
    pub(crate) state: MemberState,
    pub(crate) subject: NodeName,
    pub(crate) life: Life,
    /// Hash of the accused `alive`.
    pub(crate) proof: u64,
    pub(crate) accuser: NodeName,
}

/// One member of a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberDigest {
    pub(crate) name: NodeName,
    pub(crate) life: Life,
    pub(crate) state: MemberState,
    pub(crate) proof: u64,
    pub(crate) credential: u64,
}

/// One shard of a record in a digest, or the news that one exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordDigest {
    pub(crate) owner: NodeName,
    pub(crate) kind: RecordKind,
    pub(crate) shard: u8,
    pub(crate) version: RecordVersion,
}

/// One thing that an operator signed, in a digest or as the news that it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignedDigest {
    pub(crate) kind: OperatorClaim,
    /// A document that was applied together with others: these may need it even when it is outdated.
    pub(crate) in_batch: bool,
    /// Hash of the document's key or of the node's name.
    pub(crate) subject: u64,
    /// The generation, or the revocation's number.
    pub(crate) number: u64,
    /// SHA-256 of the signed form.
    pub(crate) hash: [u8; 32],
}

/// One thing that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Want {
    /// A member's credential and newest life.
    Member(NodeName),
    /// One shard of a record.
    Record(NodeName, RecordKind, u8),
    /// A member's credential with this hash.
    Credential(NodeName, [u8; 32]),
}

/// Everything that peers say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Ping {
        nonce: u64,
    },
    Ack {
        nonce: u64,
        roots: Roots,
        health: u8,
    },
    PingReq {
        nonce: u64,
        target: NodeName,
        wait_ms: u32,
    },
    Nack {
        nonce: u64,
    },
    RelayedAck {
        nonce: u64,
    },
    Life(SignedLife),
    Accusation(Accusation),
    /// Header, payload and signature.
    Record(Bytes),
    /// A record that does not fit a datagram: fetch it.
    Have(RecordDigest),
    /// A signed document and its signature; on streams only.
    Document(Bytes),
    /// A signed revocation and its signature.
    Revocation(Bytes),
    /// A document exists: fetch it.
    HaveDocument(SignedDigest),
    /// What the lister holds live of operators' words; all of it came once the digests end.
    Hashes(Vec<SignedDigest>),
    /// Asks for operators' words by their hashes.
    WantHashes(Vec<[u8; 32]>),
    /// The trust bundle that the sender uses.
    Bundle(BundleHead),
    /// Asks for updates of the trust bundle; on streams only.
    WantUpdates(Bytes),
    /// Updates of the trust bundle; on streams only.
    Updates(Bytes),
    /// Begins a comparison; in a datagram only says that these are the sender's roots now.
    SyncOpen {
        roots: Roots,
    },
    Buckets(Vec<u64>),
    Members(Vec<MemberDigest>),
    Records(Vec<RecordDigest>),
    /// All entries of the named buckets were listed.
    DigestEnd {
        buckets: [u8; BUCKETS / 8],
    },
    Want(Vec<Want>),
    Credential {
        owner: NodeName,
        bytes: Bytes,
    },
    LeaveAck,
    /// Too many comparisons are open here: ask again soon.
    Busy,
    /// The sender has sent all that it will on this exchange without being asked.
    Done,
}

/// The kind byte of each message.
mod kind {
    /// Fills a datagram up; skipped, and not counted as unknown.
    pub(super) const PADDING: u8 = 0;
    pub(super) const PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const PING_REQ: u8 = 3;
    pub(super) const NACK: u8 = 4;
    pub(super) const RELAYED_ACK: u8 = 5;
    pub(super) const LIFE: u8 = 6;
    pub(super) const ACCUSATION: u8 = 7;
    pub(super) const RECORD: u8 = 8;
    pub(super) const HAVE: u8 = 9;
    pub(super) const REVOCATION: u8 = 10;
    pub(super) const HAVE_DOCUMENT: u8 = 11;
    pub(super) const BUNDLE: u8 = 12;
    pub(super) const SYNC_OPEN: u8 = 16;
    pub(super) const BUCKETS: u8 = 17;
    pub(super) const MEMBERS: u8 = 18;
    pub(super) const RECORDS: u8 = 19;
    pub(super) const DIGEST_END: u8 = 20;
    pub(super) const WANT: u8 = 21;
    pub(super) const CREDENTIAL: u8 = 22;
    pub(super) const LEAVE_ACK: u8 = 23;
    pub(super) const DONE: u8 = 24;
    pub(super) const BUSY: u8 = 25;
    pub(super) const HASHES: u8 = 26;
    pub(super) const WANT_HASHES: u8 = 27;
    pub(super) const WANT_UPDATES: u8 = 28;
    pub(super) const DOCUMENT: u8 = 128;
    pub(super) const UPDATES: u8 = 129;
}

/// The head of every frame of a mesh.
pub(crate) fn mesh_head(mesh: &MeshId) -> [u8; 8] {
    mesh.0.first_chunk::<8>().copied().unwrap_or_default()
}

/// What reading a frame yields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Of another mesh; its body was not looked at.
    Foreign,
    /// The messages, and how many of unknown kinds were skipped.
    Ours(Vec<Message>, u64),
}

/// Reads a whole frame. One malformed message refuses the frame.
pub(crate) fn read_frame(which: Envelope, mesh: &[u8; 8], bytes: &[u8]) -> Result<Frame, WireError> {
    read_news(which, mesh, bytes, |_| false)
}

/// Reads a whole frame, but leaves out signed messages that `held` knows to be copies of what was read before, and
/// announcements of such. It may say so of nothing else: what is left out is not checked again.
pub(crate) fn read_news(
    which: Envelope,
    mesh: &[u8; 8],
    bytes: &[u8],
    mut held: impl FnMut(&Glimpse<'_>) -> bool,
) -> Result<Frame, WireError> {
    if bytes.len() > which.bytes_max() {
        return Err(WireError::TooLong);
    }
    let mut reader = Reader(bytes);
    if reader.array::<2>()? != MAGIC || reader.u8()? != which.byte() {
        return Err(WireError::BadMagic);
    }
    let _flags = reader.u8()?;
    if reader.array::<8>()? != *mesh {
        return Ok(Frame::Foreign);
    }
    let len = usize::try_from(reader.u32()?).map_err(|_| WireError::TooLong)?;
    match len.cmp(&reader.0.len()) {
        std::cmp::Ordering::Less => return Err(WireError::Trailing),
        std::cmp::Ordering::Greater => return Err(WireError::Truncated),
        std::cmp::Ordering::Equal => {}
    }
    let mut messages = Vec::new();
    let mut unknown = 0_u64;
    let mut left = MESSAGES_MAX;
    while !reader.0.is_empty() {
        left = left.checked_sub(1).ok_or(WireError::TooLong)?;
        let kind = reader.u8()?;
        let len = if kind < WIDE { u32::from(reader.u16()?) } else { reader.u32()? };
        let len = usize::try_from(len).map_err(|_| WireError::TooLong)?;
        if kind == kind::PADDING {
            reader.take(len)?;
            continue;
        }
        let payload = reader.take(len)?;
        let glimpse = match kind {
            kind::LIFE => Glimpse::of_life(payload),
            kind::RECORD => Glimpse::of_record(payload),
            kind::MEMBERS => Glimpse::of_announcement(payload),
            _ => None,
        };
        if glimpse.is_some_and(|glimpse| held(&glimpse)) {
            continue;
        }
        match read_message(kind, payload)? {
            Some(message) => messages.push(message),
            None => unknown = unknown.saturating_add(1),
        }
    }
    Ok(Frame::Ours(messages, unknown))
}

fn read_message(kind: u8, payload: &[u8]) -> Result<Option<Message>, WireError> {
    Ok(Some(match kind {
        kind::PING => Message::Ping { nonce: fixed::<NonceV1>(payload)?.nonce },
        kind::ACK => {
            let ack: AckV1 = fixed(payload)?;
            let roots = Roots { documents: ack.documents, state: ack.state };
            Message::Ack { nonce: ack.nonce, roots, health: ack.health }
        }
        kind::PING_REQ => {
            let ask: PingReqV1 = fixed(payload)?;
            Message::PingReq { nonce: ask.nonce, target: ask.target.0, wait_ms: ask.wait_ms }
        }
        kind::NACK => Message::Nack { nonce: fixed::<NonceV1>(payload)?.nonce },
        kind::RELAYED_ACK => Message::RelayedAck { nonce: fixed::<NonceV1>(payload)?.nonce },
        kind::LIFE => {
            let mut reader = Reader(payload);
            let signature = reader.array()?;
            let body = reader.rest(LIFE_BYTES_MAX)?;
            Message::Life(SignedLife { body: Bytes::copy_from_slice(body), signature })
        }
        kind::ACCUSATION => {
            let said: AccusationV1 = fixed(payload)?;
            Message::Accusation(Accusation {
                state: match said.state {
                    2 => MemberState::Suspect,
                    3 => MemberState::Dead,
                    _ => return Err(WireError::BadField("state")),
                },
                subject: said.subject.0,
                life: life(said.epoch, said.incarnation),
                proof: said.proof,
                accuser: said.accuser.0,
            })
        }
        kind::RECORD => Message::Record(Bytes::copy_from_slice(Reader(payload).rest(RECORD_BYTES_MAX)?)),
        kind::HAVE => Message::Have(record_digest(fixed(payload)?)),
        kind::DOCUMENT => Message::Document(Bytes::copy_from_slice(Reader(payload).rest(DOCUMENT_BYTES_MAX)?)),
        kind::REVOCATION => Message::Revocation(Bytes::copy_from_slice(Reader(payload).rest(REVOCATION_BYTES_MAX)?)),
        kind::HAVE_DOCUMENT => match signed_digest(&fixed(payload)?) {
            Some(digest) => Message::HaveDocument(digest),
            None => return Ok(None),
        },
        kind::HASHES => {
            let list = fixed::<ListV1<SignedV1, DIGEST_ITEMS_MAX>>(payload)?.into_inner();
            Message::Hashes(list.iter().filter_map(signed_digest).collect())
        }
        kind::WANT_HASHES => Message::WantHashes(fixed::<ListV1<[u8; 32], WANT_ITEMS_MAX>>(payload)?.into_inner()),
        kind::BUNDLE => {
            let raw: BundleV1 = fixed(payload)?;
            Message::Bundle(BundleHead { sequence: raw.sequence, hash: raw.hash })
        }
        kind::WANT_UPDATES => {
            Message::WantUpdates(Bytes::copy_from_slice(Reader(payload).rest(UPDATES_REQUEST_BYTES_MAX)?))
        }
        kind::UPDATES => Message::Updates(Bytes::copy_from_slice(Reader(payload).rest(UPDATES_BYTES_MAX)?)),
        kind::SYNC_OPEN => {
            let roots: RootsV1 = fixed(payload)?;
            Message::SyncOpen { roots: Roots { documents: roots.documents, state: roots.state } }
        }
        kind::BUCKETS => {
            let sums = fixed::<ListV1<u64, BUCKETS>>(payload)?.into_inner();
            if sums.len() != BUCKETS {
                return Err(WireError::BadField("buckets"));
            }
            Message::Buckets(sums)
        }
        kind::MEMBERS => {
            let list = fixed::<ListV1<MemberV1, DIGEST_ITEMS_MAX>>(payload)?.into_inner();
            Message::Members(list.into_iter().map(member_digest).collect::<Result<_, _>>()?)
        }
        kind::RECORDS => {
            let list = fixed::<ListV1<RecordV1, DIGEST_ITEMS_MAX>>(payload)?.into_inner();
            Message::Records(list.into_iter().map(record_digest).collect())
        }
        kind::DIGEST_END => Message::DigestEnd { buckets: fixed::<EndV1>(payload)?.buckets },
        kind::WANT => {
            let list = fixed::<ListV1<WantV1, WANT_ITEMS_MAX>>(payload)?.into_inner();
            Message::Want(list.into_iter().map(want).collect::<Result<_, _>>()?)
        }
        kind::CREDENTIAL => {
            let mut reader = Reader(payload);
            let owner = reader.name()?;
            Message::Credential { owner, bytes: Bytes::copy_from_slice(reader.rest(CREDENTIAL_BYTES_MAX)?) }
        }
        kind::LEAVE_ACK => empty(payload, Message::LeaveAck)?,
        kind::DONE => empty(payload, Message::Done)?,
        kind::BUSY => empty(payload, Message::Busy)?,
        _ => return Ok(None),
    }))
}

fn empty(payload: &[u8], message: Message) -> Result<Message, WireError> {
    if payload.is_empty() { Ok(message) } else { Err(WireError::Trailing) }
}

fn fixed<T: Decode<()>>(payload: &[u8]) -> Result<T, WireError> {
    decode::<STRUCT_BYTES_MAX, T>(payload)
}

#[cfg(test)]
mod tests;
