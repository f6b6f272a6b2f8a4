//! The receiving half of the machine: every frame kind, and the credit that reading gives back.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::frame::{Header, Kind, ResetCode, StreamId, Violation};
use super::limits::{CONNECTION_WINDOW, STREAM_WINDOW_MAX};
use super::parser::Piece;
use super::send::enqueue;
use super::stream::{Fault, Incoming, Stream};
use super::{Event, Mux, narrow, wake};

/// Credit has 31 bits, as in HTTP/2 (RFC 9113, 6.9.1).
const CREDIT_MAX: u32 = u32::MAX >> 1;

/// Connection credit is returned in quarters of the window: few frames, and never a stop.
const CONNECTION_RETURN: u32 = CONNECTION_WINDOW / 4;

impl Mux {
    /// Takes bytes from the network, in any cut.
    ///
    /// # Errors
    /// The first [`Violation`]. The connection must then be dropped ([`Mux::connection_lost`]); bytes after it are not
    /// looked at.
    pub fn handle_input(&mut self, bytes: &[u8], now: Instant) -> Result<(), Violation> {
        if bytes.is_empty() || self.is_dead {
            return Ok(());
        }
        self.liveness.heard(now);
        let mut rest = bytes;
        // Taken out, so that its pieces can be handled by the machine that owns it.
        let mut parser = std::mem::take(&mut self.parser);
        while parser.next(&mut rest, |piece| self.handle_piece(piece))? || !rest.is_empty() {}
        self.parser = parser;
        Ok(())
    }

    fn handle_piece(&mut self, piece: Piece<'_>) -> Result<(), Violation> {
        match piece {
            Piece::DataBegins { stream, length } => self.handle_data_header(stream, length),
            Piece::Data { stream, bytes } => {
                self.handle_data(stream, bytes);
                Ok(())
            }
            Piece::Frame { header, payload } => {
                self.stats.frames_received = self.stats.frames_received.saturating_add(1);
                self.handle_frame(header, payload)
            }
        }
    }

