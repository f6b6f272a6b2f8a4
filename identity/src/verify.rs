//! [`verify_peer`]: the one function that says which node a certificate chain proves.
//!
//! It serves gossip and traffic, dialling and accepting, and is pure: certificates, trust and time come in, a node or
//! one reason comes out. webpki checks signatures, dates and name constraints; what it does not check is checked here:
//! webpki ignores keyUsage, does not tie a URI to a DNS name, and lets a leaf **without any DNS name and with another
//! node's SPIFFE id** pass. `WebPkiServerVerifier` is not used: it wants the dialled DNS name and shows no path.
//!
//! Steps, cheap ones first, each with its own reason: 1 size and syntax, 2 count of names, 3 the SPIFFE id, 4 the DNS
//! name bound to it, 5 leaf profile, 6 chain to a root (RFC 5280, 6), 7 shape of the path, 8 revocation, 9 the
//! expected node.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::cell::Cell;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use starling_model::{Code, NodeName, SpiffeId, TrustDomain, codes};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::path::{self, ISSUERS_MAX};
use crate::time::UnixTime;
use crate::trust::TrustView;
use crate::x509::{CERTIFICATE_BYTES_MAX, Facts};

/// Leaf, node CA, issuing CA.
const CHAIN_MAX: usize = 3;
const _: () = assert!(CHAIN_MAX == ISSUERS_MAX + 1);

/// Every signature of a chain is ECDSA on P-256 or P-384.
static ECDSA: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
];

/// Whom we take the peer for.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Dialling: this node and no other.
    Exactly(&'a NodeName),
    /// Accepting, or dialling a seed known by its address only: any node of our trust domain; what it may do is decided
    /// later.
    AnyOfOurTrustDomain,
}

/// A node, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is.
    pub node: NodeName,
    /// SHA-256 of its issuing key's SPKI: what revocations name.
    pub issuing_key_hash: [u8; 32],
    /// The first four bytes of the root's key hash.
    pub root: [u8; 4],
    /// The earliest end of the path.
    pub not_after: UnixTime,
}

/// Why a chain proves no node. Each variant has its own reason word, for logs and metrics; the peer itself sees only a
/// TLS alert.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// Step 1: not two or three certificates of at most 4 KiB.
    #[error("the chain has {found} certificates or one above {CERTIFICATE_BYTES_MAX} bytes; 2 or 3 are allowed")]
    ChainSize {
        /// How many there were.
        found: usize,
    },
    /// Step 1: a certificate does not parse.
    #[error("a certificate of the chain does not parse")]
    Malformed,
    /// Step 2: not exactly one URI and one DNS name in the leaf, or a CA with names.
    #[error("the leaf does not hold exactly one URI and one DNS name, or a CA holds names")]
    SanCount,
    /// Step 3: the URI is not the SPIFFE id of a node.
    #[error("the URI in the leaf is not the SPIFFE id of a node")]
    NotSpiffe,
    /// Step 3: of another trust domain.
    #[error("the certificate is of another mesh: {named:?}")]
    OtherMesh {
        /// The foreign trust domain or name.
        named: String,
    },
    /// Step 4: the DNS name is not the one of the SPIFFE id.
    #[error("the leaf's DNS name does not belong to its SPIFFE id, that of {node}")]
    UnboundName {
        /// The node that the SPIFFE id claims.
        node: NodeName,
    },
    /// Step 5: usages that a node's leaf does not have.
    #[error("the leaf breaks the profile: {0}")]
    LeafProfile(&'static str),
    /// Step 6: no path to a root of the bundle.
    #[error("the chain does not lead to a root of the trust bundle")]
    NotChained,
    /// Step 6: ended.
    #[error("a certificate of the chain expired at {not_after}, it is {now}")]
    Expired {
        /// When it ended.
        not_after: UnixTime,
        /// Our clock.
        now: UnixTime,
    },
    /// Step 6: the leaf alone has ended. Leaves are made anew every few hours, so this is a clock and no identity.
    #[error("the peer's leaf ended at {not_after}, it is {now}: leaves are renewed every few hours")]
    LeafExpired {
        /// When it ended.
        not_after: UnixTime,
        /// Our clock.
        now: UnixTime,
    },
    /// Step 6: not begun, by our clock.
    #[error("a certificate of the chain is valid from {not_before}, our clock says {now}")]
    NotYetValid {
        /// When it begins.
        not_before: UnixTime,
        /// Our clock.
        now: UnixTime,
    },
    /// Step 7: issuers of another shape than leaf, node CA, (issuing CA,) root.
    #[error("the path has a wrong shape: {0}")]
    PathShape(&'static str),
    /// Step 8: an operator has revoked the node, or this key of it.
    #[error("{node} is revoked")]
    Revoked {
        /// Who it is.
        node: NodeName,
    },
    /// Step 9: a node, but not the one that was dialled.
    #[error("{found} answered where {expected} was dialled")]
    UnexpectedPeer {
        /// Whom we dialled.
        expected: NodeName,
        /// Who answered.
        found: NodeName,
    },
}

impl PeerRefused {
    /// All reasons, for metrics that start at zero.
    pub const REASONS: [&'static str; 14] = [
        "chain-size",
        "malformed",
        "san-count",
        "not-spiffe",
        "other-mesh",
        "unbound-name",
        "leaf-profile",
        "not-chained",
        "expired",
        "leaf-expired",
        "not-yet-valid",
        "path-shape",
        "revoked",
        "unexpected-peer",
    ];

    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ChainSize { .. } => "chain-size",
            Self::Malformed => "malformed",
            Self::SanCount => "san-count",
            Self::NotSpiffe => "not-spiffe",
            Self::OtherMesh { .. } => "other-mesh",
            Self::UnboundName { .. } => "unbound-name",
            Self::LeafProfile(_) => "leaf-profile",
            Self::NotChained => "not-chained",
            Self::Expired { .. } => "expired",
            Self::LeafExpired { .. } => "leaf-expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::PathShape(_) => "path-shape",
            Self::Revoked { .. } => "revoked",
            Self::UnexpectedPeer { .. } => "unexpected-peer",
        }
    }

    /// The catalogue entry; several reasons share one where the remedy is the same.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::ChainSize { .. } | Self::Malformed => codes::CHAIN_MALFORMED,
            Self::SanCount | Self::NotSpiffe | Self::UnboundName { .. } => codes::NOT_SPIFFE,
            Self::OtherMesh { .. } => codes::OTHER_MESH,
            Self::LeafProfile(_) => codes::LEAF_PROFILE,
            Self::NotChained | Self::Expired { .. } => codes::CERTIFICATE_EXPIRED,
            Self::LeafExpired { .. } | Self::NotYetValid { .. } => codes::CLOCKS_DIFFER,
            Self::PathShape(_) => codes::PATH_SHAPE,
            Self::Revoked { .. } => codes::REVOKED,
            Self::UnexpectedPeer { .. } => codes::UNEXPECTED_PEER,
        }
    }
}

