//! Where documents come from: files, folders and standard input, all that are given as one input.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use starling_config::Problem;
use starling_config::documents::limits::FILE_BYTES_MAX;
use starling_model::codes;

use crate::cli::errors::{CliError, Exit};
use crate::files;

/// Most files of one run: more than one input are a mistaken folder.
const FILES_MAX: usize = 1_024;

/// Most bytes of one run.
const INPUT_BYTES_MAX: usize = 32 * FILE_BYTES_MAX;

/// What a file of documents is called.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// What is given.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// Path and text of each file.
    pub(crate) files: Vec<(String, String)>,
    bytes: usize,
    /// Of files that could not be read.
    pub(crate) unread: Vec<Problem>,
}

impl Input {
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self { files, ..Self::default() }
    }

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

/// Reads everything that is named; `-` is standard input, a folder stands for its files.
pub(crate) fn read(named: &[PathBuf]) -> Result<Input, CliError> {
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
