//! **The** bincode module: nothing else in Starling names that crate.
//!
//! bincode 2.0.1 is unmaintained and trusting by default, so this module fixes its rules: fixed-width
//! little-endian integers, a limit on every call, trailing bytes are an error, slices only, containers of bounded
//! length that never reserve what a length field claims. A wire struct is never edited: a change is a new schema.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bincode::BorrowDecode;
use bincode::config::{self, Config};
use bincode::de::read::Reader as _;
use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use starling_model::NodeName;
use starling_model::limits::NAME_BYTES_MAX;

pub(crate) use bincode::{Decode, Encode};

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than its kind may be.
    #[error("longer than allowed")]
    TooLong,
    /// Ends too early.
    #[error("ends too early")]
    Truncated,
    /// Goes on after its end.
    #[error("has bytes after its end")]
    Trailing,
    /// No frame of this protocol.
    #[error("is no frame of this protocol")]
    BadMagic,
    /// A field has a value it cannot have.
    #[error("field {0} is invalid")]
    BadField(&'static str),
    /// A payload that bincode could not read.
    #[error("the payload is malformed")]
    Malformed,
}

/// The only way from foreign bytes to a value. `LIMIT` bounds claimed memory as well as input length.
pub(crate) fn decode<const LIMIT: usize, T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > LIMIT {
        return Err(WireError::TooLong);
    }
    let (value, used) = bincode::decode_from_slice(bytes, rules::<LIMIT>()).map_err(|error| why(&error))?;
    if used != bytes.len() {
        return Err(WireError::Trailing);
    }
    Ok(value)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's error is open-ended, and ours has one word for the rest"
)]
fn why(error: &DecodeError) -> WireError {
    match error {
        DecodeError::UnexpectedEnd { .. } => WireError::Truncated,
        DecodeError::LimitExceeded => WireError::TooLong,
        _ => WireError::Malformed,
    }
}

/// Bytes for which room is made at once: most values that are encoded alone fit.
const RESERVE_BYTES: usize = 256;

/// The only way from a value to bytes. What a reader would refuse is refused here, before it is signed or sent.
pub(crate) fn encode<const LIMIT: usize, T: Encode + Decode<()>>(value: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(LIMIT.min(RESERVE_BYTES));
    encode_into::<LIMIT, T>(&mut bytes, value)?;
    Ok(bytes)
}

/// [`encode`] behind what `out` holds. After an error it may hold more than before.
pub(crate) fn encode_into<const LIMIT: usize, T: Encode + Decode<()>>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<(), WireError> {
    let start = out.len();
    bincode::encode_into_writer(value, Tail(out), rules::<LIMIT>()).map_err(|_| WireError::Malformed)?;
    decode::<LIMIT, T>(out.get(start..).unwrap_or_default())?;
    Ok(())
}

/// [`encode_into`] without reading it back, for values none of whose fields can hold what their reader refuses.
pub(crate) fn append<const LIMIT: usize, T: Encode + Decode<()>>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<(), WireError> {
    let start = out.len();
    bincode::encode_into_writer(value, Tail(out), rules::<LIMIT>()).map_err(|_| WireError::Malformed)?;
    let bytes = out.get(start..).unwrap_or_default();
    if bytes.len() > LIMIT {
        return Err(WireError::TooLong);
    }
    debug_assert!(decode::<LIMIT, T>(bytes).is_ok(), "a field holds what its reader refuses");
    Ok(())
}

/// Writes behind what is there.
struct Tail<'a>(&'a mut Vec<u8>);

impl Writer for Tail<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn rules<const LIMIT: usize>() -> impl Config {
    config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<LIMIT>()
}

/// At most `N` elements. Memory grows with elements that were read, never with the length that was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundedVec<T, const N: usize>(Vec<T>);

/// Elements for which room is made at once.
const RESERVE: usize = 16;

impl<T, const N: usize> BoundedVec<T, N> {
    /// Takes over `items`.
    pub(crate) fn new(items: Vec<T>) -> Result<Self, WireError> {
        if items.len() > N { Err(WireError::TooLong) } else { Ok(Self(items)) }
    }

    pub(crate) fn into_inner(self) -> Vec<T> {
        self.0
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<T: Encode, const N: usize> Encode for BoundedVec<T, N> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let len = u32::try_from(self.0.len()).map_err(|_| EncodeError::Other("length"))?;
        len.encode(encoder)?;
        self.0.iter().try_for_each(|item| item.encode(encoder))
    }
}

