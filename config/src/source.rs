//! Where a value stands: which text, which bytes of it, and from them line, column and the lines to show.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;
use std::sync::Arc;

use crate::problem::{FilePlace, Place};

/// Where one layer of settings comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Built in.
    Default,
    /// A file, kept whole so that its lines can be shown.
    File { path: String, text: String },
    /// One environment variable.
    Environment(String),
    /// One flag, as it would be written.
    Flag(String),
}

/// A stretch of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) source: Arc<Source>,
    pub(crate) span: Range<usize>,
}

impl At {
    /// A place without a stretch: the whole source.
    pub(crate) fn whole(source: &Arc<Source>) -> Self {
        Self { source: Arc::clone(source), span: 0..0 }
    }

    /// What a person is shown; `None` for built-in values.
    pub(crate) fn place(&self) -> Option<Place> {
        match &*self.source {
            Source::Default => None,
            Source::File { path, text } => Some(Place::File(file_place(path, text, &self.span))),
            Source::Environment(name) => Some(Place::Outside(format!("environment variable {name}"))),
            Source::Flag(flag) => Some(Place::Outside(format!("flag {flag}"))),
        }
    }

    /// The line in a file, from 1; 0 elsewhere.
    pub(crate) fn line(&self) -> usize {
        match &*self.source {
            Source::File { text, .. } => position(text, self.span.start).0,
            Source::Default | Source::Environment(_) | Source::Flag(_) => 0,
        }
    }
}

/// Line and column of a byte, both from 1; the column counts characters. A byte past the end is the end.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let head = text.get(..floor_boundary(text, byte)).unwrap_or(text);
    let line = head.bytes().filter(|b| *b == b'\n').count().saturating_add(1);
    let column = head.rsplit('\n').next().unwrap_or("").chars().filter(|c| *c != '\u{feff}').count();
    (line, column.saturating_add(1))
}

fn floor_boundary(text: &str, byte: usize) -> usize {
    (0..=byte.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

fn file_place(path: &str, text: &str, span: &Range<usize>) -> FilePlace {
    // An error at the end of the text belongs to its last line with something on it, where it can be seen.
    let end = text.trim_end().len();
    let start = if span.start >= text.len() { end } else { span.start };
    let (line, column) = position(text, start);
    let (end_line, end_column) = position(text, span.end);
    let shown = line_at(text, line);
    let rest = shown.chars().count().saturating_add(1).saturating_sub(column);
    let width = if end_line == line { end_column.saturating_sub(column) } else { rest };
    let before = line.checked_sub(1).filter(|line| *line > 0).map(|line| line_at(text, line)).unwrap_or_default();
    FilePlace {
        file: path.to_owned(),
        line,
        column,
        width: width.clamp(1, rest.max(1)),
        text: shown.to_owned(),
        before: Some(before).filter(|before| !before.trim().is_empty()).map(str::to_owned),
    }
}

fn line_at(text: &str, line: usize) -> &str {
    let line = text.split('\n').nth(line.saturating_sub(1)).unwrap_or("");
    line.strip_suffix('\r').unwrap_or(line).trim_start_matches('\u{feff}')
}
