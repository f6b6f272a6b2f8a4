//! The demo's load: an open loop of requests through the first agent's HTTP entrance, and what came of them.
//!
//! Open loop: request n is due at `start + n / rate`, whatever became of those before it, and its latency counts from
//! that moment, so a stall shows in the figures instead of hiding behind a client that waits (coordinated omission).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::cli::{CliError, Exit};
use crate::demo::mesh::STEP_TIMEOUT;

/// The header by which an instance of the demo says who it is.
pub(super) const INSTANCE_HEADER: &str = "x-demo-instance";

/// Name of the called service.
const HOST: &str = "orders.mesh.internal";

/// How long one request may take; a person would have given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests at once: with 40 a second and 5 s for each, none is ever held back by this.
const IN_FLIGHT_MAX: usize = 256;
const _: () = assert!(IN_FLIGHT_MAX >= 40 * 5);

/// Window of the live figures.
const WINDOW: Duration = Duration::from_secs(30);

/// Requests that the window holds at most.
const WINDOW_LEN_MAX: usize = 4_096;

/// Names of instances that are counted apart; the demo has fewer than twenty.
const INSTANCES_MAX: usize = 64;

/// Pause between two tries of the first request.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

type Sender = SendRequest<Empty<Bytes>>;

/// One request that has ended.
#[derive(Clone, Debug)]
struct Outcome {
    at: Instant,
    latency: Duration,
    /// Who answered; `None` for every failure.
    instance: Option<Rc<str>>,
}

/// All requests of a run.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    /// How many have ended.
    pub(super) requests: u64,
    succeeded: u64,
    latency_us: Histogram<u64>,
    by_instance: BTreeMap<Rc<str>, u64>,
}

impl Default for Figures {
    fn default() -> Self {
        Self { requests: 0, succeeded: 0, latency_us: histogram(), by_instance: BTreeMap::new() }
    }
}

/// Microseconds up to a minute, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("invariant: 1 < 60,000,000 and three digits are allowed")
}

impl Figures {
    fn add(&mut self, outcome: &Outcome) {
        self.requests += 1;
        self.latency_us.saturating_record(u64::try_from(outcome.latency.as_micros()).unwrap_or(u64::MAX).max(1));
        if let Some(instance) = &outcome.instance {
            self.succeeded += 1;
            if self.by_instance.contains_key(instance) || self.by_instance.len() < INSTANCES_MAX {
                *self.by_instance.entry(instance.clone()).or_default() += 1;
            }
        }
    }

    /// Share of requests that succeeded.
    pub(super) fn success_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| ratio(self.succeeded, self.requests))
    }

    /// A quantile of the latency in milliseconds.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        (self.requests > 0).then(|| ratio(self.latency_us.value_at_quantile(quantile), 1_000))
    }

    /// Who answered how often, with the share of all answers.
    pub(super) fn shares(&self) -> Vec<(String, u64, f64)> {
        let share = |count: u64| ratio(count, self.succeeded.max(1));
        self.by_instance.iter().map(|(name, count)| (name.to_string(), *count, share(*count))).collect()
    }

    /// The same for the report.
    pub(super) fn by_instance(&self) -> BTreeMap<String, Answers> {
        let entry = |(name, requests, share): (String, u64, f64)| {
            (name, Answers { requests, share: (share * 1_000.0).round() / 1_000.0 })
        };
        self.shares().into_iter().map(entry).collect()
    }
}

/// What one instance answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Answers {
    requests: u64,
    share: f64,
}

fn ratio(part: u64, whole: u64) -> f64 {
    // Counts of a demo stay far below 2^53.
    part as f64 / whole as f64
}

/// The last [`WINDOW`] as figures.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    pub(super) figures: Figures,
    pub(super) per_second: f64,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    all: Figures,
    window: VecDeque<Outcome>,
    idle: Vec<Sender>,
    in_flight: usize,
}

