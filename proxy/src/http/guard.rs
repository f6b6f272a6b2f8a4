//! The door in front of hyper: an IO wrapper that lets a request's head through only when [`super::scan`] approved it.
//!
//! A refused head is replaced by a harmless one, and the service is told which request that is ([`Door::verdict`]), so
//! that every refusal gets a proper answer. Nothing behind a refused head is read. A head must be complete within
//! [`HEAD_TIMEOUT`] of its first byte; between requests a connection may idle for [`IDLE_TIMEOUT`].
//!
//! An idle connection holds no buffer here: bytes are judged in hyper's own, and only an unfinished head is set aside.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::http::harden::HeadRefused;
use crate::http::scan::{Progress, Scan};
use crate::limits::{HEAD_TIMEOUT, IDLE_TIMEOUT};
use crate::through::writes_through;

/// What hyper gets to see instead of a refused head.
const HARMLESS: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// After a refusal, so many bytes are still read and dropped before the connection is closed: closing a socket with
/// unread bytes makes the kernel reset it, and the client would never read why it was refused.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// And for so long.
const LINGER: Duration = Duration::from_secs(1);

/// What the wrapper and the service of one connection tell each other.
#[derive(Debug)]
pub(crate) struct Door {
    /// Heads that hyper may see, refused one included.
    approved: Cell<u64>,
    refused: Cell<Option<(u64, HeadRefused)>>,
    /// Requests that the service was called for.
    asked: Cell<u64>,
    switch: Cell<Switch>,
    /// The connection began with the preface of HTTP/2.
    http2: Cell<bool>,
    under_way: Cell<u32>,
    last_active: Cell<Instant>,
    closing: Cell<bool>,
}

/// Whether the connection becomes a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    /// Nobody asks for it, or the answer is awaited.
    Unknown,
    /// The request of this number asks for it.
    Asked(u64),
    /// The answer was another: requests may follow.
    Stays,
    /// What follows is no HTTP.
    Switches,
}

/// What the door makes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Approved,
    /// Approved, and its answer may make the connection a tunnel: [`Door::answered`] must be told.
    MaySwitch,
    Refused(HeadRefused),
}

/// What became of a request that could switch the connection to something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Stays,
    Switches,
}

impl Door {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            approved: Cell::new(0),
            refused: Cell::new(None),
            asked: Cell::new(0),
            switch: Cell::new(Switch::Unknown),
            http2: Cell::new(false),
            under_way: Cell::new(0),
            last_active: Cell::new(Instant::now()),
            closing: Cell::new(false),
        })
    }

    /// Called once per request, in their order.
    pub(crate) fn verdict(&self) -> Verdict {
        let number = self.asked.get();
        self.asked.set(number + 1);
        match self.refused.get() {
            Some((refused, why)) if refused == number => Verdict::Refused(why),
            Some(_) | None if self.switch.get() == Switch::Asked(number) => Verdict::MaySwitch,
            Some(_) | None => Verdict::Approved,
        }
    }

    /// Told what becomes of a request that was let through as [`Verdict::MaySwitch`].
    pub(crate) fn answered(&self, answered: Answered) {
        self.switch.set(match answered {
            Answered::Stays => Switch::Stays,
            Answered::Switches => Switch::Switches,
        });
    }

    /// Keeps the connection from counting as idle until dropped.
    pub(crate) fn busy(self: &Rc<Self>) -> Busy {
        self.under_way.set(self.under_way.get() + 1);
        Busy(self.clone())
    }

    /// True once the connection began with the preface of HTTP/2: it is to be served anew, as that.
    pub(crate) fn is_http2(&self) -> bool {
        self.http2.get()
    }

    /// When the last request was over; the connection's begin before the first.
    pub(crate) fn last_active(&self) -> Instant {
        self.last_active.get()
    }

    /// True when a request is being answered.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.get() > 0
    }
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct Busy(Rc<Door>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
        self.0.last_active.set(Instant::now());
    }
}

/// What a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    Http1,
    /// HTTP/2 too, from the first byte on.
    Http1Or2,
}

/// The wrapper.
#[derive(Debug)]
pub(crate) struct Guard<T> {
    inner: T,
    offer: Offer,
    door: Rc<Door>,
    scan: Scan,
    /// An unfinished head, or what was approved of it and waits for hyper.
    held: Vec<u8>,
    /// So much of `held` may go to hyper.
    ready: usize,
    head_began: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    linger: RefCell<Option<usize>>,
}

impl<T> Guard<T> {
    pub(crate) fn new(inner: T, door: Rc<Door>, offer: Offer) -> Self {
        Self {
            inner,
            offer,
            door,
            scan: Scan::default(),
            held: Vec::new(),
            ready: 0,
            head_began: None,
            timer: None,
            linger: RefCell::new(None),
        }
    }

    /// The stream, once it carries no HTTP/1 any more, and what came of it and was not let through: the preface of HTTP/2,
    /// else nothing.
    pub(crate) fn into_inner(self) -> (T, Vec<u8>) {
        (self.inner, self.held)
    }

