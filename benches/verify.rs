//! What identity costs: a handshake on each side, judging a peer's chain (once or twice a connection), minting a leaf
//! (every 6 h), judging a credential and a record signature (once for each that gossip brings).

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::CertificateDer;
use starling_identity::{
    CurrentIdentity, Expected, IssuingCa, NodeIdentity, SignatureKind, TrustView, UnixTime, create_trust_domain,
    new_record_key, tls, verify_credential, verify_ed25519, verify_peer,
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

/// Whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// One full handshake in memory, both sides with certificates; the time that one of them took.
fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, measured: Side) -> Duration {
    const FLIGHTS_MAX: usize = 10;
    let mut spent = Duration::ZERO;
    let mut on = |side: Side, began: Instant| {
        if side == measured {
            spent += began.elapsed();
        }
    };
    let began = Instant::now();
    let mut dialler = ClientConnection::new(Arc::clone(client), tls::server_name()).expect("a client");
    on(Side::Client, began);
    let began = Instant::now();
    let mut acceptor = ServerConnection::new(Arc::clone(server)).expect("a server");
    on(Side::Server, began);
    for _ in 0..FLIGHTS_MAX {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        let began = Instant::now();
        while dialler.wants_write() {
            dialler.write_tls(&mut there).expect("memory");
        }
        on(Side::Client, began);
        let began = Instant::now();
        let mut rest = there.as_slice();
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest).expect("memory");
            acceptor.process_new_packets().expect("a peer of ours");
        }
        while acceptor.wants_write() {
            acceptor.write_tls(&mut back).expect("memory");
        }
        on(Side::Server, began);
        let began = Instant::now();
        let mut rest = back.as_slice();
        while !rest.is_empty() {
            dialler.read_tls(&mut rest).expect("memory");
            dialler.process_new_packets().expect("a peer of ours");
        }
        on(Side::Client, began);
        if !dialler.is_handshaking() && !acceptor.is_handshaking() && !dialler.wants_write() {
            break;
        }
    }
    assert!(!dialler.is_handshaking() && !acceptor.is_handshaking(), "they meet");
    spent
}

/// A full mutual handshake, each side by itself: key exchange, signature, and the judgement of the other's chain.
fn handshakes(c: &mut Criterion) {
    let (trust, node) = mesh("prod.internal");
    let current = || CurrentIdentity::new(node.mint_leaf(NOW).expect("a leaf"), trust.clone());
    let (one, other) = (current(), current());
    let server = tls::data_server(&one, || NOW);
    let client = tls::data_client(&other, node.node().clone(), || NOW);
    let mut group = c.benchmark_group("handshake");
    for (what, side) in [("client", Side::Client), ("server", Side::Server)] {
        group.bench_function(what, |b| {
            b.iter_custom(|times| (0..times).map(|_| shake(&client, &server, side)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, chains, own, handshakes);
criterion_main!(benches);
