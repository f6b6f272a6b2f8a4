//! Leaves: what a node shows in handshakes. Minted by the node itself, 24 h long, key and all in memory only.

use std::fmt;
use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{ExtendedKeyUsagePurpose, Issuer, KeyUsagePurpose, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use starling_model::{NodeName, SpiffeId, TrustDomain};

use crate::issue::{IssueError, check_dates, dated_params};
use crate::keys::EcKey;
use crate::time::{DAY_SECONDS, UnixTime};

/// Life of a leaf. A new one is minted every 6 h, so a node whose renewal fails has 18 h to be noticed.
pub const LEAF_SECONDS: u64 = DAY_SECONDS;

/// A leaf with its chain and key.
pub struct Leaf {
    /// Leaf, node CA, issuing CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, P-256. Never on disk.
    pub key: PrivateKeyDer<'static>,
    /// End of the leaf: 24 h ahead, or that of the node CA if it ends sooner.
    pub not_after: UnixTime,
    pub(crate) certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Who mints.
#[derive(Debug)]
pub(crate) struct Minter<'a> {
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) node: &'a NodeName,
    pub(crate) issuing_key: &'a EcKey,
    /// Node CA and issuing CA.
    pub(crate) issuers: &'a [CertificateDer<'static>],
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

impl Minter<'_> {
    /// A new key and a leaf for it: empty subject (so the names are critical), one URI, one DNS name, both usages.
    pub(crate) fn mint(&self, now: UnixTime) -> Result<Leaf, IssueError> {
        check_dates(self.not_before, self.not_after, now)?;
        let node_ca = self.issuers.first().ok_or(IssueError::Provider)?;
        let key = EcKey::generate()?;
        let not_after = now.plus(LEAF_SECONDS).min(self.not_after);
        let mut params = dated_params(now, not_after)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![
            SanType::URI(ia5(SpiffeId::node(self.trust_domain, self.node).to_string())?),
            SanType::DnsName(ia5(self.trust_domain.node_dns(self.node))?),
        ];
        let certificate = params.signed_by(&key, &Issuer::from_ca_cert_der(node_ca, self.issuing_key)?)?;

        let mut chain = vec![certificate.der().clone()];
        chain.extend_from_slice(self.issuers);
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()));
        let signer = any_ecdsa_type(&private).map_err(|error| IssueError::Certificate(Box::new(error)))?;
        let certified = Arc::new(CertifiedKey::new(chain.clone(), signer));
        Ok(Leaf { chain, key: private, not_after, certified })
    }
}

fn ia5(text: String) -> Result<Ia5String, IssueError> {
    Ok(Ia5String::try_from(text)?)
}
