//! [`TrustView`]: what a verifier believes at one moment, prepared for many checks.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use starling_model::NodeName;

use crate::bundle::TrustBundle;
use crate::certificates::NodeCertificates;
use crate::keys;
use crate::path::{self, When};
use crate::revoked::Revoked;
use crate::time::UnixTime;
use crate::x509::Facts;

/// What is kept of a root beside its trust anchor, which holds no dates.
#[derive(Clone, Debug)]
pub(crate) struct RootFacts {
    pub(crate) short: [u8; 4],
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    der: CertificateDer<'static>,
}

/// A bundle with its roots ready for webpki, its renewed node certificates, and who is revoked.
#[derive(Clone, Debug)]
pub struct TrustView {
    bundle: Arc<TrustBundle>,
    anchors: Vec<TrustAnchor<'static>>,
    roots: Vec<RootFacts>,
    revoked: Arc<Revoked>,
    certificates: Arc<NodeCertificates>,
}

impl TrustView {
    /// Prepares a bundle. A root that does not read would be left out, which only makes the view stricter.
    #[must_use]
    pub fn new(bundle: impl Into<Arc<TrustBundle>>) -> Self {
        let bundle = bundle.into();
        let (anchors, roots) = bundle.roots.iter().filter_map(prepare).unzip();
        Self { bundle, anchors, roots, revoked: Arc::default(), certificates: Arc::default() }
    }

    /// The bundle in force.
    #[must_use]
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// The same, with these nodes out.
    #[must_use]
    pub fn with_revoked(&self, revoked: impl Into<Arc<Revoked>>) -> Self {
        Self { revoked: revoked.into(), ..self.clone() }
    }

    /// Who is revoked.
    #[must_use]
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// The same with these renewed node certificates.
    #[must_use]
    pub fn with_certificates(&self, certificates: impl Into<Arc<NodeCertificates>>) -> Self {
        Self { certificates: certificates.into(), ..self.clone() }
    }

    /// Renewed node certificates.
    #[must_use]
    pub fn certificates(&self) -> &Arc<NodeCertificates> {
        &self.certificates
    }

    /// May a connection with this peer stand? What it showed then leads to a root that we still believe, or its issuing
    /// key has a certificate that does; and it is not revoked. Dates cut nothing.
    #[must_use]
    pub fn stands(&self, node: &NodeName, issuing_key_hash: &[u8; 32], root: [u8; 4]) -> bool {
        !self.revoked.holds(node, issuing_key_hash)
            && (self.roots.iter().any(|held| held.short == root)
                || self
                    .chains_of(issuing_key_hash)
                    .iter()
                    .any(|chain| path::verify_issuers(chain, self, When::Whenever).is_ok_and(|ca| ca.node == *node)))
    }

    /// The renewed chains of an issuing key under an issuing CA of the bundle, the newest first; not judged otherwise.
    pub(crate) fn chains_of(&self, issuing_key_hash: &[u8; 32]) -> Vec<[CertificateDer<'static>; 2]> {
        let chain = |der: &CertificateDer<'static>| {
            let issuer = self.bundle.issuer_of(&Facts::read(der)?)?;
            Some([der.clone(), issuer.clone()])
        };
        self.certificates.of_key(issuing_key_hash).iter().filter_map(chain).collect()
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The root behind an anchor that webpki ended at.
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&RootFacts> {
        let at = self.anchors.iter().position(|held| {
            held.subject == anchor.subject && held.subject_public_key_info == anchor.subject_public_key_info
        })?;
        self.roots.get(at)
    }

    /// The root that signed a CA certificate.
    pub(crate) fn root_that_signed(&self, certificate: &Facts<'_>) -> Option<&RootFacts> {
        self.roots.iter().find(|root| Facts::read(&root.der).is_some_and(|facts| certificate.is_signed_by(&facts)))
    }
}

fn prepare(der: &CertificateDer<'static>) -> Option<(TrustAnchor<'static>, RootFacts)> {
    let facts = Facts::read(der)?;
    let root = RootFacts {
        short: keys::short(&facts.key_hash()),
        not_before: facts.not_before,
        not_after: facts.not_after,
        der: der.clone(),
    };
    Some((webpki::anchor_from_trusted_cert(der).ok()?.to_owned(), root))
}
