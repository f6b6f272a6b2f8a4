//! One trust domain with two nodes, made once by `seeds` and kept in `fixtures/`, so that an input means the same for ever.
//! Its keys protect nothing.

use std::path::PathBuf;
use std::sync::LazyLock;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls_pki_types::CertificateDer;
use starling_identity::{TrustBundle, TrustView, UnixTime};
use starling_model::NodeName;

use crate::der;

/// When the fixtures were made: 2026-11-22T15:31:59Z.
pub const MADE: UnixTime = UnixTime(1_795_361_519);

/// The clock of all targets: an hour later.
pub const NOW: UnixTime = UnixTime(MADE.0 + 3_600);

/// Where the fixtures are.
#[must_use]
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn read(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo run --example seeds`", path.display()))
}

/// A name that is right.
#[must_use]
pub fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a node name")
}

/// All that targets use.
pub struct Fixture {
    /// The bundle as a file.
    pub bundle_file: Vec<u8>,
    /// The bundle.
    pub trust: TrustView,
    /// Leaf, node CA, issuing CA of `n1`.
    pub chain: Vec<CertificateDer<'static>>,
    /// Node CA of `n2`, for chains that mix two nodes.
    pub other_node_ca: CertificateDer<'static>,
    /// The credential of `n1` in epoch 7.
    pub credential: Vec<u8>,
    /// The join file of `n1`, key inside.
    pub join_file: String,
    /// The issuing key of `n1`: what somebody holds who has taken over that host.
    pub node_key: EcdsaKeyPair,
    /// The key of the root.
    pub root_key: EcdsaKeyPair,
}

/// Read at first use.
pub static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let bundle_file = read("bundle.trust");
    let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
        let blocks = pem::parse_many(read(name)).expect("PEM");
        blocks.into_iter().map(|block| CertificateDer::from(block.into_contents())).collect()
    };
    let key = |name: &str| {
        let block = pem::parse(read(name)).expect("PEM");
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, block.contents()).expect("a P-256 key")
    };
    Fixture {
        trust: TrustView::new(TrustBundle::parse(&bundle_file).expect("a bundle")),
        bundle_file,
        chain: certificates("n1.leaf-chain.pem"),
        other_node_ca: certificates("n2.chain.pem").remove(0),
        credential: read("n1.credential"),
        join_file: String::from_utf8(read("n1.join")).expect("text"),
        node_key: key("n1.issuing.key"),
        root_key: key("root.key"),
    }
});

/// An ECDSA signature with SHA-256.
#[must_use]
pub fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    key.sign(&SystemRandom::new(), message).expect("a loaded key signs").as_ref().to_vec()
}

/// What is signed for a kind of statement.
#[must_use]
pub fn domain_message(kind: &str, body: &[u8]) -> Vec<u8> {
    let mesh = FIXTURE.trust.bundle().mesh_id;
    [b"starling/v1/", kind.as_bytes(), &[0], &mesh.0, body].concat()
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

/// Text armour.
#[must_use]
pub fn armour(label: &str, body: &[u8]) -> String {
    pem::encode_config(&pem::Pem::new(label, body), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

/// The parts of the genuine leaf: body, signature algorithm.
#[must_use]
pub fn leaf_parts() -> (Vec<u8>, Vec<u8>) {
    let parts = der::elements(der::content(&FIXTURE.chain[0]));
    (parts[0].to_vec(), parts[1].to_vec())
}

/// A leaf with this body, signed by the key of `n1`.
#[must_use]
pub fn leaf_signed_by_node(tbs: &[u8]) -> CertificateDer<'static> {
    let (_, algorithm) = leaf_parts();
    CertificateDer::from(der::certificate(tbs, &algorithm, &sign(&FIXTURE.node_key, tbs)))
}
