//! Latencies as figures of one line.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency that is kept apart; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// Latencies in nanoseconds with three digits, and the failures beside them.
#[derive(Debug)]
pub(crate) struct Figures {
    latencies: Histogram<u64>,
    pub(crate) errors: u64,
}

impl Figures {
    pub(crate) fn new() -> Result<Self, String> {
        let high = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
        let latencies = Histogram::new_with_bounds(1, high, 3).map_err(|error| error.to_string())?;
        Ok(Self { latencies, errors: 0 })
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<(), String> {
        self.errors += other.errors;
        self.latencies.add(&other.latencies).map_err(|error| error.to_string())
    }

    /// `n=… rate=… p50=… …`, times in microseconds.
    pub(crate) fn line(&self, elapsed: Duration) -> String {
        let us = |quantile: f64| to_us(self.latencies.value_at_quantile(quantile));
        let count = u32::try_from(self.latencies.len()).map_or(f64::from(u32::MAX), f64::from);
        format!(
            "n={} rate={:.0} p50={:.1} p90={:.1} p99={:.1} p999={:.1} max={:.1} errors={}",
            self.latencies.len(),
            count / elapsed.as_secs_f64().max(1e-9),
            us(0.5),
            us(0.9),
            us(0.99),
            us(0.999),
            to_us(self.latencies.max()),
            self.errors
        )
    }
}

fn to_us(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
}

/// Adds up what the threads of one tool measured; a thread that died counts as an error.
pub(crate) fn join(threads: Vec<std::thread::JoinHandle<Result<Figures, String>>>) -> Result<Figures, String> {
    let mut sum = Figures::new()?;
    for thread in threads {
        match thread.join() {
            Ok(figures) => sum.add(&figures?)?,
            Err(_) => sum.errors += 1,
        }
    }
    Ok(sum)
}
