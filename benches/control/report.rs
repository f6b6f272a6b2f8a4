//! The page that the rounds make.
#![expect(clippy::print_stdout, reason = "the page goes to standard output")]

use std::collections::BTreeMap;

use crate::Done;
use crate::figures::{Lag, Window};
use crate::rounds::{APPLIES_PER_S, Bench, HANDSHAKES_PER_S, REQUESTS_PER_S, Row, SCRAPES_PER_S, Seen};

/// What was asked for: CPU time per request beside the baseline, and the share of samples of lag within a millisecond.
const RATIO_MAX: f64 = 1.10;
const WITHIN_1MS_MIN: f64 = 0.99;

pub(crate) fn print(bench: &Bench, seen: &BTreeMap<Row, Vec<Seen>>) -> Done<()> {
    let baseline = |round: usize| -> Option<f64> {
        let of = |row: Row| Some(seen.get(&row)?.get(round)?.window.cpu_us);
        Some(f64::midpoint(of(Row::QuietBefore)?, of(Row::QuietAfter)?))
    };
    println!(
        "| While | CPU µs per request, data threads | ÷ quiet | data loop lag ≤ 1 ms, all samples (worst round) | lag p50, p99 ≤ | request p50, µs | request p99, µs | errors | other threads, % of a core | what happened |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|");
    let mut verdicts = Vec::new();
    for row in Row::ALL {
        let Some(rounds) = seen.get(&row) else { continue };
        let of = |value: fn(&Window) -> f64| rounds.iter().map(|seen| value(&seen.window)).collect::<Vec<_>>();
        let ratios: Vec<f64> =
            (0..).zip(rounds).filter_map(|(round, seen)| Some(seen.window.cpu_us / baseline(round)?)).collect();
        let mut lag = Lag::default();
        rounds.iter().for_each(|seen| lag.add(&seen.window.lag));
        let worst = rounds.iter().map(|seen| seen.window.lag.within_1ms()).fold(1.0, f64::min);
        let errors: f64 = rounds.iter().map(|seen| seen.window.errors).sum();
        println!(
            "| {} | {} | {} | {:.2} % of {} ({:.2} %) | {}, {} | {} | {} | {errors} | {} | {} |",
            title(row, bench.members),
            spread(of(|window| window.cpu_us), 1),
            spread(ratios.clone(), 2),
            lag.within_1ms() * 100.0,
            lag.samples(),
            worst * 100.0,
            ms(lag.quantile(0.5)),
            ms(lag.quantile(0.99)),
            spread(of(|window| window.p50_us), 0),
            spread(of(|window| window.p99_us), 0),
            spread(of(|window| window.others_percent), 0),
            happened(row, rounds, bench),
        );
        if !matches!(row, Row::QuietBefore | Row::QuietKnown | Row::QuietAfter) {
            verdicts.push(verdict(&title(row, bench.members), median(ratios), &lag));
        }
    }
    let busy: usize = seen.values().flatten().filter(|seen| seen.busy).count();
    if busy > 0 {
        println!("\n**{busy} windows had a compiler beside them, so the machine was not quiet.**");
    }
    println!("\n## Against what is asked for\n");
    println!(
        "Lag: {:.0} % of the samples within 1 ms. CPU: the median of the rounds within {:.0} % of quiet.\n",
        WITHIN_1MS_MIN * 100.0,
        (RATIO_MAX - 1.0) * 100.0
    );
    verdicts.iter().for_each(|line| println!("{line}"));
    if let Some(cost) = handshake_cost(seen, baseline) {
        println!(
            "\nWhat is left of a handshake for the data threads of the accepting side: {cost:.0} µs (the row's \
             CPU time above quiet, by the handshakes). {:.0} % more per request at {REQUESTS_PER_S} requests/s are {:.0} handshakes/s.",
            (RATIO_MAX - 1.0) * 100.0,
            median((0..bench.rounds).filter_map(baseline).collect()) * f64::from(REQUESTS_PER_S) * (RATIO_MAX - 1.0)
                / cost
        );
    }
    Ok(())
}

