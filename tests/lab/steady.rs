//! Requests at a fixed rate, whatever becomes of them (open loop): what could not be sent in time follows at once, and its
//! latency counts from the moment when it should have started.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::Client;

/// Requests that may be under way at once.
const CLIENTS: usize = 32;

/// What such a run saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests that were answered or failed.
    pub(crate) requests: u64,
    /// Moment since the start of those without a 200, and what came: status and `Proxy-Status`, or how the connection broke.
    pub(crate) failures: Vec<(Duration, String)>,
    /// Microseconds from when each should have started, in order.
    latencies_us: Vec<u32>,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
}

impl Seen {
    fn latency_ms(&self, of_thousand: usize) -> f64 {
        let at = (self.latencies_us.len() * of_thousand / 1_000).min(self.latencies_us.len().saturating_sub(1));
        self.latencies_us.get(at).map_or(0.0, |us| f64::from(*us) / 1_000.0)
    }

    /// `100000 requests in 50.0 s (2000/s), 0 failed; from their due time 0.8 ms at the median, 4 ms at p99`.
    pub(crate) fn line(&self) -> String {
        let seconds = self.took.as_secs_f64();
        format!(
            "{} requests in {seconds:.1} s ({:.0}/s), {} failed; from their due time {:.2} ms at the median, {:.1} ms at p99, {:.0} ms at most",
            self.requests,
            self.requests as f64 / seconds,
            self.failures.len(),
            self.latency_ms(500),
            self.latency_ms(990),
            self.latency_ms(1_000),
        )
    }
}

/// Sends `GET /` to one host until it is told to end, or has sent as many as it may.
pub(crate) struct Steady {
    clients: Vec<thread::JoinHandle<Seen>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Steady {
    /// `per_second` requests to `host` by way of `address`, at most `most` in all.
    pub(crate) fn start(address: SocketAddr, host: &str, per_second: u32, most: u64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let started = Instant::now();
        let client = |_| {
            let (stop, sent, host) = (Arc::clone(&stop), Arc::clone(&sent), host.to_owned());
            thread::spawn(move || {
                let mut seen = Seen::default();
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    if number >= most {
                        break;
                    }
                    let due = started + Duration::from_nanos(number * 1_000_000_000 / u64::from(per_second));
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if client.is_none() {
                        client = Client::connect(address).ok();
                    }
                    let failure = match client.as_mut().map(|client| client.get(&host, "/")) {
                        Some(Ok(answer)) if answer.status == 200 => None,
                        Some(Ok(answer)) => {
                            Some(format!("{} {}", answer.status, answer.header("proxy-status").unwrap_or_default()))
                        }
                        Some(Err(error)) => Some(format!("broken: {error}")),
                        None => Some("no connection".to_owned()),
                    };
                    if failure.as_ref().is_some_and(|failure| failure.starts_with("broken")) {
                        client = None;
                    }
                    seen.requests += 1;
                    seen.latencies_us.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
                    seen.failures.extend(failure.map(|failure| (started.elapsed(), failure)));
                }
                seen.took = started.elapsed();
                seen
            })
        };
        Self { clients: (0..CLIENTS).map(client).collect(), stop, sent }
    }

    /// Requests that were begun.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(crate) fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().expect("a client's thread");
            all.requests += seen.requests;
            all.failures.extend(seen.failures);
            all.latencies_us.extend(seen.latencies_us);
            all.took = all.took.max(seen.took);
        }
        all.latencies_us.sort_unstable();
        all.failures.sort_unstable();
        all
    }
}
