//! `starling lint`: documents are checked without a key, by themselves; a local agent adds what it knows of the mesh.
//!
//! All files that are given count as one input: every problem of all of them comes in one run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use starling_config::documents::{self, Document};
use starling_config::{Problem, problem};
use starling_model::codes::Level;
use starling_model::{DocumentKey, Namespace};

use self::suppress::Suppress;
use crate::cli::AgentPlace;
use crate::cli::client::Client;
use crate::cli::documents::input::{Input, read};
use crate::cli::documents::live;
use crate::cli::errors::{CliError, Exit};
use crate::cli::output;

mod settings;
mod suppress;

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples
  starling lint -f canary.yaml
  starling lint -f mesh/ --suppress ST0431=orders-canary --suppress ST0431=shop/cart
  starling lint --config-dir /etc/starling   # without -f: settings and services.d of a host")]
pub(crate) struct LintArgs {
    /// A file, a folder (its .yaml, .yml and .json files) or - for standard input; may be given several times
    #[arg(short, long = "file", value_name = "FILE", required_unless_present = "config_dir")]
    file: Vec<PathBuf>,
    /// Leaves a warning of one document out; may be given several times
    #[arg(long, value_name = "CODE=[NAMESPACE/]NAME")]
    suppress: Vec<Suppress>,
    /// How problems are written
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: LintFormat,
    /// Asks no agent. Else one that answers at once adds what it knows: references to nothing, rules without an endpoint
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: AgentPlace,
}

impl LintArgs {
    pub(crate) fn place(&self) -> &AgentPlace {
        &self.place
    }
}

/// How long an agent has to add what it knows.
const LIVE_TIMEOUT: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LintFormat {
    /// For people: place, line and caret
    Text,
    /// For programs: one JSON document
    Json,
    /// For pull requests: workflow commands of GitHub
    Github,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// What the input is made of.
    #[serde(skip)]
    noun: &'static str,
    /// Documents that stand in the input, right or wrong; of a configuration folder, its files.
    #[serde(rename = "documents")]
    count: usize,
    errors: usize,
    warnings: usize,
    problems: Vec<Problem>,
}

/// Runs the command; `asked` is the namespace of names that say none.
pub(crate) fn run(client: &Client, args: &LintArgs, asked: Option<&Namespace>) -> Result<Exit, CliError> {
    let suppress: Vec<Suppress> = args.suppress.iter().map(|one| one.clone().within(asked)).collect();
    let report = match &args.place.config_dir {
        Some(dir) if args.file.is_empty() => settings::inspect(dir)?,
        Some(_) | None => {
            let (documents, mut report) = inspect(read(&args.file)?, &suppress);
            if !args.offline {
                report.add(told(live::ask(client, &documents, LIVE_TIMEOUT).problems, &suppress));
            }
            report
        }
    };
    let text = match args.format {
        LintFormat::Text => text(&report),
        LintFormat::Json => String::from_utf8_lossy(&output::to_json(&report)?).into_owned(),
        LintFormat::Github => report.problems.iter().map(annotation).collect(),
    };
    let written = output::print(&text)?;
    Ok(if report.errors > 0 { Exit::Bad } else { written })
}

#[cfg(test)]
fn check(input: Input) -> Report {
    inspect(input, &[]).1
}

/// Warnings of documents, without those that are suppressed.
fn told(
    warnings: impl IntoIterator<Item = (DocumentKey, Problem)>,
    suppress: &[Suppress],
) -> impl Iterator<Item = Problem> {
    let is_told = |(key, problem): &(DocumentKey, Problem)| {
        problem.code.level == Level::Error || !suppress.iter().any(|one| one.holds(problem.code, key))
    };
    warnings.into_iter().filter(is_told).map(|(_, problem)| problem)
}

impl Report {
    /// Of so many things that the input is made of.
    fn of(noun: &'static str, count: usize, problems: Vec<Problem>) -> Self {
        let errors = problems.iter().filter(|problem| problem.code.level == Level::Error).count();
        Self { noun, count, errors, warnings: problems.len().saturating_sub(errors), problems }
    }

    /// Adds warnings.
    fn add(&mut self, warnings: impl Iterator<Item = Problem>) {
        let before = self.problems.len();
        self.problems.extend(warnings);
        self.warnings = self.warnings.saturating_add(self.problems.len().saturating_sub(before));
    }
}

/// The documents of an input, none where one of them is wrong, and what is to be told of them.
fn inspect(input: Input, suppress: &[Suppress]) -> (Vec<Document>, Report) {
    let Input { files, unread, .. } = input;
    let stretches = |(path, text): &(String, String)| documents::split(path, text).map_or(1, |found| found.len());
    let count = files.iter().map(stretches).sum();
    let (read, mut problems) = match documents::parse_all(&files) {
        Ok(read) => {
            let of = |document: &Document| {
                let key = document.key.clone();
                document.warnings.clone().into_iter().map(move |warning| (key.clone(), warning))
            };
            let warnings = told(read.iter().flat_map(of).collect::<Vec<_>>(), suppress).collect();
            (read, warnings)
        }
        Err(problems) => (Vec::new(), problems),
    };
    problems.extend(unread);
    let report = Report::of("document", count, problems);
    (if report.errors == 0 { read } else { Vec::new() }, report)
}

