//! What the fuzz targets share: how an input is cut into decisions ([`Input`]), a trust domain that never changes
//! ([`identity`]), DER by hand ([`der`]), frames around messages ([`frames`]) and a driver for the gossip machine ([`driver`]).
//!
//! A target fails by panicking: a panic of the code under test, an overflow, or an `assert!` here that states what must
//! hold for *every* input. Not here: anything that the agent uses.

pub mod der;
pub mod driver;
pub mod frames;
pub mod identity;

/// Reads decisions off the front of an input; past its end everything is zero.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// True when nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Exactly `N` bytes, filled up with zeros.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let head = self.take(N);
        out[..head.len()].copy_from_slice(head);
        out
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes, little endian.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// A length of two bytes, then so many bytes.
    pub fn counted(&mut self) -> &'a [u8] {
        let length = usize::from(self.short());
        self.take(length)
    }

    /// A length of one byte, then so many bytes.
    pub fn counted_short(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.take(length)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Changes a copy of `genuine` as the input says: at most 16 bytes replaced, inserted, removed or cut off.
#[must_use]
pub fn edited(genuine: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = genuine.to_vec();
    for _ in 0..16 {
        if input.is_empty() || bytes.is_empty() {
            break;
        }
        let at = usize::from(input.short()) % bytes.len();
        match input.byte() % 6 {
            0 | 1 => bytes[at] = input.byte(),
            2 => bytes[at] ^= 1 << (input.byte() % 8),
            3 => bytes.insert(at, input.byte()),
            4 => drop(bytes.remove(at)),
            _ => {
                let to = usize::from(input.short()) % bytes.len();
                bytes.swap(at, to);
            }
        }
    }
    bytes
}
