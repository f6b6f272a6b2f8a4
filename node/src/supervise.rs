//! The one place that starts tasks: named, and never gone without a word.
//!
//! A task that panics ends alone: the rest of the agent goes on with its last snapshots. [`once`] only reports it;
//! [`restarting`] starts it again after a pause, a bounded number of times in a window, and then gives up with an
//! alarm. Every panic is counted and stands in `status`.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

/// Restarts allowed within [`RESTART_WINDOW`].
pub const RESTARTS_MAX: usize = 5;
/// See [`RESTARTS_MAX`].
pub const RESTART_WINDOW: Duration = Duration::from_secs(600);
/// Pause before a restart: longer than a burst of the same bad input, shorter than a suspicion.
const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// What became of the tasks, for `status`.
#[derive(Clone, Debug, Default)]
pub struct Health {
    panics: Arc<Mutex<BTreeMap<&'static str, TaskState>>>,
}

/// One task that panicked at least once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskState {
    /// How often.
    pub panics: u64,
    /// True when it does not run any more.
    pub ended: bool,
}

impl Health {
    /// Tasks that panicked, by name.
    #[must_use]
    pub fn panicked(&self) -> BTreeMap<&'static str, TaskState> {
        self.panics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, name: &'static str, ended: bool) {
        let mut panics = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        let state = panics.entry(name).or_default();
        state.panics += 1;
        state.ended = ended;
    }
}

/// Starts a task that is not started again.
pub fn once<F>(health: &Health, name: &'static str, task: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let health = health.clone();
    tokio::spawn(async move {
        if let Err(error) = tokio::spawn(task).await
            && error.is_panic()
        {
            health.note(name, true);
            error!(task = name, "task panicked and is not started again");
        }
    })
}

/// Starts a task and starts it again when it panics; `make` is given the number of restarts so far. A task that ends by
/// itself stays ended. Aborting the handle ends the supervision and the task.
pub fn restarting<M, F>(health: &Health, name: &'static str, mut make: M) -> JoinHandle<()>
where
    M: FnMut(u64) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let health = health.clone();
    tokio::spawn(async move {
        let mut starts: VecDeque<Instant> = VecDeque::new();
        let mut restarts = 0_u64;
        loop {
            let running = AbortOnDrop(tokio::spawn(make(restarts)));
            match running.wait().await {
                Err(error) if error.is_panic() => {}
                Ok(()) | Err(_) => return,
            }
            let now = Instant::now();
            starts.retain(|at| now.duration_since(*at) < RESTART_WINDOW);
            starts.push_back(now);
            restarts += 1;
            let exhausted = starts.len() > RESTARTS_MAX;
            health.note(name, exhausted);
            if exhausted {
                error!(task = name, restarts, "task panicked too often and is not started again");
                return;
            }
            warn!(task = name, restarts, "task panicked and is started again");
            sleep(RESTART_PAUSE).await;
        }
    })
}

/// Aborting a supervisor must not leave its task behind.
struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    async fn wait(mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panicking_task_is_restarted_within_its_budget() {
        let health = Health::default();
        let runs = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&runs);
        restarting(&health, "bad", move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { panic!("on purpose") }
        })
        .await
        .unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), RESTARTS_MAX as u64 + 1);
        assert_eq!(health.panicked()["bad"], TaskState { panics: RESTARTS_MAX as u64 + 1, ended: true });
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_by_itself_stays_ended() {
        let health = Health::default();
        restarting(&health, "good", |_| async {}).await.unwrap();
        once(&health, "good", async {}).await.unwrap();
        assert!(health.panicked().is_empty());
    }
}
