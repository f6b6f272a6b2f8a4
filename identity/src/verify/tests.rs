//! One good shape, and every bad chain refused for its own reason.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use rcgen::{
    BasicConstraints, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rustls_pki_types::CertificateDer;

use super::*;
use crate::fixtures::{Forge, Mesh, NOW, extension, name, raw_names};
use crate::revoked::Revoked;
use crate::time::DAY_SECONDS;

const TD: &str = "prod.internal";
const OWN_URI: &[u8] = b"spiffe://prod.internal/node/web-1";
const OWN_DNS: &[u8] = b"web-1.node.prod.internal";

mod names;

type Chain = Vec<CertificateDer<'static>>;

fn outcome(mesh: &Mesh, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<PeerIdentity, PeerRefused> {
    verify_peer(chain, Expected::AnyOfOurTrustDomain, &mesh.trust, now)
}

/// Forges a chain and checks its reason.
fn check(mesh: &Mesh, what: &str, reason: &str, forged: impl FnOnce(&mut Forge) -> Chain) {
    let chain = forged(&mut Forge::new(mesh));
    match outcome(mesh, &chain, NOW) {
        Ok(peer) => panic!("{what}: accepted as {}", peer.node),
        Err(refused) => assert_eq!(refused.reason(), reason, "{what}: {refused}"),
    }
    REFUSED.with_borrow_mut(|refused| refused.entry(reason.to_owned()).or_default().insert(what.to_owned()));
}

thread_local! {
    /// What this thread's test has forged, by the reason for which it was refused.
    static REFUSED: RefCell<BTreeMap<String, BTreeSet<String>>> = RefCell::default();
}

/// The same for a chain that differs by parameters only.
fn bent(mesh: &Mesh, what: &str, reason: &str, bend: impl FnOnce(&mut Forge)) {
    check(mesh, what, reason, |forge| {
        bend(forge);
        forge.chain()
    });
}

fn der(bytes: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from(bytes.to_vec())
}

#[test]
fn a_chain_of_ours_proves_its_node() {
    let mesh = Mesh::new(TD);
    let node = mesh.node("web-1");
    let leaf = node.mint_leaf(NOW).unwrap();
    let peer = outcome(&mesh, &leaf.chain, NOW).unwrap();
    assert_eq!(peer.node, name("web-1"));
    assert_eq!(peer.issuing_key_hash, node.issuing_key_hash());
    assert_eq!(peer.root, mesh.made.bundle.root_short());
    assert_eq!(peer.not_after, leaf.not_after);
    assert!(outcome(&mesh, &Forge::new(&mesh).chain(), NOW).is_ok(), "the forge makes good chains until bent");
}

#[test]
fn a_root_may_sign_a_node_ca_directly() {
    let mesh = Mesh::new(TD);
    let forge = Forge::new(&mesh);
    let chain = [forge.leaf_cert(), forge.node_cert_by_root()];
    assert_eq!(outcome(&mesh, &chain, NOW).unwrap().node, name("web-1"));
}

#[test]
fn the_longest_names_fit_a_chain_of_two_kilobytes() {
    let mesh = Mesh::new(&format!("{}.{}.io", "a".repeat(26), "b".repeat(26)));
    assert_eq!(mesh.made.bundle.trust_domain.as_str().len(), 56);
    let node = mesh.node(&"n".repeat(63));
    let chain = node.mint_leaf(NOW).unwrap().chain;
    assert!(outcome(&mesh, &chain, NOW).is_ok());
    let bytes: usize = chain.iter().map(|der| der.len()).sum();
    assert!(bytes < 2_048, "{bytes}");
}

#[test]
fn a_dialler_accepts_the_node_it_dialled_and_no_other() {
    let mesh = Mesh::new(TD);
    let chain = mesh.node("web-1").mint_leaf(NOW).unwrap().chain;
    let dialled = |node: &str| verify_peer(&chain, Expected::Exactly(&name(node)), &mesh.trust, NOW);
    assert!(dialled("web-1").is_ok());
    let refused = dialled("web-2").unwrap_err();
    assert_eq!((refused.reason(), refused.code()), ("unexpected-peer", codes::UNEXPECTED_PEER));
}

#[test]
fn chains_of_a_wrong_size_are_refused() {
    let mesh = Mesh::new(TD);
    check(&mesh, "no certificate", "chain-size", |_| Vec::new());
    check(&mesh, "a leaf alone", "chain-size", |forge| vec![forge.leaf_cert()]);
    check(&mesh, "the root sent along", "chain-size", |forge| {
        let mut chain = forge.chain();
        chain.push(forge.root_cert());
        chain
    });
    check(&mesh, "a thousand certificates", "chain-size", |forge| vec![forge.leaf_cert(); 1_000]);
    let padding = extension(99, false, &[0; 4_096]);
    bent(&mesh, "a leaf above 4 KiB", "chain-size", |forge| forge.leaf.custom_extensions = vec![padding.clone()]);
    bent(&mesh, "a node CA above 4 KiB", "chain-size", |forge| {
        forge.node_ca.custom_extensions = vec![padding.clone()];
    });
    bent(&mesh, "an issuing CA above 4 KiB", "chain-size", |forge| {
        forge.issuer.custom_extensions = vec![padding.clone()];
    });
}

#[test]
fn what_does_not_parse_is_malformed() {
    let mesh = Mesh::new(TD);
    for (at, what) in ["leaf", "node CA", "issuing CA"].into_iter().enumerate() {
        for (bytes, how) in [(&b""[..], "empty"), (b"\0", "a zero"), (&[0xff; 600], "noise"), (b"0\x80\0\0", "BER")] {
            check(&mesh, &format!("{how} as {what}"), "malformed", |forge| {
                let mut chain = forge.chain();
                chain[at] = der(bytes);
                chain
            });
        }
        check(&mesh, &format!("{what} cut off"), "malformed", |forge| {
            let mut chain = forge.chain();
            chain[at] = der(&chain[at][..chain[at].len() - 1]);
            chain
        });
        check(&mesh, &format!("a byte after the {what}"), "malformed", |forge| {
            let mut chain = forge.chain();
            chain[at] = der(&[&chain[at][..], &[0]].concat());
            chain
        });
    }
    bent(&mesh, "names twice", "malformed", |forge| {
        forge.leaf.custom_extensions = vec![raw_names(&[(0x86, OWN_URI), (0x82, OWN_DNS)])];
    });
    bent(&mesh, "names that are no sequence", "malformed", |forge| {
        forge.leaf.subject_alt_names.clear();
        forge.leaf.custom_extensions = vec![extension(17, true, b"\x04\x00")];
    });
    bent(&mesh, "key usage twice", "malformed", |forge| {
        forge.leaf.custom_extensions = vec![extension(15, true, &[3, 2, 7, 0x80])];
    });
    bent(&mesh, "an unknown critical extension", "malformed", |forge| {
        forge.leaf.custom_extensions = vec![extension(99, true, b"\x05\x00")];
    });
    bent(&mesh, "basic constraints that are none", "malformed", |forge| {
        forge.leaf.custom_extensions = vec![extension(19, true, b"\x0c\x01x")];
    });
}

#[test]
fn a_leaf_has_the_usages_of_a_leaf() {
    let mesh = Mesh::new(TD);
    bent(&mesh, "a CA", "leaf-profile", |forge| forge.leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    bent(&mesh, "a CA of path length 0", "leaf-profile", |forge| {
        forge.leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let usages = |what: &str, usages: &[KeyUsagePurpose]| {
        bent(&mesh, what, "leaf-profile", |forge| forge.leaf.key_usages = usages.to_vec());
    };
    usages("no key usage", &[]);
    usages("keyEncipherment alone", &[KeyUsagePurpose::KeyEncipherment]);
    usages("may sign certificates", &[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]);
    usages("may sign revocation lists", &[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]);
    let extended = |what: &str, usages: &[ExtendedKeyUsagePurpose]| {
        bent(&mesh, what, "leaf-profile", |forge| forge.leaf.extended_key_usages = usages.to_vec());
    };
    extended("no extended key usage", &[]);
    extended("a server only", &[ExtendedKeyUsagePurpose::ServerAuth]);
    extended("a client only", &[ExtendedKeyUsagePurpose::ClientAuth]);
    extended("any usage", &[ExtendedKeyUsagePurpose::Any]);
    extended("code signing", &[ExtendedKeyUsagePurpose::CodeSigning]);
    for (algorithm, what) in [(&rcgen::PKCS_ECDSA_P384_SHA384, "P-384"), (&rcgen::PKCS_ED25519, "Ed25519")] {
        check(&mesh, what, "leaf-profile", |forge| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            vec![forge.leaf_cert_for(&key), forge.node_cert(), forge.issuer_cert()]
        });
    }
}

#[test]
fn every_chain_leads_to_a_root_of_the_bundle() {
    let mesh = Mesh::new(TD);
    let twin = Mesh::new(TD);
    check(&mesh, "another mesh with the same trust domain", "not-chained", |_| {
        twin.node("web-1").mint_leaf(NOW).unwrap().chain
    });
    check(&mesh, "a foreign chain above a good leaf", "not-chained", |forge| {
        let foreign = Forge::new(&twin);
        vec![forge.leaf_cert(), foreign.node_cert(), foreign.issuer_cert()]
    });
    check(&mesh, "a foreign issuing CA above a good node CA", "not-chained", |forge| {
        vec![forge.leaf_cert(), forge.node_cert(), Forge::new(&twin).issuer_cert()]
    });
    check(&mesh, "an issuing CA of the same subject and another root", "not-chained", |forge| {
        let mut foreign = Forge::new(&twin);
        foreign.issuer.distinguished_name = forge.issuer.distinguished_name.clone();
        vec![forge.leaf_cert(), forge.node_cert(), foreign.issuer_cert()]
    });
    check(&mesh, "a self-signed leaf", "not-chained", |forge| {
        let key = KeyPair::generate().unwrap();
        vec![forge.leaf.self_signed(&key).unwrap().into(), forge.node_cert(), forge.issuer_cert()]
    });
    check(&mesh, "a self-signed node CA", "not-chained", |forge| {
        let key = KeyPair::generate().unwrap();
        let leaf = forge.leaf.signed_by(&EcKeyOf::new(), &Issuer::from_params(&forge.node_ca, &key)).unwrap();
        vec![leaf.into(), forge.node_ca.self_signed(&key).unwrap().into()]
    });
    check(&mesh, "a leaf signed by another key under the node CA's name", "not-chained", |forge| {
        let key = KeyPair::generate().unwrap();
        let leaf = forge.leaf.signed_by(&EcKeyOf::new(), &Issuer::from_params(&forge.node_ca, &key)).unwrap();
        vec![leaf.into(), forge.node_cert(), forge.issuer_cert()]
    });
    check(&mesh, "no issuing CA", "not-chained", |forge| vec![forge.leaf_cert(), forge.node_cert()]);
    check(&mesh, "no node CA", "not-chained", |forge| vec![forge.leaf_cert(), forge.issuer_cert()]);
    check(&mesh, "the leaf twice", "san-count", |forge| vec![forge.leaf_cert(), forge.leaf_cert()]);
    for (at, what) in ["leaf", "node CA", "issuing CA"].into_iter().enumerate() {
        check(&mesh, &format!("a bent signature of the {what}"), "not-chained", |forge| {
            let mut chain = forge.chain();
            let mut bytes = chain[at].to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            chain[at] = der(&bytes);
            chain
        });
    }
    check(&mesh, "an Ed25519 signature", "not-chained", |forge| {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let issuer = Issuer::from_params(&forge.issuer, &key);
        let node_key = KeyPair::generate().unwrap();
        let node_ca = forge.node_ca.signed_by(&node_key, &issuer).unwrap();
        let leaf = forge.leaf.signed_by(&EcKeyOf::new(), &Issuer::from_params(&forge.node_ca, &node_key)).unwrap();
        vec![leaf.into(), node_ca.into(), forge.issuer_cert()]
    });
}

#[test]
fn dates_are_judged_by_the_callers_clock() {
    let mesh = Mesh::new(TD);
    let past = date_time_ymd(2026, 11, 1);
    let future = date_time_ymd(2026, 12, 1);
    bent(&mesh, "leaf ended", "leaf-expired", |forge| {
        (forge.leaf.not_before, forge.leaf.not_after) = (date_time_ymd(2026, 10, 1), past);
    });
    bent(&mesh, "node CA ended", "expired", |forge| {
        (forge.node_ca.not_before, forge.node_ca.not_after) = (date_time_ymd(2026, 10, 1), past);
    });
    bent(&mesh, "issuing CA ended", "expired", |forge| {
        (forge.issuer.not_before, forge.issuer.not_after) = (date_time_ymd(2026, 10, 1), past);
    });
    bent(&mesh, "leaf not begun", "not-yet-valid", |forge| {
        (forge.leaf.not_before, forge.leaf.not_after) = (future, date_time_ymd(2026, 12, 2));
    });
    bent(&mesh, "node CA not begun", "not-yet-valid", |forge| forge.node_ca.not_before = future);
    bent(&mesh, "issuing CA not begun", "not-yet-valid", |forge| forge.issuer.not_before = future);
    bent(&mesh, "begins after its end", "malformed", |forge| {
        (forge.leaf.not_before, forge.leaf.not_after) = (future, past);
    });

    let leaf = mesh.node("web-1").mint_leaf(NOW).unwrap();
    let at = |now| outcome(&mesh, &leaf.chain, now).map_err(|refused| refused.reason());
    assert!(at(leaf.not_after).is_ok());
    assert_eq!(at(leaf.not_after.plus(1)), Err("leaf-expired"), "a clock that is ahead, and no lost identity");
    let ended = outcome(&mesh, &leaf.chain, leaf.not_after.plus(1)).unwrap_err();
    assert_eq!(ended.code(), codes::CLOCKS_DIFFER);
    assert!(at(NOW.minus(DAY_SECONDS)).is_ok(), "a clock 24 h behind is in time");
    assert_eq!(at(NOW.minus(DAY_SECONDS + 1)), Err("not-yet-valid"));
    assert_eq!(at(UnixTime(0)), Err("not-yet-valid"));
    assert_eq!(at(UnixTime(u64::MAX)), Err("expired"));
}

#[test]
fn a_root_ends_too() {
    let mesh = Mesh::new(TD);
    let root_end = NOW.plus(3_650 * DAY_SECONDS);
    let chain = {
        let mut forge = Forge::new(&mesh);
        for params in [&mut forge.leaf, &mut forge.node_ca, &mut forge.issuer] {
            params.not_after = date_time_ymd(2100, 1, 1);
        }
        forge.chain()
    };
    assert_eq!(outcome(&mesh, &chain, root_end).unwrap().not_after, root_end);
    assert_eq!(outcome(&mesh, &chain, root_end.plus(1)).unwrap_err().reason(), "expired");
}

#[test]
fn issuers_have_the_one_shape_that_we_make() {
    let mesh = Mesh::new(TD);
    let node_ca = |what: &str, bend: &dyn Fn(&mut rcgen::CertificateParams)| {
        bent(&mesh, what, "path-shape", |forge| bend(&mut forge.node_ca));
    };
    node_ca("node CA of path length 1", &|ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
    node_ca("node CA of any path length", &|ca| ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    node_ca("node CA that is no CA", &|ca| ca.is_ca = IsCa::ExplicitNoCa);
    node_ca("node CA without basic constraints", &|ca| ca.is_ca = IsCa::NoCa);
    node_ca("node CA without keyCertSign", &|ca| ca.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    node_ca("node CA without key usage", &|ca| ca.key_usages.clear());
    node_ca("node CA with extended usages", &|ca| {
        ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    });
    node_ca("node CA without constraint", &|ca| ca.name_constraints = None);
    let constraints = |what: &str, permitted: &[&str]| {
        node_ca(what, &|ca| {
            ca.name_constraints = Some(NameConstraints {
                permitted_subtrees: permitted.iter().map(|name| GeneralSubtree::DnsName((*name).into())).collect(),
                excluded_subtrees: vec![GeneralSubtree::DnsName("evil.org".into())],
            });
        });
    };
    constraints("node CA with exclusions only", &[]);
    constraints("node CA for the trust domain", &["prod.internal"]);
    constraints("node CA for all nodes", &["node.prod.internal"]);
    constraints("node CA for everything", &[""]);
    constraints("node CA for its name with a dot", &[".web-1.node.prod.internal"]);
    constraints("node CA for two nodes", &["web-1.node.prod.internal", "web-2.node.prod.internal"]);
    constraints("node CA for its name twice", &["web-1.node.prod.internal", "web-1.node.prod.internal"]);
    constraints("node CA for another node", &["web-2.node.prod.internal"]);

    let issuer = |what: &str, bend: &dyn Fn(&mut rcgen::CertificateParams)| {
        bent(&mesh, what, "path-shape", |forge| bend(&mut forge.issuer));
    };
    issuer("issuing CA of path length 0", &|ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    issuer("issuing CA that is no CA", &|ca| ca.is_ca = IsCa::ExplicitNoCa);
    issuer("issuing CA without keyCertSign", &|ca| ca.key_usages = vec![KeyUsagePurpose::CrlSign]);
    issuer("issuing CA with extended usages", &|ca| {
        ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    issuer("issuing CA for another domain", &|ca| {
        ca.name_constraints.as_mut().unwrap().permitted_subtrees =
            vec![GeneralSubtree::DnsName("test.internal".into())];
    });
}

#[test]
fn the_path_is_the_chain_as_it_was_sent() {
    let mesh = Mesh::new(TD);
    check(&mesh, "issuers in the wrong order", "path-shape", |forge| {
        vec![forge.leaf_cert(), forge.issuer_cert(), forge.node_cert()]
    });
    check(&mesh, "a leaf by the issuing CA", "path-shape", |forge| {
        vec![forge.leaf_cert_by_issuer(), forge.issuer_cert()]
    });
    check(&mesh, "a leaf by the root", "path-shape", |forge| vec![forge.leaf_cert_by_root(), forge.node_cert()]);
    check(&mesh, "a certificate too many", "path-shape", |forge| {
        vec![forge.leaf_cert(), forge.node_cert_by_root(), forge.issuer_cert()]
    });
    check(&mesh, "a node CA under a node CA", "path-shape", |forge| {
        let mut lower = Forge::new(&mesh);
        lower.names("web-1");
        lower.issuer = forge.node_ca.clone();
        lower.issuer.distinguished_name = DistinguishedName::new();
        lower.issuer.distinguished_name.push(DnType::CommonName, "a node CA in the place of an issuing CA");
        lower.chain()
    });
}

/// The tests above are lists of forged chains; here they are counted together. Two reasons need no forged chain: they are
/// about who it is, and stand in tests of their own.
#[test]
fn over_sixty_forged_chains_are_refused_and_every_reason_is_among_them() {
    chains_of_a_wrong_size_are_refused();
    what_does_not_parse_is_malformed();
    a_leaf_has_the_usages_of_a_leaf();
    every_chain_leads_to_a_root_of_the_bundle();
    dates_are_judged_by_the_callers_clock();
    issuers_have_the_one_shape_that_we_make();
    the_path_is_the_chain_as_it_was_sent();
    names::a_leaf_has_one_uri_and_one_dns_name_and_a_ca_has_no_names();
    names::the_uri_is_the_spiffe_id_of_a_node();
    names::another_trust_domain_is_another_mesh();
    names::the_dns_name_is_that_of_the_spiffe_id_byte_for_byte();
    names::a_node_cannot_be_another_node_with_its_own_key();
    let refused = REFUSED.take();
    let chains: usize = refused.values().map(BTreeSet::len).sum();
    assert!(chains >= 60, "{chains} chains: {refused:?}");
    let about_who = ["revoked", "unexpected-peer"];
    for reason in PeerRefused::REASONS.into_iter().filter(|reason| !about_who.contains(reason)) {
        assert!(refused.contains_key(reason), "no chain is refused as {reason}");
    }
    println!("{chains} forged chains, {} reasons", refused.len());
}

#[test]
fn a_revoked_key_proves_nothing() {
    let mesh = Mesh::new(TD);
    let node = mesh.node("web-1");
    let chain = node.mint_leaf(NOW).unwrap().chain;
    let judge = |kept: Vec<[u8; 32]>, of: &str| {
        let trust = mesh.trust.with_revoked(Revoked::new([(name(of), kept)]));
        verify_peer(&chain, Expected::AnyOfOurTrustDomain, &trust, NOW)
    };
    let refused = judge(Vec::new(), "web-1").unwrap_err();
    assert_eq!((refused.reason(), refused.code()), ("revoked", codes::REVOKED));
    assert_eq!(judge(vec![[9; 32]], "web-1").unwrap_err().reason(), "revoked");
    assert!(judge(vec![node.issuing_key_hash()], "web-1").is_ok(), "the key that it keeps");
    assert!(judge(Vec::new(), "web-2").is_ok(), "another node");
}

#[test]
fn every_reason_has_its_word_and_code() {
    let mut words = PeerRefused::REASONS.to_vec();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), PeerRefused::REASONS.len());
    assert!(PeerRefused::REASONS.contains(&PeerRefused::Malformed.reason()));
    assert_eq!(PeerRefused::NotYetValid { not_before: NOW, now: NOW }.code(), codes::CLOCKS_DIFFER);
}

/// Signatures cover the bodies, and the strict parsers leave no other encoding of what is around them.
#[test]
fn a_chain_with_one_bent_bit_is_refused() {
    let mesh = Mesh::new(TD);
    let good = mesh.node("web-1").mint_leaf(NOW).unwrap().chain;
    for at in 0..good.len() {
        for bit in 0..good[at].len() * 8 {
            let mut chain = good.clone();
            let mut bytes = chain[at].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            chain[at] = der(&bytes);
            if let Ok(peer) = outcome(&mesh, &chain, NOW) {
                panic!("bit {bit} of certificate {at} bent, and still {}", peer.node);
            }
        }
    }
}

/// A public key to certify, whose private part nobody needs.
struct EcKeyOf(KeyPair);

impl EcKeyOf {
    fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }
}

impl rcgen::PublicKeyData for EcKeyOf {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}
