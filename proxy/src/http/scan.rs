//! Follows the raw bytes of one HTTP/1 connection and lets a head through only when it is complete and approved.
//!
//! hyper parses behind it. A request whose framing hyper would quietly repair must not reach hyper, and a head must be
//! judged as it was sent, so this machine tracks where heads begin: after each body, whose end it finds by the approved
//! framing. It accepts a subset of the heads and body
//! framings that hyper accepts, so the two never disagree about where the next head begins. Trailer lines pass unread:
//! hyper refuses malformed ones and serves nothing more on that connection.
//!
//! Pure: bytes in, a count of approved bytes out.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::mem::MaybeUninit;

use crate::http::codec::chunk::Chunk;
use crate::http::harden::{self, Framing, HeadRefused};
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};

/// Blank bytes tolerated before a request line (RFC 9112, 2.2): one or two empty lines.
const LEADING_BLANKS_MAX: usize = 4;

/// What came of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// So many bytes from the front may pass. The rest is an unfinished head and must be given again, with more.
    pub approved: usize,
    /// Complete heads among them.
    pub heads: u64,
    /// What follows is refused: within a head ([`Self::in_body`] false) or within a body.
    pub refused: Option<HeadRefused>,
    /// True when the refusal concerns the body of a request whose head has passed.
    pub in_body: bool,
}

/// The machine; one per connection.
#[derive(Debug)]
pub struct Scan {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waiting for a head; so many of its bytes are known to hold no end.
    Head { searched: usize },
    /// Within a body of so many more bytes.
    Body(u64),
    /// Within a chunked body.
    Chunked(Chunk),
    /// Behind a head whose answer may make the connection a tunnel: nothing may come until that is known.
    Switch,
    /// Nothing passes any more.
    Refused,
}

impl Default for Scan {
    fn default() -> Self {
        Self { state: State::Head { searched: 0 } }
    }
}

impl Scan {
    /// True between requests: no byte of a next head has been seen.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Head { searched: 0 }
    }

    /// True while a head has begun and is not complete.
    #[must_use]
    pub fn in_head(&self) -> bool {
        matches!(self.state, State::Head { searched } if searched > 0)
    }

    /// True once something was refused.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.state == State::Refused
    }

    /// True behind a head whose answer may make the connection a tunnel.
    #[must_use]
    pub fn is_switching(&self) -> bool {
        self.state == State::Switch
    }

    /// The connection became no tunnel: what follows is a head again.
    pub fn stay(&mut self) {
        if self.is_switching() {
            self.state = State::Head { searched: 0 };
        }
    }

    /// Nothing passes from here on: whoever keeps time has lost patience.
    pub fn give_up(&mut self) {
        self.state = State::Refused;
    }

    /// Takes the bytes that follow what was approved before.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        let mut progress = Progress { approved: 0, heads: 0, refused: None, in_body: false };
        let mut rest = bytes;
        loop {
            let (taken, outcome) = match self.state {
                State::Refused => return progress,
                State::Switch => {
                    progress.in_body = true;
                    (0, Err(HeadRefused::Early))
                }
                State::Head { searched } => {
                    let (taken, outcome) = head(rest, searched);
                    progress.heads = progress.heads.saturating_add(u64::from(taken > 0));
                    (taken, outcome)
                }
                State::Body(left) => {
                    let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    (taken, Ok(body(left.saturating_sub(taken as u64))))
                }
                State::Chunked(chunk) => {
                    progress.in_body = true;
                    chunked(rest, chunk)
                }
            };
            progress.approved = progress.approved.saturating_add(taken);
            rest = rest.get(taken..).unwrap_or_default();
            match outcome {
                Ok(state) => self.state = state,
                Err(refused) => {
                    self.state = State::Refused;
                    progress.refused = Some(refused);
                    return progress;
                }
            }
            progress.in_body = false;
            // A head that made no progress needs more bytes.
            if rest.is_empty() || taken == 0 {
                return progress;
            }
        }
    }
}

