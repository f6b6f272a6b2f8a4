//! The two forms that owners sign, read by hand so that every release can read the life and the version of what a newer
//! one signed. The layout is in the documentation of the parent module.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use starling_model::limits::{ADDRESSES_MAX, NAME_BYTES_MAX};
use starling_model::{BootEpoch, Life, NodeName, RecordKind, RecordVersion};

use super::reader::{Reader, put_name, put_text};
use super::structs::{LISTED_STATES, life};
use crate::codec::WireError;
use crate::limits::{LIFE_BYTES_MAX, RECORD_BYTES_MAX, RECORD_PAYLOAD_BYTES_MAX, SIGNATURE_BYTES};

/// What a member says about its own life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alive {
    pub(crate) name: NodeName,
    pub(crate) life: Life,
    /// Hash of the node statement that certifies the signing key.
    pub(crate) credential: [u8; 32],
    pub(crate) tag: u64,
    pub(crate) protocol: (u16, u16),
    pub(crate) features: u64,
    pub(crate) region: String,
    pub(crate) release: String,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// A member's own word that it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    pub(crate) name: NodeName,
    pub(crate) life: Life,
    pub(crate) credential: [u8; 32],
}

/// The two forms that a record key signs as `Life`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LifeClaim {
    Alive(Alive),
    Leave(Leave),
}

impl LifeClaim {
    pub(crate) fn name(&self) -> &NodeName {
        match self {
            Self::Alive(alive) => &alive.name,
            Self::Leave(leave) => &leave.name,
        }
    }

    pub(crate) fn credential(&self) -> &[u8; 32] {
        match self {
            Self::Alive(alive) => &alive.credential,
            Self::Leave(leave) => &leave.credential,
        }
    }

    pub(crate) fn life(&self) -> Life {
        match self {
            Self::Alive(alive) => alive.life,
            Self::Leave(leave) => leave.life,
        }
    }
}

const FORM_ALIVE: u8 = 1;
const FORM_LEAVE: u8 = 2;
const LIFE_SCHEMA: u8 = 1;

impl Alive {
    /// The bytes to sign. Addresses beyond the limit and overlong texts are cut: they come from our own settings.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = life_head(FORM_ALIVE, &self.name, self.life, &self.credential);
        out.extend_from_slice(&self.tag.to_le_bytes());
        out.extend_from_slice(&self.protocol.0.to_le_bytes());
        out.extend_from_slice(&self.protocol.1.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        put_text(&mut out, &self.region);
        put_text(&mut out, &self.release);
        let addresses = self.addresses.iter().take(ADDRESSES_MAX);
        out.push(u8::try_from(addresses.len()).unwrap_or(0));
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend_from_slice(&ip.octets());
                }
            }
            out.extend_from_slice(&address.port().to_le_bytes());
        }
        out.extend_from_slice(&0_u16.to_le_bytes());
        out.into()
    }
}

impl Leave {
    /// The bytes to sign.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = life_head(FORM_LEAVE, &self.name, self.life, &self.credential);
        out.extend_from_slice(&0_u16.to_le_bytes());
        out.into()
    }
}

fn life_head(form: u8, name: &NodeName, life: Life, credential: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(form);
    out.push(LIFE_SCHEMA);
    put_name(&mut out, name);
    out.extend_from_slice(&life.epoch.0.to_le_bytes());
    out.extend_from_slice(&life.incarnation.0.to_le_bytes());
    out.extend_from_slice(credential);
    out
}

/// What an `alive` tells of its node beside its life, read where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    pub(crate) protocol: (u16, u16),
    pub(crate) features: u64,
    pub(crate) region: &'a str,
    pub(crate) release: &'a str,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl<'a> Attributes<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let protocol = (reader.u16()?, reader.u16()?);
        let features = reader.u64()?;
        let (region, release) = (reader.text()?, reader.text()?);
        let count = usize::from(reader.u8()?);
        if count > ADDRESSES_MAX {
            return Err(WireError::BadField("addresses"));
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            addresses.push(reader.address()?);
        }
        Ok(Self { protocol, features, region, release, addresses })
    }

    /// Of the signed bytes of an `alive` that was read whole before.
    pub(crate) fn of(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader(body);
        if reader.u8()? != FORM_ALIVE {
            return Err(WireError::BadField("form"));
        }
        let _schema = reader.u8()?;
        let name = usize::from(reader.u8()?);
        reader.take(name)?;
        // Life, credential, tag.
        reader.take(8 + 4 + 32 + 8)?;
        Self::read(&mut reader)
    }
}

/// Reads the signed bytes of an `alive` or `leave`.
pub(crate) fn read_life(body: &[u8]) -> Result<LifeClaim, WireError> {
    if body.len() > LIFE_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    let mut reader = Reader(body);
    let form = reader.u8()?;
    // A newer schema adds fields in the extension only, so its number needs no check.
    let _schema = reader.u8()?;
    let name = reader.name()?;
    let life = life(reader.u64()?, reader.u32()?);
    let credential = reader.array()?;
    let claim = match form {
        FORM_ALIVE => {
            let tag = reader.u64()?;
            let Attributes { protocol, features, region, release, addresses } = Attributes::read(&mut reader)?;
            let (region, release) = (region.to_owned(), release.to_owned());
            LifeClaim::Alive(Alive { name, life, credential, tag, protocol, features, region, release, addresses })
        }
        FORM_LEAVE => LifeClaim::Leave(Leave { name, life, credential }),
        _ => return Err(WireError::BadField("form")),
    };
    let extension = usize::from(reader.u16()?);
    reader.take(extension)?;
    reader.end()?;
    Ok(claim)
}

