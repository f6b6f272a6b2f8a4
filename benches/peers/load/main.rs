//! The load tools of the side-by-side bench, and the relay pair that is its floor.
//!
//! `peers-load TOOL key=value …` prints one line of `key=value` figures; times are microseconds. Nothing here knows the
//! mesh: the same tools are pointed at every peer, so a difference between two lines is a difference between peers.
#![expect(clippy::print_stdout, reason = "figures go to standard output, where the bench script reads them")]
#![expect(clippy::print_stderr, reason = "a failure is told to the person who runs the bench")]

mod arguments;
mod bulk;
mod connect;
mod figures;
mod http;
mod idle;
mod latency;
mod ping;
mod relay;
mod server;
mod sockets;

use std::process::ExitCode;

/// What every tool returns; an error ends the program with its text.
type Done = Result<(), Box<dyn std::error::Error>>;

const USAGE: &str = "\
peers-load latency target=ADDR [rate=2000 conns=16 secs=5 path=/]   open loop: requests start by the clock, not by answers
peers-load ping    target=ADDR [conns=1 size=64 secs=3]             closed loop over long connections
peers-load connect target=ADDR [conns=1 secs=2 max=200000 http=0 strict=0]  one exchange on each new connection
peers-load idle    target=ADDR [conns=1000 hold=2]                  opens connections, one request on each, and holds them
peers-load bulk    target=ADDR [secs=4]                             sends as fast as it goes to a sink
peers-load relay   listen=ADDR peer=ADDR                            plain bytes from here to there: the floor
peers-load echo    listen=ADDR                                      sends back what comes
peers-load sink    listen=ADDR                                      counts what comes and answers with the count";

fn main() -> ExitCode {
    let (tool, arguments) = arguments::read(std::env::args().skip(1));
    let done = match tool.as_str() {
        "latency" => latency::run(&arguments),
        "ping" => ping::run(&arguments),
        "connect" => connect::run(&arguments),
        "idle" => idle::run(&arguments),
        "bulk" => bulk::run(&arguments),
        "relay" => relay::run(&arguments),
        "echo" => server::run(&arguments, server::Kind::Echo),
        "sink" => server::run(&arguments, server::Kind::Sink),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers-load {tool}: {error}");
            ExitCode::FAILURE
        }
    }
}
