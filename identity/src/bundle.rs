//! The trust bundle: the one public thing that all nodes of a mesh share.
//!
//! A file is text armour around signed bytes; the bytes are kept as received and never encoded again to be checked.
//!
//! ```text
//! file      := "STB1" | blen u32 | body | signatures u8 | { kind u8 | key id u32 | slen u16 | signature }
//! body      := mesh id [32] | sequence u64 | previous [32] | flags u8 (1 = shared issuer, 2 = lists) | present u8
//!              | threshold u8 | trust domain text | roots u8 { DER } | issuers u8 { DER } | operators u8 { operator }
//!              | with flag 2: lists u8 { SHA-256 }
//! operator  := id u32 | roles u8 | key [32] | name text
//! text      := len u8 | bytes          DER := len u16 | bytes          integers little-endian
//! ```
//!
//! `present` is the index of the issuing certificate that members show (used while a root is rotated), `lists` name the
//! renewed node certificates that belong to the bundle ([`crate::certificates`]), `threshold` is the number of admins that an update needs: 1. Signature kind 0 is ECDSA by the root at index *key id*, kind 1 Ed25519 by
//! the operator *key id*; other kinds are skipped. A file must carry a signature by one of its own roots; an update of a
//! chain is judged by the bundle before it ([`crate::chain`]). An update by a root whose place changes is signed for both
//! places.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::signature::ED25519;
use rustls_pki_types::CertificateDer;
use starling_model::{Code, MeshId, TrustDomain, codes, names};

use crate::armor;
use crate::keys::{self, EcKey, EdKey};
use crate::limits::LISTS_MAX;
use crate::path;
use crate::signature::domain_message;
use crate::wire::{Reader, WireError, Writer};
use crate::x509::{Constraint, Facts};

pub(crate) const LABEL: &str = "STARLING TRUST BUNDLE";
const MAGIC: [u8; 4] = *b"STB1";
/// An old and a new root, twice over: a rotation begun during another one.
const ROOTS_MAX: usize = 4;
/// Two issuing certificates a root.
const ISSUERS_MAX: usize = 8;
/// Operators are people; a larger team shares keys by role.
const OPERATORS_MAX: usize = 64;
/// A root and each operator may sign one update.
const SIGNATURES_MAX: usize = 68;
const _: () = assert!(SIGNATURES_MAX == ROOTS_MAX + OPERATORS_MAX);
const FLAG_SHARED_ISSUER: u8 = 1;
const FLAG_LISTS: u8 = 2;
const SIGNED_BY_ROOT: u8 = 0;
const SIGNED_BY_OPERATOR: u8 = 1;

/// Who signed a bundle, as the bundle before it names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// A root, by the SHA-256 of its SPKI.
    Root([u8; 32]),
    /// An operator with the role admin.
    Operator {
        /// Written `k1`.
        id: u32,
        /// For people.
        name: String,
    },
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(hash) => write!(f, "root {}", starling_model::mesh::hex(&keys::short(hash))),
            Self::Operator { id, name } => write!(f, "k{id} \"{name}\""),
        }
    }
}

/// What an operator's key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Bundle updates and operator keys.
    Admin,
    /// Documents of every kind.
    Config,
    /// Join files and published certificates.
    Issue,
    /// Revocations of nodes.
    Revoke,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Config, Self::Issue, Self::Revoke];

    const fn bit(self) -> u8 {
        match self {
            Self::Admin => 1,
            Self::Config => 2,
            Self::Issue => 4,
            Self::Revoke => 8,
        }
    }

    /// As commands write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Config => "config",
            Self::Issue => "issue",
            Self::Revoke => "revoke",
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Admin, config, issue and revoke.
    #[must_use]
    pub fn all() -> Self {
        Self::of(&Role::ALL)
    }

    /// Just these.
    #[must_use]
    pub fn of(roles: &[Role]) -> Self {
        Self(roles.iter().fold(0, |bits, role| bits | role.bit()))
    }

    /// True when `role` is one of them.
    #[must_use]
    pub fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<&str> = Role::ALL.into_iter().filter(|role| self.has(*role)).map(Role::as_str).collect();
        f.write_str(&held.join(", "))
    }
}

/// A person, or a machine of theirs, that signs for the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Written `k1`, `k2`, …; never used again for another key.
    pub id: u32,
    /// For people, one label.
    pub name: String,
    /// Ed25519 public key.
    pub key: [u8; 32],
    /// What it may sign.
    pub roles: Roles,
}

