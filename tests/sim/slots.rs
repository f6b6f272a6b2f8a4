//! Large runs in slots: what reaches an agent within one waits for the end of the slot, as with a driver that looks at its
//! socket that often, and the agents of a slot think at the same time on all cores. Then they act one after the other, in
//! the order in which they were first reached, so a run does not depend on how many threads there are.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use crate::anomaly::Anomaly;
use crate::clock::SimTime;
use crate::cluster::{HostId, Sim};
use crate::parallel;
use crate::turn::{Moment, Process};

/// How often the driver of a large run looks at its socket: a hundredth of what is measured there.
pub(crate) const SLOT: Duration = Duration::from_millis(1);

/// Fewer turns are not worth waking another thread for.
const SHARED_MIN: usize = 8;

/// One agent's turn.
#[derive(Debug)]
struct Job {
    id: HostId,
    process: Box<Process>,
    anomaly: Anomaly,
}

/// Turns of one moment.
#[derive(Debug)]
struct Share {
    moment: Moment,
    jobs: Vec<Job>,
}

impl Share {
    /// All turns, one after the other.
    fn think(self) -> Vec<Job> {
        let mut jobs = self.jobs;
        for job in &mut jobs {
            job.process.think(&mut job.anomaly, &self.moment);
        }
        jobs
    }
}

/// A thread that thinks; it ends when its questions do.
#[derive(Debug)]
struct Worker {
    questions: SyncSender<Share>,
    answers: Receiver<Vec<Job>>,
}

impl Worker {
    fn start() -> Self {
        // One share at a time.
        let (questions, asked) = mpsc::sync_channel::<Share>(1);
        let (answer, answers) = mpsc::sync_channel(1);
        thread::spawn(move || {
            for share in asked {
                if answer.send(share.think()).is_err() {
                    return;
                }
            }
        });
        Self { questions, answers }
    }
}

/// The threads of a run beside its own. A host is always thought for by the same one, whose memory it then is.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

impl Workers {
    /// That many threads, the run's own included.
    fn start(threads: usize) -> Self {
        Self((1..threads).map(|_| Worker::start()).collect())
    }

    /// Lets all think.
    ///
    /// # Panics
    /// When a machine panicked.
    fn think(&self, jobs: Vec<Job>, moment: &Moment) -> Vec<Job> {
        let mut shares: Vec<Share> =
            (0..=self.0.len()).map(|_| Share { moment: moment.clone(), jobs: Vec::new() }).collect();
        for job in jobs {
            let at = job.id.0 % shares.len();
            shares[at].jobs.push(job);
        }
        let ours = shares.pop().expect("invariant: there is a share per thread, this one counted");
        for (worker, share) in self.0.iter().zip(shares) {
            worker.questions.send(share).expect("a machine panicked");
        }
        let mut done = ours.think();
        for worker in &self.0 {
            done.extend(worker.answers.recv().expect("a machine panicked"));
        }
        done
    }
}

impl Sim {
    /// An agent has a turn at the end of this slot.
    pub(crate) fn turn_in_slot(&mut self, id: HostId) {
        if let Some(process) = self.hosts[id.0].process.as_mut().filter(|process| !process.due) {
            process.due = true;
            self.due.push(id);
        }
    }

    pub(crate) fn run_slots_to(&mut self, end: SimTime) {
        loop {
            let next = if self.due.is_empty() { self.agenda.next_at() } else { Some(self.now) };
            let Some(at) = next.map(|next| next.rounded_up(self.setup.slot)) else { break };
            while let Some((time, happening)) = self.agenda.next_until(at.min(end)) {
                self.now = time;
                self.happen(happening);
            }
            if at > end {
                break;
            }
            self.now = at;
            self.turns();
        }
        self.now = end;
    }

    /// The turns at the end of a slot.
    fn turns(&mut self) {
        let due = std::mem::take(&mut self.due);
        let mut jobs = Vec::with_capacity(due.len());
        for id in due {
            let host = &mut self.hosts[id.0];
            if let Some(mut process) = host.process.take_if(|process| process.due) {
                process.due = false;
                jobs.push(Job { id, process, anomaly: std::mem::take(&mut host.anomaly) });
            }
        }
        let order: Vec<HostId> = jobs.iter().map(|job| job.id).collect();
        let moment = self.moment();
        let jobs = if jobs.len() < SHARED_MIN {
            Share { moment, jobs }.think()
        } else {
            self.workers.get_or_insert_with(|| Workers::start(parallel::threads())).think(jobs, &moment)
        };
        for Job { id, process, anomaly } in jobs {
            let host = &mut self.hosts[id.0];
            host.anomaly = anomaly;
            host.process = Some(process);
        }
        // All are back before the first acts, since it may ask who runs.
        for id in order {
            if let Some(process) = self.hosts[id.0].process.take() {
                self.act(id, process);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::Setup;
    use crate::trace::TraceHash;

    fn trace(threads: usize) -> TraceHash {
        let mut sim = Sim::new(Setup { slot: Duration::from_millis(1), ..Setup::lan(5) });
        sim.workers = Some(Workers::start(threads));
        let hosts = sim.add_hosts(40);
        hosts.iter().for_each(|id| sim.start(*id, &hosts[..2]));
        sim.run_for(Duration::from_secs(3));
        sim.crash(hosts[7]);
        sim.restart(hosts[8]);
        sim.run_for(Duration::from_millis(2_500));
        assert!(sim.checker.counts.turns > 1_000 && sim.checker.breaches.is_empty(), "{:?}", sim.checker.breaches);
        assert_eq!(sim.view(hosts[0]).map(|view| view.members.len()), Some(40));
        sim.trace_hash()
    }

    #[test]
    fn a_run_does_not_depend_on_how_many_threads_there_are() {
        let one = trace(1);
        assert_eq!(one, trace(2));
        assert_eq!(one, trace(3));
    }
}
