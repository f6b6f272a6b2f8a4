//! Tables in Markdown.

use std::fmt::Write as _;
use std::time::Duration;

/// Heads a table with these columns; the first is text, the others are numbers.
#[must_use]
pub fn head(columns: &[&str]) -> String {
    let rule: Vec<&str> = columns.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" }).collect();
    format!("| {} |\n| {} |\n", columns.join(" | "), rule.join(" | "))
}

/// Adds one row.
pub fn row(table: &mut String, cells: &[String]) {
    // Writing to a string cannot fail.
    let _ = writeln!(table, "| {} |", cells.join(" | "));
}

/// Seconds with two decimals.
#[must_use]
pub fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

/// A share of a whole in per cent; a dash where there is no whole.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2} %", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown() {
        let mut table = head(&["who", "FP"]);
        row(&mut table, &["SWIM".to_owned(), percent(1, 8)]);
        assert_eq!(table, "| who | FP |\n| --- | ---: |\n| SWIM | 12.50 % |\n");
        assert_eq!((percent(1, 0).as_str(), seconds(Duration::from_millis(12_450)).as_str()), ("-", "12.45"));
    }
}
