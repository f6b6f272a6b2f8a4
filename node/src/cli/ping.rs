//! `starling ping NODE`: a line for each round trip, then the sum.

use std::time::Duration;

use clap::Args;
use starling_gossip::limits::DATAGRAM_BYTES_MAX;

use crate::api::views::{Envelope, Ping};
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::look::{Look, Mark};
use crate::cli::{figures, output};

/// A dial and an answer take 5 s at most, in the agent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args, Clone, Debug)]
pub(crate) struct PingArgs {
    /// Which member
    #[arg(value_name = "NODE")]
    node: String,
    /// How many pings
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Pause between two
    #[arg(short, long, value_name = "PAUSE", default_value = "1s", value_parser = pause)]
    interval: Duration,
    /// Bytes of the datagram
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = size)]
    size: u32,
}

fn pause(text: &str) -> Result<Duration, String> {
    starling_config::duration::parse(text).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<u32, String> {
    let within = |size: &u32| usize::try_from(*size).is_ok_and(|size| size <= DATAGRAM_BYTES_MAX);
    text.parse().ok().filter(within).ok_or_else(|| format!("a datagram has at most {DATAGRAM_BYTES_MAX} bytes"))
}

/// Round trips so far.
#[derive(Debug, Default)]
struct Sum {
    sent: u32,
    times: Vec<f64>,
}

impl Sum {
    fn line(&self) -> String {
        let head = format!("{} sent, {} received", self.sent, self.times.len());
        if self.times.is_empty() {
            return format!("{head}\n");
        }
        let min = self.times.iter().copied().fold(f64::INFINITY, f64::min);
        let max = self.times.iter().copied().fold(0.0, f64::max);
        #[expect(clippy::cast_precision_loss, reason = "at most a million pings")]
        let avg = self.times.iter().sum::<f64>() / self.times.len() as f64;
        format!("{head}, min/avg/max {min:.2}/{avg:.2}/{max:.2} ms\n")
    }
}

fn line(answer: &Envelope<Ping>, look: &Look) -> String {
    let ping = &answer.body;
    let reply = ping.replies.first();
    let Some(ms) = reply.and_then(|reply| reply.ms) else {
        let why = reply.and_then(|reply| reply.reason.as_deref()).unwrap_or("no answer");
        return format!("no pong from {}: {why}\n", ping.name);
    };
    let address = ping.address.as_deref().unwrap_or("-");
    let way = if ping.is_self { "itself" } else { "QUIC" };
    let mut text = format!("pong from {} ({address}) via {way} in {ms:.2} ms", ping.name);
    let left = ping.not_after.as_ref().and_then(|end| figures::seconds_between(&answer.view.as_of, end));
    if let Some(left) = left {
        text.push_str(&format!("   cert {}", figures::age(left)));
    }
    if let Some(config) = &ping.config {
        let head: String = config.digest.chars().take(4).collect();
        let mark = if config.digest == answer.view.digest { Mark::Good } else { Mark::Warn };
        text.push_str(&format!("   config {head} {}", look.mark(mark)));
    }
    if let Some(mtu) = ping.path_mtu {
        text.push_str(&format!("   path MTU {mtu}"));
    }
    text.push('\n');
    text
}

/// Pings until the count is reached; 1 when nothing came back.
pub(crate) fn run(client: &Client, args: &PingArgs, look: &Look) -> Result<Exit, CliError> {
    let path = format!("/v1/members/{}/ping?count=1&size={}", args.node, args.size);
    let mut sum = Sum::default();
    for at in 0..args.count {
        if at > 0 {
            std::thread::sleep(args.interval);
        }
        let answer = client.ask(Ask { timeout: ANSWER_TIMEOUT, ..Ask::get(&path) })?;
        let answer: Envelope<Ping> = serde_json::from_slice(&answer.body).map_err(|error| {
            CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(error.to_string())
        })?;
        sum.sent += 1;
        sum.times.extend(answer.body.replies.iter().filter_map(|reply| reply.ms));
        output::print(&line(&answer, look))?;
    }
    output::print(&sum.line())?;
    Ok(if sum.times.is_empty() { Exit::Bad } else { Exit::Done })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(body: &serde_json::Value) -> Envelope<Ping> {
        let mut whole = json!({"apiVersion": "starling/v1", "kind": "Ping",
            "view": {"node": "vm-1", "bootEpoch": "1", "revision": 1, "asOf": "2026-11-22T00:00:00Z", "digest": "9f2c41d0",
                     "agreement": {"alive": 2, "same": 2, "behind": [], "behindCount": 0}}});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn the_lines_read_as_documented() {
        let body = json!({"name": "vm-2", "address": "10.0.0.12:7740", "self": false, "sent": 1, "received": 1,
            "rtt": {"minMs": 0.41, "avgMs": 0.41, "maxMs": 0.41}, "pathMtu": 1200, "notAfter": "2027-11-18T00:00:00Z",
            "config": {"documents": 4, "digest": "9f2c41d0"}, "replies": [{"number": 1, "ms": 0.41, "reason": null}]});
        let want = "pong from vm-2 (10.0.0.12:7740) via QUIC in 0.41 ms   cert 361d   config 9f2c √   path MTU 1200\n";
        assert_eq!(line(&answer(&body), &Look::plain()), want);
        let sum = Sum { sent: 1, times: vec![0.41] };
        assert_eq!(sum.line(), "1 sent, 1 received, min/avg/max 0.41/0.41/0.41 ms\n");
        assert_eq!(Sum { sent: 2, times: Vec::new() }.line(), "2 sent, 0 received\n");
    }

    #[test]
    fn silence_names_its_reason() {
        let body = json!({"name": "vm-2", "address": null, "self": false, "sent": 1, "received": 0, "rtt": null,
            "pathMtu": null, "notAfter": null, "config": null,
            "replies": [{"number": 1, "ms": null, "reason": "no answer in 5 s"}]});
        assert_eq!(line(&answer(&body), &Look::plain()), "no pong from vm-2: no answer in 5 s\n");
    }

    #[test]
    fn a_ping_fits_a_datagram() {
        assert_eq!(size("1162"), Ok(1162));
        assert!(size("1163").is_err() && size("-1").is_err());
    }
}
