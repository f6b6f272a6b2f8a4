//! The sending half of the machine: what writers give, credit, turns, and what the network takes.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};

use super::frame::{DATA_BYTES_MAX, HEADER_BYTES, Header, Kind, StreamId};
use super::limits::{OUTPUT_TARGET, SEND_BUFFER_MAX};
use super::stream::{Fault, Outgoing, Stream};
use super::{Event, Mux, Stats, narrow};

/// Capacity that an idle connection's output keeps: room for the frames of a few small messages.
const OUTPUT_KEPT_BYTES: usize = 1_024;

impl Mux {
    /// Takes bytes for `stream` and says how many. Zero means no room: [`Event::Writable`] follows.
    ///
    /// # Errors
    /// [`Fault`] when the stream is broken, or was finished on this side ([`Fault::Local`]).
    pub fn send(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, Fault> {
        let nobody_waits = self.ring.is_empty();
        let Some(stream) = self.streams.get_mut(&id) else { return Err(Fault::Local) };
        match stream.outgoing {
            Outgoing::Open => {}
            Outgoing::Ending | Outgoing::Ended => return Err(Fault::Local),
            Outgoing::Closed(fault) => return Err(fault),
        }
        let mut rest = bytes;
        // With nobody waiting for a turn, frames are made here and copied once.
        if nobody_waits && stream.outbox.is_empty() {
            while !rest.is_empty() && self.output.len() < OUTPUT_TARGET {
                let length = rest.len().min(DATA_BYTES_MAX).min(stream.credit as usize).min(self.credit as usize);
                let Some((head, tail)) = rest.split_at_checked(length).filter(|_| length > 0) else { break };
                stream.credit = stream.credit.saturating_sub(narrow(length));
                self.credit = self.credit.saturating_sub(narrow(length));
                push_data(&mut self.output, &mut self.stats, id, head);
                self.output_asks = true;
                rest = tail;
            }
        }
        let room = SEND_BUFFER_MAX.saturating_sub(stream.outbox.len());
        let (kept, refused) = rest.split_at(rest.len().min(room));
        stream.outbox.extend_from_slice(kept);
        let taken = bytes.len().saturating_sub(refused.len());
        if taken == 0 && !bytes.is_empty() {
            stream.writer_waits = true;
        }
        enqueue(&mut self.ring, stream, id);
        Ok(taken)
    }

    /// Frames what is ready, each stream in turn, until [`OUTPUT_TARGET`] bytes wait for the network.
    pub fn fill(&mut self) {
        while self.output.len() < OUTPUT_TARGET && self.credit > 0 {
            let Some(id) = self.ring.pop_front() else { break };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.in_ring = false;
            let length = stream.outbox.len().min(DATA_BYTES_MAX).min(stream.credit as usize).min(self.credit as usize);
            if length == 0 {
                continue;
            }
            let payload = stream.outbox.split_to(length);
            if stream.outbox.is_empty() {
                stream.outbox = BytesMut::new();
            }
            stream.credit = stream.credit.saturating_sub(narrow(length));
            self.credit = self.credit.saturating_sub(narrow(length));
            push_data(&mut self.output, &mut self.stats, id, &payload);
            self.output_asks = true;
            if stream.writer_waits && stream.outbox.len() <= SEND_BUFFER_MAX / 2 {
                stream.writer_waits = false;
                self.events.push_back(Event::Writable(id));
            }
            enqueue(&mut self.ring, stream, id);
            self.end_if_empty(id);
        }
    }

    /// What is to be written to the network.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// True when [`fill`](Self::fill) or [`output`](Self::output) has something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty() || (!self.ring.is_empty() && self.credit > 0)
    }

    /// The network has taken `length` bytes of the output.
    pub fn sent(&mut self, length: usize, now: Instant) {
        let length = length.min(self.output.len());
        self.output.advance(length);
        self.output_taken = self.output_taken.saturating_add(length as u64);
        if length > 0 && self.output_asks {
            self.liveness.sent(now);
        }
        // On a connection that is never idle the answers leave among the data.
        self.answers = self.answers.min(self.output.len());
        if self.output.is_empty() {
            self.output_asks = false;
            // An idle connection keeps a small buffer at most.
            self.output = if self.output.capacity() > OUTPUT_KEPT_BYTES {
                BytesMut::new()
            } else {
                std::mem::take(&mut self.output)
            };
        }
    }
}

fn push_data(output: &mut BytesMut, stats: &mut Stats, stream: StreamId, payload: &[u8]) {
    let header = Header { kind: Kind::Data, length: u16::try_from(payload.len()).unwrap_or(u16::MAX), stream };
    output.reserve(HEADER_BYTES.saturating_add(payload.len()));
    output.extend_from_slice(&header.encode());
    output.extend_from_slice(payload);
    stats.frames_sent = stats.frames_sent.saturating_add(1);
    stats.bytes_sent = stats.bytes_sent.saturating_add(payload.len() as u64);
}

/// Gives `stream` a turn if it has something to send and none yet.
pub(super) fn enqueue(ring: &mut VecDeque<StreamId>, stream: &mut Stream, id: StreamId) {
    if !stream.in_ring && stream.has_data_to_send() {
        stream.in_ring = true;
        ring.push_back(id);
    }
}
