//! Revocations as a plain file, `trust/revocations` under the state folder: trust is not in the database, so a damaged
//! store never lets a revoked node in again.
//!
//! A line each: the signed form and its signature in base64. They are judged again when they are read, so the file need
//! not be trusted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use tracing::{error, warn};

use crate::files;
use crate::store::Durability;

const FOLDER: &str = "trust";
const FILE: &str = "revocations";

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
}
