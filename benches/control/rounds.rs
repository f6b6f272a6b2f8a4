//! The rounds: each on a fresh pair of agents, each with every row once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Done;
use crate::agents::{self, FRONT, Launch, Pair, there};
use crate::arguments::Arguments;
use crate::crowd::Shape;
use crate::figures::{self, Counted, Reading, Window};
use crate::joining::{Crowd, low_priority};
use crate::report;

/// The load, in requests per second.
pub(crate) const REQUESTS_PER_S: u32 = 2_000;
/// Changes of a document per second.
pub(crate) const APPLIES_PER_S: u32 = 5;
/// Scrapes of each agent per second.
pub(crate) const SCRAPES_PER_S: u32 = 10;
/// Handshakes per second with one agent.
pub(crate) const HANDSHAKES_PER_S: u32 = 200;

/// Share of the members that counts as all of them: the first that nobody answers for are held dead before the last are heard of.
const ALL_SHARE: f64 = 0.99;

/// What happens in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    QuietBefore,
    Join,
    QuietKnown,
    Rebuilds,
    Scrapes,
    Handshakes,
    QuietAfter,
}

impl Row {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 7] = [
        Self::QuietBefore,
        Self::QuietKnown,
        Self::QuietAfter,
        Self::Join,
        Self::Rebuilds,
        Self::Scrapes,
        Self::Handshakes,
    ];

    /// In the order of round `round`: a mesh can only be joined once, so that stands at the start; the rest takes turns.
    fn order(round: usize) -> [Self; 7] {
        let mut work = [Self::Rebuilds, Self::Scrapes, Self::Handshakes];
        work.rotate_left(round % 3);
        let [first, second, third] = work;
        [Self::QuietBefore, Self::Join, Self::QuietKnown, first, second, third, Self::QuietAfter]
    }
}

/// A window and what else is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) window: Window,
    /// How often the work was done, as who did it counts: applies, scrapes.
    pub(crate) done: u32,
    pub(crate) failed: u32,
    /// From the dial until agent A knew all members, and how long the window was, in which B came to know them too.
    pub(crate) joined: Option<Duration>,
    /// A compiler ran at its start or end.
    pub(crate) busy: bool,
    /// Members that A held alive or only doubted at the end.
    pub(crate) there: f64,
}

/// What every round needs.
pub(crate) struct Bench {
    pub(crate) starling: PathBuf,
    pub(crate) load: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) period: Duration,
    pub(crate) members: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Done<()> {
    let bench = Bench {
        starling: arguments.get("starling", PathBuf::new())?,
        load: arguments.get("load", PathBuf::new())?,
        rounds: arguments.get("rounds", 5)?,
        period: Duration::from_secs(arguments.get("secs", 6)?),
        members: arguments.get("members", 1_000)?,
    };
    let work: PathBuf = arguments.get("work", PathBuf::new())?;
    let backend = agents::serve()?;
    let mut seen: BTreeMap<Row, Vec<Seen>> = BTreeMap::new();
    for round in 0..bench.rounds {
        let folder = work.join(format!("round-{round}"));
        let launch = Launch { binary: &bench.starling, fronts: &[FRONT], under: &[] };
        let pair = Pair::start(&launch, &folder, backend)?;
        let mut crowd = Crowd::start(&pair, &Shape::of_control(usize::try_from(bench.members)?))?;
        for row in Row::order(round) {
            // What the row before left undone is done.
            thread::sleep(Duration::from_secs(1));
            let now = bench.measure(&pair, &mut crowd, row)?;
            eprintln!(
                "round {round} {row:?}: {:.1} us/request, lag within 1 ms {:.2} %, p99 {:.0} us, errors {}, others {:.1} %, done {} failed {}, joined {:?}, there {}{}",
                now.window.cpu_us,
                now.window.lag.within_1ms() * 100.0,
                now.window.p99_us,
                now.window.errors,
                now.window.others_percent,
                now.done,
                now.failed,
                now.joined,
                now.there,
                if now.busy { ", BUSY MACHINE" } else { "" }
            );
            seen.entry(row).or_default().push(now);
        }
    }
    report::print(&bench, &seen)
}

/// What a loop of control work did.
#[derive(Default)]
struct Work {
    done: u32,
    failed: u32,
    joined: Option<Duration>,
    /// What the agents counted from the dial until both knew all: a window as long as the others would hide a join in the
    /// quiet around it.
    while_joining: Option<Counted>,
}

