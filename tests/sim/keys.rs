//! Signatures for the simulator: a keyed hash per owner. Cheap, repeatable, and nobody can sign for somebody else
//! without that owner's secret, so a forgery is refused here as it is by the real thing.

use std::collections::BTreeMap;

use bytes::Bytes;
use starling_gossip::{ClaimKind, OperatorClaim, SignedClaim, Verdict, Void};
use starling_model::{BootEpoch, KeyId, MeshId, NodeName};

use crate::trace::Mixer;

const PURPOSE_PUBLIC: u64 = 11;
const PURPOSE_SIGNATURE: u64 = 12;
const PURPOSE_CREDENTIAL: u64 = 13;

/// What one owner signs with. A cloned disk carries the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordKey {
    secret: [u8; 32],
    public: [u8; 32],
}

impl RecordKey {
    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Signs a statement.
    #[must_use]
    pub fn sign(&self, mesh: &MeshId, kind: ClaimKind, body: &[u8]) -> [u8; 64] {
        mark(&self.secret, mesh, kind_number(kind), body)
    }
}

/// What one operator signs with, and what that may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorKey {
    /// Its name in documents.
    pub id: KeyId,
    secret: [u8; 32],
    roles: Vec<OperatorClaim>,
}

impl OperatorKey {
    /// Signs a statement, in its role or not.
    #[must_use]
    pub fn sign(&self, mesh: &MeshId, kind: OperatorClaim, body: &[u8]) -> [u8; 64] {
        let kind = match kind {
            OperatorClaim::Document => 3,
            OperatorClaim::Revocation => 4,
        };
        mark(&self.secret, mesh, kind, body)
    }

    /// The statement with its signature behind it.
    #[must_use]
    pub fn seal(&self, mesh: &MeshId, kind: OperatorClaim, body: &[u8]) -> Bytes {
        [body, &self.sign(mesh, kind, body)].concat().into()
    }
}

fn mark(secret: &[u8; 32], mesh: &MeshId, kind: u64, body: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    for (half, at) in signature.chunks_exact_mut(32).zip(0_u64..) {
        let mut mixer = Mixer::new(PURPOSE_SIGNATURE);
        mixer.bytes(secret);
        mixer.bytes(&mesh.0);
        mixer.number(kind);
        mixer.number(at);
        mixer.bytes(body);
        half.copy_from_slice(&mixer.digest());
    }
    signature
}

fn kind_number(kind: ClaimKind) -> u64 {
    match kind {
        ClaimKind::Life => 1,
        ClaimKind::Record => 2,
    }
}

/// The trust of all meshes of one run: who has which key, and the issuers that say so.
#[derive(Clone, Debug)]
pub struct Trust {
    seed: u64,
    secrets: BTreeMap<[u8; 32], [u8; 32]>,
    made: u64,
    operators: BTreeMap<KeyId, OperatorKey>,
}