/// Says which node `chain` (leaf first) proves at `now`.
///
/// # Errors
/// The first step that fails, see [`PeerRefused`].
pub fn verify_peer(
    chain: &[CertificateDer<'_>],
    expected: Expected<'_>,
    trust: &TrustView,
    now: UnixTime,
) -> Result<PeerIdentity, PeerRefused> {
    // 1: two or three certificates that parse.
    let size = || PeerRefused::ChainSize { found: chain.len() };
    let [leaf_der, issuers @ ..] = chain else { return Err(size()) };
    if issuers.is_empty() || issuers.len() > ISSUERS_MAX {
        return Err(size());
    }
    if chain.iter().any(|der| der.len() > CERTIFICATE_BYTES_MAX) {
        return Err(size());
    }
    let leaf = Facts::read(leaf_der).ok_or(PeerRefused::Malformed)?;
    let read = |der| Facts::read(der).ok_or(PeerRefused::Malformed);
    let issuer_facts = issuers.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let end_entity = EndEntityCert::try_from(leaf_der).map_err(|_| PeerRefused::Malformed)?;

    // 2 to 4: the names, tied to each other byte for byte.
    let trust_domain = &trust.bundle().trust_domain;
    let node = proven_name(&leaf, &issuer_facts, trust_domain)?;

    // 5: the leaf's usages.
    check_leaf_profile(&leaf)?;

    // 6 and 7: a path to a root, of the one shape we make.
    let dns = trust_domain.node_dns(&node);
    let shape = Cell::new(None);
    let check_shape = |path: &VerifiedPath<'_>| match check_path(path, issuers, &issuer_facts, &dns) {
        Ok(()) => Ok(()),
        Err(refused) => {
            shape.set(Some(refused));
            Err(webpki::Error::UnknownIssuer)
        }
    };
    let path = end_entity
        .verify_for_usage(
            ECDSA,
            trust.anchors(),
            issuers,
            now.to_pki(),
            KeyUsage::server_auth(),
            None,
            Some(&check_shape),
        )
        .map_err(|error| shape.take().unwrap_or_else(|| dated(refusal_of(&error, now), &leaf, &issuer_facts)))?;
    let root = trust.root_of(path.anchor()).ok_or(PeerRefused::NotChained)?;
    path::check_root_dates(root, now)?;

    // 8: whoever is out.
    let issuing_key_hash = issuer_facts.first().ok_or(PeerRefused::NotChained)?.key_hash();
    if trust.revoked().holds(&node, &issuing_key_hash) {
        return Err(PeerRefused::Revoked { node });
    }

    // 9: the node that we wanted.
    match expected {
        Expected::Exactly(wanted) if *wanted != node => {
            return Err(PeerRefused::UnexpectedPeer { expected: wanted.clone(), found: node });
        }
        Expected::Exactly(_) | Expected::AnyOfOurTrustDomain => {}
    }

    let ends = issuer_facts.iter().map(|issuer| issuer.not_after).chain([leaf.not_after, root.not_after]);
    Ok(PeerIdentity { issuing_key_hash, root: root.short, not_after: ends.min().ok_or(PeerRefused::NotChained)?, node })
}

