//! [`NodeIdentity`]: everything one node is, read from its files and checked as its peers will check it.

use std::fmt;

use rustls_pki_types::CertificateDer;
use starling_model::{BootEpoch, Code, MeshId, NodeName, TrustDomain, codes};
use zeroize::Zeroizing;

use crate::armor;
use crate::bundle::TrustBundle;
use crate::issue::IssueError;
use crate::keys::{EcKey, EdKey, KeyInvalid};
use crate::leaf::{Leaf, Minter};
use crate::path::{self, When};
use crate::signature::SignatureKind;
use crate::statement;
use crate::time::UnixTime;
use crate::trust::TrustView;
use crate::verify::PeerRefused;
use crate::x509::Facts;

/// Why the identity on this host cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityInvalid {
    /// The chain is no list of certificates.
    #[error("chain.pem does not hold one or two certificates, or is damaged")]
    Chain,
    /// The issuing key cannot be read.
    #[error("issuing.key cannot be used")]
    IssuingKey(#[source] KeyInvalid),
    /// The issuing key belongs to another certificate.
    #[error("issuing.key does not belong to the certificate in chain.pem")]
    KeyMismatch,
    /// The record key cannot be read.
    #[error("record.key cannot be used")]
    RecordKey(#[source] KeyInvalid),
    /// Peers would refuse it: expired, not valid yet, of another mesh, not under the bundle.
    #[error("this node's own certificate would be refused by its peers")]
    Refused(#[source] PeerRefused),
}

impl IdentityInvalid {
    /// The catalogue entry.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Chain | Self::IssuingKey(_) | Self::KeyMismatch | Self::RecordKey(_) => codes::IDENTITY_MISSING,
            Self::Refused(refused) => match refused {
                // Our own files under our own bundle: a chain that ends elsewhere is that of another mesh.
                PeerRefused::NotChained | PeerRefused::OtherMesh { .. } => codes::OTHER_MESH,
                PeerRefused::Expired { .. }
                | PeerRefused::LeafExpired { .. }
                | PeerRefused::NotYetValid { .. }
                | PeerRefused::Revoked { .. } => refused.code(),
                PeerRefused::ChainSize { .. }
                | PeerRefused::Malformed
                | PeerRefused::SanCount
                | PeerRefused::NotSpiffe
                | PeerRefused::UnboundName { .. }
                | PeerRefused::LeafProfile(_)
                | PeerRefused::PathShape(_)
                | PeerRefused::UnexpectedPeer { .. } => codes::IDENTITY_MISSING,
            },
        }
    }
}

/// One node's keys and certificates.
pub struct NodeIdentity {
    mesh_id: MeshId,
    trust_domain: TrustDomain,
    node: NodeName,
    issuers: Vec<CertificateDer<'static>>,
    issuing_key: EcKey,
    issuing_key_hash: [u8; 32],
    root: [u8; 4],
    not_before: UnixTime,
    not_after: UnixTime,
    record_key: EdKey,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("node", &self.node)
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A new record key as PKCS#8 DER.
///
/// # Panics
/// When the crypto provider has no entropy, which no agent can do without.
#[must_use]
pub fn new_record_key() -> Zeroizing<Vec<u8>> {
    EdKey::generate_pkcs8().expect("invariant: the crypto provider makes Ed25519 keys")
}

impl NodeIdentity {
    /// Reads an identity: chain under the bundle and valid now, keys that belong to it.
    ///
    /// # Errors
    /// [`IdentityInvalid`] with the first thing that is wrong.
    pub fn load(
        bundle: &TrustBundle,
        chain_pem: &str,
        issuing_key_pem: &str,
        record_key_pkcs8: &[u8],
        now: UnixTime,
    ) -> Result<Self, IdentityInvalid> {
        let issuers = armor::decode_certificates(chain_pem.as_bytes())
            .filter(|issuers| (1..=path::ISSUERS_MAX).contains(&issuers.len()))
            .ok_or(IdentityInvalid::Chain)?;
        let issuing_key = EcKey::from_pem(issuing_key_pem).map_err(IdentityInvalid::IssuingKey)?;
        let record_key = EdKey::from_pkcs8(record_key_pkcs8).map_err(IdentityInvalid::RecordKey)?;
        let trust = TrustView::new(bundle.clone());
        let ca = path::verify_issuers(&issuers, &trust, When::At(now)).map_err(IdentityInvalid::Refused)?;
        if ca.facts.spki != issuing_key.spki() {
            return Err(IdentityInvalid::KeyMismatch);
        }
        let begins = issuers.iter().filter_map(|der| Facts::read(der)).map(|facts| facts.not_before).max();
        Ok(Self {
            mesh_id: bundle.mesh_id,
            trust_domain: bundle.trust_domain.clone(),
            node: ca.node.clone(),
            issuing_key_hash: ca.facts.key_hash(),
            root: ca.root,
            not_before: begins.unwrap_or_default(),
            not_after: ca.not_after,
            issuing_key,
            record_key,
            issuers,
        })
    }

    /// Who we are.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// The mesh's name space.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The mesh.
    #[must_use]
    pub fn mesh_id(&self) -> MeshId {
        self.mesh_id
    }

    /// Ed25519 key that our records are signed with.
    #[must_use]
    pub fn record_public_key(&self) -> [u8; 32] {
        self.record_key.public()
    }

    /// Earliest end of node CA, issuing CA and root: what an operator must renew before.
    #[must_use]
    pub fn certificate_not_after(&self) -> UnixTime {
        self.not_after
    }

    /// First bytes of the key hash of the root in use.
    #[must_use]
    pub fn root_short(&self) -> [u8; 4] {
        self.root
    }

    /// SHA-256 of our issuing key's SPKI.
    #[must_use]
    pub fn issuing_key_hash(&self) -> [u8; 32] {
        self.issuing_key_hash
    }

    /// Node CA and issuing CA.
    #[must_use]
    pub fn issuers(&self) -> &[CertificateDer<'static>] {
        &self.issuers
    }

    /// A new leaf with a new key, 24 h long.
    ///
    /// # Errors
    /// [`IssueError::IssuerDates`] when our own certificate has ended, or a failing provider.
    pub fn mint_leaf(&self, now: UnixTime) -> Result<Leaf, IssueError> {
        Minter {
            trust_domain: &self.trust_domain,
            node: &self.node,
            issuing_key: &self.issuing_key,
            issuers: &self.issuers,
            not_before: self.not_before,
            not_after: self.not_after,
        }
        .mint(now)
    }

    /// The node statement of one boot epoch with the chain that proves it: binds our record key to our name for whoever
    /// holds the bundle. At most [`statement::CREDENTIAL_BYTES_MAX`] bytes.
    ///
    /// # Panics
    /// When the crypto provider cannot sign with a key that it has loaded.
    #[must_use]
    pub fn credential(&self, epoch: BootEpoch) -> Vec<u8> {
        let claim =
            statement::Claim { mesh_id: self.mesh_id, node: &self.node, record_key: self.record_public_key(), epoch };
        statement::seal(&claim, &self.issuing_key, &self.issuers)
            .expect("invariant: a loaded key signs, and two certificates of at most 4 KiB each have lengths")
    }

    /// Signs with the record key, for one kind and our mesh.
    #[must_use]
    pub fn sign(&self, kind: SignatureKind, body: &[u8]) -> [u8; 64] {
        self.record_key.sign(&kind.message(&self.mesh_id, body))
    }
}

#[cfg(test)]
mod tests;
