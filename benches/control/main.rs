//! What control work of an agent does to its traffic: joins, table rebuilds, scrapes and handshakes under 2,000 requests/s.
//!
//! ```sh
//! benches/control.sh
//! ```
//!
//! Two real agents, and a load that is timed from when each request was due. While one kind of control work happens, the CPU
//! time of the data threads is divided by the requests, and the agents' own measure of how late their data loops are is read
//! before and after. The machine does both the work and the load, so a row also says what it costs to share the cores.
//! Whoever plays peers, operators and diallers has the lowest priority, since on other hosts they would take nothing here.
//!
//! The same agents and the same crowd serve `benches/memory.sh`, which looks at what agents hold of the host's memory.
#![expect(clippy::print_stderr, reason = "progress is told to the person who runs the bench")]

mod agents;
#[path = "../peers/load/arguments.rs"]
mod arguments;
mod crowd;
mod figures;
mod handshakes;
mod heap;
mod holders;
mod issuer;
mod joining;
mod memory;
mod memory_page;
mod report;
mod resident;
mod rounds;

use std::process::ExitCode;

type Done<T> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
control run starling=FILE load=FILE work=FOLDER [rounds=5 secs=6 members=1000]   the bench: a Markdown page on standard output
control memory starling=FILE load=FILE work=FOLDER [rounds=3]             what agents hold of the host's memory: tables
control heap starling=FILE load=FILE work=FOLDER [conns=1000]             what holds it, told by valgrind's massif: tables
control crowd trust=FOLDER listen=ADDR target=ADDR [members=1000 instances=1 services=100 ready=0]  members for an agent to take in
control handshakes trust=FOLDER target=ADDR [node=vm-a rate=200 secs=6]   connections for an agent to accept";

fn main() -> ExitCode {
    let (tool, arguments) = arguments::read(std::env::args().skip(1));
    let done = match tool.as_str() {
        "run" => rounds::run(&arguments),
        "memory" => memory::run(&arguments),
        "heap" => heap::run(&arguments),
        "crowd" => crowd::run(&arguments),
        "handshakes" => handshakes::run(&arguments),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control {tool}: {error}");
            ExitCode::FAILURE
        }
    }
}
