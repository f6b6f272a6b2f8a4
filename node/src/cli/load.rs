//! Reads the texts of the configuration: `agent.toml`, `conf.d/*.toml`, the environment, the host's name.

use std::path::Path;

use starling_config::{ConfigDir, Loaded, Problem, SourceFile, SourceKind, Sources, load};

use crate::cli::errors::{CliError, Exit};
use crate::files::{self, FileError};

/// Most files of `conf.d`; more of them are a mistake (a mounted archive, say) and not settings.
const CONF_D_FILES_MAX: usize = 256;

/// Where the configuration is and what the command line says about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// The folder.
    pub(crate) dir: ConfigDir,
    /// Dotted key and value of each flag.
    pub(crate) flags: Vec<(String, String)>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// Texts that are wrong, all of them.
    Problems(Vec<Problem>),
    /// A file that cannot be read.
    File(FileError),
    /// More files than [`CONF_D_FILES_MAX`].
    TooMany(String),
}

impl LoadError {
    /// As a person reads it.
    pub(crate) fn render(&self) -> String {
        match self {
            Self::Problems(problems) => starling_config::render(problems),
            Self::File(error) => match crate::cli::errors::causes(error) {
                Some(cause) => format!("error: {error}: {cause}\n"),
                None => format!("error: {error}\n"),
            },
            Self::TooMany(dir) => format!("error: {dir} holds more than {CONF_D_FILES_MAX} files\n"),
        }
    }
}

impl From<LoadError> for CliError {
    /// For commands that only need to know a path or two.
    fn from(error: LoadError) -> Self {
        Self::plain(Exit::Usage, "the configuration cannot be used").cause(error.render().trim_end().to_owned())
    }
}

/// The configuration as it is now.
pub(crate) fn configuration(request: &Request) -> Result<Loaded, LoadError> {
    let sources = Sources {
        files: files_of(request.dir.path())?,
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("STARLING_"))
            .collect(),
        flags: request.flags.clone(),
        dir: request.dir.clone(),
        hostname: hostname(),
    };
    load(sources).map_err(LoadError::Problems)
}

/// The name of this host; empty when it has none.
pub(crate) fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// The configuration of these files alone.
pub(crate) fn of_files(files: Vec<SourceFile>, dir: ConfigDir) -> Result<Loaded, LoadError> {
    load(Sources { files, dir, hostname: hostname(), ..Sources::default() }).map_err(LoadError::Problems)
}

/// `agent.toml` and the files of `conf.d`.
pub(crate) fn files_of(dir: &Path) -> Result<Vec<SourceFile>, LoadError> {
    let mut found = Vec::new();
    let agent = dir.join("agent.toml");
    match files::read_public_text(&agent) {
        Ok(text) => found.push(SourceFile { path: agent.display().to_string(), text, kind: SourceKind::AgentToml }),
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(LoadError::File(error)),
    }
    let conf_d = dir.join("conf.d");
    let entries = match std::fs::read_dir(&conf_d) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(source) => return Err(LoadError::File(FileError::Io { action: "list", path: conf_d, source })),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(source) => return Err(LoadError::File(FileError::Io { action: "list", path: conf_d, source })),
        };
        // Names with a leading dot are what editors leave behind.
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            paths.push(path);
        }
        if paths.len() > CONF_D_FILES_MAX {
            return Err(LoadError::TooMany(conf_d.display().to_string()));
        }
    }
    paths.sort();
    for path in paths {
        let text = files::read_public_text(&path).map_err(LoadError::File)?;
        found.push(SourceFile { path: path.display().to_string(), text, kind: SourceKind::ConfD });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_from_agent_toml_and_conf_d_without_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        let conf_d = folder.path().join("conf.d");
        std::fs::create_dir(&conf_d).unwrap();
        for (name, text) in
            [("20-b.toml", "b"), ("10-a.toml", "a"), (".x.toml", "no"), ("c.toml~", "no"), ("d.yaml", "no")]
        {
            std::fs::write(conf_d.join(name), text).unwrap();
        }
        std::fs::write(folder.path().join("agent.toml"), "agent").unwrap();
        let texts: Vec<String> = files_of(folder.path()).unwrap().into_iter().map(|file| file.text).collect();
        assert_eq!(texts, ["agent", "a", "b"]);
        assert!(files_of(&folder.path().join("nowhere")).unwrap().is_empty());
    }

    #[test]
    fn one_file_too_many_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let conf_d = folder.path().join("conf.d");
        std::fs::create_dir(&conf_d).unwrap();
        for number in 0..CONF_D_FILES_MAX {
            std::fs::write(conf_d.join(format!("{number}.toml")), "").unwrap();
        }
        assert!(files_of(folder.path()).is_ok());
        std::fs::write(conf_d.join("x.toml"), "").unwrap();
        assert!(matches!(files_of(folder.path()), Err(LoadError::TooMany(_))));
    }
}
