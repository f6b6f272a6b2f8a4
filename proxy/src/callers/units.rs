//! Which systemd unit a control group is in: the first folder on the way to it (v2) that is no slice.
//!
//! Deeper folders are the unit's own, and whoever has it delegated names them at will: a user's manager runs units of any
//! name below `user@1000.service`, and all of them are that one's here.
//!
//! The id of a group is its folder's inode, so the group is found by looking for that. Done once for each group, on a
//! thread that may wait.

use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Where the hierarchy is mounted: alone, or beside that of v1.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Folders that are looked at for one group: hundreds are usual, a host of containers has thousands.
pub(crate) const FOLDERS_MAX: usize = 16_384;
/// Groups that a data thread remembers.
pub(crate) const KNOWN_MAX: usize = 1_024;

/// The unit of the group of this id; none where there is no such group, or it is in none.
pub(crate) fn of(id: u64) -> Option<String> {
    let root = ROOTS.iter().map(Path::new).find(|root| root.join("cgroup.procs").exists())?;
    unit(find(root, id))
}

/// The unit among the folders from the root to a group: slices only hold units.
fn unit(folders: Vec<String>) -> Option<String> {
    folders.into_iter().find(|name| !name.ends_with(".slice"))
}

/// The names of the folders from the root to the group of this id; none where there is no such group.
fn find(root: &Path, id: u64) -> Vec<String> {
    let mut waiting: Vec<PathBuf> = vec![root.to_owned()];
    let mut seen = 0;
    // Groups come and go while this looks: what cannot be read is gone.
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            seen += 1;
            if seen > FOLDERS_MAX {
                return Vec::new();
            }
            let path = entry.path();
            // Of a mount point the entry has another inode than the folder.
            if entry.ino() == id && fs::metadata(&path).is_ok_and(|meta| meta.ino() == id) {
                let inside = path.strip_prefix(root).unwrap_or(&path);
                return inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            }
            waiting.push(path);
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("starling-units-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_group_is_found_by_its_inode_wherever_it_is() {
        let root = Folder::new("found");
        let deep = root.0.join("system.slice/orders.service/workers");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(root.0.join("user.slice")).unwrap();
        fs::write(root.0.join("cgroup.procs"), "").unwrap();
        let ino = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(find(&root.0, ino(&deep)), ["system.slice", "orders.service", "workers"]);
        assert_eq!(find(&root.0, ino(&root.0.join("user.slice"))), ["user.slice"]);
        let none: [&str; 0] = [];
        assert_eq!(find(&root.0, ino(&root.0)), none, "the root is no unit");
        assert_eq!(find(&root.0, ino(&root.0.join("cgroup.procs"))), none, "a file is no group");
    }

    #[test]
    fn what_a_user_names_below_its_own_manager_is_no_unit_of_the_host() {
        let of = |path: &str| unit(path.split('/').map(str::to_owned).collect());
        assert_eq!(of("system.slice/orders.service/workers").as_deref(), Some("orders.service"));
        assert_eq!(of("system.slice/system-pg.slice/pg@1.service").as_deref(), Some("pg@1.service"));
        let spoofed = "user.slice/user-1000.slice/user@1000.service/app.slice/orders.service";
        assert_eq!(of(spoofed).as_deref(), Some("user@1000.service"));
        assert_eq!(of("user.slice/user-1000.slice"), None);
    }

    #[test]
    fn the_search_is_bounded() {
        let root = Folder::new("bounded");
        for at in 0..FOLDERS_MAX {
            fs::create_dir(root.0.join(format!("g{at}"))).unwrap();
        }
        let ino = |name: &str| fs::metadata(root.0.join(name)).unwrap().ino();
        assert_eq!(find(&root.0, ino("g7")), ["g7"]);
        fs::create_dir(root.0.join("one-more")).unwrap();
        let last = fs::read_dir(&root.0).unwrap().flatten().last().unwrap();
        assert!(find(&root.0, last.ino()).is_empty(), "the last of them is one past the bound");
    }
}