impl Operator {
    /// `k1`.
    #[must_use]
    pub fn key_id(&self) -> String {
        format!("k{}", self.id)
    }
}

/// Roots, issuing certificates and operators of one mesh at one sequence number. All of it is public.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Names the mesh for ever: SHA-256 of the first root's SPKI at sequence 1.
    pub mesh_id: MeshId,
    /// The name under which identities are issued.
    pub trust_domain: TrustDomain,
    /// Rises by one with each update.
    pub sequence: u64,
    /// One to four roots.
    pub roots: Vec<CertificateDer<'static>>,
    /// Issuing certificates under them.
    pub issuers: Vec<CertificateDer<'static>>,
    /// Which of them members show, where they have a certificate by it.
    pub present: usize,
    /// SHA-256 of each list of renewed node certificates.
    pub lists: Vec<[u8; 32]>,
    /// Who may sign what.
    pub operators: Vec<Operator>,
    /// The issuing key goes to every host, so any host can pose as any node (ST0604).
    pub shared_issuer: bool,
    /// SHA-256 of the signed body of the bundle before this one; zero at sequence 1.
    pub previous: [u8; 32],
    /// The signed bytes and their signatures, as received.
    raw: Vec<u8>,
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("mesh_id", &self.mesh_id)
            .field("trust_domain", &self.trust_domain)
            .field("sequence", &self.sequence)
            .field("roots", &self.roots.len())
            .field("issuers", &self.issuers.len())
            .field("operators", &self.operators.len())
            .field("shared_issuer", &self.shared_issuer)
            .finish_non_exhaustive()
    }
}

/// Why a file is no trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleInvalid {
    /// No armour, or damaged armour.
    #[error("it is not one block labelled \"STARLING TRUST BUNDLE\", or it is damaged")]
    Armour,
    /// The bytes inside are not a bundle of a format that this release knows.
    #[error("its bytes are not a trust bundle of a known format: {0}")]
    Body(&'static str),
    /// A certificate breaks the profile.
    #[error("{0} in it breaks the certificate profile")]
    Certificate(&'static str),
    /// The mesh id is not the hash of the first root.
    #[error("its mesh id is not the hash of its first root")]
    MeshId,
    /// None of its roots signed it.
    #[error("it is not signed by a root in it")]
    Signature,
}

impl BundleInvalid {
    /// The catalogue entry.
    #[must_use]
    pub fn code(&self) -> Code {
        codes::BUNDLE_INVALID
    }
}

impl From<WireError> for BundleInvalid {
    fn from(error: WireError) -> Self {
        Self::Body(match error {
            WireError::Short => "it ends too early",
            WireError::Trailing => "bytes follow its end",
            WireError::Value => "a field has a value it cannot have",
        })
    }
}

/// What is written into a new bundle.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) root: CertificateDer<'static>,
    pub(crate) issuer: CertificateDer<'static>,
    pub(crate) operator: Operator,
    pub(crate) shared_issuer: bool,
}

