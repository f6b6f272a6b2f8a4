//! One connection: the machine, its streams' wakers, and the task that moves its bytes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_identity::PeerIdentity;
use tokio::io::{AsyncBufRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::IDLE_MAX;
use crate::error::{DialError, of_io};
use crate::mux::{self, CannotOpen, Event, Fault, Mux, Received, ResetCode, Role, StreamId, Violation};

/// Plaintext that one wake-up reads from one connection before others get their turn.
const READ_BUDGET_BYTES: usize = 256 * 1024;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// After goaway, with its last stream.
    Drained,
    /// The peer closed it.
    Closed,
    /// The network broke it.
    Broken(io::Error),
    /// The peer's TLS refused us, before it read a stream.
    Refused(DialError),
    /// The peer did not answer for 15 s.
    Silent,
    /// The peer broke the protocol.
    Violated(Violation),
    /// We closed it at once (revoked, shutdown).
    Cut,
}

/// What the streams and the task of a connection share.
#[derive(Debug)]
pub(super) struct Connection {
    core: RefCell<Core>,
    peer: PeerIdentity,
    role: Role,
    is_cut: Cell<bool>,
    is_over: Cell<bool>,
    /// It takes no new streams because it was old.
    is_aged: Cell<bool>,
}

#[derive(Debug)]
struct Core {
    mux: Mux,
    wakers: HashMap<StreamId, Wakers>,
    task: Option<Waker>,
    is_task_woken: bool,
}

#[derive(Debug, Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
    /// Whoever waits for nothing but that it breaks.
    broken: Option<Waker>,
}

impl Connection {
    pub(super) fn new(role: Role, peer: PeerIdentity) -> Rc<Self> {
        let accept_max = match role {
            // A dialled connection carries the dialler's streams; the other node dials its own.
            Role::Dialler => 0,
            Role::Acceptor => mux::limits::ACCEPT_STREAMS_MAX,
        };
        let mux = Mux::new(role, accept_max, Instant::now());
        let core = Core { mux, wakers: HashMap::new(), task: None, is_task_woken: false };
        let no = || Cell::new(false);
        Rc::new(Self { core: RefCell::new(core), peer, role, is_cut: no(), is_over: no(), is_aged: no() })
    }

    pub(super) const fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    pub(super) fn streams_len(&self) -> usize {
        self.core.borrow().mux.streams_len()
    }

    pub(super) fn stats(&self) -> mux::Stats {
        *self.core.borrow().mux.stats()
    }

    pub(super) fn may_open(&self, now: Instant) -> Result<(), CannotOpen> {
        self.core.borrow().mux.may_open(now)
    }

    pub(super) fn open(&self, header: &[u8]) -> Result<StreamId, CannotOpen> {
        self.act(|core| core.mux.open(header, Instant::now()))
    }

    /// Takes no new streams from here on; false where that is so already.
    pub(super) fn goaway(&self) -> bool {
        self.act(|core| {
            let is_first = !core.mux.is_leaving();
            core.mux.goaway();
            is_first
        })
    }

    /// True once its age alone made it take no new streams.
    pub(super) fn is_aged(&self) -> bool {
        self.is_aged.get()
    }

    /// Ends at once those of `all` whose peer `keep` does not want; how many.
    pub(super) fn cut_unless(all: Vec<Rc<Self>>, keep: impl Fn(&PeerIdentity) -> bool) -> usize {
        let unwanted: Vec<_> = all.into_iter().filter(|connection| !keep(connection.peer())).collect();
        unwanted.iter().for_each(|connection| connection.cut());
        unwanted.len()
    }

    /// Ends the connection at once, with all its streams.
    pub(super) fn cut(&self) {
        self.is_cut.set(true);
        let task = self.core.borrow_mut().task.take();
        if let Some(task) = task {
            task.wake();
        }
    }

    pub(super) fn fault(&self, id: StreamId) -> Option<Fault> {
        self.core.borrow().mux.fault(id)
    }

    pub(super) fn is_quiet(&self, id: StreamId) -> bool {
        matches!(self.core.borrow_mut().mux.received(id), Ok(Received::Empty))
    }

    pub(super) fn reset(&self, id: StreamId, code: ResetCode) {
        self.act(|core| core.mux.reset(id, code));
        self.dispatch(|_, _| {});
    }

    pub(super) fn release(&self, id: StreamId) {
        let wakers = self.act(|core| {
            core.mux.release(id);
            core.wakers.remove(&id)
        });
        // Outside the borrow: a waker's drop may run foreign code.
        drop(wakers);
    }

    pub(super) fn finish(&self, id: StreamId) {
        self.act(|core| core.mux.finish(id));
    }