/// A load that runs until it is finished or dropped.
#[derive(Debug)]
pub(super) struct Load {
    shared: Rc<RefCell<Shared>>,
    task: AbortHandle,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Load {
    /// Waits for a first answer, then begins. Needs a `LocalSet`.
    pub(super) async fn begin(entrance: SocketAddr, rate: u32) -> Result<Self, CliError> {
        let deadline = tokio::time::Instant::now() + STEP_TIMEOUT;
        let mut idle = Vec::new();
        loop {
            match request(entrance, idle.pop()).await {
                Ok((sender, _)) => {
                    idle.push(sender);
                    break;
                }
                Err(cause) if tokio::time::Instant::now() > deadline => {
                    let what = format!("no request to orders succeeds through {entrance}");
                    return Err(CliError::plain(Exit::TimedOut, what).cause(cause));
                }
                Err(_) => tokio::time::sleep(FIRST_PAUSE).await,
            }
        }
        let started = Instant::now();
        let shared = Shared { started, all: Figures::default(), window: VecDeque::new(), idle, in_flight: 0 };
        let shared = Rc::new(RefCell::new(shared));
        let task = tokio::task::spawn_local(run(entrance, rate, shared.clone())).abort_handle();
        Ok(Self { shared, task })
    }

    /// The last half minute.
    pub(super) fn recent(&self) -> Recent {
        let mut shared = self.shared.borrow_mut();
        let now = Instant::now();
        while shared.window.front().is_some_and(|oldest| now.duration_since(oldest.at) > WINDOW) {
            shared.window.pop_front();
        }
        let mut figures = Figures::default();
        for outcome in &shared.window {
            figures.add(outcome);
        }
        let span = now.duration_since(shared.started).min(WINDOW).as_secs_f64().max(0.001);
        Recent { per_second: figures.requests as f64 / span, figures }
    }

    /// Stops, and gives the figures of the whole run. Requests on their way are not counted.
    pub(super) fn finish(self) -> Figures {
        self.task.abort();
        self.shared.borrow().all.clone()
    }
}

/// Sends when it is time, forever. Dropped at any await it loses nothing but requests not yet due.
async fn run(entrance: SocketAddr, rate: u32, shared: Rc<RefCell<Shared>>) {
    let mut due = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    // After a stall everything that was due goes out: the loop is open.
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    loop {
        let at = due.tick().await.into_std();
        let idle = {
            let mut shared = shared.borrow_mut();
            if shared.in_flight >= IN_FLIGHT_MAX {
                record(&mut shared, Outcome { at, latency: REQUEST_TIMEOUT, instance: None });
                continue;
            }
            shared.in_flight += 1;
            shared.idle.pop()
        };
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, request(entrance, idle)).await;
            let latency = at.elapsed();
            let mut shared = shared.borrow_mut();
            shared.in_flight -= 1;
            let instance = match answer {
                Ok(Ok((sender, instance))) => {
                    shared.idle.push(sender);
                    Some(instance)
                }
                Ok(Err(_)) | Err(_) => None,
            };
            record(&mut shared, Outcome { at, latency, instance });
        });
    }
}

fn record(shared: &mut Shared, outcome: Outcome) {
    shared.all.add(&outcome);
    if shared.window.len() >= WINDOW_LEN_MAX {
        shared.window.pop_front();
    }
    shared.window.push_back(outcome);
}

/// One request over an idle or a new connection; gives the connection back with the name of who answered.
async fn request(entrance: SocketAddr, idle: Option<Sender>) -> Result<(Sender, Rc<str>), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let usable = match idle {
        Some(mut sender) => sender.ready().await.ok().map(|()| sender),
        None => None,
    };
    let mut sender = match usable {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(entrance).await.map_err(|error| text(&error))?;
            stream.set_nodelay(true).map_err(|error| text(&error))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
            // Ends when the sender is dropped or the other side closes.
            tokio::task::spawn_local(connection);
            sender
        }
    };
    let request = Request::get("/").header(header::HOST, HOST).body(Empty::new()).map_err(|error| text(&error))?;
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let status = response.status();
    let instance = response.headers().get(INSTANCE_HEADER).and_then(|value| value.to_str().ok()).map(Rc::from);
    response.into_body().collect().await.map_err(|error| text(&error))?;
    match instance {
        Some(instance) if status.is_success() => Ok((sender, instance)),
        Some(_) | None => Err(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ms: u64, instance: Option<&str>) -> Outcome {
        Outcome { at: Instant::now(), latency: Duration::from_millis(ms), instance: instance.map(Rc::from) }
    }

    #[test]
    fn figures_count_shares_of_answers_and_rates_of_requests() {
        let mut figures = Figures::default();
        assert_eq!((figures.success_rate(), figures.quantile(0.5)), (None, None));
        for _ in 0..3 {
            figures.add(&outcome(2, Some("a")));
        }
        figures.add(&outcome(2, Some("b")));
        figures.add(&outcome(5_000, None));
        assert_eq!(figures.success_rate(), Some(0.8));
        assert!((figures.quantile(0.5).unwrap() - 2.0).abs() < 0.01);
        assert!(figures.quantile(0.99).unwrap() > 4_900.0);
        let answers = figures.by_instance();
        assert_eq!(answers["a"], Answers { requests: 3, share: 0.75 });
        assert_eq!(answers["b"], Answers { requests: 1, share: 0.25 });
    }

    #[test]
    fn names_are_bounded() {
        let mut figures = Figures::default();
        for number in 0..=INSTANCES_MAX {
            figures.add(&outcome(1, Some(&number.to_string())));
        }
        assert_eq!(figures.shares().len(), INSTANCES_MAX);
    }
}