    fn handle_frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let id = header.stream;
        match header.kind {
            Kind::Open => self.handle_open(id, payload),
            Kind::Window => self.handle_window(id, payload),
            Kind::End => self.handle_end(id),
            Kind::Reset => self.handle_reset(id, payload),
            Kind::GoAway => self.handle_goaway(id),
            Kind::Ping => {
                self.frame(Header { kind: Kind::Pong, ..header }, payload);
                self.answers = self.answers.saturating_add(16);
                Ok(())
            }
            // That something came is all a pong says; `Liveness` has heard it. Data never comes here.
            Kind::Pong | Kind::Data => Ok(()),
        }
    }

    fn handle_open(&mut self, id: StreamId, header: &[u8]) -> Result<(), Violation> {
        if id.0 != self.next_peer {
            return Err(Violation::OutOfTurn { expected: StreamId(self.next_peer), got: id });
        }
        self.next_peer = self.next_peer.saturating_add(2);
        if self.goaway_sent.is_some() {
            // The peer learns from our goaway that nothing happens here.
            self.stats.streams_ignored = self.stats.streams_ignored.saturating_add(1);
            return Ok(());
        }
        if self.peer_streams >= self.accept_max {
            self.stats.streams_refused = self.stats.streams_refused.saturating_add(1);
            self.frame(Header { kind: Kind::Reset, length: 1, stream: id }, &[ResetCode::Refused.number()]);
            self.answers = self.answers.saturating_add(9);
            return Ok(());
        }
        self.peer_streams = self.peer_streams.saturating_add(1);
        self.stats.streams_accepted = self.stats.streams_accepted.saturating_add(1);
        self.streams.insert(id, Stream::new(0));
        self.events.push_back(Event::Opened { stream: id, header: Bytes::copy_from_slice(header) });
        Ok(())
    }

    /// The frame's length is taken from the credits before a byte of it is kept.
    fn handle_data_header(&mut self, id: StreamId, length: usize) -> Result<(), Violation> {
        self.stats.frames_received = self.stats.frames_received.saturating_add(1);
        self.given = self.given.checked_sub(narrow(length)).ok_or(Violation::ConnectionOverrun)?;
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.late(Kind::Data, id);
        };
        match stream.incoming {
            Incoming::Open => {
                stream.given = stream.given.checked_sub(narrow(length)).ok_or(Violation::StreamOverrun(id))?;
                Ok(())
            }
            Incoming::Ended => Err(Violation::AfterEnd(id)),
            Incoming::Closed(_) => Ok(()),
        }
    }

    fn handle_data(&mut self, id: StreamId, bytes: &[u8]) {
        self.stats.bytes_received = self.stats.bytes_received.saturating_add(bytes.len() as u64);
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.incoming == Incoming::Open
            && stream.held
        {
            stream.inbox.extend_from_slice(bytes);
            if std::mem::take(&mut stream.reader_waits) {
                self.events.push_back(Event::Readable(id));
            }
            return;
        }
        self.stats.bytes_discarded = self.stats.bytes_discarded.saturating_add(bytes.len() as u64);
        self.return_credit(bytes.len());
        // While the last bytes of a stream nobody holds wait for the peer's credit, the peer may wait for ours.
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.consumed = stream.consumed.saturating_add(narrow(bytes.len()));
            self.return_stream_credit(id);
        }
    }

    fn handle_window(&mut self, id: StreamId, payload: &[u8]) -> Result<(), Violation> {
        let Ok(more) = <[u8; 4]>::try_from(payload).map(u32::from_le_bytes) else {
            return Err(Violation::EmptyWindow(id));
        };
        if more == 0 {
            return Err(Violation::EmptyWindow(id));
        }
        let raise = |credit: u32| {
            credit.checked_add(more).filter(|sum| *sum <= CREDIT_MAX).ok_or(Violation::WindowOverflow(id))
        };
        if id == StreamId::CONNECTION {
            self.credit = raise(self.credit)?;
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.late(Kind::Window, id);
        };
        stream.credit = raise(stream.credit)?;
        enqueue(&mut self.ring, stream, id);
        Ok(())
    }

    fn handle_end(&mut self, id: StreamId) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.late(Kind::End, id);
        };
        match stream.incoming {
            Incoming::Open => {
                stream.incoming = Incoming::Ended;
                if std::mem::take(&mut stream.reader_waits) {
                    self.events.push_back(Event::Readable(id));
                }
                self.remove_if_over(id);
                Ok(())
            }
            Incoming::Ended => Err(Violation::AfterEnd(id)),
            Incoming::Closed(_) => Ok(()),
        }
    }

    fn handle_reset(&mut self, id: StreamId, payload: &[u8]) -> Result<(), Violation> {
        let fault = match ResetCode::of(payload.first().copied().unwrap_or_default())? {
            ResetCode::Refused => Fault::Refused,
            ResetCode::Error => Fault::Reset,
        };
        if self.streams.contains_key(&id) {
            self.break_stream(id, fault);
            return Ok(());
        }
        self.late(Kind::Reset, id)
    }

    fn handle_goaway(&mut self, last: StreamId) -> Result<(), Violation> {
        let is_ours = last.0 == 0 || (self.is_own(last) && self.was_opened(last));
        let rises = self.goaway_received.is_some_and(|before| last > before);
        if !is_ours || rises {
            return Err(Violation::GoAway(last));
        }
        self.goaway_received = Some(last);
        self.events.push_back(Event::GoAway);
        let mut above: Vec<StreamId> =
            self.streams.keys().copied().filter(|id| self.is_own(*id) && *id > last).collect();
        above.sort_unstable();
        for id in above {
            self.break_stream(id, Fault::Unprocessed);
        }
        Ok(())
    }

    /// The peer, not we, ended the stream. What came before its `end` stays readable.
    fn break_stream(&mut self, id: StreamId, fault: Fault) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut dropped = 0;
        if stream.incoming == Incoming::Open {
            dropped = stream.inbox.len();
            stream.inbox = BytesMut::new();
        }
        stream.close(fault);
        wake(&mut self.events, stream, id);
        self.return_credit(dropped);
        self.remove_if_over(id);
    }

    /// A frame for a stream that is over crossed our reset or end; one for a stream that never was is a violation.
    fn late(&self, kind: Kind, id: StreamId) -> Result<(), Violation> {
        if self.was_opened(id) { Ok(()) } else { Err(Violation::NeverOpened { kind, stream: id }) }
    }

    /// Returns what was read of a stream once it is half the window, and more when the reader keeps up.
    pub(super) fn return_stream_credit(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.incoming != Incoming::Open || stream.consumed < stream.window / 2 {
            return;
        }
        let mut more = std::mem::take(&mut stream.consumed);
        let keeps_up = std::mem::take(&mut stream.keeps_up);
        if keeps_up && stream.window < STREAM_WINDOW_MAX && self.growth >= stream.window {
            self.growth = self.growth.saturating_sub(stream.window);
            more = more.saturating_add(stream.window);
            stream.window = stream.window.saturating_mul(2);
        }
        stream.given = stream.given.saturating_add(more);
        self.frame(Header { kind: Kind::Window, length: 4, stream: id }, &more.to_le_bytes());
    }

    /// Returns connection credit for bytes that are no longer held here.
    pub(super) fn return_credit(&mut self, length: usize) {
        self.consumed = self.consumed.saturating_add(narrow(length));
        if self.consumed >= CONNECTION_RETURN {
            let more = std::mem::take(&mut self.consumed);
            self.given = self.given.saturating_add(more);
            let header = Header { kind: Kind::Window, length: 4, stream: StreamId::CONNECTION };
            self.frame(header, &more.to_le_bytes());
        }
    }
}