/// Who a leaf says that it is, for logs: nothing of it is proven.
pub(crate) fn claimed_id(leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
    let names = Some(leaf).filter(|leaf| leaf.len() <= CERTIFICATE_BYTES_MAX).and_then(Facts::read)?.names?;
    SpiffeId::parse_node(std::str::from_utf8(names.uri).ok()?).ok()
}

/// Steps 2, 3 and 4.
fn proven_name(leaf: &Facts<'_>, issuers: &[Facts<'_>], trust_domain: &TrustDomain) -> Result<NodeName, PeerRefused> {
    let names = leaf.names.ok_or(PeerRefused::SanCount)?;
    if (names.uris, names.dns, names.others) != (1, 1, 0) || issuers.iter().any(|issuer| issuer.names.is_some()) {
        return Err(PeerRefused::SanCount);
    }
    // The grammar of names has no NUL, no percent sign, no upper case and nothing outside of ASCII.
    let uri = std::str::from_utf8(names.uri).map_err(|_| PeerRefused::NotSpiffe)?;
    let id = SpiffeId::parse_node(uri).map_err(|_| PeerRefused::NotSpiffe)?;
    if id.trust_domain != *trust_domain {
        return Err(PeerRefused::OtherMesh { named: id.trust_domain.to_string() });
    }
    if names.dns_name != trust_domain.node_dns(&id.node).as_bytes() {
        return Err(PeerRefused::UnboundName { node: id.node });
    }
    Ok(id.node)
}

/// Step 5.
fn check_leaf_profile(leaf: &Facts<'_>) -> Result<(), PeerRefused> {
    if leaf.ca {
        return Err(PeerRefused::LeafProfile("it is a CA"));
    }
    let usage = leaf.usage.ok_or(PeerRefused::LeafProfile("it has no key usage"))?;
    if !usage.digital_signature || usage.key_cert_sign || usage.crl_sign {
        return Err(PeerRefused::LeafProfile("its key usage is not digital signatures alone"));
    }
    if leaf.extended != Some((true, true)) {
        return Err(PeerRefused::LeafProfile("it is not for both server and client authentication"));
    }
    if leaf.curve() != Some("P-256") {
        return Err(PeerRefused::LeafProfile("its key is not P-256"));
    }
    Ok(())
}

/// Step 7: the path is the chain as it was sent, and its issuers have the shape that we give them.
fn check_path(
    path: &VerifiedPath<'_>,
    sent: &[CertificateDer<'_>],
    issuers: &[Facts<'_>],
    dns: &str,
) -> Result<(), PeerRefused> {
    if !path.intermediate_certificates().map(|used| used.der()).eq(sent.iter().cloned()) {
        return Err(PeerRefused::PathShape("not every certificate of the chain is part of the path"));
    }
    let (node_ca, above) = issuers.split_first().ok_or(PeerRefused::PathShape("a root signed the leaf"))?;
    path::check_node_ca(node_ca, dns)?;
    above.iter().try_for_each(path::check_ca)
}

/// Tells a leaf that ended from an identity that did.
fn dated(refused: PeerRefused, leaf: &Facts<'_>, issuers: &[Facts<'_>]) -> PeerRefused {
    if let PeerRefused::Expired { not_after, now } = refused
        && not_after == leaf.not_after
        && issuers.iter().all(|issuer| issuer.not_after >= now)
    {
        return PeerRefused::LeafExpired { not_after, now };
    }
    refused
}

/// Puts webpki's many errors under our few reasons.
fn refusal_of(error: &webpki::Error, now: UnixTime) -> PeerRefused {
    if let webpki::Error::CertExpired { not_after, .. } = error {
        PeerRefused::Expired { not_after: UnixTime::from_pki(*not_after), now }
    } else if let webpki::Error::CertNotValidYet { not_before, .. } = error {
        PeerRefused::NotYetValid { not_before: UnixTime::from_pki(*not_before), now }
    } else if *error == webpki::Error::InvalidCertValidity {
        PeerRefused::Malformed
    } else if *error == webpki::Error::NameConstraintViolation {
        PeerRefused::PathShape("an issuer's constraint does not permit the leaf's name")
    } else if *error == webpki::Error::PathLenConstraintViolated {
        PeerRefused::PathShape("an issuer's path length does not permit the path")
    } else if *error == webpki::Error::EndEntityUsedAsCa {
        PeerRefused::PathShape("an issuer is no CA that may sign certificates")
    } else {
        PeerRefused::NotChained
    }
}

#[cfg(test)]
mod tests;
