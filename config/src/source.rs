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
    /// A file, kept whole so that its lines can be shown; `starts` is the first byte of each line.
    File { path: String, text: String, starts: Vec<usize> },
    /// One environment variable.
    Environment(String),
    /// One flag, as it would be written.
    Flag(String),
}

impl Source {
    /// A file with this text.
    pub(crate) fn file(path: &str, text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at.saturating_add(1));
        let starts = std::iter::once(0).chain(ends).collect();
        Self::File { path: path.to_owned(), text: text.to_owned(), starts }
    }
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
            Source::File { path, text, starts } => {
                Some(Place::File(file_place(path, &Lines { text, starts }, &self.span)))
            }
            Source::Environment(name) => Some(Place::Outside(format!("environment variable {name}"))),
            Source::Flag(flag) => Some(Place::Outside(format!("flag {flag}"))),
        }
    }

    /// The line in a file, from 1; 0 elsewhere.
    pub(crate) fn line(&self) -> usize {
        match &*self.source {
            Source::File { text, starts, .. } => Lines { text, starts }.position(self.span.start).0,
            Source::Default | Source::Environment(_) | Source::Flag(_) => 0,
        }
    }
}

/// A text with the first byte of each line, so that a problem costs its own line however long the text is.
struct Lines<'a> {
    text: &'a str,
    starts: &'a [usize],
}

impl Lines<'_> {
    /// Line and column of a byte, both from 1; the column counts characters. A byte past the end is the end.
    fn position(&self, byte: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= byte.min(self.text.len()));
        let start = line.checked_sub(1).and_then(|at| self.starts.get(at)).copied().unwrap_or(0);
        let head = self.text.get(start..floor_boundary(self.text, byte)).unwrap_or_default();
        (line, head.chars().filter(|c| *c != '\u{feff}').count().saturating_add(1))
    }

    /// A line by its number from 1, without its end.
    fn line(&self, number: usize) -> &str {
        let start = number.checked_sub(1).and_then(|at| self.starts.get(at)).copied().unwrap_or(self.text.len());
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        let line = self.text.get(start..end).unwrap_or_default();
        let line = line.strip_suffix('\n').unwrap_or(line);
        line.strip_suffix('\r').unwrap_or(line).trim_start_matches('\u{feff}')
    }
}

fn floor_boundary(text: &str, byte: usize) -> usize {
    (0..=byte.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

fn file_place(path: &str, lines: &Lines<'_>, span: &Range<usize>) -> FilePlace {
    // An error at the end of the text belongs to its last line with something on it, where it can be seen.
    let end = lines.text.trim_end().len();
    let start = if span.start >= lines.text.len() { end } else { span.start };
    let (line, column) = lines.position(start);
    let (end_line, end_column) = lines.position(span.end);
    let shown = lines.line(line);
    let rest = shown.chars().count().saturating_add(1).saturating_sub(column);
    let width = if end_line == line { end_column.saturating_sub(column) } else { rest };
    let before = line.checked_sub(1).filter(|line| *line > 0).map(|line| lines.line(line)).unwrap_or_default();
    FilePlace {
        file: path.to_owned(),
        line,
        column,
        width: width.clamp(1, rest.max(1)),
        text: shown.to_owned(),
        before: Some(before).filter(|before| !before.trim().is_empty()).map(str::to_owned),
    }
}
