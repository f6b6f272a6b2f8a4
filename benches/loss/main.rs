//! The loss trial: requests on 64 streams between two hosts whose link is slow and loses packets, over the multiplexed
//! lane (TLS on TCP) and over QUIC streams.
//!
//! ```sh
//! cargo run --release -p starling-benches --bin loss -- secs=60 seeds=3 delay=20 loss=10
//! ```
//!
//! On a machine that does other things, run the program under `chrt -f 10`: else the wire delivers late, and says so.
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
use lanes::{Lane, MESSAGE_BYTES_MAX, Sizes};
use wire::Link;

type Done<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "write secs=60 seeds=3 delay=20 loss=10 rate=480 request=1024 answer=4096 lane=0, or some of these";

struct Arguments {
    secs: u64,
    seeds: u64,
    delay_ms: u64,
    loss_permille: u64,
    rate: u64,
    sizes: Sizes,
    /// All of them.
    lanes: Vec<Lane>,
}

fn arguments() -> Done<Arguments> {
    let usual = [
        ("secs", 60),
        ("seeds", 3),
        ("delay", 20),
        ("loss", 10),
        ("rate", 480),
        ("request", 1_024),
        ("answer", 4_096),
        ("lane", 0),
    ];
    let mut given: BTreeMap<String, u64> = usual.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').ok_or(USAGE)?;
        *given.get_mut(key).ok_or(USAGE)? = value.parse()?;
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
        sizes: Sizes { request: usize::try_from(given["request"])?, answer: usize::try_from(given["answer"])? },
    };
    // Beyond it the emulator's own cost would show in the figures.
    if !(1..=500).contains(&arguments.rate) || arguments.secs == 0 || arguments.seeds == 0 {
        return Err("rate is 1 to 500 requests a second; secs and seeds are not 0".into());
    }
    for bytes in [arguments.sizes.request, arguments.sizes.answer] {
        if !(1..=MESSAGE_BYTES_MAX).contains(&bytes) {
            return Err("a request and an answer have 1 to 65536 bytes".into());
        }
    }
    Ok(arguments)
}

fn main() -> Done<()> {
    let arguments = arguments()?;
    let link =
        |seed| Link { delay: Duration::from_millis(arguments.delay_ms), loss_permille: arguments.loss_permille, seed };
    println!(
        "    cargo run --release -p starling-benches --bin loss -- secs={} seeds={} delay={} loss={} rate={} \
         request={} answer={}\n",
        arguments.secs,
        arguments.seeds,
        arguments.delay_ms,
        arguments.loss_permille,
        arguments.rate,
        arguments.sizes.request,
        arguments.sizes.answer,
    );
    println!(
        "{}. {} ms in each direction, {} % of packets lost in each, uniformly; {} requests/s on {} streams, \
         {} bytes each, answered by {}.\n",
        process::machine(),
        arguments.delay_ms,
        arguments.loss_permille as f64 / 10.0,
        arguments.rate,
        host::STREAMS,
        arguments.sizes.request,
        arguments.sizes.answer,
    );
    println!(
        "| Lane | Seed | Requests | Failed | Not begun | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | over 1.5 round trips | \
         connections | CPU µs/request, both ends | packets | lost | wire: CPU | wire late, p99 / max ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for &lane in &arguments.lanes {
        let during = Duration::from_secs(arguments.secs);
        let trial = Trial { lane, sizes: arguments.sizes, link: link(0), rate: arguments.rate, during };
        let mut all = Figures::default();
        for seed in 1..=arguments.seeds {
            let trial = Trial { link: link(seed), ..trial };
            eprintln!("{lane}, seed {seed}");
            let figures = host::run(trial)?;
            println!("{}", figures.row(&lane.to_string(), &seed.to_string(), trial));
            all.add(figures);
        }
        if arguments.seeds > 1 {
            // The warm-ups, too, are as many as the seeds.
            let during = (trial.during + host::WARM_UP) * u32::try_from(arguments.seeds)? - host::WARM_UP;
            let trial = Trial { during, ..trial };
            println!("{}", all.row(&format!("**{lane}**"), "all", trial));
        }
    }
    Ok(())
}
