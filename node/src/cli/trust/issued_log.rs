//! `operator/issued.log`: what was issued from this folder, a line for each identity, written before it is handed out.
//!
//! ```text
//! node NAME key SHA-256 (64 hex digits) serial HEX until DATE by KEYID
//! ```
//!
//! It is secret because it names every host. A line of another form is kept and says nothing.

use std::path::{Path, PathBuf};

use starling_identity::SignedNode;
use starling_model::NodeName;
use starling_model::mesh::{hex, read_fingerprint};

use crate::cli::errors::CliError;
use crate::files;

/// The log of one folder, as it was read.
#[derive(Debug)]
pub(super) struct IssuedLog {
    path: PathBuf,
    text: String,
}

impl IssuedLog {
    /// Reads it; where there is none, nothing was issued.
    ///
    /// # Errors
    /// The file's own.
    pub(super) fn read(dir: &Path) -> Result<Self, CliError> {
        let path = dir.join("operator/issued.log");
        match files::read_secret_text(&path) {
            Ok(text) => Ok(Self { path, text: text.to_string() }),
            Err(error) if error.is_missing() => Ok(Self { path, text: String::new() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Name and key of each line, the oldest first.
    fn lines(&self) -> impl DoubleEndedIterator<Item = (&str, [u8; 32])> {
        self.text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words.as_slice() {
                ["node", name, "key", key, ..] => Some((*name, read_fingerprint(key)?)),
                _ => None,
            }
        })
    }

    /// All names, each as often as it was issued.
    pub(super) fn names(&self) -> Vec<String> {
        self.lines().map(|(name, _)| name.to_owned()).collect()
    }

    /// True when an identity of this name was issued.
    pub(super) fn holds(&self, node: &NodeName) -> bool {
        self.newest_key(node).is_some()
    }

    /// The key that was issued last for a node.
    pub(super) fn newest_key(&self, node: &NodeName) -> Option<[u8; 32]> {
        self.lines().rev().find(|(name, _)| *name == node.as_str()).map(|(_, key)| key)
    }

    /// Writes down what is about to be handed out: a join file without a line must not exist.
    ///
    /// # Errors
    /// The file's own.
    pub(super) fn append(mut self, issued: &SignedNode, by: &str) -> Result<(), CliError> {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        let (key, serial, until) = (hex(&issued.key_hash), &issued.serial, issued.not_after);
        self.text.push_str(&format!("node {} key {key} serial {serial} until {until} by {by}\n", issued.node));
        Ok(files::replace_secret(&self.path, self.text.as_bytes())?)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_name_counts_and_lines_of_another_form_say_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let node = |name: &str| NodeName::new(name).unwrap();
        assert!(IssuedLog::read(folder.path()).unwrap().names().is_empty(), "there is none yet");
        files::make_dir(&folder.path().join("operator"), 0o700).unwrap();
        let (old, new) = ("0a".repeat(32), "0b".repeat(32));
        let text = format!(
            "node vm-1 key {old} serial 1 until x by k1\nnode vm-2 key cut\n# a remark\nnode vm-1 key {new} serial 2"
        );
        files::create_secret(&folder.path().join("operator/issued.log"), text.as_bytes()).unwrap();
        let log = IssuedLog::read(folder.path()).unwrap();
        assert_eq!(log.names(), ["vm-1", "vm-1"]);
        assert_eq!((log.newest_key(&node("vm-1")), log.holds(&node("vm-2"))), (Some([0x0b; 32]), false));
    }
}
