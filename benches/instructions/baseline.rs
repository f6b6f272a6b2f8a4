//! The counts that are written down, and what a new count says beside them. Pure.

use std::fmt;
use std::str::FromStr;

/// How far a count may go from what is written, either way: above what timers and tables that grow add by chance, below
/// what one allocation more per request costs.
const PERMILLE_MAX: u64 = 30;

/// The command that counts anew.
pub(crate) const TAKE: &str = "cargo run --profile instructions -p starling-benches --bin instructions -- take";

/// Counts, and what they hang on besides the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Baseline {
    /// Names and values: compiler, valgrind, C library, processor.
    pub(crate) machine: Vec<(String, String)>,
    /// Operations and their instructions.
    pub(crate) counts: Vec<(String, u64)>,
}

/// What a count says beside the written one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Within the bound.
    Kept,
    /// Too many instructions.
    Slower,
    /// So many fewer that it has to be written down.
    Faster,
    /// Written, and not counted any more, or the other way round.
    Unknown,
}

/// One line of a comparison.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    operation: String,
    counted: Option<u64>,
    written: Option<u64>,
    pub(crate) verdict: Verdict,
}

impl Baseline {
    /// What is not as it was when the counts were taken, in words.
    pub(crate) fn differences(&self, here: &[(String, String)]) -> Vec<String> {
        let of = |all: &[(String, String)], name: &str| {
            all.iter().find(|(held, _)| held == name).map_or_else(|| "not told".to_owned(), |(_, value)| value.clone())
        };
        let mut names: Vec<&String> = self.machine.iter().chain(here).map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        let told = names.into_iter().map(|name| (name, of(&self.machine, name), of(here, name)));
        told.filter(|(_, then, now)| then != now)
            .map(|(name, then, now)| format!("{name}: {then} then, {now} here"))
            .collect()
    }

    /// A row for each operation of either side.
    pub(crate) fn compare(&self, counted: &Self) -> Vec<Row> {
        let of = |all: &Self, name: &str| all.counts.iter().find(|(held, _)| held == name).map(|(_, count)| *count);
        let gone = self.counts.iter().filter(|(name, _)| of(counted, name).is_none());
        let all = counted.counts.iter().chain(gone);
        all.map(|(name, _)| {
            let (counted, written) = (of(counted, name), of(self, name));
            Row { operation: name.clone(), counted, written, verdict: verdict(counted, written) }
        })
        .collect()
    }
}

fn verdict(counted: Option<u64>, written: Option<u64>) -> Verdict {
    let (Some(counted), Some(written)) = (counted, written) else { return Verdict::Unknown };
    let (bound, apart) =
        (u128::from(written) * u128::from(PERMILLE_MAX), u128::from(counted.abs_diff(written)) * 1_000);
    match counted.cmp(&written) {
        std::cmp::Ordering::Greater if apart > bound => Verdict::Slower,
        std::cmp::Ordering::Less if apart > bound => Verdict::Faster,
        std::cmp::Ordering::Less | std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Verdict::Kept,
    }
}

impl Row {
    /// What to do about a verdict that is not [`Verdict::Kept`].
    pub(crate) fn advice(&self) -> String {
        let Self { operation, verdict, .. } = self;
        match verdict {
            Verdict::Kept => format!("{operation}: nothing to do"),
            Verdict::Slower => format!(
                "{operation}: over {} more; find out why, or raise the count and say in the commit what it pays for:\n  {TAKE}",
                percent(PERMILLE_MAX)
            ),
            Verdict::Faster => format!(
                "{operation}: over {} fewer; write down what was won, so that it stays won:\n  {TAKE}",
                percent(PERMILLE_MAX)
            ),
            Verdict::Unknown => format!("{operation}: counted or written alone; count anew:\n  {TAKE}"),
        }
    }
}

fn percent(permille: u64) -> String {
    format!("{} %", permille as f64 / 10.0)
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let difference = match (self.counted, self.written) {
            (Some(counted), Some(written)) => {
                format!("{:+.2} %", (counted as f64 / written.max(1) as f64 - 1.0) * 100.0)
            }
            (None, _) | (_, None) => "-".to_owned(),
        };
        write!(f, "{:<24}{:>12}{:>12}{difference:>12}", self.operation, told(self.counted), told(self.written))
    }
}

