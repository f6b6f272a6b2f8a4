//! Domain-separated signatures: one of one kind, or of one mesh, is never valid for another.
//!
//! ```text
//! Ed25519( "starling/v1/" ‖ kind ‖ 0x00 ‖ mesh id [32] ‖ body )
//! ```
//!
//! `body` is the bytes as received: nothing is encoded again to be checked. Owners sign with their record key,
//! operators with their own.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::signature::ED25519;
use starling_model::MeshId;

use crate::keys;

/// What is signed. The word is part of the signed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureKind {
    /// A life of a member: alive and leave.
    Life,
    /// An owner's record.
    Record,
    /// A document, by an operator.
    Document,
    /// An update of the trust bundle, by an operator.
    Bundle,
    /// A revocation, by an operator.
    Revocation,
}

impl SignatureKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Life => "life",
            Self::Record => "record",
            Self::Document => "document",
            Self::Bundle => "bundle",
            Self::Revocation => "revocation",
        }
    }

    /// The bytes that are signed.
    pub(crate) fn message(self, mesh: &MeshId, body: &[u8]) -> Vec<u8> {
        domain_message(self.word(), mesh, body)
    }
}

/// The bytes that are signed for a kind, also for the two that certificate keys sign (`bundle`, `node-statement`).
pub(crate) fn domain_message(kind: &str, mesh: &MeshId, body: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 5] = [b"starling/v1/", kind.as_bytes(), &[0], &mesh.0, body];
    parts.concat()
}

/// True when `signature` is by `public` over this kind, mesh and body.
#[must_use]
pub fn verify_ed25519(
    kind: SignatureKind,
    mesh: &MeshId,
    public: &[u8; 32],
    body: &[u8],
    signature: &[u8; 64],
) -> bool {
    keys::verify(&ED25519, public, &kind.message(mesh, body), signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::EdKey;

    const KINDS: [SignatureKind; 5] = [
        SignatureKind::Life,
        SignatureKind::Record,
        SignatureKind::Document,
        SignatureKind::Bundle,
        SignatureKind::Revocation,
    ];

    #[test]
    fn the_signed_bytes_are_as_documented() {
        let message = SignatureKind::Record.message(&MeshId([7; 32]), b"body");
        assert_eq!(message, [b"starling/v1/record\0".as_slice(), &[7; 32], b"body"].concat());
    }

    #[test]
    fn a_signature_is_valid_for_its_own_kind_mesh_key_and_body_only() {
        let key = EdKey::from_pkcs8(&EdKey::generate_pkcs8().unwrap()).unwrap();
        let other = EdKey::from_pkcs8(&EdKey::generate_pkcs8().unwrap()).unwrap();
        let mesh = MeshId([1; 32]);
        for made in KINDS {
            let signature = key.sign(&made.message(&mesh, b"body"));
            for asked in KINDS {
                assert_eq!(verify_ed25519(asked, &mesh, &key.public(), b"body", &signature), made == asked);
            }
            assert!(!verify_ed25519(made, &MeshId([2; 32]), &key.public(), b"body", &signature));
            assert!(!verify_ed25519(made, &mesh, &other.public(), b"body", &signature));
            assert!(!verify_ed25519(made, &mesh, &key.public(), b"bodY", &signature));
            for bit in 0..512 {
                let mut bent = signature;
                bent[bit / 8] ^= 1 << (bit % 8);
                assert!(!verify_ed25519(made, &mesh, &key.public(), b"body", &bent), "bit {bit}");
            }
        }
    }
}
