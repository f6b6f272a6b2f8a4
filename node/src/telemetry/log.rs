//! Log lines on stderr: `2026-11-22T15:31:59.120Z INFO gossip: member alive node=vm-3 rtt=0.4ms`.
//!
//! The word before the colon is the room: `gossip`, `transport`, `proxy`, and for the agent's own tasks the task. Under
//! systemd the journal has time and unit already, so lines carry neither colour nor time; otherwise, away from a
//! terminal, each line is one JSON object. The filter can be changed while the agent runs.

use std::fmt;
use std::io::IsTerminal as _;
use std::time::SystemTime;

use starling_config::LogFormat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::time::rfc3339_millis;

/// Changes the filter of the running agent.
#[derive(Clone)]
pub struct FilterHandle {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

impl fmt::Debug for FilterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FilterHandle")
    }
}

impl FilterHandle {
    /// Uses another filter from now on.
    ///
    /// # Errors
    /// A sentence when the filter cannot be read.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = parse(filter)?;
        match &self.handle {
            Some(handle) => handle.reload(filter).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("log.filter = {filter:?}: {error}"))
}

/// Starts logging. Where somebody already logs in this process (tests), that stays as it is.
///
/// # Errors
/// A sentence when the filter cannot be read.
pub fn start(filter: &str, format: LogFormat) -> Result<FilterHandle, String> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let terminal = std::io::stderr().is_terminal();
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none();
    let style = match format {
        LogFormat::Auto if terminal => Style::Text,
        LogFormat::Auto if journal => Style::Journal,
        LogFormat::Auto | LogFormat::Json => Style::Json,
        LogFormat::Text => Style::Text,
        LogFormat::Journald => Style::Journal,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    let started = match style {
        Style::Json => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
        Style::Text => registry.with(layer.event_format(Line { time: true })).try_init(),
        Style::Journal => registry.with(layer.event_format(Line { time: false })).try_init(),
    };
    Ok(FilterHandle { handle: started.is_ok().then_some(handle) })
}

enum Style {
    Text,
    Journal,
    Json,
}

/// One line of text.
struct Line {
    time: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.time {
            write!(out, "{} ", rfc3339_millis(SystemTime::now()))?;
        }
        let level = *event.metadata().level();
        let colour = match level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            Level::DEBUG => "34",
            Level::TRACE => "35",
        };
        if out.has_ansi_escapes() {
            write!(out, "\x1b[{colour}m{level}\x1b[0m ")?;
        } else {
            write!(out, "{level} ")?;
        }
        write!(out, "{}: ", room(event.metadata().target()))?;
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// The room of a module path: the crate of our libraries, the task or file of the agent's own, else the outside crate.
fn room(target: &str) -> &str {
    let (head, rest) = target.split_once("::").unwrap_or((target, ""));
    match head.strip_prefix("starling") {
        Some("") if !rest.is_empty() => {
            let rest = rest.strip_prefix("tasks::").unwrap_or(rest);
            rest.split("::").next().unwrap_or(rest)
        }
        Some("") | None => head,
        Some(library) => library.strip_prefix('_').unwrap_or(library),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_its_room() {
        for (target, want) in [
            ("starling::tasks::gossip", "gossip"),
            ("starling::tasks::gossip::events", "gossip"),
            ("starling::store::sled", "store"),
            ("starling::run", "run"),
            ("starling", "starling"),
            ("starling_proxy::http::outbound", "proxy"),
            ("starling_transport", "transport"),
            ("quinn::connection", "quinn"),
        ] {
            assert_eq!(room(target), want);
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_told() {
        assert!(parse("info,starling_gossip=debug").is_ok());
        assert!(parse("starling=loud").unwrap_err().contains("log.filter"));
    }
}