fn title(row: Row, members: u32) -> String {
    match row {
        Row::QuietBefore => "quiet, two members".to_owned(),
        Row::QuietKnown => "quiet, just after the join".to_owned(),
        Row::QuietAfter => "quiet, at the end".to_owned(),
        Row::Join => format!("join of {members}"),
        Row::Rebuilds => format!("table rebuilds, {APPLIES_PER_S}/s"),
        Row::Scrapes => format!("metrics scrapes, {SCRAPES_PER_S}/s of each agent"),
        Row::Handshakes => format!("TLS handshakes, {HANDSHAKES_PER_S}/s"),
    }
}

fn happened(row: Row, rounds: &[Seen], bench: &Bench) -> String {
    let done: u32 = rounds.iter().map(|seen| seen.done).sum();
    let failed: u32 = rounds.iter().map(|seen| seen.failed).sum();
    let rebuilds: f64 = rounds.iter().map(|seen| seen.window.rebuilds).sum();
    let shaken: f64 = rounds.iter().map(|seen| seen.window.handshakes).sum();
    let there = spread(rounds.iter().map(|seen| seen.there).collect(), 0);
    match row {
        Row::QuietBefore => format!("{rebuilds} rebuilds"),
        Row::QuietKnown | Row::QuietAfter => {
            format!("{there} members alive or doubted at its end, {rebuilds} rebuilds")
        }
        Row::Join => {
            let times = rounds.iter().filter_map(|seen| Some(seen.joined?.as_secs_f64())).collect();
            let both = rounds.iter().map(|seen| seen.window.requests / f64::from(REQUESTS_PER_S)).collect();
            format!(
                "{done} of {} times both agents knew all {}: A within {} s, B too within {} s, which is the window; {rebuilds} rebuilds",
                done + failed,
                bench.members,
                spread(times, 1),
                spread(both, 1)
            )
        }
        Row::Rebuilds => format!("{done} documents applied, {failed} refused; {rebuilds} rebuilds at both"),
        Row::Scrapes => format!("{done} scrapes of each agent, {failed} failed"),
        Row::Handshakes => format!("{done} done, {failed} failed; the agents counted {shaken}"),
    }
}

/// The bound of a bucket, in milliseconds.
fn ms(micros: u64) -> String {
    if micros == u64::MAX { "more".to_owned() } else { format!("{} ms", micros as f64 / 1_000.0) }
}

fn verdict(title: &str, ratio: f64, lag: &Lag) -> String {
    let word = |holds: bool| if holds { "holds" } else { "**missed**" };
    format!(
        "* {title}: lag {} ({:.2} %), CPU {} ({:+.0} %)",
        word(lag.within_1ms() >= WITHIN_1MS_MIN),
        lag.within_1ms() * 100.0,
        word(ratio <= RATIO_MAX),
        (ratio - 1.0) * 100.0
    )
}

/// CPU time of data threads that one handshake took, at the median, in microseconds.
fn handshake_cost(seen: &BTreeMap<Row, Vec<Seen>>, baseline: impl Fn(usize) -> Option<f64>) -> Option<f64> {
    let each = (0..).zip(seen.get(&Row::Handshakes)?).filter_map(|(round, seen)| {
        let window = &seen.window;
        Some((window.cpu_us - baseline(round)?) * window.requests / window.handshakes.max(1.0))
    });
    Some(median(each.collect()))
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.get(values.len().saturating_sub(1) / 2), values.get(values.len() / 2)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

/// Smallest, median and largest.
fn spread(values: Vec<f64>, digits: usize) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.is_empty() {
        "-".to_owned()
    } else {
        format!("{low:.digits$}–{:.digits$}–{high:.digits$}", median(values))
    }
}
