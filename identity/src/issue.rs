//! Issuing: a new trust domain, and a constrained CA certificate for each node.
//!
//! All keys are P-256 and all signatures ECDSA. Serials are 20 random bytes; every certificate is back-dated by 24 h,
//! because clocks differ. Subjects of CAs carry a piece of their key's hash: webpki finds issuers by subject, so two
//! must never be equal, and node names can be longer than a common name may be.
//!
//! |  | root | issuing CA | node CA |
//! |---|---|---|---|
//! | life | 10 years | 5 years | 365 days, or as asked |
//! | path length | 2 | 1 | 0 |
//! | permitted DNS | `<td>` | `<td>` | `<node>.node.<td>` |
//! | excluded IP | all | all | all |
//!
//! URI constraints are not used: webpki fails closed on any (RUSTSEC-2026-0098). IP is excluded because a kind of name
//! that a constraint does not mention is unconstrained (RFC 5280, 4.2.1.10).

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, GeneralSubtree, IsCa, Issuer, KeyUsagePurpose,
    NameConstraints, PublicKeyData, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use starling_model::mesh::hex;
use starling_model::{NodeName, TrustDomain, names};
use zeroize::Zeroizing;

use crate::armor;
use crate::bundle::{BundleInvalid, BundleSigner, Draft, Operator, Roles, TrustBundle};
use crate::keys::{self, EcKey, EdKey, KeyInvalid};
use crate::path;
use crate::request::NodeRequest;
use crate::time::{DAY_SECONDS, LAST_SECOND, UnixTime};
use crate::trust::TrustView;
use crate::x509::Facts;

/// Clocks differ: a certificate is valid from this long before it was made.
pub(crate) const BACK_DATED_SECONDS: u64 = DAY_SECONDS;
const ROOT_DAYS: u64 = 3_650;
const ISSUER_DAYS: u64 = 1_826;
/// Bytes of an uncompressed point of P-256.
const POINT_BYTES: usize = 65;
/// Longest life of a node CA that may be asked for: that of an issuing CA.
pub const NODE_DAYS_MAX: u32 = 1_826;
/// Life of a node CA if nothing is asked for.
pub const NODE_DAYS: u32 = 365;
const _: () = assert!(NODE_DAYS <= NODE_DAYS_MAX);

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The operator's name is not one label.
    #[error("operator name {0:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-'")]
    OperatorName(String),
    /// Two operators of one name cannot be told apart by people.
    #[error("the trust bundle names an operator {0:?} already")]
    OperatorTaken(String),
    /// Zero days, or more than an issuing CA lives.
    #[error("a life of {0} days is not between 1 and {NODE_DAYS_MAX}")]
    Days(u32),
    /// The key cannot be used.
    #[error("the issuing key cannot be used")]
    Key(#[source] KeyInvalid),
    /// The key belongs to no issuing certificate of the bundle.
    #[error("the issuing key is not that of an issuing certificate in the trust bundle")]
    ForeignKey,
    /// The bundle knows no such root.
    #[error("the root key is not that of a root in the trust bundle")]
    ForeignRoot,
    /// The bundle names no such key with the role admin.
    #[error("the operator's key is not that of an admin in the trust bundle")]
    NotAdmin,
    /// The issuer's own certificate has ended, or has not begun by this clock.
    #[error("the issuer's own certificate is valid from {not_before} until {not_after}, it is {now}")]
    IssuerDates {
        /// Its begin.
        not_before: UnixTime,
        /// Its end.
        not_after: UnixTime,
        /// The clock.
        now: UnixTime,
    },
    /// A step of a rotation that does not follow what the bundle says.
    #[error("{0}")]
    Rotation(&'static str),
    /// A certificate that is to be renewed is none of a node of this mesh.
    #[error("a certificate that is to be renewed is none of a node of this mesh")]
    ForeignNode,
    /// More certificates than a bundle can name.
    #[error("{0} certificates are more than a trust bundle can name")]
    TooManyNodes(usize),
    /// Random bytes, a key or a signature could not be made.
    #[error("the crypto provider failed")]
    Provider,
    /// A certificate could not be built.
    #[error("the certificate could not be built")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The bundle made here does not pass its own check.
    #[error("the trust bundle could not be made")]
    Bundle(#[source] BundleInvalid),
}

impl From<rcgen::Error> for IssueError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(Box::new(error))
    }
}

impl From<KeyInvalid> for IssueError {
    fn from(error: KeyInvalid) -> Self {
        match error {
            KeyInvalid::Generate => Self::Provider,
            KeyInvalid::Armour
            | KeyInvalid::Kind(_)
            | KeyInvalid::Encrypted
            | KeyInvalid::Passphrase
            | KeyInvalid::Cost => Self::Key(error),
        }
    }
}