/// The documents of an input, with a message of what is right and hardly meant.
///
/// # Errors
/// Everything that is wrong, as `starling lint` tells it.
pub(crate) fn checked(input: Input) -> Result<(Vec<Document>, String), String> {
    let (read, report) = inspect(input, &[]);
    if report.errors > 0 {
        return Err(text(&report));
    }
    Ok((read, if report.warnings > 0 { text(&report) } else { String::new() }))
}

fn text(report: &Report) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let mut parts = vec![count(report.errors, "error")];
    if report.warnings > 0 {
        parts.push(count(report.warnings, "warning"));
    }
    let problems: String = report.problems.iter().map(|problem| format!("{problem}\n")).collect();
    format!("{problems}{} in {}\n", parts.join(", "), count(report.count, report.noun))
}

/// `::error file=a.yaml,line=1,col=2,title=ST0401::message`
fn annotation(problem: &Problem) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let place = match &problem.place {
        Some(problem::Place::File(place)) => {
            let end = place.column.saturating_add(place.width);
            format!("file={},line={},col={},endColumn={end},", property(&place.file), place.line, place.column)
        }
        Some(problem::Place::Outside(_)) | None => String::new(),
    };
    let note = problem.note.as_ref().map(|note| format!(", {note}")).unwrap_or_default();
    format!("::{} {place}title={}::{}\n", problem.level(), problem.code, data(&format!("{}{note}", problem.message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    const RIGHT: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";

    fn checked(text: &str) -> Report {
        check(Input::of(&[("canary.yaml", text)]))
    }

    #[test]
    fn a_typing_error_is_told_as_the_manual_shows_it() {
        let report = checked(&RIGHT.replace("port: 80", "prt: 80, port: 80"));
        let want = "error[ST0401]: unknown field `prt`
  --> canary.yaml:4:17
   |
 3 | metadata: {name: a}
 4 | spec: {ports: [{prt: 80, port: 80}]}
   |                 ^^^ did you mean `port`?
   |
  help:  known of spec.ports[0]: name, port, targetPort, protocol, appProtocol, nodePort
1 error in 1 document
";
        assert_eq!(text(&report), want);
        assert_eq!(
            annotation(&report.problems[0]),
            "::error file=canary.yaml,line=4,col=17,endColumn=20,title=ST0401::unknown field `prt`, did you mean `port`?\n"
        );
        let json: serde_json::Value = serde_json::from_slice(&output::to_json(&report).unwrap()).unwrap();
        assert_eq!((json["errors"].as_u64(), json["problems"][0]["line"].as_u64()), (Some(1), Some(4)));
        assert_eq!(json["problems"][0]["pointer"], "/spec/ports/0/prt");
    }

    #[test]
    fn warnings_alone_are_no_failure() {
        let report = checked(&RIGHT.replace("port: 80", "port: 53, protocol: UDP"));
        assert_eq!((report.errors, report.warnings), (0, 1));
        assert!(text(&report).ends_with("0 errors, 1 warning in 1 document\n"), "{}", text(&report));
        assert!(annotation(&report.problems[0]).starts_with("::warning file=canary.yaml,line=4,"));
        assert_eq!(text(&checked(RIGHT)), "0 errors in 1 document\n");
        let input = || Input::of(&[("canary.yaml", &*RIGHT.replace("port: 80", "port: 53, protocol: UDP"))]);
        let code = report.problems[0].code;
        let left = |name: &str| inspect(input(), &[format!("{code}={name}").parse().unwrap()]).1.warnings;
        assert_eq!((left("a"), left("b")), (0, 1), "of that document alone");
    }

    #[test]
    fn one_document_in_two_files_is_told() {
        let report = check(Input::of(&[("a.yaml", RIGHT), ("b.yaml", RIGHT)]));
        assert_eq!((report.errors, report.count), (1, 2));
        assert!(text(&report).contains("b.yaml:1:1") && text(&report).contains("a.yaml:1"), "{}", text(&report));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_with_what_is_wrong_in_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = RIGHT.replace("port: 80", "prt: 80, port: 80");
        files::create(&folder.path().join("a.yaml"), wrong.as_bytes(), 0o644).unwrap();
        files::create(&folder.path().join("b.yaml"), &[0xff], 0o644).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("c.yaml")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("d.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let report = check(read(&[folder.path().to_owned(), folder.path().join("e.yaml")]).unwrap());
        let told = text(&report);
        assert_eq!(report.errors, 5, "{told}");
        for name in ["a.yaml:4:17", "b.yaml: ", "c.yaml: ", "d.yaml: ", "e.yaml: "] {
            assert!(told.contains(name), "{name} is not in {told}");
        }
    }
}
