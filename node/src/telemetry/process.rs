//! The usual `process_*` figures, read from `/proc` at each scrape.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What `/proc/self` says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// User and system CPU time, seconds.
    pub cpu_seconds: f64,
    /// Start, seconds since 1970.
    pub start_seconds: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Virtual memory, bytes.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many may be open.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
}

impl Figures {
    /// Reads them; what cannot be read is 0.
    #[must_use]
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4_096);
        let boot: f64 = fs::read_to_string("/proc/stat")
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0.0);
        let mut figures = Self::parse(&stat, ticks, page, boot);
        figures.open_fds = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        figures.max_fds =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(0, |(soft, _hard)| soft);
        figures
    }

    /// Reads the text of `/proc/PID/stat` (proc(5)); the name in brackets may hold anything.
    #[expect(clippy::cast_precision_loss, reason = "clock ticks stay far below 2^52")]
    fn parse(stat: &str, ticks: i64, page: i64, boot: f64) -> Self {
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // Field 3 of the manual (state) is the first here.
        let number = |manual: usize| -> u64 { fields.get(manual - 3).and_then(|text| text.parse().ok()).unwrap_or(0) };
        let seconds = |count: u64| count as f64 / ticks.max(1) as f64;
        Self {
            cpu_seconds: seconds(number(14).saturating_add(number(15))),
            start_seconds: boot + seconds(number(22)),
            resident_bytes: number(24).saturating_mul(u64::try_from(page).unwrap_or(4_096)),
            virtual_bytes: number(23),
            open_fds: 0,
            max_fds: 0,
            threads: number(20),
        }
    }

    /// Writes them in Prometheus' own names.
    ///
    /// # Errors
    /// Only when the output cannot be written.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let cpu =
            encoder.encode_descriptor("process_cpu_seconds", "User and system CPU time", None, MetricType::Counter)?;
        ConstCounter::new(self.cpu_seconds).encode(cpu)?;
        let start = "Start of the process, seconds since 1970";
        let start = encoder.encode_descriptor("process_start_time_seconds", start, None, MetricType::Gauge)?;
        ConstGauge::new(self.start_seconds).encode(start)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", self.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory", self.virtual_bytes),
            ("process_open_fds", "Open file descriptors", self.open_fds),
            ("process_max_fds", "How many file descriptors may be open", self.max_fds),
            ("process_threads", "Threads", self.threads),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat =
            "42 (a) b) (c) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 7 0 1000 1048576 256 18446744073709551615";
        let figures = Figures::parse(stat, 100, 4_096, 1_000.0);
        assert_eq!(figures.cpu_seconds, 2.0);
        assert_eq!(figures.threads, 7);
        assert_eq!(figures.start_seconds, 1_010.0);
        assert_eq!((figures.virtual_bytes, figures.resident_bytes), (1_048_576, 256 * 4_096));
    }

    #[test]
    fn our_own_figures_are_plausible() {
        let figures = Figures::read();
        assert!(figures.resident_bytes > 100_000 && figures.open_fds > 2 && figures.threads > 0, "{figures:?}");
        assert_eq!(Figures::parse("", 100, 4_096, 0.0), Figures::default());
    }
}
