//! What operators sign: documents with the role config, revocations with the role revoke. One function judges both, by
//! the bundle in force and never by dates; one function signs both, for commands, fixtures and tests alike.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use starling_model::{BatchId, Code, KeyId, MeshId, codes};
use zeroize::Zeroizing;

use crate::armor;
use crate::bundle::{BundleSigner, Operator, Role, TrustBundle};
use crate::issue::IssueError;
use crate::keys::{EdKey, KeyInvalid, sha256};
use crate::passphrase;
use crate::signature::{SignatureKind, verify_ed25519};

/// Which kind of statement, and so which role its signer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorStatement {
    /// A document of any kind: role config.
    Document,
    /// A revocation of a node: role revoke.
    Revocation,
}

impl OperatorStatement {
    /// The role that its signer needs.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::Document => Role::Config,
            Self::Revocation => Role::Revoke,
        }
    }

    fn kind(self) -> SignatureKind {
        match self {
            Self::Document => SignatureKind::Document,
            Self::Revocation => SignatureKind::Revocation,
        }
    }
}

/// Why an operator's signature counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorRefused {
    /// The bundle in force names no such key.
    #[error("the trust bundle names no operator key {0}")]
    UnknownKey(KeyId),
    /// It does, and the key may sign other things.
    #[error("operator key {id} may sign as {held}, this needs the role {}", wanted.as_str())]
    Role {
        /// Whose.
        id: KeyId,
        /// What it may sign.
        held: String,
        /// What was needed.
        wanted: Role,
    },
    /// The signature does not hold for this kind, mesh and body.
    #[error("the signature is not by operator key {0}")]
    BadSignature(KeyId),
}

impl OperatorRefused {
    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownKey(_) => "unknown-key",
            Self::Role { .. } => "role",
            Self::BadSignature(_) => "bad-signature",
        }
    }

    /// The catalogue entry.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownKey(_) | Self::BadSignature(_) => codes::SIGNATURE_INVALID,
            Self::Role { .. } => codes::ROLE_MISSING,
        }
    }
}

/// Says which operator of the bundle signed `body`, if one that may did.
///
/// # Errors
/// [`OperatorRefused`] with the first thing that is wrong.
pub fn verify_operator<'a>(
    statement: OperatorStatement,
    signer: KeyId,
    body: &[u8],
    signature: &[u8; 64],
    bundle: &'a TrustBundle,
) -> Result<&'a Operator, OperatorRefused> {
    let held = bundle.operators.iter().find(|operator| operator.id == signer.0);
    let operator = held.ok_or(OperatorRefused::UnknownKey(signer))?;
    let wanted = statement.role();
    if !operator.roles.has(wanted) {
        return Err(OperatorRefused::Role { id: signer, held: operator.roles.to_string(), wanted });
    }
    if !verify_ed25519(statement.kind(), &bundle.mesh_id, &operator.key, body, signature) {
        return Err(OperatorRefused::BadSignature(signer));
    }
    Ok(operator)
}

/// Names the batch of documents that are signed together: a hash over the mesh and over all their signed forms as they
/// are without a batch, in the order of `bodies`. Signer, time and generations are part of these, so no two calls of
/// `apply` meet in one batch.
#[must_use]
pub fn batch_id(mesh: &MeshId, bodies: &[Vec<u8>]) -> BatchId {
    let hashes: Vec<u8> = bodies.iter().flat_map(|body| sha256(body)).collect();
    BatchId(sha256(&[b"starling/v1/batch\0".as_slice(), &mesh.0, &hashes].concat()))
}

/// An operator's private key. It never reaches an agent.
pub struct OperatorKey(EdKey);

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorKey(elided)")
    }
}

impl OperatorKey {
    /// Reads a key file (PKCS#8 in PEM), as `trust init` writes it.
    ///
    /// # Errors
    /// [`KeyInvalid`] when it is none.
    pub fn from_pem(text: &str) -> Result<Self, KeyInvalid> {
        Self::open(text, None)
    }

    /// The same where the key may be under a passphrase; one that is not needs none.
    ///
    /// # Errors
    /// [`KeyInvalid`]; `Encrypted` when a passphrase is needed, `Passphrase` when this one does not open it.
    pub fn open(text: &str, passphrase: Option<&str>) -> Result<Self, KeyInvalid> {
        if passphrase::is_sealed(text) {
            let key = passphrase::open(text, passphrase.ok_or(KeyInvalid::Encrypted)?)?;
            return EdKey::from_pkcs8(&key).map(Self);
        }
        let body = Zeroizing::new(armor::decode_one(text.as_bytes(), armor::PRIVATE_KEY).ok_or(KeyInvalid::Armour)?);
        EdKey::from_pkcs8(&body).map(Self)
    }

