//! A histogram of atomics: observing takes no lock, unlike the library's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds in microseconds; the last bucket has none.
const BOUNDS: [u64; 15] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// The same for what is short where all is well: how late a loop is.
const SHORT_BOUNDS: [u64; BOUNDS.len()] =
    [50, 100, 200, 300, 500, 750, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000];

#[derive(Debug)]
struct Inner {
    bounds: &'static [u64; BOUNDS.len()],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Inner {
    fn new(bounds: &'static [u64; BOUNDS.len()]) -> Self {
        Self { bounds, buckets: Default::default(), micros: AtomicU64::default() }
    }
}

/// Latencies in the buckets that all latency metrics share. Clones observe into the same histogram.
#[derive(Clone, Debug)]
pub struct Latency(Arc<Inner>);

impl Default for Latency {
    fn default() -> Self {
        Self(Arc::new(Inner::new(&BOUNDS)))
    }
}

impl Latency {
    /// In finer buckets, from 50 us to a second.
    #[must_use]
    pub fn short() -> Self {
        Self(Arc::new(Inner::new(&SHORT_BOUNDS)))
    }

    /// Counts one latency.
    pub fn observe(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let at = self.0.bounds.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.0.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.0.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = self.0.bounds.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.micros.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn short_latencies_tell_what_is_within_a_millisecond() {
        let lag = Latency::short();
        [40, 1_000, 1_001].into_iter().for_each(|micros| lag.observe(Duration::from_micros(micros)));
        let mut registry = Registry::default();
        registry.register("x_seconds", "x", lag);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("x_seconds_bucket{le=\"0.00005\"} 1\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"0.001\"} 2\n"), "{text}");
        assert!(text.contains("x_seconds_count 3\n"), "{text}");
    }

    #[test]
    fn the_last_bucket_is_infinite_and_holds_everything() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(2));
        latency.observe(Duration::from_secs(60));
        let mut registry = Registry::default();
        registry.register("x_seconds", "x", latency);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("x_seconds_bucket{le=\"0.0025\"} 1\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"+Inf\"} 2\n"), "{text}");
        assert!(text.contains("x_seconds_count 2\n"), "{text}");
    }
}
