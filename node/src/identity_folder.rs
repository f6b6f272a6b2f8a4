//! The folder of a node's keys and certificates, replaced as a whole: after a crash there is the old identity or the new
//! one, and never the key of one with the chain of the other.
//!
//! ```text
//! STATE/identity        in use: issuing.key, chain.pem, record.key, quic.key, pending.key
//! STATE/identity.new    being written
//! STATE/identity.old    being replaced
//! ```
//!
//! The new folder is written and flushed first; then the old one steps aside and the new one takes its place. A crash
//! between these two renames leaves `identity.old` alone, and whoever looks next puts it back ([`heal`]).

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::files::{self, FileError};

/// Mode of the folder.
const MODE: u32 = 0o700;
/// An agent that starts meanwhile may put the old folder back, once.
const SWAPS_MAX: u32 = 3;

fn folder(state: &Path, suffix: &str) -> PathBuf {
    state.join(format!("identity{suffix}"))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path, source }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Puts an identity back that a crash left aside.
///
/// # Errors
/// [`FileError`] when the folder cannot be renamed.
pub fn heal(state: &Path) -> Result<(), FileError> {
    let (used, old) = (folder(state, ""), folder(state, ".old"));
    if used.symlink_metadata().is_ok() || old.symlink_metadata().is_err() {
        return Ok(());
    }
    match fs::rename(&old, &used) {
        // Somebody else put it back, or a new one took the place.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
        other => other.map_err(failed("put back", &old)),
    }?;
    files::sync_parent(&used)
}

/// Makes a new folder beside the one in use, with everything of it but `left_out`. What a crash left of an earlier one is
/// removed.
///
/// # Errors
/// [`FileError`].
pub fn stage(state: &Path, left_out: &[&str]) -> Result<PathBuf, FileError> {
    heal(state)?;
    let (used, new, old) = (folder(state, ""), folder(state, ".new"), folder(state, ".old"));
    for leftover in [&new, &old] {
        absent_is_fine(fs::remove_dir_all(leftover)).map_err(failed("remove", leftover))?;
    }
    files::make_dir_no_link(&new, MODE)?;
    let entries = match fs::read_dir(&used) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(new),
        Err(error) => return Err(failed("read", &used)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("read", &used))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && !left_out.iter().any(|name| entry.file_name() == *name) {
            let (from, to) = (entry.path(), new.join(entry.file_name()));
            fs::hard_link(&from, &to).map_err(failed("keep", &from))?;
        }
    }
    Ok(new)
}

/// Puts the staged folder in the place of the one in use, which goes.
///
/// # Errors
/// [`FileError`]; the one in use is then in use still.
pub fn swap(state: &Path) -> Result<(), FileError> {
    let (used, new, old) = (folder(state, ""), folder(state, ".new"), folder(state, ".old"));
    files::sync_parent(&new.join("."))?;
    let mut swaps = 1;
    loop {
        absent_is_fine(fs::rename(&used, &old)).map_err(failed("replace", &used))?;
        match fs::rename(&new, &used) {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && swaps < SWAPS_MAX => swaps += 1,
            Err(error) => {
                heal(state)?;
                return Err(failed("replace", &used)(error));
            }
        }
    }
    files::sync_parent(&used)?;
    absent_is_fine(fs::remove_dir_all(&old)).map_err(failed("remove", &old))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(state: &Path, name: &str) -> Option<String> {
        fs::read_to_string(state.join("identity").join(name)).ok()
    }

    fn state(files: &[(&str, &str)]) -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("identity")).unwrap();
        for (name, text) in files {
            fs::write(state.path().join("identity").join(name), text).unwrap();
        }
        state
    }

    fn folders(state: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(state).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_folder_takes_the_place_of_the_old_and_keeps_what_it_is_told() {
        let state = state(&[("issuing.key", "old"), ("chain.pem", "old"), ("record.key", "kept")]);
        let new = stage(state.path(), &["issuing.key", "chain.pem"]).unwrap();
        files::create_secret(&new.join("issuing.key"), b"new").unwrap();
        assert_eq!(read(state.path(), "issuing.key").as_deref(), Some("old"), "until it is whole, nothing changed");
        swap(state.path()).unwrap();
        assert_eq!(read(state.path(), "issuing.key").as_deref(), Some("new"));
        assert_eq!(
            (read(state.path(), "record.key").as_deref(), read(state.path(), "chain.pem")),
            (Some("kept"), None)
        );
        assert_eq!(folders(state.path()), ["identity"]);
    }

    #[test]
    fn where_there_is_none_the_first_is_made() {
        let state = tempfile::tempdir().unwrap();
        let new = stage(state.path(), &[]).unwrap();
        files::create_secret(&new.join("issuing.key"), b"new").unwrap();
        swap(state.path()).unwrap();
        assert_eq!(
            (read(state.path(), "issuing.key").as_deref(), folders(state.path())),
            (Some("new"), vec!["identity".to_owned()])
        );
    }

    /// A crash may come after each step; what is found then is one whole identity.
    #[test]
    fn after_a_crash_at_any_step_the_old_or_the_new_identity_is_there() {
        // While it is written.
        let written = state(&[("issuing.key", "old")]);
        let new = stage(written.path(), &["issuing.key"]).unwrap();
        fs::write(new.join("issuing.key"), "ne").unwrap();
        heal(written.path()).unwrap();
        assert_eq!(read(written.path(), "issuing.key").as_deref(), Some("old"));
        let again = stage(written.path(), &["issuing.key"]).unwrap();
        assert_eq!(fs::read_dir(again).unwrap().count(), 0, "half of one is not built upon");

        // Between the two renames.
        let between = state(&[("issuing.key", "old")]);
        let new = stage(between.path(), &["issuing.key"]).unwrap();
        fs::write(new.join("issuing.key"), "new").unwrap();
        fs::rename(between.path().join("identity"), between.path().join("identity.old")).unwrap();
        heal(between.path()).unwrap();
        assert_eq!(read(between.path(), "issuing.key").as_deref(), Some("old"));

        // After them.
        let after = state(&[("issuing.key", "new")]);
        fs::create_dir(after.path().join("identity.old")).unwrap();
        heal(after.path()).unwrap();
        assert_eq!(read(after.path(), "issuing.key").as_deref(), Some("new"));
        stage(after.path(), &[]).unwrap();
        assert_eq!(folders(after.path()), ["identity", "identity.new"], "the old one is removed with the next");
    }

    #[test]
    fn an_agent_that_puts_the_old_one_back_meanwhile_stops_nothing() {
        let state = state(&[("issuing.key", "old")]);
        let new = stage(state.path(), &["issuing.key"]).unwrap();
        fs::write(new.join("issuing.key"), "new").unwrap();
        fs::rename(state.path().join("identity"), state.path().join("identity.old")).unwrap();
        heal(state.path()).unwrap();
        swap(state.path()).unwrap();
        assert_eq!(read(state.path(), "issuing.key").as_deref(), Some("new"));
    }
}
