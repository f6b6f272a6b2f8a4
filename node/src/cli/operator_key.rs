//! An operator at work: the key, and what a trust bundle says of it. Commands on documents find it by the bundle that an
//! agent uses, those on trust by the one of the operator's folder.
//!
//! A key may lie under a passphrase, which comes from a file and nowhere else: arguments and environment can be read by others.

use std::path::{Path, PathBuf};

use clap::Args;
use starling_identity::passphrase::seal;
use starling_identity::{KeyInvalid, OperatorKey};
use starling_model::{KeyId, MeshId, codes};
use zeroize::Zeroizing;

use crate::cli::errors::{CliError, Exit};
use crate::cli::table::clean;
use crate::files;

/// Whose key signs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct KeyArgs {
    /// The operator's key [default: with trust commands the one in the operator's folder that has the role, with others
    /// ~/.config/starling/operator.key]
    #[arg(long, value_name = "FILE", env = "STARLING_OPERATOR_KEY")]
    pub(crate) key: Option<PathBuf>,
    /// A file with the passphrase of the key
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Who signs, and for which mesh.
pub(crate) struct Desk {
    pub(crate) key: OperatorKey,
    pub(crate) mesh: MeshId,
    pub(crate) id: KeyId,
    pub(crate) name: String,
}

impl Desk {
    /// `k1 "alice"`.
    pub(crate) fn signer(&self) -> String {
        format!("{} \"{}\"", self.id, clean(&self.name))
    }
}

/// The key of `path`, opened with the passphrase in the file `passphrase` where one is named.
///
/// # Errors
/// The files' own; ST0618 for a key under a passphrase that is missing or another one; a file that holds no such key.
pub(crate) fn read(path: &Path, passphrase_file: Option<&Path>) -> Result<OperatorKey, CliError> {
    let text = files::read_secret_text(path)?;
    let passphrase = passphrase_file.map(passphrase).transpose()?;
    OperatorKey::open(&text, passphrase.as_ref().map(|text| text.as_str())).map_err(|error| match error {
        KeyInvalid::Encrypted => {
            let what = format!("{} is under a passphrase", path.display());
            CliError::coded(Exit::Refused, codes::KEY_LOCKED, what)
        }
        // A wrong passphrase can leave bytes that look whole, and are no key.
        KeyInvalid::Passphrase | KeyInvalid::Kind(_) if passphrase_file.is_some() => {
            let what = format!("the passphrase does not open {}", path.display());
            CliError::coded(Exit::Refused, codes::KEY_LOCKED, what)
        }
        KeyInvalid::Cost => {
            let what = format!("{} is not opened", path.display());
            CliError::coded(Exit::Refused, codes::KEY_COSTLY, what).cause(error.to_string())
        }
        KeyInvalid::Armour | KeyInvalid::Kind(_) | KeyInvalid::Passphrase | KeyInvalid::Generate => {
            CliError::plain(Exit::Refused, format!("{} holds no operator key", path.display())).cause(error.to_string())
        }
    })
}

/// A new key as it is written: under the passphrase in the file `passphrase` where one is named.
///
/// # Errors
/// The file's own, or a failing provider.
pub(crate) fn at_rest(
    key_pem: &Zeroizing<String>,
    passphrase_file: Option<&Path>,
) -> Result<Zeroizing<String>, CliError> {
    let Some(path) = passphrase_file else { return Ok(key_pem.clone()) };
    seal(key_pem, &passphrase(path)?)
        .map_err(|error| CliError::plain(Exit::Bad, "the key cannot be encrypted").cause(error.to_string()))
}

/// The first line of a secret file.
fn passphrase(path: &Path) -> Result<Zeroizing<String>, CliError> {
    let text = files::read_secret_text(path)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.contains('\n') {
        let what = format!("{} does not hold a passphrase on one line", path.display());
        return Err(CliError::plain(Exit::Usage, what).help(["write it there with an editor, then:  chmod 600 FILE"]));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use starling_identity::create_trust_domain;
    use starling_model::TrustDomain;

    use super::*;

    /// `openssl pkcs8 -topk8 -scrypt -scrypt_N 1048576 -scrypt_p 16` of a key: 1 GiB of memory, sixteen times over.
    #[test]
    fn a_key_that_costs_too_much_to_open_is_refused_unopened() {
        let folder = tempfile::tempdir().unwrap();
        let (key, secret) = (folder.path().join("key"), folder.path().join("secret"));
        // SEQUENCE { PBES2 { scrypt { salt, N = 2^20, r = 8, p = 16 }, AES-256-CBC }, 16 bytes }
        let der = concat!(
            "MGQwUAYJKoZIhvcNAQUNMEMwIgYJKwYBBAHaRwQLMBUECAECAwQFBgcIAgMQAAAC\n",
            "AQgCARAwHQYJYIZIAWUDBAEqBBAAAQIDBAUGBwgJCgsMDQ4PBBAAAAAAAAAAAAAAAAAAAAAA"
        );
        let pem = format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{der}\n-----END ENCRYPTED PRIVATE KEY-----\n");
        files::create_secret(&key, pem.as_bytes()).unwrap();
        files::create_secret(&secret, b"x\n").unwrap();
        let refused = read(&key, Some(&secret)).unwrap_err();
        assert_eq!((refused.exit(), refused.code()), (Exit::Refused, Some(codes::KEY_COSTLY)));
    }

    #[test]
    fn a_key_under_a_passphrase_opens_with_its_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            files::replace_secret(&path, text.as_bytes()).unwrap();
            path
        };
        let domain = TrustDomain::new("prod.internal").unwrap();
        let made = create_trust_domain(&domain, "alice", false, super::super::now()).unwrap();
        let (right, wrong) = (write("right", "correct horse\n"), write("wrong", "battery staple"));
        let sealed = at_rest(&made.operator_key_pem, Some(&right)).unwrap();
        let (key, plain) = (write("alice.key", &sealed), write("plain.key", &made.operator_key_pem));
        assert_eq!(*at_rest(&made.operator_key_pem, None).unwrap(), *made.operator_key_pem);
        assert_eq!(read(&key, Some(&right)).unwrap().public(), read(&plain, None).unwrap().public());
        for passphrase in [None, Some(wrong.as_path())] {
            let refused = read(&key, passphrase).unwrap_err();
            assert_eq!((refused.exit(), refused.code()), (Exit::Refused, Some(codes::KEY_LOCKED)));
        }
        assert_eq!(
            read(&key, Some(&write("windows", "correct horse\r\n"))).unwrap().public(),
            read(&plain, None).unwrap().public()
        );
        for bad in ["", "\n", "two\nlines\n"] {
            assert_eq!(read(&key, Some(&write("bad", bad))).unwrap_err().exit(), Exit::Usage, "{bad:?}");
        }
        let open = write("open", "correct horse");
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(read(&key, Some(&open)).unwrap_err().code(), Some(codes::SECRET_UNSAFE));
        assert_eq!(read(&write("root.key", &made.root_key_pem), None).unwrap_err().exit(), Exit::Refused);
    }
}
