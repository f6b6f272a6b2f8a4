//! A credential proves exactly one node's record key.

use proptest::prelude::*;

use super::*;
use crate::armor;
use crate::fixtures::{Forge, Mesh, NOW, name};
use crate::time::DAY_SECONDS;

fn check(mesh: &Mesh, what: &str, reason: &str, owner: &str, bytes: &[u8]) {
    let refused = verify_credential(bytes, &name(owner), &mesh.trust, NOW).unwrap_err();
    assert_eq!(refused.reason(), reason, "{what}: {refused}");
}

/// A credential for `claimed` of a mesh, sealed with the key that was issued to `signer`.
fn sealed(mesh: &Mesh, signer: &str, claimed: &str, mesh_id: MeshId) -> Vec<u8> {
    let issued = mesh.issue(signer);
    let issuers = armor::decode_certificates(issued.chain_pem.as_bytes()).unwrap();
    let claim = Claim { mesh_id, node: &name(claimed), record_key: [7; 32], epoch: BootEpoch(5) };
    seal(&claim, &EcKey::from_pem(&issued.issuing_key_pem).unwrap(), &issuers).unwrap()
}

#[test]
fn a_credential_binds_a_record_key_to_a_node() {
    let mesh = Mesh::new("prod.internal");
    let node = mesh.node("web-1");
    let credential = node.credential(BootEpoch(42));
    let verified = verify_credential(&credential, node.node(), &mesh.trust, NOW).unwrap();
    assert_eq!(verified.record_key, node.record_public_key());
    assert_eq!(verified.epoch, BootEpoch(42));
    assert_eq!(verified.issuing_key_hash, node.issuing_key_hash());
}

#[test]
fn the_longest_names_fit() {
    let mesh = Mesh::new(&format!("{}.{}.io", "a".repeat(26), "b".repeat(26)));
    let node = mesh.node(&"n".repeat(63));
    let credential = node.credential(BootEpoch(u64::MAX));
    assert!(credential.len() <= 2_048, "{}", credential.len());
    assert!(verify_credential(&credential, node.node(), &mesh.trust, NOW).is_ok());
}

#[test]
fn a_node_cannot_speak_for_another() {
    let mesh = Mesh::new("prod.internal");
    let mesh_id = mesh.made.bundle.mesh_id;
    let own = sealed(&mesh, "web-1", "web-1", mesh_id);
    assert!(verify_credential(&own, &name("web-1"), &mesh.trust, NOW).is_ok());
    check(&mesh, "shown as another's", "credential-other-node", "web-2", &own);
    let claimed = sealed(&mesh, "web-1", "web-2", mesh_id);
    check(&mesh, "claims another's name with its own key", "credential-other-node", "web-2", &claimed);
}

#[test]
fn another_mesh_and_another_key_prove_nothing() {
    let (mesh, twin) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    check(&mesh, "another mesh", "other-mesh", "web-1", &twin.node("web-1").credential(BootEpoch(1)));
    let mesh_id = mesh.made.bundle.mesh_id;
    let bytes = sealed(&twin, "web-1", "web-1", mesh_id);
    check(&mesh, "another mesh's chain under our mesh id", "not-chained", "web-1", &bytes);

    let issued = mesh.issue("web-1");
    let issuers = armor::decode_certificates(issued.chain_pem.as_bytes()).unwrap();
    let node = name("web-1");
    let claim = Claim { mesh_id, node: &node, record_key: [7; 32], epoch: BootEpoch(5) };
    let bytes = seal(&claim, &EcKey::generate().unwrap(), &issuers).unwrap();
    check(&mesh, "signed with another key", "credential-forged", "web-1", &bytes);
}

