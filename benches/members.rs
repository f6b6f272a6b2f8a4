//! What one more member costs a machine in memory, by counting what the heap holds.
//!
//! ```sh
//! cargo bench -p starling-benches --bench members
//! ```
//!
//! Members announce no service and have one address; names of 6 bytes, credentials of 20. What the member itself says
//! (its signed life and its credential) is counted apart: that has to be held by whoever passes it on.
#![expect(clippy::print_stdout, reason = "figures go to standard output")]

use std::time::Duration;

use fixtures::machines::{Machines, name};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Sizes between which the slope is taken: beyond the first no table is small.
const SIZES: [usize; 2] = [1_000, 2_000];

fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

fn main() {
    let (mut machines, hub) = (Machines::new(), name("hub"));
    machines.add(&hub, None);
    // Somebody listens, or all news would wait for ever.
    let ear = name("ear");
    machines.add(&ear, None);
    machines.link(&hub, &ear);
    let mut weights = Vec::new();
    for at in 0..SIZES[1] {
        let own = name(&format!("m-{at:04}"));
        machines.add(&own, None);
        machines.link(&hub, &own);
        // The newcomer compares; short enough that nobody is missed before the end.
        machines.advance(Duration::from_millis(2), Duration::from_millis(1));
        machines.remove(&own);
        if SIZES.contains(&(at + 1)) {
            machines.advance(Duration::from_secs(3), Duration::from_millis(20));
            let listener = machines.swims.remove(&ear);
            let swim = machines.swims.get(&hub);
            let (known, waiting) = swim.map_or((0, 0), |swim| (swim.members().count(), swim.stats().queue_broadcasts));
            drop(listener);
            println!("members known: {known} of {}, news that wait: {waiting}, heap: {} B", at + 2, in_use());
            weights.push((known, in_use()));
            machines.add(&ear, None);
            machines.link(&hub, &ear);
        }
    }
    if let [(few, light), (many, heavy)] = weights[..] {
        println!("heap per member, all tables and statements: {} B", (heavy - light) / (many - few).max(1));
    }
}
