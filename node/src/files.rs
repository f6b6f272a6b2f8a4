//! Files that hold secrets, and files that must be whole or old.
//!
//! A secret file is opened without following a link, must be a regular file that belongs to us or to root, and nobody
//! else may read it: everything else is ST0610 with the `chmod` to run. We never loosen a mode and never create a
//! secret but exclusively and with 0600. A file is replaced by a temporary one beside it, flushed, renamed over it, and
//! the directory flushed: after a crash there is the old content or the new one.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use starling_model::codes::SECRET_UNSAFE;
use zeroize::Zeroizing;

/// Largest secret file; keys and join files are a few kilobytes.
pub const SECRET_BYTES_MAX: u64 = 256 * 1024;

/// Largest public file that we read whole: bundles, instance files.
pub const PUBLIC_BYTES_MAX: u64 = 1024 * 1024;

/// Most files of `services.d` that are read; more of them are a mistake (a mounted archive, say).
pub const SERVICE_FILES_MAX: usize = 512;

/// Mode of secret files.
pub const SECRET_MODE: u32 = 0o600;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A secret that others could read or change, or that is no regular file.
    #[error("{SECRET_UNSAFE}: {} {why}", path.display())]
    Unsafe {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// The command that mends it.
        help: String,
    },
    /// Over the limit of this module.
    #[error("{} has over {limit} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// Not UTF-8.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// Which file.
        path: PathBuf,
    },
}

impl FileError {
    /// True when the file does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// True when the file exists already, where it must not.
    #[must_use]
    pub fn is_existing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path, source }
}

/// Reads a secret file after checking that it is safe.
///
/// # Errors
/// [`FileError`]; `Unsafe` (ST0610) when it is a link, no regular file, of a foreign owner or open to others.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Non-blocking, so that a named pipe in its place cannot hold the agent up; regular files do not care.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => return Err(is_link(path)),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    secret_of(file, path, None)
}

/// A link in the place of a secret.
pub(crate) fn is_link(path: &Path) -> FileError {
    FileError::Unsafe {
        path: path.to_owned(),
        why: "is a symbolic link".to_owned(),
        help: format!("put the file itself there: rm {0} and copy it", path.display()),
    }
}

/// What an open secret file holds; it belongs to us, to root, or to `also`.
///
/// # Errors
/// As [`read_secret`].
pub(crate) fn secret_of(file: File, path: &Path, also: Option<u32>) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let metadata = file.metadata().map_err(io_error("inspect", path))?;
    check_safe(path, &metadata, also)?;
    let mut content = Zeroizing::new(Vec::new());
    let expected = usize::try_from(metadata.len().min(SECRET_BYTES_MAX)).unwrap_or(0);
    content.reserve_exact(expected.saturating_add(1)); // No growth, so no freed copy of a key is left behind.
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut content).map_err(io_error("read", path))?;
    if content.len() as u64 > SECRET_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned(), limit: SECRET_BYTES_MAX });
    }
    Ok(content)
}

/// Reads a secret file as text.
///
/// # Errors
/// As [`read_secret`], and [`FileError::NotText`].
pub fn read_secret_text(path: &Path) -> Result<Zeroizing<String>, FileError> {
    text_of(&read_secret(path)?, path)
}

/// A secret as text.
///
/// # Errors
/// [`FileError::NotText`].
pub(crate) fn text_of(bytes: &[u8], path: &Path) -> Result<Zeroizing<String>, FileError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(FileError::NotText { path: path.to_owned() }),
    }
}

fn check_safe(path: &Path, metadata: &Metadata, also: Option<u32>) -> Result<(), FileError> {
    let refuse = |why: String, help: String| Err(FileError::Unsafe { path: path.to_owned(), why, help });
    let shown = path.display();
    if !metadata.file_type().is_file() {
        return refuse("is not a regular file".to_owned(), format!("put a regular file with mode 0600 at {shown}"));
    }
    let (owner, us) = (metadata.uid(), geteuid().as_raw());
    if owner != us && owner != 0 && Some(owner) != also {
        return refuse(
            format!("belongs to uid {owner}, not to us (uid {us}) or root"),
            format!("chown {us} {shown} && chmod 600 {shown}"),
        );
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return refuse(format!("has mode {mode:04o}: others can reach it"), format!("chmod 600 {shown}"));
    }
    Ok(())
}

/// Reads a public file of at most [`PUBLIC_BYTES_MAX`].
///
/// # Errors
/// [`FileError`].
pub fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    read_bounded(path, PUBLIC_BYTES_MAX)
}

