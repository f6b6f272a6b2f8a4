//! `starling lint`: documents are checked by themselves, without an agent and without a key.
//!
//! All files that are given count as one input: every problem of all of them comes in one run.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use starling_config::documents::{self, limits::FILE_BYTES_MAX};
use starling_config::{Problem, problem};
use starling_model::codes::{self, Level};

use crate::cli::errors::{CliError, Exit};
use crate::cli::output;
use crate::files;

/// Most files of one run: more than one input are a mistaken folder.
const FILES_MAX: usize = 1_024;

/// Most bytes of one run.
const INPUT_BYTES_MAX: usize = 32 * FILE_BYTES_MAX;

/// What a file of documents is called.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

#[derive(Args, Clone, Debug)]
pub(crate) struct LintArgs {
    /// A file, a folder (its .yaml, .yml and .json files) or - for standard input; may be given several times
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    file: Vec<PathBuf>,
    /// How problems are written
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: LintFormat,
}

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
    /// Documents that stand in the input, right or wrong.
    documents: usize,
    errors: usize,
    warnings: usize,
    problems: Vec<Problem>,
}

/// What is to be checked.
#[derive(Debug, Default)]
struct Input {
    /// Path and text of each file.
    files: Vec<(String, String)>,
    bytes: usize,
    /// Of files that could not be read.
    unread: Vec<Problem>,
}

pub(crate) fn run(args: &LintArgs) -> Result<Exit, CliError> {
    let report = check(read(&args.file)?);
    let text = match args.format {
        LintFormat::Text => text(&report),
        LintFormat::Json => String::from_utf8_lossy(&output::to_json(&report)?).into_owned(),
        LintFormat::Github => report.problems.iter().map(annotation).collect(),
    };
    let written = output::print(&text)?;
    Ok(if report.errors > 0 { Exit::Bad } else { written })
}

fn check(input: Input) -> Report {
    let Input { files, unread, .. } = input;
    let stretches = |(path, text): &(String, String)| documents::split(path, text).map_or(1, |found| found.len());
    let documents = files.iter().map(stretches).sum();
    let mut problems = match documents::parse_all(&files) {
        Ok(documents) => documents.into_iter().flat_map(|document| document.warnings).collect(),
        Err(problems) => problems,
    };
    problems.extend(unread);
    let errors = problems.iter().filter(|problem| problem.code.level == Level::Error).count();
    Report { documents, errors, warnings: problems.len().saturating_sub(errors), problems }
}

fn text(report: &Report) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let mut parts = vec![count(report.errors, "error")];
    if report.warnings > 0 {
        parts.push(count(report.warnings, "warning"));
    }
    let problems: String = report.problems.iter().map(|problem| format!("{problem}\n")).collect();
    format!("{problems}{} in {}\n", parts.join(", "), count(report.documents, "document"))
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

impl Input {
    /// Takes a file; one that cannot be read is a problem like those in it, so that one run tells all.
    fn take(&mut self, name: String, text: Result<String, String>) -> Result<(), CliError> {
        match text {
            Ok(text) => {
                self.bytes = self.bytes.saturating_add(text.len());
                self.files.push((name, text));
            }
            Err(cause) => self.unread.push(Problem::new(codes::BAD_DOCUMENT, format!("cannot read {name}: {cause}"))),
        }
        if self.files.len().saturating_add(self.unread.len()) > FILES_MAX {
            return Err(CliError::plain(Exit::Usage, format!("over {FILES_MAX} files are named")));
        }
        if self.bytes > INPUT_BYTES_MAX {
            return Err(CliError::plain(Exit::Usage, format!("the files hold over {INPUT_BYTES_MAX} bytes")));
        }
        Ok(())
    }

    fn take_file(&mut self, path: &Path) -> Result<(), CliError> {
        let text = files::read_public_text(path).map_err(|error| chain(&error));
        self.take(path.display().to_string(), text)
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source()).map(|cause| format!(": {cause}"));
    std::iter::once(error.to_string()).chain(causes).collect()
}

fn read(named: &[PathBuf]) -> Result<Input, CliError> {
    let mut input = Input::default();
    for path in named {
        if path == Path::new("-") {
            input.take("-".to_owned(), standard_input())?;
        } else if path.is_dir() {
            for path in inside(path)? {
                input.take_file(&path)?;
            }
        } else {
            input.take_file(path)?;
        }
    }
    Ok(input)
}

/// The files of a folder that hold documents, by name; not those of folders in it.
fn inside(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let failed = |error: std::io::Error| {
        CliError::plain(Exit::Bad, format!("cannot read {}", folder.display())).cause(error.to_string())
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let fits = path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending));
        if fits && !path.is_dir() {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(CliError::plain(Exit::Usage, format!("{} holds over {FILES_MAX} files", folder.display())));
        }
    }
    if paths.is_empty() {
        let what = format!("{} holds no .yaml, .yml or .json file", folder.display());
        return Err(CliError::plain(Exit::NotFound, what));
    }
    paths.sort();
    Ok(paths)
}

fn standard_input() -> Result<String, String> {
    let bound = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(bound).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("it holds over {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";

    fn checked(text: &str) -> Report {
        check(Input { files: vec![("canary.yaml".to_owned(), text.to_owned())], ..Input::default() })
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
    }

    #[test]
    fn one_document_in_two_files_is_told() {
        let files = ["a.yaml", "b.yaml"].map(|path| (path.to_owned(), RIGHT.to_owned()));
        let report = check(Input { files: files.to_vec(), ..Input::default() });
        assert_eq!((report.errors, report.documents), (1, 2));
        assert!(text(&report).contains("b.yaml:1:1") && text(&report).contains("a.yaml:1"), "{}", text(&report));
    }

    #[test]
    fn a_folder_gives_its_documents_by_name_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&[folder.path().to_owned()]).unwrap_err().exit(), Exit::NotFound);
        for name in ["b.yaml", "a.json", "c.yml", "d.txt"] {
            files::create(&folder.path().join(name), RIGHT.as_bytes(), 0o644).unwrap();
        }
        std::fs::create_dir(folder.path().join("e.yaml")).unwrap();
        let all = read(&[folder.path().to_owned()]).unwrap();
        let names: Vec<&str> = all.files.iter().filter_map(|(path, _)| path.rsplit('/').next()).collect();
        assert_eq!((names, all.unread.len()), (vec!["a.json", "b.yaml", "c.yml"], 0));
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

    #[test]
    fn one_file_and_one_byte_past_the_bounds_end_the_run() {
        let mut input = Input::default();
        for _ in 0..FILES_MAX {
            input.take("a.yaml".to_owned(), Ok(String::new())).unwrap();
        }
        assert_eq!(input.take("a.yaml".to_owned(), Err("gone".to_owned())).unwrap_err().exit(), Exit::Usage);
        let mut input = Input::default();
        input.take("a.yaml".to_owned(), Ok("x".repeat(INPUT_BYTES_MAX))).unwrap();
        assert_eq!(input.take("b.yaml".to_owned(), Ok("x".to_owned())).unwrap_err().exit(), Exit::Usage);
    }
}
