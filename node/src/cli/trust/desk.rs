//! The operator's desk: a folder with a trust bundle, a key in it, and the role that a command needs.

use std::path::{Path, PathBuf};

use starling_identity::{Operator, Role, TrustBundle};
use starling_model::{KeyId, codes};

use super::operator_bundle;
use crate::cli::errors::{CliError, Exit};
use crate::cli::operator_key::{self, Desk, KeyArgs};

impl Desk {
    /// Reads the bundle of `dir` and the operator's key.
    ///
    /// # Errors
    /// The files' own; ST0411 when the bundle does not name the key, ST0606 when it has not the role, ST0618 when it is under
    /// a passphrase that is missing or another one.
    pub(super) fn open_in(dir: &Path, args: &KeyArgs, role: Role) -> Result<Self, CliError> {
        let (bundle, _) = operator_bundle(dir)?;
        let path = match &args.key {
            Some(path) => path.clone(),
            None => key_with(dir, &bundle, role)?,
        };
        let key = operator_key::read(&path, args.passphrase_file.as_deref())?;
        let Some(operator) = key.operator(&bundle) else {
            let what = format!("the trust bundle names no operator with the key of {}", path.display());
            return Err(CliError::coded(Exit::Refused, codes::SIGNATURE_INVALID, what)
                .help(["name the key of an operator of this trust domain with --key, and its folder with --dir"]));
        };
        if !operator.roles.has(role) {
            let what = format!("{} \"{}\" has no role {}", operator.key_id(), operator.name, role.as_str());
            return Err(
                CliError::coded(Exit::Refused, codes::ROLE_MISSING, what).cause(format!("it has {}", operator.roles))
            );
        }
        let (id, name) = (KeyId(operator.id), operator.name.clone());
        Ok(Self { key, mesh: bundle.mesh_id, id, name })
    }
}

/// The key of an operator with the role in this folder.
fn key_with(dir: &Path, bundle: &TrustBundle, role: Role) -> Result<PathBuf, CliError> {
    let file = |operator: &Operator| dir.join("operator").join(format!("{}.key", operator.name));
    let there = |operator: &&Operator| file(operator).symlink_metadata().is_ok();
    let may = |operator: &&Operator| operator.roles.has(role);
    let mut keys = bundle.operators.iter().filter(there);
    // One that may not is named all the same: what it lacks is then said.
    let chosen = keys.clone().find(may).or_else(|| keys.next());
    chosen.map(file).ok_or_else(|| {
        let what = format!("{} holds no operator's key", dir.join("operator").display());
        CliError::plain(Exit::NotFound, what).help(["name it:  --key FILE, or STARLING_OPERATOR_KEY"])
    })
}
