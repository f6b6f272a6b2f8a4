//! What a pair of agents holds of the host's memory: idle, with idle connections, and knowing many services.
//!
//! Each row starts a fresh pair, since an allocator keeps what it once had.

#![expect(clippy::print_stderr, reason = "progress is told to the person who runs the bench")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use starling_model::Readiness;

use crate::agents::{self, Agent, FRONT, Launch, Pair, Process};
use crate::arguments::Arguments;
use crate::crowd::Shape;
use crate::joining::Crowd;
use crate::resident::{Mapped, Resident, Use, mapped};
use crate::{Done, memory_page};

/// Where clients come in at A; the second is used by more connections than one listener takes.
const FRONTS: [&str; 2] = [FRONT, "127.0.0.1:18211"];
/// One listener of an agent serves at most 8,192 connections at a time.
const CONNECTIONS_PER_FRONT_MAX: u32 = 8_000;

/// How many connections are held.
pub(crate) const CONNECTIONS: [u32; 2] = [1_000, 15_000];

/// What is joined: as many members each time, first with the services of `benches/control.sh`.
pub(crate) const CROWDS: [Shape; 2] = [
    Shape { members: 1_000, instances: 1, services: 100, ready: Readiness::Ready },
    Shape { members: 1_000, instances: 10, services: 10_000, ready: Readiness::Ready },
];

/// Share of the endpoints that counts as all of them, as with the members in `benches/control.sh`.
const ALL_SHARE: f64 = 0.99;

/// How long agents are left alone before they are looked at.
const SETTLE: Duration = Duration::from_secs(5);
/// Longest wait for what an agent is told, and for a load to open its connections.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often an agent is asked how much it knows.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// A and B.
pub(crate) type Both = [Resident; 2];

/// Connections that are held, and then not.
pub(crate) struct Held {
    pub(crate) before: Both,
    pub(crate) open: Both,
    pub(crate) closed: Both,
}

/// A crowd that joined.
pub(crate) struct Joined {
    pub(crate) shape: Shape,
    pub(crate) before: Both,
    pub(crate) after: Both,
    /// After one reading of the metrics of each, which have series of every service.
    pub(crate) scraped: Both,
    /// From the dial until the table of A and that of B held all endpoints.
    pub(crate) took: [Duration; 2],
    /// Endpoints that the table of each held when it was looked at: two are those of B itself.
    pub(crate) endpoints: [f64; 2],
}

/// What one round saw.
pub(crate) struct Round {
    pub(crate) two: Both,
    pub(crate) two_mapped: BTreeMap<Use, Mapped>,
    pub(crate) three: [Resident; 3],
    pub(crate) held: Vec<Held>,
    pub(crate) joined: Vec<Joined>,
}

/// What every row needs.
pub(crate) struct Bench {
    pub(crate) starling: PathBuf,
    pub(crate) load: PathBuf,
    pub(crate) backend: SocketAddr,
}

