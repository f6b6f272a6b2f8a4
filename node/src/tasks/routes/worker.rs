//! A thread beside the task for steps that may panic or never end: reading a document, compiling a table.
//!
//! A step that panics is told as such. One that is not done by its deadline is given up: its thread is left behind, and
//! a new one takes the next step. A thread that was left behind counts until it ends, since it may hold a core and all
//! memory that it asked for; while there are as many as may be, no step is begun. Documents and members have a budget
//! each, so that one side never uses up the other's. A step that was only slow ends: it makes room, and whoever gave it
//! up hears of it ([`Late`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// How long one step may take (`gossip.md`: parse and compile are of milliseconds, also at the limits).
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// The deadline is counted in so many looks: a process that was stopped for a while has used up one of them, not all.
const LOOKS: u32 = 20;

/// What a step was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Documents on trial.
    Documents,
    /// News of members.
    Members,
}

/// Threads that were left behind and have not ended, of all workers together, and whose new things wait for that.
#[derive(Clone, Debug, Default)]
pub struct LeftBehind(Arc<Left>);

#[derive(Debug, Default)]
struct Left {
    documents: AtomicUsize,
    members: AtomicUsize,
    /// One of them ended.
    ended: Notify,
    delayed: ArcSwap<Delayed>,
}

/// Of whom nothing new is tried for now, because steps with what they said hung.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delayed {
    /// Operators' keys.
    pub signers: Vec<String>,
    /// Members.
    pub members: Vec<String>,
}

impl LeftBehind {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.of(Cause::Documents).saturating_add(self.of(Cause::Members))
    }

    /// How many there are of one cause.
    #[must_use]
    pub fn of(&self, cause: Cause) -> usize {
        self.held(cause).load(Ordering::SeqCst)
    }

    /// Whose new documents and records wait.
    #[must_use]
    pub fn delayed(&self) -> Arc<Delayed> {
        self.0.delayed.load_full()
    }

    /// Notes whose new things wait.
    pub(crate) fn note_delayed(&self, change: impl FnOnce(&mut Delayed)) {
        let mut delayed = Delayed::clone(&self.0.delayed.load());
        change(&mut delayed);
        if **self.0.delayed.load() != delayed {
            self.0.delayed.store(Arc::new(delayed));
        }
    }

    /// Waits until a thread that was left behind ends. Safe to drop: an end that was not taken stays.
    pub(super) async fn ended(&self) {
        self.0.ended.notified().await;
    }

    fn held(&self, cause: Cause) -> &AtomicUsize {
        match cause {
            Cause::Documents => &self.0.documents,
            Cause::Members => &self.0.members,
        }
    }
}

#[cfg(test)]
impl LeftBehind {
    /// As if so many were there, until the answer is dropped.
    pub(crate) fn hold(&self, cause: Cause, count: usize) -> impl Drop + use<> {
        struct Held(LeftBehind, Cause, usize);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.held(self.1).fetch_sub(self.2, Ordering::SeqCst);
            }
        }
        self.held(cause).fetch_add(count, Ordering::SeqCst);
        Held(self.clone(), cause, count)
    }
}

/// A step that was given up, which may end after all.
#[derive(Clone, Debug, Default)]
pub(super) struct Late(Arc<AtomicBool>);

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Late {
    /// True once it has ended: it was only slow.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
impl Late {
    /// As if it ended.
    pub(super) fn end(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Why a step brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It panicked.
    Panicked,
    /// It was not done by its deadline.
    TimedOut,
    /// It was not begun: too many threads were left behind, or the system gives none.
    NoThread,
}

type Step = Box<dyn FnOnce() + Send>;

/// The worker: one step at a time.
#[derive(Debug)]
pub(crate) struct Worker {
    left_behind: LeftBehind,
    cause: Cause,
    left_behind_max: usize,
    deadline: Duration,
    thread: Option<Thread>,
    /// Of the thread that was left behind last.
    late: Late,
}

#[derive(Debug)]
struct Thread {
    steps: SyncSender<Step>,
    is_left: Arc<AtomicBool>,
    late: Late,
    busy: bool,
}

impl Worker {
    /// Begins no step while `left_behind_max` threads or more are left behind for this cause.
    pub(crate) fn new(left_behind: LeftBehind, cause: Cause, left_behind_max: usize, deadline: Duration) -> Self {
        Self { left_behind, cause, left_behind_max, deadline, thread: None, late: Late::default() }
    }

    /// From here on another number of threads may be left behind.
    pub(super) fn allow(&mut self, left_behind_max: usize) {
        self.left_behind_max = left_behind_max;
    }

    /// The step that was given up last.
    pub(super) fn late(&self) -> Late {
        self.late.clone()
    }

    /// Runs one step to its end, or to the deadline. What the step owns is dropped before this returns, unless it was
    /// given up. Dropping this future while the step runs leaves its thread behind.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, mut answer) = oneshot::channel();
        self.begin(Box::new(move || {
            // Nobody may wait for it any more.
            let _ = reply.send(catch_unwind(AssertUnwindSafe(step)));
        }))?;
        for _ in 0..LOOKS {
            match timeout(self.deadline / LOOKS, &mut answer).await {
                Ok(Ok(done)) => {
                    if let Some(thread) = &mut self.thread {
                        thread.busy = false;
                    }
                    return done.map_err(|_panic| Failure::Panicked);
                }
                Ok(Err(_closed)) => {
                    self.thread = None;
                    return Err(Failure::Panicked);
                }
                Err(_elapsed) => {}
            }
        }
        self.leave();
        Err(Failure::TimedOut)
    }

    fn begin(&mut self, step: Step) -> Result<(), Failure> {
        if self.thread.as_ref().is_some_and(|thread| thread.busy) {
            self.leave();
        }
        if self.left_behind.of(self.cause) >= self.left_behind_max {
            return Err(Failure::NoThread);
        }
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Thread::start(self.left_behind.clone(), self.cause).ok_or(Failure::NoThread)?,
        };
        let held = self.thread.insert(thread);
        held.steps.try_send(step).map_err(|_| Failure::NoThread)?;
        held.busy = true;
        Ok(())
    }

    fn leave(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Counted before its way is closed: the thread may end at once.
            self.left_behind.held(self.cause).fetch_add(1, Ordering::SeqCst);
            thread.is_left.store(true, Ordering::SeqCst);
            self.late = thread.late;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.thread.as_ref().is_some_and(|thread| thread.busy) {
            self.leave();
        }
    }
}

