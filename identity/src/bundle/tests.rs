//! A bundle survives its file; nothing else parses.
#![expect(clippy::arithmetic_side_effects, reason = "tests count bytes of what they made themselves")]

use proptest::prelude::*;

use super::*;
use crate::fixtures::Mesh;

fn raw(mesh: &Mesh) -> Vec<u8> {
    armor::decode_one(&mesh.made.bundle_file, LABEL).unwrap().to_vec()
}

/// Seals a changed body with the mesh's own root, as only its operator could.
fn resealed(mesh: &Mesh, bend: impl FnOnce(&mut Vec<u8>)) -> Result<TrustBundle, BundleInvalid> {
    let raw = raw(mesh);
    let len = u32::from_le_bytes(raw[4..8].try_into().unwrap()) as usize;
    let mut body = raw[8..8 + len].to_vec();
    let mesh_id = MeshId(body[..32].try_into().unwrap());
    bend(&mut body);
    let root = EcKey::from_pem(&mesh.made.root_key_pem).unwrap();
    let signature = root.sign(&domain_message("bundle", &mesh_id, &body)).unwrap();
    let mut out = Writer::default();
    out.raw(&MAGIC).u32(u32::try_from(body.len()).unwrap()).raw(&body);
    out.u8(1).u8(SIGNED_BY_ROOT).u32(0).bytes(&signature).unwrap();
    TrustBundle::from_raw(&out.into_bytes())
}

#[test]
fn a_bundle_survives_its_file() {
    let mesh = Mesh::new("prod.internal");
    let bundle = TrustBundle::parse(&mesh.made.bundle_file).unwrap();
    assert_eq!(bundle, mesh.made.bundle);
    assert_eq!(bundle.to_file(), mesh.made.bundle_file);
    assert_eq!((bundle.sequence, bundle.shared_issuer, bundle.previous), (1, false, [0; 32]));
    assert_eq!(bundle.operators[0].key_id(), "k1");
    assert_eq!(bundle.operators[0].roles.to_string(), "admin, config, issue, revoke");
    assert_eq!(bundle.mesh_id.short(), starling_model::mesh::hex(&bundle.root_short()));
    let text = std::str::from_utf8(&mesh.made.bundle_file).unwrap();
    assert!(text.starts_with("-----BEGIN STARLING TRUST BUNDLE-----\n"), "{text}");
    let edited = format!("a note of the operator\r\n{}\n\n", text.replace('\n', "\r\n"));
    assert_eq!(TrustBundle::parse(edited.as_bytes()).unwrap(), bundle, "text around and line ends do not matter");
}

#[test]
fn two_meshes_of_one_name_differ() {
    let (one, two) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    assert_ne!(one.made.bundle.mesh_id, two.made.bundle.mesh_id);
}

#[test]
fn only_a_root_inside_makes_a_bundle_valid() {
    let (mesh, other) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    assert!(resealed(&mesh, |_| {}).is_ok());
    let mut forged = raw(&mesh);
    let end = forged.len() - 1;
    forged[end] ^= 1;
    assert_eq!(TrustBundle::from_raw(&forged), Err(BundleInvalid::Signature));

    // The other mesh's root signs this mesh's body.
    let raw = raw(&mesh);
    let len = u32::from_le_bytes(raw[4..8].try_into().unwrap()) as usize;
    let body = &raw[8..8 + len];
    let foreign = EcKey::from_pem(&other.made.root_key_pem).unwrap();
    let signature = foreign.sign(&domain_message("bundle", &mesh.made.bundle.mesh_id, body)).unwrap();
    let mut out = Writer::default();
    out.raw(&raw[..8 + len]).u8(1).u8(SIGNED_BY_ROOT).u32(0).bytes(&signature).unwrap();
    assert_eq!(TrustBundle::from_raw(&out.into_bytes()), Err(BundleInvalid::Signature));

    let mut unsigned = Writer::default();
    unsigned.raw(&raw[..8 + len]).u8(0);
    assert_eq!(TrustBundle::from_raw(&unsigned.into_bytes()), Err(BundleInvalid::Signature));
}