/// Everything that `trust init` writes.
pub struct NewTrustDomain {
    /// Keep offline: signs issuing certificates and bundle updates.
    pub root_key_pem: Zeroizing<String>,
    /// Signs node certificates.
    pub issuer_key_pem: Zeroizing<String>,
    /// Ed25519, all roles.
    pub operator_key_pem: Zeroizing<String>,
    /// The armoured bundle, public.
    pub bundle_file: Vec<u8>,
    /// The same, read.
    pub bundle: TrustBundle,
    /// `k1`.
    pub operator_key_id: String,
}

impl fmt::Debug for NewTrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewTrustDomain").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

/// A node's own CA, fresh from the operator.
pub struct IssuedNode {
    /// Who.
    pub node: NodeName,
    /// Secret: with it the node mints its leaves.
    pub issuing_key_pem: Zeroizing<String>,
    /// Node CA and issuing CA.
    pub chain_pem: String,
    /// End of the node CA.
    pub not_after: UnixTime,
    /// SHA-256 of the issuing key's SPKI.
    pub key_hash: [u8; 32],
    /// Serial of the node CA in hex.
    pub serial: String,
}

impl fmt::Debug for IssuedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedNode")
            .field("node", &self.node)
            .field("not_after", &self.not_after)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// The certificate of a node's own CA, without its key: what is handed to a host that made its key itself, and what the
/// operator keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNode {
    /// Who.
    pub node: NodeName,
    /// Node CA and issuing CA.
    pub chain_pem: String,
    /// End of the node CA.
    pub not_after: UnixTime,
    /// SHA-256 of the issuing key's SPKI.
    pub key_hash: [u8; 32],
    /// Serial of the node CA in hex.
    pub serial: String,
}

impl From<&IssuedNode> for SignedNode {
    fn from(issued: &IssuedNode) -> Self {
        Self {
            node: issued.node.clone(),
            chain_pem: issued.chain_pem.clone(),
            not_after: issued.not_after,
            key_hash: issued.key_hash,
            serial: issued.serial.clone(),
        }
    }
}

/// A root and an issuing CA under it, with their keys.
pub(crate) struct Authority {
    pub(crate) root_key: EcKey,
    pub(crate) root: CertificateDer<'static>,
    pub(crate) issuer_key: EcKey,
    pub(crate) issuer: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn create(trust_domain: &TrustDomain, now: UnixTime) -> Result<Self, IssueError> {
        let (root_key, issuer_key) = (EcKey::generate()?, EcKey::generate()?);
        let permitted = trust_domain.as_str();
        let root_end = now.plus(ROOT_DAYS * DAY_SECONDS);
        let root_params = CaProfile { level: Level::Root, permitted, not_after: root_end }.params(&root_key, now)?;
        let root = root_params.self_signed(&root_key)?;
        let issuer_end = now.plus(ISSUER_DAYS * DAY_SECONDS);
        let issuer = CaProfile { level: Level::Issuer, permitted, not_after: issuer_end }
            .params(&issuer_key, now)?
            .signed_by(&issuer_key, &Issuer::from_params(&root_params, &root_key))?;
        Ok(Self { root: root.der().clone(), issuer: issuer.der().clone(), root_key, issuer_key })
    }
}

/// Makes root, issuing CA, the first operator key (all roles) and the bundle of sequence 1.
///
/// # Errors
/// [`IssueError::OperatorName`], or a failing provider.
pub fn create_trust_domain(
    trust_domain: &TrustDomain,
    operator: &str,
    shared_issuer: bool,
    now: UnixTime,
) -> Result<NewTrustDomain, IssueError> {
    if !names::is_label(operator) {
        return Err(IssueError::OperatorName(operator.chars().take(80).collect()));
    }
    let Authority { root_key, root, issuer_key, issuer } = Authority::create(trust_domain, now)?;
    let operator_pkcs8 = EdKey::generate_pkcs8()?;
    let operator_key = EdKey::from_pkcs8(&operator_pkcs8)?;
    let operator = Operator { id: 1, name: operator.to_owned(), key: operator_key.public(), roles: Roles::all() };
    let operator_key_id = operator.key_id();
    let draft = Draft { trust_domain: trust_domain.clone(), root, issuer, operator, shared_issuer };
    let bundle = TrustBundle::first(&draft, &root_key).map_err(IssueError::Bundle)?;
    Ok(NewTrustDomain {
        root_key_pem: root_key.to_pem(),
        issuer_key_pem: issuer_key.to_pem(),
        operator_key_pem: armor::encode(armor::PRIVATE_KEY, &operator_pkcs8),
        bundle_file: bundle.to_file(),
        bundle,
        operator_key_id,
    })
}

/// What `trust issue operator` writes.
pub struct NewOperator {
    /// The new operator's alone.
    pub key_pem: Zeroizing<String>,
    /// `k2`.
    pub key_id: String,
    /// Names the key.
    pub bundle: TrustBundle,
}

