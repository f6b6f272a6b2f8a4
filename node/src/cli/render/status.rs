//! `starling status`: this node in ten lines.

use crate::api::views::{Envelope, Flow, Status};
use crate::cli::figures;
use crate::cli::look::{Look, Mark, Tone};
use crate::cli::render::short;
use crate::cli::table::clean;

/// Between two facts of one line.
const GAP: &str = "   ";

/// The whole answer.
pub(crate) fn render(answer: &Envelope<Status>, look: &Look) -> String {
    let (status, view) = (&answer.body, &answer.view);
    let mut text = format!(
        "{}{GAP}{}{GAP}starling {}{GAP}up {}\n",
        status.name,
        status.spiffe_id,
        status.version,
        figures::span(status.uptime_seconds)
    );
    let mut line = |label: &str, facts: Vec<String>| {
        text.push_str(&format!("{label:<11}{}\n", clean(&facts.join(GAP))));
    };
    if status.state != "ready" {
        let why = if status.waiting_for.is_empty() {
            String::new()
        } else {
            format!(", waits for {}", status.waiting_for.join(", "))
        };
        line("State", vec![format!("{}{why}", status.state)]);
    }
    let alive = view.agreement.alive;
    line("Members", members(status));
    line(
        "Config",
        vec![
            plural(status.config.documents, "document"),
            format!("digest {}", status.config.digest),
            format!("in use on {}/{alive} members", view.agreement.same),
        ],
    );
    line("Services", services(status));
    line("Traffic", traffic(status));
    line("Identity", identity(status, &view.as_of, alive));
    if !status.store.durable {
        let reason = status.store.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        line("Store", vec![format!("in memory only{reason} (ST0716)")]);
    }
    if status.isolated {
        line("Isolated", vec!["this node seems cut off; it holds back verdicts about others".to_owned()]);
    }
    text.push_str(&problems(status, look));
    text
}

fn members(status: &Status) -> Vec<String> {
    let counts = &status.members;
    let mut facts = vec![
        format!("{} alive", counts.alive),
        format!("{} suspect", counts.suspect),
        format!("{} failed", counts.failed),
        format!("{} left", counts.left),
    ];
    if counts.joining > 0 {
        facts.push(format!("{} joining", counts.joining));
    }
    facts
}

fn services(status: &Status) -> Vec<String> {
    let services = &status.services;
    let local: Vec<String> = services.local.iter().map(|key| short(key)).collect();
    let names = if local.is_empty() { String::new() } else { format!(": {}", local.join(", ")) };
    vec![
        format!("{} ({} local{names})", services.total, local.len()),
        format!("endpoints {}/{} healthy", services.endpoints_healthy, services.endpoints),
    ]
}

fn traffic(status: &Status) -> Vec<String> {
    let traffic = &status.traffic;
    if traffic.inbound.requests == 0 && traffic.outbound.requests == 0 {
        return vec![format!("none in the last {}", traffic.window)];
    }
    let flow = |label: &str, flow: &Flow| match flow.success_rate {
        Some(rate) => format!("{label} {:.1} rps {}", flow.rps, figures::rate(rate)),
        None => format!("{label} -"),
    };
    let mut facts = vec![flow("in", &traffic.inbound), flow("out", &traffic.outbound)];
    facts.extend(traffic.p99_ms.map(|ms| format!("p99 {}", figures::milliseconds(ms))));
    facts.extend(traffic.mtls_share.map(|share| format!("mTLS {}", figures::weight(share))));
    facts
}

fn identity(status: &Status, now: &str, alive: u64) -> Vec<String> {
    let identity = &status.identity;
    let left = figures::seconds_between(now, &identity.certificate_not_after);
    let since = figures::seconds_between(&identity.leaf_since, now);
    let known = |seconds: Option<u64>| seconds.map_or_else(|| "-".to_owned(), figures::age);
    vec![
        format!("certificate {} left", known(left)),
        format!("leaf re-keyed {} ago", known(since)),
        format!("bundle {} on {}/{alive} members", identity.bundle_sequence, identity.bundle_same),
    ]
}

fn problems(status: &Status, look: &Look) -> String {
    if status.problems.is_empty() {
        return String::new();
    }
    let mut text = "Problems\n".to_owned();
    for problem in &status.problems {
        let mark = if problem.level == "error" { Mark::Bad } else { Mark::Warn };
        text.push_str(&format!("  {} {}", look.painted_mark(mark), clean(&problem.detail)));
        if !problem.code.is_empty() {
            text.push_str(&format!("{GAP}{}", look.paint(&clean(&problem.code), Tone::Dim)));
        }
        text.push('\n');
        if !problem.help.is_empty() {
            text.push_str(&format!("      {}\n", look.paint(&clean(&problem.help), Tone::Dim)));
        }
    }
    text
}

fn plural(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