/// Reads a file of at most `limit` bytes, whoever can read it.
///
/// # Errors
/// [`FileError`].
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("inspect", path))?;
    if !metadata.file_type().is_file() {
        return Err(io_error("read", path)(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let mut content = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(io_error("read", path))?;
    if content.len() as u64 > limit {
        return Err(FileError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(content)
}

/// Reads a public text file.
///
/// # Errors
/// As [`read_public`], and [`FileError::NotText`].
pub fn read_public_text(path: &Path) -> Result<String, FileError> {
    String::from_utf8(read_public(path)?).map_err(|_| FileError::NotText { path: path.to_owned() })
}

/// Creates a secret file; it must not exist. It is on the disk when this returns.
///
/// # Errors
/// [`FileError`]; see [`FileError::is_existing`].
pub fn create_secret(path: &Path, content: &[u8]) -> Result<(), FileError> {
    create(path, content, SECRET_MODE)
}

/// Creates a file with `mode`; it must not exist. It is on the disk when this returns.
///
/// # Errors
/// [`FileError`]; see [`FileError::is_existing`].
pub fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    write_new(path, content, mode)?;
    sync_parent(path)
}

/// Creates a file with `mode` that must not exist: it is there whole or not at all, also after a crash.
///
/// # Errors
/// [`FileError`]; see [`FileError::is_existing`].
pub fn create_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let temporary = temporary_beside(path)?;
    let written = write_new(&temporary, content, mode)
        // Unlike a rename, a link never takes another file's place.
        .and_then(|()| fs::hard_link(&temporary, path).map_err(io_error("create", path)));
    // Best effort: the error that matters is the one returned.
    let _ = fs::remove_file(&temporary);
    written?;
    sync_parent(path)
}

/// Writes a public file without waiting for the disk: it outlives this process, and perhaps not this host.
///
/// # Errors
/// [`FileError`].
pub fn leave(path: &Path, content: &[u8]) -> Result<(), FileError> {
    fs::write(path, content).map_err(io_error("write", path))
}

/// The name of a new file in the same folder; one that a crash left there is removed.
fn temporary_beside(path: &Path) -> Result<PathBuf, FileError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".new-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &temporary)(error)),
        Ok(()) | Err(_) => Ok(temporary),
    }
}

/// Replaces a secret file, or creates it: after a crash it has the old content or the new one.
///
/// # Errors
/// [`FileError`].
pub fn replace_secret(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, SECRET_MODE)
}

/// Replaces a file, or creates it, with `mode`: after a crash it has the old content or the new one.
///
/// # Errors
/// [`FileError`].
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let temporary = temporary_beside(path)?;
    let written = write_new(&temporary, content, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(io_error("replace", path)));
    if written.is_err() {
        // Best effort: the error that matters is the one returned.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_parent(path)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(io_error("create", path))?;
    // The umask narrows what `mode` gives; for public files the documented mode is meant.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(io_error("set the mode of", path))?;
    file.write_all(content).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("flush", path))
}

/// Flushes the directory that holds `path`, so that creation, renaming and removal in it survive power loss.
///
/// # Errors
/// [`FileError`].
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(io_error("flush the directory", parent))
}

/// Makes a directory and its parents where missing; only a new directory gets `mode`.
///
/// # Errors
/// [`FileError`].
pub fn make_dir(path: &Path, mode: u32) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(io_error("create the directory", path))?;
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn check(arrange: impl FnOnce(&Path), expect_word: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        arrange(&path);
        let got = read_secret(&path);
        match (got, expect_word) {
            (Ok(content), None) => assert_eq!(&content[..], b"key"),
            (Err(error), Some(word)) => assert!(error.to_string().contains(word), "{error}"),
            (got, _) => panic!("{got:?}, expected {expect_word:?}"),
        }
    }

    fn with_mode(path: &Path, mode: u32) {
        fs::write(path, b"key").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_private_regular_file_is_a_secret() {
        check(|path| create_secret(path, b"key").unwrap(), None);
        check(|path| with_mode(path, 0o400), None);
        check(|path| with_mode(path, 0o640), Some("ST0610"));
        check(|path| with_mode(path, 0o604), Some("0604"));
        check(|path| with_mode(path, 0o620), Some("ST0610"));
        check(|path| DirBuilder::new().mode(0o700).create(path).unwrap(), Some("not a regular file"));
        check(
            |path| {
                let target = path.with_file_name("target");
                create_secret(&target, b"key").unwrap();
                symlink(&target, path).unwrap();
            },
            Some("symbolic link"),
        );
        check(|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap(), Some("not a regular file"));
        check(|_| (), Some("open"));
    }

    #[test]
    fn an_unsafe_secret_names_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        with_mode(&path, 0o644);
        match read_secret(&path) {
            Err(FileError::Unsafe { help, .. }) => assert_eq!(help, format!("chmod 600 {}", path.display())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_secret_over_the_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let size = usize::try_from(SECRET_BYTES_MAX).unwrap();
        create_secret(&path, &vec![1; size]).unwrap();
        assert_eq!(read_secret(&path).unwrap().len(), size);
        replace_secret(&path, &vec![1; size + 1]).unwrap();
        assert!(matches!(read_secret(&path), Err(FileError::TooLarge { .. })));
    }

    #[test]
    fn creating_never_overwrites_and_replacing_always_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        create_secret(&path, b"one").unwrap();
        assert!(create_secret(&path, b"two").unwrap_err().is_existing());
        assert_eq!(&read_secret(&path).unwrap()[..], b"one");
        replace_secret(&path, b"two").unwrap();
        assert_eq!(&read_secret(&path).unwrap()[..], b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, SECRET_MODE);
    }
}
