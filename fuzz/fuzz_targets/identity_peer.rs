//! Chains that a peer shows. Whoever holds the keys of `n1`, and nobody else's, may prove `n1` and never another node.
//!
//! The first byte chooses: raw certificates; genuine ones, damaged; a leaf with a damaged body that `n1` signed again;
//! or a leaf whose extensions the input writes, which `n1` signed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use starling_fuzz::identity::{FIXTURE, NOW, leaf_parts, leaf_signed_by_node, name};
use starling_fuzz::{Input, der, edited};
use starling_identity::inspect::describe_chain;
use starling_identity::{Expected, UnixTime, verify_peer};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mode = input.byte();
    let chain = match mode & 3 {
        0 => raw(&mut input),
        1 => damaged(&mut input),
        2 => {
            let tbs = edited(&leaf_parts().0, &mut input);
            with_leaf(leaf_signed_by_node(&tbs))
        }
        _ => with_leaf(written(&mut input)),
    };
    let now = match mode >> 6 {
        1 => UnixTime(0),
        2 => UnixTime(u64::MAX),
        _ => NOW,
    };
    let expected = name("n1");
    let any = verify_peer(&chain, Expected::AnyOfOurTrustDomain, &FIXTURE.trust, now);
    let exact = verify_peer(&chain, Expected::Exactly(&expected), &FIXTURE.trust, now);
    match any {
        Ok(peer) => {
            assert_eq!(peer.node, expected, "the keys of n1 proved another node");
            assert!(peer.not_after >= now, "a proof that has ended");
            assert_eq!(exact.as_ref(), Ok(&peer));
        }
        Err(refused) => {
            let _ = (refused.reason(), refused.code(), refused.to_string());
            assert!(exact.is_err());
        }
    }
    assert!(verify_peer(&chain, Expected::Exactly(&name("n2")), &FIXTURE.trust, now).is_err());
    let _ = describe_chain(&chain);
});

fn with_leaf(leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
    let mut chain = FIXTURE.chain.clone();
    chain[0] = leaf;
    chain
}

fn raw(input: &mut Input<'_>) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::new();
    while !input.is_empty() && chain.len() < 5 {
        chain.push(CertificateDer::from(input.counted().to_vec()));
    }
    chain
}

/// Genuine certificates in any order, one of them damaged, another node's CA among them if wanted.
fn damaged(input: &mut Input<'_>) -> Vec<CertificateDer<'static>> {
    let mut held = FIXTURE.chain.clone();
    held.push(FIXTURE.other_node_ca.clone());
    held.push(FIXTURE.trust.bundle().roots[0].clone());
    let shape = input.byte();
    let mut chain = match shape & 7 {
        0..=2 => held[..3].to_vec(),
        3 => held[..2].to_vec(),
        4 => vec![held[0].clone(), held[3].clone(), held[2].clone()],
        5 => vec![held[0].clone(), held[1].clone(), held[4].clone()],
        6 => vec![held[1].clone(), held[2].clone()],
        _ => (0..4).map(|_| held[usize::from(input.byte()) % held.len()].clone()).collect(),
    };
    let at = usize::from(shape >> 4) % chain.len();
    chain[at] = CertificateDer::from(edited(&chain[at], input));
    chain
}

/// Extensions as the input says: `which | critical | length u16 | content`. A name list is written name by name.
fn written(input: &mut Input<'_>) -> CertificateDer<'static> {
    const OIDS: [&[u8]; 8] = [
        &[0x55, 0x1d, 0x11], // subjectAltName
        &[0x55, 0x1d, 0x0f], // keyUsage
        &[0x55, 0x1d, 0x25], // extKeyUsage
        &[0x55, 0x1d, 0x13], // basicConstraints
        &[0x55, 0x1d, 0x1e], // nameConstraints
        &[0x55, 0x1d, 0x23], // authorityKeyIdentifier
        &[0x55, 0x1d, 0x20], // certificatePolicies
        &[0x2b, 0x06, 0x01], // nobody's
    ];
    let mut list = Vec::new();
    while !input.is_empty() && list.len() < 8_192 {
        let (which, critical) = (input.byte(), input.byte());
        let mut content = Input(input.counted());
        let value = if which & 0x0f == 0 {
            let mut names = Vec::new();
            while !content.is_empty() {
                let tag = content.byte();
                names.extend(der::element(tag, content.counted_short()));
            }
            der::element(0x30, &names)
        } else {
            content.rest().to_vec()
        };
        let mut extension = der::element(0x06, OIDS[usize::from(which & 7)]);
        if critical & 1 != 0 {
            extension.extend(der::element(0x01, &[0xff]));
        }
        extension.extend(der::element(0x04, &value));
        list.extend(der::element(0x30, &extension));
    }
    let (tbs, _) = leaf_parts();
    let mut parts: Vec<Vec<u8>> = der::elements(der::content(&tbs)).into_iter().map(<[u8]>::to_vec).collect();
    parts.retain(|part| part[0] != 0xa3);
    parts.push(der::element(0xa3, &der::element(0x30, &list)));
    leaf_signed_by_node(&der::element(0x30, &parts.concat()))
}
