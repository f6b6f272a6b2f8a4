//! [`NodeIdentity`]: everything one node is, read from its files and checked as its peers will check it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use starling_model::{BootEpoch, Code, MeshId, NodeName, TrustDomain, codes};
use zeroize::Zeroizing;

use crate::armor;
use crate::bundle::TrustBundle;
use crate::issue::IssueError;
use crate::keys::{self, EcKey, EdKey, KeyInvalid};
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
    issuing_key: EcKey,
    issuing_key_hash: [u8; 32],
    record_key: EdKey,
    /// What was installed with the key.
    installed: Vec<CertificateDer<'static>>,
    shown: ArcSwap<Shown>,
}

/// The chain that is shown: one of several that certify the issuing key.
#[derive(Clone, Debug)]
struct Shown {
    issuers: Vec<CertificateDer<'static>>,
    root: [u8; 4],
    not_before: UnixTime,
    not_after: UnixTime,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("node", &self.node)
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.certificate_not_after())
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
        Self::load_renewed(&TrustView::new(bundle.clone()), chain_pem, issuing_key_pem, record_key_pkcs8, now)
    }

    /// The same where certificates may have been renewed: those that `trust` holds for the key count beside the chain that
    /// was installed, and the one that the bundle wants shown is shown.
    ///
    /// # Errors
    /// [`IdentityInvalid`] with the first thing that is wrong with the installed chain, if no other does.
    pub fn load_renewed(
        trust: &TrustView,
        chain_pem: &str,
        issuing_key_pem: &str,
        record_key_pkcs8: &[u8],
        now: UnixTime,
    ) -> Result<Self, IdentityInvalid> {
        let installed = armor::decode_certificates(chain_pem.as_bytes())
            .filter(|issuers| (1..=path::ISSUERS_MAX).contains(&issuers.len()))
            .ok_or(IdentityInvalid::Chain)?;
        let issuing_key = EcKey::from_pem(issuing_key_pem).map_err(IdentityInvalid::IssuingKey)?;
        let record_key = EdKey::from_pkcs8(record_key_pkcs8).map_err(IdentityInvalid::RecordKey)?;
        let (node, shown) = choose(trust, &installed, &issuing_key, now)?;
        Ok(Self {
            mesh_id: trust.bundle().mesh_id,
            trust_domain: trust.bundle().trust_domain.clone(),
            node,
            issuing_key_hash: keys::sha256(&issuing_key.spki()),
            issuing_key,
            record_key,
            installed,
            shown: ArcSwap::from_pointee(shown),
        })
    }

    /// Shows the chain that this bundle wants shown from the next leaf on; true when it is another one than before. When
    /// none leads to a root of it, the one in use stays: who refuses it says so.
    pub fn show(&self, trust: &TrustView, now: UnixTime) -> bool {
        let Ok((node, shown)) = choose(trust, &self.installed, &self.issuing_key, now) else { return false };
        let other = node == self.node && self.shown.load().issuers != shown.issuers;
        if other {
            self.shown.store(Arc::new(shown));
        }
        other
    }

    /// True when the chain that is shown leads to a root of this bundle.
    #[must_use]
    pub fn is_under(&self, trust: &TrustView) -> bool {
        path::verify_issuers(&self.shown.load().issuers, trust, When::Whenever).is_ok()
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
        self.shown.load().not_after
    }

    /// First bytes of the key hash of the root in use.
    #[must_use]
    pub fn root_short(&self) -> [u8; 4] {
        self.shown.load().root
    }

    /// SHA-256 of our issuing key's SPKI.
    #[must_use]
    pub fn issuing_key_hash(&self) -> [u8; 32] {
        self.issuing_key_hash
    }

    /// Node CA and issuing CA, as they are shown.
    #[must_use]
    pub fn issuers(&self) -> Vec<CertificateDer<'static>> {
        self.shown.load().issuers.clone()
    }

    /// A new leaf with a new key, 24 h long.
    ///
    /// # Errors
    /// [`IssueError::IssuerDates`] when our own certificate has ended, or a failing provider.
    pub fn mint_leaf(&self, now: UnixTime) -> Result<Leaf, IssueError> {
        let shown = self.shown.load();
        Minter {
            trust_domain: &self.trust_domain,
            node: &self.node,
            issuing_key: &self.issuing_key,
            issuers: &shown.issuers,
            not_before: shown.not_before,
            not_after: shown.not_after,
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
        statement::seal(&claim, &self.issuing_key, &self.shown.load().issuers)
            .expect("invariant: a loaded key signs, and two certificates of at most 4 KiB each have lengths")
    }

    /// Signs with the record key, for one kind and our mesh.
    #[must_use]
    pub fn sign(&self, kind: SignatureKind, body: &[u8]) -> [u8; 64] {
        self.record_key.sign(&kind.message(&self.mesh_id, body))
    }
}

/// Of the chains that certify this key and are valid now: the one by the issuing CA that the bundle wants shown, else the
/// one that ends last.
fn choose(
    trust: &TrustView,
    installed: &[CertificateDer<'static>],
    issuing_key: &EcKey,
    now: UnixTime,
) -> Result<(NodeName, Shown), IdentityInvalid> {
    let spki = issuing_key.spki();
    let judged = |issuers: &[CertificateDer<'static>]| {
        let ca = path::verify_issuers(issuers, trust, When::At(now)).map_err(IdentityInvalid::Refused)?;
        if ca.facts.spki != spki {
            return Err(IdentityInvalid::KeyMismatch);
        }
        let begins = issuers.iter().filter_map(|der| Facts::read(der)).map(|facts| facts.not_before).max();
        let (root, not_before, not_after) = (ca.root, begins.unwrap_or_default(), ca.not_after);
        Ok((ca.node, Shown { issuers: issuers.to_vec(), root, not_before, not_after }))
    };
    let first = judged(installed);
    // Another key's certificate makes the files one identity's no longer, whatever else there is.
    if matches!(first, Err(IdentityInvalid::KeyMismatch)) {
        return first;
    }
    let renewed = trust.chains_of(&keys::sha256(&spki));
    let wanted = trust.bundle().issuers.get(trust.bundle().present);
    let rank = |shown: &Shown| (shown.issuers.get(1) == wanted, shown.not_after);
    let others = renewed.iter().filter_map(|chain| judged(chain).ok());
    let best = first.as_ref().ok().cloned().into_iter().chain(others).max_by_key(|(_, shown)| rank(shown));
    best.map_or(first, Ok)
}

#[cfg(test)]
mod tests;