/// Whose signature a new bundle gets: that of a root, by its place in the bundle that judges, or that of an operator.
#[derive(Debug)]
pub(crate) enum BundleSigner<'a> {
    Root { at: u32, key: &'a EcKey },
    Operator { id: u32, key: &'a EdKey },
}

impl TrustBundle {
    /// Reads an armoured file and checks it against itself: certificates by their profiles, mesh id, signature of a
    /// root. Dates are judged where a chain is.
    ///
    /// # Errors
    /// [`BundleInvalid`] with the first thing that is wrong.
    pub fn parse(file: &[u8]) -> Result<Self, BundleInvalid> {
        let raw = armor::decode_one(file, LABEL).ok_or(BundleInvalid::Armour)?;
        Self::from_raw(&raw)
    }

    /// The file, byte for byte what [`TrustBundle::parse`] read inside the armour.
    #[must_use]
    pub fn to_file(&self) -> Vec<u8> {
        armor::encode(LABEL, &self.raw).as_bytes().to_vec()
    }

    /// Where the root with this key hash stands.
    pub(crate) fn place_of_root(&self, key_hash: &[u8; 32]) -> Option<u32> {
        let is = |der: &CertificateDer<'_>| Facts::read(der).is_some_and(|facts| facts.key_hash() == *key_hash);
        self.roots.iter().position(is).and_then(|at| u32::try_from(at).ok())
    }

    /// The issuing certificate that signed this one.
    pub(crate) fn issuer_of(&self, certificate: &Facts<'_>) -> Option<&CertificateDer<'static>> {
        self.issuers.iter().find(|der| Facts::read(der).is_some_and(|issuer| certificate.is_signed_by(&issuer)))
    }

    /// The first four bytes of the key hash of each root, in order.
    #[must_use]
    pub fn roots_short(&self) -> Vec<[u8; 4]> {
        let short = |der| Facts::read(der).map_or([0; 4], |facts| keys::short(&facts.key_hash()));
        self.roots.iter().map(short).collect()
    }

    /// The first four bytes of the first root's key hash.
    #[must_use]
    pub fn root_short(&self) -> [u8; 4] {
        self.roots.first().and_then(|der| Facts::read(der)).map_or([0; 4], |facts| keys::short(&facts.key_hash()))
    }

    /// Bundle of sequence 1, signed by its root.
    pub(crate) fn first(draft: &Draft, root_key: &EcKey) -> Result<Self, BundleInvalid> {
        let bundle = Self {
            mesh_id: MeshId(keys::sha256(&root_key.spki())),
            trust_domain: draft.trust_domain.clone(),
            sequence: 1,
            roots: vec![draft.root.clone()],
            issuers: vec![draft.issuer.clone()],
            present: 0,
            lists: Vec::new(),
            operators: vec![draft.operator.clone()],
            shared_issuer: draft.shared_issuer,
            previous: [0; 32],
            raw: Vec::new(),
        };
        Self::from_raw(&bundle.signed(&BundleSigner::Root { at: 0, key: root_key })?)
    }

    /// The bundle that follows this one: what `change` makes of it, under the next sequence, signed. Whether members take
    /// it is judged by this bundle.
    pub(crate) fn next(&self, change: impl FnOnce(&mut Self), by: &BundleSigner<'_>) -> Result<Self, BundleInvalid> {
        let sequence = self.sequence.checked_add(1).ok_or(WireError::Value)?;
        let mut bundle = Self { previous: self.hash(), sequence, raw: Vec::new(), ..self.clone() };
        change(&mut bundle);
        Self::read_unjudged(&bundle.signed(by)?)
    }

    /// The bytes inside the armour: body and one signature.
    fn signed(&self, by: &BundleSigner<'_>) -> Result<Vec<u8>, BundleInvalid> {
        let mut body = Writer::default();
        body.raw(&self.mesh_id.0).u64(self.sequence).raw(&self.previous);
        let shared = if self.shared_issuer { FLAG_SHARED_ISSUER } else { 0 };
        let lists = if self.lists.is_empty() { 0 } else { FLAG_LISTS };
        body.u8(shared | lists).count(self.present)?.u8(1);
        body.text(self.trust_domain.as_str())?;
        body.count(self.roots.len())?;
        self.roots.iter().try_for_each(|der| body.bytes(der).map(drop))?;
        body.count(self.issuers.len())?;
        self.issuers.iter().try_for_each(|der| body.bytes(der).map(drop))?;
        body.count(self.operators.len())?;
        for operator in &self.operators {
            body.u32(operator.id).u8(operator.roles.0).raw(&operator.key).text(&operator.name)?;
        }
        if !self.lists.is_empty() {
            body.count(self.lists.len())?;
            body.raw(self.lists.as_flattened());
        }
        let body = body.into_bytes();
        let message = domain_message("bundle", &self.mesh_id, &body);
        let mut raw = Writer::default();
        let len = u32::try_from(body.len()).map_err(|_| WireError::Value)?;
        raw.raw(&MAGIC).u32(len).raw(&body);
        match by {
            BundleSigner::Root { at, key } => {
                let signature = key.sign(&message).ok_or(BundleInvalid::Signature)?;
                // One place in the bundle that judges, and one here, by which every reader can judge the file alone.
                let here = self.place_of_root(&keys::sha256(&key.spki()));
                let places: Vec<u32> = std::iter::once(*at).chain(here.filter(|here| here != at)).collect();
                raw.count(places.len())?;
                for place in places {
                    raw.u8(SIGNED_BY_ROOT).u32(place).bytes(&signature)?;
                }
            }
            BundleSigner::Operator { id, key } => {
                raw.count(1)?.u8(SIGNED_BY_OPERATOR).u32(*id).bytes(&key.sign(&message))?;
            }
        }
        Ok(raw.into_bytes())
    }

    fn from_raw(raw: &[u8]) -> Result<Self, BundleInvalid> {
        let bundle = Self::read_unjudged(raw)?;
        if matches!(bundle.signer_under(&bundle), Some(Signer::Root(_))) {
            Ok(bundle)
        } else {
            Err(BundleInvalid::Signature)
        }
    }

    /// Reads the bytes inside the armour; whether anybody signed them is judged by the bundle before it.
    pub(crate) fn read_unjudged(raw: &[u8]) -> Result<Self, BundleInvalid> {
        let mut reader = Reader::new(raw);
        if reader.array()? != MAGIC {
            return Err(BundleInvalid::Body("unknown format"));
        }
        let len = usize::try_from(reader.u32()?).map_err(|_| WireError::Value)?;
        let body = reader.take(len)?;
        let mut bundle = Self::read_body(body)?;
        bundle.check_certificates()?;
        read_signatures(&mut reader)?;
        reader.finish()?;
        bundle.raw = raw.to_vec();
        Ok(bundle)
    }

    fn read_body(body: &[u8]) -> Result<Self, BundleInvalid> {
        let mut reader = Reader::new(body);
        let mesh_id = MeshId(reader.array()?);
        let sequence = reader.u64()?;
        let previous = reader.array()?;
        let flags = reader.u8()?;
        let present = reader.u8()?;
        let threshold = reader.u8()?;
        let trust_domain = TrustDomain::new(reader.text()?).map_err(|_| WireError::Value)?;
        let roots = read_certificates(&mut reader, ROOTS_MAX)?;
        let issuers = read_certificates(&mut reader, ISSUERS_MAX)?;
        let operators = read_operators(&mut reader)?;
        let lists = if flags & FLAG_LISTS == 0 { Vec::new() } else { read_lists(&mut reader)? };
        reader.finish()?;
        let present = usize::from(present);
        let known = flags & !(FLAG_SHARED_ISSUER | FLAG_LISTS) == 0 && threshold == 1 && present < issuers.len();
        if !known || sequence == 0 || roots.is_empty() {
            return Err(WireError::Value.into());
        }
        Ok(Self {
            mesh_id,
            trust_domain,
            sequence,
            roots,
            issuers,
            present,
            lists,
            operators,
            shared_issuer: flags & FLAG_SHARED_ISSUER != 0,
            previous,
            raw: Vec::new(),
        })
    }

    fn check_certificates(&self) -> Result<(), BundleInvalid> {
        let read = |der, what| Facts::read(der).ok_or(BundleInvalid::Certificate(what));
        let roots = self.roots.iter().map(|der| read(der, "a root")).collect::<Result<Vec<_>, _>>()?;
        let issuers = self.issuers.iter().map(|der| read(der, "an issuing CA")).collect::<Result<Vec<_>, _>>()?;
        for root in &roots {
            let constrained = root.constraint == Constraint::One(self.trust_domain.as_str());
            if path::check_ca(root).is_err() || !constrained || !root.is_signed_by(root) {
                return Err(BundleInvalid::Certificate("a root"));
            }
        }
        for issuer in &issuers {
            let profile = path::check_issuing_ca(issuer, &self.trust_domain).is_ok() && issuer.path_len == Some(1);
            if !profile || !roots.iter().any(|root| issuer.is_signed_by(root)) {
                return Err(BundleInvalid::Certificate("an issuing CA"));
            }
        }
        // webpki finds issuers by the bytes of their subject, so two CAs never share one.
        let mut subjects: Vec<&[u8]> = roots.iter().chain(&issuers).map(|facts| facts.subject).collect();
        subjects.sort_unstable();
        if subjects.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(BundleInvalid::Certificate("the subject of a CA"));
        }
        let first = roots.first().map(Facts::key_hash);
        if self.sequence == 1 && first != Some(self.mesh_id.0) {
            return Err(BundleInvalid::MeshId);
        }
        Ok(())
    }

    /// The signed bytes and their signatures, as received.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// SHA-256 of the signed body: what the bundle after this one names as its previous.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.split().map_or([0; 32], |(body, _)| keys::sha256(body))
    }

    fn split(&self) -> Option<(&[u8], Reader<'_>)> {
        let mut reader = Reader::new(&self.raw);
        let _magic: [u8; 4] = reader.array().ok()?;
        let len = usize::try_from(reader.u32().ok()?).ok()?;
        let body = reader.take(len).ok()?;
        Some((body, reader))
    }

    /// True when a root of this bundle, wherever it stands in the other one, signed `other`, of the same mesh.
    pub(crate) fn has_signed(&self, other: &Self) -> bool {
        let same = self.mesh_id == other.mesh_id && self.trust_domain == other.trust_domain;
        same && other.is_signed_by_root(self, |_| true)
    }

    /// One of these roots of `judge` signed this, by whatever place the signature names.
    fn is_signed_by_root(&self, judge: &Self, which: impl Fn(&Facts<'_>) -> bool) -> bool {
        let Some((body, mut reader)) = self.split() else { return false };
        let message = domain_message("bundle", &judge.mesh_id, body);
        let signatures = read_signatures(&mut reader).unwrap_or_default();
        let roots =
            judge.roots.iter().filter_map(|der| Facts::read(der)).filter(|root| which(root)).collect::<Vec<_>>();
        let mut by_roots = signatures.iter().filter(|(kind, _, _)| *kind == SIGNED_BY_ROOT);
        by_roots.any(|(_, _, signature)| roots.iter().any(|root| root.has_signed(&message, signature)))
    }

    /// True when the mesh id is the key of a root that signed this bundle: then the mesh's fingerprint proves it. Once the
    /// first root has gone, it does not.
    #[must_use]
    pub fn is_named_by_its_root(&self) -> bool {
        self.is_signed_by_root(self, |root| root.key_hash() == self.mesh_id.0)
    }

    /// `SHA256:b7e1 03c8 …`: all 64 digits of the bundle's own hash, which no two bundles share.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        starling_model::mesh::fingerprint(&self.hash())
    }

    /// Who of `judge` signed this: one of its roots before one of its admins, the first of several.
    pub(crate) fn signer_under(&self, judge: &Self) -> Option<Signer> {
        let (body, mut reader) = self.split()?;
        let message = domain_message("bundle", &judge.mesh_id, body);
        let mut admin = None;
        for (kind, key_id, signature) in read_signatures(&mut reader).ok()? {
            match kind {
                SIGNED_BY_ROOT => {
                    let der = usize::try_from(key_id).ok().and_then(|at| judge.roots.get(at));
                    let facts = der.and_then(|der| Facts::read(der));
                    if let Some(facts) = facts.filter(|facts| facts.has_signed(&message, signature)) {
                        return Some(Signer::Root(facts.key_hash()));
                    }
                }
                SIGNED_BY_OPERATOR if admin.is_none() => {
                    let held = judge.operators.iter().find(|held| held.id == key_id && held.roles.has(Role::Admin));
                    admin = held
                        .filter(|held| keys::verify(&ED25519, &held.key, &message, signature))
                        .map(|held| Signer::Operator { id: held.id, name: held.name.clone() });
                }
                _ => {}
            }
        }
        admin
    }
}

