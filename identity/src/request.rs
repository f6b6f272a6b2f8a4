//! A certificate request (PKCS#10, RFC 2986): how a host asks for its identity while its key stays there.
//!
//! A request says one thing, the node's name as its only common name, and is signed with the key that it is for. What else a
//! certificate holds is the operator's to say, so a request that asks for anything is refused as a whole. That the key is
//! really that host's no signature can tell: both sides print the key's hash, and people compare it.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, DnType};
use starling_model::{Code, NodeName, codes};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry as oids;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;
use zeroize::Zeroizing;

use crate::armor;
use crate::issue::{HeldKey, IssueError};
use crate::keys::{self, EcKey};
use crate::limits::CSR_BYTES_MAX;

/// RFC 7468, 7.
pub(crate) const LABEL: &str = "CERTIFICATE REQUEST";

/// Why a request is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestInvalid {
    /// Not one block with a request of at most [`CSR_BYTES_MAX`] bytes, or damaged.
    #[error("it is not one certificate request of at most {CSR_BYTES_MAX} bytes, or it is damaged or cut off")]
    Format,
    /// The subject is not one common name that can be a node's.
    #[error("it does not name exactly one node")]
    Name,
    /// It asks for names, usages or anything else.
    #[error("it asks for more than one name: attributes are the operator's to decide")]
    Asks,
    /// Another kind of key.
    #[error("its key is not P-256")]
    Key,
    /// Whoever made it does not hold the key, or it was changed.
    #[error("it is not signed with the key that it is for")]
    Signature,
}

impl RequestInvalid {
    /// The catalogue entry.
    #[must_use]
    pub fn code(&self) -> Code {
        codes::REQUEST_INVALID
    }
}

/// A host's request: who it wants to be, and its public key.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeRequest {
    node: NodeName,
    key: HeldKey,
    key_hash: [u8; 32],
}

impl fmt::Debug for NodeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeRequest").field("node", &self.node).finish_non_exhaustive()
    }
}

/// A new issuing key for a host that asks, as PKCS#8 in PEM.
///
/// # Errors
/// [`IssueError::Provider`].
pub fn new_issuing_key() -> Result<Zeroizing<String>, IssueError> {
    Ok(EcKey::generate()?.to_pem())
}

/// The request for `node` with this issuing key, as text: public.
///
/// # Errors
/// [`IssueError::Key`] for a key that is none, or a failing provider.
pub fn request(node: &NodeName, issuing_key_pem: &str) -> Result<String, IssueError> {
    let key = EcKey::from_pem(issuing_key_pem)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node.as_str());
    let request = params.serialize_request(&key)?;
    Ok(armor::encode(LABEL, request.der()).as_str().to_owned())
}

impl NodeRequest {
    /// Reads a request to its last byte and checks its signature.
    ///
    /// # Errors
    /// [`RequestInvalid`] with the first thing that is wrong.
    pub fn parse(file: &[u8]) -> Result<Self, RequestInvalid> {
        let der = armor::decode_one(file, LABEL).ok_or(RequestInvalid::Format)?;
        if der.len() > CSR_BYTES_MAX {
            return Err(RequestInvalid::Format);
        }
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| RequestInvalid::Format)?;
        let asked = &request.certification_request_info;
        if !rest.is_empty() || asked.version != X509Version::V1 {
            return Err(RequestInvalid::Format);
        }
        if !asked.attributes().is_empty() {
            return Err(RequestInvalid::Asks);
        }
        let mut attributes = asked.subject.iter_attributes();
        let (Some(only), None) = (attributes.next(), attributes.next()) else { return Err(RequestInvalid::Name) };
        if *only.attr_type() != oids::OID_X509_COMMON_NAME {
            return Err(RequestInvalid::Name);
        }
        let name = only.as_str().ok().and_then(|name| NodeName::new(name).ok());
        let node = name.ok_or(RequestInvalid::Name)?;
        let key = HeldKey::read(asked.subject_pki.raw).ok_or(RequestInvalid::Key)?;
        let is_ours = request.signature_algorithm.algorithm == oids::OID_SIG_ECDSA_WITH_SHA256;
        if !is_ours || request.verify_signature().is_err() {
            return Err(RequestInvalid::Signature);
        }
        Ok(Self { node, key, key_hash: keys::sha256(asked.subject_pki.raw) })
    }

    /// Who it wants to be.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// SHA-256 of its key's SPKI: what people compare.
    #[must_use]
    pub fn key_hash(&self) -> [u8; 32] {
        self.key_hash
    }

    pub(crate) fn key(&self) -> &HeldKey {
        &self.key
    }
}

#[cfg(test)]
mod tests;
