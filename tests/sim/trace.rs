//! A run as one number: everything that any machine was given and gave, in order. Two runs of one seed that differ
//! anywhere differ here.

use std::fmt;

/// Mixes bytes into 32. Not cryptographic: nothing in a simulation tries to break it.
#[derive(Clone, Debug)]
pub struct Mixer {
    lanes: [u64; 4],
    length: u64,
}

/// Odd constants with well spread bits (the golden ratio's and Murmur's).
const MULTIPLIERS: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53, 0xd6e8_feb8_6659_fd93];

impl Mixer {
    /// Begins with a number that tells uses apart.
    #[must_use]
    pub fn new(purpose: u64) -> Self {
        Self { lanes: MULTIPLIERS.map(|multiplier| multiplier ^ purpose), length: 0 }
    }

    /// Adds one number.
    pub fn number(&mut self, value: u64) {
        self.length = self.length.wrapping_add(1);
        let mut carry = value ^ self.length;
        for (lane, multiplier) in self.lanes.iter_mut().zip(MULTIPLIERS) {
            *lane = (*lane ^ carry).wrapping_mul(multiplier).rotate_left(29);
            carry = carry.wrapping_add(*lane);
        }
    }

    /// Adds bytes with their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            self.block(block);
        }
        let (words, rest) = rest.as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.number(u64::from_le_bytes(word));
        }
    }

    /// One word into each lane; the next number carries each into the others.
    fn block(&mut self, block: &[u8; 32]) {
        let (words, _) = block.as_chunks::<8>();
        for ((lane, word), multiplier) in self.lanes.iter_mut().zip(words).zip(MULTIPLIERS) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(multiplier).rotate_left(29);
        }
    }

    /// The 32 bytes so far.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut last = self.clone();
        for round in 0..4 {
            last.number(round);
        }
        let mut out = [0; 32];
        for (bytes, lane) in out.chunks_exact_mut(8).zip(last.lanes) {
            bytes.copy_from_slice(&lane.to_le_bytes());
        }
        out
    }
}

/// Hash of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceHash(pub u64);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The running hash of a run.
#[derive(Clone, Debug)]
pub struct Trace(Mixer);

impl Trace {
    /// An empty run.
    #[must_use]
    pub fn new() -> Self {
        Self(Mixer::new(0))
    }

    /// Adds one thing that happened: what, where, when, and its bytes.
    pub fn add(&mut self, what: u8, host: usize, nanos: u128, bytes: &[u8]) {
        self.0.number(u64::from(what) << 32 | (host as u64 & 0xffff_ffff));
        self.0.number(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.0.bytes(bytes);
    }

    /// Adds a number to what was added last.
    pub fn number(&mut self, value: u64) {
        self.0.number(value);
    }

    /// Adds all of another, as one step.
    pub fn join(&mut self, other: &Self) {
        for lane in other.0.lanes {
            self.0.number(lane);
        }
    }

    /// The hash so far.
    #[must_use]
    pub fn hash(&self) -> TraceHash {
        let digest = self.0.digest();
        TraceHash(digest.first_chunk().map_or(0, |head| u64::from_le_bytes(*head)))
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_difference_changes_the_hash() {
        let run = |entries: &[(u8, usize, u128, &[u8])]| {
            let mut trace = Trace::new();
            for (what, host, nanos, bytes) in entries {
                trace.add(*what, *host, *nanos, bytes);
            }
            trace.hash()
        };
        let base = run(&[(1, 2, 3, b"abc"), (1, 2, 4, b"")]);
        assert_eq!(base, run(&[(1, 2, 3, b"abc"), (1, 2, 4, b"")]));
        for other in [
            run(&[(2, 2, 3, b"abc"), (1, 2, 4, b"")]),
            run(&[(1, 3, 3, b"abc"), (1, 2, 4, b"")]),
            run(&[(1, 2, 4, b"abc"), (1, 2, 4, b"")]),
            run(&[(1, 2, 3, b"abd"), (1, 2, 4, b"")]),
            run(&[(1, 2, 4, b""), (1, 2, 3, b"abc")]),
            run(&[(1, 2, 3, b"abc")]),
        ] {
            assert_ne!(base, other);
        }
    }
}
