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

/// Cores, processor, kernel, load and our priority, for the head of a report.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    // proc(5): field 41 is the policy, 1 and 2 are the real-time ones; field 3 is the first behind the name.
    let stat = read("/proc/self/stat");
    let policy = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(38));
    let is_real_time = matches!(policy, Some("1" | "2"));
    format!(
        "{cores} cores ({}), Linux {}, load {} at the start, {} priority",
        model.map_or("unknown", |(_, name)| name),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?"),
        if is_real_time { "real-time" } else { "usual" },
    )
}
