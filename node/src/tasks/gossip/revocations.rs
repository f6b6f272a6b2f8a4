//! Revocations as a plain file, `trust/revocations` under the state folder: trust is not in the database, so a damaged
//! store never lets a revoked node in again.
//!
//! A line each: the signed form and its signature in base64. They are judged again when they are read, so the file need
//! not be trusted. That happens twice: before the agent listens ([`on_disk`]), so that a revoked node finds no moment in
//! which it is let in, and by the machine, which tells them on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use starling_identity::{OperatorRefused, OperatorStatement, TrustBundle, verify_operator};
use starling_model::envelope::split_signature;
use starling_model::{NodeName, Revocation};
use tracing::{error, warn};

use crate::files;
use crate::store::Durability;

const FOLDER: &str = "trust";
const FILE: &str = "revocations";

/// Whom the file of this state folder revokes, by the bundle in force: each node with the issuing keys that stay.
#[must_use]
pub fn on_disk(state: &Path, bundle: &TrustBundle) -> Vec<(NodeName, Vec<[u8; 32]>)> {
    let mut held: BTreeMap<NodeName, Vec<Revocation>> = BTreeMap::new();
    for envelope in RevocationFile::new(state).read() {
        let Some((body, signature)) = split_signature(&envelope) else { continue };
        let Ok(said) = Revocation::read(body) else { continue };
        match verify_operator(OperatorStatement::Revocation, said.signer, body, signature, bundle) {
            // It was in force here: a key that signs no more undoes none of its revocations.
            Ok(_) | Err(OperatorRefused::UnknownKey(_) | OperatorRefused::Role { .. }) => {
                held.entry(said.node.clone()).or_default().push(said);
            }
            Err(refused) => warn!(node = %said.node, %refused, "a revocation in the file does not count"),
        }
    }
    let newest = |all: &Vec<Revocation>| all.iter().map(|one| one.number).max();
    let in_force = held.into_values().flat_map(|all| {
        let number = newest(&all);
        all.into_iter().filter(move |one| Some(one.number) == number)
    });
    in_force.map(|one| (one.node, one.kept)).collect()
}

/// The file with its content.
#[derive(Debug)]
pub(super) struct RevocationFile {
    path: PathBuf,
    held: BTreeMap<[u8; 32], Bytes>,
    changed: bool,
}

impl RevocationFile {
    /// The file of a state folder; nothing is read yet.
    pub(super) fn new(state: &Path) -> Self {
        Self { path: state.join(FOLDER).join(FILE), held: BTreeMap::new(), changed: false }
    }

    /// What it holds. A line that makes no sense is left out, with a word to people.
    pub(super) fn read(&self) -> Vec<Bytes> {
        let text = match files::read_public_text(&self.path) {
            Ok(text) => text,
            Err(refused) if refused.is_missing() => return Vec::new(),
            Err(refused) => {
                error!(%refused, "revocations cannot be read: revoked nodes are let in until peers name them again");
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (number, line) in text.lines().enumerate() {
            match BASE64.decode(line.trim()) {
                Ok(bytes) => found.push(bytes.into()),
                Err(_) => warn!(line = number + 1, file = %self.path.display(), "no revocation in this line"),
            }
        }
        found
    }

    pub(super) fn keep(&mut self, hash: [u8; 32], bytes: &Bytes) {
        self.changed |= self.held.insert(hash, bytes.clone()).is_none();
    }

    pub(super) fn forget(&mut self, hash: &[u8; 32]) {
        self.changed |= self.held.remove(hash).is_some();
    }

    /// Writes what changed: a new file beside, synchronised, in the place of the old one.
    pub(super) fn flush(&mut self) -> Durability {
        if !std::mem::take(&mut self.changed) {
            return Durability::Durable;
        }
        let lines: Vec<String> = self.held.values().map(|bytes| BASE64.encode(bytes)).collect();
        let text = lines.join("\n") + "\n";
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let written = files::make_dir(folder, 0o700).and_then(|()| files::replace(&self.path, text.as_bytes(), 0o644));
        match written {
            Ok(()) => Durability::Durable,
            Err(refused) => {
                // Kept for the next change; the mesh remembers meanwhile.
                self.changed = true;
                error!(%refused, "revocations cannot be written: after a restart peers have to name them again");
                Durability::Memory
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use starling_identity::{NewTrustDomain, OperatorKey, create_trust_domain};

    use super::*;

    #[test]
    fn what_was_kept_is_read_and_damage_costs_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RevocationFile::new(folder.path());
        assert!(file.read().is_empty(), "nothing yet");
        let bytes = |byte| Bytes::from(vec![byte; 100]);
        for byte in 1..=3 {
            file.keep([byte; 32], &bytes(byte));
        }
        file.forget(&[2; 32]);
        file.flush();
        assert_eq!(RevocationFile::new(folder.path()).read(), [bytes(1), bytes(3)]);
        let path = folder.path().join(FOLDER).join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("not base64!\n{text}")).unwrap();
        assert_eq!(RevocationFile::new(folder.path()).read(), [bytes(1), bytes(3)]);
    }

    #[test]
    fn before_the_agent_listens_the_file_is_judged_by_the_bundle() {
        let domain = starling_model::TrustDomain::new("prod.internal").unwrap();
        let make = || create_trust_domain(&domain, "alice", false, crate::crypto::wall_clock()).unwrap();
        let (ours, foreign) = (make(), make());
        let signed = |made: &NewTrustDomain, node: &str, number, kept: &[u8]| {
            let said = Revocation {
                schema: 1,
                node: NodeName::new(node).unwrap(),
                signer: "k1".parse().unwrap(),
                number,
                signed_at: 0,
                kept: kept.iter().map(|byte| [*byte; 32]).collect(),
                reason: String::new(),
            };
            let body = said.to_body().unwrap();
            let key = OperatorKey::from_pem(&made.operator_key_pem).unwrap();
            let signature = key.sign(OperatorStatement::Revocation, &made.bundle.mesh_id, &body);
            Bytes::from([&body[..], &signature[..]].concat())
        };
        let folder = tempfile::tempdir().unwrap();
        assert!(on_disk(folder.path(), &ours.bundle).is_empty(), "no file");
        let mut file = RevocationFile::new(folder.path());
        let all = [
            signed(&ours, "vm-7", 1, &[1]),
            signed(&ours, "vm-7", 2, &[]),
            signed(&ours, "vm-8", 1, &[1, 2]),
            signed(&foreign, "vm-9", 1, &[]),
            Bytes::from_static(b"garbage"),
        ];
        for (at, bytes) in all.iter().enumerate() {
            file.keep([u8::try_from(at).unwrap(); 32], bytes);
        }
        let _ = file.flush();
        let want = vec![
            (NodeName::new("vm-7").unwrap(), Vec::new()),
            (NodeName::new("vm-8").unwrap(), vec![[1; 32], [2; 32]]),
        ];
        assert_eq!(on_disk(folder.path(), &ours.bundle), want);
    }
}
