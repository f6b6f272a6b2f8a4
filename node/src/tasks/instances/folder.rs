//! The folder `services.d`: the last good version of each file, and what is wrong with the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use starling_config::{InstanceSpec, Problem, ServicesD, parse_instances, parse_services, render};
use starling_model::InstanceName;
use tracing::{info, warn};

use crate::files::{self, SERVICE_FILES_MAX};

/// One file.
#[derive(Debug, Default)]
struct Entry {
    /// The version in use.
    good: Option<String>,
    /// The newest version, when that is not good, with its problems.
    bad: Option<(String, String)>,
}

/// The folder's state.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    files: BTreeMap<String, Entry>,
    parsed: ServicesD,
    /// Problems across files, rendered; told when they change.
    across: String,
    /// The folder could not be read.
    unreadable: Option<String>,
}

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: BTreeMap::new(),
            parsed: ServicesD::default(),
            across: String::new(),
            unreadable: None,
        }
    }

    /// Instances of all good files, each with its path.
    pub(super) fn instances(&self) -> impl Iterator<Item = (&InstanceSpec, &str)> {
        self.parsed.instances.iter().map(|instance| (&instance.spec, instance.file.as_str()))
    }

    /// The file that holds a name.
    pub(super) fn holder(&self, name: &InstanceName) -> Option<&str> {
        self.instances().find(|(spec, _)| spec.name == *name).map(|(_, path)| path)
    }

    /// Everything that is wrong now, rendered.
    pub(super) fn problems(&self) -> Vec<String> {
        let files = self.files.values().filter_map(|entry| entry.bad.as_ref().map(|(_, problem)| problem.clone()));
        let across = Some(self.across.clone()).filter(|text| !text.is_empty());
        files.chain(across).chain(self.unreadable.clone()).collect()
    }

    /// Reads the folder. Blocks.
    pub(super) fn read(&mut self) {
        match self.list() {
            Ok(found) => {
                self.unreadable = None;
                self.take(found);
            }
            // What is announced stays announced: a folder that cannot be read says nothing about the services.
            Err(error) => {
                let text = format!("{}: {error}", self.path.display());
                if self.unreadable.as_ref() != Some(&text) {
                    warn!(folder = %self.path.display(), %error, "services.d cannot be read");
                    self.unreadable = Some(text);
                }
            }
        }
    }

    fn list(&self) -> Result<BTreeMap<String, Result<String, String>>, std::io::Error> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            // Not every host offers something.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            if name.ends_with(".toml") && !name.starts_with('.') {
                paths.push(path);
            }
        }
        paths.sort();
        if paths.len() > SERVICE_FILES_MAX {
            warn!(files = paths.len(), "services.d holds over {SERVICE_FILES_MAX} files; the rest is not read");
            paths.truncate(SERVICE_FILES_MAX);
        }
        let read = |path: PathBuf| {
            let text = match files::read_public_text(&path) {
                Ok(text) => Some(Ok(text)),
                // Gone between listing and reading: a rename is under way and brings an event of its own.
                Err(error) if error.is_missing() => None,
                Err(error) => Some(Err(crate::tasks::identity::chain_of(&error))),
            };
            text.map(|text| (path.display().to_string(), text))
        };
        Ok(paths.into_iter().filter_map(read).collect())
    }

    fn take(&mut self, found: BTreeMap<String, Result<String, String>>) {
        self.files.retain(|path, _| found.contains_key(path));
        for (path, read) in found {
            let entry = self.files.entry(path.clone()).or_default();
            let (text, problem) = match read {
                Ok(text) if entry.good.as_ref() == Some(&text) => {
                    entry.bad = None;
                    continue;
                }
                Ok(text) => match parse_instances(&path, &text) {
                    Ok(specs) => {
                        info!(file = path, instances = specs.len(), "services.d file read");
                        entry.good = Some(text);
                        entry.bad = None;
                        continue;
                    }
                    Err(problems) => (text, render(&problems)),
                },
                Err(error) => (String::new(), error),
            };
            if entry.bad.as_ref().is_none_or(|(told, _)| *told != text) {
                tell(&path, entry.good.is_some(), &problem);
            }
            entry.bad = Some((text, problem));
        }
        let good: Vec<(String, String)> =
            self.files.iter().filter_map(|(path, entry)| Some((path.clone(), entry.good.clone()?))).collect();
        self.parsed = parse_services(&good);
        let across = render(&self.parsed.problems);
        if across != self.across && !across.is_empty() {
            for problem in &self.parsed.problems {
                tell_one(problem);
            }
        }
        self.across = across;
    }
}

fn tell(path: &str, kept: bool, problem: &str) {
    let effect = if kept { "its last good version stays in use" } else { "nothing of it is announced" };
    warn!(file = path, "services.d file has problems, {effect}:\n{}", problem.trim_end());
}

fn tell_one(problem: &Problem) {
    warn!(file = problem.file().unwrap_or("-"), line = problem.line(), "{}", problem.message);
}
