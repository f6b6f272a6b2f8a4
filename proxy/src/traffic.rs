//! Traffic of the last minute per service, for people: rate, success, percentiles.
//!
//! A window is a ring of ten-second slots of atomic counters, logarithmic in time: four buckets per doubling from 1 µs,
//! so a percentile is off by at most an eighth. Writers never wait; a reader that meets a slot being reused may miss the
//! requests of that instant, which a figure with two digits does not show.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use starling_model::ServiceKey;

use crate::limits::TRAFFIC_SERVICES_MAX;
use crate::metrics::Direction;

const SLOT: Duration = Duration::from_secs(10);
/// Six full slots are the window, the seventh is being filled.
const SLOTS: usize = 7;
/// 1 µs doubled 25 times is 33 s; longer ones count there.
const BUCKETS: usize = 100;

#[derive(Debug)]
struct Slot {
    /// Number of the ten seconds this slot counts, plus one.
    epoch: AtomicU64,
    requests: AtomicU32,
    failures: AtomicU32,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            epoch: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
        }
    }
}

/// One service's last minute in one direction.
#[derive(Debug)]
pub struct Window {
    base: Instant,
    slots: [Slot; SLOTS],
}

/// What tables and JSON show.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Requests of the window.
    pub requests: u64,
    /// Per second.
    pub rps: f64,
    /// Share that neither failed here nor got a 5xx; `None` without requests.
    pub success_rate: Option<f64>,
    /// Half were faster.
    pub p50: Option<Duration>,
    /// 95 of 100 were faster.
    pub p95: Option<Duration>,
    /// 99 of 100 were faster.
    pub p99: Option<Duration>,
}

impl Window {
    fn new(base: Instant) -> Self {
        Self { base, slots: std::array::from_fn(|_| Slot::default()) }
    }

