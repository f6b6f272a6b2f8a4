//! Lists of renewed node certificates as plain files, `trust/lists` under the state folder, each under its hash; and this
//! node's own certificates, `identity/certificates`, which stay when a later bundle names other lists.
//!
//! What is read is believed by its hash, and by signatures where it is used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use starling_identity::limits::{LIST_BYTES_MAX, LISTS_MAX};
use starling_identity::{CertificateList, NodeCertificates, TrustBundle};
use starling_model::mesh::hex;
use tracing::error;

use crate::files;
use crate::store::Durability;

const FOLDER: &str = "trust/lists";
const OWN_FILE: &str = "identity/certificates";
const _: () = assert!(LIST_BYTES_MAX as u64 <= files::PUBLIC_BYTES_MAX);

/// The lists that are held, and this node's own certificates.
#[derive(Debug)]
pub(super) struct Lists {
    folder: PathBuf,
    own_path: PathBuf,
    held: BTreeMap<[u8; 32], CertificateList>,
    own: Option<CertificateList>,
    changed: bool,
}

impl Lists {
    /// Those of a state folder that this bundle names.
    pub(super) fn open(state: &Path, bundle: &TrustBundle) -> Self {
        let (folder, own_path) = (state.join(FOLDER), state.join(OWN_FILE));
        let named = bundle.lists.iter().filter_map(|hash| read(&folder.join(hex(hash))));
        let held = named.map(|list| (list.hash(), list)).collect();
        let own = read(&own_path);
        Self { folder, own_path, held, own, changed: false }
    }

    /// Which lists the bundle names that are not held.
    pub(super) fn lacking<'a>(&self, bundle: &'a TrustBundle) -> impl Iterator<Item = &'a [u8; 32]> {
        bundle.lists.iter().filter(|hash| !self.held.contains_key(*hash))
    }

    /// Takes a list. One that the bundle does not name waits for the next one that does; false when too many wait.
    pub(super) fn take(&mut self, list: CertificateList, bundle: &TrustBundle) -> bool {
        let waiting = self.held.keys().filter(|hash| !bundle.lists.contains(*hash)).count();
        let is_new = !self.held.contains_key(&list.hash());
        if is_new && !bundle.lists.contains(&list.hash()) && waiting >= LISTS_MAX {
            return false;
        }
        self.changed |= is_new;
        self.held.insert(list.hash(), list);
        true
    }

    /// Keeps these certificates of this node's own key; false when they are held already.
    pub(super) fn take_own(&mut self, list: CertificateList) -> bool {
        if self.own.as_ref() == Some(&list) {
            return false;
        }
        (self.own, self.changed) = (Some(list), true);
        true
    }

    /// Forgets what the bundle in force does not name, and keeps our own certificates of what it does.
    pub(super) fn settle(&mut self, bundle: &TrustBundle, own_key: &[u8; 32]) {
        let before = self.held.len();
        self.held.retain(|hash, _| bundle.lists.contains(hash));
        self.changed |= self.held.len() != before;
        let certificates = self.certificates(bundle);
        if let Some(list) = CertificateList::pack(certificates.of_key(own_key)).ok().and_then(|mut lists| lists.pop()) {
            self.take_own(list);
        }
    }

    /// The lists of this bundle, as far as they are held, and our own certificates.
    pub(super) fn certificates(&self, bundle: &TrustBundle) -> NodeCertificates {
        let named = bundle.lists.iter().filter_map(|hash| self.held.get(hash));
        NodeCertificates::new(named.chain(&self.own).cloned().collect())
    }

    /// Writes what changed.
    pub(super) fn flush(&mut self, bundle: &TrustBundle) -> Durability {
        if !self.changed {
            return Durability::Durable;
        }
        match self.write(bundle) {
            Ok(()) => {
                self.changed = false;
                Durability::Durable
            }
            Err(refused) => {
                error!(%refused, "renewed certificates cannot be stored: after a restart peers have to bring them again");
                Durability::Memory
            }
        }
    }

    fn write(&self, bundle: &TrustBundle) -> Result<(), files::FileError> {
        let parent = self.folder.parent().unwrap_or(Path::new("."));
        files::make_dir(parent, 0o700)?;
        files::make_dir(&self.folder, 0o700)?;
        for (hash, list) in &self.held {
            let path = self.folder.join(hex(hash));
            if path.symlink_metadata().is_err() {
                files::replace(&path, list.raw(), 0o644)?;
            }
        }
        if let Some(own) = &self.own {
            files::replace(&self.own_path, own.raw(), 0o644)?;
        }
        // What no bundle names any more is only in the way.
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_held = self.held.keys().chain(&bundle.lists).any(|hash| name == *hex(hash));
            if !is_held {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Option<CertificateList> {
    match files::read_public(path) {
        Ok(bytes) => match CertificateList::decode(&bytes) {
            Ok(list) => Some(list),
            Err(invalid) => {
                error!(%invalid, file = %path.display(), "stored certificates are damaged; peers bring them again");
                None
            }
        },
        Err(refused) if refused.is_missing() => None,
        Err(refused) => {
            error!(%refused, "stored certificates cannot be read; peers bring them again");
            None
        }
    }
}