impl fmt::Debug for NewOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewOperator").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// A further operator key, and the bundle that names it.
///
/// # Errors
/// [`IssueError::OperatorName`] for a name that is no label, [`IssueError::OperatorTaken`] for one that is in use, and
/// what [`update_by_root`] refuses.
pub fn issue_operator(
    before: &TrustBundle,
    root_key_pem: &str,
    name: &str,
    roles: Roles,
) -> Result<NewOperator, IssueError> {
    if !names::is_label(name) {
        return Err(IssueError::OperatorName(name.chars().take(80).collect()));
    }
    if before.operators.iter().any(|operator| operator.name == name) {
        return Err(IssueError::OperatorTaken(name.to_owned()));
    }
    let pkcs8 = EdKey::generate_pkcs8()?;
    let key = EdKey::from_pkcs8(&pkcs8)?.public();
    // The sequence that first names it: one operator an update, so a number is never given again, not even after its
    // removal. What a removed key signed, its revocations first of all, must not be judged by somebody else's key.
    let highest = before.operators.iter().map(|operator| u64::from(operator.id)).max().unwrap_or(0);
    let id = u32::try_from(before.sequence.max(highest).saturating_add(1));
    let id = id.map_err(|_| IssueError::Bundle(BundleInvalid::Body("its sequence is too high")))?;
    let operator = Operator { id, name: name.to_owned(), key, roles };
    let key_id = operator.key_id();
    let bundle = update_by_root(before, root_key_pem, |bundle| bundle.operators.push(operator))?;
    Ok(NewOperator { key_pem: armor::encode(armor::PRIVATE_KEY, &pkcs8), key_id, bundle })
}

/// The bundle that follows `before`, signed by one of its roots: what `change` makes of it. It wins over whatever admins
/// signed beside it.
///
/// # Errors
/// [`IssueError::ForeignRoot`] with another key, [`IssueError::Bundle`] when it is no bundle.
pub fn update_by_root(
    before: &TrustBundle,
    root_key_pem: &str,
    change: impl FnOnce(&mut TrustBundle),
) -> Result<TrustBundle, IssueError> {
    let key = EcKey::from_pem(root_key_pem).map_err(IssueError::Key)?;
    let at = before.place_of_root(&keys::sha256(&key.spki())).ok_or(IssueError::ForeignRoot)?;
    before.next(change, &BundleSigner::Root { at, key: &key }).map_err(IssueError::Bundle)
}

/// The issuing key with its certificate: signs node CAs.
#[derive(Debug)]
pub struct IssuingCa {
    trust_domain: TrustDomain,
    key: EcKey,
    certificate: CertificateDer<'static>,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl IssuingCa {
    /// Finds the issuing certificate of a key in the bundle.
    ///
    /// # Errors
    /// [`IssueError::Key`] or [`IssueError::ForeignKey`].
    pub fn load(bundle: &TrustBundle, issuer_key_pem: &str) -> Result<Self, IssueError> {
        let key = EcKey::from_pem(issuer_key_pem)?;
        let spki = key.spki();
        for der in &bundle.issuers {
            let Some(facts) = Facts::read(der).filter(|facts| facts.spki == spki) else { continue };
            return Ok(Self {
                trust_domain: bundle.trust_domain.clone(),
                not_before: facts.not_before,
                not_after: facts.not_after,
                certificate: der.clone(),
                key,
            });
        }
        Err(IssueError::ForeignKey)
    }

    /// Makes a key and a constrained CA certificate for one node. Its life is cut at the issuing CA's own.
    ///
    /// # Errors
    /// [`IssueError::Days`], [`IssueError::IssuerDates`], or a failing provider.
    pub fn issue_node(&self, node: &NodeName, ttl_days: u32, now: UnixTime) -> Result<IssuedNode, IssueError> {
        let key = EcKey::generate()?;
        let SignedNode { node, chain_pem, not_after, key_hash, serial } = self.sign(node, &key, ttl_days, now)?;
        Ok(IssuedNode { node, issuing_key_pem: key.to_pem(), chain_pem, not_after, key_hash, serial })
    }

    /// The same for a key that stays on its host: a constrained CA certificate for what the request names.
    ///
    /// # Errors
    /// [`IssueError::Days`], [`IssueError::IssuerDates`], or a failing provider.
    pub fn sign_request(&self, request: &NodeRequest, ttl_days: u32, now: UnixTime) -> Result<SignedNode, IssueError> {
        self.sign(request.node(), request.key(), ttl_days, now)
    }

