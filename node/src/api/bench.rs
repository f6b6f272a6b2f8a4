//! Where an answer needs a foreign document to be read or compiled: on a thread with a deadline, one at a time.
//!
//! A document that hangs here hangs nobody else: not the names and files that blocking threads are for, and not the trial
//! of documents, which counts its own threads.

use std::time::Duration;

use tokio::sync::Mutex;

use crate::tasks::routes::{Cause, LeftBehind, Worker};

/// How long a step may take: less than any client waits for its answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Threads that may be left behind; with as many nothing is read for an answer any more.
const LEFT_BEHIND_MAX: usize = 4;

/// The bench.
#[derive(Debug)]
pub struct Bench(Mutex<Worker>);

impl Default for Bench {
    fn default() -> Self {
        Self(Mutex::new(Worker::new(LeftBehind::default(), Cause::Documents, LEFT_BEHIND_MAX, DEADLINE)))
    }
}

impl Bench {
    /// What the step brings; `None` where it panicked, did not end in time, or found no thread.
    pub(super) async fn run<T: Send + 'static>(&self, step: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.0.lock().await.run(step).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_hangs_ends_with_nothing_and_one_more_than_may_is_not_begun() {
        let bench = Bench::default();
        assert_eq!(bench.run(|| 7).await, Some(7));
        assert_eq!(bench.run(|| -> u8 { panic!("on purpose") }).await, None);
        let (open, gate) = std::sync::mpsc::sync_channel::<()>(1);
        let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
        for _ in 0..LEFT_BEHIND_MAX {
            let gate = gate.clone();
            let step = move || drop(gate.lock().map(|gate| gate.recv()));
            assert_eq!(bench.run(step).await, None);
        }
        assert_eq!(bench.run(|| 8).await, None, "too many hang");
        drop(open);
        for _ in 0..500 {
            if bench.run(|| 9).await == Some(9) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("threads that end make room");
    }
}
