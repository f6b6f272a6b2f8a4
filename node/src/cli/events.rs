//! `starling events`: what happened, and why. `starling events --node X` is the answer to "why is X failed?".

use clap::{Args, ValueEnum};

use crate::api::views::{Event, EventList};
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::look::Look;
use crate::cli::output;
use crate::cli::table::{Align, Cell, Table};
use crate::events::KINDS;

/// Events that one request brings.
const PAGE: usize = 1_000;
/// Columns of a followed table, whose rows are not known beforehand.
const WIDTHS: (usize, usize) = (10, 24);

/// Form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventFormat {
    /// For people
    Table,
    /// The agent's first page, byte for byte
    Json,
    /// Each event on a line of its own
    Jsonl,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct EventsArgs {
    /// Only later ones: 5m, or a time like 2026-11-22T15:31:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only of this kind
    #[arg(long, value_name = "KIND", value_parser = KINDS)]
    kind: Option<String>,
    /// Only about this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Goes on with what happens from then on
    #[arg(short, long)]
    follow: bool,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: EventFormat,
    /// Tables without their header line
    #[arg(long)]
    no_headers: bool,
}

impl EventsArgs {
    pub(crate) fn headers(&self) -> bool {
        !self.no_headers
    }

    fn path(&self, more: &str) -> String {
        let mut path = format!("/v1/events?{more}");
        for (name, value) in [("since", &self.since), ("kind", &self.kind), ("node", &self.node)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", escape(value)));
            }
        }
        path
    }
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `15:31:19.004` of `2026-11-22T15:31:19.004Z`.
fn time(event: &Event) -> &str {
    event.time.split_once('T').map_or(event.time.as_str(), |(_, time)| time.trim_end_matches('Z'))
}

fn table(events: &[Event], look: &Look) -> String {
    use Align::Left;
    let mut table = Table::new([("TIME", Left), ("KIND", Left), ("SUBJECT", Left), ("WHAT", Left)]);
    for event in events {
        table.row([Cell::new(time(event)), Cell::new(&event.kind), Cell::new(&event.subject), Cell::new(&event.what)]);
    }
    table.render(look)
}

/// One row of a table without end.
fn row(event: &Event) -> String {
    let (kind, subject) = WIDTHS;
    let what = crate::cli::table::clean(&event.what);
    let name = crate::cli::table::clean(&event.subject);
    format!("{}   {:<kind$}   {name:<subject$}   {what}\n", time(event), event.kind)
}

/// Shows events.
pub(crate) fn run(client: &Client, args: &EventsArgs, look: &Look) -> Result<Exit, CliError> {
    if args.follow {
        return follow(client, args, look);
    }
    let (mut cursor, mut events, mut dropped) = (None::<String>, Vec::new(), 0);
    loop {
        let path = match &cursor {
            Some(cursor) => args.path(&format!("limit={PAGE}&cursor={cursor}")),
            None => args.path(&format!("limit={PAGE}")),
        };
        let answer = client.ask(Ask::get(&path))?;
        if args.output == EventFormat::Json {
            return output::print_body(&answer.body);
        }
        let page: EventList = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
        dropped += page.body.dropped;
        events.extend(page.body.items);
        cursor = page.body.next;
        if cursor.is_none() {
            break;
        }
    }
    tell_dropped(dropped);
    match args.output {
        EventFormat::Table | EventFormat::Json => output::print(&table(&events, look)),
        EventFormat::Jsonl => {
            events.iter().try_fold(Exit::Done, |_, event| output::print_line(&output::to_json(event)?))
        }
    }
}

fn not_understood(error: &serde_json::Error) -> CliError {
    CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(error.to_string())
}

fn tell_dropped(dropped: u64) {
    if dropped > 0 {
        output::message(&format!("({dropped} older events are no longer remembered)\n"));
    }
}

fn follow(client: &Client, args: &EventsArgs, look: &Look) -> Result<Exit, CliError> {
    #[derive(serde::Deserialize)]
    struct Dropped {
        dropped: u64,
    }
    if args.output == EventFormat::Table && look.headers {
        let (kind, subject) = WIDTHS;
        output::print(&format!("{:<12}   {:<kind$}   {:<subject$}   WHAT\n", "TIME", "KIND", "SUBJECT"))?;
    }
    client.follow(&args.path("follow=true"), |line| {
        if let Ok(Dropped { dropped }) = serde_json::from_slice(line) {
            tell_dropped(dropped);
            return Ok(());
        }
        match args.output {
            EventFormat::Json | EventFormat::Jsonl => output::print_line(line)?,
            EventFormat::Table => {
                let event: Event = serde_json::from_slice(line).map_err(|error| not_understood(&error))?;
                output::print(&row(&event))?
            }
        };
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: &str) -> Event {
        Event {
            id: "7-1".to_owned(),
            time: "2026-11-22T15:31:19.004Z".to_owned(),
            kind: "membership".to_owned(),
            node: "vm-3".to_owned(),
            subject: "vm-3".to_owned(),
            step: "failed".to_owned(),
            what: what.to_owned(),
            evidence: serde_json::Value::Null,
        }
    }

    #[test]
    fn the_table_reads_as_documented() {
        let text = table(&[event("suspect → failed after 4 s")], &Look::plain());
        assert_eq!(
            text,
            "TIME           KIND         SUBJECT   WHAT\n\
             15:31:19.004   membership   vm-3      suspect → failed after 4 s\n"
        );
    }

    #[test]
    fn a_row_of_a_stream_lets_no_control_character_pass() {
        let text = row(&event("a\x1b[2J\nb"));
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn filters_are_escaped() {
        assert_eq!(escape("2026-11-22T15:31:00Z"), "2026-11-22T15:31:00Z");
        assert_eq!(escape("a&b=c d"), "a%26b%3Dc%20d");
    }
}
