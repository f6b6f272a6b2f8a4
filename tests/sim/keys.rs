//! Signatures for the simulator: a keyed hash per owner. Cheap, repeatable, and nobody can sign for somebody else
//! without that owner's secret, so a forgery is refused here as it is by the real thing.

use std::collections::BTreeMap;

use bytes::Bytes;
use starling_gossip::{ClaimKind, SignedClaim, Verdict};
use starling_model::{BootEpoch, MeshId, NodeName};

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
        let mut signature = [0; 64];
        for (half, at) in signature.chunks_exact_mut(32).zip(0_u64..) {
            let mut mixer = Mixer::new(PURPOSE_SIGNATURE);
            mixer.bytes(&self.secret);
            mixer.bytes(&mesh.0);
            mixer.number(kind_number(kind));
            mixer.number(at);
            mixer.bytes(body);
            half.copy_from_slice(&mixer.digest());
        }
        signature
    }
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
}

impl Trust {
    /// No keys yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, secrets: BTreeMap::new(), made: 0 }
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
