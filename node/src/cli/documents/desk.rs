//! Signing: the operator's key, which mesh it signs for, and the signed forms of one batch.
//!
//! Number and roles of the key come from the trust bundle that is in force at the agent. A signature is for one mesh; so
//! that no agent can have documents signed for another one, a bundle that lies with the key is compared first.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use starling_identity::{OperatorKey, OperatorStatement, Role, TrustBundle, batch_id};
use starling_model::limits::BATCH_DOCUMENTS_MAX;
use starling_model::mesh::{hex, read_fingerprint};
use starling_model::{Batch, Document, DocumentKey, Generation, MeshId, codes};

use super::parse;
use crate::api::views::{Envelope, SignedForm, Trust, TrustOperator};
use crate::cli::Address;
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::operator_key::{self, Desk, KeyArgs};
use crate::files;

/// Where an operator's key lies unless it is named.
const KEY_DEFAULT: &str = ".config/starling/operator.key";

/// The form of the signed bytes; there is one.
const SCHEMA: u16 = 1;

/// What is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) key: DocumentKey,
    pub(super) generation: Generation,
    /// The YAML; `None` removes the document.
    pub(super) text: Option<String>,
}

impl Desk {
    /// Reads the operator's key and finds it in the trust bundle that the agent uses.
    ///
    /// # Errors
    /// The file's own; ST0411 when the bundle does not name the key, ST0606 when it may not sign documents, ST0204 when
    /// the bundle that lies with the key is of another mesh.
    pub(super) fn open(client: &Client, args: &KeyArgs) -> Result<Self, CliError> {
        let path = match args.key.as_deref() {
            Some(path) => path.to_owned(),
            None => default_key(client.address())?,
        };
        let key = operator_key::read(&path, args.passphrase_file.as_deref()).map_err(|error| {
            if error.exit() == Exit::NotFound {
                error.help(["name the operator's key:  --key FILE, or STARLING_OPERATOR_KEY"])
            } else {
                error
            }
        })?;
        let trust = client.ask(Ask::get("/v1/trust"))?;
        let trust: Envelope<Trust> = parse(&trust.body)?;
        Self::of(key, &path, &trust.body)
    }

    fn of(key: OperatorKey, path: &Path, trust: &Trust) -> Result<Self, CliError> {
        let mesh = read_fingerprint(&trust.mesh_id).map(MeshId).ok_or_else(|| {
            CliError::plain(Exit::Bad, "the agent does not say which mesh it is of")
                .help(["it is of an older release than this program: starling version"])
        })?;
        if let Some((bundle, file)) = beside(path).filter(|(bundle, _)| bundle.mesh_id != mesh) {
            let what = "the agent is of another mesh than the operator's key";
            return Err(CliError::coded(Exit::Refused, codes::OTHER_MESH, what)
                .cause(format!("{} is of trust domain {}", file.display(), bundle.trust_domain))
                .help(["ask an agent of that mesh with --address, or name the key of this one with --key"]));
        }
        let public = hex(&key.public());
        let Some(operator) = trust.operators.iter().find(|operator| operator.public_key == public) else {
            let what = format!("the trust bundle in force names no operator with the key of {}", path.display());
            return Err(CliError::coded(Exit::Refused, codes::SIGNATURE_INVALID, what)
                .help(["name the key of an operator of this mesh:  --key FILE; new keys come by:  starling trust issue operator"]));
        };
        if !may_sign(operator) {
            let what = format!("{} \"{}\" has no role config", operator.key_id, operator.name);
            return Err(
                CliError::coded(Exit::Refused, codes::ROLE_MISSING, what).cause(format!("it has {}", operator.roles))
            );
        }
        let id = operator.key_id.parse().map_err(|_| {
            CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(operator.key_id.clone())
        })?;
        Ok(Self { key, mesh, id, name: operator.name.clone() })
    }

    /// Signs drafts as one batch; one alone is none.
    ///
    /// # Errors
    /// More than a batch may hold, or a text that fits no signed form.
    pub(super) fn sign(&self, drafts: &[Draft], now: SystemTime) -> Result<Vec<SignedForm>, CliError> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let signed_at = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let body = |draft: &Draft, batch: Option<Batch>| {
            let Draft { key, generation, text } = draft.clone();
            let deleted = text.is_none();
            let document = Document { schema: SCHEMA, key, signer: self.id, generation, signed_at, deleted, batch };
            document.to_body(text.as_deref().unwrap_or_default()).map_err(|error| {
                CliError::plain(Exit::Refused, format!("{} cannot be signed", draft.key)).cause(error.to_string())
            })
        };
        let alone = drafts.iter().map(|draft| body(draft, None)).collect::<Result<Vec<_>, _>>()?;
        let count = u16::try_from(drafts.len()).ok().filter(|count| *count <= BATCH_DOCUMENTS_MAX);
        let Some(count) = count else {
            let what = format!("{} documents are one batch of at most {BATCH_DOCUMENTS_MAX}", drafts.len());
            return Err(
                CliError::plain(Exit::Refused, what).help(["apply them in parts; those of one part are used together"])
            );
        };
        let bodies = match NonZeroU16::new(count).filter(|count| count.get() > 1) {
            None => alone,
            Some(count) => {
                let batch = Batch { id: batch_id(&self.mesh, &alone), count };
                drafts.iter().map(|draft| body(draft, Some(batch))).collect::<Result<Vec<_>, _>>()?
            }
        };
        Ok(bodies.iter().map(|body| self.form(body)).collect())
    }

    fn form(&self, body: &[u8]) -> SignedForm {
        let signature = self.key.sign(OperatorStatement::Document, &self.mesh, body);
        SignedForm {
            format: "starling-document/1".to_owned(),
            payload: BASE64.encode(body),
            key_id: self.id.to_string(),
            signature: BASE64.encode(signature),
        }
    }
}

/// A key beside the agent's socket, which is that of a demo; else the one of this user.
fn default_key(agent: &Address) -> Result<PathBuf, CliError> {
    if let Address::Unix(socket) = agent {
        let beside = socket.with_file_name("operator.key");
        if beside.symlink_metadata().is_ok() {
            return Ok(beside);
        }
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(|home| Path::new(&home).join(KEY_DEFAULT)).ok_or_else(|| {
        CliError::plain(Exit::Usage, "no operator's key is named")
            .help(["name it:  --key FILE, or STARLING_OPERATOR_KEY"])
    })
}

/// The trust bundle of the folder that a key lies in: beside it, or where `trust init` puts it.
fn beside(key: &Path) -> Option<(TrustBundle, PathBuf)> {
    let folder = key.parent()?;
    let places = [folder.join("bundle.trust"), folder.join("../trust/bundle.trust")];
    places.into_iter().find_map(|path| Some((TrustBundle::parse(&files::read_public(&path).ok()?).ok()?, path)))
}

fn may_sign(operator: &TrustOperator) -> bool {
    operator.roles.split(", ").any(|role| role == Role::Config.as_str())
}

#[cfg(test)]
mod tests;
