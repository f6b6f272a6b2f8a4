//! The two kinds of private key: P-256 for certificates, Ed25519 for records and operators.
//!
//! Key bytes that we hold are wiped when dropped and never appear in `Debug` output.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey,
    VerificationAlgorithm,
};
use zeroize::Zeroizing;

use crate::armor;

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyInvalid {
    /// Not one PEM block labelled `PRIVATE KEY`.
    #[error("it is not one PEM block with a private key (PKCS#8)")]
    Armour,
    /// Another kind of key, or damaged.
    #[error("it is not a {0} key, or it is damaged")]
    Kind(&'static str),
    /// Under a passphrase, and none was given.
    #[error("it is encrypted with a passphrase")]
    Encrypted,
    /// Under another one.
    #[error("the passphrase does not open it")]
    Passphrase,
    /// Opening it would take more time or memory than a key of ours ever does.
    #[error("opening it would cost more than is allowed")]
    Cost,
    /// The provider could not make a key.
    #[error("the crypto provider could not make a key")]
    Generate,
}

/// A P-256 key that signs certificates or node statements.
pub(crate) struct EcKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl EcKey {
    pub(crate) fn generate() -> Result<Self, KeyInvalid> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyInvalid::Generate)?;
        Self::from_pkcs8(document.as_ref())
    }

    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyInvalid> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| KeyInvalid::Kind("P-256"))?;
        Ok(Self { pair, pkcs8: Zeroizing::new(pkcs8.to_vec()) })
    }

    pub(crate) fn from_pem(text: &str) -> Result<Self, KeyInvalid> {
        let body = armor::decode_one(text.as_bytes(), armor::PRIVATE_KEY).ok_or(KeyInvalid::Armour)?;
        Self::from_pkcs8(&body)
    }

    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        armor::encode(armor::PRIVATE_KEY, &self.pkcs8)
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// DER of the SubjectPublicKeyInfo: what key hashes are taken of.
    pub(crate) fn spki(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(self)
    }

    /// An ASN.1 ECDSA signature with SHA-256. `None` only if the provider fails.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.pair.sign(&SystemRandom::new(), message).ok().map(|signature| signature.as_ref().to_vec())
    }
}

impl fmt::Debug for EcKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EcKey(elided)")
    }
}

impl rcgen::PublicKeyData for EcKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for EcKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Self::sign(self, message).ok_or(rcgen::Error::RemoteKeyError)
    }
}

/// An Ed25519 key: a node's record key or an operator's.
pub(crate) struct EdKey(Ed25519KeyPair);

impl EdKey {
    /// A new key as PKCS#8.
    pub(crate) fn generate_pkcs8() -> Result<Zeroizing<Vec<u8>>, KeyInvalid> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyInvalid::Generate)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyInvalid> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(Self).map_err(|_| KeyInvalid::Kind("Ed25519"))
    }

    /// PKCS#8 of version 1, the private key alone: what every tool reads.
    pub(crate) fn to_pkcs8_v1(&self) -> Result<Zeroizing<Vec<u8>>, KeyInvalid> {
        let document = self.0.to_pkcs8v1().map_err(|_| KeyInvalid::Generate)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        // An Ed25519 public key has 32 bytes (RFC 8032, 5.1.5); `zip` keeps this total.
        public.iter_mut().zip(self.0.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        out.iter_mut().zip(self.0.sign(message).as_ref()).for_each(|(to, from)| *to = *from);
        out
    }
}

impl fmt::Debug for EdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EdKey(elided)")
    }
}

/// True when `signature` over `message` is by `public`.
pub(crate) fn verify(
    algorithm: &'static dyn VerificationAlgorithm,
    public: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, public).verify(message, signature).is_ok()
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.iter_mut().zip(digest::digest(&digest::SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// The first four bytes of a key hash: how a root is named in tables.
pub(crate) fn short(hash: &[u8; 32]) -> [u8; 4] {
    let [a, b, c, d, ..] = *hash;
    [a, b, c, d]
}
