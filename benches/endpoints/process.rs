//! What the kernel says about this process.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

/// CPU time so far, and memory now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// User and system time of all threads.
    pub(crate) cpu: Duration,
    /// Resident bytes.
    pub(crate) rss: u64,
}

impl Figures {
    /// Reads both; zeros where the kernel does not say.
    pub(crate) fn read() -> Self {
        let cpu = getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
            let micros =
                |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0);
            Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
        });
        let pages = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
        Self { cpu, rss: pages.unwrap_or(0) * 4_096 }
    }
}

/// Cores, processor and kernel, for the head of a report.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!(
        "{cores} cores ({}), Linux {}, load {load} at the start",
        model.map_or("unknown", |(_, name)| name),
        kernel.trim()
    )
}
