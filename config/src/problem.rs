//! One thing that is wrong with a text, told so that a person can repair it: what, where, and what to write instead.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use starling_model::codes::{Code, Level};

/// Most problems that one run lists; more of them have one cause that the first ones show.
pub const PROBLEMS_MAX: usize = 200;

/// Longest piece of a line that is shown.
const SHOWN_CHARS_MAX: usize = 120;

/// Narrowest margin for line numbers, so that short files look like long ones.
const MARGIN_MIN: usize = 2;

/// One error or warning.
#[derive(Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its entry of the catalogue; the level comes from there.
    pub code: Code,
    /// What is wrong, with the value.
    pub message: String,
    /// Where; `None` when no text is at fault.
    pub place: Option<Place>,
    /// Stands beside the carets: mostly the nearest known name.
    pub note: Option<String>,
    /// What to write instead.
    pub help: Option<String>,
    /// Which value of a document, as a JSON pointer (RFC 6901).
    pub pointer: Option<String>,
}

/// Where a problem is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(FilePlace),
    /// In an environment variable or flag, named here.
    Outside(String),
}

/// A stretch of one line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlace {
    /// The file's path as it was given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// How many characters are meant, at least 1.
    pub width: usize,
    /// The line.
    pub text: String,
    /// The line before, unless it is blank.
    pub before: Option<String>,
}

impl Problem {
    /// A problem without a place.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), place: None, note: None, help: None, pointer: None }
    }

    /// The file's path, when it is in a file.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.in_file().map(|place| place.file.as_str())
    }

    /// The line from 1, when it is in a file.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.in_file().map(|place| place.line)
    }

    /// The column from 1, when it is in a file.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.in_file().map(|place| place.column)
    }

    /// The whole as one sentence, for a log line or an answer of the API.
    #[must_use]
    pub fn sentence(&self) -> String {
        let place = match &self.place {
            Some(Place::File(place)) => format!("{}:{}:{}: ", place.file, place.line, place.column),
            Some(Place::Outside(place)) => format!("{place}: "),
            None => String::new(),
        };
        match &self.note {
            Some(note) => format!("{place}{}, {note}", self.message),
            None => format!("{place}{}", self.message),
        }
    }

    fn in_file(&self) -> Option<&FilePlace> {
        match &self.place {
            Some(Place::File(place)) => Some(place),
            Some(Place::Outside(_)) | None => None,
        }
    }

    /// `error` or `warning`.
    #[must_use]
    pub fn level(&self) -> &'static str {
        match self.code.level {
            Level::Error => "error",
            Level::Warning => "warning",
        }
    }
}

impl fmt::Display for Problem {
    /// The form of every message of Starling, several lines without a final line feed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.level(), self.code, self.message)?;
        match &self.place {
            Some(Place::File(place)) => place.snippet(f, self.note.as_deref())?,
            Some(Place::Outside(place)) => {
                write!(f, "\n  --> {place}")?;
                if let Some(note) = &self.note {
                    write!(f, "     {note}")?;
                }
            }
            None => {
                if let Some(note) = &self.note {
                    write!(f, ", {note}")?;
                }
            }
        }
        for (at, line) in self.help.iter().flat_map(|help| help.lines()).enumerate() {
            write!(f, "\n  {} {line}", if at == 0 { "help: " } else { "      " })?;
        }
        Ok(())
    }
}

impl Serialize for Problem {
    /// For programs: `code`, `level`, `detail`, and what is known of `file`, `line`, `column`, `pointer`, `note`, `help`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("code", &self.code.to_string())?;
        map.serialize_entry("level", self.level())?;
        map.serialize_entry("detail", &self.message)?;
        if let Some(place) = self.in_file() {
            map.serialize_entry("file", &place.file)?;
            map.serialize_entry("line", &place.line)?;
            map.serialize_entry("column", &place.column)?;
        }
        for (key, text) in [("pointer", &self.pointer), ("note", &self.note), ("help", &self.help)] {
            if let Some(text) = text {
                map.serialize_entry(key, text)?;
            }
        }
        map.end()
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Problem {}

impl FilePlace {
    fn snippet(&self, f: &mut fmt::Formatter<'_>, note: Option<&str>) -> fmt::Result {
        let margin = self.line.to_string().len().max(MARGIN_MIN);
        // Of a very long line, the piece around the place is shown.
        let cut = if self.column > SHOWN_CHARS_MAX / 2 && self.text.chars().nth(SHOWN_CHARS_MAX).is_some() {
            self.column.saturating_sub(SHOWN_CHARS_MAX / 2)
        } else {
            0
        };
        write!(f, "\n  --> {}:{}:{}", self.file, self.line, self.column)?;
        write!(f, "\n{:margin$} |", "")?;
        if let Some(before) = &self.before {
            write!(f, "\n{:>margin$} | {}", self.line.saturating_sub(1), shown(before, 0))?;
        }
        write!(f, "\n{:>margin$} | {}", self.line, shown(&self.text, cut))?;
        let pad: String = self
            .text
            .chars()
            .chain(std::iter::repeat(' '))
            .skip(cut)
            .take(self.column.saturating_sub(1).saturating_sub(cut))
            // Tabs stay, so that the carets stand under what they mean.
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        write!(f, "\n{:margin$} | {pad}{}", "", "^".repeat(self.width.min(SHOWN_CHARS_MAX)))?;
        if let Some(note) = note {
            write!(f, " {note}")?;
        }
        write!(f, "\n{:margin$} |", "")
    }
}

/// A piece of a line, without bytes that could move a terminal's cursor.
fn shown(line: &str, cut: usize) -> String {
    line.chars()
        .skip(cut)
        .take(SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

/// All problems below each other, with their number at the end.
#[must_use]
pub fn render(problems: &[Problem]) -> String {
    use fmt::Write as _;
    let mut text = String::new();
    for problem in problems {
        let _ = writeln!(text, "{problem}");
    }
    let warnings = problems.iter().filter(|problem| problem.code.level == Level::Warning).count();
    let count = |number: usize, what: &str| match number {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{number} {what}s")),
    };
    let counts: Vec<String> = [count(problems.len().saturating_sub(warnings), "error"), count(warnings, "warning")]
        .into_iter()
        .flatten()
        .collect();
    let mut files: Vec<&str> = problems.iter().filter_map(Problem::file).collect();
    files.sort_unstable();
    files.dedup();
    match count(files.len(), "file") {
        Some(files) if !counts.is_empty() => {
            let _ = writeln!(text, "{} in {files}", counts.join(", "));
        }
        Some(_) | None => {
            if !counts.is_empty() {
                let _ = writeln!(text, "{}", counts.join(", "));
            }
        }
    }
    text
}

/// Keeps the first [`PROBLEMS_MAX`]; `code` is that of the line which says that there are more.
pub(crate) fn finish(problems: &mut Vec<Problem>, code: Code) {
    if problems.len() > PROBLEMS_MAX {
        problems.truncate(PROBLEMS_MAX);
        problems.push(Problem::new(code, "further problems are not listed"));
    }
}