fn body(left: u64) -> State {
    if left == 0 { State::Head { searched: 0 } } else { State::Body(left) }
}

/// One head from the front of `bytes`: how long it is (0: not complete) and what follows.
fn head(bytes: &[u8], searched: usize) -> (usize, Result<State, HeadRefused>) {
    let blanks = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if blanks > LEADING_BLANKS_MAX {
        return (0, Err(HeadRefused::Malformed));
    }
    if bytes.starts_with(b"PRI * HTTP/2.0\r\n") {
        return (0, Err(HeadRefused::Http2));
    }
    // The first look parses at once, as most heads come whole; later ones parse only when the end has come, so a head
    // that drips in byte by byte costs one pass.
    if searched > 0 && !has_end(bytes, searched.max(blanks)) {
        return (0, unfinished(bytes));
    }
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete(len)) if len > HEAD_BYTES_MAX => (0, Err(HeadRefused::HeadTooLarge)),
        Ok(httparse::Status::Complete(len)) => match harden::check_head(&request) {
            Ok(Framing::Empty) => (len, Ok(State::Head { searched: 0 })),
            Ok(Framing::Length(left)) => (len, Ok(State::Body(left))),
            // Refused with its head, so that it gets an answer.
            Ok(Framing::Switch) if len < bytes.len() => (0, Err(HeadRefused::Early)),
            Ok(Framing::Switch) => (len, Ok(State::Switch)),
            Ok(Framing::Chunked) => (len, Ok(State::Chunked(Chunk::BEGIN))),
            Err(refused) => (0, Err(refused)),
        },
        Ok(httparse::Status::Partial) => (0, unfinished(bytes)),
        Err(httparse::Error::TooManyHeaders) => (0, Err(HeadRefused::HeadTooLarge)),
        Err(
            httparse::Error::HeaderName
            | httparse::Error::HeaderValue
            | httparse::Error::NewLine
            | httparse::Error::Status
            | httparse::Error::Token
            | httparse::Error::Version,
        ) => (0, Err(HeadRefused::Malformed)),
    }
}

fn unfinished(bytes: &[u8]) -> Result<State, HeadRefused> {
    if bytes.len() <= HEAD_BYTES_MAX {
        return Ok(State::Head { searched: bytes.len() });
    }
    let line_ended = bytes.get(LEADING_BLANKS_MAX..).is_some_and(|rest| rest.contains(&b'\n'));
    Err(if line_ended { HeadRefused::HeadTooLarge } else { HeadRefused::TargetTooLong })
}

/// Is there an empty line, looking only where none was found before?
fn has_end(bytes: &[u8], searched: usize) -> bool {
    let tail = bytes.get(searched.saturating_sub(3)..).unwrap_or_default();
    tail.windows(2).any(|pair| pair == b"\n\n") || tail.windows(3).any(|three| three == b"\n\r\n")
}

/// As much of a chunked body as `bytes` hold.
fn chunked(bytes: &[u8], mut chunk: Chunk) -> (usize, Result<State, HeadRefused>) {
    let mut at = 0usize;
    while let Some(&byte) = bytes.get(at) {
        if let Chunk::Data(left) = chunk {
            let here = bytes.len().saturating_sub(at);
            let taken = usize::try_from(left).map_or(here, |left| left.min(here));
            at = at.saturating_add(taken);
            let left = left.saturating_sub(taken as u64);
            chunk = if left == 0 { Chunk::DataCr } else { Chunk::Data(left) };
            continue;
        }
        match chunk.step(byte) {
            Some(Some(next)) => chunk = next,
            Some(None) => return (at.saturating_add(1), Ok(State::Head { searched: 0 })),
            None => return (at, Err(HeadRefused::Chunk)),
        }
        at = at.saturating_add(1);
    }
    (at, Ok(State::Chunked(chunk)))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests count small numbers")]
mod tests;
