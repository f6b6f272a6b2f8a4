//! What holds the heap of agent A: valgrind's massif executes it and is asked, at chosen moments, for all that is allocated
//! just then, by the calls that allocated it.
#![expect(clippy::print_stdout, reason = "the tables go to standard output")]
#![expect(clippy::print_stderr, reason = "progress is told to the person who runs the bench")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Done;
use crate::agents::{FRONT, Pair};
use crate::arguments::Arguments;
use crate::crowd::Shape;
use crate::holders::{Holders, sum};
use crate::joining::Crowd;
use crate::memory::{Bench, CROWDS, knows};

/// How long an agent under a profiler is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(20);
/// Longest wait until its table holds what it is told.
const PATIENCE: Duration = Duration::from_secs(300);
/// Kinds of objects that a table lists; the rest is one row.
const ROWS: usize = 10;

pub(crate) fn run(arguments: &Arguments) -> Done<()> {
    let (bench, work) = (Bench::read(arguments)?, arguments.get("work", PathBuf::new())?);
    let count: u32 = arguments.get("conns", 1_000)?;
    let [idle, held, closed] = bench.holding(count, &work.join("hold"))?;
    println!("### {count} idle connections, at A\n");
    table(&held.since(&idle), "connection", f64::from(count));
    println!(
        "\nOf these {:.0} KiB, {:.0} KiB were still allocated after all were closed.",
        held.since(&idle).total() as f64 / 1_024.0,
        closed.since(&idle).total() as f64 / 1_024.0
    );
    for shape in CROWDS {
        let gained = bench.joining(&shape, &work.join(format!("join-{}", shape.services)))?;
        let (each, count) =
            if shape.services > shape.members { ("service", shape.services) } else { ("member", shape.members) };
        println!("\n### {} members with {} services, at A\n", shape.members, shape.services);
        table(&gained, each, f64::from(u32::try_from(count)?));
    }
    Ok(())
}

impl Bench {
    /// What A holds without, with, and again without so many connections.
    fn holding(&self, count: u32, folder: &Path) -> Done<[Holders; 3]> {
        let pair = self.profiled(folder)?;
        thread::sleep(SETTLE);
        let idle = snapshot(&pair, &folder.join("idle"))?;
        let holders = self.open(count, &[FRONT])?;
        thread::sleep(SETTLE);
        let held = snapshot(&pair, &folder.join("held"))?;
        drop(holders);
        thread::sleep(SETTLE);
        Ok([idle, held, snapshot(&pair, &folder.join("closed"))?])
    }

    /// What A holds more once it knows a crowd.
    fn joining(&self, shape: &Shape, folder: &Path) -> Done<Holders> {
        let pair = self.profiled(folder)?;
        let mut crowd = Crowd::start(&pair, shape)?;
        thread::sleep(SETTLE);
        let before = snapshot(&pair, &folder.join("before"))?;
        crowd.go()?;
        knows(&pair.a, shape, PATIENCE)?;
        thread::sleep(SETTLE);
        Ok(snapshot(&pair, &folder.join("after"))?.since(&before))
    }

    fn profiled(&self, folder: &Path) -> Done<Pair> {
        std::fs::create_dir_all(folder)?;
        // Nothing is aggregated, and snapshots of its own are of no use.
        let options = ["--tool=massif", "--threshold=0", "--depth=50", "--max-snapshots=10", "--detailed-freq=1000000"];
        let mut under = vec!["valgrind".to_owned()];
        under.extend(options.map(str::to_owned));
        under.push(format!("--massif-out-file={}", folder.join("massif").display()));
        under.push(format!("--log-file={}", folder.join("valgrind.log").display()));
        self.pair(&[FRONT], &under, folder)
    }
}

/// All that A has allocated now.
fn snapshot(pair: &Pair, file: &Path) -> Done<Holders> {
    let told = Command::new("vgdb")
        .arg(format!("--pid={}", pair.a.pid()))
        .args(["--wait=60", "detailed_snapshot"])
        .arg(file)
        .stdin(Stdio::null())
        .output()?;
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{}: {error}; {}", file.display(), String::from_utf8_lossy(&told.stderr)))?;
    let holders = sum(&text)?;
    eprintln!("{}: {} KiB", file.display(), holders.total() / 1_024);
    Ok(holders)
}

/// The largest kinds, with what they come to for `each` thing, of which there are `count`.
fn table(holders: &Holders, each: &str, count: f64) {
    let row = |what: &str, bytes: i64| {
        let share = 100.0 * bytes as f64 / (holders.total() as f64).max(1.0);
        println!("| {what} | {:.0} | {share:.0} |", bytes as f64 / count);
    };
    println!("| What | bytes for each {each} | share, % |\n|---|---:|---:|");
    let rows = holders.largest();
    let (listed, rest) = rows.split_at(rows.len().min(ROWS));
    for (what, bytes) in listed {
        row(what, *bytes);
    }
    row("all else", rest.iter().map(|(_, bytes)| bytes).sum());
    row("all", holders.total());
    row("beside them, what the allocator adds to blocks", holders.padding());
}
