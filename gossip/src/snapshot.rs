//! What the store keeps of members and addresses: opaque to it, written and read here. Records and credentials are kept
//! as the bytes that were signed.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::SocketAddr;

use bytes::Bytes;
use starling_model::MemberState;
use starling_model::limits::ADDRESSES_MAX;

use crate::codec::{BoundedVec, Decode, Encode, Text, WireError, append, decode, encode};
use crate::limits::{LIFE_BYTES_MAX, SIGNATURE_BYTES};
use crate::members::Member;
use crate::wire::SignedLife;

const SNAPSHOT_BYTES_MAX: usize = 4 << 10;
/// Most members have less.
const RESERVE: usize = 384;
/// Longest text of a socket address.
const ADDRESS_BYTES_MAX: usize = 64;

#[derive(Encode, Decode)]
struct SignedV1 {
    body: BoundedVec<u8, LIFE_BYTES_MAX>,
    signature: [u8; SIGNATURE_BYTES],
}

#[derive(Encode, Decode)]
struct MemberV1 {
    state: u8,
    alive: SignedV1,
    leave: BoundedVec<SignedV1, 1>,
    observed: Text<ADDRESS_BYTES_MAX>,
}

/// A member as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) state: MemberState,
    pub(crate) alive: SignedLife,
    pub(crate) leave: Option<SignedLife>,
    pub(crate) observed: Option<SocketAddr>,
}

/// Writes a member.
pub(crate) fn write_member(member: &Member) -> Result<Bytes, WireError> {
    let state = match member.state {
        MemberState::Joining | MemberState::Alive => 1,
        MemberState::Suspect => 2,
        MemberState::Dead => 3,
        MemberState::Left => 4,
    };
    let leave = member.contact().leave.iter().map(|leave| signed(&leave.signed())).collect::<Result<_, _>>()?;
    let observed = member.contact().observed.map(|address| address.to_string()).unwrap_or_default();
    let raw = MemberV1 {
        state,
        alive: signed(&member.announced().signed())?,
        leave: BoundedVec::new(leave)?,
        observed: Text::new(&observed)?,
    };
    let mut out = Vec::with_capacity(RESERVE);
    append::<SNAPSHOT_BYTES_MAX, _>(&mut out, &raw)?;
    Ok(out.into())
}

/// Reads a member.
pub(crate) fn read_member(bytes: &[u8]) -> Result<Saved, WireError> {
    let raw: MemberV1 = decode::<SNAPSHOT_BYTES_MAX, _>(bytes)?;
    let state = match raw.state {
        1 => MemberState::Alive,
        2 => MemberState::Suspect,
        3 => MemberState::Dead,
        4 => MemberState::Left,
        _ => return Err(WireError::BadField("state")),
    };
    Ok(Saved {
        state,
        alive: unsigned(raw.alive),
        leave: raw.leave.into_inner().pop().map(unsigned),
        observed: raw.observed.as_str().parse().ok(),
    })
}

fn signed(life: &SignedLife) -> Result<SignedV1, WireError> {
    Ok(SignedV1 { body: BoundedVec::new(life.body.to_vec())?, signature: life.signature })
}

fn unsigned(raw: SignedV1) -> SignedLife {
    SignedLife { body: raw.body.into_inner().into(), signature: raw.signature }
}

#[derive(Encode, Decode)]
struct AddressesV1 {
    addresses: BoundedVec<Text<ADDRESS_BYTES_MAX>, { ADDRESSES_MAX + 1 }>,
}

/// Writes the last addresses of a name.
pub(crate) fn write_addresses(addresses: &[SocketAddr]) -> Result<Bytes, WireError> {
    let texts =
        addresses.iter().take(ADDRESSES_MAX).map(|one| Text::new(&one.to_string())).collect::<Result<_, _>>()?;
    encode::<SNAPSHOT_BYTES_MAX, _>(&AddressesV1 { addresses: BoundedVec::new(texts)? }).map(Bytes::from)
}

/// Reads them.
pub(crate) fn read_addresses(bytes: &[u8]) -> Result<Vec<SocketAddr>, WireError> {
    let raw: AddressesV1 = decode::<SNAPSHOT_BYTES_MAX, _>(bytes)?;
    let parse = |text: &Text<ADDRESS_BYTES_MAX>| text.as_str().parse().map_err(|_| WireError::BadField("address"));
    raw.addresses.as_slice().iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_survive_the_store() {
        let addresses: Vec<SocketAddr> = vec!["10.0.0.1:7740".parse().unwrap(), "[fe80::1]:7740".parse().unwrap()];
        assert_eq!(read_addresses(&write_addresses(&addresses).unwrap()).unwrap(), addresses);
    }

    proptest! {
        #[test]
        fn no_stored_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_member(&bytes);
            let _ = read_addresses(&bytes);
        }
    }
}
