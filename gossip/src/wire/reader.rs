//! Reading and writing by hand: every step checks the length before it reads.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, SocketAddr};

use starling_model::NodeName;

use crate::codec::WireError;
use crate::limits::TEXT_BYTES_MAX;

/// Reads forward through foreign bytes; every step checks the length first.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn str(&mut self, max: usize, field: &'static str) -> Result<&'a str, WireError> {
        let len = usize::from(self.u8()?);
        if len > max {
            return Err(WireError::BadField(field));
        }
        std::str::from_utf8(self.take(len)?).map_err(|_| WireError::BadField(field))
    }

    pub(super) fn name(&mut self) -> Result<NodeName, WireError> {
        let text = self.str(starling_model::limits::NAME_BYTES_MAX, "name")?;
        NodeName::new(text).map_err(|_| WireError::BadField("name"))
    }

    /// Printable text: control characters never reach a log or a table.
    pub(super) fn text(&mut self) -> Result<&'a str, WireError> {
        let text = self.str(TEXT_BYTES_MAX, "text")?;
        if text.chars().any(char::is_control) {
            return Err(WireError::BadField("text"));
        }
        Ok(text)
    }

    pub(super) fn address(&mut self) -> Result<SocketAddr, WireError> {
        let ip = match self.u8()? {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            _ => return Err(WireError::BadField("address")),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    pub(super) fn rest(&mut self, max: usize) -> Result<&'a [u8], WireError> {
        if self.0.len() > max {
            return Err(WireError::TooLong);
        }
        Ok(std::mem::take(&mut self.0))
    }

    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

pub(super) fn put_name(out: &mut Vec<u8>, name: &NodeName) {
    // A name has at most 63 bytes by its grammar.
    out.push(u8::try_from(name.as_str().len()).unwrap_or(0));
    out.extend_from_slice(name.as_str().as_bytes());
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    out.push(u8::try_from(end).unwrap_or(0));
    out.extend_from_slice(text.get(..end).unwrap_or_default().as_bytes());
}
