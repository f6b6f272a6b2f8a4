//! What the demo shows: ticks, what one may try, a live line; and the keys that it takes.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;
use std::time::Duration;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use crate::cli::{Look, Mark, count, data, for_locale, message, milliseconds, rate, share};
use crate::demo::control::Verb;
use crate::demo::load::{Figures, Recent};
use crate::demo::mesh::{Left, Mesh};

/// Column of the seconds behind a tick.
const TICK_COLUMN: usize = 62;

/// Blocks of a share of 100 %.
const BAR_LEN: f64 = 10.0;

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The end.
    Quit,
    /// An order.
    Order(Verb, &'static str),
}

/// What a key means.
pub(super) fn order_of(key: u8) -> Option<Key> {
    match key {
        b'1' => Some(Key::Order(Verb::Kill, "vm-3")),
        b'2' => Some(Key::Order(Verb::Break, "orders-v2")),
        b'3' => Some(Key::Order(Verb::Slow, "orders-v2")),
        b'4' => Some(Key::Order(Verb::Restore, "all")),
        // Ctrl-D, too: the input has ended for the person in front of it.
        b'q' | b'Q' | 4 => Some(Key::Quit),
        _ => None,
    }
}

/// Where text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// People watch standard output.
    Stdout,
    /// Standard output belongs to the report.
    Stderr,
}

/// The demo's part of the terminal.
#[derive(Debug)]
pub(super) struct Screen {
    channel: Channel,
    look: Look,
    /// A line that is drawn again and again, without a line feed.
    live: bool,
    /// The terminal as it was.
    before: Option<Termios>,
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close();
    }
}

impl Screen {
    /// Text goes to standard error when the report takes standard output.
    pub(super) fn new(report: bool, look: Look) -> Self {
        let channel = if report { Channel::Stderr } else { Channel::Stdout };
        Self { channel, look, live: false, before: None }
    }

    fn write(&mut self, text: &str) {
        let text = if self.live { format!("\r\x1b[2K{text}") } else { text.to_owned() };
        self.live = false;
        match self.channel {
            // A reader that has gone does not end the demo; its signals do.
            Channel::Stdout => drop(data(for_locale(&text).as_bytes())),
            Channel::Stderr => message(&text),
        }
    }

    /// The first line.
    pub(super) fn title(&mut self, nodes: u8, shift: u16) {
        let agents = if nodes == 1 { "1 real agent".to_owned() } else { format!("{nodes} real agents") };
        let moved =
            if shift == 0 { String::new() } else { format!("\nthe usual ports are taken: all are {shift} higher") };
        self.write(&format!(
            "starling demo: {agents} on this host, nothing outside 127.0.0.0/8, everything is deleted on exit{moved}\n\n"
        ));
    }

    /// One step that is done.
    pub(super) fn tick(&mut self, what: &str, since_start: Duration) {
        let text = tick(&self.look, what, since_start);
        self.write(&text);
    }

    /// What one may do while it runs.
    pub(super) fn invitation(&mut self, mesh: &Mesh) {
        self.write(&invitation(&mesh.first_api(), &mesh.entrance().to_string()));
    }

    /// The live line; only on a terminal.
    pub(super) fn live(&mut self, recent: &Recent) {
        if self.look.width.is_some() {
            // Asked each time: windows change their size.
            let width = self.width();
            let line: String = live(&self.look, recent, width).chars().take(width.saturating_sub(1)).collect();
            self.write(&format!("\r\x1b[2K{line}"));
            self.live = true;
        }
    }

    /// Columns of the terminal now.
    fn width(&self) -> usize {
        let size = match self.channel {
            Channel::Stdout => terminal_size::terminal_size_of(io::stdout()),
            Channel::Stderr => terminal_size::terminal_size_of(io::stderr()),
        };
        size.map_or(self.look.width.unwrap_or(0), |(width, _)| usize::from(width.0))
    }

    /// Something that happened.
    pub(super) fn note(&mut self, text: &str) {
        self.write(&format!("  {text}\n"));
    }

    /// After a failure: what could not be removed.
    pub(super) fn failed(&mut self, left: &Left) {
        if *left != Left::default() {
            let text = leftovers(left);
            self.write(&format!("  {text}\n"));
        }
    }

    /// The last words.
    pub(super) fn goodbye(&self, figures: Option<&Figures>, left: &Left, kept: Option<&Path>) -> String {
        let requests = figures.map(summary).unwrap_or_default();
        let kept = kept.map(|folder| format!("kept: {}\n", folder.display())).unwrap_or_default();
        format!("\n{requests}{}\n{kept}", leftovers(left))
    }

    /// Reads single keys from a terminal, without echo. Ctrl-C stays a signal.
    pub(super) fn read_keys(&mut self, keys: mpsc::Sender<u8>) {
        if !io::stdin().is_terminal() || self.look.width.is_none() {
            return;
        }
        let Ok(before) = tcgetattr(io::stdin()) else { return };
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        if tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).is_err() {
            return;
        }
        self.before = Some(before);
        // Ends with the process: a read from a terminal cannot be called off. Without it there are only no keys.
        let _ = std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
            let mut byte = [0];
            while io::stdin().read_exact(&mut byte).is_ok() && keys.blocking_send(byte[0]).is_ok() {}
        });
    }

    /// Puts the terminal back as it was.
    pub(super) fn close(&mut self) {
        if self.live {
            self.write("");
        }
        if let Some(before) = self.before.take() {
            // Nothing can be done when even this fails.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
        }
    }
}

