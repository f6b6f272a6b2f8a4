//! What is counted: one operation, done in batches of a fixed number.

use std::hint::black_box;
use std::io;

use fixtures::hub::{Hub, Traffic};
use fixtures::planes::{Planes, Requests, RoundTrips};

use crate::Done;

/// Batches before those that are counted: a young connection's timers cost some per mille more.
pub(crate) const WARM_UPS: usize = 3;

/// Batches that are counted.
pub(crate) const BATCHES: usize = 5;

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    /// As it stands in `benches/instructions.txt`.
    pub(crate) name: &'static str,
    /// Operations in a batch: enough that what happens once in a while (timers, looks at the clock, tables that grow)
    /// is below 0.1 % of it.
    pub(crate) times: u32,
}

/// All of them.
///
/// - `l7_request`: a GET of 4 headers on a warm connection, answered with 128 bytes: both agents, a route with two
///   backends, default policy and metrics, client and server.
/// - `l4_round_trip`: 64 bytes there and back on a warm connection: both agents, client and server.
/// - `gossip_ping`: a datagram with a ping, answered, by a machine that knows 1,000 members.
/// - `gossip_lives`: a full datagram of lives that this machine holds already: most of what a busy mesh brings.
pub(crate) const OPERATIONS: [Operation; 4] = [
    Operation { name: "l7_request", times: 1_000 },
    Operation { name: "l4_round_trip", times: 2_000 },
    Operation { name: "gossip_ping", times: 20_000 },
    Operation { name: "gossip_lives", times: 10_000 },
];

/// Callgrind writes down what it counted, and begins anew, whenever this is called.
#[inline(never)]
fn instructions_batch_ends(batch: usize) {
    black_box(batch);
}

/// A client whose first exchange was good. Under callgrind on a busy machine the first dial between the agents may take
/// longer than they wait for it.
fn connected<C>(connect: impl Fn() -> io::Result<C>, exchange: fn(&mut C) -> io::Result<()>) -> io::Result<C> {
    const TRIES: usize = 10;
    let once = || connect().and_then(|mut client| exchange(&mut client).map(|()| client));
    (1..TRIES).find_map(|_| once().ok()).map_or_else(once, Ok)
}

/// Does what is counted.
pub(crate) fn run(name: &str) -> Done<()> {
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).ok_or("no such operation")?;
    let mut once: Box<dyn FnMut() -> io::Result<()>> = match operation.name {
        "l7_request" => {
            let planes = Planes::start()?;
            let mut client = connected(|| planes.requests(), Requests::exchange)?;
            Box::new(move || {
                let _running = &planes;
                client.exchange()
            })
        }
        "l4_round_trip" => {
            let planes = Planes::start()?;
            let mut client = connected(|| planes.round_trips(), RoundTrips::exchange)?;
            Box::new(move || {
                let _running = &planes;
                client.exchange()
            })
        }
        gossip => {
            let mut hub = Hub::new(if gossip == "gossip_ping" { Traffic::Ping } else { Traffic::KnownLives });
            Box::new(move || {
                black_box(hub.turn());
                Ok(())
            })
        }
    };
    for batch in 0..WARM_UPS + BATCHES {
        for _ in 0..operation.times {
            once()?;
        }
        instructions_batch_ends(batch);
    }
    Ok(())
}
