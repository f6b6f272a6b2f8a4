//! Independent runs on several threads. A run owns everything it touches, so its result depends on its job alone and
//! results come back in the order of the jobs, however many threads there are.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// As many threads as the host has cores.
#[must_use]
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs every job once; results are in the order of the jobs.
///
/// # Panics
/// When a job panics.
pub fn run<J: Sync, R: Send>(jobs: &[J], threads: usize, work: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    // One result per job at most waits here: bounded by the jobs.
    let (sender, results) = mpsc::sync_channel(jobs.len().max(1));
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some((at, job)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, jobs.get(at)?)))
                {
                    // The receiver outlives the scope.
                    let _ = sender.send((at, work(job)));
                }
            });
        }
    });
    drop(sender);
    let mut done: Vec<(usize, R)> = results.iter().collect();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_jobs_whatever_the_threads() {
        let jobs: Vec<u64> = (0..100).collect();
        // Later jobs are done sooner.
        let work = |job: &u64| (0..(100 - job) * 1_000).fold(*job, |sum, at| sum.wrapping_mul(31).wrapping_add(at));
        let one = run(&jobs, 1, work);
        assert_eq!(one, jobs.iter().map(work).collect::<Vec<_>>());
        assert_eq!(one, run(&jobs, 8, work));
        assert!(run(&Vec::<u64>::new(), 4, work).is_empty());
    }
}