impl Thread {
    fn start(left_behind: LeftBehind, cause: Cause) -> Option<Self> {
        let (steps, inbox) = sync_channel(1);
        let (is_left, late) = (Arc::new(AtomicBool::new(false)), Late::default());
        let (flag, over) = (Arc::clone(&is_left), late.clone());
        let body = move || {
            serve(&inbox);
            if flag.load(Ordering::SeqCst) {
                over.0.store(true, Ordering::SeqCst);
                left_behind.held(cause).fetch_sub(1, Ordering::SeqCst);
                left_behind.0.ended.notify_one();
            }
        };
        thread::Builder::new().name("starling-compile".to_owned()).spawn(body).ok()?;
        Some(Self { steps, is_left, late, busy: false })
    }
}

fn serve(inbox: &Receiver<Step>) {
    while let Ok(step) = inbox.recv() {
        step();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_hangs_is_given_up_and_the_next_one_runs() {
        let left_behind = LeftBehind::default();
        let mut worker = Worker::new(left_behind.clone(), Cause::Documents, 2, Duration::from_millis(100));
        assert_eq!(worker.run(|| 7).await, Ok(7));
        assert_eq!(worker.run(|| -> u8 { panic!("on purpose") }).await, Err(Failure::Panicked));
        assert_eq!(worker.run(|| 8).await, Ok(8));
        let (first, second) = (gate(), gate());
        assert_eq!(worker.run(first.wait).await, Err(Failure::TimedOut));
        assert_eq!((worker.run(|| 9).await, left_behind.count()), (Ok(9), 1));
        assert_eq!(worker.run(second.wait).await, Err(Failure::TimedOut));
        assert_eq!((worker.run(|| 10).await, left_behind.count()), (Err(Failure::NoThread), 2), "as many as may be");
        let members = Worker::new(left_behind.clone(), Cause::Members, 2, Duration::from_millis(100)).run(|| 11).await;
        assert_eq!(members, Ok(11), "that is another budget");
        // One of them was only slow: it ends, makes room, and is heard of.
        drop(first.open);
        until(|| left_behind.count() == 1).await;
        timeout(Duration::from_secs(5), left_behind.ended()).await.unwrap();
        assert!(!worker.late().is_over(), "the other one hangs");
        assert_eq!(worker.run(|| 11).await, Ok(11));
        let late = worker.late();
        drop(second.open);
        until(|| left_behind.count() == 0).await;
        assert!(late.is_over());
    }

    #[tokio::test]
    async fn a_worker_that_goes_while_its_step_runs_leaves_the_thread_behind() {
        let left_behind = LeftBehind::default();
        let held = gate();
        let mut worker = Worker::new(left_behind.clone(), Cause::Members, 2, Duration::from_secs(60));
        assert!(timeout(Duration::from_millis(50), worker.run(held.wait)).await.is_err(), "still running");
        drop(worker);
        assert_eq!(left_behind.count(), 1);
        drop(held.open);
        until(|| left_behind.count() == 0).await;
    }

    #[tokio::test]
    async fn what_a_step_owns_is_dropped_before_its_answer_is_there() {
        let mut worker = Worker::new(LeftBehind::default(), Cause::Documents, 2, DEADLINE);
        let mut owned = Arc::new(5_u8);
        for _ in 0..1_000 {
            let held = Arc::clone(&owned);
            assert_eq!(worker.run(move || *held).await, Ok(5));
            assert!(Arc::get_mut(&mut owned).is_some());
        }
    }

    struct Gate<F> {
        open: SyncSender<()>,
        wait: F,
    }

    /// A step that runs until `open` is dropped.
    fn gate() -> Gate<impl FnOnce() -> u8 + Send + 'static> {
        let (open, closed) = sync_channel::<()>(1);
        Gate {
            open,
            wait: move || {
                let _ = closed.recv();
                1
            },
        }
    }

    async fn until(mut look: impl FnMut() -> bool) {
        for _ in 0..500 {
            if look() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never");
    }
}