#[test]
fn its_chain_is_checked_like_a_peers() {
    let mesh = Mesh::new("prod.internal");
    let node = name("web-1");
    let key = EcKey::generate().unwrap();
    let claim = Claim { mesh_id: mesh.made.bundle.mesh_id, node: &node, record_key: [7; 32], epoch: BootEpoch(5) };
    let with = |issuers: &[CertificateDer<'_>]| seal(&claim, &key, issuers).unwrap();
    let forge = |bend: &dyn Fn(&mut Forge)| {
        let mut forge = Forge::new(&mesh);
        bend(&mut forge);
        with(&[forge.node_cert(), forge.issuer_cert()])
    };
    check(&mesh, "no chain", "chain-size", "web-1", &with(&[]));
    check(&mesh, "garbage", "malformed", "web-1", &with(&[CertificateDer::from(&b"x"[..])]));
    let good = Forge::new(&mesh);
    check(
        &mesh,
        "three",
        "credential-malformed",
        "web-1",
        &with(&[good.node_cert(), good.issuer_cert(), good.root_cert()]),
    );
    check(&mesh, "no issuing CA", "not-chained", "web-1", &with(&[good.node_cert()]));
    check(&mesh, "wrong order", "path-shape", "web-1", &with(&[good.issuer_cert(), good.node_cert()]));
    check(&mesh, "a leaf as CA", "path-shape", "web-1", &with(&[good.leaf_cert(), good.node_cert()]));
    let bytes = forge(&|forge| forge.node_ca.name_constraints = None);
    check(&mesh, "unconstrained", "path-shape", "web-1", &bytes);
    let bytes = forge(&|forge| forge.node_ca.is_ca = rcgen::IsCa::ExplicitNoCa);
    check(&mesh, "no CA", "path-shape", "web-1", &bytes);
    let bytes = forge(&|forge| forge.node_ca.key_usages.clear());
    check(&mesh, "no key usage", "path-shape", "web-1", &bytes);
    let bytes = forge(&|forge| forge.issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0)));
    check(&mesh, "path length of the issuing CA", "path-shape", "web-1", &bytes);
    let bytes = forge(&|forge| {
        forge.node_ca.not_before = rcgen::date_time_ymd(2026, 10, 1);
        forge.node_ca.not_after = rcgen::date_time_ymd(2026, 11, 1);
    });
    check(&mesh, "expired", "expired", "web-1", &bytes);
    let bytes = forge(&|forge| forge.issuer.not_before = rcgen::date_time_ymd(2026, 12, 1));
    check(&mesh, "not begun", "not-yet-valid", "web-1", &bytes);
}

#[test]
fn a_credential_ends_with_its_chain() {
    let mesh = Mesh::new("prod.internal");
    let node = mesh.node("web-1");
    let credential = node.credential(BootEpoch(1));
    let at = |now| verify_credential(&credential, node.node(), &mesh.trust, now);
    assert!(at(node.certificate_not_after()).is_ok());
    assert_eq!(at(node.certificate_not_after().plus(1)).unwrap_err().reason(), "expired");
    assert_eq!(at(NOW.minus(2 * DAY_SECONDS)).unwrap_err().reason(), "not-yet-valid");
}

#[test]
fn every_cut_and_every_bent_bit_is_refused() {
    let mesh = Mesh::new("prod.internal");
    let node = mesh.node("web-1");
    let good = node.credential(BootEpoch(1));
    let refused = |bytes: &[u8]| verify_credential(bytes, node.node(), &mesh.trust, NOW).is_err();
    for len in 0..good.len() {
        assert!(refused(&good[..len]), "cut at {len}");
    }
    for bit in 0..good.len() * 8 {
        let mut bent = good.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&bent), "bit {bit} bent");
    }
    assert!(refused(&[good.as_slice(), &[0]].concat()));
    assert!(refused(&vec![0; CREDENTIAL_BYTES_MAX + 1]));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        thread_local!(static MESH: Mesh = Mesh::new("prod.internal"));
        MESH.with(|mesh| {
            let _ = verify_credential(&bytes, &name("web-1"), &mesh.trust, NOW);
            let _ = verify_credential(&[&MAGIC[..], &bytes].concat(), &name("web-1"), &mesh.trust, NOW);
        });
    }
}
