//! The framing of a body whose length nobody knew at its begin (RFC 9112, 7.1), one byte at a time.

use crate::limits::H2_HEADER_LIST_BYTES_MAX;

/// Bytes of one chunk's extension; nobody uses them. hyper counts 16 KiB for a whole body.
const CHUNK_EXTENSION_MAX: u32 = 1_024;
/// Bytes of trailers: what a header list of HTTP/2 may have here, and hyper takes.
pub(crate) const TRAILERS_MAX: u32 = H2_HEADER_LIST_BYTES_MAX;

/// Where in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Size { digits: u8, size: u64 },
    SizeBlank { size: u64 },
    Extension { size: u64, len: u32 },
    SizeLf { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    LineStart { len: u32 },
    Line { len: u32 },
    LineLf { len: u32 },
    EndLf,
}

impl Chunk {
    /// Before the first byte.
    pub(crate) const BEGIN: Self = Self::Size { digits: 0, size: 0 };

    /// One byte of framing: the next state, `Some(None)` at the body's end, `None` when the byte is wrong.
    pub(crate) fn step(self, byte: u8) -> Option<Option<Self>> {
        let next = match (self, byte) {
            (Self::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)?;
                let size = size.checked_mul(16)?.checked_add(u64::from(digit))?;
                Self::Size { digits: digits.checked_add(1).filter(|d| *d <= 16)?, size }
            }
            (Self::Size { digits: 1.., size } | Self::SizeBlank { size } | Self::Extension { size, .. }, b'\r') => {
                Self::SizeLf { size }
            }
            (Self::Size { digits: 1.., size } | Self::SizeBlank { size }, b' ' | b'\t') => Self::SizeBlank { size },
            (Self::Size { digits: 1.., size } | Self::SizeBlank { size }, b';') => Self::Extension { size, len: 0 },
            (Self::Extension { size, len }, _) if byte != b'\n' && byte != b'\0' && len < CHUNK_EXTENSION_MAX => {
                Self::Extension { size, len: len.checked_add(1)? }
            }
            (Self::SizeLf { size: 0 }, b'\n') => Self::LineStart { len: 0 },
            (Self::SizeLf { size }, b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::BEGIN,
            (Self::LineStart { .. }, b'\r') => Self::EndLf,
            (Self::Line { len }, b'\r') => Self::LineLf { len },
            (Self::LineStart { len } | Self::Line { len }, _) if byte != b'\n' && len < TRAILERS_MAX => {
                Self::Line { len: len.checked_add(1)? }
            }
            (Self::LineLf { len }, b'\n') => Self::LineStart { len },
            (Self::EndLf, b'\n') => return Some(None),
            _ => return None,
        };
        Some(Some(next))
    }
}
