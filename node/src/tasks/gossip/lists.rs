//! Lists of renewed node certificates as plain files, `trust/lists` under the state folder, each under its hash; and this
//! node's own certificates, `identity/certificates`, which stay when a later bundle names other lists.
//!
//! What is read is believed by its hash, and by signatures where it is used.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use starling_identity::limits::{LIST_BYTES_MAX, LISTS_MAX};
use starling_identity::rotate::{NodeCertificate, node_of};
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
    /// Those that no bundle names yet, the oldest first.
    waiting: VecDeque<[u8; 32]>,
    own: Option<CertificateList>,
    /// What is believed by which bundle, until something changes: to read a large mesh's certificates takes a while.
    read: Option<([u8; 32], Arc<NodeCertificates>)>,
    changed: bool,
}

impl Lists {
    /// Those of a state folder that this bundle names.
    pub(super) fn open(state: &Path, bundle: &TrustBundle) -> Self {
        let (folder, own_path) = (state.join(FOLDER), state.join(OWN_FILE));
        let named = bundle.lists.iter().filter_map(|hash| read(&folder.join(hex(hash))));
        let held = named.map(|list| (list.hash(), list)).collect();
        let own = read(&own_path);
        Self { folder, own_path, held, waiting: VecDeque::new(), own, read: None, changed: false }
    }

    /// Which lists the bundle names that are not held.
    pub(super) fn lacking<'a>(&self, bundle: &'a TrustBundle) -> impl Iterator<Item = &'a [u8; 32]> {
        bundle.lists.iter().filter(|hash| !self.held.contains_key(*hash))
    }

    /// Takes a list; false when it is held already. One that the bundle does not name waits for the next one that does, in
    /// the place of the oldest if too many wait.
    pub(super) fn take(&mut self, list: CertificateList, bundle: &TrustBundle) -> bool {
        let hash = list.hash();
        if self.held.insert(hash, list).is_some() {
            return false;
        }
        if !bundle.lists.contains(&hash) {
            self.waiting.push_back(hash);
        }
        if self.waiting.len() > LISTS_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.held.remove(&oldest);
        }
        self.has_changed();
        true
    }

    /// Keeps certificates of this node's own key beside those that are held; false when none is new. What does not lead to
    /// a root of the bundle, or is another key's, is dropped: whoever brought it may have made it up.
    pub(super) fn take_own(&mut self, list: &CertificateList, bundle: &TrustBundle, own_key: &[u8; 32]) -> bool {
        let proves = |der: &&NodeCertificate| node_of(bundle, der).is_some_and(|(_, key)| key == *own_key);
        let mut proven: Vec<_> = list.certificates().iter().filter(proves).cloned().collect();
        let held = self.own.iter().flat_map(CertificateList::certificates);
        if proven.iter().all(|der| held.clone().any(|held| held == der)) {
            return false;
        }
        proven.extend(held.filter(proves).cloned());
        // At most as many as count, the newest first.
        let packed = |all: &[_]| CertificateList::pack(all).ok().and_then(|mut lists| lists.pop());
        let all = packed(&proven).map(|list| NodeCertificates::new(vec![list]));
        let own = all.and_then(|all| packed(all.of_key(own_key)));
        if own.is_none() || own == self.own {
            return false;
        }
        self.own = own;
        self.has_changed();
        true
    }

    /// Keeps what the lists of the bundle say of this node's own key: a later bundle may name other lists.
    pub(super) fn keep_own(&mut self, bundle: &TrustBundle, own_key: &[u8; 32]) {
        let certificates = self.certificates(bundle);
        if let Some(list) = CertificateList::pack(certificates.of_key(own_key)).ok().and_then(|mut lists| lists.pop()) {
            self.take_own(&list, bundle, own_key);
        }
    }

    /// Forgets what the bundle in force does not name.
    pub(super) fn settle(&mut self, bundle: &TrustBundle) {
        let before = self.held.len();
        self.held.retain(|hash, _| bundle.lists.contains(hash));
        self.waiting.clear();
        if self.held.len() != before {
            self.has_changed();
        }
    }

    /// The lists of this bundle, as far as they are held, and our own certificates.
    pub(super) fn certificates(&mut self, bundle: &TrustBundle) -> Arc<NodeCertificates> {
        let hash = bundle.hash();
        if let Some((read_for, certificates)) = &self.read
            && *read_for == hash
        {
            return Arc::clone(certificates);
        }
        let named = bundle.lists.iter().filter_map(|hash| self.held.get(hash));
        let certificates = Arc::new(NodeCertificates::new(named.chain(&self.own).cloned().collect()));
        self.read = Some((hash, Arc::clone(&certificates)));
        certificates
    }

    fn has_changed(&mut self) {
        (self.changed, self.read) = (true, None);
    }

    /// Writes what changed; what no bundle names any more stays until [`Self::prune`].
    pub(super) fn flush(&self) -> Durability {
        match if self.changed { self.write() } else { Ok(()) } {
            Ok(()) => Durability::Durable,
            Err(refused) => {
                error!(%refused, "renewed certificates cannot be stored: after a restart peers have to bring them again");
                Durability::Memory
            }
        }
    }

    fn write(&self) -> Result<(), files::FileError> {
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
        Ok(())
    }

    /// Everything is on disk, the bundle too: files that it does not name are only in the way.
    pub(super) fn prune(&mut self, bundle: &TrustBundle) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_held = self.held.keys().chain(&bundle.lists).any(|hash| name == *hex(hash));
            if !is_held {
                let _ = std::fs::remove_file(entry.path());
            }
        }
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

