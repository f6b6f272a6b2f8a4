//! Our own framing beside `yamux`: the same work on streams over mutual TLS 1.3 on loopback.
//!
//! ```sh
//! cargo run --release -p starling-benches --bin framing -- rounds=9
//! ```
//!
//! One process, one thread for the asking end and one for the answering end, each with a runtime of its own; one TLS
//! connection between them. Every row is measured with every lane in turn, round after round, each time on a connection
//! of its own. The CPU time is that of the whole process, and only the two ends run then. Figures are Markdown on
//! standard output; progress is on standard error. `row=1` to `6` runs one row, `row=7` only what unread streams hold.
#![expect(clippy::print_stdout, reason = "figures go to standard output, where they become a page")]
#![expect(clippy::print_stderr, reason = "progress is told to the person who runs it")]

mod lanes;
mod work;

use std::collections::BTreeMap;
use std::process::Command;

use lanes::Lane;
use work::{Figures, Row};

type Done<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "write rounds=9 row=0, or one of these";

/// Sizes of what is written to streams that nobody reads, while memory is weighed.
const UNREAD_WRITES: [usize; 2] = [16 * 1024, 1];

/// Cores, processor, kernel and load, for the head of a report.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    format!(
        "{} cores ({}), Linux {}, load {} at the start",
        std::thread::available_parallelism().map_or(0, usize::from),
        model.map_or("unknown", |(_, name)| name),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?"),
    )
}

/// Median, least and most.
fn spread(figures: &[Figures], of: impl Fn(&Figures) -> f64) -> String {
    let mut all: Vec<f64> = figures.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
    let digits = if at(all.len() / 2) < 100.0 { 2 } else { 0 };
    let (least, median, most) = (at(0), at(all.len() / 2), at(all.len().saturating_sub(1)));
    format!("{median:.digits$} [{least:.digits$}-{most:.digits$}]")
}

fn measure(rows: &[Row], rounds: usize) -> Done<()> {
    println!("| Row | Lane | CPU µs, both ends | Wall µs | CPU ÷ mux, by round | Taken of an unread stream, KiB |");
    println!("|---|---|---:|---:|---:|---:|");
    for &row in rows {
        let mut all: BTreeMap<Lane, Vec<Figures>> = BTreeMap::new();
        for round in 1..=rounds {
            eprintln!("{row}, round {round} of {rounds}");
            // Who begins changes, so that nobody always follows the same one.
            for turn in 0..Lane::ALL.len() {
                let lane = Lane::ALL[(turn + round) % Lane::ALL.len()];
                all.entry(lane).or_default().push(work::run(lane, row)?);
            }
        }
        let ours = all.get(&Lane::Mux).cloned().unwrap_or_default();
        for (lane, figures) in &all {
            let ratios: Vec<Figures> = figures
                .iter()
                .zip(&ours)
                .map(|(theirs, ours)| Figures { cpu_us: theirs.cpu_us / ours.cpu_us, ..*theirs })
                .collect();
            let held = figures.iter().filter_map(|figures| figures.unread).max();
            println!(
                "| {row} | {lane} | {} | {} | {} | {} |",
                spread(figures, |figures| figures.cpu_us),
                spread(figures, |figures| figures.wall_us),
                if *lane == Lane::Mux { "1".to_owned() } else { spread(&ratios, |figures| figures.cpu_us) },
                held.map_or_else(|| "-".to_owned(), |bytes| (bytes / 1024).to_string()),
            );
        }
    }
    Ok(())
}

/// Weighs each lane in a process of its own: what a process once had, its heap keeps.
fn weigh_all() -> Done<()> {
    println!("\n| Lane | Written at once, bytes | Taken, KiB | The process grew by, KiB |\n|---|---:|---:|---:|");
    for at in [0, 2] {
        for write in UNREAD_WRITES {
            let arguments = [format!("weigh={}", at + 1), format!("write={write}")];
            let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
            print!("{}", String::from_utf8_lossy(&output.stdout));
        }
    }
    Ok(())
}

fn main() -> Done<()> {
    let usual = [("rounds", 9), ("row", 0), ("weigh", 0), ("write", 1), ("streams", 8)];
    let mut given: BTreeMap<String, usize> = usual.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').ok_or(USAGE)?;
        *given.get_mut(key).ok_or(USAGE)? = value.parse()?;
    }
    if let Some(lane) = given["weigh"].checked_sub(1) {
        let (lane, write) = (*Lane::ALL.get(lane).ok_or(USAGE)?, given["write"]);
        let (taken, grown) = work::weigh(lane, given["streams"], write)?;
        println!("| {lane} | {write} | {} | {} |", taken / 1024, grown / 1024);
        return Ok(());
    }
    println!("{}.\n", machine());
    match given["row"] {
        0 => {
            measure(&Row::ALL, given["rounds"])?;
            weigh_all()
        }
        7 => weigh_all(),
        number => measure(&[*Row::ALL.get(number - 1).ok_or("row is 1 to 7, or 0 for all")?], given["rounds"]),
    }
}
