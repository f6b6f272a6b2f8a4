//! What is under way on a connection, told by its requests to whoever keeps its time.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use crate::http::ends::End;
use crate::http::harden::HeadRefused;

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Approved,
    /// Approved, and its answer may make the connection a tunnel.
    MaySwitch,
    Refused(HeadRefused),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Door {
    under_way: Cell<u32>,
    last_active: Cell<Instant>,
    /// When the answer that is being written must be over.
    end: End,
}

impl Door {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { under_way: Cell::new(0), last_active: Cell::new(Instant::now()), end: End::default() })
    }

    /// Keeps the connection from counting as idle until dropped.
    pub(crate) fn busy(self: &Rc<Self>) -> Busy {
        self.under_way.set(self.under_way.get() + 1);
        Busy(self.clone())
    }

    /// When the last request was over; the connection's begin before the first.
    pub(crate) fn last_active(&self) -> Instant {
        self.last_active.get()
    }

    /// When the answer that is being written must be over, also if its client does not read; over with its [`Busy`].
    pub(crate) fn must_end(&self, at: Instant) {
        self.end.set(Some(at));
    }

    /// That moment.
    pub(crate) fn end(&self) -> &End {
        &self.end
    }

    /// True when a request is being answered.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.get() > 0
    }
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct Busy(Rc<Door>);

impl Busy {
    /// The door of its connection.
    pub(crate) fn door(&self) -> &Door {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end.set(None);
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
        self.0.last_active.set(Instant::now());
    }
}
