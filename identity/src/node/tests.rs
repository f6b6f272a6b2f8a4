//! An identity loads only if peers would accept it.

use super::*;
use crate::fixtures::{Mesh, NOW, name};
use crate::signature::verify_ed25519;
use crate::time::DAY_SECONDS;

fn load(mesh: &Mesh, chain: &str, key: &str, now: UnixTime) -> Result<NodeIdentity, IdentityInvalid> {
    NodeIdentity::load(&mesh.made.bundle, chain, key, &new_record_key(), now)
}

#[test]
fn an_identity_says_who_it_is() {
    let mesh = Mesh::new("prod.internal");
    let issued = mesh.issue("web-1");
    let node = load(&mesh, &issued.chain_pem, &issued.issuing_key_pem, NOW).unwrap();
    assert_eq!(node.node(), &name("web-1"));
    assert_eq!(node.trust_domain().as_str(), "prod.internal");
    assert_eq!(node.mesh_id(), mesh.made.bundle.mesh_id);
    assert_eq!(node.certificate_not_after(), issued.not_after);
    assert_eq!(node.issuing_key_hash(), issued.key_hash);
    assert_eq!(node.root_short(), mesh.made.bundle.root_short());
}

#[test]
fn its_record_key_is_the_one_it_was_given() {
    let mesh = Mesh::new("prod.internal");
    let issued = mesh.issue("web-1");
    let record_key = new_record_key();
    let load =
        || NodeIdentity::load(&mesh.made.bundle, &issued.chain_pem, &issued.issuing_key_pem, &record_key, NOW).unwrap();
    let (before, after) = (load(), load());
    assert_eq!(before.record_public_key(), after.record_public_key());
    let signature = before.sign(SignatureKind::Record, b"body");
    let verify = |kind| verify_ed25519(kind, &after.mesh_id(), &after.record_public_key(), b"body", &signature);
    assert!(verify(SignatureKind::Record));
    assert!(!verify(SignatureKind::Life));
}

#[test]
fn a_wrong_identity_is_refused_with_its_cause() {
    let (mesh, other) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    let test = Mesh::new("test.internal");
    let (issued, neighbour) = (mesh.issue("web-1"), mesh.issue("web-2"));
    let check = |what: &str, result: Result<NodeIdentity, IdentityInvalid>, code: Code| {
        assert_eq!(result.map(|node| node.node().clone()).unwrap_err().code(), code, "{what}");
    };
    let (chain, key) = (issued.chain_pem.as_str(), issued.issuing_key_pem.as_str());
    check("no chain", load(&mesh, "", key, NOW), codes::IDENTITY_MISSING);
    check("a key as chain", load(&mesh, key, key, NOW), codes::IDENTITY_MISSING);
    check("half a chain", load(&mesh, &chain[..chain.len() / 3], key, NOW), codes::IDENTITY_MISSING);
    check("no key", load(&mesh, chain, "", NOW), codes::IDENTITY_MISSING);
    check("a chain as key", load(&mesh, chain, chain, NOW), codes::IDENTITY_MISSING);
    check("the neighbour's key", load(&mesh, chain, &neighbour.issuing_key_pem, NOW), codes::IDENTITY_MISSING);
    let foreign = other.issue("web-1");
    let result = load(&mesh, &foreign.chain_pem, &foreign.issuing_key_pem, NOW);
    check("another mesh of the same name", result, codes::OTHER_MESH);
    let foreign = test.issue("web-1");
    let result = load(&mesh, &foreign.chain_pem, &foreign.issuing_key_pem, NOW);
    check("another trust domain", result, codes::OTHER_MESH);
    check("expired", load(&mesh, chain, key, NOW.plus(366 * DAY_SECONDS)), codes::CERTIFICATE_EXPIRED);
    check("clock two days behind", load(&mesh, chain, key, NOW.minus(2 * DAY_SECONDS)), codes::CLOCKS_DIFFER);
    let result = NodeIdentity::load(&mesh.made.bundle, chain, key, b"no key", NOW);
    check("a bad record key", result, codes::IDENTITY_MISSING);
}

#[test]
fn a_node_of_a_shared_issuer_issues_itself() {
    let td = TrustDomain::new("lab.internal").unwrap();
    let made = crate::create_trust_domain(&td, "alice", true, NOW).unwrap();
    let bundle = TrustBundle::parse(&made.bundle_file).unwrap();
    let ca = crate::IssuingCa::load(&bundle, &made.issuer_key_pem).unwrap();
    let issued = ca.issue_node(&name("vm-1"), 365, NOW).unwrap();
    let node = NodeIdentity::load(&bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), NOW).unwrap();
    let chain = node.mint_leaf(NOW).unwrap().chain;
    let expected = crate::Expected::Exactly(node.node());
    assert!(crate::verify_peer(&chain, expected, &TrustView::new(bundle), NOW).is_ok());
}