#[test]
fn a_signed_body_is_still_checked() {
    let mesh = Mesh::new("prod.internal");
    let check = |what: &str, want: BundleInvalid, bend: &dyn Fn(&mut Vec<u8>)| {
        assert_eq!(resealed(&mesh, bend).err(), Some(want), "{what}");
    };
    let value = || BundleInvalid::from(WireError::Value);
    // Offsets: mesh id 0, sequence 32, previous 40, flags 72, present 73, threshold 74, trust domain 75.
    check("another mesh id", BundleInvalid::MeshId, &|body| body[0] ^= 1);
    check("sequence 0", value(), &|body| body[32] = 0);
    check("an unknown flag", value(), &|body| body[72] = 4);
    check("lists that are not there", WireError::Short.into(), &|body| body[72] = 2);
    check("no lists under the flag", value(), &|body| {
        body[72] = 2;
        body.push(0);
    });
    check("presents a certificate that is not there", value(), &|body| body[73] = 1);
    check("threshold 2", value(), &|body| body[74] = 2);
    check("another trust domain", BundleInvalid::Certificate("a root"), &|body| body[76] = b'q');
    check("a trust domain in capitals", value(), &|body| body[76] = b'P');
    check("bytes after the end", WireError::Trailing.into(), &|body| body.push(0));
    check("cut off", WireError::Short.into(), &|body| {
        body.pop();
    });
    check("no root", value(), &|body| {
        let at = 76 + usize::from(body[75]);
        let len = usize::from(u16::from_le_bytes([body[at + 1], body[at + 2]]));
        body.drain(at + 1..at + 3 + len);
        body[at] = 0;
    });
    check("the root as issuing CA too", BundleInvalid::Certificate("an issuing CA"), &|body| {
        let at = 76 + usize::from(body[75]);
        let len = usize::from(u16::from_le_bytes([body[at + 1], body[at + 2]]));
        let root = body[at + 1..at + 3 + len].to_vec();
        let issuers = at + 3 + len;
        body[issuers] = 2;
        body.splice(issuers + 1..issuers + 1, root);
    });
    check("the same issuing CA twice", BundleInvalid::Certificate("the subject of a CA"), &|body| {
        let root = 76 + usize::from(body[75]) + 1;
        let issuers = root + 2 + usize::from(u16::from_le_bytes([body[root], body[root + 1]]));
        let len = usize::from(u16::from_le_bytes([body[issuers + 1], body[issuers + 2]]));
        let issuer = body[issuers + 1..issuers + 3 + len].to_vec();
        body[issuers] = 2;
        body.splice(issuers + 1..issuers + 1, issuer);
    });
}

#[test]
fn every_cut_and_every_bent_bit_is_refused() {
    let mesh = Mesh::new("prod.internal");
    let good = raw(&mesh);
    for len in (0..good.len()).step_by(7) {
        assert!(TrustBundle::from_raw(&good[..len]).is_err(), "cut at {len}");
    }
    for byte in (0..good.len()).step_by(5) {
        let mut bent = good.clone();
        bent[byte] ^= 1 << (byte % 8);
        assert!(TrustBundle::from_raw(&bent).is_err(), "byte {byte} bent");
    }
}

#[test]
fn a_shared_issuer_is_said_in_the_bundle() {
    let td = TrustDomain::new("lab.internal").unwrap();
    let made = crate::create_trust_domain(&td, "alice", true, crate::fixtures::NOW).unwrap();
    assert!(TrustBundle::parse(&made.bundle_file).unwrap().shared_issuer);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = TrustBundle::parse(&bytes);
        let _ = TrustBundle::parse(armor::encode(LABEL, &bytes).as_bytes());
        let _ = TrustBundle::from_raw(&[&MAGIC[..], &bytes].concat());
    }
}