impl<C, T: Decode<C>, const N: usize> Decode<C> for BoundedVec<T, N> {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        // A zero-sized element would cost the sender nothing and us a loop.
        const { assert!(size_of::<T>() > 0) };
        let len = usize::try_from(u32::decode(decoder)?).map_err(|_| DecodeError::LimitExceeded)?;
        if len > N {
            return Err(DecodeError::LimitExceeded);
        }
        let mut items = Vec::with_capacity(len.min(RESERVE));
        for _ in 0..len {
            items.push(T::decode(decoder)?);
        }
        Ok(Self(items))
    }
}

/// UTF-8 of at most `N` bytes (`N` at most 255).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text<const N: usize>(String);

impl<const N: usize> Text<N> {
    pub(crate) fn new(text: &str) -> Result<Self, WireError> {
        if text.len() > N { Err(WireError::TooLong) } else { Ok(Self(text.to_owned())) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> Encode for Text<N> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        u8::try_from(self.0.len()).map_err(|_| EncodeError::Other("length"))?.encode(encoder)?;
        encoder.writer().write(self.0.as_bytes())
    }
}

impl<C, const N: usize> Decode<C> for Text<N> {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let len = usize::from(u8::decode(decoder)?);
        if len > N {
            return Err(DecodeError::LimitExceeded);
        }
        decoder.claim_bytes_read(len)?;
        let mut bytes = vec![0; len];
        decoder.reader().read(&mut bytes)?;
        String::from_utf8(bytes).map(Self).map_err(|_| DecodeError::Other("text is not UTF-8"))
    }
}

/// A node's name on the wire; its grammar is checked while reading.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(pub(crate) NodeName);

impl Encode for Name {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        u8::try_from(self.0.as_str().len()).map_err(|_| EncodeError::Other("length"))?.encode(encoder)?;
        encoder.writer().write(self.0.as_str().as_bytes())
    }
}

impl<C> Decode<C> for Name {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let len = usize::from(u8::decode(decoder)?);
        let mut room = [0; NAME_BYTES_MAX];
        let bytes = room.get_mut(..len).ok_or(DecodeError::LimitExceeded)?;
        decoder.claim_bytes_read(len)?;
        decoder.reader().read(bytes)?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Other("text is not UTF-8"))?;
        NodeName::new(text).map(Self).map_err(|_| DecodeError::Other("not a node name"))
    }
}

// The derive also asks for the borrowing form of each field; ours own what they hold.
impl<'de, C, T: Decode<C>, const N: usize> BorrowDecode<'de, C> for BoundedVec<T, N> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Decode::decode(decoder)
    }
}

impl<'de, C, const N: usize> BorrowDecode<'de, C> for Text<N> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Decode::decode(decoder)
    }
}

impl<'de, C> BorrowDecode<'de, C> for Name {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Decode::decode(decoder)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
    struct Sample {
        count: u64,
        names: BoundedVec<Text<8>, 3>,
    }

    fn sample(names: &[&str]) -> Sample {
        let names = names.iter().map(|name| Text::new(name).unwrap()).collect();
        Sample { count: 7, names: BoundedVec::new(names).unwrap() }
    }

    #[test]
    fn a_value_survives_and_its_bytes_are_fixed() {
        let bytes = encode::<64, _>(&sample(&["ab", ""])).unwrap();
        assert_eq!(bytes, [7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, b'a', b'b', 0]);
        assert_eq!(decode::<64, Sample>(&bytes).unwrap(), sample(&["ab", ""]));
    }

    #[test]
    fn every_rule_refuses_what_lies_beyond_it() {
        let good = encode::<64, _>(&sample(&["ab"])).unwrap();
        let check = |bytes: &[u8], want: WireError| assert_eq!(decode::<64, Sample>(bytes), Err(want), "{bytes:?}");
        check(&[good.clone(), vec![0]].concat(), WireError::Trailing);
        check(&good[..good.len() - 1], WireError::Truncated);
        check(&[0; 65], WireError::TooLong);
        check(&[7, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0], WireError::TooLong);
        check(&[7, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255], WireError::TooLong);
        check(&[7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0], WireError::TooLong);
        check(&[7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0xff], WireError::Malformed);
        assert!(BoundedVec::<u8, 2>::new(vec![1, 2, 3]).is_err());
        assert!(Text::<2>::new("abc").is_err());
        assert_eq!(encode::<8, _>(&sample(&["ab"])), Err(WireError::TooLong), "the writer refuses what a reader would");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode::<64, Sample>(&bytes);
        }
    }
}
