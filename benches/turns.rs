//! Runs one case of the bench `gossip` a number of times, for a tool that counts instructions:
//!
//! ```sh
//! cargo build --release -p starling-benches --bin gossip-turns
//! valgrind --tool=callgrind --collect-atstart=no --toggle-collect='gossip_turns::measured' \
//!     target/release/gossip-turns "a full datagram of known lives" 10000
//! ```
#![expect(clippy::print_stderr, reason = "a tool for the command line")]

use std::hint::black_box;
use std::process::ExitCode;

use fixtures::hub::{Hub, Traffic, life};
use fixtures::machines::MESH;
use starling_gossip::golden;

/// What is counted: one turn.
#[inline(never)]
fn measured(turn: &mut dyn FnMut()) {
    turn();
}

fn main() -> ExitCode {
    let (case, times) = (std::env::args().nth(1).unwrap_or_default(), std::env::args().nth(2));
    let times: u32 = times.and_then(|times| times.parse().ok()).unwrap_or(1);
    let lives: Vec<_> = (0..10).map(life).collect();
    let datagram = golden::full_datagram(&MESH, &lives);
    let mut turn: Box<dyn FnMut()> = match case.as_str() {
        "encode full" => Box::new(|| {
            let _ = black_box(golden::full_datagram(&MESH, &lives));
        }),
        "decode full" => Box::new(|| {
            let _ = black_box(golden::read_datagram(&MESH, &datagram));
        }),
        other => {
            let Some(traffic) = Traffic::ALL.into_iter().find(|traffic| traffic.as_str() == other) else {
                eprintln!("cases: encode full; decode full; {}", Traffic::ALL.map(Traffic::as_str).join("; "));
                return ExitCode::FAILURE;
            };
            let mut hub = Hub::new(traffic);
            Box::new(move || {
                let _ = black_box(hub.turn());
            })
        }
    };
    (0..times).for_each(|_| measured(&mut *turn));
    ExitCode::SUCCESS
}
