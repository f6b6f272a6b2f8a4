//! What an agent's counters say, and what a window between two readings of them was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Done;
use crate::agents::Pair;

const LAG: &str = "starling_loop_lag_seconds_bucket{le=\"";

/// Samples of lag by the upper bound of their bucket in microseconds, each without the ones below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag(BTreeMap<u64, u64>);

impl Lag {
    /// From the text of `/metrics`, whose buckets hold those below them.
    pub(crate) fn read(text: &str) -> Self {
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(LAG)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { u64::MAX } else { micros(bound.parse().ok()?) };
            Some((bound, count.trim().parse().ok()?))
        };
        let mut below = 0;
        let apart = |(bound, count): (u64, u64)| {
            let own = count.saturating_sub(below);
            below = count;
            (bound, own)
        };
        Self(text.lines().filter_map(bucket).collect::<BTreeMap<_, _>>().into_iter().map(apart).collect())
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        let own =
            |(bound, count): (&u64, &u64)| (*bound, count.saturating_sub(before.0.get(bound).copied().unwrap_or(0)));
        Self(self.0.iter().map(own).collect())
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (bound, count) in &other.0 {
            *self.0.entry(*bound).or_default() += count;
        }
    }

    pub(crate) fn samples(&self) -> u64 {
        self.0.values().sum()
    }

    /// Share of samples of at most a millisecond.
    pub(crate) fn within_1ms(&self) -> f64 {
        let within: u64 = self.0.range(..=1_000).map(|(_, count)| count).sum();
        within as f64 / self.samples().max(1) as f64
    }

    /// The bound of the bucket that holds this quantile, in microseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        let (mut seen, all) = (0, self.samples() as f64);
        for (bound, count) in &self.0 {
            seen += count;
            if seen as f64 >= quantile * all {
                return *bound;
            }
        }
        u64::MAX
    }
}

fn micros(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds.max(0.0)).as_micros()).unwrap_or(u64::MAX)
}

/// The sum of a metric's series whose labels hold `with`.
pub(crate) fn sum(text: &str, metric: &str, with: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let same = labels.is_empty() || labels.starts_with('{');
        (same && labels.contains(with)).then(|| value.parse::<f64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

/// Both agents at one moment.
pub(crate) struct Reading {
    data: Duration,
    all: Duration,
    lag: Lag,
    rebuilds: f64,
    handshakes: f64,
    /// Of the CPU times.
    at: Instant,
}

impl Reading {
    /// Metrics are read outside of the CPU time on both sides of a window: at its start `cpu` is read last, at its end first.
    pub(crate) fn start(pair: &Pair) -> Done<Self> {
        let texts = [pair.a.metrics()?, pair.b.metrics()?];
        Ok(Self::new(&texts, [pair.a.cpu()?, pair.b.cpu()?], Instant::now()))
    }

    fn end(pair: &Pair) -> Done<Self> {
        let cpu = [pair.a.cpu()?, pair.b.cpu()?];
        let at = Instant::now();
        Ok(Self::new(&[pair.a.metrics()?, pair.b.metrics()?], cpu, at))
    }

    fn new(texts: &[String; 2], cpu: [(Duration, Duration); 2], at: Instant) -> Self {
        let all = |metric: &str, with: &str| texts.iter().map(|text| sum(text, metric, with)).sum();
        let mut lag = Lag::default();
        texts.iter().for_each(|text| lag.add(&Lag::read(text)));
        Self {
            data: cpu.iter().map(|(data, _)| *data).sum(),
            all: cpu.iter().map(|(_, all)| *all).sum(),
            lag,
            rebuilds: all("starling_config_rebuilds_total", ""),
            handshakes: all("starling_tls_handshakes_total", "direction=\"inbound\",result=\"success\""),
            at,
        }
    }

    /// The window from here until now.
    pub(crate) fn until_now(&self, pair: &Pair) -> Done<Counted> {
        let now = Self::end(pair)?;
        let data = now.data.saturating_sub(self.data);
        Ok(Counted {
            data,
            others: now.all.saturating_sub(self.all).saturating_sub(data),
            period: now.at.saturating_duration_since(self.at),
            lag: now.lag.since(&self.lag),
            rebuilds: now.rebuilds - self.rebuilds,
            handshakes: now.handshakes - self.handshakes,
        })
    }
}

/// What the agents counted between two readings.
pub(crate) struct Counted {
    data: Duration,
    others: Duration,
    pub(crate) period: Duration,
    lag: Lag,
    rebuilds: f64,
    handshakes: f64,
}

impl Counted {
    /// With what the load tool said in `line`; `requests` are those of the window.
    pub(crate) fn window(self, line: &str, requests: f64) -> Done<Window> {
        Ok(Window {
            cpu_us: self.data.as_secs_f64() * 1e6 / requests.max(1.0),
            others_percent: self.others.as_secs_f64() * 100.0 / self.period.as_secs_f64(),
            p50_us: value(line, "p50")?,
            p99_us: value(line, "p99")?,
            errors: value(line, "errors")?,
            requests,
            lag: self.lag,
            rebuilds: self.rebuilds,
            handshakes: self.handshakes,
        })
    }
}

/// A figure of the load tool.
pub(crate) fn value(line: &str, key: &str) -> Done<f64> {
    let word = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    Ok(word.ok_or_else(|| format!("no {key} in: {line}"))?.trim().parse()?)
}

/// What one row of one round saw.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// CPU time of the data threads of both agents per request.
    pub(crate) cpu_us: f64,
    /// CPU time of all other threads of both agents, in per cent of one core.
    pub(crate) others_percent: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) errors: f64,
    pub(crate) requests: f64,
    pub(crate) lag: Lag,
    pub(crate) rebuilds: f64,
    pub(crate) handshakes: f64,
}

#[cfg(test)]
mod tests {
    use super::{Lag, sum};

    const TEXT: &str = "# TYPE starling_loop_lag_seconds histogram\n\
        starling_loop_lag_seconds_bucket{le=\"0.00005\"} 10\n\
        starling_loop_lag_seconds_bucket{le=\"0.001\"} 98\n\
        starling_loop_lag_seconds_bucket{le=\"0.002\"} 99\n\
        starling_loop_lag_seconds_bucket{le=\"+Inf\"} 100\n\
        x_total{kind=\"a\"} 3\nx_total{kind=\"b\"} 4\nx_total_more 9\nx_total 1\n";

    #[test]
    fn a_share_of_lag_is_that_of_its_buckets() {
        let lag = Lag::read(TEXT);
        assert_eq!(lag.samples(), 100);
        assert!((lag.within_1ms() - 0.98).abs() < 1e-9);
        assert_eq!([0.1, 0.5, 0.98, 0.99, 1.0].map(|at| lag.quantile(at)), [50, 1_000, 1_000, 2_000, u64::MAX]);
    }

    #[test]
    fn a_window_holds_what_came_after_its_start() {
        let lag = Lag::read(TEXT);
        assert_eq!(lag.since(&lag).samples(), 0);
        let mut twice = lag.clone();
        twice.add(&lag);
        assert_eq!(twice.since(&lag), lag);
    }

    #[test]
    fn series_are_summed_by_name_and_label() {
        assert_eq!(sum(TEXT, "x_total", ""), 8.0);
        assert_eq!(sum(TEXT, "x_total", "kind=\"b\""), 4.0);
        assert_eq!(sum(TEXT, "x_tot", ""), 0.0);
    }
}
