//! Counts what one operation of the hot paths executes, and compares it with what is written down.
//!
//! ```sh
//! cargo run --profile instructions -p starling-benches --bin instructions -- check
//! cargo run --profile instructions -p starling-benches --bin instructions -- take
//! ```
//!
//! `check` fails when an operation executes over 3 % more instructions than `benches/instructions.txt` says, or over 3 %
//! fewer: what was won is written down, or it would be lost unseen. `take` counts anew and writes the file; whoever does
//! that says in the commit why the counts moved.
//!
//! Callgrind counts instructions in user space, so neither the machine's speed nor its other work is in the figures. What
//! a request costs in system calls is not in them either: `benches/peers/bench.sh` measures CPU time.
#![expect(clippy::print_stdout, reason = "figures go to standard output")]
#![expect(clippy::print_stderr, reason = "a failure is told to the person who runs the tool")]

mod baseline;
mod counting;
mod operations;

use std::path::Path;
use std::process::ExitCode;

use baseline::{Baseline, Verdict};
use counting::Counted;
use operations::OPERATIONS;

type Done<T> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
instructions check            compares with benches/instructions.txt; 0 also when it cannot: it says why
instructions take             counts anew and writes that file
instructions run OPERATION    what is counted: the operation, in batches
instructions cpu              the processor as a program sees it here";

/// The committed counts.
fn file() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt"))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["check"] => check(),
        ["take"] => take().map(|()| ExitCode::SUCCESS),
        ["cpu"] => {
            println!("{}", counting::processor());
            Ok(ExitCode::SUCCESS)
        }
        ["run", operation] => operations::run(operation).map(|()| ExitCode::SUCCESS),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("instructions: {error}");
        ExitCode::FAILURE
    })
}

/// Counts every operation; `None` where there is no valgrind.
fn count_all() -> Done<Option<Baseline>> {
    let Some(machine) = counting::machine()? else { return Ok(None) };
    let mut counted = Baseline { machine, counts: Vec::new() };
    for operation in &OPERATIONS {
        let Counted { instructions, spread } = counting::count(operation)?;
        eprintln!("{}: {instructions}, batches apart by {spread:.2} %", operation.name);
        counted.counts.push((operation.name.to_owned(), instructions));
    }
    Ok(Some(counted))
}

fn take() -> Done<()> {
    let counted = count_all()?.ok_or("valgrind is not installed")?;
    std::fs::write(file(), counted.to_string())?;
    println!("{counted}");
    Ok(())
}

fn check() -> Done<ExitCode> {
    let held: Baseline = std::fs::read_to_string(file())?.parse()?;
    let Some(machine) = counting::machine()? else {
        println!("skipped: valgrind is not installed");
        return Ok(ExitCode::SUCCESS);
    };
    let differences = held.differences(&machine);
    if !differences.is_empty() {
        println!(
            "skipped: benches/instructions.txt was taken under other conditions, so the counts cannot be compared"
        );
        differences.iter().for_each(|difference| println!("  {difference}"));
        println!("take them anew, from a commit that is known to be good: {}", baseline::TAKE);
        return Ok(ExitCode::SUCCESS);
    }
    let counted = count_all()?.ok_or("valgrind went away")?;
    let rows = held.compare(&counted);
    println!("{:<24}{:>12}{:>12}{:>12}", "operation", "counted", "written", "difference");
    rows.iter().for_each(|row| println!("{row}"));
    let wrong: Vec<String> = rows.iter().filter(|row| row.verdict != Verdict::Kept).map(|row| row.advice()).collect();
    wrong.iter().for_each(|advice| eprintln!("{advice}"));
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