/// Why a file of counts cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this line of benches/instructions.txt is neither \"name: value\" nor \"operation count\": {}",
            self.0
        )
    }
}

impl std::error::Error for Unreadable {}

impl FromStr for Baseline {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let (mut machine, mut counts) = (Vec::new(), Vec::new());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once(": ") {
                machine.push((name.to_owned(), value.trim().to_owned()));
            } else {
                let count = line.split_once(' ').and_then(|(name, count)| Some((name, count.trim().parse().ok()?)));
                let (name, count) = count.ok_or_else(|| Unreadable(line.to_owned()))?;
                counts.push((name.to_owned(), count));
            }
        }
        Ok(Self { machine, counts })
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions in user space of one operation, by callgrind; benches/instructions/ says what each one is."
        )?;
        writeln!(f, "# Written by: {TAKE}\n")?;
        self.machine.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))?;
        writeln!(f)?;
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{name} {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(compiler: &str, counts: &[(&str, u64)]) -> Baseline {
        Baseline {
            machine: vec![("compiler".to_owned(), compiler.to_owned()), ("valgrind".to_owned(), "3.19".to_owned())],
            counts: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        }
    }

    fn check(counted: u64, written: u64, wanted: Verdict) {
        let (held, counted) = (baseline("rustc 1", &[("l7", written)]), baseline("rustc 1", &[("l7", counted)]));
        let rows = held.compare(&counted);
        assert_eq!(rows.iter().map(|row| row.verdict).collect::<Vec<_>>(), [wanted], "{rows:?}");
    }

    #[test]
    fn three_per_cent_are_kept_and_one_instruction_beyond_is_not_either_way() {
        check(10_000, 10_000, Verdict::Kept);
        check(10_300, 10_000, Verdict::Kept);
        check(10_301, 10_000, Verdict::Slower);
        check(9_700, 10_000, Verdict::Kept);
        check(9_699, 10_000, Verdict::Faster);
        check(1, 0, Verdict::Slower);
        check(u64::MAX, 1, Verdict::Slower);
    }

    #[test]
    fn what_only_one_side_has_is_told() {
        let held = baseline("rustc 1", &[("l7", 10), ("l4", 10)]);
        let rows = held.compare(&baseline("rustc 1", &[("gossip", 10), ("l7", 10)]));
        let told: Vec<_> = rows.iter().map(|row| (row.operation.as_str(), row.verdict)).collect();
        assert_eq!(told, [("gossip", Verdict::Unknown), ("l7", Verdict::Kept), ("l4", Verdict::Unknown)]);
        assert!(rows.iter().filter(|row| row.verdict != Verdict::Kept).all(|row| row.advice().contains(TAKE)));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written =
            baseline("rustc 1.95.0 (59807616e 2026-04-14)", &[("l7_request", 81_234), ("a_name_that_is_long", 7)]);
        assert_eq!(written.to_string().parse::<Baseline>().unwrap(), written);
        assert!("l7_request".parse::<Baseline>().is_err());
        assert!("l7_request many".parse::<Baseline>().is_err());
    }

    #[test]
    fn another_compiler_or_processor_is_named() {
        let held = baseline("rustc 1", &[]);
        assert_eq!(held.differences(&held.machine), Vec::<String>::new());
        assert_eq!(held.differences(&baseline("rustc 2", &[]).machine), ["compiler: rustc 1 then, rustc 2 here"]);
        assert_eq!(held.differences(&held.machine[..1]), ["valgrind: 3.19 then, not told here"]);
    }

    #[test]
    fn the_committed_file_names_every_operation() {
        let text = std::fs::read_to_string(crate::file()).unwrap();
        let held: Baseline = text.parse().unwrap();
        let wanted: Vec<&str> = crate::OPERATIONS.iter().map(|operation| operation.name).collect();
        assert_eq!(held.counts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), wanted);
        assert_eq!(held.machine.len(), 4, "{text}");
    }
}
