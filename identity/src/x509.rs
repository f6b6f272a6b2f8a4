//! Facts of one certificate that webpki does not check or does not show.
//!
//! webpki ignores keyUsage and skips URI names that are not UTF-8, so the usages are read here and the subject
//! alternative names are counted on the raw extension (CVE-2022-40716: several URIs; CVE-2025-66220: NUL in a name).
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, VerificationAlgorithm};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, NameConstraints, ParsedExtension};
use x509_parser::oid_registry as oids;
use x509_parser::prelude::FromDer as _;

use crate::keys;
use crate::time::UnixTime;
use crate::wire::{Reader, WireError};

/// Largest certificate that is looked at. Ours have 500 to 800 bytes.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 4 * 1024;

/// The permitted name of a CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Constraint<'a> {
    /// No nameConstraints extension.
    Absent,
    /// Exactly one permitted subtree, of DNS names.
    One(&'a str),
    /// Anything else.
    Other,
}

/// Subject alternative names, counted by kind on the raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names<'a> {
    pub(crate) uris: usize,
    pub(crate) dns: usize,
    pub(crate) others: usize,
    /// The last URI, as bytes: it may hold anything.
    pub(crate) uri: &'a [u8],
    /// The last DNS name, as bytes.
    pub(crate) dns_name: &'a [u8],
}

/// keyUsage bits that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) digital_signature: bool,
    pub(crate) key_cert_sign: bool,
    pub(crate) crl_sign: bool,
}

/// What one certificate says.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) subject: &'a [u8],
    pub(crate) issuer: &'a [u8],
    /// The whole SubjectPublicKeyInfo.
    pub(crate) spki: &'a [u8],
    pub(crate) serial: &'a [u8],
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    pub(crate) ca: bool,
    pub(crate) path_len: Option<u32>,
    pub(crate) usage: Option<Usage>,
    /// serverAuth and clientAuth of extKeyUsage, if that extension is there.
    pub(crate) extended: Option<(bool, bool)>,
    pub(crate) names: Option<Names<'a>>,
    pub(crate) constraint: Constraint<'a>,
    certificate: X509Certificate<'a>,
}

impl<'a> Facts<'a> {
    /// Reads one certificate to its last byte. `None` when it is no X.509 certificate, is too large, or an extension
    /// that we use is damaged or there twice.
    pub(crate) fn read(der: &'a CertificateDer<'_>) -> Option<Self> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return None;
        }
        // webpki's parser is the stricter one: tag classes, version, unknown critical extensions.
        EndEntityCert::try_from(der).ok()?;
        let (rest, certificate) = X509Certificate::from_der(der.as_ref()).ok()?;
        if !rest.is_empty() || certificate.signature_algorithm != certificate.tbs_certificate.signature {
            return None;
        }
        let body = &certificate.tbs_certificate;
        let mut facts = Self {
            subject: body.subject.as_raw(),
            issuer: body.issuer.as_raw(),
            spki: body.subject_pki.raw,
            serial: body.raw_serial(),
            not_before: UnixTime::from_signed(body.validity.not_before.timestamp()),
            not_after: UnixTime::from_signed(body.validity.not_after.timestamp()),
            ca: false,
            path_len: None,
            usage: None,
            extended: None,
            names: None,
            constraint: Constraint::Absent,
            certificate: certificate.clone(),
        };
        facts.read_extensions(&certificate)?;
        Some(facts)
    }

    fn read_extensions(&mut self, certificate: &X509Certificate<'a>) -> Option<()> {
        let mut basic_seen = false;
        for extension in certificate.extensions() {
            let parsed = extension.parsed_extension();
            if extension.oid == oids::OID_X509_EXT_SUBJECT_ALT_NAME {
                once(&mut self.names, read_names(extension.value)?)?;
            } else if extension.oid == oids::OID_X509_EXT_BASIC_CONSTRAINTS {
                let ParsedExtension::BasicConstraints(basic) = parsed else { return None };
                if std::mem::replace(&mut basic_seen, true) {
                    return None;
                }
                (self.ca, self.path_len) = (basic.ca, basic.path_len_constraint);
            } else if extension.oid == oids::OID_X509_EXT_KEY_USAGE {
                let ParsedExtension::KeyUsage(usage) = parsed else { return None };
                let usage = Usage {
                    digital_signature: usage.digital_signature(),
                    key_cert_sign: usage.key_cert_sign(),
                    crl_sign: usage.crl_sign(),
                };
                once(&mut self.usage, usage)?;
            } else if extension.oid == oids::OID_X509_EXT_EXTENDED_KEY_USAGE {
                let ParsedExtension::ExtendedKeyUsage(usage) = parsed else { return None };
                once(&mut self.extended, (usage.server_auth, usage.client_auth))?;
            } else if extension.oid == oids::OID_X509_EXT_NAME_CONSTRAINTS {
                let ParsedExtension::NameConstraints(constraints) = parsed else { return None };
                if self.constraint != Constraint::Absent {
                    return None;
                }
                self.constraint = permitted(constraints);
            }
        }
        Some(())
    }

    /// The public key itself: for our keys an uncompressed EC point.
    pub(crate) fn point(&self) -> &[u8] {
        self.certificate.tbs_certificate.subject_pki.subject_public_key.as_ref()
    }

    /// SHA-256 of the SubjectPublicKeyInfo: names a key whatever certificates it has.
    pub(crate) fn key_hash(&self) -> [u8; 32] {
        keys::sha256(self.spki)
    }

    /// `P-256`, `P-384`, or nothing for every other kind of key.
    pub(crate) fn curve(&self) -> Option<&'static str> {
        let algorithm = &self.certificate.tbs_certificate.subject_pki.algorithm;
        if algorithm.algorithm != oids::OID_KEY_TYPE_EC_PUBLIC_KEY {
            return None;
        }
        let curve = algorithm.parameters.as_ref()?.as_oid().ok()?;
        if curve == oids::OID_EC_P256 { Some("P-256") } else { (curve == oids::OID_NIST_EC_P384).then_some("P-384") }
    }

    /// True when `issuer`'s name and key made this certificate, by ECDSA.
    pub(crate) fn is_signed_by(&self, issuer: &Facts<'_>) -> bool {
        let algorithm = &self.certificate.signature_algorithm.algorithm;
        let ecdsa = *algorithm == oids::OID_SIG_ECDSA_WITH_SHA256 || *algorithm == oids::OID_SIG_ECDSA_WITH_SHA384;
        let key = issuer.certificate.public_key();
        ecdsa
            && issuer.curve().is_some()
            && self.issuer == issuer.subject
            && self.certificate.verify_signature(Some(key)).is_ok()
    }

    /// True when this certificate's key made `signature` (ASN.1 ECDSA, SHA-256) over `message`.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.curve() {
            Some("P-256") => &ECDSA_P256_SHA256_ASN1,
            Some(_) => &ECDSA_P384_SHA256_ASN1,
            None => return false,
        };
        keys::verify(algorithm, self.point(), message, signature)
    }

    /// The first common name of the subject, for people.
    pub(crate) fn common_name(&self) -> Option<String> {
        let name = self.certificate.subject().iter_common_name().next()?;
        name.as_str().ok().map(str::to_owned)
    }
}