fn tick(look: &Look, what: &str, since_start: Duration) -> String {
    let pad = " ".repeat(TICK_COLUMN.saturating_sub(what.chars().count()));
    format!("  {} {what}{pad}{:.1} s\n", look.painted_mark(Mark::Good), since_start.as_secs_f64())
}

fn invitation(socket: &str, entrance: &str) -> String {
    format!(
        "
  Terminal    export STARLING_ADDRESS={socket}     then: starling members
  Requests    curl -H 'Host: orders.mesh.internal' http://{entrance}/

  Try this (keys work here too):
    1  kill vm-3            starling demo kill vm-3         → suspect in 1 s, failed in 3 s
    2  break orders-v2      starling demo break orders-v2   → its check takes it out
    3  slow orders-v2       starling demo slow orders-v2    → it gets fewer requests
    4  restore everything   starling demo restore all
    q  quit

"
    )
}

/// The line in a terminal of this width: bars where there is room for them, and only the shares where there is little.
fn live(look: &Look, recent: &Recent, width: usize) -> String {
    let figures = &recent.figures;
    let latency = |quantile: f64| figures.quantile(quantile).map_or_else(|| "-".to_owned(), milliseconds);
    let success = figures.success_rate().map_or_else(|| "-".to_owned(), rate);
    let head =
        format!("  orders   {:.1} rps   {success}   p50 {}   p99 {} ", recent.per_second, latency(0.5), latency(0.99));
    let shares = figures.shares();
    let parts = |drawn: &dyn Fn(f64) -> String| -> String {
        let part = |(name, _, part): &(String, u64, f64)| {
            let name = name.strip_prefix("orders-").unwrap_or(name);
            let bar = drawn(*part);
            format!("   {name} {bar}{}", share(*part))
        };
        shares.iter().map(part).collect()
    };
    let tail = format!("   of {}", count(figures.requests));
    let bars = format!("{head}{}{tail}", parts(&|part| bar(look, part) + " "));
    let plain = format!("{head}{}{tail}", parts(&|_| String::new()));
    let rest: String = shares
        .iter()
        .map(|(name, _, part)| format!("  {} {}", name.strip_prefix("orders-").unwrap_or(name), share(*part)))
        .collect();
    let short = format!("  {:.1} rps   {success}   p99 {}{rest}", recent.per_second, latency(0.99));
    [bars, plain].into_iter().find(|line| line.chars().count() < width).unwrap_or(short)
}

fn bar(look: &Look, part: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "a share of at most 1 times 10")]
    let len = (part.clamp(0.0, 1.0) * BAR_LEN).round() as usize;
    if look.unicode { "█" } else { "#" }.repeat(len)
}

fn summary(figures: &Figures) -> String {
    let latency = |quantile: f64| figures.quantile(quantile).map_or_else(|| "-".to_owned(), milliseconds);
    let success = figures.success_rate().map_or_else(|| "-".to_owned(), rate);
    let mut text =
        format!("{} requests   {success}   p50 {}   p99 {}\n", count(figures.requests), latency(0.5), latency(0.99));
    for (name, number, part) in figures.shares() {
        text.push_str(&format!("  {name:<16}{:>8}   {:>6}\n", count(number), share(part)));
    }
    text
}

fn leftovers(left: &Left) -> String {
    if *left == Left::default() {
        return "left behind: nothing".to_owned();
    }
    format!("left behind: {} processes, {} files, {} ports", left.processes, left.files, left.ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_looks_as_documented() {
        let line = tick(&Look::plain(), "trust domain demo.internal created", Duration::from_millis(20));
        assert_eq!(line, "  √ trust domain demo.internal created                            0.0 s\n");
        let ascii = Look { unicode: false, ..Look::plain() };
        assert!(tick(&ascii, "x", Duration::ZERO).starts_with("  ok x"));
    }

    #[test]
    fn a_narrow_terminal_gets_a_short_line() {
        let recent = Recent { figures: Figures::default(), per_second: 40.0 };
        assert_eq!(live(&Look::plain(), &recent, 80), "  orders   40.0 rps   -   p50 -   p99 -    of 0");
        assert_eq!(live(&Look::plain(), &recent, 30), "  40.0 rps   -   p99 -");
    }

    #[test]
    fn bars_and_leftovers_say_what_is() {
        assert_eq!(bar(&Look::plain(), 0.098), "█");
        assert_eq!(bar(&Look { unicode: false, ..Look::plain() }, 1.0), "#".repeat(10));
        assert_eq!(leftovers(&Left::default()), "left behind: nothing");
        let left = Left { processes: 1, files: 2, ports: 0 };
        assert_eq!(leftovers(&left), "left behind: 1 processes, 2 files, 0 ports");
    }

    #[test]
    fn every_key_that_is_shown_means_something() {
        let text = invitation("unix:///x", "127.0.0.1:7780");
        for (key, word) in
            [(b'1', "1  kill"), (b'2', "2  break"), (b'3', "3  slow"), (b'4', "4  restore"), (b'q', "q  quit")]
        {
            assert!(text.contains(word) && order_of(key).is_some(), "{word}");
        }
        assert_eq!(order_of(b'x'), None);
    }
}
