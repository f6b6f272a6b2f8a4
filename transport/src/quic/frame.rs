//! Frames of a sync exchange, out of a stream that comes in pieces.
//!
//! ```text
//! frame := length u32le (1 ..= 1 MiB) | body
//! ```

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::{Bytes, BytesMut};

use super::limits::FRAME_BYTES_MAX;

const LENGTH_BYTES: usize = 4;

/// A frame that is empty, or longer than [`FRAME_BYTES_MAX`]. The stream is of no use after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct BadLength(pub u32);

/// Puts frames together. A claimed length alone costs nothing: memory grows as bytes come.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// Bytes of the length, then of the body.
    have: BytesMut,
    /// Length of the body, once it is known.
    length: Option<usize>,
}

impl FrameReader {
    /// Most bytes to give to [`take`](Self::take) next: what is missing of the length or of the body, never zero.
    #[must_use]
    pub fn wants(&self) -> usize {
        self.length.unwrap_or(LENGTH_BYTES).saturating_sub(self.have.len()).max(1)
    }

    /// True where the stream may end.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.length.is_none() && self.have.is_empty()
    }

    /// Takes the next bytes of the stream, at most [`wants`](Self::wants), and gives the frame that they complete.
    ///
    /// # Errors
    /// [`BadLength`]; the reader is of no use after it.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Bytes>, BadLength> {
        debug_assert!(bytes.len() <= self.wants(), "more bytes than were wanted");
        self.have.extend_from_slice(bytes);
        match self.length {
            None => {
                if let Ok(length) = <[u8; LENGTH_BYTES]>::try_from(self.have.as_ref()) {
                    let claimed = u32::from_le_bytes(length);
                    let length = usize::try_from(claimed).map_err(|_| BadLength(claimed))?;
                    if length == 0 || length > FRAME_BYTES_MAX {
                        return Err(BadLength(claimed));
                    }
                    self.have.clear();
                    self.length = Some(length);
                }
                Ok(None)
            }
            Some(length) if self.have.len() < length => Ok(None),
            Some(_) => {
                self.length = None;
                Ok(Some(std::mem::take(&mut self.have).freeze()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a whole stream given in pieces of at most `piece` bytes.
    fn read(mut stream: &[u8], piece: usize) -> Result<(Vec<Bytes>, bool), BadLength> {
        let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
        while !stream.is_empty() {
            let (bytes, rest) = stream.split_at(reader.wants().min(piece).min(stream.len()));
            stream = rest;
            frames.extend(reader.take(bytes)?);
        }
        Ok((frames, reader.is_between_frames()))
    }

    #[test]
    fn a_length_of_nothing_or_beyond_the_limit_is_refused_before_the_body() {
        let max = u32::try_from(FRAME_BYTES_MAX).unwrap();
        for length in [0, max + 1, u32::MAX] {
            assert_eq!(read(&length.to_le_bytes(), 9), Err(BadLength(length)));
        }
        let largest = [&max.to_le_bytes()[..], &vec![3; FRAME_BYTES_MAX]].concat();
        let (frames, is_whole) = read(&largest, usize::MAX).unwrap();
        assert_eq!((frames.len(), frames[0].len(), is_whole), (1, FRAME_BYTES_MAX, true));
    }

    #[test]
    fn a_stream_may_end_between_frames_only() {
        let stream = [&2_u32.to_le_bytes()[..], b"ab"].concat();
        for end in 0..=stream.len() {
            assert_eq!(read(&stream[..end], 1).unwrap().1, end == 0 || end == stream.len(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6), piece in 1_usize..60) {
            let frame = |body: &Vec<u8>| [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], body].concat();
            let stream: Vec<u8> = bodies.iter().flat_map(frame).collect();
            let (frames, is_whole) = read(&stream, piece).unwrap();
            prop_assert_eq!(frames, bodies);
            prop_assert!(is_whole);
        }
    }
}
