//! Node statements: which record key, in which boot epoch, is a node's.
//!
//! ```text
//! credential := "SC1" | slen u16 | statement | glen u16 | signature | certificates u8 (1-2) { DER }
//! statement  := mesh id [32] | node text | record key [32] | boot epoch u64
//! signature  := ECDSA( "starling/v1/node-statement" ‖ 0x00 ‖ mesh id ‖ statement ) by the node CA's key
//! ```
//!
//! The chain travels along, so a credential is provable with the bundle alone; of several the highest epoch counts. When
//! that chain ends at no root any more, a renewed certificate of the same key proves it as well.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use rustls_pki_types::CertificateDer;
use starling_model::{BootEpoch, Code, MeshId, NodeName, codes};

use crate::keys::EcKey;
use crate::path::{self, ISSUERS_MAX, When};
use crate::signature::domain_message;
use crate::time::UnixTime;
use crate::trust::TrustView;
use crate::verify::PeerRefused;
use crate::wire::{Reader, WireError, Writer};
use crate::x509::Facts;

const MAGIC: [u8; 3] = *b"SC1";
const KIND: &str = "node-statement";

/// Largest credential: two certificates of ours, a statement and a signature have 1.8 KiB with the longest names.
pub const CREDENTIAL_BYTES_MAX: usize = 4 * 1024;

/// A record key, proven to be a node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCredential {
    /// Ed25519 key of the node's records.
    pub record_key: [u8; 32],
    /// The start of the agent that it is for.
    pub epoch: BootEpoch,
    /// SHA-256 of the issuing key's SPKI: what revocations name.
    pub issuing_key_hash: [u8; 32],
}

/// Why a credential proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialRefused {
    /// The bytes are no credential.
    #[error("the credential is malformed")]
    Malformed,
    /// It is for another mesh.
    #[error("the credential is of another mesh")]
    OtherMesh,
    /// It is another node's.
    #[error("the credential is that of {found}")]
    OtherNode {
        /// Whose it is.
        found: NodeName,
    },
    /// The node CA's key did not sign it.
    #[error("the credential is not signed by the node's issuing key")]
    Forged,
    /// Its chain is refused.
    #[error("the credential's chain is refused")]
    Chain(#[source] PeerRefused),
}

impl CredentialRefused {
    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "credential-malformed",
            Self::OtherMesh => "other-mesh",
            Self::OtherNode { .. } => "credential-other-node",
            Self::Forged => "credential-forged",
            Self::Chain(refused) => refused.reason(),
        }
    }

    /// The catalogue entry.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Malformed | Self::Forged => codes::CHAIN_MALFORMED,
            Self::OtherMesh => codes::OTHER_MESH,
            Self::OtherNode { .. } => codes::UNEXPECTED_PEER,
            Self::Chain(refused) => refused.code(),
        }
    }
}

impl From<WireError> for CredentialRefused {
    fn from(_: WireError) -> Self {
        Self::Malformed
    }
}

/// What a statement says.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) mesh_id: MeshId,
    pub(crate) node: &'a NodeName,
    pub(crate) record_key: [u8; 32],
    pub(crate) epoch: BootEpoch,
}

/// Writes a credential. `None` only if the provider cannot sign or a certificate has no length.
pub(crate) fn seal(claim: &Claim<'_>, issuing_key: &EcKey, issuers: &[CertificateDer<'_>]) -> Option<Vec<u8>> {
    let mut statement = Writer::default();
    statement.raw(&claim.mesh_id.0).text(claim.node.as_str()).ok()?;
    statement.raw(&claim.record_key).u64(claim.epoch.0);
    let statement = statement.into_bytes();
    let signature = issuing_key.sign(&domain_message(KIND, &claim.mesh_id, &statement))?;
    let mut out = Writer::default();
    out.raw(&MAGIC).bytes(&statement).ok()?.bytes(&signature).ok()?.count(issuers.len()).ok()?;
    for issuer in issuers {
        out.bytes(issuer).ok()?;
    }
    Some(out.into_bytes())
}

/// Checks that a credential is `owner`'s, under the bundle, at `now`.
///
/// # Errors
/// [`CredentialRefused`] with the first thing that is wrong.
pub fn verify_credential(
    bytes: &[u8],
    owner: &NodeName,
    trust: &TrustView,
    now: UnixTime,
) -> Result<VerifiedCredential, CredentialRefused> {
    if bytes.len() > CREDENTIAL_BYTES_MAX {
        return Err(CredentialRefused::Malformed);
    }
    let mut reader = Reader::new(bytes);
    if reader.array()? != MAGIC {
        return Err(CredentialRefused::Malformed);
    }
    let (statement, signature) = (reader.bytes()?, reader.bytes()?);
    let count = usize::from(reader.u8()?);
    if count > ISSUERS_MAX {
        return Err(CredentialRefused::Malformed);
    }
    let issuers = (0..count).map(|_| reader.bytes().map(CertificateDer::from)).collect::<Result<Vec<_>, _>>()?;
    reader.finish()?;

    let mut fields = Reader::new(statement);
    let mesh_id = MeshId(fields.array()?);
    let node = NodeName::new(fields.text()?).map_err(|_| CredentialRefused::Malformed)?;
    let (record_key, epoch) = (fields.array()?, BootEpoch(fields.u64()?));
    fields.finish()?;

    if mesh_id != trust.bundle().mesh_id {
        return Err(CredentialRefused::OtherMesh);
    }
    if node != *owner {
        return Err(CredentialRefused::OtherNode { found: node });
    }
    let other_chains;
    let ca = match path::verify_issuers(&issuers, trust, When::At(now)) {
        Ok(ca) => ca,
        Err(refused) => {
            // What it carries may be under a root that is gone: the same key may have a certificate under one that stands.
            other_chains = renewed(&issuers, trust);
            let chain = other_chains.iter().find_map(|chain| path::verify_issuers(chain, trust, When::At(now)).ok());
            chain.ok_or(CredentialRefused::Chain(refused))?
        }
    };
    if ca.node != node {
        return Err(CredentialRefused::OtherNode { found: ca.node });
    }
    if !ca.facts.has_signed(&domain_message(KIND, &mesh_id, statement), signature) {
        return Err(CredentialRefused::Forged);
    }
    Ok(VerifiedCredential { record_key, epoch, issuing_key_hash: ca.facts.key_hash() })
}

/// Chains of the key that a credential's node CA certifies, made later.
fn renewed(issuers: &[CertificateDer<'_>], trust: &TrustView) -> Vec<[CertificateDer<'static>; 2]> {
    let key = issuers.first().and_then(|der| Facts::read(der)).map(|facts| facts.key_hash());
    key.map(|key| trust.chains_of(&key)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
