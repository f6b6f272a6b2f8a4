//! The loss trial: requests on 64 streams between two hosts whose link is slow and loses packets, over the multiplexed
//! lane (TLS on TCP) and over QUIC streams.
//!
//! ```sh
//! cargo run --release -p starling-benches --bin loss -- secs=60 seeds=3 delay=20 loss=10
//! ```
//!
//! Needs root and `/dev/net/tun`. Two threads take a network namespace of their own each, with one TUN device; `wire.rs`
//! carries IP packets between the two, late and not all of them. So TCP and QUIC meet the same link, each with its own
//! recovery. The namespaces end with the program. The figures are Markdown on standard output; progress is on standard error.
#![expect(clippy::print_stdout, reason = "figures go to standard output, where they become a page")]
#![expect(clippy::print_stderr, reason = "progress is told to the person who runs the trial")]

mod host;
mod lanes;
mod process;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use host::{Figures, Trial};
use lanes::Lane;
use wire::Link;

type Done<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Arguments {
    secs: u64,
    seeds: u64,
    delay_ms: u64,
    loss_permille: u64,
    rate: u64,
    /// All of them.
    lanes: Vec<Lane>,
}

fn arguments() -> Done<Arguments> {
    let usual = [("secs", 60), ("seeds", 3), ("delay", 20), ("loss", 10), ("rate", 480), ("lane", 0)];
    let mut given: BTreeMap<String, u64> = usual.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').ok_or("write secs=60 seeds=3 delay=20 loss=10 rate=480 lane=0")?;
        *given.get_mut(key).ok_or("only secs, seeds, delay, loss, rate and lane are known")? = value.parse()?;
    }
    let lanes = match given["lane"] {
        0 => Lane::ALL.to_vec(),
        number => vec![*Lane::ALL.get(usize::try_from(number)? - 1).ok_or("lane is 1 to 6, or 0 for all")?],
    };
    let arguments = Arguments {
        lanes,
        secs: given["secs"],
        seeds: given["seeds"],
        delay_ms: given["delay"],
        loss_permille: given["loss"],
        rate: given["rate"],
    };
    // Beyond it the emulator's own cost would show in the figures.
    if !(1..=500).contains(&arguments.rate) || arguments.secs == 0 || arguments.seeds == 0 {
        return Err("rate is 1 to 500 requests a second; secs and seeds are not 0".into());
    }
    Ok(arguments)
}

fn main() -> Done<()> {
    let arguments = arguments()?;
    let link =
        |seed| Link { delay: Duration::from_millis(arguments.delay_ms), loss_permille: arguments.loss_permille, seed };
    println!(
        "    cargo run --release -p starling-benches --bin loss -- secs={} seeds={} delay={} loss={} rate={}\n",
        arguments.secs, arguments.seeds, arguments.delay_ms, arguments.loss_permille, arguments.rate
    );
    println!(
        "{}. {} ms in each direction, {} % of packets lost in each, uniformly; {} requests/s on {} streams.\n",
        process::machine(),
        arguments.delay_ms,
        arguments.loss_permille as f64 / 10.0,
        arguments.rate,
        host::STREAMS,
    );
    println!(
        "| Lane | Seed | Requests | Failed | Not begun | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | over 1.5 round trips | \
         connections | CPU µs/request, both ends | packets | lost | wire: CPU | wire late, p99 / max ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for &lane in &arguments.lanes {
        let mut all = Figures::default();
        for seed in 1..=arguments.seeds {
            let trial =
                Trial { lane, link: link(seed), rate: arguments.rate, during: Duration::from_secs(arguments.secs) };
            eprintln!("{lane}, seed {seed}");
            let figures = host::run(trial)?;
            println!("{}", figures.row(&lane.to_string(), &seed.to_string(), trial));
            all.add(figures);
        }
        if arguments.seeds > 1 {
            let trial = Trial {
                lane,
                link: link(0),
                rate: arguments.rate,
                during: Duration::from_secs(arguments.secs * arguments.seeds),
            };
            println!("{}", all.row(&format!("**{lane}**"), "all", trial));
        }
    }
    Ok(())
}
