//! Bounded reading and writing of the few binary bodies that are signed here (bundle, node statement, join header).
//!
//! Integers are little-endian and of fixed width; texts and byte strings carry their length in front. A body is read to
//! its last byte or refused.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// It ends in the middle of a field.
    #[error("it ends too early")]
    Short,
    /// Bytes follow the last field.
    #[error("bytes follow its end")]
    Trailing,
    /// A text is not UTF-8, or a field has a value that it cannot have.
    #[error("a field has a value it cannot have")]
    Value,
}

/// Reads from the front of a slice.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text of at most 255 bytes.
    pub(crate) fn text(&mut self) -> Result<&'a str, WireError> {
        let len = usize::from(self.u8()?);
        std::str::from_utf8(self.take(len)?).map_err(|_| WireError::Value)
    }

    /// A byte string of at most 65,535 bytes.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = usize::from(self.u16()?);
        self.take(len)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

/// Appends to a body. Callers keep texts and byte strings within their length fields; the checks are in the types that
/// are written (names of 63 bytes, certificates of 4 KiB), and a longer one is cut off by no one: it is an error.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A count of at most 255 things.
    pub(crate) fn count(&mut self, count: usize) -> Result<&mut Self, WireError> {
        Ok(self.u8(u8::try_from(count).map_err(|_| WireError::Value)?))
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<&mut Self, WireError> {
        self.count(text.len())?;
        Ok(self.raw(text.as_bytes()))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<&mut Self, WireError> {
        let len = u16::try_from(bytes.len()).map_err(|_| WireError::Value)?;
        Ok(self.raw(&len.to_le_bytes()).raw(bytes))
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}
