//! A folder that somebody else may change while we work in it.
//!
//! Root installs an identity into the folder of the agent's user, who can put a link in the place of anything there, at any
//! moment. So such a folder is opened once, and whatever is done in it is done by its descriptor and by plain names, without
//! following a link; ownership is given by the descriptor of what was made, before it has its name. What the agent's user can
//! still do is to break its own folder.
//!
//! The way to the first folder is the administrator's: a link in its place counts when it is root's or our own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, geteuid, linkat, unlinkat};
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// Deepest nesting that is removed; ours has one level.
const DEPTH_MAX: u32 = 8;

/// Whose what is made is to be.
pub type Ownership = Option<(Uid, Gid)>;

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// For messages.
    path: PathBuf,
}

impl Folder {
    /// Opens the folder that an administrator named.
    ///
    /// # Errors
    /// [`FileError`]; ST0610 for a link of somebody else in its place.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let there = path.symlink_metadata().map_err(failed("open", path))?;
        let is_link = there.file_type().is_symlink();
        if is_link && there.uid() != 0 && there.uid() != geteuid().as_raw() {
            return Err(FileError::Unsafe {
                path: path.to_owned(),
                why: format!("is a symbolic link of uid {}", there.uid()),
                help: format!("put the folder itself there: rm {}", path.display()),
            });
        }
        let real = if is_link { fs::canonicalize(path).map_err(failed("open", path))? } else { path.to_owned() };
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&real, flags, Mode::empty()).map_err(because("open", path))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// A folder in this one.
    ///
    /// # Errors
    /// [`FileError`], also for a link.
    pub fn child(&self, name: &str) -> Result<Self, FileError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let path = self.path.join(name);
        let fd = openat(&self.fd, name, flags, Mode::empty()).map_err(because("open the directory", &path))?;
        Ok(Self { fd, path })
    }

    /// A folder in this one that must not exist.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn make_child(&self, name: &str, mode: u32) -> Result<Self, FileError> {
        let made = mkdirat(&self.fd, name, Mode::from_bits_truncate(mode));
        made.map_err(because("create the directory", &self.path.join(name)))?;
        let child = self.child(name)?;
        fchmod(&child.fd, Mode::from_bits_truncate(mode)).map_err(because("set the mode of", &child.path))?;
        self.sync()?;
        Ok(child)
    }

    /// True when something is there, a link included.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// True when `name` is the open folder `child` and nothing that took its place.
    #[must_use]
    pub fn is_child(&self, name: &str, child: &Self) -> bool {
        let (named, open) = (fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW), fstat(&child.fd));
        matches!((named, open), (Ok(named), Ok(open)) if (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino))
    }

    /// Reads a secret file. It may belong to us, to root and, where root reads, to whoever owns the folder.
    ///
    /// # Errors
    /// As [`files::read_secret_text`].
    pub fn read_secret_text(&self, name: &str) -> Result<Zeroizing<String>, FileError> {
        let path = self.path.join(name);
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ELOOP) => return Err(files::is_link(&path)),
            Err(error) => return Err(because("open", &path)(error)),
        };
        let owner = fstat(&self.fd).map_err(because("inspect", &self.path))?.st_uid;
        let also = geteuid().is_root().then_some(owner);
        files::text_of(&files::secret_of(file, &path, also)?, &path)
    }

    /// Reads a public file.
    ///
    /// # Errors
    /// [`FileError`], also for a link.
    pub fn read_public_text(&self, name: &str) -> Result<String, FileError> {
        let path = self.path.join(name);
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.fd, name, flags, Mode::empty()).map_err(because("open", &path))?);
        if !file.metadata().map_err(failed("inspect", &path))?.is_file() {
            return Err(failed("read", &path)(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let mut bytes = Vec::new();
        file.take(files::PUBLIC_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        if bytes.len() as u64 > files::PUBLIC_BYTES_MAX {
            return Err(FileError::TooLarge { path, limit: files::PUBLIC_BYTES_MAX });
        }
        String::from_utf8(bytes).map_err(|_| FileError::NotText { path })
    }

    /// Creates a file that must not exist, of this owner. It is whole and on the disk before it has its name.
    ///
    /// # Errors
    /// [`FileError`]; see [`FileError::is_existing`].
    pub fn create(&self, name: &str, content: &[u8], mode: u32, owner: Ownership) -> Result<(), FileError> {
        let temporary = self.write_beside(name, content, mode, owner)?;
        // Unlike a rename, a link never takes another file's place.
        let linked = linkat(&self.fd, temporary.as_str(), &self.fd, name, AtFlags::empty());
        let removed = self.remove_file(&temporary);
        linked.map_err(because("create", &self.path.join(name))).and(removed)?;
        self.sync()
    }

    /// Replaces a file, or creates it: after a crash it has the old content or the new one. A link in its place goes.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn replace(&self, name: &str, content: &[u8], mode: u32, owner: Ownership) -> Result<(), FileError> {
        let temporary = self.write_beside(name, content, mode, owner)?;
        renameat(&self.fd, temporary.as_str(), &self.fd, name).map_err(because("replace", &self.path.join(name)))?;
        self.sync()
    }

    /// The name of a whole file, flushed, of its owner, that is to become `name`.
    fn write_beside(&self, name: &str, content: &[u8], mode: u32, owner: Ownership) -> Result<String, FileError> {
        let path = self.path.join(name);
        let temporary = format!(".{name}.new-{}", std::process::id());
        self.remove_file(&temporary)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, temporary.as_str(), flags, Mode::from_bits_truncate(0o600));
        let mut file = File::from(fd.map_err(because("create", &path))?);
        let written = file
            .write_all(content)
            .map_err(failed("write", &path))
            // The umask narrows what is asked for; the documented mode is meant.
            .and_then(|()| fchmod(&file, Mode::from_bits_truncate(mode)).map_err(because("set the mode of", &path)))
            .and_then(|()| give(&file, owner, &path))
            .and_then(|()| file.sync_all().map_err(failed("flush", &path)));
        if written.is_err() {
            // Best effort: the error that matters is the one returned.
            let _ = self.remove_file(&temporary);
        }
        written.map(|()| temporary)
    }

    /// Gives a regular file of `from` this folder as a further home; anything else is left out.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn keep(&self, from: &Self, name: &OsStr) -> Result<(), FileError> {
        let there = fstatat(&from.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let is_file = there.is_ok_and(|there| kind(there.st_mode) == SFlag::S_IFREG);
        if !is_file {
            return Ok(());
        }
        linkat(&from.fd, name, &self.fd, name, AtFlags::empty()).map_err(because("keep", &from.path.join(name)))
    }

    /// Renames within this folder. False when `from` is not there, or a folder with something in it is in the way.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn rename(&self, from: &str, to: &str) -> Result<bool, FileError> {
        match renameat(&self.fd, from, &self.fd, to) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
            Err(error) => Err(because("rename", &self.path.join(from))(error)),
        }
    }

    /// Names in this folder.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn names(&self) -> Result<Vec<std::ffi::OsString>, FileError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.fd, ".", flags, Mode::empty()).map_err(because("read", &self.path))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(because("read", &self.path))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes a file or a folder with all that is in it; a link alone, and not what it leads to. Absent is fine.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remove(&self, name: &str) -> Result<(), FileError> {
        self.remove_within(OsStr::new(name), DEPTH_MAX)
    }

    fn remove_within(&self, name: &OsStr, depth: u32) -> Result<(), FileError> {
        let path = self.path.join(name);
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) if depth > 0 => {}
            Err(error) => return Err(because("remove", &path)(error)),
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty()).map_err(because("remove", &path))?;
        let child = Self { fd, path: path.clone() };
        child.names()?.iter().try_for_each(|inside| child.remove_within(inside, depth.saturating_sub(1)))?;
        match unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(because("remove", &path)(error)),
        }
    }

    fn remove_file(&self, name: &str) -> Result<(), FileError> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(because("remove", &self.path.join(name))(error)),
        }
    }

    /// This folder itself is theirs from now on.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn give(&self, owner: Ownership) -> Result<(), FileError> {
        give(&self.fd, owner, &self.path)
    }

    /// Creation, renaming and removal in it survive power loss.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn sync(&self) -> Result<(), FileError> {
        fsync(&self.fd).map_err(because("flush the directory", &self.path))
    }

    /// As messages name it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn kind(mode: nix::libc::mode_t) -> SFlag {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT
}