/// Sets what may be set once.
fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

fn permitted<'a>(constraints: &NameConstraints<'a>) -> Constraint<'a> {
    match constraints.permitted_subtrees.as_deref() {
        Some([subtree]) => match &subtree.base {
            GeneralName::DNSName(name) => Constraint::One(name),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::URI(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => Constraint::Other,
        },
        Some(_) | None => Constraint::Other,
    }
}

/// GeneralNames ::= SEQUENCE OF CHOICE with context tags (RFC 5280, 4.2.1.6): 2 is dNSName, 6 is URI, both primitive.
fn read_names(value: &[u8]) -> Option<Names<'_>> {
    const SEQUENCE: u8 = 0x30;
    const DNS_NAME: u8 = 0x82;
    const URI: u8 = 0x86;
    let mut outer = Reader::new(value);
    let (tag, content) = read_tlv(&mut outer).ok()?;
    outer.finish().ok()?;
    if tag != SEQUENCE {
        return None;
    }
    let mut names = Names::default();
    let mut inner = Reader::new(content);
    while !inner.is_empty() {
        let (tag, name) = read_tlv(&mut inner).ok()?;
        match tag {
            DNS_NAME => (names.dns, names.dns_name) = (names.dns.saturating_add(1), name),
            URI => (names.uris, names.uri) = (names.uris.saturating_add(1), name),
            _ => names.others = names.others.saturating_add(1),
        }
    }
    Some(names)
}

/// One DER element with a one-byte tag and a definite, minimal length of at most two bytes.
fn read_tlv<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), WireError> {
    const MULTI_BYTE_TAG: u8 = 0x1f;
    let tag = reader.u8()?;
    if tag & MULTI_BYTE_TAG == MULTI_BYTE_TAG {
        return Err(WireError::Value);
    }
    let len = match reader.u8()? {
        short @ 0..=0x7f => usize::from(short),
        0x81 => usize::from(reader.u8()?),
        0x82 => usize::from(u16::from_be_bytes(reader.array()?)),
        _ => return Err(WireError::Value),
    };
    Ok((tag, reader.take(len)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_counted_by_their_raw_tags() {
        let names = read_names(&[0x30, 10, 0x82, 2, b'a', 0, 0x86, 1, 0xff, 0x87, 1, 9]).unwrap();
        assert_eq!((names.dns, names.uris, names.others), (1, 1, 1));
        assert_eq!((names.dns_name, names.uri), (&b"a\0"[..], &[0xff][..]));
        assert_eq!(read_names(&[0x30, 0]), Some(Names::default()));
        assert_eq!(read_names(&[0x30, 2, 0x82, 5]), None);
        assert_eq!(read_names(&[0x31, 0]), None);
        assert_eq!(read_names(&[0x30, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_names(&bytes);
            let _ = Facts::read(&CertificateDer::from(bytes));
        }
    }
}
