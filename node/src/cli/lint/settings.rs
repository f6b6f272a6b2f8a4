//! `starling lint --config-dir DIR`: the settings of a host and what it announces, without an agent.
//!
//! Only files are looked at: variables of whoever asks are not those of the agent.

use std::path::Path;

use starling_config::{ConfigDir, parse_services};

use super::Report;
use crate::cli::errors::{CliError, Exit};
use crate::cli::load::{self, LoadError};
use crate::files::{self, SERVICE_FILES_MAX};

/// Everything that is wrong in the folder.
///
/// # Errors
/// A folder or file that cannot be read, or that is no such folder.
pub(super) fn inspect(dir: &Path) -> Result<Report, CliError> {
    let files = load::files_of(dir)?;
    let services = services(&dir.join("services.d"))?;
    let count = files.len().saturating_add(services.len());
    if count == 0 {
        let what = format!("{} holds no agent.toml, conf.d or services.d", dir.display());
        return Err(CliError::plain(Exit::NotFound, what));
    }
    let mut problems = match load::of_files(files, ConfigDir::new(dir)) {
        Ok(loaded) => loaded.warnings,
        Err(LoadError::Problems(problems)) => problems,
        Err(error @ (LoadError::File(_) | LoadError::TooMany(_))) => return Err(error.into()),
    };
    let announced = parse_services(&services);
    problems.extend(announced.problems);
    problems.extend(announced.warnings);
    Ok(Report::of("file", count, problems))
}

fn services(dir: &Path) -> Result<Vec<(String, String)>, CliError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(dir, &error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        if found.len() >= SERVICE_FILES_MAX {
            let what = format!("{} holds more than {SERVICE_FILES_MAX} files", dir.display());
            return Err(CliError::plain(Exit::Bad, what));
        }
        let text = files::read_public_text(&path).map_err(|error| CliError::plain(Exit::Bad, error.to_string()))?;
        found.push((path.display().to_string(), text));
    }
    Ok(found)
}

fn unreadable(dir: &Path, error: &std::io::Error) -> CliError {
    CliError::plain(Exit::Bad, format!("cannot list {}", dir.display())).cause(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use starling_config::Problem;

    use super::*;

    fn told(problems: &[Problem]) -> Vec<String> {
        problems.iter().map(|problem| format!("{} {}", problem.code, problem.message)).collect()
    }

    #[test]
    fn settings_and_announcements_are_checked_together() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        assert_eq!(inspect(dir).unwrap_err().exit(), Exit::NotFound);
        fs::create_dir_all(dir.join("services.d")).unwrap();
        fs::write(dir.join("agent.toml"), "node_name = \"vm-1\"\n[mesh]\nlisen = \"0.0.0.0:7740\"\n").unwrap();
        let instance = "[[instance]]\nservice = \"orders\"\nprotocl = \"http\"\naddress = \"127.0.0.1:8080\"\n";
        fs::write(dir.join("services.d/orders.toml"), instance).unwrap();
        fs::write(dir.join("services.d/.orders.toml.swp"), "garbage").unwrap();
        let report = inspect(dir).unwrap();
        let all = told(&report.problems).join("\n");
        assert!(report.errors >= 2 && all.contains("lisen") && all.contains("protocl"), "{all}");
        assert_eq!(report.count, 2);
        fs::write(dir.join("agent.toml"), "node_name = \"vm-1\"\n").unwrap();
        fs::write(dir.join("services.d/orders.toml"), instance.replace("protocl", "protocol")).unwrap();
        let report = inspect(dir).unwrap();
        assert_eq!((report.errors, super::super::text(&report)), (0, "0 errors in 2 files\n".to_owned()));
    }

    #[test]
    fn one_file_more_than_an_agent_reads_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("services.d");
        fs::create_dir(&dir).unwrap();
        for number in 0..SERVICE_FILES_MAX {
            fs::write(dir.join(format!("{number}.toml")), "").unwrap();
        }
        assert_eq!(inspect(folder.path()).unwrap().count, SERVICE_FILES_MAX);
        fs::write(dir.join("x.toml"), "").unwrap();
        assert!(inspect(folder.path()).is_err());
    }
}