    fn epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.base).as_secs() / SLOT.as_secs() + 1
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below 7")]
    fn slot(&self, epoch: u64) -> Option<&Slot> {
        self.slots.get((epoch % SLOTS as u64) as usize)
    }

    /// Counts one finished request.
    pub fn record(&self, latency: Duration, failed: bool, now: Instant) {
        let epoch = self.epoch(now);
        let Some(slot) = self.slot(epoch) else { return };
        let held = slot.epoch.load(Ordering::Acquire);
        if held != epoch && slot.epoch.compare_exchange(held, epoch, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            slot.requests.store(0, Ordering::Relaxed);
            slot.failures.store(0, Ordering::Relaxed);
            for bucket in &slot.buckets {
                bucket.store(0, Ordering::Relaxed);
            }
        }
        slot.requests.fetch_add(1, Ordering::Relaxed);
        if failed {
            slot.failures.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(bucket) = slot.buckets.get(bucket_of(latency)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sums up the last minute.
    #[must_use]
    pub fn read(&self, now: Instant) -> Traffic {
        let epoch = self.epoch(now);
        let first = epoch.saturating_sub(SLOTS as u64 - 1).max(1);
        let mut buckets = [0u64; BUCKETS];
        let (mut requests, mut failures) = (0u64, 0u64);
        for wanted in first..=epoch {
            let Some(slot) = self.slot(wanted).filter(|slot| slot.epoch.load(Ordering::Acquire) == wanted) else {
                continue;
            };
            requests += u64::from(slot.requests.load(Ordering::Relaxed));
            failures += u64::from(slot.failures.load(Ordering::Relaxed));
            for (sum, bucket) in buckets.iter_mut().zip(&slot.buckets) {
                *sum += u64::from(bucket.load(Ordering::Relaxed));
            }
        }
        let elapsed = now.saturating_duration_since(self.base).as_secs_f64();
        let window = elapsed - (first - 1) as f64 * SLOT.as_secs_f64();
        Traffic {
            requests,
            rps: if requests == 0 { 0.0 } else { requests as f64 / window.max(1.0) },
            success_rate: (requests > 0).then(|| 1.0 - failures as f64 / requests as f64),
            p50: percentile(&buckets, 50),
            p95: percentile(&buckets, 95),
            p99: percentile(&buckets, 99),
        }
    }
}

/// Four buckets per doubling: the exponent, then the two bits after the leading one.
fn bucket_of(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
    let exponent = micros.ilog2();
    let fraction = if exponent >= 2 { (micros >> (exponent - 2)) & 3 } else { (micros << (2 - exponent)) & 3 };
    (exponent as usize * 4 + usize::try_from(fraction).unwrap_or(0)).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn latency_of(bucket: usize) -> Duration {
    let exponent = i32::try_from(bucket / 4).unwrap_or(0);
    let low = 2f64.powi(exponent) * (1.0 + (bucket % 4) as f64 / 4.0);
    let width = 2f64.powi(exponent) / 4.0;
    Duration::from_secs_f64((low + width / 2.0) / 1e6)
}

fn percentile(buckets: &[u64; BUCKETS], percent: u64) -> Option<Duration> {
    let total: u64 = buckets.iter().sum();
    let rank = (total * percent).div_ceil(100);
    let mut seen = 0;
    let found = buckets.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    found.filter(|_| total > 0).map(latency_of)
}

/// The windows of all services that had traffic here.
#[derive(Debug)]
pub struct TrafficBook {
    base: Instant,
    windows: RwLock<HashMap<(Direction, ServiceKey), Arc<Window>>>,
}

impl Default for TrafficBook {
    fn default() -> Self {
        Self { base: Instant::now(), windows: RwLock::default() }
    }
}

impl TrafficBook {
    /// The window to write to; a data thread asks once per service and keeps it. `None` when there are too many.
    #[must_use]
    pub fn window(&self, direction: Direction, service: &ServiceKey) -> Option<Arc<Window>> {
        let mut windows = self.windows.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (direction, service.clone());
        if let Some(window) = windows.get(&key) {
            return Some(window.clone());
        }
        if windows.len() >= TRAFFIC_SERVICES_MAX {
            return None;
        }
        let window = Arc::new(Window::new(self.base));
        windows.insert(key, window.clone());
        Some(window)
    }

    /// One service's last minute.
    #[must_use]
    pub fn read(&self, direction: Direction, service: &ServiceKey, now: Instant) -> Traffic {
        let windows = self.windows.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        windows.get(&(direction, service.clone())).map(|window| window.read(now)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_minute_is_summed_and_then_forgotten() {
        let base = Instant::now();
        let window = Window::new(base);
        for second in 0..60u32 {
            let now = base + Duration::from_secs(u64::from(second));
            window.record(2 * MS, second % 10 == 0, now);
            window.record(if second == 30 { 100 * MS } else { 2 * MS }, false, now);
        }
        let seen = window.read(base + Duration::from_secs(60));
        assert_eq!(seen.requests, 120);
        assert!((1.9..=2.1).contains(&seen.rps), "{seen:?}");
        assert!((seen.success_rate.unwrap() - 0.95).abs() < 1e-9, "{seen:?}");
        assert!(seen.p50.unwrap().abs_diff(2 * MS) < MS / 4, "{seen:?}");
        assert_eq!(window.read(base + Duration::from_secs(200)), Traffic::default());
    }

    #[test]
    fn a_percentile_is_within_an_eighth() {
        for micros in [1u64, 2, 3, 5, 17, 999, 1_500, 40_000, 3_000_000] {
            let latency = Duration::from_micros(micros);
            let shown = latency_of(bucket_of(latency)).as_secs_f64();
            let off = (shown / latency.as_secs_f64() - 1.0).abs();
            assert!(off < 0.13, "{micros} µs is shown as {shown} s");
        }
        assert_eq!(bucket_of(Duration::from_secs(86_400)), BUCKETS - 1);
        assert_eq!(bucket_of(Duration::ZERO), 0);
    }

    #[test]
    fn nothing_reads_as_nothing() {
        let book = TrafficBook::default();
        let orders = ServiceKey::parse("orders", &starling_model::Namespace::default()).unwrap();
        assert_eq!(book.read(Direction::Outbound, &orders, Instant::now()), Traffic::default());
    }
}