impl Bench {
    /// One row: the load for the whole period, and the work beside it.
    fn measure(&self, pair: &Pair, crowd: &mut Crowd, row: Row) -> Done<Seen> {
        let mut busy = agents::compiling();
        let before = Reading::start(pair)?;
        let load = Command::new(&self.load)
            .args(["latency", &format!("target={FRONT}"), &format!("rate={REQUESTS_PER_S}"), "conns=16"])
            .arg(format!("secs={}", self.period.as_secs()))
            .stdout(Stdio::piped())
            .spawn()?;
        let ending = AtomicBool::new(false);
        let (line, work) = thread::scope(|scope| -> Done<(String, Work)> {
            let worker = scope.spawn(|| self.work(pair, crowd, row, &ending).map_err(|error| error.to_string()));
            let output = load.wait_with_output()?;
            ending.store(true, Ordering::Relaxed);
            let work = worker.join().map_err(|_| "the work died")??;
            Ok((String::from_utf8(output.stdout)?, work))
        })?;
        let (line, work) = (line.trim(), work);
        let window = match work.while_joining {
            // The load is steady, so the time says how many requests fell into the join.
            Some(counted) => {
                let requests = counted.period.as_secs_f64() * f64::from(REQUESTS_PER_S);
                counted.window(line, requests)?
            }
            None => before.until_now(pair)?.window(line, figures::value(line, "n")?)?,
        };
        busy |= agents::compiling();
        let there = there(&pair.a.metrics()?);
        Ok(Seen { window, done: work.done, failed: work.failed, joined: work.joined, busy, there })
    }

    fn work(&self, pair: &Pair, crowd: &mut Crowd, row: Row, ending: &AtomicBool) -> Done<Work> {
        match row {
            Row::QuietBefore | Row::QuietKnown | Row::QuietAfter => Ok(Work::default()),
            Row::Join => self.join(pair, crowd, ending),
            Row::Rebuilds => {
                let mut weight = 0;
                Ok(repeat(APPLIES_PER_S, ending, || {
                    weight = weight % 80 + 1;
                    pair.apply(weight)
                }))
            }
            Row::Scrapes => Ok(repeat(SCRAPES_PER_S, ending, || {
                pair.a.metrics()?;
                pair.b.metrics().map(drop)
            })),
            Row::Handshakes => {
                let told = low_priority()?
                    .arg("handshakes")
                    .arg(format!("trust={}", pair.trust().display()))
                    .args([format!("target={}", Pair::port_a()), format!("rate={HANDSHAKES_PER_S}")])
                    .arg(format!("secs={}", self.period.as_secs()))
                    .output()?;
                let line = String::from_utf8(told.stdout)?;
                let value = |key: &str| line.split([' ', '\n']).find_map(|word| word.strip_prefix(key)?.parse().ok());
                let (done, failed) = (value("done="), value("failed="));
                Ok(Work {
                    done: done.ok_or("no handshakes")?,
                    failed: failed.ok_or("no handshakes")?,
                    ..Work::default()
                })
            }
        }
    }

    /// Lets the crowd dial A after a second, and looks four times a second until A and B know all, or the load ends.
    fn join(&self, pair: &Pair, crowd: &mut Crowd, ending: &AtomicBool) -> Done<Work> {
        thread::sleep(Duration::from_secs(1));
        let (before, start) = (Reading::start(pair)?, Instant::now());
        crowd.go()?;
        let all = f64::from(self.members) * ALL_SHARE;
        let (mut joined, mut both) = (None, false);
        while !both && !ending.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(250));
            if joined.is_none() && there(&pair.a.metrics()?) >= all {
                joined = Some(start.elapsed());
            }
            both = joined.is_some() && there(&pair.b.metrics()?) >= all;
        }
        let while_joining = Some(before.until_now(pair)?);
        Ok(Work { done: u32::from(both), failed: u32::from(!both), joined, while_joining })
    }
}

/// Does something by the clock until the end; what is late is not made up for.
fn repeat(rate: u32, ending: &AtomicBool, mut once: impl FnMut() -> Done<()>) -> Work {
    let (gap, mut work, mut next) = (Duration::from_secs(1) / rate, Work::default(), Instant::now());
    while !ending.load(Ordering::Relaxed) {
        match once() {
            Ok(()) => work.done += 1,
            Err(error) => {
                if work.failed == 0 {
                    eprintln!("{error}");
                }
                work.failed += 1;
            }
        }
        next = (next + gap).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    work
}
