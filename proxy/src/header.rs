//! The header of an `open` frame: on whose behalf a stream is opened, and to what.
//!
//! ```text
//! header      := version u8 = 1 | carry u8 | flags u8 | [source namespace | source service] | namespace | service
//!                | instance | port | extension*
//! carry       := 1 (HTTP/1.1 messages) | 2 (bytes) | 4 (requests of HTTP/2, as HTTP/1.1 messages)
//! flags       := 0x01: a source follows; every other bit is 0
//! name        := len u8 (1..=63) | bytes, one DNS label
//! extension   := tag u8 | len u8 | bytes
//! ```
//!
//! A receiver skips extensions with a tag below 128 and refuses the stream at one from 128 up that it does not know: the
//! sender thereby says that ignoring it would change the meaning (a grant narrowed, say). Integers are single bytes, so
//! there is no byte order. The codec is pure and never panics on any input.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::Bytes;
use starling_model::{InstanceName, Namespace, PortName, ServiceKey, ServiceName};

/// The only version there is.
pub const VERSION: u8 = 1;

/// Largest header: six names of 64 bytes with their lengths, the fixed part, and room for extensions.
pub const OPEN_HEADER_BYTES_MAX: usize = 1_024;

/// Extensions with this bit must be understood.
const CRITICAL: u8 = 0x80;
const FLAG_SOURCE: u8 = 0x01;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carry {
    /// HTTP/1.1 messages, request after request.
    Http1,
    /// Bytes with half-close, as TCP gives them.
    Bytes,
    /// The same for an instance that speaks HTTP/2: requests of HTTP/2 and their answers, written as HTTP/1.1.
    Http2,
}

impl Carry {
    fn to_wire(self) -> u8 {
        match self {
            Self::Http1 => 1,
            Self::Bytes => 2,
            Self::Http2 => 4,
        }
    }

    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Http1),
            2 => Some(Self::Bytes),
            4 => Some(Self::Http2),
            _ => None,
        }
    }
}

/// Who opens a stream, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHeader {
    /// What the stream carries.
    pub carry: Carry,
    /// The service on whose behalf the caller's node opens it; `None` is the bare node. A claim, until accepted.
    pub source: Option<ServiceKey>,
    /// The service it asks for.
    pub destination: ServiceKey,
    /// Which instance of that service on the receiving node.
    pub instance: InstanceName,
    /// Which port of the service.
    pub port: PortName,
}

/// Why a header is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderInvalid {
    /// Over [`OPEN_HEADER_BYTES_MAX`].
    #[error("the open header has {0} bytes, at most {OPEN_HEADER_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// It ends within a field.
    #[error("the open header is cut short")]
    Short,
    /// Another version than 1.
    #[error("open header version {0} is not known")]
    Version(u8),
    /// No such carry.
    #[error("the open header asks for carry {0}, which is not known")]
    Carry(u8),
    /// A flag that has no meaning.
    #[error("the open header has unknown flags {0:#04x}")]
    Flags(u8),
    /// A name that breaks the grammar.
    #[error("the open header names no valid {0}")]
    Name(&'static str),
    /// An extension that must be understood and is not.
    #[error("the open header needs extension {0}, which is not known")]
    Extension(u8),
}

impl OpenHeader {
    /// The bytes for an `open` frame. Always within [`OPEN_HEADER_BYTES_MAX`], since names are.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let flags = if self.source.is_some() { FLAG_SOURCE } else { 0 };
        let mut out = Vec::with_capacity(128);
        out.extend([VERSION, self.carry.to_wire(), flags]);
        if let Some(source) = &self.source {
            put_name(&mut out, source.namespace.as_str());
            put_name(&mut out, source.name.as_str());
        }
        put_name(&mut out, self.destination.namespace.as_str());
        put_name(&mut out, self.destination.name.as_str());
        put_name(&mut out, self.instance.as_str());
        put_name(&mut out, self.port.as_str());
        Bytes::from(out)
    }

    /// Reads what a peer sent.
    ///
    /// # Errors
    /// [`HeaderInvalid`]; the stream is then refused and counted.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderInvalid> {
        if bytes.len() > OPEN_HEADER_BYTES_MAX {
            return Err(HeaderInvalid::TooLong(bytes.len()));
        }
        let mut rest = Rest(bytes);
        match rest.byte()? {
            VERSION => {}
            other => return Err(HeaderInvalid::Version(other)),
        }
        let carry = rest.byte()?;
        let carry = Carry::from_wire(carry).ok_or(HeaderInvalid::Carry(carry))?;
        let flags = rest.byte()?;
        if flags & !FLAG_SOURCE != 0 {
            return Err(HeaderInvalid::Flags(flags));
        }
        let source = if flags & FLAG_SOURCE != 0 { Some(rest.service("source")?) } else { None };
        let destination = rest.service("destination")?;
        let instance = InstanceName::new(rest.text("instance")?).map_err(|_| HeaderInvalid::Name("instance"))?;
        let port = PortName::new(rest.text("port")?).map_err(|_| HeaderInvalid::Name("port"))?;
        while !rest.0.is_empty() {
            let tag = rest.byte()?;
            rest.counted()?;
            if tag & CRITICAL != 0 {
                return Err(HeaderInvalid::Extension(tag));
            }
        }
        Ok(Self { carry, source, destination, instance, port })
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    // A name is at most 63 bytes by its grammar; a longer one would make the receiver refuse the stream, not misread it.
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(name.as_bytes());
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Result<u8, HeaderInvalid> {
        let (first, rest) = self.0.split_first().ok_or(HeaderInvalid::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn counted(&mut self) -> Result<&'a [u8], HeaderInvalid> {
        let len = usize::from(self.byte()?);
        let (head, rest) = self.0.split_at_checked(len).ok_or(HeaderInvalid::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, HeaderInvalid> {
        std::str::from_utf8(self.counted()?).map_err(|_| HeaderInvalid::Name(what))
    }

    fn service(&mut self, what: &'static str) -> Result<ServiceKey, HeaderInvalid> {
        let namespace = Namespace::new(self.text(what)?).map_err(|_| HeaderInvalid::Name(what))?;
        let name = ServiceName::new(self.text(what)?).map_err(|_| HeaderInvalid::Name(what))?;
        Ok(ServiceKey::new(namespace, name))
    }
}

#[cfg(test)]
mod tests;