#[cfg(test)]
mod tests {
    use starling_identity::rotate::{begin, read_issued};
    use starling_identity::{IssuingCa, NewTrustDomain, create_trust_domain};
    use starling_model::{NodeName, TrustDomain};

    use super::*;
    use crate::crypto::wall_clock;

    fn made() -> NewTrustDomain {
        create_trust_domain(&TrustDomain::new("prod.internal").unwrap(), "alice", false, wall_clock()).unwrap()
    }

    fn issued(made: &NewTrustDomain) -> (NodeCertificate, [u8; 32]) {
        let issuer = IssuingCa::load(&made.bundle, &made.issuer_key_pem).unwrap();
        let node = issuer.issue_node(&NodeName::new("vm-1").unwrap(), 30, wall_clock()).unwrap();
        (read_issued(node.chain_pem.as_bytes()).unwrap(), node.key_hash)
    }

    /// A list that comes after its bundle is in force: what it says of our key outlives the next bundle and a restart.
    #[test]
    fn our_certificate_stays_when_a_later_bundle_names_other_lists() {
        let (made, folder) = (made(), tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path().join("identity")).unwrap();
        let (node, key) = issued(&made);
        let both = begin(&made.bundle, &made.root_key_pem, &[node], wall_clock()).unwrap();
        let mut lists = Lists::open(folder.path(), &both.bundle);
        assert_eq!(lists.lacking(&both.bundle).count(), 1);
        assert!(lists.take(both.lists[0].clone(), &both.bundle));
        assert!(!lists.take(both.lists[0].clone(), &both.bundle), "it is held");
        lists.keep_own(&both.bundle, &key);
        let mut later = both.bundle.clone();
        later.lists.clear();
        lists.settle(&later);
        let renewed = |lists: &mut Lists| lists.certificates(&later).of_key(&key).to_vec();
        assert_eq!(renewed(&mut lists), both.lists[0].certificates());
        assert_eq!(lists.flush(), Durability::Durable);
        let file = folder.path().join(FOLDER).join(hex(&both.lists[0].hash()));
        std::fs::write(&file, "left over").unwrap();
        lists.prune(&later);
        assert!(!file.exists());
        assert_eq!(renewed(&mut Lists::open(folder.path(), &later)), both.lists[0].certificates());
        let foreign = issued(&self::made());
        let made_up = CertificateList::pack(&[foreign.0]).unwrap();
        assert!(
            !lists.take_own(&made_up[0], &both.bundle, &key) && !lists.take_own(&made_up[0], &both.bundle, &foreign.1)
        );
        assert_eq!(renewed(&mut lists), both.lists[0].certificates());
    }

    /// One past the limit: the oldest of those that no bundle names makes room.
    #[test]
    fn few_lists_wait_for_a_bundle() {
        let (made, folder) = (made(), tempfile::tempdir().unwrap());
        let mut lists = Lists::open(folder.path(), &made.bundle);
        let handed: Vec<CertificateList> =
            (0..=LISTS_MAX).map(|_| CertificateList::pack(&[issued(&made).0]).unwrap().remove(0)).collect();
        assert!(handed.iter().all(|list| lists.take(list.clone(), &made.bundle)));
        assert_eq!(lists.held.len(), LISTS_MAX);
        assert!(!lists.held.contains_key(&handed[0].hash()) && lists.held.contains_key(&handed[LISTS_MAX].hash()));
    }
}
