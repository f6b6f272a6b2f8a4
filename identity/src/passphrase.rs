//! An operator's key at rest under a passphrase: PKCS#8 `EncryptedPrivateKeyInfo` with PBES2 (RFC 8018), the format that
//! OpenSSL reads and writes. No format of our own.
//!
//! The passphrase becomes a key by scrypt, with the greatest cost that OpenSSL reads unasked (16 MiB, five times over); the
//! key is kept under AES-256-CBC. PBES2 has no checksum: a wrong passphrase shows in the padding or in a key that is none.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use pkcs8::der::asn1::OctetString;
use pkcs8::der::{Decode as _, Encode as _};
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::pkcs5::{EncryptionScheme, scrypt};
use pkcs8::{EncryptedPrivateKeyInfoOwned, EncryptedPrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::armor;
use crate::keys::{EdKey, KeyInvalid};
use crate::limits::{KDF_MEMORY_BYTES_MAX, KDF_ROUNDS_MAX, KDF_WORK_BYTES_MAX};

/// RFC 7468, 11.
pub(crate) const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// scrypt's N as a power of two, r and p. 128 N r bytes are 16 MiB; OpenSSL refuses more than 32 MiB unless it is told.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);
const SALT_BYTES: usize = 16;
const IV_BYTES: usize = 16;

/// The key of an operator's key file (PKCS#8 in PEM) under a passphrase, as a key file.
///
/// # Errors
/// [`KeyInvalid::Armour`] or [`KeyInvalid::Kind`] when it is none, [`KeyInvalid::Generate`] when the provider or the cipher fails.
pub fn seal(key_pem: &str, passphrase: &str) -> Result<Zeroizing<String>, KeyInvalid> {
    let key = armor::decode_one(key_pem.as_bytes(), armor::PRIVATE_KEY).ok_or(KeyInvalid::Armour)?;
    // Without the public half, which other tools do not expect there.
    let key = EdKey::from_pkcs8(&key)?.to_pkcs8_v1()?;
    let (mut salt, mut iv) = ([0_u8; SALT_BYTES], [0_u8; IV_BYTES]);
    for fresh in [&mut salt[..], &mut iv[..]] {
        aws_lc_rs::rand::fill(fresh).map_err(|_| KeyInvalid::Generate)?;
    }
    let (log_n, r, p) = SCRYPT;
    let cost = scrypt::Params::new(log_n, r, p).map_err(|_| KeyInvalid::Generate)?;
    let parameters = Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(|_| KeyInvalid::Generate)?;
    let encrypted = parameters.encrypt(passphrase, key.as_slice()).map_err(|_| KeyInvalid::Generate)?;
    let info = EncryptedPrivateKeyInfoOwned {
        encryption_algorithm: EncryptionScheme::Pbes2(parameters),
        encrypted_data: OctetString::new(encrypted).map_err(|_| KeyInvalid::Generate)?,
    };
    Ok(armor::encode(LABEL, &info.to_der().map_err(|_| KeyInvalid::Generate)?))
}

/// True for a file that holds a key under a passphrase.
pub(crate) fn is_sealed(file: &str) -> bool {
    armor::decode_one(file.as_bytes(), LABEL).is_some()
}

/// The key inside, as PKCS#8.
///
/// # Errors
/// [`KeyInvalid::Armour`] when it is no such file, [`KeyInvalid::Cost`] when opening it would cost more than a key of ours
/// ever does, [`KeyInvalid::Passphrase`] when the passphrase does not open it.
pub(crate) fn open(file: &str, passphrase: &str) -> Result<Zeroizing<Vec<u8>>, KeyInvalid> {
    let der = armor::decode_one(file.as_bytes(), LABEL).ok_or(KeyInvalid::Armour)?;
    let info = EncryptedPrivateKeyInfoRef::from_der(&der).map_err(|_| KeyInvalid::Armour)?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else { return Err(KeyInvalid::Armour) };
    check_cost(&parameters.kdf)?;
    let key = parameters.decrypt(passphrase, info.encrypted_data.as_bytes());
    key.map(Zeroizing::new).map_err(|_| KeyInvalid::Passphrase)
}

/// A file may come from anywhere, and says itself what it costs to open.
fn check_cost(kdf: &Kdf) -> Result<(), KeyInvalid> {
    let cheap = if let Kdf::Scrypt(scrypt) = kdf {
        let (n, r, p) = (scrypt.cost_parameter, u64::from(scrypt.block_size), u64::from(scrypt.parallelization));
        // A table of N blocks of 128 r bytes, and an input of p; the table is filled and read for each of the p.
        let blocks = |count: u64| count.saturating_mul(128).saturating_mul(r);
        let memory = blocks(n.max(p));
        memory <= KDF_MEMORY_BYTES_MAX && blocks(n.saturating_mul(p)) <= KDF_WORK_BYTES_MAX
    } else if let Kdf::Pbkdf2(pbkdf2) = kdf {
        u64::from(pbkdf2.iteration_count) <= KDF_ROUNDS_MAX
    } else {
        false
    };
    if cheap { Ok(()) } else { Err(KeyInvalid::Cost) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Mesh;
    use crate::operator::OperatorKey;

    const OPENSSL: [&str; 2] = [
        concat!(
            "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAh1eUZAIAge+wICCAAwDAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoE",
            "EAfv7dYNmR11YgLscR9j/TwEQHXTv6W67qyJ/M76F01E45ELUF338+/U9c0onLFKoMVfG0dvoaKZu4OOlTchBH+CVc0Fl7vpLS3b",
            "recF9JG3Bx0=",
        ),
        concat!(
            "MIGTME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAgmAoPf3/hrhwICQAACAQgCAQEwHQYJYIZIAWUDBAEqBBAOdJi3I+HG",
            "tTC2blH+lI1rBEBLvySlQDp4pyRhAFnxEVfDctqgvQPOKgDVW0AO5S9E17Xo+Ldy1gdxItLYSN5Vxz78hB/KjLINWIghDoni8cuj",
        ),
    ];
    const OPENSSL_PUBLIC: &str = "a2d7696c76cf135614bcea4f5828a35d6696d10f5a868300e614355d9db42434";

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_and_no_other() {
        let mesh = Mesh::new("prod.internal");
        let plain = &mesh.made.operator_key_pem;
        let public = OperatorKey::from_pem(plain).unwrap().public();
        let sealed = seal(plain, "correct horse").unwrap();
        assert!(sealed.contains("BEGIN ENCRYPTED PRIVATE KEY") && is_sealed(&sealed) && !is_sealed(plain));
        assert_ne!(*sealed, *seal(plain, "correct horse").unwrap(), "salt and vector are fresh");
        let opened = OperatorKey::open(&sealed, Some("correct horse")).unwrap();
        assert_eq!(opened.public(), public);
        assert_eq!(OperatorKey::open(&sealed, None).unwrap_err(), KeyInvalid::Encrypted);
        assert_eq!(OperatorKey::from_pem(&sealed).unwrap_err(), KeyInvalid::Encrypted);
        assert_eq!(OperatorKey::open(plain, Some("correct horse")).unwrap().public(), public, "one that has none");
        for wrong in ["", "correct hors", "Correct horse", "correct horse "] {
            let refused = OperatorKey::open(&sealed, Some(wrong)).unwrap_err();
            assert!(matches!(refused, KeyInvalid::Passphrase | KeyInvalid::Kind(_)), "{wrong:?}: {refused:?}");
        }
        assert_eq!(seal("no key", "x").unwrap_err(), KeyInvalid::Armour);
        assert_eq!(seal(&sealed, "x").unwrap_err(), KeyInvalid::Armour, "it is sealed once");
        assert!(matches!(seal(&mesh.made.root_key_pem, "x"), Err(KeyInvalid::Kind(_))), "operators' keys only");
        let cut = armor::encode(LABEL, b"0\x03\x02\x01\x01");
        assert_eq!(OperatorKey::open(&cut, Some("x")).unwrap_err(), KeyInvalid::Armour);
    }

    /// `openssl genpkey -algorithm ed25519 | openssl pkcs8 -topk8 -v2 aes-256-cbc -passout pass:correct`, of version 3.0: by
    /// PBKDF2; and the same with `-scrypt`.
    #[test]
    fn what_openssl_writes_is_read() {
        for sealed in OPENSSL {
            let text = format!("-----BEGIN {LABEL}-----\n{sealed}\n-----END {LABEL}-----\n");
            let key = OperatorKey::open(&text, Some("correct")).unwrap();
            assert_eq!(starling_model::mesh::hex(&key.public()), OPENSSL_PUBLIC);
            assert!(OperatorKey::open(&text, Some("wrong")).is_err());
        }
    }

    #[test]
    fn what_would_cost_too_much_to_open_is_refused_unopened() {
        let scrypt = |n: u64, r: u16, p: u16| {
            let params = scrypt::Params::new(1, 1, 1).unwrap();
            let mut made = Parameters::generate_scrypt_aes256cbc(params, &[1; 16], [2; 16]).unwrap();
            let Kdf::Scrypt(cost) = &mut made.kdf else { panic!("scrypt") };
            (cost.cost_parameter, cost.block_size, cost.parallelization) = (n, r, p);
            check_cost(&made.kdf)
        };
        let n = KDF_MEMORY_BYTES_MAX / 1_024;
        assert_eq!((scrypt(n, 8, 1), scrypt(n + 1, 8, 1)), (Ok(()), Err(KeyInvalid::Cost)), "memory by N");
        assert_eq!(scrypt(n, 9, 1), Err(KeyInvalid::Cost), "memory by r");
        assert_eq!(scrypt(1, u16::MAX, u16::MAX), Err(KeyInvalid::Cost), "memory by p");
        let most = u16::try_from(KDF_WORK_BYTES_MAX / (1_024 << 14)).unwrap();
        assert_eq!(
            (scrypt(1 << 14, 8, most), scrypt(1 << 14, 8, most + 1)),
            (Ok(()), Err(KeyInvalid::Cost)),
            "time by p"
        );
        assert_eq!(scrypt(u64::MAX, u16::MAX, u16::MAX), Err(KeyInvalid::Cost));
        let pbkdf2 = |rounds: u32| {
            let made = Parameters::generate_pbkdf2_sha256_aes256cbc(rounds, &[1; 16], [2; 16]).unwrap();
            check_cost(&made.kdf)
        };
        let most = u32::try_from(KDF_ROUNDS_MAX).unwrap();
        assert_eq!((pbkdf2(most), pbkdf2(most + 1)), (Ok(()), Err(KeyInvalid::Cost)));
        let ours = seal(&Mesh::new("prod.internal").made.operator_key_pem, "x").unwrap();
        assert!(OperatorKey::open(&ours, Some("x")).is_ok());
    }
}