/// Kind, key id, signature.
type RawSignature<'a> = (u8, u32, &'a [u8]);

/// All signatures; kinds that this release does not know too.
fn read_signatures<'a>(reader: &mut Reader<'a>) -> Result<Vec<RawSignature<'a>>, WireError> {
    let count = usize::from(reader.u8()?);
    if count > SIGNATURES_MAX {
        return Err(WireError::Value);
    }
    (0..count).map(|_| Ok((reader.u8()?, reader.u32()?, reader.bytes()?))).collect()
}

fn read_certificates(reader: &mut Reader<'_>, max: usize) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let count = usize::from(reader.u8()?);
    if count > max {
        return Err(WireError::Value);
    }
    (0..count).map(|_| Ok(CertificateDer::from(reader.bytes()?.to_vec()))).collect()
}

fn read_lists(reader: &mut Reader<'_>) -> Result<Vec<[u8; 32]>, WireError> {
    let count = usize::from(reader.u8()?);
    // None is written without the flag: one body for one meaning.
    if count == 0 || count > LISTS_MAX {
        return Err(WireError::Value);
    }
    let lists: Vec<[u8; 32]> = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
    let distinct: BTreeSet<&[u8; 32]> = lists.iter().collect();
    if distinct.len() == lists.len() { Ok(lists) } else { Err(WireError::Value) }
}

fn read_operators(reader: &mut Reader<'_>) -> Result<Vec<Operator>, WireError> {
    let count = usize::from(reader.u8()?);
    if count > OPERATORS_MAX {
        return Err(WireError::Value);
    }
    let mut operators: Vec<Operator> = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, roles, key) = (reader.u32()?, Roles(reader.u8()?), reader.array()?);
        let name = reader.text()?.to_owned();
        let known = roles.0 & !Roles::all().0 == 0 && names::is_label(&name);
        if !known || operators.iter().any(|other| other.id == id || other.key == key) {
            return Err(WireError::Value);
        }
        operators.push(Operator { id, name, key, roles });
    }
    Ok(operators)
}

#[cfg(test)]
mod tests;