    pub(super) fn poll_read(&self, id: StreamId, cx: &Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<(), Fault>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.act(|core| match core.mux.received(id) {
            Ok(Received::Bytes(bytes)) => {
                let length = bytes.len().min(into.remaining());
                into.put_slice(bytes.get(..length).unwrap_or_default());
                core.mux.consume(id, length);
                Poll::Ready(Ok(()))
            }
            Ok(Received::Empty) => {
                core.wakers.entry(id).or_default().read = Some(cx.waker().clone());
                Poll::Pending
            }
            Ok(Received::End) => Poll::Ready(Ok(())),
            Err(fault) => Poll::Ready(Err(fault)),
        })
    }

    /// Ready once the stream is broken, whatever still waits to be read.
    pub(super) fn poll_broken(&self, id: StreamId, cx: &Context<'_>) -> Poll<()> {
        let mut core = self.core.borrow_mut();
        if core.mux.watch(id).is_some() {
            return Poll::Ready(());
        }
        core.wakers.entry(id).or_default().broken = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn poll_write(&self, id: StreamId, cx: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Fault>> {
        self.act(|core| match core.mux.send(id, bytes) {
            Ok(0) if !bytes.is_empty() => {
                core.wakers.entry(id).or_default().write = Some(cx.waker().clone());
                Poll::Pending
            }
            taken => Poll::Ready(taken),
        })
    }

    /// Does something to the machine and wakes the task if that left something to send.
    fn act<T>(&self, what: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.borrow_mut();
        let result = what(&mut core);
        let must_wake = !core.is_task_woken && (core.mux.has_output() || core.mux.is_drained());
        let task = if must_wake {
            core.is_task_woken = true;
            core.task.clone()
        } else {
            None
        };
        drop(core);
        if let Some(task) = task {
            task.wake();
        }
        result
    }

    /// Hands on everything that happened; wakers run outside the borrow.
    fn dispatch(&self, mut on_open: impl FnMut(StreamId, Bytes)) {
        loop {
            let mut core = self.core.borrow_mut();
            let waker = match core.mux.poll_event() {
                None => return,
                Some(Event::Readable(id)) => core.wakers.get_mut(&id).and_then(|wakers| wakers.read.take()),
                Some(Event::Broken(id)) => core.wakers.get_mut(&id).and_then(|wakers| wakers.broken.take()),
                Some(Event::Writable(id)) => core.wakers.get_mut(&id).and_then(|wakers| wakers.write.take()),
                Some(Event::GoAway) => None,
                Some(Event::Opened { stream, header }) => {
                    drop(core);
                    on_open(stream, header);
                    continue;
                }
            };
            drop(core);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Moves a connection's bytes until it ends. Owns the socket; dropping it closes the socket and fails the streams.
pub(super) struct Driver<IO> {
    connection: Rc<Connection>,
    io: IO,
    timer: Pin<Box<Sleep>>,
    armed_for: Instant,
    retire_at: Instant,
    idle_since: Option<Instant>,
    must_flush: bool,
}

impl<IO: AsyncBufRead + AsyncWrite + Unpin> Driver<IO> {
    /// `age_max` is how long it takes new streams.
    pub(super) fn new(connection: Rc<Connection>, io: IO, age_max: Duration) -> Self {
        let now = Instant::now();
        let retire_at = now + age_max;
        let armed_for = connection.core.borrow().mux.poll_timeout().min(retire_at);
        let timer = Box::pin(tokio::time::sleep_until(armed_for.into()));
        Self { connection, io, timer, armed_for, retire_at, idle_since: None, must_flush: false }
    }

    /// Runs to the end of the connection. `on_open` takes the peer's streams; it must not block.
    pub(super) async fn run(mut self, mut on_open: impl FnMut(StreamId, Bytes)) -> Ended {
        let ended = poll_fn(|cx| self.poll(cx, &mut on_open)).await;
        self.connection.is_over.set(true);
        self.connection.act(|core| match &ended {
            Ended::Refused(_) => core.mux.connection_refused(),
            Ended::Drained | Ended::Closed | Ended::Broken(_) | Ended::Silent | Ended::Violated(_) | Ended::Cut => {
                core.mux.connection_lost()
            }
        });
        self.connection.dispatch(|_, _| {});
        if matches!(ended, Ended::Drained | Ended::Cut) {
            // Politeness with a limit: close_notify, so that the peer sees an end and not a cut.
            let close = poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx));
            let _ = tokio::time::timeout(super::DIAL_DEADLINE, close).await;
        }
        ended
    }

    fn poll(&mut self, cx: &mut Context<'_>, on_open: &mut impl FnMut(StreamId, Bytes)) -> Poll<Ended> {
        if self.connection.is_cut.get() {
            return Poll::Ready(Ended::Cut);
        }
        let now = Instant::now();
        {
            let mut core = self.connection.core.borrow_mut();
            core.is_task_woken = false;
            if !core.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                core.task = Some(cx.waker().clone());
            }
        }
        let has_more = match self.read(cx, now) {
            Ok(has_more) => has_more,
            Err(ended) => return Poll::Ready(ended),
        };
        self.connection.dispatch(&mut *on_open);
        if let Err(ended) = self.poll_timer(cx, now) {
            return Poll::Ready(ended);
        }
        if let Err(error) = self.write(cx, now) {
            return Poll::Ready(broken(error, &self.connection));
        }
        // What was written is waited for from now on.
        self.arm(cx, false);
        // Room in the output may have let writers go on.
        self.connection.dispatch(on_open);
        if self.connection.core.borrow().mux.is_drained() && !self.must_flush {
            return Poll::Ready(Ended::Drained);
        }
        if has_more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Reads until nothing is there or the budget is spent; true in the latter case.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Ended> {
        let mut budget = READ_BUDGET_BYTES;
        loop {
            let mut core = self.connection.core.borrow_mut();
            if !core.mux.wants_input() {
                // The write side wakes this task when the peer takes its answers.
                return Ok(false);
            }
            if budget == 0 {
                return Ok(true);
            }
            let length = match Pin::new(&mut self.io).poll_fill_buf(cx) {
                Poll::Pending => return Ok(false),
                // The other end was first to see that the last stream is over.
                Poll::Ready(Ok([])) if core.mux.is_leaving() && core.mux.is_settled() => {
                    return Err(Ended::Drained);
                }
                Poll::Ready(Ok([])) => return Err(Ended::Closed),
                Poll::Ready(Ok(bytes)) => {
                    core.mux.handle_input(bytes, now).map_err(Ended::Violated)?;
                    bytes.len()
                }
                Poll::Ready(Err(error)) => {
                    drop(core);
                    return Err(broken(error, &self.connection));
                }
            };
            Pin::new(&mut self.io).consume(length);
            budget = budget.saturating_sub(length);
        }
    }

    /// Writes all that is ready, merged, until nothing is left or the socket takes no more.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<()> {
        loop {
            let mut core = self.connection.core.borrow_mut();
            core.mux.fill();
            if core.mux.output().is_empty() {
                break;
            }
            match Pin::new(&mut self.io).poll_write(cx, core.mux.output())? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(length) => {
                    core.mux.sent(length, now);
                    self.must_flush = true;
                }
                Poll::Pending => break,
            }
        }
        // TLS may hold ciphertext that the socket did not take.
        if self.must_flush && Pin::new(&mut self.io).poll_flush(cx)?.is_ready() {
            self.must_flush = false;
        }
        Ok(())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Ended> {
        let mut core = self.connection.core.borrow_mut();
        let is_due = self.timer.as_mut().poll(cx).is_ready();
        if is_due {
            core.mux.handle_timeout(now);
            if core.mux.is_dead() {
                return Err(Ended::Silent);
            }
            let is_idle = core.mux.streams_len() == 0 && self.connection.role == Role::Dialler;
            self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
            let is_old = now >= self.retire_at;
            if is_old || self.idle_since.is_some_and(|since| now - since >= IDLE_MAX) {
                if is_old && !core.mux.is_leaving() {
                    self.connection.is_aged.set(true);
                }
                core.mux.goaway();
            }
        } else if core.mux.streams_len() > 0 {
            self.idle_since = None;
        }
        drop(core);
        if is_due {
            self.arm(cx, true);
        }
        Ok(())
    }

    /// Sets the timer for what is due next.
    fn arm(&mut self, cx: &mut Context<'_>, is_due: bool) {
        let core = self.connection.core.borrow();
        // Armed anew only when the time is sooner: activity moves it later all the while, and then one early wake-up
        // in a second is cheaper than a timer operation per packet.
        let deadline = core.mux.poll_timeout();
        let deadline = if core.mux.is_leaving() { deadline } else { deadline.min(self.retire_at) };
        if is_due || deadline < self.armed_for {
            self.armed_for = deadline;
            self.timer.as_mut().reset(deadline.into());
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }
}

/// A refusal of our certificate comes as a TLS alert before the peer has read anything.
fn broken(error: io::Error, connection: &Connection) -> Ended {
    let refused = of_io(&error);
    let is_unread = connection.core.borrow().mux.stats().frames_received == 0;
    let is_refusal = matches!(refused, DialError::OurCertificate(_) | DialError::OtherProtocol);
    if is_refusal && is_unread { Ended::Refused(refused) } else { Ended::Broken(error) }
}

impl<IO> Drop for Driver<IO> {
    fn drop(&mut self) {
        // Also when the task is dropped with its runtime: whoever still holds a stream sees its end.
        if !self.connection.is_over.replace(true) {
            self.connection.core.borrow_mut().mux.connection_lost();
            self.connection.dispatch(|_, _| {});
        }
    }
}
