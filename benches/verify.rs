//! What identity costs: judging a peer's chain (once or twice a connection), minting a leaf (every 6 h), judging a
//! credential and a record signature (once for each that gossip brings).

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rustls_pki_types::CertificateDer;
use starling_identity::{
    Expected, IssuingCa, NodeIdentity, SignatureKind, TrustView, UnixTime, create_trust_domain, new_record_key,
    verify_credential, verify_ed25519, verify_peer,
};
use starling_model::{BootEpoch, NodeName, TrustDomain};

/// 2026-11-22T15:31:59Z.
const NOW: UnixTime = UnixTime(1_795_361_519);

fn mesh(trust_domain: &str) -> (TrustView, NodeIdentity) {
    let trust_domain = TrustDomain::new(trust_domain).expect("a trust domain");
    let made = create_trust_domain(&trust_domain, "alice", false, NOW).expect("a mesh");
    let ca = IssuingCa::load(&made.bundle, &made.issuer_key_pem).expect("its issuing CA");
    let issued = ca.issue_node(&NodeName::new("web-1").expect("a name"), 365, NOW).expect("a node");
    let node = NodeIdentity::load(&made.bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), NOW)
        .expect("its identity");
    (TrustView::new(made.bundle), node)
}

fn chains(c: &mut Criterion) {
    let (trust, node) = mesh("prod.internal");
    let (_, twin) = mesh("prod.internal");
    let (_, foreign) = mesh("test.internal");
    let chain = |node: &NodeIdentity| node.mint_leaf(NOW).expect("a leaf").chain;
    let judge = |chain: &[CertificateDer<'_>]| {
        verify_peer(black_box(chain), Expected::Exactly(node.node()), &trust, NOW).is_ok()
    };

    let mut group = c.benchmark_group("verify_peer");
    for (what, chain, accepted) in [
        ("good", chain(&node), true),
        ("same trust domain, another root", chain(&twin), false),
        ("another trust domain", chain(&foreign), false),
        ("a leaf alone", chain(&node).into_iter().take(1).collect(), false),
    ] {
        assert_eq!(judge(&chain), accepted, "{what}");
        group.bench_function(what, |b| b.iter(|| judge(&chain)));
    }
    group.finish();
}

fn own(c: &mut Criterion) {
    let (trust, node) = mesh("prod.internal");
    c.bench_function("mint_leaf", |b| b.iter(|| node.mint_leaf(black_box(NOW))));
    c.bench_function("credential", |b| b.iter(|| node.credential(black_box(BootEpoch(1)))));

    let credential = node.credential(BootEpoch(1));
    c.bench_function("verify_credential", |b| {
        b.iter(|| verify_credential(black_box(&credential), node.node(), &trust, NOW));
    });

    let body = [7; 512];
    c.bench_function("sign record of 512 bytes", |b| b.iter(|| node.sign(SignatureKind::Record, black_box(&body))));
    let (mesh, key, signature) = (node.mesh_id(), node.record_public_key(), node.sign(SignatureKind::Record, &body));
    c.bench_function("verify record of 512 bytes", |b| {
        b.iter(|| verify_ed25519(SignatureKind::Record, &mesh, &key, black_box(&body), &signature));
    });
}

criterion_group!(benches, chains, own);
criterion_main!(benches);