    fn sign(
        &self,
        node: &NodeName,
        key: &impl PublicKeyData,
        ttl_days: u32,
        now: UnixTime,
    ) -> Result<SignedNode, IssueError> {
        if ttl_days == 0 || ttl_days > NODE_DAYS_MAX {
            return Err(IssueError::Days(ttl_days));
        }
        check_dates(self.not_before, self.not_after, now)?;
        let not_after = now.plus(u64::from(ttl_days).saturating_mul(DAY_SECONDS)).min(self.not_after);
        let certificate = self.certify(node, key, not_after, now)?;
        let serial = Facts::read(&certificate).map(|facts| hex(facts.serial)).ok_or(IssueError::Provider)?;
        Ok(SignedNode {
            node: node.clone(),
            chain_pem: armor::encode_certificates(&[certificate, self.certificate.clone()]),
            not_after,
            key_hash: keys::sha256(&key.subject_public_key_info()),
            serial,
        })
    }
}

impl IssuingCa {
    /// A certificate of one more life of the same length for the key that `held` certifies; `held` is a node certificate
    /// by an issuing CA of `bundle`. Its life is cut at this issuing CA's own.
    ///
    /// # Errors
    /// [`IssueError::ForeignNode`] when it is none, [`IssueError::IssuerDates`], or a failing provider.
    pub(crate) fn renew(
        &self,
        bundle: &TrustView,
        held: &CertificateDer<'static>,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, IssueError> {
        check_dates(self.not_before, self.not_after, now)?;
        let facts = Facts::read(held).ok_or(IssueError::ForeignNode)?;
        let issuer = bundle.bundle().issuer_of(&facts).ok_or(IssueError::ForeignNode)?.clone();
        let chain = [held.clone(), issuer];
        let ca = path::verify_issuers(&chain, bundle, path::When::Whenever).map_err(|_| IssueError::ForeignNode)?;
        let life = facts.not_before.until(facts.not_after).as_secs().saturating_sub(BACK_DATED_SECONDS);
        let not_after = now.plus(life.max(DAY_SECONDS)).min(self.not_after);
        let key = HeldKey::read(facts.spki).ok_or(IssueError::ForeignNode)?;
        self.certify(&ca.node, &key, not_after, now)
    }

    fn certify(
        &self,
        node: &NodeName,
        key: &impl PublicKeyData,
        not_after: UnixTime,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let permitted = self.trust_domain.node_dns(node);
        let params = CaProfile { level: Level::Node, permitted: &permitted, not_after }.params(key, now)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)?;
        Ok(params.signed_by(key, &issuer)?.der().clone())
    }
}

/// The public half of somebody's P-256 key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HeldKey(Vec<u8>);

impl HeldKey {
    /// DER of a SubjectPublicKeyInfo; its end is the uncompressed point (RFC 5480, 2.2).
    pub(crate) fn read(spki: &[u8]) -> Option<Self> {
        let key = Self(spki.get(spki.len().checked_sub(POINT_BYTES)?..)?.to_vec());
        (key.subject_public_key_info() == spki).then_some(key)
    }
}

impl PublicKeyData for HeldKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Which of the three kinds of CA.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Root,
    Issuer,
    Node,
}

/// What differs between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaProfile<'a> {
    pub(crate) level: Level,
    pub(crate) permitted: &'a str,
    pub(crate) not_after: UnixTime,
}

impl CaProfile<'_> {
    pub(crate) fn params(&self, key: &impl PublicKeyData, now: UnixTime) -> Result<CertificateParams, IssueError> {
        let hash = hex(&keys::sha256(&key.subject_public_key_info()));
        let (path_len, word, digits) = match self.level {
            Level::Root => (2, "root", 8),
            Level::Issuer => (1, "issuer", 8),
            Level::Node => (0, "node", 16),
        };
        let mut params = dated_params(now, self.not_after)?;
        params
            .distinguished_name
            .push(DnType::CommonName, format!("starling {word} {}", hash.get(..digits).unwrap_or(&hash)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(self.permitted.to_owned())],
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        Ok(params)
    }
}

/// Parameters with dates, serial and authority key id of ours instead of rcgen's (1975 to 4096, a common name, none).
pub(crate) fn dated_params(now: UnixTime, not_after: UnixTime) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let at = |time: UnixTime| date_time_ymd(1970, 1, 1) + Duration::from_secs(time.min(LAST_SECOND).0);
    params.not_before = at(now.minus(BACK_DATED_SECONDS));
    params.not_after = at(not_after);
    params.serial_number = Some(random_serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 20 random bytes: positive, and never shorter, so the first two bits are fixed (RFC 5280, 4.1.2.2).
fn random_serial() -> Result<SerialNumber, IssueError> {
    let mut serial = [0_u8; 20];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| IssueError::Provider)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

pub(crate) fn check_dates(not_before: UnixTime, not_after: UnixTime, now: UnixTime) -> Result<(), IssueError> {
    if now < not_before || now > not_after {
        return Err(IssueError::IssuerDates { not_before, not_after, now });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
