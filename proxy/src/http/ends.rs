//! When an answer that is under way must be over, also where its client does not read.
//!
//! A body is asked for more only once there is room for it, so its own deadline is not looked at while a client reads
//! nothing. Over HTTP/1 the door holds the moment and ends the connection at it; a stream of HTTP/2 is a task of
//! its own, which ends at it: what the task owns is dropped, and the stream is reset.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

tokio::task_local! {
    /// Of the stream that the present task serves.
    static OF_TASK: Rc<End>;
}

/// One moment, which may be set and taken back.
#[derive(Debug, Default)]
pub(crate) struct End {
    at: Cell<Option<Instant>>,
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
}

impl End {
    pub(crate) fn set(&self, at: Option<Instant>) {
        self.at.set(at);
    }

    /// Ready once the moment has come; pending without waking anybody where there is none.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at.get() else { return Poll::Pending };
        let mut held = self.timer.borrow_mut();
        let timer = held.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(())
    }
}

/// The end of the stream that is served by this task, if it is one of HTTP/2.
pub(crate) fn of_task() -> Option<Rc<End>> {
    OF_TASK.try_with(Rc::clone).ok()
}

/// Runs a task until it is done, or until the moment that it sets with [`of_task`].
pub(crate) async fn until_end<F: Future>(task: F) {
    let end = Rc::new(End::default());
    let run = async {
        let mut task = std::pin::pin!(task);
        std::future::poll_fn(|cx| match task.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            // Looked at after the task: a body that is asked in time ends with a word of its own.
            Poll::Pending => end.poll(cx),
        })
        .await;
    };
    OF_TASK.scope(Rc::clone(&end), run).await;
}
