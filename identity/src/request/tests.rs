//! A request of ours is signed; whatever asks for more, or was changed, is not.

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};

use super::*;
use crate::fixtures::{Mesh, NOW, name};
use crate::join::JoinFile;
use crate::node::{NodeIdentity, new_record_key};

/// A request of other tools: with these parameters, by a key of this kind.
fn forged(bend: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "web-1");
    bend(&mut params);
    armor::encode(LABEL, params.serialize_request(key).unwrap().der()).as_bytes().to_vec()
}

fn check(what: &str, file: &[u8], want: RequestInvalid) {
    match NodeRequest::parse(file) {
        Ok(request) => panic!("{what}: accepted as {request:?}"),
        Err(refused) => assert_eq!((&refused, refused.code()), (&want, codes::REQUEST_INVALID), "{what}"),
    }
}

#[test]
fn a_key_that_never_moved_becomes_an_identity() {
    let mesh = Mesh::new("prod.internal");
    let key = new_issuing_key().unwrap();
    let file = request(&name("web-1"), &key).unwrap();
    assert!(!file.contains("PRIVATE"), "{file}");
    let asked = NodeRequest::parse(file.as_bytes()).unwrap();
    let signed = mesh.ca.sign_request(&asked, 30, NOW).unwrap();
    assert_eq!((&signed.node, signed.key_hash), (&name("web-1"), asked.key_hash()));
    let join = JoinFile {
        bundle_file: mesh.made.bundle_file.clone(),
        node: signed.node.clone(),
        seeds: Vec::new(),
        chain_pem: signed.chain_pem,
        issuing_key_pem: None,
    };
    let read = JoinFile::parse(&join.encode()).unwrap();
    assert!(read.certifies(&key) && read.issuing_key_pem.is_none());
    assert!(!read.certifies(&new_issuing_key().unwrap()) && !read.certifies("no key"));
    let node = NodeIdentity::load(&mesh.made.bundle, &read.chain_pem, &key, &new_record_key(), NOW).unwrap();
    assert_eq!((node.node(), node.issuing_key_hash()), (&name("web-1"), asked.key_hash()));
    assert!(node.mint_leaf(NOW).is_ok());
    assert!(matches!(mesh.ca.sign_request(&asked, 0, NOW), Err(IssueError::Days(0))));
}

#[test]
fn the_longest_name_fits_and_one_byte_above_the_limit_does_not() {
    let key = new_issuing_key().unwrap();
    let longest = request(&name(&"n".repeat(63)), &key).unwrap();
    let der = armor::decode_one(longest.as_bytes(), LABEL).unwrap();
    assert!(der.len() < 300, "{}", der.len());
    assert!(NodeRequest::parse(longest.as_bytes()).is_ok());
    // What is one byte too long is not even parsed: the same bytes within the limit name another fault.
    let key = KeyPair::generate().unwrap();
    let pad = |extra: usize| {
        let uri = SanType::URI("u".repeat(extra).try_into().unwrap());
        forged(|params| params.subject_alt_names = vec![uri], &key)
    };
    for (len, want) in [(CSR_BYTES_MAX, RequestInvalid::Asks), (CSR_BYTES_MAX + 1, RequestInvalid::Format)] {
        // Signatures differ by some bytes in length, so each padding is tried more than once.
        let mut padded = (0..8 * CSR_BYTES_MAX).map(|at| pad(at / 8));
        let sized = padded.find(|file| armor::decode_one(file, LABEL).unwrap().len() == len);
        check(&format!("{len} bytes"), &sized.unwrap(), want);
    }
}

#[test]
fn a_request_names_one_node_and_asks_for_nothing() {
    let key = KeyPair::generate().unwrap();
    assert!(NodeRequest::parse(&forged(|_| (), &key)).is_ok(), "other tools may make one");
    check(
        "no name",
        &forged(|params| params.distinguished_name = DistinguishedName::new(), &key),
        RequestInvalid::Name,
    );
    let names = |bend: fn(&mut DistinguishedName)| forged(|params| bend(&mut params.distinguished_name), &key);
    check("an organisation too", &names(|dn| dn.push(DnType::OrganizationName, "evil")), RequestInvalid::Name);
    check("no node's name", &names(|dn| dn.push(DnType::CommonName, "Web 1")), RequestInvalid::Name);
    check("a dot", &names(|dn| dn.push(DnType::CommonName, "web-1.node")), RequestInvalid::Name);
    check(
        "an organisation only",
        &names(|dn| {
            *dn = DistinguishedName::new();
            dn.push(DnType::OrganizationName, "web-1");
        }),
        RequestInvalid::Name,
    );
    let dns = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::DnsName("web-2.node.prod.internal".try_into().unwrap())];
    };
    check("a DNS name", &forged(dns, &key), RequestInvalid::Asks);
    check(
        "a usage",
        &forged(
            |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            },
            &key,
        ),
        RequestInvalid::Asks,
    );
    for (kind, what) in [(&rcgen::PKCS_ECDSA_P384_SHA384, "P-384"), (&rcgen::PKCS_ED25519, "Ed25519")] {
        check(what, &forged(|_| (), &KeyPair::generate_for(kind).unwrap()), RequestInvalid::Key);
    }
}

#[test]
fn a_changed_or_cut_request_is_refused() {
    let key = new_issuing_key().unwrap();
    let file = request(&name("web-1"), &key).unwrap();
    let der = armor::decode_one(file.as_bytes(), LABEL).unwrap().to_vec();
    let as_file = |der: &[u8]| armor::encode(LABEL, der).as_bytes().to_vec();
    for (what, file) in [
        ("nothing", Vec::new()),
        ("a text", b"hello".to_vec()),
        ("a key", key.as_bytes().to_vec()),
        ("two requests", [file.as_bytes(), file.as_bytes()].concat()),
        ("cut off", as_file(&der[..der.len() - 1])),
        ("a byte too many", as_file(&[&der[..], &[0]].concat())),
        ("half a file", file.as_bytes()[..file.len() / 2].to_vec()),
    ] {
        check(what, &file, RequestInvalid::Format);
    }
    // What is signed is the name and the key; around them an encoding may differ, but never change either.
    let asked = NodeRequest::parse(file.as_bytes()).unwrap();
    for bit in 0..der.len() * 8 {
        let mut bent = der.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = NodeRequest::parse(&as_file(&bent)) {
            assert_eq!(read, asked, "bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = NodeRequest::parse(&bytes);
        let _ = NodeRequest::parse(armor::encode(LABEL, &bytes).as_bytes());
    }
}