impl Trust {
    /// No keys yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, secrets: BTreeMap::new(), made: 0, operators: BTreeMap::new() }
    }

    /// A new record key.
    pub fn new_key(&mut self) -> RecordKey {
        self.made += 1;
        let mut mixer = Mixer::new(self.seed);
        mixer.number(self.made);
        let secret = mixer.digest();
        let mut mixer = Mixer::new(PURPOSE_PUBLIC);
        mixer.bytes(&secret);
        let public = mixer.digest();
        self.secrets.insert(public, secret);
        RecordKey { secret, public }
    }

    /// A new operator, with the next number, whom every node of the run knows and who may sign these.
    pub fn new_operator(&mut self, roles: &[OperatorClaim]) -> OperatorKey {
        let id = KeyId(u32::try_from(self.operators.len()).unwrap_or(u32::MAX).saturating_add(1));
        let key = self.unknown_operator(id, roles);
        self.operators.insert(id, key.clone());
        key
    }

    /// An operator whom no node knows.
    pub fn unknown_operator(&mut self, id: KeyId, roles: &[OperatorClaim]) -> OperatorKey {
        self.made += 1;
        let mut mixer = Mixer::new(self.seed);
        mixer.number(self.made);
        OperatorKey { id, secret: mixer.digest(), roles: roles.to_vec() }
    }

    fn judge_operator(
        &self,
        mesh: &MeshId,
        kind: OperatorClaim,
        signer: KeyId,
        body: &[u8],
        signature: &[u8; 64],
    ) -> Verdict {
        let Some(operator) = self.operators.get(&signer) else { return Verdict::Void(Void::UnknownKey) };
        if !operator.roles.contains(&kind) {
            return Verdict::Void(Void::Role);
        }
        if operator.sign(mesh, kind, body) == *signature { Verdict::Valid } else { Verdict::Void(Void::BadSignature) }
    }

    /// A node statement: this node has this record key.
    #[must_use]
    pub fn credential(&self, mesh: &MeshId, node: &NodeName, record_key: [u8; 32], epoch: BootEpoch) -> Bytes {
        let mut bytes = Vec::with_capacity(120);
        bytes.extend_from_slice(&record_key);
        bytes.extend_from_slice(&epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.issuer_mark(mesh, node, &record_key, epoch));
        bytes.extend_from_slice(node.as_str().as_bytes());
        Bytes::from(bytes)
    }

    fn issuer_mark(&self, mesh: &MeshId, node: &NodeName, record_key: &[u8; 32], epoch: BootEpoch) -> [u8; 32] {
        let mut mixer = Mixer::new(self.seed ^ PURPOSE_CREDENTIAL);
        mixer.bytes(&mesh.0);
        mixer.bytes(node.as_str().as_bytes());
        mixer.bytes(record_key);
        mixer.number(epoch.0);
        mixer.digest()
    }

    /// Judges a claim as the driver of a node of `mesh` does.
    #[must_use]
    pub fn judge(&self, mesh: &MeshId, claim: &SignedClaim) -> Verdict {
        match claim {
            SignedClaim::Credential { owner, bytes } => self.judge_credential(mesh, owner, bytes),
            SignedClaim::Owned { owner: _, record_key, kind, body, signature } => {
                let Some(secret) = self.secrets.get(record_key) else { return Verdict::Refused };
                let key = RecordKey { secret: *secret, public: *record_key };
                if key.sign(mesh, *kind, body) == *signature { Verdict::Valid } else { Verdict::Refused }
            }
            SignedClaim::Operator { kind, signer, body, signature } => {
                self.judge_operator(mesh, *kind, *signer, body, signature)
            }
        }
    }

    fn judge_credential(&self, mesh: &MeshId, owner: &NodeName, bytes: &[u8]) -> Verdict {
        let (Some(record_key), Some(epoch), Some(mark), Some(name)) = (
            bytes.get(..32).and_then(|part| part.first_chunk::<32>()),
            bytes.get(32..40).and_then(|part| part.first_chunk::<8>()),
            bytes.get(40..72),
            bytes.get(72..),
        ) else {
            return Verdict::Refused;
        };
        let epoch = BootEpoch(u64::from_le_bytes(*epoch));
        if name != owner.as_str().as_bytes() || mark != self.issuer_mark(mesh, owner, record_key, epoch) {
            return Verdict::Refused;
        }
        Verdict::Credential { record_key: *record_key, epoch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).expect("a label")
    }

    #[test]
    fn only_the_owner_signs_for_itself() {
        let mut trust = Trust::new(1);
        let (ours, other) = (trust.new_key(), trust.new_key());
        let (mesh, foreign) = (MeshId([1; 32]), MeshId([2; 32]));
        let judge = |mesh: &MeshId, kind, body: &[u8], signature| {
            trust.judge(
                mesh,
                &SignedClaim::Owned {
                    owner: name("a"),
                    record_key: ours.public(),
                    kind,
                    body: Bytes::copy_from_slice(body),
                    signature,
                },
            )
        };
        let signature = ours.sign(&mesh, ClaimKind::Life, b"body");
        assert_eq!(judge(&mesh, ClaimKind::Life, b"body", signature), Verdict::Valid);
        assert_eq!(judge(&mesh, ClaimKind::Life, b"bodx", signature), Verdict::Refused);
        assert_eq!(judge(&mesh, ClaimKind::Record, b"body", signature), Verdict::Refused);
        assert_eq!(judge(&foreign, ClaimKind::Life, b"body", signature), Verdict::Refused);
        assert_eq!(
            judge(&mesh, ClaimKind::Life, b"body", other.sign(&mesh, ClaimKind::Life, b"body")),
            Verdict::Refused
        );
    }

    #[test]
    fn an_operator_signs_in_its_role_only() {
        let mut trust = Trust::new(1);
        let mesh = MeshId([1; 32]);
        let (alice, carol) =
            (trust.new_operator(&[OperatorClaim::Document]), trust.new_operator(&[OperatorClaim::Revocation]));
        let mallory = trust.unknown_operator(KeyId(9), &[OperatorClaim::Document]);
        let judge = |key: &OperatorKey, mesh: &MeshId, made, asked, body: &[u8]| {
            let signature = key.sign(&MeshId([1; 32]), made, b"body");
            let body = Bytes::copy_from_slice(body);
            trust.judge(mesh, &SignedClaim::Operator { kind: asked, signer: key.id, body, signature })
        };
        let (document, revocation) = (OperatorClaim::Document, OperatorClaim::Revocation);
        assert_eq!(judge(&alice, &mesh, document, document, b"body"), Verdict::Valid);
        assert_eq!(judge(&carol, &mesh, revocation, revocation, b"body"), Verdict::Valid);
        assert_eq!(judge(&carol, &mesh, document, document, b"body"), Verdict::Void(Void::Role));
        assert_eq!(judge(&alice, &mesh, revocation, document, b"body"), Verdict::Void(Void::BadSignature));
        assert_eq!(judge(&alice, &mesh, document, document, b"bodY"), Verdict::Void(Void::BadSignature));
        assert_eq!(judge(&alice, &MeshId([2; 32]), document, document, b"body"), Verdict::Void(Void::BadSignature));
        assert_eq!(judge(&mallory, &mesh, document, document, b"body"), Verdict::Void(Void::UnknownKey));
    }

    #[test]
    fn a_credential_names_one_node_of_one_mesh() {
        let mut trust = Trust::new(1);
        let key = trust.new_key();
        let mesh = MeshId([1; 32]);
        let bytes = trust.credential(&mesh, &name("a"), key.public(), BootEpoch(5));
        let judge = |mesh: MeshId, owner: &str, bytes: &Bytes| {
            trust.judge(&mesh, &SignedClaim::Credential { owner: name(owner), bytes: bytes.clone() })
        };
        assert_eq!(judge(mesh, "a", &bytes), Verdict::Credential { record_key: key.public(), epoch: BootEpoch(5) });
        assert_eq!(judge(mesh, "b", &bytes), Verdict::Refused);
        assert_eq!(judge(MeshId([2; 32]), "a", &bytes), Verdict::Refused);
        assert_eq!(judge(mesh, "a", &bytes.slice(..50)), Verdict::Refused);
    }
}