/// A signed message at first sight: enough to find what it may be a copy of. Only the way to the fields shown here was
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glimpse<'a> {
    /// An `alive` or `leave`.
    Life {
        owner: &'a str,
        /// Signature and body, as they lie in a message.
        signed: &'a [u8],
    },
    /// The news that a life exists, alone in its message.
    Announcement {
        owner: &'a str,
        /// Hash of the life.
        proof: u64,
    },
    /// One shard of a record.
    Record {
        owner: &'a str,
        kind: RecordKind,
        shard: u8,
        /// All of it.
        bytes: &'a [u8],
    },
}

impl<'a> Glimpse<'a> {
    /// Of the payload of a life message.
    #[inline] // Costs nothing where nobody looks.
    pub(super) fn of_life(signed: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(signed);
        reader.take(SIGNATURE_BYTES).ok()?;
        reader.take(2).ok()?;
        let owner = reader.str(NAME_BYTES_MAX, "name").ok()?;
        Some(Self::Life { owner, signed })
    }

    /// Of the payload of a message with digests of members, if it has one.
    #[inline]
    pub(super) fn of_announcement(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.u32().ok()? != 1 {
            return None;
        }
        let owner = reader.str(NAME_BYTES_MAX, "name").ok()?;
        reader.take(8 + 4).ok()?;
        if !LISTED_STATES.contains(&reader.u8().ok()?) {
            return None;
        }
        let proof = reader.u64().ok()?;
        reader.take(8).ok()?;
        reader.end().ok()?;
        Some(Self::Announcement { owner, proof })
    }

    /// Of the payload of a record message.
    #[inline]
    pub(super) fn of_record(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let owner = reader.str(NAME_BYTES_MAX, "name").ok()?;
        let (kind, shard) = (RecordKind::from_wire(reader.u8().ok()?), reader.u8().ok()?);
        Some(Self::Record { owner, kind, shard, bytes })
    }
}

/// The credential that the signed bytes of an `alive` or `leave` name.
pub(crate) fn read_credential(body: &[u8]) -> Result<[u8; 32], WireError> {
    let mut reader = Reader(body);
    reader.take(2)?;
    let len = usize::from(reader.u8()?);
    reader.take(len)?;
    reader.take(8 + 4)?;
    reader.array()
}

/// The head of a record, and where its parts lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) owner: NodeName,
    pub(crate) kind: RecordKind,
    pub(crate) shard: u8,
    pub(crate) version: RecordVersion,
    pub(crate) schema: u16,
    pub(crate) ttl_s: u32,
    /// Hash of the owner's node statement.
    pub(crate) statement: [u8; 32],
}

/// A record taken apart; the parts share memory with the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordParts {
    pub(crate) head: RecordHead,
    pub(crate) payload: Bytes,
    /// What the signature covers: everything before it.
    pub(crate) signed: Bytes,
    pub(crate) signature: [u8; SIGNATURE_BYTES],
}

impl RecordHead {
    /// The bytes to sign: head and payload.
    ///
    /// # Errors
    /// The payload is too long.
    pub(crate) fn to_bytes(&self, payload: &[u8]) -> Result<Bytes, WireError> {
        if payload.len() > RECORD_PAYLOAD_BYTES_MAX {
            return Err(WireError::TooLong);
        }
        let mut out = Vec::with_capacity(payload.len().saturating_add(200));
        put_name(&mut out, &self.owner);
        out.push(self.kind.to_wire());
        out.push(self.shard);
        out.extend_from_slice(&self.version.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.version.version.to_le_bytes());
        out.extend_from_slice(&self.schema.to_le_bytes());
        out.extend_from_slice(&self.ttl_s.to_le_bytes());
        out.extend_from_slice(&self.statement);
        out.extend_from_slice(&u16::try_from(payload.len()).map_err(|_| WireError::TooLong)?.to_le_bytes());
        out.extend_from_slice(payload);
        Ok(out.into())
    }
}

/// Reads a whole record; the payload is not looked into.
pub(crate) fn read_record(bytes: &Bytes) -> Result<RecordParts, WireError> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    let mut reader = Reader(bytes);
    let owner = reader.name()?;
    let (kind, shard) = (RecordKind::from_wire(reader.u8()?), reader.u8()?);
    let version = RecordVersion { epoch: BootEpoch(reader.u64()?), version: reader.u64()? };
    let (schema, ttl_s) = (reader.u16()?, reader.u32()?);
    let statement = reader.array()?;
    let len = usize::from(reader.u16()?);
    if len > RECORD_PAYLOAD_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    let payload = bytes.slice_ref(reader.take(len)?);
    let signature = reader.array()?;
    reader.end()?;
    let signed = bytes.slice(..bytes.len().saturating_sub(SIGNATURE_BYTES));
    let head = RecordHead { owner, kind, shard, version, schema, ttl_s, statement };
    Ok(RecordParts { head, payload, signed, signature })
}
