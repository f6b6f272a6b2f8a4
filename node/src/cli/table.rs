//! Tables: upper-case header, three-space gutter, no borders, no blanks at the end of a line.
//!
//! Pure: cells and a [`Look`] in, text out. Only where a width is given is the widest column cut, with `…`.

use crate::cli::look::{Look, Tone, ascii};

/// Between two columns.
const GUTTER: &str = "   ";

/// A column is never cut below this, since less says nothing.
const CUT_CHARS_MIN: usize = 6;

/// Which edge a column keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers and ages.
    Right,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A value in the plain colour. Control characters, which could move a terminal's cursor, are replaced.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::toned(text, Tone::Plain)
    }

    /// A value with a meaning that colour may underline, never carry.
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: clean(text.as_ref()), tone }
    }

    /// `-` for no value.
    pub(crate) fn maybe(text: Option<impl AsRef<str>>) -> Self {
        text.map_or_else(|| Self::new("-"), Self::new)
    }
}

/// Text without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Rows under a header.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds one row; it has a cell for every column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<Cell> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for every column");
        self.rows.push(cells);
    }

    /// The table as text, each line with its line feed.
    pub(crate) fn render(&self, look: &Look) -> String {
        if !look.unicode && self.rows.iter().flatten().any(|cell| !cell.text.is_ascii()) {
            return self.in_ascii().render(look);
        }
        let widths = self.widths(look);
        let mut text = String::new();
        if look.headers {
            let header = self.columns.iter().map(|(title, _)| Cell::new(title));
            self.line(&mut text, header, &widths, look);
        }
        for row in &self.rows {
            self.line(&mut text, row.iter().cloned(), &widths, look);
        }
        text
    }

    /// The same with stand-ins for our own signs, put in before widths are measured; what is left is `?`.
    fn in_ascii(&self) -> Self {
        let mut table = self.clone();
        for cell in table.rows.iter_mut().flatten() {
            cell.text = ascii(&cell.text).chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        }
        table
    }

    fn widths(&self, look: &Look) -> Vec<usize> {
        let mut widths: Vec<usize> =
            self.columns.iter().map(|(title, _)| if look.headers { title.chars().count() } else { 0 }).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let Some(room) = look.width else { return widths };
        let total: usize = widths.iter().sum::<usize>() + GUTTER.len() * widths.len().saturating_sub(1);
        let excess = total.saturating_sub(room);
        if let Some(widest) = widths.iter_mut().max_by_key(|width| **width)
            && excess > 0
        {
            *widest = widest.saturating_sub(excess).max(CUT_CHARS_MIN.min(*widest));
        }
        widths
    }

    fn line(&self, text: &mut String, cells: impl Iterator<Item = Cell>, widths: &[usize], look: &Look) {
        let start = text.len();
        for (at, ((cell, width), (_, align))) in cells.zip(widths).zip(&self.columns).enumerate() {
            if at > 0 {
                text.push_str(GUTTER);
            }
            let shown = cut(&cell.text, *width, look.unicode);
            let pad = " ".repeat(width.saturating_sub(shown.chars().count()));
            let shown = look.paint(&shown, cell.tone);
            match align {
                Align::Left => text.extend([shown.as_str(), pad.as_str()]),
                Align::Right => text.extend([pad.as_str(), shown.as_str()]),
            }
        }
        let kept = text.get(start..).map_or(0, |line| line.trim_end_matches(' ').len());
        text.truncate(start + kept);
        text.push('\n');
    }
}

fn cut(text: &str, width: usize, unicode: bool) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let end = if unicode { "…" } else { "..." };
    text.chars().take(width.saturating_sub(end.chars().count())).chain(end.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new([("NAME", Align::Left), ("COUNT", Align::Right), ("WHY", Align::Left)]);
        table.row([Cell::new("a"), Cell::new("12"), Cell::new("nothing in particular")]);
        table.row([Cell::new("longer"), Cell::maybe(None::<&str>), Cell::new("-")]);
        table
    }

    #[test]
    fn columns_line_up_and_lines_end_without_blanks() {
        let want = "NAME     COUNT   WHY\n\
                    a           12   nothing in particular\n\
                    longer       -   -\n";
        assert_eq!(sample().render(&Look::plain()), want);
    }

    #[test]
    fn without_headers_only_rows_remain_and_set_the_widths() {
        let look = Look { headers: false, ..Look::plain() };
        assert_eq!(sample().render(&look), "a        12   nothing in particular\nlonger    -   -\n");
    }

    #[test]
    fn only_on_a_terminal_is_the_widest_column_cut() {
        let look = Look { width: Some(30), ..Look::plain() };
        let text = sample().render(&look);
        assert!(text.lines().all(|line| line.chars().count() <= 30), "{text}");
        assert!(text.contains("nothing in p…"), "{text}");
    }

    #[test]
    fn stand_ins_for_our_signs_are_measured() {
        let mut table = Table::new([("SERIAL", Align::Left), ("X", Align::Left)]);
        table.row([Cell::new("7f9e…"), Cell::new("a")]);
        table.row([Cell::new("1"), Cell::new("é")]);
        let look = Look { unicode: false, ..Look::plain() };
        assert_eq!(table.render(&look), "SERIAL    X\n7f9e...   a\n1         ?\n");
        let narrow = Look { unicode: false, width: Some(30), ..Look::plain() };
        let text = sample().render(&narrow);
        assert!(text.is_ascii() && text.contains("nothing in..."), "{text}");
        assert!(text.lines().all(|line| line.len() <= 30), "{text}");
    }

    #[test]
    fn colour_changes_no_width_and_control_characters_never_pass() {
        let mut table = Table::new([("STATE", Align::Left), ("X", Align::Left)]);
        table.row([Cell::toned("alive", Tone::Good), Cell::new("a\x1b[2Jb\n")]);
        let look = Look { colour: true, ..Look::plain() };
        assert_eq!(table.render(&look), "STATE   X\n\x1b[32malive\x1b[0m   a\u{fffd}[2Jb\u{fffd}\n");
    }
}
