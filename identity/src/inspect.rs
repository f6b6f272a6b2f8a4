//! What `trust inspect` shows: one row for each certificate, never a private key.

use rustls_pki_types::CertificateDer;
use starling_model::mesh::hex;

use crate::armor;
use crate::bundle::{self, BundleInvalid, TrustBundle};
use crate::join::{JoinFile, JoinInvalid};
use crate::request::{self, NodeRequest, RequestInvalid};
use crate::time::UnixTime;
use crate::x509::{Constraint, Facts};

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectRow {
    /// `root CA`, `issuing CA`, `node CA` or `leaf`.
    pub what: &'static str,
    /// The common name; for a node CA the name it is constrained to, for a leaf its SPIFFE id.
    pub subject: String,
    /// Hex.
    pub serial: String,
    /// Begin.
    pub not_before: UnixTime,
    /// End.
    pub not_after: UnixTime,
    /// `P-256` or `P-384`.
    pub key: String,
}

/// What a file turned out to be.
#[derive(Debug)]
pub enum Inspected {
    /// A trust bundle.
    Bundle(Box<TrustBundle>),
    /// A join file.
    Join(Box<JoinFile>),
    /// A certificate request.
    Request(NodeRequest),
    /// Certificates.
    Chain(Vec<CertificateDer<'static>>),
}

/// Why a file cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// A damaged bundle.
    #[error("the trust bundle cannot be used")]
    Bundle(#[source] BundleInvalid),
    /// A damaged join file.
    #[error("the join file cannot be used")]
    Join(#[source] JoinInvalid),
    /// A damaged request, or one that asks for too much.
    #[error("the certificate request cannot be used")]
    Request(#[source] RequestInvalid),
    /// Something else.
    #[error("it is neither a trust bundle, nor a join file, nor a request, nor a list of certificates")]
    Unknown,
}

/// Tells by its first block what a file is, and checks it.
///
/// # Errors
/// [`InspectError`].
pub fn inspect(file: &[u8]) -> Result<Inspected, InspectError> {
    let blocks = armor::decode(file).ok_or(InspectError::Unknown)?;
    let first = blocks.first().map(|block| block.label.clone()).ok_or(InspectError::Unknown)?;
    if first == bundle::LABEL {
        return TrustBundle::parse(file)
            .map(|bundle| Inspected::Bundle(Box::new(bundle)))
            .map_err(InspectError::Bundle);
    }
    if first == armor::CERTIFICATE {
        return armor::decode_certificates(file).map(Inspected::Chain).ok_or(InspectError::Unknown);
    }
    if first == request::LABEL {
        return NodeRequest::parse(file).map(Inspected::Request).map_err(InspectError::Request);
    }
    let text = std::str::from_utf8(file).map_err(|_| InspectError::Unknown)?;
    JoinFile::parse(text).map(|join| Inspected::Join(Box::new(join))).map_err(InspectError::Join)
}

impl Inspected {
    /// Its rows, from the root down.
    #[must_use]
    pub fn rows(&self) -> Vec<InspectRow> {
        match self {
            Self::Bundle(bundle) => describe_bundle(bundle),
            Self::Join(join) => describe_join(join),
            // It has no dates; who asks, and with which key, is told beside the table.
            Self::Request(_) => Vec::new(),
            Self::Chain(chain) => describe_chain(chain),
        }
    }
}

/// Roots and issuing certificates of a bundle.
#[must_use]
pub fn describe_bundle(bundle: &TrustBundle) -> Vec<InspectRow> {
    bundle.roots.iter().chain(&bundle.issuers).filter_map(describe).collect()
}

/// The roots, then the node's chain from the top down.
#[must_use]
pub fn describe_join(join: &JoinFile) -> Vec<InspectRow> {
    let roots = TrustBundle::parse(&join.bundle_file).map(|bundle| bundle.roots).unwrap_or_default();
    let mut rows: Vec<InspectRow> = roots.iter().filter_map(describe).collect();
    rows.extend(describe_chain(&armor::decode_certificates(join.chain_pem.as_bytes()).unwrap_or_default()));
    rows
}

/// A chain as it is sent, leaf or node CA first, shown from the top down. What does not parse is left out.
#[must_use]
pub fn describe_chain(chain: &[CertificateDer<'_>]) -> Vec<InspectRow> {
    chain.iter().rev().filter_map(describe).collect()
}

fn describe(der: &CertificateDer<'_>) -> Option<InspectRow> {
    let facts = Facts::read(der)?;
    let named = || facts.common_name().unwrap_or_default();
    let (what, subject) = match (facts.ca, facts.path_len, facts.constraint) {
        (false, ..) => {
            let uri = facts.names.map(|names| String::from_utf8_lossy(names.uri).into_owned());
            ("leaf", uri.unwrap_or_else(named))
        }
        (true, Some(0), Constraint::One(dns)) => ("node CA", dns.to_owned()),
        (true, ..) if facts.issuer == facts.subject => ("root CA", named()),
        (true, ..) => ("issuing CA", named()),
    };
    Some(InspectRow {
        what,
        subject,
        serial: hex(facts.serial),
        not_before: facts.not_before,
        not_after: facts.not_after,
        key: facts.curve().unwrap_or("other").to_owned(),
    })
}