    /// The public half, as the bundle names it.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.public()
    }

    /// The operator of `bundle` whose key this is.
    #[must_use]
    pub fn operator<'a>(&self, bundle: &'a TrustBundle) -> Option<&'a Operator> {
        let public = self.public();
        bundle.operators.iter().find(|operator| operator.key == public)
    }

    /// The bundle that follows `before`: what `change` makes of it, signed by this key. Sequence and previous hash are set
    /// here.
    ///
    /// # Errors
    /// [`IssueError::NotAdmin`] when members would not take it from this key, [`IssueError::Bundle`] when it is no bundle.
    pub fn update(
        &self,
        before: &TrustBundle,
        change: impl FnOnce(&mut TrustBundle),
    ) -> Result<TrustBundle, IssueError> {
        let admin = self.operator(before).filter(|operator| operator.roles.has(Role::Admin));
        let id = admin.ok_or(IssueError::NotAdmin)?.id;
        before.next(change, &BundleSigner::Operator { id, key: &self.0 }).map_err(IssueError::Bundle)
    }

    /// Signs one statement of one mesh; `body` is what travels, byte for byte.
    #[must_use]
    pub fn sign(&self, statement: OperatorStatement, mesh: &MeshId, body: &[u8]) -> [u8; 64] {
        self.0.sign(&statement.kind().message(mesh, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Roles;
    use crate::fixtures::Mesh;

    const KINDS: [OperatorStatement; 2] = [OperatorStatement::Document, OperatorStatement::Revocation];

    fn alice(mesh: &Mesh) -> OperatorKey {
        OperatorKey::from_pem(&mesh.made.operator_key_pem).unwrap()
    }

    #[test]
    fn the_operator_of_the_bundle_signs_both_kinds_and_neither_is_the_other() {
        let mesh = Mesh::new("prod.internal");
        let (key, bundle) = (alice(&mesh), &mesh.made.bundle);
        assert_eq!(key.operator(bundle).map(|operator| operator.name.as_str()), Some("alice"));
        for made in KINDS {
            let signature = key.sign(made, &bundle.mesh_id, b"body");
            for asked in KINDS {
                let got = verify_operator(asked, KeyId(1), b"body", &signature, bundle).map(|operator| operator.id);
                let want = if made == asked { Ok(1) } else { Err(OperatorRefused::BadSignature(KeyId(1))) };
                assert_eq!(got, want);
            }
        }
    }

    #[test]
    fn a_batch_is_named_by_its_mesh_and_by_all_of_its_documents() {
        let bodies = [b"a".to_vec(), b"b".to_vec()];
        let id = batch_id(&MeshId([1; 32]), &bodies);
        assert_eq!(id, batch_id(&MeshId([1; 32]), &bodies));
        assert_ne!(id, batch_id(&MeshId([2; 32]), &bodies));
        assert_ne!(id, batch_id(&MeshId([1; 32]), &bodies[..1]));
        assert_ne!(id, batch_id(&MeshId([1; 32]), &[b"ab".to_vec()]));
        assert_ne!(id, BatchId([0; 32]), "that would be no batch");
    }

    #[test]
    fn each_refusal_has_its_own_reason() {
        let mesh = Mesh::new("prod.internal");
        let (key, mut bundle) = (alice(&mesh), mesh.made.bundle.clone());
        let signature = key.sign(OperatorStatement::Document, &bundle.mesh_id, b"body");
        let check = |bundle: &TrustBundle, id, body: &[u8], signature: &[u8; 64]| {
            let refused = verify_operator(OperatorStatement::Document, KeyId(id), body, signature, bundle).err();
            refused.map(|refused| (refused.reason(), refused.code().to_string()))
        };
        let word = |reason, code: &str| Some((reason, code.to_owned()));
        assert_eq!(check(&bundle, 1, b"body", &signature), None);
        assert_eq!(check(&bundle, 2, b"body", &signature), word("unknown-key", "ST0411"));
        assert_eq!(check(&bundle, 1, b"bodY", &signature), word("bad-signature", "ST0411"));
        assert_eq!(check(&bundle, 1, b"body", &[0; 64]), word("bad-signature", "ST0411"));
        let foreign = Mesh::new("prod.internal").made.bundle;
        assert_eq!(check(&foreign, 1, b"body", &signature), word("bad-signature", "ST0411"), "another mesh");
        bundle.operators[0].roles = Roles::of(&[Role::Admin, Role::Issue, Role::Revoke]);
        assert_eq!(check(&bundle, 1, b"body", &signature), word("role", "ST0606"));
    }
}
