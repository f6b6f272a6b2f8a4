//! Lists of renewed certificates: what they hold, and their ends.

use super::*;
use crate::armor;
use crate::fixtures::Mesh;

fn node_ca(mesh: &Mesh, node: &str) -> CertificateDer<'static> {
    armor::decode_certificates(mesh.issue(node).chain_pem.as_bytes()).unwrap().remove(0)
}

#[test]
fn a_list_survives_its_bytes_and_gives_each_key_its_certificates() {
    let mesh = Mesh::new("prod.internal");
    let all = ["web-1", "web-2"].map(|node| node_ca(&mesh, node));
    let list = CertificateList::pack(&all).unwrap().remove(0);
    assert_eq!(CertificateList::decode(list.raw()), Ok(list.clone()));
    assert_eq!(list.certificates(), all);
    let held = NodeCertificates::new(vec![list.clone()]);
    let key = Facts::read(&all[1]).unwrap().key_hash();
    assert_eq!(held.of_key(&key), &all[1..]);
    assert!(held.of_key(&[0; 32]).is_empty());
    assert_eq!(held.list(&list.hash()), Some(&list));
    assert_eq!(held.list(&[0; 32]), None);
    assert!(CertificateList::pack(&[]).unwrap().is_empty());
}

#[test]
fn what_is_no_list_of_node_certificates_is_refused() {
    let mesh = Mesh::new("prod.internal");
    let list = CertificateList::pack(&[node_ca(&mesh, "web-1")]).unwrap().remove(0);
    for end in 0..list.raw().len() {
        assert_eq!(CertificateList::decode(&list.raw()[..end]), Err(ListInvalid), "{end}");
    }
    assert_eq!(CertificateList::decode(&[list.raw(), &[0]].concat()), Err(ListInvalid));
    assert_eq!(CertificateList::pack(&mesh.made.bundle.issuers), Err(ListInvalid), "an issuing CA is no node's");
}

/// The certificates are padded by what a list does not look at: it is tried with the very same certificate many times.
#[test]
fn one_certificate_more_than_a_list_holds_begins_the_next() {
    let mesh = Mesh::new("prod.internal");
    let one = node_ca(&mesh, "web-1");
    let fit = (LIST_BYTES_MAX - HEADER_BYTES) / (one.len() + 2);
    let mut many = vec![one; fit];
    assert_eq!(CertificateList::pack(&many).unwrap().len(), 1);
    many.push(many[0].clone());
    let lists = CertificateList::pack(&many).unwrap();
    assert_eq!(lists.iter().map(|list| list.certificates().len()).collect::<Vec<_>>(), [fit, 1]);
    let mut long = lists[0].raw().to_vec();
    long.resize(LIST_BYTES_MAX + 1, 0);
    assert_eq!(CertificateList::decode(&long), Err(ListInvalid));
    let key = Facts::read(&many[0]).unwrap().key_hash();
    assert_eq!(NodeCertificates::new(lists).of_key(&key).len(), 1, "the same counts once");
}

#[test]
fn one_certificate_more_than_a_key_may_have_is_left_out() {
    let mesh = Mesh::new("prod.internal");
    let one = node_ca(&mesh, "web-1");
    let key = Facts::read(&one).unwrap().key_hash();
    let renewed = |_| mesh.ca.renew(&mesh.trust, &one, crate::fixtures::NOW).unwrap();
    let held = |count: usize| {
        let all: Vec<_> = (0..count).map(renewed).collect();
        NodeCertificates::new(CertificateList::pack(&all).unwrap()).of_key(&key).len()
    };
    assert_eq!(held(CERTIFICATES_PER_KEY_MAX), CERTIFICATES_PER_KEY_MAX);
    assert_eq!(held(CERTIFICATES_PER_KEY_MAX + 1), CERTIFICATES_PER_KEY_MAX);
}

#[test]
fn a_certificate_longer_than_a_list_takes_is_refused() {
    let mesh = Mesh::new("prod.internal");
    let padded = |bytes: usize| {
        let mut forge = crate::fixtures::Forge::new(&mesh);
        forge.node_ca.custom_extensions.push(crate::fixtures::extension(99, false, &vec![0; bytes]));
        forge.node_cert()
    };
    let rest = LISTED_BYTES_MAX - padded(1_000).len() + 1_000;
    // Signatures differ by a byte or two in length.
    let exactly =
        |len: usize| (0..200).map(|_| padded(rest + len - LISTED_BYTES_MAX)).find(|der| der.len() == len).unwrap();
    assert!(CertificateList::pack(&[exactly(LISTED_BYTES_MAX)]).is_ok());
    assert_eq!(CertificateList::pack(&[exactly(LISTED_BYTES_MAX + 1)]), Err(ListInvalid));
}
