//! What the kernel says about a thread and the machine.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

/// User and system time of the calling thread so far.
pub(crate) fn thread_cpu() -> Duration {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(Duration::ZERO, |usage| {
        let micros =
            |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0);
        Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
    })
}

/// Cores, processor, kernel and load, for the head of a report.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    format!(
        "{cores} cores ({}), Linux {}, load {} at the start",
        model.map_or("unknown", |(_, name)| name),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?"),
    )
}
