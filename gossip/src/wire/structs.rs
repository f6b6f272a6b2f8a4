//! The small fixed messages as bincode sees them. A struct is never edited: a change is a new one.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use starling_model::{BootEpoch, Incarnation, Life, MemberState, RecordKind, RecordVersion};

use super::{MemberDigest, RecordDigest, SignedDigest, Want};
use crate::action::OperatorClaim;
use crate::codec::{BoundedVec, Decode, Encode, Name, WireError};
use crate::limits::BUCKETS;

#[derive(Encode, Decode)]
pub(super) struct NonceV1 {
    pub(super) nonce: u64,
}

#[derive(Encode, Decode)]
pub(super) struct AckV1 {
    pub(super) nonce: u64,
    pub(super) documents: u64,
    pub(super) state: u64,
    pub(super) health: u8,
}

#[derive(Encode, Decode)]
pub(super) struct PingReqV1 {
    pub(super) nonce: u64,
    pub(super) target: Name,
    pub(super) wait_ms: u32,
}

#[derive(Encode, Decode)]
pub(super) struct AccusationV1 {
    pub(super) state: u8,
    pub(super) subject: Name,
    pub(super) epoch: u64,
    pub(super) incarnation: u32,
    pub(super) proof: u64,
    pub(super) accuser: Name,
}

#[derive(Encode, Decode)]
pub(super) struct RootsV1 {
    pub(super) documents: u64,
    pub(super) state: u64,
}

#[derive(Encode, Decode)]
pub(super) struct MemberV1 {
    pub(super) name: Name,
    pub(super) epoch: u64,
    pub(super) incarnation: u32,
    pub(super) state: u8,
    pub(super) proof: u64,
    pub(super) credential: u64,
}

#[derive(Encode, Decode)]
pub(super) struct RecordV1 {
    pub(super) owner: Name,
    pub(super) kind: u8,
    pub(super) shard: u8,
    pub(super) epoch: u64,
    pub(super) version: u64,
}

#[derive(Encode, Decode)]
pub(super) struct EndV1 {
    pub(super) buckets: [u8; BUCKETS / 8],
}

#[derive(Encode, Decode)]
pub(super) struct WantV1 {
    pub(super) class: u8,
    pub(super) owner: Name,
    pub(super) kind: u8,
    pub(super) shard: u8,
    pub(super) hash: BoundedVec<u8, 32>,
}

pub(super) type ListV1<T, const N: usize> = BoundedVec<T, N>;

pub(super) fn life(epoch: u64, incarnation: u32) -> Life {
    Life { epoch: BootEpoch(epoch), incarnation: Incarnation(incarnation) }
}

/// The bytes of all states that travel.
pub(super) const LISTED_STATES: std::ops::RangeInclusive<u8> = 1..=4;

/// The byte of a state in digests and accusations. `Joining` never travels.
pub(super) fn state_byte(state: MemberState) -> u8 {
    match state {
        MemberState::Joining => 0,
        MemberState::Alive => 1,
        MemberState::Suspect => 2,
        MemberState::Dead => 3,
        MemberState::Left => 4,
    }
}

pub(super) fn member_digest(raw: MemberV1) -> Result<MemberDigest, WireError> {
    let state = match raw.state {
        1 => MemberState::Alive,
        2 => MemberState::Suspect,
        3 => MemberState::Dead,
        4 => MemberState::Left,
        _ => return Err(WireError::BadField("state")),
    };
    let life = life(raw.epoch, raw.incarnation);
    Ok(MemberDigest { name: raw.name.0, life, state, proof: raw.proof, credential: raw.credential })
}

pub(super) fn record_digest(raw: RecordV1) -> RecordDigest {
    RecordDigest {
        owner: raw.owner.0,
        kind: RecordKind::from_wire(raw.kind),
        shard: raw.shard,
        version: RecordVersion { epoch: BootEpoch(raw.epoch), version: raw.version },
    }
}

pub(super) fn want(raw: WantV1) -> Result<Want, WireError> {
    Ok(match raw.class {
        1 => Want::Member(raw.owner.0),
        2 => Want::Record(raw.owner.0, RecordKind::from_wire(raw.kind), raw.shard),
        3 => {
            let hash = raw.hash.into_inner().try_into().map_err(|_| WireError::BadField("hash"))?;
            Want::Credential(raw.owner.0, hash)
        }
        _ => return Err(WireError::BadField("class")),
    })
}

pub(super) fn raw_member(digest: &MemberDigest) -> MemberV1 {
    MemberV1 {
        name: Name(digest.name.clone()),
        epoch: digest.life.epoch.0,
        incarnation: digest.life.incarnation.0,
        state: state_byte(digest.state),
        proof: digest.proof,
        credential: digest.credential,
    }
}

pub(super) fn raw_record(digest: &RecordDigest) -> RecordV1 {
    RecordV1 {
        owner: Name(digest.owner.clone()),
        kind: digest.kind.to_wire(),
        shard: digest.shard,
        epoch: digest.version.epoch.0,
        version: digest.version.version,
    }
}

pub(super) fn raw_want(want: &Want) -> Result<WantV1, WireError> {
    let (class, owner, kind, shard, hash) = match want {
        Want::Member(owner) => (1, owner, 0, 0, Vec::new()),
        Want::Record(owner, kind, shard) => (2, owner, kind.to_wire(), *shard, Vec::new()),
        Want::Credential(owner, hash) => (3, owner, 0, 0, hash.to_vec()),
    };
    Ok(WantV1 { class, owner: Name(owner.clone()), kind, shard, hash: BoundedVec::new(hash)? })
}

#[derive(Encode, Decode)]
pub(super) struct BundleV1 {
    pub(super) sequence: u64,
    pub(super) hash: [u8; 32],
}

#[derive(Encode, Decode)]
pub(super) struct SignedV1 {
    pub(super) kind: u8,
    pub(super) subject: u64,
    pub(super) number: u64,
    pub(super) hash: [u8; 32],
}

const KIND_DOCUMENT: u8 = 1;
const KIND_REVOCATION: u8 = 2;
const KIND_BATCH_DOCUMENT: u8 = 3;

/// `None` for a kind of a newer release: such things are passed over.
pub(super) fn signed_digest(raw: &SignedV1) -> Option<SignedDigest> {
    let (kind, in_batch) = match raw.kind {
        KIND_DOCUMENT => (OperatorClaim::Document, false),
        KIND_REVOCATION => (OperatorClaim::Revocation, false),
        KIND_BATCH_DOCUMENT => (OperatorClaim::Document, true),
        _ => return None,
    };
    Some(SignedDigest { kind, in_batch, subject: raw.subject, number: raw.number, hash: raw.hash })
}

pub(super) fn raw_signed(digest: &SignedDigest) -> SignedV1 {
    let kind = match digest.kind {
        OperatorClaim::Document if digest.in_batch => KIND_BATCH_DOCUMENT,
        OperatorClaim::Document => KIND_DOCUMENT,
        OperatorClaim::Revocation => KIND_REVOCATION,
    };
    SignedV1 { kind, subject: digest.subject, number: digest.number, hash: digest.hash }
}
