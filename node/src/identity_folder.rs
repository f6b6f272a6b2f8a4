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

use std::path::Path;

use crate::files::FileError;
use crate::folder::Folder;

/// Mode of the folder.
const MODE: u32 = 0o700;
/// An agent that starts meanwhile may put the old folder back, once.
const SWAPS_MAX: u32 = 3;
/// In use, being written, being replaced.
const USED: &str = "identity";
const NEW: &str = "identity.new";
const OLD: &str = "identity.old";

/// Puts an identity back that a crash left aside.
///
/// # Errors
/// [`FileError`] when the folder cannot be renamed.
pub fn heal(state: &Path) -> Result<(), FileError> {
    match Folder::open(state) {
        Ok(state) => heal_in(&state),
        Err(error) if error.is_missing() => Ok(()),
        Err(error) => Err(error),
    }
}

fn heal_in(state: &Folder) -> Result<(), FileError> {
    if state.holds(USED) || !state.holds(OLD) {
        return Ok(());
    }
    // Where it does not come about, somebody else put it back, or a new one took the place.
    if state.rename(OLD, USED)? { state.sync() } else { Ok(()) }
}

/// The folder in use; `None` where there is none.
///
/// # Errors
/// [`FileError`], also for a link in its place.
pub fn used(state: &Folder) -> Result<Option<Folder>, FileError> {
    match state.child(USED) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The folder in use, made where there is none.
///
/// # Errors
/// [`FileError`], also for a link in its place.
pub fn used_or_new(state: &Folder) -> Result<Folder, FileError> {
    heal_in(state)?;
    match used(state)? {
        Some(folder) => Ok(folder),
        None => state.make_child(USED, MODE),
    }
}

/// Makes a new folder beside the one in use, with everything of it but `left_out`. What a crash left of an earlier one is
/// removed.
///
/// # Errors
/// [`FileError`].
pub fn stage(state: &Folder, left_out: &[&str]) -> Result<Folder, FileError> {
    heal_in(state)?;
    let held = used(state)?;
    [NEW, OLD].iter().try_for_each(|leftover| state.remove(leftover))?;
    let new = state.make_child(NEW, MODE)?;
    let Some(held) = held else { return Ok(new) };
    for name in held.names()? {
        // A leading dot: what an interrupted write left.
        let is_leftover = name.to_string_lossy().starts_with('.');
        if !is_leftover && !left_out.iter().any(|left| name == *left) {
            new.keep(&held, &name)?;
        }
    }
    Ok(new)
}

/// Puts the staged folder in the place of the one in use, which goes.
///
/// # Errors
/// [`FileError`]; the one in use is then in use still.
pub fn swap(state: &Folder, staged: &Folder) -> Result<(), FileError> {
    staged.sync()?;
    let mut swaps = 1;
    loop {
        state.rename(USED, OLD)?;
        if state.rename(NEW, USED)? {
            break;
        }
        if swaps == SWAPS_MAX {
            heal_in(state)?;
            return Err(taken(state));
        }
        swaps += 1;
    }
    if !state.is_child(USED, staged) {
        return Err(taken(state));
    }
    state.sync()?;
    state.remove(OLD)
}

/// Whoever owns the state folder put something else there meanwhile.
fn taken(state: &Folder) -> FileError {
    FileError::Io {
        action: "replace",
        path: state.path().join(USED),
        source: std::io::Error::new(std::io::ErrorKind::ResourceBusy, "somebody else changes this folder"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::unistd::{Gid, Uid, geteuid};

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

    fn stage_at(state: &Path, left_out: &[&str]) -> Folder {
        stage(&Folder::open(state).unwrap(), left_out).unwrap()
    }

    fn create(folder: &Folder, name: &str, text: &str) {
        folder.create(name, text.as_bytes(), 0o600, None).unwrap();
    }

    #[test]
    fn a_new_folder_takes_the_place_of_the_old_and_keeps_what_it_is_told() {
        let state = state(&[("issuing.key", "old"), ("chain.pem", "old"), ("record.key", "kept")]);
        let new = stage_at(state.path(), &["issuing.key", "chain.pem"]);
        create(&new, "issuing.key", "new");
        assert_eq!(read(state.path(), "issuing.key").as_deref(), Some("old"), "until it is whole, nothing changed");
        swap(&Folder::open(state.path()).unwrap(), &new).unwrap();
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
        let new = stage_at(state.path(), &[]);
        create(&new, "issuing.key", "new");
        swap(&Folder::open(state.path()).unwrap(), &new).unwrap();
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
        let new = stage_at(written.path(), &["issuing.key"]);
        create(&new, "issuing.key", "ne");
        heal(written.path()).unwrap();
        assert_eq!(read(written.path(), "issuing.key").as_deref(), Some("old"));
        let again = stage_at(written.path(), &["issuing.key"]);
        assert_eq!(again.names().unwrap().len(), 0, "half of one is not built upon");

        // Between the two renames.
        let between = state(&[("issuing.key", "old")]);
        let new = stage_at(between.path(), &["issuing.key"]);
        create(&new, "issuing.key", "new");
        fs::rename(between.path().join("identity"), between.path().join("identity.old")).unwrap();
        heal(between.path()).unwrap();
        assert_eq!(read(between.path(), "issuing.key").as_deref(), Some("old"));

        // After them.
        let after = state(&[("issuing.key", "new")]);
        fs::create_dir(after.path().join("identity.old")).unwrap();
        heal(after.path()).unwrap();
        assert_eq!(read(after.path(), "issuing.key").as_deref(), Some("new"));
        stage_at(after.path(), &[]);
        assert_eq!(folders(after.path()), ["identity", "identity.new"], "the old one is removed with the next");
    }

    #[test]
    fn an_agent_that_puts_the_old_one_back_meanwhile_stops_nothing() {
        let state = state(&[("issuing.key", "old")]);
        let new = stage_at(state.path(), &["issuing.key"]);
        create(&new, "issuing.key", "new");
        fs::rename(state.path().join("identity"), state.path().join("identity.old")).unwrap();
        heal(state.path()).unwrap();
        swap(&Folder::open(state.path()).unwrap(), &new).unwrap();
        assert_eq!(read(state.path(), "issuing.key").as_deref(), Some("new"));
    }

    /// The agent's user owns the state folder and puts links to a victim in the place of each name, again and again, while root
    /// installs: whatever comes of that, nothing outside is made, changed, given away or removed.
    #[test]
    fn links_that_race_with_an_installation_lead_nowhere() {
        let all = tempfile::tempdir().unwrap();
        let (state, victim) = (all.path().join("state"), all.path().join("victim"));
        fs::create_dir(&state).unwrap();
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("issuing.key"), "kept").unwrap();
        let owner = geteuid().is_root().then(|| (Uid::from_raw(65_534), Gid::from_raw(65_534)));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let spare = state.join("spare");
                while !done.load(Ordering::Relaxed) {
                    for name in [USED, NEW, OLD] {
                        let place = state.join(name);
                        // Each may fail: root removes and renames meanwhile.
                        let _ = fs::rename(&place, &spare);
                        let _ = symlink(&victim, &place);
                        let _ = fs::remove_file(&place);
                        let _ = fs::rename(&spare, &place);
                        let _ = fs::remove_dir_all(&spare);
                    }
                }
            });
            let folder = Folder::open(&state).unwrap();
            for _ in 0..2_000 {
                let _ = stage(&folder, &["issuing.key"]).and_then(|new| {
                    new.create("issuing.key", b"new", 0o600, owner)?;
                    new.create("chain.pem", b"new", 0o644, owner)?;
                    new.give(owner)?;
                    swap(&folder, &new)
                });
                let _ = used_or_new(&folder).and_then(|used| used.create("pending.key", b"new", 0o600, owner));
            }
            done.store(true, Ordering::Relaxed);
        });
        let us = fs::metadata(all.path()).unwrap().uid();
        let names: Vec<_> = fs::read_dir(&victim).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["issuing.key"]);
        assert_eq!(fs::read_to_string(victim.join("issuing.key")).unwrap(), "kept");
        let there = fs::metadata(victim.join("issuing.key")).unwrap();
        assert_eq!((there.uid(), there.nlink(), fs::metadata(&victim).unwrap().uid()), (us, 1, us));
    }

    #[test]
    fn a_link_in_the_place_of_the_folder_in_use_is_refused() {
        let state = state(&[]);
        let elsewhere = tempfile::tempdir().unwrap();
        fs::remove_dir(state.path().join(USED)).unwrap();
        symlink(elsewhere.path(), state.path().join(USED)).unwrap();
        let folder = Folder::open(state.path()).unwrap();
        assert!(used(&folder).is_err() && used_or_new(&folder).is_err() && stage(&folder, &[]).is_err());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
