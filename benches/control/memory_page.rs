//! The tables of `benches/memory.sh`: medians of the rounds, with the smallest and the largest where rounds differ.
#![expect(clippy::print_stdout, reason = "the page goes to standard output")]

use crate::Done;
use crate::memory::{CONNECTIONS, Held, Joined, Round};
use crate::report::median;
use crate::resident::{Mapped, Resident, Use};

const KIB_PER_MIB: f64 = 1_024.0;

pub(crate) fn print(rounds: &[Round], busy: bool) -> Done<()> {
    if busy {
        println!("**A compiler ran beside some rounds, so the machine was not quiet.**\n");
    }
    idle(rounds);
    mappings(rounds);
    println!("\n## Idle connections\n");
    println!(
        "| Connections through A | agent | RssAnon before, MiB | with them | KiB for each | after they were closed, MiB |"
    );
    println!("|---:|---|---:|---:|---:|---:|");
    for (at, count) in CONNECTIONS.iter().enumerate() {
        connections(*count, &rounds.iter().filter_map(|round| round.held.get(at)).collect::<Vec<_>>());
    }
    println!("\n## Known services\n");
    println!(
        "| Joined | agent | RssAnon before, MiB | after | KiB for each service | KiB for each instance | after one scrape, MiB | peak of VmRSS | its table held 99 % after, s | endpoints in it when looked at |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    let crowds = rounds.iter().map(|round| round.joined.len()).min().unwrap_or(0);
    for at in 0..crowds {
        crowd(&rounds.iter().filter_map(|round| round.joined.get(at)).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn idle(rounds: &[Round]) {
    println!("## Idle agents\n");
    println!("| Mesh of | agent | VmRSS, MiB | RssAnon | RssFile | RssShmem | peak of VmRSS |");
    println!("|---:|---|---:|---:|---:|---:|---:|");
    let row = |mesh: u32, name: &str, seen: Vec<Resident>| {
        let of = |figure: fn(&Resident) -> u64| mib(seen.iter().map(figure));
        println!(
            "| {mesh} | {name} | {} | {} | {} | {} | {} |",
            of(|seen| seen.all),
            of(|seen| seen.anon),
            of(|seen| seen.file),
            of(|seen| seen.shmem),
            of(|seen| seen.peak)
        );
    };
    for (at, name) in ["A, one upstream", "B, two instances"].into_iter().enumerate() {
        row(2, name, rounds.iter().filter_map(|round| round.two.get(at).copied()).collect());
    }
    for (at, name) in ["A", "B", "C, neither"].into_iter().enumerate() {
        row(3, name, rounds.iter().filter_map(|round| round.three.get(at).copied()).collect());
    }
}

fn mappings(rounds: &[Round]) {
    println!("\nWhere it is in agent A of the mesh of 2:\n");
    println!("| Mappings | of them | resident, MiB | its own (not of a file), MiB |");
    println!("|---|---:|---:|---:|");
    for what in Use::ALL {
        let seen: Vec<Mapped> = rounds.iter().filter_map(|round| round.two_mapped.get(&what).copied()).collect();
        if seen.iter().any(|mapped| mapped.resident > 0) {
            println!(
                "| {} | {:.0} | {} | {} |",
                what.title(),
                median(seen.iter().map(|mapped| mapped.count as f64).collect()),
                mib(seen.iter().map(|mapped| mapped.resident)),
                mib(seen.iter().map(|mapped| mapped.anon))
            );
        }
    }
}

fn connections(count: u32, seen: &[&Held]) {
    for (at, name) in ["A", "B"].into_iter().enumerate() {
        let of = |figure: fn(&Held) -> &[Resident; 2]| seen.iter().filter_map(move |held| figure(held).get(at));
        let (before, open, closed) =
            (of(|held| &held.before), of(|held| &held.open), of(|held| &held.closed).map(|one| one.anon));
        let each = before.clone().zip(open.clone()).map(|(before, open)| gain(before, open) / f64::from(count));
        println!(
            "| {count} | {name} | {} | {} | {} | {} |",
            mib(before.map(|one| one.anon)),
            mib(open.map(|one| one.anon)),
            spread(each, 2),
            mib(closed)
        );
    }
}

fn crowd(seen: &[&Joined]) -> Done<()> {
    let Some(first) = seen.first() else { return Ok(()) };
    let shape = first.shape;
    let instances = f64::from(u32::try_from(shape.members * shape.instances)?);
    let services = f64::from(u32::try_from(shape.services)?);
    for (at, name) in ["A", "B"].into_iter().enumerate() {
        let of = |figure: fn(&Joined) -> &[Resident; 2]| seen.iter().filter_map(move |joined| figure(joined).get(at));
        let (before, after, scraped) =
            (of(|joined| &joined.before), of(|joined| &joined.after), of(|joined| &joined.scraped));
        let gains = before.clone().zip(after.clone()).map(|(before, after)| gain(before, after));
        let took = seen.iter().filter_map(|joined| Some(joined.took.get(at)?.as_secs_f64()));
        println!(
            "| {} members, {} services, {instances} instances | {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
            shape.members,
            shape.services,
            mib(before.map(|one| one.anon)),
            mib(after.map(|one| one.anon)),
            spread(gains.clone().map(|kib| kib / services), 2),
            spread(gains.map(|kib| kib / instances), 2),
            mib(scraped.clone().map(|one| one.anon)),
            mib(scraped.map(|one| one.peak)),
            spread(took, 1),
            spread(seen.iter().filter_map(|joined| joined.endpoints.get(at).copied()), 0),
        );
    }
    Ok(())
}

/// What was added to an agent's own memory, in KiB.
fn gain(before: &Resident, after: &Resident) -> f64 {
    after.anon as f64 - before.anon as f64
}

fn mib(kib: impl Iterator<Item = u64>) -> String {
    spread(kib.map(|kib| kib as f64 / KIB_PER_MIB), 1)
}

/// The median, and in brackets the smallest and the largest where they are told differently.
fn spread(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let text = |value: Option<&f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
    let (first, last) = (text(sorted.first()), text(sorted.last()));
    let middle = format!("{:.digits$}", median(sorted));
    if first == last { middle } else { format!("{middle} [{first}–{last}]") }
}