impl Bench {
    pub(crate) fn read(arguments: &Arguments) -> Done<Self> {
        Ok(Self {
            starling: arguments.get("starling", PathBuf::new())?,
            load: arguments.get("load", PathBuf::new())?,
            backend: agents::serve()?,
        })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Done<()> {
    let (bench, work) = (Bench::read(arguments)?, arguments.get("work", PathBuf::new())?);
    let mut rounds = Vec::new();
    let mut busy = false;
    for number in 0..arguments.get("rounds", 3)? {
        let start = Instant::now();
        busy |= agents::compiling();
        rounds.push(bench.round(&work.join(format!("round-{number}")))?);
        busy |= agents::compiling();
        eprintln!("round {number} took {:.0} s", start.elapsed().as_secs_f64());
    }
    memory_page::print(&rounds, busy)
}

impl Bench {
    fn round(&self, folder: &Path) -> Done<Round> {
        let pair = self.pair(&FRONTS[..1], &[], &folder.join("idle"))?;
        thread::sleep(SETTLE);
        let (two, two_mapped) = (both(&pair)?, mapped(pair.a.pid())?);
        let third = pair.third()?;
        thread::sleep(SETTLE);
        let [a, b] = both(&pair)?;
        let three = [a, b, Resident::of(third.pid())?];
        eprintln!("mesh of 2: {two:?}, of 3: {three:?}");
        drop((third, pair));
        let mut held = Vec::new();
        for count in CONNECTIONS {
            held.push(self.hold(count, &folder.join(format!("hold-{count}")))?);
        }
        let mut joined = Vec::new();
        for shape in CROWDS {
            joined.push(self.join(shape, &folder.join(format!("join-{}", shape.services)))?);
        }
        Ok(Round { two, two_mapped, three, held, joined })
    }

    /// A pair in a new folder.
    pub(crate) fn pair(&self, fronts: &[&str], under: &[String], folder: &Path) -> Done<Pair> {
        std::fs::create_dir_all(folder)?;
        Pair::start(&Launch { binary: &self.starling, fronts, under }, folder, self.backend)
    }

    fn hold(&self, count: u32, folder: &Path) -> Done<Held> {
        let fronts = fronts(count);
        let pair = self.pair(fronts, &[], folder)?;
        thread::sleep(SETTLE);
        let before = both(&pair)?;
        let holders = self.open(count, fronts)?;
        thread::sleep(SETTLE);
        let open = both(&pair)?;
        drop(holders);
        thread::sleep(SETTLE);
        let closed = both(&pair)?;
        eprintln!("{count} connections: {before:?}, with them {open:?}, closed {closed:?}");
        Ok(Held { before, open, closed })
    }

    /// Connections, spread over `fronts`, that have carried one request each. They are closed with their processes.
    pub(crate) fn open(&self, count: u32, fronts: &[&str]) -> Done<Vec<Process>> {
        let each = count / u32::try_from(fronts.len())?;
        let start = |front: &&str| -> Done<_> {
            let mut child = Command::new(&self.load)
                .args(["idle", &format!("target={front}"), &format!("conns={each}")])
                .arg(format!("hold={}", PATIENCE.as_secs()))
                .stdout(Stdio::piped())
                .spawn()?;
            let output = child.stdout.take().ok_or("no output")?;
            Ok((Process(child), output))
        };
        let started: Vec<_> = fronts.iter().map(start).collect::<Done<_>>()?;
        let mut holders = Vec::new();
        for (holder, output) in started {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line)?;
            if line.trim() != format!("idle open={each} errors=0") {
                return Err(format!("connections were not opened: {line}").into());
            }
            holders.push(holder);
        }
        Ok(holders)
    }

    fn join(&self, shape: Shape, folder: &Path) -> Done<Joined> {
        let pair = self.pair(&FRONTS[..1], &[], folder)?;
        let mut crowd = Crowd::start(&pair, &shape)?;
        let (before, start) = (both(&pair)?, Instant::now());
        crowd.go()?;
        let took = [&pair.a, &pair.b].map(|agent| knows(agent, &shape, PATIENCE).map(|()| start.elapsed()));
        let [took_a, took_b] = took;
        let took = [took_a?, took_b?];
        thread::sleep(SETTLE);
        let after = both(&pair)?;
        let endpoints = [endpoints(&pair.a)?, endpoints(&pair.b)?];
        pair.a.metrics()?;
        pair.b.metrics()?;
        let scraped = both(&pair)?;
        eprintln!(
            "{shape:?}: {before:?}, after {after:?}, scraped {scraped:?}, took {took:?} for {endpoints:?} endpoints"
        );
        Ok(Joined { shape, before, after, scraped, took, endpoints })
    }
}

fn fronts(count: u32) -> &'static [&'static str] {
    if count > CONNECTIONS_PER_FRONT_MAX { &FRONTS } else { &FRONTS[..1] }
}

fn both(pair: &Pair) -> Done<Both> {
    Ok([Resident::of(pair.a.pid())?, Resident::of(pair.b.pid())?])
}

/// Waits until the table of an agent holds the endpoints of a crowd, no longer than `patience`.
pub(crate) fn knows(agent: &Agent, shape: &Shape, patience: Duration) -> Done<()> {
    let all = f64::from(u32::try_from(shape.members * shape.instances)?);
    let start = Instant::now();
    loop {
        let held = endpoints(agent);
        if held.as_ref().is_ok_and(|held| *held >= all * ALL_SHARE) {
            return Ok(());
        }
        if start.elapsed() > patience {
            return Err(format!("of {all} endpoints the table holds {held:?}").into());
        }
        thread::sleep(ASK_PAUSE);
    }
}

/// Endpoints in the table of an agent. Its status is asked for and not its metrics, whose text would be memory that this
/// bench itself made it take.
fn endpoints(agent: &Agent) -> Done<f64> {
    Ok(read_endpoints(&agent.get("/v1/status")?).ok_or("a status without endpoints")?)
}

fn read_endpoints(status: &str) -> Option<f64> {
    let (_, rest) = status.split_once("\"endpoints\":")?;
    let rest = rest.trim_start();
    let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::read_endpoints;

    #[test]
    fn the_status_says_how_many_endpoints_the_table_has() {
        assert_eq!(read_endpoints("{\"services\":{\"total\":2,\"endpoints\":1002,\"x\":1}}"), Some(1_002.0));
        assert_eq!(read_endpoints("{}"), None);
    }
}