    /// Notes what the machine saw.
    fn note(&self, progress: Progress) {
        let heads = self.door.approved.get() + progress.heads;
        self.door.approved.set(heads);
        if self.scan.is_switching() && progress.heads > 0 {
            self.door.switch.set(Switch::Asked(heads.saturating_sub(1)));
        }
    }

    /// True for what opens an HTTP/2 connection; the connection then ends as HTTP/1, and is served on as that.
    fn turns(&self, progress: Progress) -> bool {
        let first = self.door.approved.get() == 0 && progress.heads == 0 && self.offer == Offer::Http1Or2;
        let turns = first && progress.refused == Some(HeadRefused::Http2);
        if turns {
            self.door.http2.set(true);
        }
        turns
    }

    /// Moves what is ready from `held` to hyper.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.ready.min(buf.remaining());
        buf.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.drain(..count);
        self.ready -= count;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Judges `held` beyond what is ready.
    fn judge_held(&mut self) -> io::Result<()> {
        let progress = self.scan.feed(self.held.get(self.ready..).unwrap_or_default());
        if self.turns(progress) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.note(progress);
        self.ready += progress.approved;
        if let Some(refused) = progress.refused {
            self.refuse(refused, progress.in_body)?;
        }
        Ok(())
    }

    fn refuse(&mut self, refused: HeadRefused, in_body: bool) -> io::Result<()> {
        *self.linger.borrow_mut() = Some(LINGER_BYTES_MAX);
        self.held.truncate(self.ready);
        if in_body {
            // The request is under way already: its body ends in an error, and with it the connection.
            return Err(io::Error::new(io::ErrorKind::InvalidData, refused.detail()));
        }
        self.door.refused.set(Some((self.door.approved.get(), refused)));
        self.held.extend_from_slice(HARMLESS);
        self.ready = self.held.len();
        Ok(())
    }

    /// Ready when the connection has waited for too long: within a head (`Some`), or between two.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<HeadRefused>> {
        // Between heads a timer that was set is soon enough: what is due only moves on. So a request reads no clock here.
        if !self.scan.in_head()
            && self.head_began.is_none()
            && let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        loop {
            let now = Instant::now();
            let began = match (self.scan.in_head(), self.head_began) {
                (true, began) => Some(*self.head_began.insert(began.unwrap_or(now))),
                (false, _) => {
                    self.head_began = None;
                    None
                }
            };
            let due = match began {
                Some(began) => began + HEAD_TIMEOUT,
                None if self.door.is_busy() || !self.scan.at_boundary() => now + IDLE_TIMEOUT,
                None => self.door.last_active.get() + IDLE_TIMEOUT,
            };
            if due <= now {
                return Poll::Ready(began.map(|_| HeadRefused::Slow));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            // A timer that is due too early is simply set again when it fires: requests do not touch it.
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(due);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guard<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ready > 0 {
                this.give(buf);
                return Poll::Ready(Ok(()));
            }
            if this.scan.is_switching() {
                match this.door.switch.get() {
                    Switch::Switches => return Pin::new(&mut this.inner).poll_read(cx, buf),
                    Switch::Stays => this.scan.stay(),
                    Switch::Unknown | Switch::Asked(_) => {}
                }
            }
            if this.scan.is_refused() {
                // hyper has the harmless head and answers it; it closes the connection after that.
                return Poll::Pending;
            }
            let before = buf.filled().len();
            match Pin::new(&mut this.inner).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => match ready!(this.poll_deadline(cx)) {
                    Some(slow) => {
                        this.scan.give_up();
                        this.refuse(slow, false)?;
                        continue;
                    }
                    None => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                },
            }
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(())); // The end; hyper judges whether it came too early.
            }
            if this.held.is_empty() {
                let progress = this.scan.feed(fresh);
                if this.turns(progress) {
                    this.held.extend_from_slice(fresh);
                    buf.set_filled(before);
                    return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
                }
                this.note(progress);
                let approved = fresh.get(..progress.approved).map_or(0, <[u8]>::len);
                if progress.refused.is_none() {
                    this.held.extend_from_slice(fresh.get(approved..).unwrap_or_default());
                }
                buf.set_filled(before + approved);
                if let Some(refused) = progress.refused {
                    this.refuse(refused, progress.in_body)?;
                }
                if approved > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.held.extend_from_slice(fresh);
                buf.set_filled(before);
                this.judge_held()?;
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    writes_through!(inner);

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.door.is_http2() {
            // hyper takes the end of HTTP/1 for the end of the connection.
            return Poll::Ready(Ok(()));
        }
        if !this.door.closing.get() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            this.door.closing.set(true);
            this.timer = None;
        }
        let Some(mut left) = this.linger.borrow_mut().take() else { return Poll::Ready(Ok(())) };
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut space = [0u8; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut this.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && buf.filled().len() < left => {
                    left -= buf.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if timer.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    *this.linger.borrow_mut() = Some(left);
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
