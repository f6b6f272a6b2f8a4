//! `starling members`: everybody, as this node sees them.

use crate::api::views::{Member, MemberList, ServiceRef, View};
use crate::cli::figures;
use crate::cli::look::{Look, Mark, Tone};
use crate::cli::render::{Columns, or_dash, short_key, view_of};
use crate::cli::table::{Align, Cell, Table, clean};

/// Most names that the closing line tells.
const BEHIND_SHOWN_MAX: usize = 5;

/// Which members are shown; empty shows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Any of these states.
    pub(crate) states: Vec<String>,
    /// All of these labels.
    pub(crate) labels: Vec<(String, String)>,
}

impl Filter {
    /// True when it hides nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty() && self.labels.is_empty()
    }

    /// True for a member that is shown.
    pub(crate) fn shows(&self, member: &Member) -> bool {
        (self.states.is_empty() || self.states.contains(&member.state))
            && self.labels.iter().all(|(key, value)| member.labels.get(key) == Some(value))
    }
}

/// The whole answer.
pub(crate) fn render(list: &MemberList, columns: Columns, filter: &Filter, look: &Look) -> String {
    use Align::{Left, Right};
    let wide = columns == Columns::Wide;
    let mut titles = vec![
        ("NODE", Left),
        ("ADDRESS", Left),
        ("STATE", Left),
        ("RTT", Right),
        ("VERSION", Left),
        ("SERVICES", Left),
        ("CERT", Right),
        ("CONFIG", Left),
        ("SEEN", Right),
    ];
    if wide {
        titles.extend([
            ("BOOT EPOCH", Right),
            ("INCARNATION", Right),
            ("PROTOCOL", Left),
            ("BUNDLE", Right),
            ("LABELS", Left),
            ("ACCUSERS", Left),
            ("JITTER", Right),
            ("KEY EXCHANGE", Left),
        ]);
    }
    let mut table = Table::new(titles);
    for member in list.body.items.iter().filter(|member| filter.shows(member)) {
        let mut cells = usual(member, &list.view, look);
        if wide {
            cells.extend(more(member));
        }
        table.row(cells);
    }
    let mut text = table.render(look);
    if look.headers {
        text.push_str(&closing(list));
        text.push_str(&held_back(list, filter));
    }
    text
}

fn usual(member: &Member, view: &View, look: &Look) -> Vec<Cell> {
    let seconds_left = member
        .certificate
        .as_ref()
        .and_then(|certificate| figures::seconds_between(&view.as_of, &certificate.not_after));
    vec![
        Cell::new(&member.name),
        Cell::maybe(member.address.as_deref()),
        Cell::toned(&member.state, state_tone(&member.state)),
        Cell::maybe(member.rtt.filter(|_| member.state != "left").map(|rtt| figures::milliseconds(rtt.ms))),
        Cell::maybe(member.version.as_deref()),
        Cell::new(or_dash(member.services.iter().map(|one| service(member, one)))),
        Cell::maybe(seconds_left.map(figures::age)),
        config(member, view, look),
        seen(member, view),
    ]
}

/// A service of a member, marked where it may not serve it.
fn service(member: &Member, one: &ServiceRef) -> String {
    let mark = if member.ungranted.contains(one) { "(ungranted)" } else { "" };
    format!("{}{mark}", short_key(&one.namespace, &one.name))
}

fn state_tone(state: &str) -> Tone {
    match state {
        "alive" => Tone::Good,
        "joining" | "suspect" => Tone::Warn,
        "failed" => Tone::Bad,
        _ => Tone::Dim,
    }
}

/// The head of the digest of the documents in use there, and whether it is ours.
fn config(member: &Member, view: &View, look: &Look) -> Cell {
    let Some(config) = member.config.as_ref().filter(|_| member.state != "left") else {
        return Cell::new("-");
    };
    let head: String = config.digest.chars().take(4).collect();
    let (mark, tone) = if config.digest == view.digest { (Mark::Good, Tone::Plain) } else { (Mark::Warn, Tone::Warn) };
    Cell::toned(format!("{head} {}", look.mark(mark)), tone)
}

fn seen(member: &Member, view: &View) -> Cell {
    if member.is_self {
        return Cell::new("self");
    }
    // Of one that has left, the moment it did so is the last that was heard.
    let when = member.last_seen.as_deref().or_else(|| (member.state == "left").then_some(member.since.as_str()));
    Cell::maybe(when.and_then(|when| figures::seconds_between(when, &view.as_of)).map(figures::age))
}

fn more(member: &Member) -> Vec<Cell> {
    vec![
        Cell::new(&member.boot_epoch),
        Cell::new(member.incarnation.to_string()),
        Cell::new(format!("{}-{}", member.protocol.min, member.protocol.max)),
        Cell::maybe(member.trust.as_ref().map(|trust| trust.bundle_sequence.to_string())),
        Cell::new(or_dash(member.labels.iter().map(|(key, value)| format!("{key}={value}")))),
        Cell::new(or_dash(member.suspicion.as_ref().map(|s| s.accusers.clone()).unwrap_or_default())),
        Cell::maybe(member.rtt.and_then(|rtt| rtt.jitter_ms).map(figures::milliseconds)),
        Cell::maybe(member.certificate.as_ref().and_then(|certificate| certificate.key_exchange.as_deref())),
    ]
}

fn closing(list: &MemberList) -> String {
    let counts: Vec<String> = ["alive", "joining", "suspect", "failed", "left"]
        .iter()
        .map(|state| (list.body.items.iter().filter(|member| member.state == *state).count(), state))
        .filter(|(number, _)| *number > 0)
        .map(|(number, state)| format!("{number} {state}"))
        .collect();
    let counts = if counts.is_empty() { "nobody".to_owned() } else { counts.join(", ") };
    format!("{}: {counts}.{}\n", view_of(&list.view), behind(&list.view))
}

/// What members say that they do not use: a line for each document that is quarantined, and the number of all others.
fn held_back(list: &MemberList, filter: &Filter) -> String {
    let mut text = String::new();
    for member in list.body.items.iter().filter(|member| filter.shows(member) && member.state != "left") {
        let Some(config) = &member.config else { continue };
        let quarantined = config.held_back.iter().filter(|held| held.quarantined);
        let mut told = 0;
        for held in quarantined {
            told += 1;
            let what = match (&held.document, held.generation) {
                (Some(document), Some(generation)) => format!("{document} generation {generation}"),
                _ => format!("the document with hash {}", held.digest),
            };
            let instead = match held.used {
                Some(used) => format!("generation {used} stays in use there"),
                None => "it has no effect there".to_owned(),
            };
            text.push_str(&clean(&format!("{} quarantines {what} ({}); {instead}.", member.name, held.why)));
            text.push('\n');
        }
        let others = config.held_back_count.saturating_sub(told);
        if others > 0 {
            let more = if told > 0 { "more " } else { "" };
            text.push_str(&format!("{} holds back {others} {more}of the mesh's documents.\n", clean(&member.name)));
        }
    }
    text
}

fn behind(view: &View) -> String {
    let shown: Vec<&str> = view.agreement.behind.iter().take(BEHIND_SHOWN_MAX).map(String::as_str).collect();
    if shown.is_empty() {
        return String::new();
    }
    let shown_len = u64::try_from(shown.len()).unwrap_or(u64::MAX);
    let more = view.agreement.behind_count.saturating_sub(shown_len);
    let names = shown.join(", ");
    match (shown.len(), more) {
        (1, 0) => format!(" {names} uses other documents."),
        (_, 0) => format!(" {names} use other documents."),
        (_, more) => format!(" {names} and {more} more use other documents."),
    }
}