fn give(fd: impl std::os::fd::AsFd, owner: Ownership, path: &Path) -> Result<(), FileError> {
    let Some((user, group)) = owner else { return Ok(()) };
    fchown(fd, Some(user), Some(group)).map_err(because("give to the agent's user", path))
}

fn because(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> FileError {
    let no = failed(action, path);
    move |error| no(error.into())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn two() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let all = tempfile::tempdir().unwrap();
        let (ours, victim) = (all.path().join("state"), all.path().join("victim"));
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("kept"), "kept").unwrap();
        (all, ours, victim)
    }

    #[test]
    fn a_link_in_the_place_of_anything_leads_nowhere() {
        let (_all, ours, victim) = two();
        let folder = Folder::open(&ours).unwrap();
        symlink(&victim, ours.join("identity")).unwrap();
        assert!(folder.child("identity").is_err() && folder.make_child("identity", 0o700).is_err());
        assert!(folder.holds("identity") && !folder.holds("nothing"));
        symlink(victim.join("new"), ours.join("key")).unwrap();
        assert!(folder.create("key", b"secret", 0o600, None).unwrap_err().is_existing());
        assert!(matches!(folder.read_secret_text("key"), Err(FileError::Unsafe { .. })));
        symlink(victim.join("kept"), ours.join("public")).unwrap();
        assert!(folder.read_public_text("public").is_err());
        let temporary = format!(".fresh.new-{}", std::process::id());
        symlink(victim.join("kept"), ours.join(&temporary)).unwrap();
        folder.create("fresh", b"secret", 0o600, None).unwrap();
        assert_eq!(fs::read_to_string(ours.join("fresh")).unwrap(), "secret");
        symlink(victim.join("kept"), ours.join("replaced")).unwrap();
        folder.replace("replaced", b"new", 0o600, None).unwrap();
        assert_eq!(folder.read_secret_text("replaced").unwrap().as_str(), "new");
        let other = folder.make_child("other", 0o700).unwrap();
        other.keep(&folder, OsStr::new("public")).unwrap();
        assert!(!other.holds("public"), "only a regular file is kept");
        other.keep(&folder, OsStr::new("fresh")).unwrap();
        assert_eq!(other.read_secret_text("fresh").unwrap().as_str(), "secret");
        folder.remove("identity").unwrap();
        folder.remove("other").unwrap();
        folder.remove("nothing").unwrap();
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(victim.join("kept")).unwrap(), "kept");
        assert!(!folder.holds("other") && !folder.holds(&temporary));
    }

    #[test]
    fn what_is_nested_without_end_is_left_where_it_is() {
        let (_all, ours, _) = two();
        let folder = Folder::open(&ours).unwrap();
        let deep: PathBuf = (0..=DEPTH_MAX).map(|_| "d").collect();
        fs::create_dir_all(ours.join(&deep)).unwrap();
        assert!(folder.remove("d").is_err());
        fs::remove_dir(ours.join(&deep)).unwrap();
        folder.remove("d").unwrap();
        assert!(!folder.holds("d"));
    }

    /// The way to the folder is the administrator's, a link there is not the agent's user's.
    #[test]
    fn a_link_to_the_folder_counts_when_it_is_roots_or_ours() {
        let (all, ours, _) = two();
        let link = all.path().join("link");
        symlink(&ours, &link).unwrap();
        Folder::open(&link).unwrap().create("here", b"", 0o644, None).unwrap();
        assert!(ours.join("here").exists());
        if !geteuid().is_root() {
            return; // Nobody else gives a link away.
        }
        std::os::unix::fs::lchown(&link, Some(65_534), Some(65_534)).unwrap();
        assert!(matches!(Folder::open(&link), Err(FileError::Unsafe { .. })));
    }

    /// After `csr` the key is the agent's user's, and `join` reads it as root.
    #[test]
    fn root_reads_the_secrets_of_whoever_owns_the_folder_and_of_nobody_else() {
        if !geteuid().is_root() {
            return; // Others give nothing away.
        }
        let (_all, ours, _) = two();
        let folder = Folder::open(&ours).unwrap();
        let agent = Some((Uid::from_raw(65_534), Gid::from_raw(65_534)));
        folder.create("key", b"secret", 0o600, agent).unwrap();
        let there = fs::metadata(ours.join("key")).unwrap();
        assert_eq!((there.uid(), there.gid(), there.permissions().mode() & 0o7777), (65_534, 65_534, 0o600));
        assert!(matches!(folder.read_secret_text("key"), Err(FileError::Unsafe { .. })), "the folder is root's");
        folder.give(agent).unwrap();
        assert_eq!(folder.read_secret_text("key").unwrap().as_str(), "secret");
        fs::set_permissions(ours.join("key"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(folder.read_secret_text("key"), Err(FileError::Unsafe { .. })), "others can read it");
    }
}
