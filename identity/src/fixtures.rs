//! A mesh for tests, and a forge that makes chains which no tool of ours would make.

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, Issuer, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use starling_model::{NodeName, TrustDomain};

use crate::issue::{CaProfile, IssuedNode, IssuingCa, Level, NewTrustDomain, create_trust_domain, dated_params};
use crate::keys::EcKey;
use crate::node::{NodeIdentity, new_record_key};
use crate::time::{DAY_SECONDS, UnixTime};
use crate::trust::TrustView;

/// 2026-11-22T15:31:59Z.
pub(crate) const NOW: UnixTime = UnixTime(1_795_361_519);

pub(crate) fn clock() -> UnixTime {
    NOW
}

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// A trust domain with all its keys.
pub(crate) struct Mesh {
    pub(crate) made: NewTrustDomain,
    pub(crate) ca: IssuingCa,
    pub(crate) trust: TrustView,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let made = create_trust_domain(&TrustDomain::new(trust_domain).unwrap(), "alice", false, NOW).unwrap();
        let ca = IssuingCa::load(&made.bundle, &made.issuer_key_pem).unwrap();
        let trust = TrustView::new(made.bundle.clone());
        Self { made, ca, trust }
    }

    pub(crate) fn issue(&self, node: &str) -> IssuedNode {
        self.ca.issue_node(&name(node), 365, NOW).unwrap()
    }

    pub(crate) fn node(&self, node: &str) -> NodeIdentity {
        let issued = self.issue(node);
        NodeIdentity::load(&self.made.bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), NOW)
            .unwrap()
    }
}

/// Parameters of each certificate of a chain, good until bent.
pub(crate) struct Forge {
    pub(crate) issuer: CertificateParams,
    pub(crate) node_ca: CertificateParams,
    pub(crate) leaf: CertificateParams,
    issuer_key: EcKey,
    node_key: EcKey,
    root_key: EcKey,
    root: CertificateDer<'static>,
    trust_domain: String,
}

impl Forge {
    /// A chain for `web-1` under a new issuing CA of this mesh.
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let (issuer_key, node_key) = (EcKey::generate().unwrap(), EcKey::generate().unwrap());
        let trust_domain = mesh.made.bundle.trust_domain.to_string();
        let end = NOW.plus(365 * DAY_SECONDS);
        let dns = format!("web-1.node.{trust_domain}");
        let profile = |level, permitted| CaProfile { level, permitted, not_after: end };
        let mut forge = Self {
            issuer: profile(Level::Issuer, &trust_domain).params(&issuer_key, NOW).unwrap(),
            node_ca: profile(Level::Node, &dns).params(&node_key, NOW).unwrap(),
            leaf: dated_params(NOW, NOW.plus(DAY_SECONDS)).unwrap(),
            root_key: EcKey::from_pem(&mesh.made.root_key_pem).unwrap(),
            root: mesh.made.bundle.roots[0].clone(),
            issuer_key,
            node_key,
            trust_domain,
        };
        forge.leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        forge.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        forge.names("web-1");
        forge
    }

    /// Both names of a node.
    pub(crate) fn names(&mut self, node: &str) {
        let td = &self.trust_domain;
        self.leaf.subject_alt_names =
            vec![uri(&format!("spiffe://{td}/node/{node}")), dns(&format!("{node}.node.{td}"))];
    }

    pub(crate) fn root_cert(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    pub(crate) fn issuer_cert(&self) -> CertificateDer<'static> {
        let root = Issuer::from_ca_cert_der(&self.root, &self.root_key).unwrap();
        self.issuer.signed_by(&self.issuer_key, &root).unwrap().into()
    }

    pub(crate) fn node_cert(&self) -> CertificateDer<'static> {
        self.node_ca.signed_by(&self.node_key, &Issuer::from_params(&self.issuer, &self.issuer_key)).unwrap().into()
    }

    /// The node CA as a root signs it directly.
    pub(crate) fn node_cert_by_root(&self) -> CertificateDer<'static> {
        let root = Issuer::from_ca_cert_der(&self.root, &self.root_key).unwrap();
        self.node_ca.signed_by(&self.node_key, &root).unwrap().into()
    }

    pub(crate) fn leaf_cert(&self) -> CertificateDer<'static> {
        self.leaf_cert_for(&EcKey::generate().unwrap())
    }

    pub(crate) fn leaf_cert_for(&self, key: &impl rcgen::PublicKeyData) -> CertificateDer<'static> {
        self.leaf.signed_by(key, &Issuer::from_params(&self.node_ca, &self.node_key)).unwrap().into()
    }

    /// The leaf as the issuing CA signs it directly.
    pub(crate) fn leaf_cert_by_issuer(&self) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&self.issuer, &self.issuer_key);
        self.leaf.signed_by(&EcKey::generate().unwrap(), &issuer).unwrap().into()
    }

    /// The leaf as the root signs it directly.
    pub(crate) fn leaf_cert_by_root(&self) -> CertificateDer<'static> {
        let root = Issuer::from_ca_cert_der(&self.root, &self.root_key).unwrap();
        self.leaf.signed_by(&EcKey::generate().unwrap(), &root).unwrap().into()
    }

    /// Leaf, node CA, issuing CA.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf_cert(), self.node_cert(), self.issuer_cert()]
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(text).unwrap())
}

/// An extension id-ce `number` with these bytes.
pub(crate) fn extension(number: u64, critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, number], content.to_vec());
    extension.set_criticality(critical);
    extension
}

/// A subjectAltName with raw names: (tag, bytes).
pub(crate) fn raw_names(names: &[(u8, &[u8])]) -> CustomExtension {
    let mut content = Vec::new();
    for (tag, name) in names {
        content.extend([*tag, u8::try_from(name.len()).unwrap()]);
        content.extend(*name);
    }
    let mut sequence = vec![0x30, 0x81, u8::try_from(content.len()).unwrap()];
    if content.len() < 0x80 {
        sequence.remove(1);
    }
    sequence.extend(content);
    extension(17, true, &sequence)
}
