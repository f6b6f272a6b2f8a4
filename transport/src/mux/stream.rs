//! One stream's two halves, their buffers and their credit.

use std::fmt;

use bytes::BytesMut;

use super::limits::STREAM_WINDOW_INITIAL;

/// Why a stream ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The other side refused it and processed nothing.
    #[error("the peer refused the stream")]
    Refused,
    /// It never left this host, or the peer was closing and said that it would not look at it: nothing was processed.
    #[error("the stream was not processed by the peer")]
    Unprocessed,
    /// The other side broke it off; something may have been processed.
    #[error("the peer reset the stream")]
    Reset,
    /// The connection ended under it; something may have been processed.
    #[error("the connection to the peer broke")]
    Lost,
    /// This side reset it.
    #[error("the stream was given up on this side")]
    Local,
}

impl Fault {
    /// True when the stream may be opened again elsewhere without doing anything twice.
    #[must_use]
    pub const fn nothing_was_processed(self) -> bool {
        match self {
            Self::Refused | Self::Unprocessed => true,
            Self::Reset | Self::Lost | Self::Local => false,
        }
    }
}

/// What arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Open,
    /// The peer has said `end`.
    Ended,
    Closed(Fault),
}

/// What leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Open,
    /// `end` follows when the outbox is empty.
    Ending,
    Ended,
    Closed(Fault),
}

pub(super) struct Stream {
    pub(super) incoming: Incoming,
    /// Received, not read yet.
    pub(super) inbox: BytesMut,
    /// What the peer may still send.
    pub(super) given: u32,
    /// `given` + `inbox` + `consumed` while bytes may arrive.
    pub(super) window: u32,
    /// Read, credit not returned yet.
    pub(super) consumed: u32,
    /// The reader has emptied the inbox since credit was returned last.
    pub(super) keeps_up: bool,
    pub(super) reader_waits: bool,

    pub(super) outgoing: Outgoing,
    /// Written, not framed yet: for want of credit or of room.
    pub(super) outbox: BytesMut,
    /// What we may still send.
    pub(super) credit: u32,
    pub(super) in_ring: bool,
    pub(super) writer_waits: bool,

    /// Somebody waits for its fault.
    pub(super) is_watched: bool,
    /// Somebody on this side still uses it.
    pub(super) held: bool,
    /// How many bytes must have left the connection for its `open` to have left.
    pub(super) opened_at: u64,
}

impl Stream {
    pub(super) fn new(opened_at: u64) -> Self {
        Self {
            incoming: Incoming::Open,
            inbox: BytesMut::new(),
            given: STREAM_WINDOW_INITIAL,
            window: STREAM_WINDOW_INITIAL,
            consumed: 0,
            keeps_up: false,
            reader_waits: false,
            outgoing: Outgoing::Open,
            outbox: BytesMut::new(),
            credit: STREAM_WINDOW_INITIAL,
            in_ring: false,
            writer_waits: false,
            is_watched: false,
            held: true,
            opened_at,
        }
    }

    /// Nothing can happen to it any more.
    pub(super) fn is_over(&self) -> bool {
        !self.held && self.is_finished()
    }

    /// Both halves have ended.
    pub(super) fn is_finished(&self) -> bool {
        self.incoming != Incoming::Open && matches!(self.outgoing, Outgoing::Ended | Outgoing::Closed(_))
    }

    /// Both halves end here, as far as they have not ended. What had arrived stays readable when the peer had said
    /// `end` before, and when the connection was lost; a reset drops it.
    pub(super) fn close(&mut self, fault: Fault) {
        if self.incoming == Incoming::Open {
            self.incoming = Incoming::Closed(fault);
        }
        match self.outgoing {
            Outgoing::Open | Outgoing::Ending => self.outgoing = Outgoing::Closed(fault),
            Outgoing::Ended | Outgoing::Closed(_) => {}
        }
        self.outbox = BytesMut::new();
    }

    /// Something could be framed.
    pub(super) fn has_data_to_send(&self) -> bool {
        !self.outbox.is_empty() && self.credit > 0
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("incoming", &self.incoming)
            .field("inbox", &self.inbox.len())
            .field("given", &self.given)
            .field("outgoing", &self.outgoing)
            .field("outbox", &self.outbox.len())
            .field("credit", &self.credit)
            .finish_non_exhaustive()
    }
}
